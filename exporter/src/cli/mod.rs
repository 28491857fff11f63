//! The command line: starts the server or runs a command, and turns its result into an exit status.

pub mod capture;
pub mod connect;
pub mod describe;
pub mod flags;
pub mod log;
pub mod query;
pub mod replay;
pub mod serve;
pub mod terminal;
mod watchdog;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyhole_flags::{COMPLETIONS, Command, Operands, Unused};
use keyhole_os::signals;
use tokio::signal::unix::{Signal, SignalKind, signal};

use flags::{CommandLine, PROGRAM};

use crate::broker_client::{BrokerClient, BrokerError};
use crate::budget::Budget;
use crate::collector::{COLLECTORS, SetupError};
use crate::local::LocalSource;
use crate::options::{FlagError, Options};
use crate::sandbox::{self, QUERY_SYSCALLS, SandboxOptions};

/// Every command.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    Command { name: "",         operands: Operands::None,      help: "serve metrics" },
    Command { name: "query",    operands: NAMES_OF_COLLECTORS, help: "print metrics once, or repeatedly with --watch: of these collectors, or of all that are enabled" },
    Command { name: "describe", operands: Operands::None,      help: "print which queries the broker can answer, which not and why, and its sandbox" },
    Command { name: "capture",  operands: CAPTURE_PATH,        help: "write the broker's answer to a directory, as files under the paths that they have on the host; with -, as a tar archive to standard output" },
    Command { name: "replay",   operands: REPLAY_PATH,         help: "print the metrics of such a directory or archive, or of any tree with files of a host, in the text format of Prometheus; with -, of an archive on standard input" },
    Command { name: "connect",  operands: Operands::None,      help: "connect standard input and output to the broker's socket, for gRPC clients outside of a container" },
    COMPLETIONS,
];

const CAPTURE_PATH: Operands = Operands::Path {
    placeholder: "DIRECTORY|-",
    what: "a directory, or - for standard output",
    files: false,
};
const REPLAY_PATH: Operands = Operands::Path {
    placeholder: "PATH|-",
    what: "the directory or archive that capture wrote, or - for standard input",
    files: true,
};
const NAMES_OF_COLLECTORS: Operands = Operands::Any {
    placeholder: "COLLECTOR",
    known: || COLLECTORS.iter().map(|collector| (collector.name, collector.help)).collect(),
};

/// The exit statuses, for `--help`.
pub const EXIT_STATUSES: &[(&str, &str)] = &[
    (
        "0",
        "Success: all that was asked for was read. That the host has no such devices or files is success, too.",
    ),
    (
        "1",
        "Failure, nothing was printed or written: no broker, a directory that cannot be read or written, ...",
    ),
    ("2", "A mistake on the command line or in the environment."),
    (
        "3",
        "query and capture: a part of what was asked for could not be read; the rest was printed or written.",
    ),
    ("128+N", "Stopped by signal N, with nothing half-written: 130 for Ctrl-C."),
];

/// Stands for standard input or output in place of a path.
const STREAM: &str = "-";

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The command failed.
    Failed(String),
    /// An invalid command line.
    Usage(String),
    /// A part failed, which was already reported.
    Partial,
    /// A signal stopped it.
    Stopped(StopSignal),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Failure::Failed(error)
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Flag(_) => Failure::Usage(error.to_string()),
            SetupError::File { .. } => Failure::Failed(error.to_string()),
        }
    }
}

impl From<&str> for Failure {
    fn from(error: &str) -> Self {
        Failure::Failed(error.to_owned())
    }
}

/// Runs the program; returns the exit status.
pub fn main() -> ExitCode {
    keyhole_os::process::use_single_heap();
    let done = run();
    keyhole_log::flush();
    let (status, error) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Partial) => return ExitCode::from(3),
        Err(Failure::Stopped(stop)) => (128 + stop.number, "stopped; nothing was written".to_owned()),
    };
    terminal::print_error(&format!("error: {error}"));
    ExitCode::from(status)
}

fn run() -> Result<(), Failure> {
    let usage = |error: FlagError| Failure::Usage(error.to_string());
    let read = flags::read(std::env::args_os().skip(1), std::env::vars_os()).map_err(usage)?;
    let (options, words) = match read {
        CommandLine::Print(text) => return print(&text),
        CommandLine::Run(options, words) => (options, words),
    };
    let command = PROGRAM.command(&words).map_err(usage)?;
    log::start(&options);
    for Unused { variable, advice } in PROGRAM.unused_variables(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!(variable, advice, "environment variable without effect");
    }
    match command {
        None => serve::run(options),
        Some(("query", collectors)) => {
            let collectors: Vec<&str> = collectors.iter().map(String::as_str).collect();
            query::run(&collectors, options)
        }
        Some(("describe", _)) => describe::run(&options),
        Some(("capture", [path])) if path == STREAM => capture::to_stdout(&options),
        Some(("capture", [dir])) => capture::run(Path::new(dir), &options),
        Some(("replay", [path])) => replay::run(path, &options),
        Some(("connect", _)) => connect::run(&options),
        // The program's table has no other.
        Some((command, _)) => Err(Failure::Usage(format!("{command} is not a command; try --help"))),
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    terminal::write_stdout(text.as_bytes()).map(drop)
}

/// A client of the broker at `--broker.socket`, made by `new`. Needs a runtime.
fn broker(
    options: &Options,
    new: fn(&str) -> Result<BrokerClient, BrokerError>,
) -> Result<BrokerClient, Failure> {
    let socket = flags::BROKER_SOCKET.get(options);
    let client = new(&socket).map_err(|error| match error {
        BrokerError::Address { reason, .. } => {
            options.refuse(flags::BROKER_SOCKET.row.name, &socket, reason).to_string()
        }
        error => error.to_string(),
    });
    let max_response_bytes = Budget::new(options).response;
    client.map(|client| client.with_max_response_bytes(max_response_bytes)).map_err(Failure::Usage)
}

/// What this process knows without the broker.
fn local() -> Result<LocalSource, Failure> {
    LocalSource::from_process().map_err(Failure::Usage)
}

/// Enters the sandbox of a command, before untrusted input is parsed. `start` starts the threads that it needs.
fn enter_sandbox(
    readable: Vec<PathBuf>,
    broker_socket: PathBuf,
    start: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), Failure> {
    let options = SandboxOptions { readable, broker_socket, extra_syscalls: QUERY_SYSCALLS };
    let layers = sandbox::enter_with_threads(&options, start)?;
    for layer in layers.iter().filter(|layer| !layer.in_force) {
        tracing::debug!(layer = layer.name, detail = layer.detail, "sandbox layer MISSING");
    }
    Ok(())
}

/// A single-threaded runtime: the sandbox forbids new threads.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
}

/// A signal that stops the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StopSignal {
    number: u8,
}

/// Waits for the signals that stop the program.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// None if it was ignored at the start, as by nohup(1).
    hang_up: Option<Signal>,
}

impl StopSignals {
    /// Handles the signals from here on. Needs a runtime.
    fn listen() -> Result<Self, Failure> {
        let listen = || {
            let hang_up = (!signals::hangup_is_ignored()).then(|| signal(SignalKind::hangup()));
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: hang_up.transpose()?,
            })
        };
        listen().map_err(|error: std::io::Error| Failure::Failed(format!("cannot wait for signals: {error}")))
    }

    /// Waits for the next signal.
    async fn next(&mut self) -> StopSignal {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal { number: 2 },
            _ = self.terminate.recv() => StopSignal { number: 15 },
            _ = hang_up => StopSignal { number: 1 },
        }
    }
}
