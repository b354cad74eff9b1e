//! Real processes. A test that waits does so for a condition, with a deadline.

mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::target::{
    Exec, INPUT_BYTES_MAX, OUTPUT_TAIL_BYTES, Order, Outcome, Program, Report, Target, Targets, TargetsConfig,
};

/// Far beyond what a test needs and far below what hangs.
const DEADLINE: Duration = Duration::from_secs(20);

fn config() -> TargetsConfig {
    TargetsConfig { allow_exec: true, exec_grace: Duration::from_secs(10), ..TargetsConfig::default() }
}

fn targets(config: TargetsConfig) -> Targets {
    Targets::new(&config).expect("a sound configuration")
}

fn shell(script: &str) -> Exec {
    Exec { program: Program::Shell(script.to_owned()), env: BTreeMap::new(), cwd: None, stdin: None }
}

fn command(words: &[&str]) -> Exec {
    Exec { program: Program::Command(words.iter().map(|word| (*word).to_owned()).collect()), ..shell("") }
}

/// `run_id` is the test's own, for tests run side by side and processes are told apart by it.
fn order(run_id: &str, exec: Exec) -> Order {
    Order {
        job: "nightly".to_owned(),
        namespace: "default".to_owned(),
        run_id: run_id.to_owned(),
        scheduled_at: "2026-03-29T01:00:00.000Z".to_owned(),
        attempt: 2,
        fence: 4711,
        timeout: None,
        traceparent: None,
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: String::new(),
        next_at: None,
        delivery: 0,
        target: Target::Exec(exec),
    }
}

async fn run(run_id: &str, exec: Exec) -> Report {
    targets(config()).carry_out(&order(run_id, exec), CancellationToken::new()).await
}

fn text(report: &Report) -> &str {
    std::str::from_utf8(&report.output).expect("the tests write text")
}

fn error(report: &Report) -> &str {
    report.error.as_deref().unwrap_or_default()
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The numbers in a file that a script writes in one go, once there are `count` of them.
async fn pids(file: &Path, count: usize) -> Vec<u32> {
    wait_for("the processes start", || {
        let text = std::fs::read_to_string(file).ok()?;
        let pids: Vec<u32> = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        (text.ends_with('\n') && pids.len() == count).then_some(pids)
    })
    .await
}

fn assert_all_dead(pids: &[u32]) {
    let alive: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(alive.is_empty(), "still alive: {alive:?}");
}

/// A script with a child in its group, one in a session of its own, and one there without any environment; it
/// writes all their numbers and its own to `$OUT/pids` and waits. `prefix` comes first.
fn family(prefix: &str, folder: &Path) -> Exec {
    let script = format!(
        "{prefix}
        sleep 1000 & a=$!
        setsid sh -c 'echo $$ > $OUT/b; exec sleep 1000' > /dev/null 2>&1 &
        setsid env -i OUT=$OUT sh -c 'echo $$ > $OUT/c; exec sleep 1000' > /dev/null 2>&1 &
        until [ -s $OUT/b ] && [ -s $OUT/c ]; do sleep 0.01; done
        echo $$ $a $(cat $OUT/b $OUT/c) > $OUT/pids
        while :; do wait; done"
    );
    let env = BTreeMap::from([("OUT".to_owned(), folder.display().to_string())]);
    Exec { env, ..shell(&script) }
}

#[tokio::test]
async fn exec_is_refused_when_it_is_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let mark = folder.path().join("ran");
    let order = order("off", command(&["touch", &mark.display().to_string()]));
    let report = targets(TargetsConfig::default()).carry_out(&order, CancellationToken::new()).await;
    assert_eq!((report.outcome, error(&report)), (Outcome::Refused, "exec is off on this worker"));
    assert!(!mark.exists());
}

#[tokio::test]
async fn nothing_is_started_when_the_token_is_cancelled_already() {
    let folder = tempfile::tempdir().expect("a folder");
    let mark = folder.path().join("ran");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let order = order("early", command(&["touch", &mark.display().to_string()]));
    let report = targets(config()).carry_out(&order, cancel).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert!(!mark.exists());
}

