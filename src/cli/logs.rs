//! `run logs`: what the attempts of a run wrote.
//!
//! Data goes to stdout byte for byte, or piece by piece as JSON; what is missing from it, and whose it is, to stderr.
//! The exit code is 0 when all that is kept anywhere was printed, and 1 when there is more on a worker that is not
//! connected, for then asking again may bring it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;

use super::args::Output;
use super::printer::Printer;
use super::{Context, Failure};
use crate::pb::v1::{
    OutputLoss, OutputPiece, OutputState, OutputStream, ReadOutputRequest, ReadOutputResponse,
};
use crate::pb::{instant, word};

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The run
    run_id: String,
    /// Go on until the run has ended, attempt after attempt; with --attempt until that one has
    #[arg(short, long)]
    follow: bool,
    /// This attempt, from 1. Default: the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// From so many lines before the end of what is there
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tail: Option<u32>,
    /// Only standard output; the worker must take the two apart
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Only standard error; the worker must take the two apart
    #[arg(long)]
    stderr: bool,
}

/// A piece as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    attempt: u32,
    offset: u64,
    stream: &'static str,
    at: Option<String>,
    /// What is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// What is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// What is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<&'static str>,
}

pub(super) async fn carry_out(
    args: LogsArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let stream = match (args.stdout, args.stderr) {
        (true, _) => OutputStream::Stdout,
        (_, true) => OutputStream::Stderr,
        (false, false) => OutputStream::Unspecified,
    };
    let request = ReadOutputRequest {
        run_id: args.run_id,
        attempt: args.attempt.unwrap_or(0),
        offset: 0,
        tail_lines: args.tail.unwrap_or(0),
        stream: stream.into(),
        follow: args.follow,
        later_attempts: args.follow && args.attempt.is_none(),
    };
    let client = context.client()?;
    let mut output = client.read_output(request);
    let mut shown = Shown::default();
    while let Some(message) = output.next().await? {
        shown.print(&message, printer)?;
    }
    if shown.attempt == 0 {
        printer.note("no attempt of the run was started");
    }
    shown.away.map_or(Ok(()), |worker| Err(Failure::OutputAway { worker }))
}

/// What was printed so far.
#[derive(Default)]
struct Shown {
    attempt: u32,
    /// The worker that has more, of the last attempt.
    away: Option<String>,
    /// The beginning of a character whose rest is in the next piece, by stream.
    halves: [Vec<u8>; 5],
}

impl Shown {
    fn print(&mut self, message: &ReadOutputResponse, printer: &mut Printer) -> Result<(), Failure> {
        if self.attempt > 0 && self.attempt < message.attempt {
            printer.note(&format!("attempt {} on worker {}", message.attempt, message.worker));
        }
        if self.attempt != message.attempt {
            *self = Self { attempt: message.attempt, ..Self::default() };
        }
        for piece in &message.pieces {
            match printer.output() {
                Output::Table | Output::Wide => {
                    printer.text(&piece.data)?;
                    if piece.loss() != OutputLoss::Unspecified {
                        printer.note(&lost(piece));
                    }
                }
                Output::Json | Output::Jsonl | Output::Yaml => self.print_line(piece, printer)?,
            }
        }
        if message.state() != OutputState::Unspecified {
            for (stream, half) in std::mem::take(&mut self.halves).into_iter().enumerate() {
                let stream = i32::try_from(stream).unwrap_or_default();
                let piece = OutputPiece { stream, data: half, ..OutputPiece::default() };
                if !piece.data.is_empty() {
                    write(&self.line(&piece, None, Some(STANDARD.encode(&piece.data))), printer)?;
                }
            }
        }
        printer.flush()?;
        match message.state() {
            OutputState::NotApart => return Err(Failure::NotApart { worker: message.worker.clone() }),
            OutputState::Away => self.away = Some(message.worker.clone()),
            OutputState::Forgotten => printer.note(&format!(
                "worker {} has nothing of the attempt; the record of the run has the end",
                message.worker
            )),
            OutputState::Unspecified | OutputState::Running | OutputState::Ended => {}
        }
        Ok(())
    }

    /// As text where it is text: a character that a piece ends in the middle of is kept for the next one.
    fn print_line(&mut self, piece: &OutputPiece, printer: &mut Printer) -> Result<(), Failure> {
        let place = usize::try_from(piece.stream).unwrap_or_default().min(self.halves.len() - 1);
        let mut data = std::mem::take(&mut self.halves[place]);
        let before = data.len() as u64;
        data.extend_from_slice(&piece.data);
        if let Err(error) = std::str::from_utf8(&data)
            && error.error_len().is_none()
        {
            self.halves[place] = data.split_off(error.valid_up_to());
        }
        let piece = OutputPiece { offset: piece.offset.saturating_sub(before), data, ..piece.clone() };
        if piece.data.is_empty() && piece.loss() == OutputLoss::Unspecified {
            return Ok(());
        }
        let text = std::str::from_utf8(&piece.data).ok();
        let base64 = text.is_none().then(|| STANDARD.encode(&piece.data));
        write(&self.line(&piece, text.filter(|text| !text.is_empty()), base64), printer)
    }

    fn line<'a>(&self, piece: &OutputPiece, text: Option<&'a str>, base64: Option<String>) -> Line<'a> {
        let loss = (piece.loss() != OutputLoss::Unspecified).then_some(piece.loss);
        Line {
            attempt: self.attempt,
            offset: piece.offset,
            stream: word::of::<OutputStream>(piece.stream).unwrap_or(""),
            at: piece.at.as_ref().map(|at| instant::read(at).to_string()),
            text,
            base64,
            dropped_bytes: loss.map(|_| piece.dropped_bytes).filter(|bytes| *bytes > 0),
            loss: loss.and_then(word::of::<OutputLoss>),
        }
    }
}

fn write(line: &Line<'_>, printer: &mut Printer) -> Result<(), Failure> {
    if printer.output() == Output::Yaml {
        printer.line("---")?;
        return printer.yaml(line);
    }
    printer.json_line(line)
}

fn lost(piece: &OutputPiece) -> String {
    let bytes = piece.dropped_bytes;
    match piece.loss() {
        OutputLoss::Limit => format!("{bytes} bytes are not kept: more than the worker's limit"),
        OutputLoss::Disk if bytes == 0 => {
            "the rest is not kept: the worker's disk did not take it".to_owned()
        }
        OutputLoss::Disk => format!("{bytes} bytes are not kept: the worker's disk did not take them"),
        OutputLoss::Torn => "the rest is lost: the worker died, or its file is damaged".to_owned(),
        OutputLoss::Record => "only the end of the output is here, from the record of the run".to_owned(),
        OutputLoss::Unspecified => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_with_its_reason() {
        let piece =
            |loss: OutputLoss| OutputPiece { loss: loss.into(), dropped_bytes: 7, ..OutputPiece::default() };
        assert!(lost(&piece(OutputLoss::Limit)).starts_with("7 bytes are not kept"));
        assert!(lost(&piece(OutputLoss::Disk)).contains("disk"));
    }
}
