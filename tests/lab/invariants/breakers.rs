//! G4: a breaker moves as the policy says and no other way: closed → open → half open → closed or
//! open; half open not before its cool-down is over, and no more probes run than it wants.

use chronarch::state::breaker::{Status, StatusKind, Why};

use super::Committed;

pub(crate) fn committed(it: &Committed<'_>) {
    for (key, breaker) in it.after.breakers() {
        for pair in breaker.transitions.windows(2) {
            let legal = matches!(
                (pair[0].to, pair[1].to, pair[1].why),
                (_, StatusKind::Open, Why::Tripped)
                    | (_, StatusKind::Closed, Why::Reset)
                    | (StatusKind::Closed, StatusKind::Open, Why::ConsecutiveFailures | Why::FailureRate)
                    | (StatusKind::Open, StatusKind::HalfOpen, Why::CoolDownOver)
                    | (StatusKind::HalfOpen, StatusKind::Open, Why::ProbeFailed)
                    | (StatusKind::HalfOpen, StatusKind::Closed, Why::ProbesPassed)
            );
            assert!(legal, "breaker {key:?}: {:?} to {:?}", pair[0], pair[1]);
        }
        let before = it.before.breaker(key).map(|breaker| breaker.status);
        if let (Some(Status::Open { until, .. }), Status::HalfOpen { .. }) = (before, breaker.status) {
            assert!(until <= it.after.now(), "breaker {key:?} is half open before its cool-down is over");
        }
        if let Status::HalfOpen { running, .. } = breaker.status {
            // An edit may want fewer probes than already run.
            let was = match before {
                Some(Status::HalfOpen { running, .. }) => running,
                _ => 0,
            };
            assert!(running <= breaker.policy.probes.max(was), "breaker {key:?} lets {running} probes run");
        }
    }
}