#[tokio::test]
async fn both_outputs_are_kept_in_the_order_of_writing() {
    let report = run("order", shell("echo one; echo two >&2; echo three; echo four >&2")).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!((report.exit_code, report.signal, report.error.as_deref()), (Some(0), None, None));
    assert_eq!(text(&report), "one\ntwo\nthree\nfour\n");
    assert!(!report.output_truncated);
}

#[tokio::test]
async fn the_exit_code_of_a_failure_is_reported() {
    let report = run("code", shell("echo no; exit 75")).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Failed, Some(75)));
    assert_eq!((error(&report), text(&report)), ("exit code 75", "no\n"));
}

#[tokio::test]
async fn the_signal_that_killed_a_process_is_reported() {
    let report = run("signal", shell("kill -9 $$")).await;
    assert_eq!((report.outcome, report.exit_code, report.signal), (Outcome::Failed, None, Some(9)));
    assert_eq!(error(&report), "killed by signal 9");
}

#[tokio::test]
async fn what_cannot_be_started_fails_and_names_the_field() {
    let report = run("missing", command(&["no-such-program"])).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("command: program \"no-such-program\" not found in PATH"));

    let report = run("missing-2", command(&["/no/such/program"])).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("cannot start /no/such/program: "), "{report:?}");

    let nowhere = Exec { cwd: Some("/no/such/folder".into()), ..command(&["true"]) };
    let report = run("cwd", nowhere).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("cwd: cannot use /no/such/folder"), "{report:?}");

    let file = Exec { cwd: Some("/etc/passwd".into()), ..command(&["true"]) };
    assert_eq!(error(&run("cwd-2", file).await), "cwd: /etc/passwd is not a directory");
}

