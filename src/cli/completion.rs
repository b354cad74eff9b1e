//! Completion scripts.

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;
use super::printer::Printer;

/// Arguments of `completion`.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell to print the script for
    shell: Shell,
}

pub(super) fn carry_out(
    args: &CompletionArgs,
    mut command: Command,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "chronarch", &mut script);
    printer.line(String::from_utf8_lossy(&script).trim_end())
}
