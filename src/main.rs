//! The `chronarch` program: reads the command line, starts logging and the runtime, and ends with
//! the exit code.

use std::process::ExitCode;

use chronarch::cli::{self, Doors, Invocation};
use chronarch::state::time::Timestamp;
use chronarch::telemetry::{self, LogFormat};
use tokio::runtime;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Short(short)) => {
            if let Err(error) = telemetry::start(LogFormat::Text, "warn") {
                return cli::refuse(&error);
            }
            match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(cli::carry_out(*short, doors())),
                Err(error) => cli::refuse(&error),
            }
        }
        Ok(Invocation::Server(_) | Invocation::Dev(_) | Invocation::Worker(..)) => ExitCode::FAILURE,
        Err(code) => code,
    }
}

#[expect(clippy::disallowed_methods, reason = "a command has no clock and no randomness but these")]
fn doors() -> Doors {
    Doors {
        now: || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(Timestamp::EPOCH, |since| Timestamp::EPOCH.plus(since))
        },
        random: rand::random::<u128>,
    }
}
