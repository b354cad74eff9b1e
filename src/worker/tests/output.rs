//! Output that the leader asks for.

use super::*;
use crate::clock::Clock;
use crate::spool::{AGE_DEFAULT, OUTPUT_BYTES_DEFAULT, Spool, SpoolOptions, TOTAL_BYTES_DEFAULT};

struct Kept {
    node: Node,
    bench: Bench,
    _folder: tempfile::TempDir,
}

/// A worker that keeps output, and its leader.
async fn keeping() -> Kept {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = SpoolOptions {
        folder: folder.path().to_owned(),
        life: "worker-1/1".to_owned(),
        output_bytes: OUTPUT_BYTES_DEFAULT,
        total_bytes: TOTAL_BYTES_DEFAULT,
        age: AGE_DEFAULT,
    };
    let spool = Spool::open(spool, Clock::system()).await.expect("a usable folder");
    let node = Node::start(Mode::Leads).await;
    let options = WorkerOptions { spool: Some(spool.clone()), ..options(&[&node.address]) };
    let config = TargetsConfig { allow_exec: true, spool: Some(spool), ..TargetsConfig::default() };
    Kept { node, bench: Bench::with(options, config), _folder: folder }
}

fn read(id: &str, run_id: &str, fence: u64, follow: bool) -> FromLeader {
    let (id, run_id) = (id.to_owned(), run_id.to_owned());
    FromLeader::ReadOutput(pb::ReadOutput { id, run_id, fence, follow, ..pb::ReadOutput::default() })
}

impl Kept {
    /// All that is sent for one reading, which says its id once.
    async fn sent(&mut self, id: &str) -> (Vec<u8>, pb::OutputState) {
        let first = within(self.node.outputs.recv()).await.expect("the node lives");
        assert_eq!(first.id, id);
        let mut bytes = Vec::new();
        loop {
            let sent = within(self.node.outputs.recv()).await.expect("the node lives");
            bytes.extend(sent.pieces.iter().flat_map(|piece| piece.data.clone()));
            if sent.state() != pb::OutputState::Unspecified {
                return (bytes, sent.state());
            }
        }
    }
}

#[tokio::test]
async fn output_is_sent_while_the_attempt_runs_and_after_it_has_ended() {
    let mut kept = keeping().await;
    let mut session = kept.node.session().await;
    session
        .tell(kept.bench.shell(
            "1-1",
            2101,
            "echo begun; while [ ! -e gate ]; do sleep 0.01; done; echo over",
        ))
        .await;
    let report = loop {
        session.tell(read("so far", "1-1", 2101, false)).await;
        match kept.sent("so far").await {
            (bytes, pb::OutputState::Running) if bytes == b"begun\n" => {
                session.tell(read("to the end", "1-1", 2101, true)).await;
                std::fs::write(kept.bench.path("gate"), "").expect("writable");
                assert_eq!(
                    kept.sent("to the end").await,
                    (b"begun\nover\n".to_vec(), pb::OutputState::Ended)
                );
                break session.report().await;
            }
            // It has not begun yet.
            (bytes, pb::OutputState::Running | pb::OutputState::Forgotten) if bytes.is_empty() => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(report.output, b"begun\nover\n");
    session.tell(read("later", "1-1", 2101, true)).await;
    assert_eq!(kept.sent("later").await, (b"begun\nover\n".to_vec(), pb::OutputState::Ended));
    session.tell(read("unknown", "1-1", 2102, true)).await;
    assert_eq!(kept.sent("unknown").await, (Vec::new(), pb::OutputState::Forgotten));
}

#[tokio::test]
async fn a_reader_that_takes_nothing_holds_up_neither_heartbeats_nor_reports_nor_others() {
    let mut kept = keeping().await;
    let mut session = kept.node.session().await;
    session.tell(kept.bench.shell("1-1", 2201, "head -c 30000000 /dev/zero")).await;
    let report = session.report().await;
    session.acknowledge(&report).await;
    session.tell(read("stuck", "1-1", 2201, true)).await;
    let first = within(kept.node.outputs.recv()).await.expect("the node lives");
    assert_eq!(first.id, "stuck");
    // Nothing more is taken; the link is confirmed on all the same, for else nothing would begin.
    for fence in 2202..2206 {
        session.tell(kept.bench.shell(&format!("1-{fence}"), fence, "true")).await;
        let report = session.report().await;
        assert_eq!((report.fence, report.outcome()), (fence, pb::Outcome::Succeeded));
        session.acknowledge(&report).await;
    }
    kept.bench.until(|status| status.unacknowledged == 0).await;
}
