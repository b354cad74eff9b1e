use super::*;
use crate::client::{Error, Tried};

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

fn parsed(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn every_command_of_the_release_is_understood() {
    for line in [
        "chronarch server --config a.toml --node-id 1 --listen 127.0.0.1:1 --peer-listen 127.0.0.1:2 --data-dir d --peers 1=a:1,2=b:2",
        "chronarch dev --nodes 5 --data-dir d",
        "chronarch worker --queue a --queue b --label zone=eu --concurrency 4 --allow-exec",
        "chronarch worker --queue a --name web-1 --drain-timeout 5s",
        "chronarch worker list",
        "chronarch worker list --queue a -l zone=eu -l disk=ssd -o json --limit 5",
        "chronarch worker drain web-1 --reason disks --actor me",
        "chronarch worker drain web-1/0a0b0c0d --wait --wait-max 10m",
        "chronarch worker resume node-1 --reason done",
        "chronarch job apply -f a.yaml -f b.yaml --dry-run",
        "chronarch job apply -f a.yaml b.yaml",
        "chronarch job diff -f a.yaml jobs/ -o json",
        "chronarch job get a --stale",
        "chronarch job list -l team=data -A --limit 5",
        "chronarch job delete a --cancel-runs --reason old",
        "chronarch job pause a --reason flood --actor me",
        "chronarch job resume a",
        "chronarch job trigger a --idempotency-key k --wait",
        "chronarch job trigger a --operation-id k",
        "chronarch job next a --count 3 --after 2026-01-01T00:00:00Z",
        "chronarch job explain a --at 2026-01-01T00:00:00Z",
        "chronarch job export a b",
        "chronarch job export --format crontab --timezone Europe/Berlin --strict",
        "chronarch job export --format kubernetes --image debian:13 -A",
        "chronarch run list --job a --state failed,skipped --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z",
        "chronarch run get r",
        "chronarch run watch r",
        "chronarch run cancel r --reason no",
        "chronarch run explain r",
        "chronarch queue list",
        "chronarch queue set reports --concurrency 10 --rate 5/s",
        "chronarch namespace list --limit 5 --stale",
        "chronarch namespace get staging -o json",
        "chronarch namespace set staging --keep 1000 --keep-for 7d --reason disks",
        "chronarch namespace delete staging --actor me",
        "chronarch calendar apply -f a.yaml b.yaml --dry-run --reason law",
        "chronarch calendar apply --ics a.ics --name de --timezone Europe/Berlin",
        "chronarch calendar list --stale",
        "chronarch calendar get de -o yaml",
        "chronarch calendar delete de --actor me",
        "chronarch breaker list",
        "chronarch breaker get job:a",
        "chronarch breaker trip feed --open-for 10m --reason maintenance",
        "chronarch breaker reset feed",
        "chronarch cluster status",
        "chronarch cluster transfer-leader",
        "chronarch cluster transfer-leader 2",
        "chronarch cluster transfer-leader --to 2",
        "chronarch cluster add 4 127.0.0.1:7501 --promote",
        "chronarch cluster promote 4",
        "chronarch cluster remove 2",
        "chronarch cluster export-log",
        "chronarch cluster export-log --from 5 --to 900 -o jsonl",
        "chronarch server --config a.toml --node-id 4 --rejoin",
        "chronarch schedule next @daily --timezone Europe/Berlin --gap skip --fold both",
        "chronarch schedule next -",
        "chronarch import crontab /etc/crontab - --crontab-form user --timezone Europe/Berlin --strict",
        "chronarch import kubernetes a.yaml -o json",
        "chronarch bench failover --kills 5 --runs 5 --heartbeat 20ms --election-min 60ms --election-max 120ms",
        "chronarch bench handover --times 5 --keep --dir /var/tmp -o json",
        "chronarch bench lateness --jobs 1000 --rate 100 --seconds 5 --slots 512",
        "chronarch bench saturation --jobs 1000 --seconds 5",
        "chronarch bench instant --jobs 1000 --lead 10s",
        "chronarch bench workers --jobs 1000 --seconds 5 --streams 100 --orders 200 --keep",
        "chronarch completion bash",
    ] {
        parsed(line);
    }
}

#[test]
fn global_flags_work_before_and_behind_the_command() {
    for line in [
        "chronarch -o json -n staging --endpoints a:1,b:2 --timeout 3s job list",
        "chronarch job list -o json -n staging --endpoints a:1,b:2 --timeout 3s",
    ] {
        let global = parsed(line).global;
        assert_eq!((global.output, global.namespace.as_str()), (args::Output::Json, "staging"));
        assert_eq!((global.endpoints.len(), global.timeout.as_secs()), (2, 3));
    }
}

#[test]
fn a_wrong_command_line_is_refused() {
    for line in [
        "chronarch",
        "chronarch jobs list",
        "chronarch job apply",
        "chronarch job list -l team",
        "chronarch job list -o xml",
        "chronarch run list --state done",
        "chronarch run list --limit 0",
        "chronarch worker --concurrency 4",
        "chronarch worker --queue a --name a/b",
        "chronarch worker --queue a list",
        "chronarch worker list -l zone",
        "chronarch worker drain",
        "chronarch worker drain a --wait-max 5s",
        "chronarch server --node-id 0",
        "chronarch server --peers 0=a:1",
        "chronarch server --peers a:1",
        "chronarch cluster transfer-leader 0",
        "chronarch cluster transfer-leader 2 --to 3",
        "chronarch cluster add 0 a:1",
        "chronarch cluster add 4 nowhere",
        "chronarch cluster remove",
        "chronarch --timeout 0s job list",
        "chronarch --timeout 10 job list",
        "chronarch --endpoints nowhere job list",
        "chronarch schedule next x --dialect spring",
        "chronarch import crontab",
        "chronarch import fcron a",
        "chronarch job export --format kubernetes",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn flags_of_a_node_become_its_first_members() {
    let Ok(Invocation::Server(args)) = parse("chronarch server --peers 1=a:1,2=b:2".split(' ')) else {
        panic!("a server")
    };
    let peers = args.overrides().peers.expect("some");
    assert_eq!(peers.into_iter().collect::<Vec<_>>(), [(1, "a:1".to_owned()), (2, "b:2".to_owned())]);
}

#[test]
fn each_failure_has_its_exit_code() {
    let (message, hint) = ("x".to_owned(), None);
    let tried =
        vec![Tried { endpoint: "a:1".to_owned(), reason: "gone".to_owned(), refused: true, not_done: true }];
    for (failure, expected) in [
        (Failure::Call(Error::Refused { message: message.clone(), hint: hint.clone() }), Exit::Refused),
        (
            Failure::Call(Error::InvalidArgument { message: message.clone(), hint: hint.clone() }),
            Exit::Refused,
        ),
        (Failure::Call(Error::NotFound { message: message.clone(), hint: hint.clone() }), Exit::NotFound),
        (Failure::Call(Error::PermissionDenied { message: message.clone(), hint }), Exit::Permission),
        (Failure::Call(Error::Unreachable { tried: tried.clone() }), Exit::Unreachable),
        (Failure::Call(Error::UnknownResult { operation_id: message.clone(), tried }), Exit::Unreachable),
        (Failure::NoEndpoint, Exit::Unreachable),
        (Failure::JobFiles { problems: Vec::new() }, Exit::Refused),
        (Failure::Usage { message }, Exit::Usage),
        (Failure::PipeClosed, Exit::Done),
    ] {
        assert_eq!(failure.exit(), expected, "{failure:?}");
    }
    assert_eq!(
        [Exit::Done, Exit::Refused, Exit::Usage, Exit::Unreachable, Exit::NotFound, Exit::Permission]
            .map(|exit| exit as u8),
        [0, 1, 2, 3, 4, 5]
    );
}

#[test]
fn an_unknown_result_says_how_to_learn_it() {
    let failure = Failure::Call(Error::UnknownResult { operation_id: "abc".to_owned(), tried: Vec::new() });
    assert!(failure.hint().is_some_and(|hint| hint.contains("--operation-id abc")));
}
