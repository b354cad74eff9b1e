//! The only place that prints: data to stdout, all else to stderr.
//!
//! Nothing that is printed depends on colour. A reader of stdout that goes away (`| head`) ends the
//! command quietly; a terminal's width decides how tables fold, and a pipe gets them unfolded.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::Output;
use super::failure::{Exit, Failure};

/// Writes what a command has to say.
pub(super) struct Printer {
    output: Output,
    stdout: BufWriter<io::Stdout>,
    is_terminal: bool,
}

impl Printer {
    pub(super) fn new(output: Output) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { output, stdout: BufWriter::new(stdout), is_terminal }
    }

    /// The format that was asked for.
    pub(super) fn output(&self) -> Output {
        self.output
    }

    /// One thing: as a document, or as the table that is made of it (wide or not).
    pub(super) fn object<T: Serialize>(
        &mut self,
        object: &T,
        table: impl FnOnce(bool) -> Table,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Table => self.table(table(false)),
            Output::Wide => self.table(table(true)),
            Output::Json => self.json(object),
            Output::Jsonl => self.json_line(object),
            Output::Yaml => self.yaml(object),
        }
    }

    /// Several things: `document` as a whole, or its `items` line by line.
    pub(super) fn list<D: Serialize, T: Serialize>(
        &mut self,
        document: &D,
        items: &[T],
        table: impl FnOnce(bool) -> Table,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Jsonl => items.iter().try_for_each(|item| self.json_line(item)),
            Output::Table | Output::Wide | Output::Json | Output::Yaml => self.object(document, table),
        }
    }

    /// A readable JSON document.
    pub(super) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(&text)
    }

    /// A JSON document on one line, seen at once by whoever reads.
    pub(super) fn json_line<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value)?;
        self.line(&text)?;
        self.flush()
    }

    /// A YAML document.
    pub(super) fn yaml<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_saphyr::to_string(value)?;
        self.line(text.trim_end())
    }

    /// Columns without borders; an empty table is only its header.
    pub(super) fn table(&mut self, mut table: Table) -> Result<(), Failure> {
        table.load_style(presets::NOTHING);
        let arrangement =
            if self.is_terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.to_string();
        text.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    /// A line of data.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.stdout.write_all(text.as_bytes()).map_err(of_stdout)?;
        self.stdout.write_all(b"\n").map_err(of_stdout)
    }

    /// Data that is text already.
    pub(super) fn text(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.stdout.write_all(text).map_err(of_stdout)
    }

    /// Makes sure that all data has left.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(of_stdout)
    }

    /// A line about a place of a file, which says itself what it is.
    pub(super) fn finding(&mut self, text: &str) {
        self.stdout.flush().ok();
        to_stderr(text);
    }

    /// Something that the user should know and that is no data.
    pub(super) fn note(&mut self, text: &str) {
        // What was printed before must not appear after it; a lost stdout is told at its next use.
        self.stdout.flush().ok();
        to_stderr(&format!("note: {text}"));
    }

    /// Why the command failed.
    pub(super) fn failure(&mut self, failure: &Failure) {
        self.stdout.flush().ok();
        if matches!(failure, Failure::PipeClosed) {
            return;
        }
        for line in failure.to_string().lines() {
            // A list of problems has each hint directly below the problem that it belongs to.
            let is_hint = line.starts_with("hint: ");
            to_stderr(&if is_hint { line.to_owned() } else { format!("error: {line}") });
        }
        if let Some(hint) = failure.hint() {
            to_stderr(&format!("hint: {hint}"));
        }
    }
}

/// Prints help, version or a wrong usage where each belongs.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a terminal that is gone.
    error.print().ok();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Prints why the program cannot start.
pub(super) fn refusal(error: &dyn std::error::Error) {
    to_stderr(&format!("error: {error}"));
}

fn of_stdout(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::PipeClosed,
        _ => Failure::Stdout(error),
    }
}

fn to_stderr(line: &str) {
    // Without stderr there is no one left to tell.
    writeln!(io::stderr(), "{line}").ok();
}

/// Something that a person who waits should know, to stderr.
pub(super) fn progress(text: &str) {
    // A terminal that is gone does not stop what is being done.
    let _ = writeln!(std::io::stderr(), "{text}");
}
