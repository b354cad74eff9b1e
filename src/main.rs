//! The `chronarch` program: reads the command line, starts logging and the runtime, and ends with
//! the exit code.

use std::process::ExitCode;

use chronarch::cli::{self, Invocation, running};
use chronarch::clock::Clock;
use chronarch::telemetry::{self, LogFormat};
use tokio::runtime;

/// Under load the C library's allocator took a third of the time, in the trees of sled and of the state.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let clock = Clock::system();
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Short(short)) => {
            if let Err(error) = telemetry::start(LogFormat::Text, "warn") {
                return cli::refuse(&error);
            }
            run(runtime::Builder::new_current_thread(), cli::carry_out(*short, clock))
        }
        Ok(Invocation::Server(args)) => {
            run(runtime::Builder::new_multi_thread(), running::server(*args, clock))
        }
        Ok(Invocation::Dev(args)) => run(runtime::Builder::new_current_thread(), running::dev(*args, clock)),
        Ok(Invocation::Worker(args, global)) => {
            run(runtime::Builder::new_multi_thread(), running::worker(*args, *global, clock))
        }
        Err(code) => code,
    }
}

fn run(mut builder: runtime::Builder, command: impl Future<Output = ExitCode>) -> ExitCode {
    match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => cli::refuse(&error),
    }
}
