//! `run logs` against a node whose streams break.

use super::*;

fn message(attempt: u32, pieces: Vec<OutputPiece>, state: OutputState) -> Result<ReadOutputResponse, Status> {
    Ok(ReadOutputResponse { attempt, pieces, state: state.into(), worker: "w/1".into() })
}

fn data(offset: u64, stream: OutputStream, data: &[u8]) -> OutputPiece {
    let at = Some("2026-03-29T01:00:00.000Z".parse().map(chronarch::pb::instant::write).expect("an instant"));
    OutputPiece { offset, stream: stream.into(), at, data: data.to_vec(), ..OutputPiece::default() }
}

fn gap(offset: u64, dropped_bytes: u64, loss: OutputLoss) -> OutputPiece {
    OutputPiece { offset, dropped_bytes, loss: loss.into(), ..OutputPiece::default() }
}

/// `r1` has two attempts, and each stream of the first breaks after a piece: a client that does not say where it was
/// sees something twice, or never.
pub(super) fn answer(request: &ReadOutputRequest) -> Vec<Result<ReadOutputResponse, Status>> {
    use OutputState::{Away, Ended, NotApart, Unspecified};
    use OutputStream::{Both, Stderr, Stdout};
    let broken = || Err(Status::unavailable("gone"));
    match (request.run_id.as_str(), request.attempt, request.offset) {
        ("away", ..) => {
            let end = vec![gap(0, 0, OutputLoss::Record), data(0, Both, b"the end\n")];
            vec![message(1, end, Away)]
        }
        ("one", ..) if request.stream() != OutputStream::Unspecified => {
            vec![message(1, Vec::new(), NotApart)]
        }
        ("none", ..) => Vec::new(),
        ("r1", 0, 0) => vec![message(1, vec![data(0, Stdout, b"out\n\xc3")], Unspecified), broken()],
        ("r1", 1, 5) => vec![
            message(1, vec![data(5, Stdout, b"\xa9\n"), gap(7, 100, OutputLoss::Limit)], Unspecified),
            broken(),
        ],
        ("r1", 1, 107) => vec![message(1, vec![data(107, Stderr, b"\xff\n")], Ended), broken()],
        ("r1", 2, 0) => vec![message(2, vec![data(0, Stdout, b"again\n")], Ended)],
        _ => vec![Err(Status::internal(format!("not expected: {request:?}")))],
    }
}

#[tokio::test]
async fn output_is_printed_byte_for_byte_over_broken_streams() {
    let address = serve(Node::default()).await;
    let output = ask(address, "run logs r1 -f").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"out\n\xc3\xa9\n\xff\nagain\n");
    let notes = text(&output.stderr);
    assert!(notes.contains("note: 100 bytes are not kept: more than the worker's limit\n"), "{notes}");
    assert!(notes.contains("note: attempt 2 on worker w/1\n"), "{notes}");
}

#[tokio::test]
async fn output_as_lines_of_json_is_text_where_it_is_text() {
    let address = serve(Node::default()).await;
    let output = ask(address, "run logs r1 -f -o jsonl").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| {
            let kept = line.get("text").or(line.get("base64")).or(line.get("loss"));
            (
                line["attempt"].as_u64(),
                line["offset"].as_u64(),
                line["stream"].as_str(),
                kept.and_then(|kept| kept.as_str()),
            )
        })
        .collect();
    let expected = [
        (1, 0, "stdout", "out\n"),
        (1, 4, "stdout", "é\n"),
        (1, 7, "", "limit"),
        (1, 107, "stderr", "/wo="),
        (2, 0, "stdout", "again\n"),
    ];
    let expected = expected
        .map(|(attempt, offset, stream, kept)| (Some(attempt), Some(offset), Some(stream), Some(kept)));
    assert_eq!(shown, expected);
    assert_eq!(lines[0]["at"], "2026-03-29T01:00:00.000Z");
    assert_eq!(lines[2]["dropped_bytes"], 100);
}

#[tokio::test]
async fn what_is_out_of_reach_is_told_and_the_exit_code_says_whether_asking_again_may_help() {
    let address = serve(Node::default()).await;
    for (line, code, stdout, stderr) in [
        (
            "run logs away",
            1,
            "the end\n",
            "error: more of the output is on worker w/1, which is not connected\n",
        ),
        (
            "run logs one --stderr",
            1,
            "",
            "error: worker w/1 took standard output and standard error as one\n",
        ),
        ("run logs none", 0, "", "note: no attempt of the run was started\n"),
        (
            "run logs r1 --stdout --stderr",
            2,
            "",
            "error: the argument '--stdout' cannot be used with '--stderr'",
        ),
    ] {
        let output = ask(address, line).await;
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        assert_eq!(text(&output.stdout), stdout, "{line}");
        assert!(text(&output.stderr).contains(stderr), "{line}: {}", text(&output.stderr));
    }
}
