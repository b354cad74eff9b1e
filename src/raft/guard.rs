//! Who is calling, whom they mean, and whether that is us: the metadata of every call between peers.

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};

use super::types::ClusterId;

const CLUSTER: &str = "chronarch-cluster";
const FROM: &str = "chronarch-from";
const TO: &str = "chronarch-to";

/// Puts the names on a call from node `from` to node `to`; `cluster` is absent while a cluster forms.
pub(super) fn label<T>(message: T, cluster: Option<ClusterId>, from: u64, to: u64) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    if let Some(cluster) = cluster {
        let hex = AsciiMetadataValue::try_from(cluster.to_string()).expect("hexadecimal digits are ASCII");
        metadata.insert(CLUSTER, hex);
    }
    metadata.insert(FROM, AsciiMetadataValue::from(from));
    metadata.insert(TO, AsciiMetadataValue::from(to));
    request
}

/// Refuses a call that is meant for another node, as after a mix-up of addresses. Returns the caller's node id.
pub(super) fn check_node(metadata: &MetadataMap, node_id: u64) -> Result<u64, Status> {
    let to = number(metadata, TO)?;
    if to != node_id {
        return Err(Status::permission_denied(format!("this call is for node {to}, this is node {node_id}")));
    }
    number(metadata, FROM)
}

/// Refuses a call from another cluster or for another node. Returns the caller's node id.
pub(super) fn check(metadata: &MetadataMap, cluster: ClusterId, node_id: u64) -> Result<u64, Status> {
    let from = check_node(metadata, node_id)?;
    let named = metadata.get(CLUSTER).and_then(|value| value.to_str().ok()).unwrap_or("none");
    if ClusterId::parse(named) != Some(cluster) {
        let named = named.get(..64).unwrap_or(named);
        return Err(Status::permission_denied(format!(
            "this call is for cluster {named}, node {node_id} belongs to cluster {cluster}"
        )));
    }
    Ok(from)
}

/// The cluster that a call names.
pub(super) fn cluster(metadata: &MetadataMap) -> Option<ClusterId> {
    metadata.get(CLUSTER).and_then(|value| value.to_str().ok()).and_then(ClusterId::parse)
}

fn number(metadata: &MetadataMap, key: &'static str) -> Result<u64, Status> {
    let value = metadata.get(key).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    value.ok_or_else(|| Status::permission_denied(format!("the call does not say {key}")))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const HERE: ClusterId = ClusterId([1; 16]);

    fn refusal(request: &Request<()>) -> String {
        let status = check(request.metadata(), HERE, 2).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        status.message().to_owned()
    }

    #[test]
    fn call_for_this_node_and_cluster_passes() {
        assert_eq!(check(label((), Some(HERE), 1, 2).metadata(), HERE, 2).unwrap(), 1);
    }

    #[test]
    fn refusals_name_what_was_expected_and_what_was_found() {
        let other = refusal(&label((), Some(ClusterId([2; 16])), 1, 2));
        assert!(other.contains(&"02".repeat(16)) && other.contains(&"01".repeat(16)), "{other}");
        assert!(refusal(&label((), None, 1, 2)).contains("cluster none"));
        assert_eq!(refusal(&label((), Some(HERE), 1, 3)), "this call is for node 3, this is node 2");
        assert!(refusal(&Request::new(())).contains(TO));
    }
}
