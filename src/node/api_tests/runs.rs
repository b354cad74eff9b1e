//! What a node says of runs while it lacks a part of the run log.

use super::*;
use crate::history::Gap;
use crate::pb::v1::run_service_server::RunService as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_not_called_unknown_while_a_part_of_the_run_log_is_missing() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "").await;
    node.carry_out(&run).await;
    let get = async |run_id: &str| {
        let request = pb::GetRunRequest { run_id: run_id.to_owned(), stale: false };
        node.api.get_run(Request::new(request)).await.map_err(|status| status.code())
    };
    let list = async |stale| {
        let request = pb::ListRunsRequest { stale, ..Default::default() };
        let found = node.api.list_runs(Request::new(request)).await;
        found.map(|found| found.into_inner().runs.len()).map_err(|status| status.code())
    };
    let gone = "999-0";
    let log = node.log.get().unwrap();
    log.set_gap(Some(Gap { after: 0, through: 1 })).await.unwrap();
    assert!(get(&run.run_id).await.is_ok(), "what is here is told");
    assert_eq!(get(gone).await.err(), Some(Code::Unavailable));
    assert_eq!((list(false).await, list(true).await), (Err(Code::Unavailable), Ok(1)));

    log.set_gap(None).await.unwrap();
    assert_eq!(get(gone).await.err(), Some(Code::NotFound));
    assert_eq!(list(false).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_asked_for_by_reasons_that_there_are() {
    let node = Node::start().await;
    let list = async |reason: &str| {
        let request = pb::ListRunsRequest { reason: reason.to_owned(), ..Default::default() };
        node.api.list_runs(Request::new(request)).await.map(drop)
    };
    for reason in ["", "overlap", "lost", "calendar"] {
        assert!(list(reason).await.is_ok(), "{reason}");
    }
    let refused = list("foo").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().starts_with("reason: unknown word \"foo\"; expected one of catch_up, "),
        "{refused}"
    );
    let broker = list("broker_unreachable").await.unwrap_err();
    assert!(broker.message().ends_with("its run has the reason `error`, or `lost`)"), "{broker}");
}