#[tokio::test]
async fn the_environment_holds_what_was_meant_for_it_and_no_more() {
    let mut order =
        order("env", Exec { env: [("GREETING".into(), "a=b\nc".into())].into(), ..shell("env -0") });
    order.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let config = TargetsConfig { exec_tmp_dir: Some("/var/tmp".to_owned()), ..config() };
    let report = targets(config).carry_out(&order, CancellationToken::new()).await;
    // PWD and its like are the shell's own doing; the mark is another each time
    let found: BTreeSet<&str> = text(&report)
        .split_terminator('\0')
        .filter(|entry| {
            !["PWD=", "OLDPWD=", "SHLVL=", "_=", "CHRONARCH_PROCESS="]
                .iter()
                .any(|own| entry.starts_with(own))
        })
        .collect();
    let expected = BTreeSet::from([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/",
        "LANG=C.UTF-8",
        "TMPDIR=/var/tmp",
        "GREETING=a=b\nc",
        "CHRONARCH_JOB=nightly",
        "CHRONARCH_NAMESPACE=default",
        "CHRONARCH_RUN_ID=env",
        "CHRONARCH_SCHEDULED_AT=2026-03-29T01:00:00.000Z",
        "CHRONARCH_ATTEMPT=2",
        "CHRONARCH_FENCE=4711",
        "TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ]);
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_a_job_is_told_cannot_be_overridden() {
    for name in ["CHRONARCH_FENCE", "CHRONARCH_ANYTHING", "TRACEPARENT", "A=B", "", "A\0"] {
        let report =
            run("override", Exec { env: [(name.into(), "secret".into())].into(), ..shell("true") }).await;
        assert_eq!(report.outcome, Outcome::Refused, "{name:?}");
        assert!(error(&report).starts_with("env: ") && !error(&report).contains("secret"), "{report:?}");
    }
}

#[tokio::test]
async fn arguments_are_never_read_by_a_shell() {
    let report = run("text", command(&["printf", "%s|", "$(id)", "; id", "`id`", "*", "$HOME"])).await;
    assert_eq!(text(&report), "$(id)|; id|`id`|*|$HOME|");
    let report = run("nul", command(&["echo", "a\0b"])).await;
    assert_eq!((report.outcome, error(&report)), (Outcome::Refused, "command: contains a NUL byte"));
    assert_eq!(run("none", command(&[])).await.outcome, Outcome::Refused);
}

#[tokio::test]
async fn a_list_of_programs_admits_those_and_no_others() {
    let config = TargetsConfig { exec_programs: Some(vec!["/bin/echo".into()]), ..config() };
    let targets = targets(config);
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("echo")).expect("a link");
    for (exec, outcome) in [
        (command(&["echo", "x"]), Outcome::Succeeded),
        (command(&["/usr/bin/../../bin/echo", "x"]), Outcome::Succeeded),
        (command(&["cat"]), Outcome::Refused),
        (command(&["no-such-program"]), Outcome::Refused),
        (shell("echo x"), Outcome::Refused),
        (command(&[&folder.path().join("echo").display().to_string(), "-c", "id"]), Outcome::Refused),
        (Exec { cwd: Some(folder.path().into()), ..command(&["./echo", "-c", "id"]) }, Outcome::Refused),
    ] {
        let report = targets.carry_out(&order("list", exec.clone()), CancellationToken::new()).await;
        assert_eq!(report.outcome, outcome, "{exec:?} {report:?}");
    }
}

#[tokio::test]
async fn a_process_inherits_nothing_that_the_worker_has_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let _open = std::fs::File::create(folder.path().join("secret")).expect("a file");
    let report = run("fds", shell("for fd in /proc/$$/fd/*; do readlink $fd; done")).await;
    let places: Vec<&str> = text(&report).lines().collect();
    assert_eq!(places.first(), Some(&"/dev/null"), "{places:?}");
    assert!(
        places.iter().all(|place| !place.ends_with("/secret") && !place.contains("socket:")),
        "{places:?}"
    );
}

#[tokio::test]
async fn input_is_fed_and_closed() {
    let fed = Exec { stdin: Some(vec![b'x'; INPUT_BYTES_MAX]), ..command(&["wc", "-c"]) };
    assert_eq!(text(&run("fed", fed).await).trim(), INPUT_BYTES_MAX.to_string());
    assert_eq!(text(&run("null", command(&["wc", "-c"])).await).trim(), "0");
    let unread = Exec { stdin: Some(vec![b'x'; INPUT_BYTES_MAX]), ..command(&["true"]) };
    assert_eq!(run("unread", unread).await.outcome, Outcome::Succeeded);
    let echoed = Exec { stdin: Some(vec![b'x'; INPUT_BYTES_MAX]), ..command(&["cat"]) };
    assert_eq!(run("echoed", echoed).await.output, vec![b'x'; OUTPUT_TAIL_BYTES]);
    let large = Exec { stdin: Some(vec![b'x'; INPUT_BYTES_MAX + 1]), ..command(&["cat"]) };
    assert_eq!(run("large", large).await.outcome, Outcome::Refused);
}

#[tokio::test]
async fn of_a_flood_only_the_tail_is_kept() {
    let report = run("flood", shell("yes 0123456 | head -c 64000000; printf end")).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(report.output_truncated);
    assert_eq!(report.output.len(), OUTPUT_TAIL_BYTES);
    assert!(text(&report).ends_with("0123456\nend"));
}

#[tokio::test]
async fn a_timeout_gives_the_process_its_grace() {
    let mut order =
        order("grace", shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done"));
    order.timeout = Some(Duration::from_millis(300));
    let report = targets(config()).carry_out(&order, CancellationToken::new()).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::TimedOut, Some(3)));
    assert_eq!(error(&report), "timed out after 300ms (exit code 3)");
    // the shell remarks in between that its child was terminated too
    assert!(text(&report).starts_with("up\n") && text(&report).ends_with("bye\n"), "{report:?}");
}

#[tokio::test]
async fn after_a_timeout_no_process_of_the_attempt_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut order = order("timeout", family("", folder.path()));
    order.timeout = Some(Duration::from_secs(2));
    let started = Instant::now();
    let report = targets(config()).carry_out(&order, CancellationToken::new()).await;
    assert_eq!((report.outcome, report.signal), (Outcome::TimedOut, Some(15)), "{report:?}");
    assert!(started.elapsed() < Duration::from_secs(8), "all obeyed SIGTERM, so the grace ends early");
    assert_all_dead(&pids(&folder.path().join("pids"), 4).await);
}

