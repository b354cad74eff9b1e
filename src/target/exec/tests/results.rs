//! Results that processes leave, and their streams apart.

use super::*;
use crate::target::{ExecStreams, RESULT_BYTES_MAX};

async fn left(script: &str) -> Report {
    let folder = tempfile::tempdir().expect("a folder");
    let config = TargetsConfig { result_dir: Some(folder.path().to_owned()), ..config() };
    let report = targets(config).carry_out(&order("result", shell(script)), CancellationToken::new()).await;
    let rest = std::fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(rest, 0, "nothing is left behind");
    report
}

#[tokio::test]
async fn what_a_process_leaves_in_its_result_file_is_its_result() {
    let report = left("echo ' {\"rows\": 3} ' > $CHRONARCH_RESULT_FILE; exit 4").await;
    assert_eq!((report.result.as_deref(), report.exit_code), (Some("{\"rows\": 3}"), Some(4)));
    assert_eq!(error(&report), "exit code 4");
    assert_eq!(left("true").await.result, None);
    assert_eq!(left(": > $CHRONARCH_RESULT_FILE").await, left("true").await);
    let most = left(&format!("printf '\"%{}s\"' x > $CHRONARCH_RESULT_FILE", RESULT_BYTES_MAX - 2)).await;
    assert_eq!(most.result.map(|result| result.len()), Some(RESULT_BYTES_MAX));
}

#[tokio::test]
async fn a_result_that_cannot_be_kept_is_told_and_fails_nothing() {
    for (script, why) in [
        (
            format!("printf '\"%{}s\"' x > $CHRONARCH_RESULT_FILE", RESULT_BYTES_MAX - 1),
            "more than 4096 bytes",
        ),
        ("echo '{\"rows\": }' > $CHRONARCH_RESULT_FILE".to_owned(), "no JSON"),
        ("printf '\\377' > $CHRONARCH_RESULT_FILE".to_owned(), "no JSON"),
        ("ln -s /etc/hostname $CHRONARCH_RESULT_FILE".to_owned(), "not a plain file"),
        ("mkfifo $CHRONARCH_RESULT_FILE".to_owned(), "not a plain file"),
    ] {
        let report = left(&script).await;
        assert_eq!((report.outcome, report.result.as_deref()), (Outcome::Succeeded, None), "{script}");
        assert!(
            error(&report).contains(why) && error(&report).ends_with("; not kept"),
            "{script}: {report:?}"
        );
    }
}

#[tokio::test]
async fn streams_that_are_told_apart_are_both_read_to_their_end() {
    let config = TargetsConfig { exec_streams: ExecStreams::Apart, ..config() };
    let script = "echo one; exec >&-; echo two >&2; (sleep 0.1; echo three >&2) &";
    let report = targets(config).carry_out(&order("apart", shell(script)), CancellationToken::new()).await;
    let mut lines: Vec<&str> = text(&report).lines().collect();
    assert_eq!(lines.last(), Some(&"three"));
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
}
