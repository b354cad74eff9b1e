//! What a bench says: figures with their medians, the account, and the facts without which they say nothing.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use super::account::Tally;
use super::error::BenchError;
use super::machine::Machine;
use super::stats::{Sample, median};
use crate::cli::Failure;
use crate::cli::args::Output;
use crate::cli::printer::Printer;

/// One measured number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) value: f64,
}

/// What one run has measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) figures: Vec<Figure>,
    /// Where every instant had to be received once.
    pub(super) tally: Option<Tally>,
}

impl Measured {
    /// Adds a figure.
    pub(super) fn figure(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        // Three digits behind the point are more than any of them is worth.
        let value = (value * 1_000.0).round() / 1_000.0;
        self.figures.push(Figure { name: name.into(), unit, value });
    }

    /// Adds percentiles of spans in milliseconds, and their maximum; nothing where nothing was measured.
    pub(super) fn spans(&mut self, name: &str, sample: &Sample, thousandths: &[usize]) {
        for part in thousandths {
            if let Some(value) = sample.percentile(*part) {
                self.figure(format!("{name}_p{}", part / 10), "ms", value as f64);
            }
        }
        if let Some(value) = sample.max() {
            self.figure(format!("{name}_max"), "ms", value as f64);
        }
    }
}

/// The document that `-o json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    machine: Machine,
    settings: BTreeMap<&'static str, String>,
    runs: usize,
    figures: Vec<Summary>,
    account: Option<Tally>,
    warnings: Vec<String>,
}

/// A figure over all runs.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    unit: &'static str,
    median: f64,
    runs: Vec<f64>,
}

impl Report {
    /// The summary of all runs.
    pub(super) fn new(
        bench: &'static str,
        machine: Machine,
        settings: BTreeMap<&'static str, String>,
        runs: &[Measured],
    ) -> Self {
        let mut figures: Vec<Summary> = Vec::new();
        for figure in runs.iter().flat_map(|run| &run.figures) {
            match figures.iter_mut().find(|summary| summary.name == figure.name) {
                Some(summary) => summary.runs.push(figure.value),
                None => figures.push(Summary {
                    name: figure.name.clone(),
                    unit: figure.unit,
                    median: 0.0,
                    runs: vec![figure.value],
                }),
            }
        }
        for summary in &mut figures {
            summary.median = median(&summary.runs);
        }
        let account =
            runs.iter().filter_map(|run| run.tally.as_ref()).fold(None, |sum: Option<Tally>, tally| {
                let mut sum = sum.unwrap_or_default();
                sum.add(tally);
                Some(sum)
            });
        let warnings = machine.warnings();
        Self { bench, machine, settings, runs: runs.len(), figures, account, warnings }
    }

    /// Prints the figures as they were asked for.
    pub(super) fn print(&self, printer: &mut Printer) -> Result<(), Failure> {
        match printer.output() {
            Output::Json => printer.json(self),
            Output::Jsonl => printer.json_line(self),
            Output::Yaml => printer.yaml(self),
            Output::Table | Output::Wide => {
                printer.table(self.facts())?;
                printer.line("")?;
                printer.table(self.table())?;
                let Some(tally) = &self.account else { return Ok(()) };
                printer.line("")?;
                printer.table(account(tally))?;
                tally.examples.iter().try_for_each(|example| printer.line(example))
            }
        }
    }

    /// Refuses to call it done when an instant was lost or doubled.
    pub(super) fn verdict(self) -> Result<(), BenchError> {
        let Tally { lost, duplicates, unexpected, .. } = self.account.unwrap_or_default();
        match lost + duplicates + unexpected {
            0 => Ok(()),
            _ => Err(BenchError::Promise { lost, duplicates, unexpected }),
        }
    }

    fn facts(&self) -> Table {
        let machine = &self.machine;
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let settings = self.settings.iter().map(|(name, value)| format!("{name} {value}"));
        let memory = machine.memory_mib.map_or_else(|| "unknown".to_owned(), |mib| format!("{mib} MiB"));
        let load = machine.load.map_or_else(|| "unknown".to_owned(), |load| load.to_string());
        let mut table = Table::new();
        table.add_row(["bench", self.bench]);
        table.add_row(["settings", &settings.collect::<Vec<_>>().join(", ")]);
        table.add_row(["runs", &self.runs.to_string()]);
        table.add_row(["program", &format!("chronarch {}, {} build", machine.version, machine.build)]);
        table.add_row(["processor", &format!("{}, {} cores", known(&machine.processor), machine.cores)]);
        table.add_row(["memory", &memory]);
        table.add_row(["kernel", &known(&machine.kernel)]);
        table.add_row(["file system", &known(&machine.file_system)]);
        table.add_row(["load before", &load]);
        for warning in &self.warnings {
            table.add_row(["warning", warning]);
        }
        table
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        let runs = (1..=self.runs).filter(|_| self.runs > 1).map(|number| format!("RUN {number}"));
        table.set_header(["FIGURE", "UNIT", "MEDIAN"].map(str::to_owned).into_iter().chain(runs));
        for figure in &self.figures {
            let mut row = vec![figure.name.clone(), figure.unit.to_owned(), figure.median.to_string()];
            if self.runs > 1 {
                row.extend(figure.runs.iter().map(ToString::to_string));
            }
            table.add_row(row);
        }
        table
    }
}

fn account(tally: &Tally) -> Table {
    let mut table = Table::new();
    table.set_header(["DUE", "RECEIVED", "REPEATS", "DUPLICATES", "LOST", "UNEXPECTED"]);
    let Tally { due, received, repeats, duplicates, lost, unexpected, examples: _ } = tally;
    table.add_row([due, received, repeats, duplicates, lost, unexpected].map(ToString::to_string));
    table
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn report(runs: &[Measured]) -> Report {
        Report::new("failover", Machine::read(Path::new("/")), BTreeMap::new(), runs)
    }

    fn run(takeover: f64, lost: usize) -> Measured {
        let mut run = Measured::default();
        run.figure("takeover_p50", "ms", takeover);
        run.tally = Some(Tally { due: 10, received: 10 - lost, lost, ..Tally::default() });
        run
    }

    #[test]
    fn medians_are_over_the_runs_and_accounts_are_summed() {
        let report = report(&[run(200.0, 0), run(900.0, 0), run(210.0, 0)]);
        assert!((report.figures[0].median - 210.0).abs() < f64::EPSILON);
        assert_eq!(report.account.as_ref().map(|tally| (tally.due, tally.received)), Some((30, 30)));
        assert!(report.verdict().is_ok());
    }

    #[test]
    fn one_loss_in_one_run_fails_the_bench() {
        assert!(matches!(report(&[run(1.0, 0), run(1.0, 1)]).verdict(), Err(BenchError::Promise { .. })));
    }

    #[test]
    fn a_bench_without_account_has_no_verdict() {
        let mut run = Measured::default();
        run.spans("lateness", &[4, 2, 9].into_iter().collect(), &[500, 990]);
        let names: Vec<&str> = run.figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names, ["lateness_p50", "lateness_p99", "lateness_max"]);
        assert!(report(&[run]).verdict().is_ok());
    }
}
