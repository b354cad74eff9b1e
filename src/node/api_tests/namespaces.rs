//! Namespaces: what is kept of them, who said so, and how much there is.

use super::*;
use crate::pb::v1::namespace_service_server::NamespaceService as _;

fn set(name: &str, runs: Option<u32>, age: Option<i64>) -> pb::SetNamespaceRequest {
    let age = age.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
    pb::SetNamespaceRequest {
        name: name.to_owned(),
        retention: Some(pb::NamespaceRetention { runs, age }),
        actor: "ada".to_owned(),
        reason: "small disk".to_owned(),
        ..Default::default()
    }
}

fn get(name: &str) -> Request<pb::GetNamespaceRequest> {
    Request::new(pb::GetNamespaceRequest { name: name.to_owned(), stale: false })
}

#[tokio::test]
async fn a_namespace_shows_its_limits_its_jobs_and_how_many_records_it_has() {
    let node = Node::start().await;
    node.apply(vec![job("a"), pb::JobSpec { namespace: "other".to_owned(), ..job("b") }], false).await;
    let run = node.trigger("a", "one").await;
    node.carry_out(&run).await;
    node.trigger("a", "two").await;
    let made = node.api.set_namespace(Request::new(set("default", Some(10), Some(3_600)))).await;
    let made = made.unwrap().into_inner();
    assert_eq!((made.actor.as_str(), made.reason.as_str()), ("ada", "small disk"));
    assert_eq!((made.jobs, made.live_runs, made.records), (1, 1, Some(1)));
    assert_eq!(node.api.get_namespace(get("default")).await.unwrap().into_inner(), made);
    let one = |page_token| pb::ListNamespacesRequest { page_size: 1, page_token, stale: false };
    let first = node.api.list_namespaces(Request::new(one(String::new()))).await.unwrap().into_inner();
    let second =
        node.api.list_namespaces(Request::new(one(first.next_page_token))).await.unwrap().into_inner();
    let names = [&first.namespaces[0].name, &second.namespaces[0].name];
    assert_eq!((names, second.next_page_token.as_str()), ([&"default".to_owned(), &"other".to_owned()], ""));
    assert_eq!(second.namespaces[0].retention, None);
    let unknown = node.api.get_namespace(get("nobody")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().starts_with("there is no namespace \"nobody\""), "{unknown:?}");
}

#[tokio::test]
async fn limits_of_a_namespace_are_taken_away_once() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    node.api.set_namespace(Request::new(set("default", None, Some(3_600)))).await.unwrap();
    let delete = |id: &str| {
        let (name, operation_id) = ("default".to_owned(), id.to_owned());
        Request::new(pb::DeleteNamespaceRequest { name, operation_id, ..Default::default() })
    };
    for _ in 0..2 {
        let done = node.api.delete_namespace(delete("once")).await.unwrap().into_inner();
        assert_eq!(done.jobs, 1, "a repeat is told the same");
    }
    let again = node.api.delete_namespace(delete("twice")).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::NotFound, "the namespace has no limits"));
    let left = node.api.get_namespace(get("default")).await.unwrap().into_inner();
    assert_eq!((left.retention, left.jobs), (None, 1));
}

#[tokio::test]
async fn limits_out_of_range_are_named() {
    let node = Node::start().await;
    let refused = async |asked| node.api.set_namespace(Request::new(asked)).await.unwrap_err();
    let wrong = refused(set("A b", Some(0), Some(1))).await;
    assert_eq!(wrong.code(), Code::InvalidArgument);
    for start in [
        "name: 'A' is not allowed",
        "retention.runs: 0 is out of range, expected 1 to 100000000",
        "retention.age: 1s is out of range, expected 1m to",
    ] {
        assert!(wrong.message().lines().any(|line| line.starts_with(start)), "{start}: {wrong:?}");
    }
    let nothing = refused(set("a", None, None)).await;
    assert_eq!(nothing.message(), "retention: neither runs nor age is set: nothing would be limited");
}
