//! Breakers are replicated: a takeover changes nothing about them (G4).

use chronarch::pb::v1::BreakerState;

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_stays_open_over_a_takeover_and_is_probed_by_the_new_leader() {
    let receiver = Receiver::start().await;
    receiver.set_broken(true);
    let mut harness = Harness::start("").await;
    harness
        .apply(&format!(
            "name: sick\nschedule: {{every: 200ms}}\ntarget: {{http: {{url: \"{}\"}}}}\n\
             breaker: {{name: feed, consecutive_failures: 3, open_for: 6s, max_open_for: 12s}}\n",
            receiver.url("/switch")
        ))
        .await;
    let open = eventually("the breaker to open", || async {
        let breaker = harness.breaker("feed").await;
        (breaker.state() == BreakerState::Open).then_some(breaker)
    })
    .await;
    assert_eq!(open.reason, "consecutive_failures");

    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    harness.leader().await;
    let after = harness.breaker("feed").await;
    assert_eq!(after.state(), BreakerState::Open, "still open after the takeover");
    assert_eq!(after.open_until, open.open_until, "with the same end of its cool-down");
    let hits = receiver.hits().len();
    assert_eq!(hits, 3, "nothing is called while it is open");

    receiver.set_broken(false);
    let closed = eventually("the new leader's probe to close it", || async {
        let breaker = harness.breaker("feed").await;
        (breaker.state() == BreakerState::Closed).then_some(breaker)
    })
    .await;
    assert_eq!(closed.reason, "probes_passed");
    let steps: Vec<BreakerState> = closed.transitions.iter().map(|transition| transition.to()).collect();
    assert_eq!(steps, [BreakerState::Open, BreakerState::HalfOpen, BreakerState::Closed]);
    let skipped = harness.runs("sick").await.iter().filter(|run| run.reason == "breaker_open").count();
    assert!(skipped > 5, "skips are records with a reason: {skipped}");
    harness.cluster.start(leader).expect("it starts");
    harness.caught_up(leader).await;
}
