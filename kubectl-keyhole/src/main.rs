//! `kubectl keyhole`: queries, describes and captures nodes through Keyhole's pods, and shows the busiest.
//!
//! It starts kubectl, which knows the cluster and the user's credentials: `kubectl get pods` finds the pod of each node,
//! and `kubectl exec` runs `keyhole-exporter` in it. So it needs no right but to get and list pods and to exec.
//!
//! What a node prints is untrusted. It is read up to a limit, within a deadline, parsed into known shapes, and no control
//! character of it reaches the terminal.
#![forbid(unsafe_code)]

mod capture;
mod cli;
mod describe;
mod explain;
mod fleet;
mod kubectl;
mod output;
mod pods;
mod query;
mod reading;
mod top;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use cli::{Command, Invocation};
use output::print_error;

/// Why the program ends without success.
#[derive(Debug)]
enum Failure {
    /// Nothing was printed: status 1.
    Failed(String),
    /// The same, and the reasons were printed.
    Reported,
    /// An invalid command line: status 2.
    Usage(String),
    /// A part is missing, and the reasons were printed: status 3.
    Partial,
    /// A signal: status 128 and its number.
    Stopped(u8),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn main() -> ExitCode {
    let (status, error) = match run() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Reported) => return ExitCode::from(1),
        Err(Failure::Partial) => return ExitCode::from(3),
        Err(Failure::Stopped(number)) => return ExitCode::from(128 + number),
    };
    print_error(&format!("error: {error}"));
    ExitCode::from(status)
}

fn run() -> Result<(), Failure> {
    let invocation = match cli::parse(std::env::args_os().skip(1), |name| std::env::var_os(name))? {
        cli::Parsed::Print(text) => return output::write_stdout(text.as_bytes()).map(drop),
        cli::Parsed::Run(invocation) => invocation,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let mut stop = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        // What is dropped here kills its children.
        let number = tokio::select! {
            done = execute(&invocation) => return done,
            _ = stop.0.recv() => 2,
            _ = stop.1.recv() => 15,
            _ = stop.2.recv() => 1,
        };
        if invocation.command.is_endless() { Ok(()) } else { Err(Failure::Stopped(number)) }
    });
    // Not to wait for a write to standard output that nobody reads.
    runtime.shutdown_background();
    done
}

async fn execute(invocation: &Invocation) -> Result<(), Failure> {
    match &invocation.command {
        Command::Query(query) => query::run(invocation, query).await,
        Command::Describe(describe) => describe::run(invocation, describe).await,
        Command::Capture { node } => capture::run(invocation, node).await,
        Command::Top(top) => top::run(invocation, top).await,
    }
}
