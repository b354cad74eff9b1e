//! The grpc target against a real server: a node's own health service, which describes itself.

use chronarch::pb::v1::RunState;

use crate::harness::Harness;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_succeeds_and_another_fails_with_its_status_and_is_tried_again() {
    let harness = Harness::start("").await;
    let address = harness.cluster.endpoint(1);
    let job = |name: &str, service: &str| {
        format!(
            "name: {name}\ntarget: {{grpc: {{address: \"{address}\", method: grpc.health.v1.Health/Check, \
             request: '{{\"service\": \"{service}\"}}'}}}}\n\
             retry: {{max_attempts: 2, initial: 10ms, on: [\"grpc:NOT_FOUND\"]}}\n---\n"
        )
    };
    harness.apply(&(job("well", "") + &job("nobody", "no.such.Service"))).await;
    let run = harness.trigger("well").await;
    let run = harness.ended(&run.run_id).await;
    assert_eq!((run.state(), run.attempts.len()), (RunState::Succeeded, 1), "{run:?}");
    assert_eq!(
        (run.attempts[0].grpc_status, run.attempts[0].output.as_str()),
        (Some(0), "{\"status\":\"SERVING\"}")
    );
    let run = harness.trigger("nobody").await;
    let run = harness.ended(&run.run_id).await;
    assert_eq!((run.state(), run.reason.as_str()), (RunState::Failed, "grpc_status"), "{run:?}");
    let statuses: Vec<_> = run.attempts.iter().map(|attempt| attempt.grpc_status).collect();
    assert_eq!(statuses, [Some(5), Some(5)]);
    assert!(run.attempts[1].error.starts_with("grpc NOT_FOUND: "), "{run:?}");
}
