//! Runs that are made and waited for.

use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;

#[tokio::test]
async fn a_run_that_does_not_begin_is_explained_to_whoever_waits_for_it() {
    let address = serve(Node::default()).await;
    let mut waits = chronarch(address, "job trigger stuck --wait");
    let mut waits = waits.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut told = BufReader::new(waits.stderr.take().expect("piped")).lines();
    for line in ["note: It waits for a worker.", "note:   - no worker has `mian`"] {
        assert_eq!(told.next_line().await.expect("text").as_deref(), Some(line));
    }
    assert!(waits.try_wait().expect("a child").is_none(), "it waits on");
    waits.kill().await.expect("killed");
}

#[tokio::test]
async fn a_trigger_prints_the_run_and_waits_when_asked() {
    let address = serve(Node::default()).await;
    assert_eq!(text(&ask(address, "job trigger feed").await.stdout), "r1\n");
    let skipped = ask(address, "job trigger busy").await;
    assert_eq!((skipped.status.code(), text(&skipped.stdout)), (Some(1), "r1\n"));
    let why = "error: run r1 ended as skipped: overlap (run r0 is live)\nhint: ";
    assert!(text(&skipped.stderr).starts_with(why), "{skipped:?}");
    let waited = ask(address, "job trigger feed --wait -o json").await;
    assert_eq!(document(&waited)["state"], "succeeded");
    assert_eq!(waited.status.code(), Some(0));
}

#[tokio::test]
async fn a_retry_of_a_lost_run_says_that_it_may_double_it() {
    let address = serve(Node::default()).await;
    let lost = ask(address, "run retry lost").await;
    let note = "note: nobody knows what the lost run did; if it had its effect, this one doubles it\n";
    assert_eq!((text(&lost.stdout), text(&lost.stderr)), ("r1\n", note));
    let failed = ask(address, "run retry r1 --param day=monday").await;
    assert_eq!((text(&failed.stdout), text(&failed.stderr)), ("r1\n", ""));
}
