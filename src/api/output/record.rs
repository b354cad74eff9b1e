//! What the record of a run has of an attempt's output: its last bytes, which often are all.

use crate::pb::v1 as pb;
use crate::state::run::{Attempt, AttemptOutcome};
use crate::view::instant;

/// The answer of the record.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) pieces: Vec<pb::OutputPiece>,
    /// [`pb::OutputState::Ended`] where the record has everything that is wanted.
    pub(super) state: pb::OutputState,
}

/// What is wanted, from an offset on, or so many lines from the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) tail_lines: u32,
    pub(super) stream: pb::OutputStream,
}

/// Whether the record has the whole output.
pub(super) fn is_whole(attempt: &Attempt) -> bool {
    attempt.report.as_ref().is_some_and(|report| !report.output_truncated)
}

/// Whether the attempt has ended, for the record.
pub(super) fn has_ended(attempt: &Attempt) -> bool {
    attempt.outcome != AttemptOutcome::Running
}

/// What the record has; `otherwise` says why the rest is not there.
pub(super) fn tell(attempt: &Attempt, wanted: Wanted, otherwise: pb::OutputState) -> Told {
    let nothing = |state| Told { pieces: Vec::new(), state };
    let Some(report) = &attempt.report else { return nothing(otherwise) };
    let is_body = report.http_status.is_some();
    match wanted.stream {
        pb::OutputStream::Stderr if is_body => return nothing(pb::OutputState::Ended),
        pb::OutputStream::Stdout | pb::OutputStream::Stderr if !is_body && !report.output.is_empty() => {
            return nothing(pb::OutputState::NotApart);
        }
        _ => {}
    }
    let stream = if is_body { pb::OutputStream::Body } else { pb::OutputStream::Both };
    let at = attempt.finished_at.map(instant);
    let data = |offset: usize| {
        let data = report.output.get(offset..).unwrap_or_default().to_vec();
        let piece = pb::OutputPiece { stream: stream.into(), at, data, ..pb::OutputPiece::default() };
        Some(piece).filter(|piece| !piece.data.is_empty())
    };
    let from =
        usize::try_from(wanted.offset).unwrap_or(usize::MAX).max(tail(&report.output, wanted.tail_lines));
    if is_whole(attempt) {
        let piece = data(from).map(|piece| pb::OutputPiece { offset: from as u64, ..piece });
        return Told { pieces: piece.into_iter().collect(), state: pb::OutputState::Ended };
    }
    // Where in the output its end begins is not known, so whoever has seen some of it is not told it again.
    let loss = pb::OutputLoss::Record.into();
    let gap = pb::OutputPiece { offset: wanted.offset, at, loss, ..pb::OutputPiece::default() };
    let end = if wanted.offset == 0 { data(from) } else { None };
    Told { pieces: [Some(gap), end].into_iter().flatten().collect(), state: otherwise }
}

/// Where the last lines begin; 0 of none.
fn tail(output: &[u8], lines: u32) -> usize {
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let text = output.strip_suffix(b"\n").unwrap_or(output);
    let breaks = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let mut breaks = breaks.map(|(at, _)| at + 1);
    wanted.checked_sub(1).and_then(|before| breaks.nth(before)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::run::Report;
    use crate::state::time::Timestamp;

    const ALL: Wanted = Wanted { offset: 0, tail_lines: 0, stream: pb::OutputStream::Unspecified };
    const AWAY: pb::OutputState = pb::OutputState::Away;

    fn attempt(output: &str, output_truncated: bool, http_status: Option<u16>) -> Attempt {
        let output = output.as_bytes().to_vec();
        Attempt {
            number: 1,
            fence: 7,
            worker: "node-1/1".into(),
            started_at: Timestamp::EPOCH,
            finished_at: Some(Timestamp::EPOCH),
            outcome: AttemptOutcome::Succeeded,
            report: Some(Arc::new(Report { output, output_truncated, http_status, ..Report::default() })),
            probe: None,
            handed: None,
        }
    }

    fn text(told: &Told) -> String {
        told.pieces.iter().map(|piece| String::from_utf8_lossy(&piece.data)).collect()
    }

    #[test]
    fn a_whole_output_is_told_from_any_offset_and_needs_no_worker() {
        let whole = attempt("one\ntwo\n", false, None);
        for (offset, rest) in [(0, "one\ntwo\n"), (4, "two\n"), (8, ""), (99, "")] {
            let told = tell(&whole, Wanted { offset, ..ALL }, AWAY);
            assert_eq!((text(&told).as_str(), told.state), (rest, pb::OutputState::Ended));
            assert!(told.pieces.iter().all(|piece| piece.offset == offset && piece.loss == 0));
        }
    }

    #[test]
    fn the_end_of_a_longer_one_is_told_once_and_what_is_missing_always() {
        let end = attempt("two\n", true, None);
        let told = tell(&end, ALL, AWAY);
        assert_eq!((text(&told).as_str(), told.state), ("two\n", AWAY));
        assert_eq!(told.pieces[0].loss(), pb::OutputLoss::Record);
        let told = tell(&end, Wanted { offset: 3, ..ALL }, AWAY);
        assert_eq!((text(&told).as_str(), told.pieces[0].loss()), ("", pb::OutputLoss::Record));
        let unknown = Attempt { report: None, ..end };
        assert_eq!(tell(&unknown, ALL, AWAY), Told { pieces: Vec::new(), state: AWAY });
    }

    #[test]
    fn one_stream_cannot_be_told_of_an_output_that_was_taken_as_one() {
        let of = |stream| Wanted { stream, ..ALL };
        let exec = attempt("one\n", false, None);
        let http = attempt("one\n", false, Some(200));
        use pb::OutputStream::{Stderr, Stdout};
        assert_eq!(tell(&exec, of(Stderr), AWAY).state, pb::OutputState::NotApart);
        assert_eq!(tell(&exec, of(Stdout), AWAY).state, pb::OutputState::NotApart);
        assert_eq!(tell(&attempt("", false, None), of(Stderr), AWAY).state, pb::OutputState::Ended);
        assert_eq!(text(&tell(&http, of(Stdout), AWAY)), "one\n");
        assert_eq!(text(&tell(&http, of(Stderr), AWAY)), "");
    }

    #[test]
    fn the_last_lines_are_counted_with_and_without_a_break_at_the_end() {
        for output in ["a\nb\nc\n", "a\nb\nc"] {
            for (lines, from) in [(0, 0), (1, 4), (2, 2), (3, 0), (9, 0)] {
                assert_eq!(tail(output.as_bytes(), lines), from, "{lines} of {output:?}");
            }
        }
        assert_eq!(tail(b"", 3), 0);
    }
}