#[tokio::test]
async fn after_a_cancellation_no_process_is_left_even_if_all_ignore_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let order = order("cancel", family("trap '' TERM", folder.path()));
    let targets = targets(TargetsConfig { exec_grace: Duration::from_millis(200), ..config() });
    let cancel = CancellationToken::new();
    let (report, pids) = tokio::join!(targets.carry_out(&order, cancel.clone()), async {
        let pids = pids(&folder.path().join("pids"), 4).await;
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        cancel.cancel();
        pids
    });
    assert_eq!((report.outcome, report.signal), (Outcome::Cancelled, Some(9)));
    assert_eq!(error(&report), "cancelled (killed by signal 9)");
    assert_all_dead(&pids);
}

#[tokio::test]
async fn stopped_processes_end_too() {
    let mut order = order("stopped", shell("sleep 1000 & kill -STOP $!; kill -STOP $$"));
    order.timeout = Some(Duration::from_millis(200));
    let report = targets(config()).carry_out(&order, CancellationToken::new()).await;
    assert_eq!((report.outcome, report.signal), (Outcome::TimedOut, Some(15)));
}

#[tokio::test]
async fn dropping_the_attempt_kills_all_its_processes() {
    let folder = tempfile::tempdir().expect("a folder");
    let order = order("dropped", family("trap '' TERM", folder.path()));
    let targets = targets(config());
    let file = folder.path().join("pids");
    let pids = tokio::select! {
        report = targets.carry_out(&order, CancellationToken::new()) => panic!("ended by itself: {report:?}"),
        pids = pids(&file, 4) => pids,
    };
    wait_for("all die", || pids.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
}

#[tokio::test]
async fn a_forgotten_background_process_neither_hangs_the_attempt_nor_outlives_it() {
    for (run_id, start) in [("group", "sleep 1000 &"), ("session", "setsid sleep 1000 &")] {
        let started = Instant::now();
        let report = run(run_id, shell(&format!("{start} echo $!"))).await;
        assert_eq!((report.outcome, report.exit_code), (Outcome::Succeeded, Some(0)), "{run_id}");
        assert!(started.elapsed() < Duration::from_secs(10), "{run_id}");
        let pid = text(&report).trim().parse().expect("the number of the background process");
        wait_for("the background process dies", || (!is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn what_a_background_process_writes_shortly_after_the_end_is_kept() {
    let report = run("late", shell("(sleep 0.1; echo late) & echo early")).await;
    assert_eq!(text(&report), "early\nlate\n");
}

#[tokio::test]
async fn sessions_that_keep_forking_are_killed() {
    let script = "i=0; while [ $i -lt 20 ]; do setsid sh -c 'while :; do sleep 0.01 & wait; done' > /dev/null 2>&1 & i=$((i+1)); done; wait";
    let mut order = order("chain", shell(script));
    order.timeout = Some(Duration::from_millis(500));
    let targets = targets(TargetsConfig { exec_grace: Duration::ZERO, ..config() });
    let report = targets.carry_out(&order, CancellationToken::new()).await;
    assert_eq!(report.error.as_deref(), Some("timed out after 500ms (killed by signal 9)"));
}

#[tokio::test]
async fn an_attempt_of_another_cluster_with_the_same_run_and_fence_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = folder.path().join("started");
    let long = shell(&format!("touch {}; sleep 0.5; echo whole", started.display()));
    let other = tokio::spawn(async move { run("twin", long).await });
    while !started.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut order = order("twin", command(&["sleep", "60"]));
    order.timeout = Some(Duration::from_millis(50));
    let report = targets(config()).carry_out(&order, CancellationToken::new()).await;
    assert_eq!(report.outcome, Outcome::TimedOut);
    assert_eq!(text(&other.await.expect("it ends")), "whole\n");
}
