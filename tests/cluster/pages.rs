//! What a node serves beside the API, and what it does not.

use chronarch::pb::peer::IdentifyRequest;
use chronarch::pb::peer::raft_service_client::RaftServiceClient;
use tonic::Code;

use crate::harness::Harness;
use crate::receiver::Receiver;

async fn page(address: &str, path: &str) -> (u16, String) {
    // The client wants one even for plain HTTP; whoever comes second finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_health_are_plain_http_and_raft_is_not_served_to_clients() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    harness.apply(&format!("name: once\ntarget: {{http: {{url: \"{}\"}}}}\n", receiver.url("/ok"))).await;
    let run = harness.trigger("once").await;
    harness.ended(&run.run_id).await;
    let leader = harness.leader().await;
    for node in harness.cluster.nodes() {
        let address = harness.cluster.endpoint(node);
        assert_eq!(page(&address, "/healthz").await, (200, "ok\n".to_owned()));
        harness.caught_up(node).await;
        assert_eq!(page(&address, "/readyz").await, (200, "ok\n".to_owned()));
        let (status, metrics) = page(&address, "/metrics").await;
        assert_eq!(status, 200);
        let value = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name} is missing"))
                .rsplit_once(' ')
                .expect("a value")
                .1
                .to_owned()
        };
        assert_eq!(value("chronarch_is_leader"), if node == leader { "1" } else { "0" });
        assert_eq!(value("chronarch_jobs"), "1");
        assert_eq!(value("chronarch_jobs_unarmed"), "0");

        let channel = tonic::transport::Endpoint::new(format!("http://{address}")).expect("an address");
        let mut raft = RaftServiceClient::new(channel.connect().await.expect("a connection"));
        let refused =
            raft.identify(IdentifyRequest::default()).await.expect_err("no Raft method is served here");
        assert_eq!(refused.code(), Code::Unimplemented);
    }
}
