//! The `chronarch` program: reads the command line, starts logging and the runtime, and ends with
//! the exit code.

use std::process::ExitCode;

use chronarch::cli::{self, Invocation};
use chronarch::clock::Clock;
use chronarch::telemetry::{self, LogFormat};
use tokio::runtime;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Short(short)) => {
            if let Err(error) = telemetry::start(LogFormat::Text, "warn") {
                return cli::refuse(&error);
            }
            match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(cli::carry_out(*short, Clock::system())),
                Err(error) => cli::refuse(&error),
            }
        }
        Ok(Invocation::Server(_) | Invocation::Dev(_) | Invocation::Worker(..)) => {
            cli::refuse(&std::io::Error::from(std::io::ErrorKind::Unsupported))
        }
        Err(code) => code,
    }
}
