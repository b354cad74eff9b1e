//! The log as evidence, as a client sees it.

use serde_json::Value;

use super::*;

impl Node {
    async fn export(&self, from: Option<u64>, to: Option<u64>) -> Result<Vec<Value>, tonic::Status> {
        let request = Request::new(pb::ExportLogRequest { from, to });
        let mut pieces = self.api.export_log(request).await?.into_inner();
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            text.extend(piece?.text);
        }
        let text = String::from_utf8(text).unwrap();
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_exported_with_operation_ids_decisions_and_the_hash_of_the_state() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "once").await;
    node.carry_out(&run).await;
    assert_eq!(node.trigger("a", "once").await.run_id, run.run_id);
    let lines = node.export(None, None).await.unwrap();
    let (end, entries) = lines.split_last().unwrap();
    let indexes: Vec<u64> = entries.iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert!(indexes.iter().copied().eq(0..indexes.len() as u64), "{indexes:?}");
    assert_eq!(end["through"], *indexes.last().unwrap());
    assert_eq!(end["state_hash"], node.raft.state().hash().unwrap().to_string());
    let triggers: Vec<&Value> = entries
        .iter()
        .flat_map(|line| line["commands"].as_array().into_iter().flatten())
        .filter(|command| command["operation_id"] == "once")
        .collect();
    // The repeat was answered from what is remembered, and needed no entry.
    let [trigger] = triggers.as_slice() else { panic!("{triggers:?}") };
    assert_eq!(
        (&trigger["actor"], &trigger["decision"]["run"]["run_id"]),
        (&"ada".into(), &run.run_id.into())
    );
    let records: Vec<&Value> =
        entries.iter().flat_map(|line| line["finished"].as_array().into_iter().flatten()).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_export_runs_at_a_time_and_one_that_is_dropped_gives_its_turn_back() {
    let node = Node::start().await;
    for name in ["a", "b", "c"] {
        // Far more text than a client that does not read may have on the way.
        let mut jobs: Vec<pb::JobSpec> = (0..500).map(|number| job(&format!("{name}-{number}"))).collect();
        jobs.iter_mut().for_each(|job| job.description = "x".repeat(4_000));
        node.apply(jobs, false).await;
    }
    let ask =
        || async { node.api.export_log(Request::new(pb::ExportLogRequest { from: None, to: None })).await };
    let mut first = ask().await.unwrap().into_inner();
    assert!(first.next().await.unwrap().is_ok());
    let refused = ask().await.err().expect("a refusal");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "this node is exporting its log already")
    );
    drop(first);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while ask().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the turn never comes back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exported_is_refused_by_name() {
    let node = Node::start().await;
    let last = node.raft.watch_applied().borrow().unwrap().index;
    let ahead = node.export(None, Some(last + 1_000)).await.unwrap_err();
    assert_eq!(ahead.code(), Code::FailedPrecondition);
    assert!(ahead.message().contains("is not applied on this node yet"), "{ahead}");
    let reversed = node.export(Some(2), Some(0)).await.unwrap_err();
    assert_eq!(reversed.code(), Code::InvalidArgument);
    assert!(reversed.message().starts_with("to: it comes before 2"), "{reversed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_say_at_which_index_they_were_read() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let trip = pb::TripBreakerRequest { name: "job:a".to_owned(), ..Default::default() };
    let open = node.api.trip_breaker(Request::new(trip)).await.unwrap().into_inner();
    assert_eq!(open.changed_index, open.transitions[0].index);
    assert_eq!(open.applied_index, node.raft.state().applied_index());
    node.propose(Vec::new()).await;
    let get = pb::GetBreakerRequest { name: "job:a".to_owned(), ..Default::default() };
    let later = node.api.get_breaker(Request::new(get)).await.unwrap().into_inner();
    assert_eq!(later.changed_index, open.changed_index);
    assert!(later.applied_index > open.applied_index);
    let get = pb::GetJobRequest { name: "a".to_owned(), ..Default::default() };
    let shown = node.api.get_job(Request::new(get)).await.unwrap().into_inner();
    assert_eq!(shown.applied_index, node.raft.state().applied_index());
    let page = node.api.list_breakers(Request::new(pb::ListBreakersRequest::default())).await.unwrap();
    assert_eq!(page.into_inner().applied_index, node.raft.state().applied_index());
}
