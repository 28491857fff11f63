//! The command line.

pub mod capture;
pub mod completions;
pub mod describe;
pub mod flags;
pub mod help;
pub mod log;
pub mod man;
pub mod query;
pub mod replay;
pub mod screen;
pub mod serve;

use std::path::Path;
use std::process::ExitCode;

use keyhole_os::signals;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::options::{Options, nearest};
use crate::self_metrics::VERSION;

/// A command: its name, what follows it, and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The word that stands for it; empty for the server.
    pub name: &'static str,
    /// What follows the word.
    pub operands: &'static str,
    /// One line on what it does.
    pub help: &'static str,
}

/// Every command.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    Command { name: "",            operands: "",              help: "serve metrics" },
    Command { name: "query",       operands: "[COLLECTOR...]", help: "show metrics now: of these collectors, or of all that are on" },
    Command { name: "describe",    operands: "",              help: "show what the broker may read, what it may not and why, and its sandbox" },
    Command { name: "capture",     operands: "DIR",           help: "write what the broker answers to DIR, as kernel files under their paths" },
    Command { name: "replay",      operands: "DIR",           help: "print the metrics of such a directory, or of any tree with proc/ and sys/" },
    Command { name: "completions", operands: "SHELL",         help: "print completions for bash, zsh or fish" },
];

/// The exit statuses, for `--help`.
pub const EXIT_STATUSES: &[(&str, &str)] = &[
    ("0", "all went well"),
    ("1", "nothing could be done: no broker, a directory that cannot be written, ..."),
    ("2", "a mistake on the command line or in the environment"),
    ("3", "query and capture: some of what was asked for could not be known; the rest was given"),
    ("128+N", "ended by signal N with nothing half-done: 130 for Ctrl-C"),
];

/// What ends the program before its end, with a line on standard error.
#[derive(Debug)]
enum Failure {
    /// Nothing could be done.
    Failed(String),
    /// A mistake of whoever called the program.
    Usage(String),
    /// A part could not be done; which, was said already.
    Partial,
    /// A signal said to stop.
    Stopped(Stop),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Failure::Failed(error)
    }
}

impl From<&str> for Failure {
    fn from(error: &str) -> Self {
        Failure::Failed(error.to_owned())
    }
}

/// Runs the program; gives the exit status.
pub fn main() -> ExitCode {
    keyhole_os::process::use_single_heap();
    let arguments = std::env::args_os().skip(1).map(|argument| argument.into_string());
    let arguments: Result<Vec<String>, _> = arguments.collect();
    let done = match arguments {
        Ok(arguments) => run(arguments),
        Err(argument) => Err(Failure::Usage(format!("{argument:?} is not UTF-8; try --help"))),
    };
    keyhole_log::flush();
    let (status, error) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Partial) => return ExitCode::from(3),
        Err(Failure::Stopped(stop)) => (128 + stop.number, "stopped; nothing was written".to_owned()),
    };
    screen::complain(&format!("error: {error}"));
    ExitCode::from(status)
}

fn run(arguments: Vec<String>) -> Result<(), Failure> {
    let environment =
        || std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let arguments = arguments.into_iter().map(long_form);
    let (options, words) =
        flags::read(arguments, environment()).map_err(|error| Failure::Usage(error.to_string()))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if options.switch("help") || options.switch("help-long") {
        return print(&help::of(words.first().copied().unwrap_or_default()));
    }
    if options.switch("help-man") {
        return print(&man::page(&help::text()));
    }
    if options.switch("version") {
        return print(&version());
    }
    log::start(&options).map_err(Failure::Usage)?;
    match words[..] {
        [] => {
            for (variable, near) in flags::misspelled(environment().map(|(name, _)| name)) {
                tracing::warn!(
                    variable,
                    near,
                    "without effect: no flag has this variable; did you mean the other?"
                );
            }
            serve::run(options)
        }
        ["query", ref collectors @ ..] => query::run(collectors, options),
        ["describe"] => describe::run(&options),
        ["capture", dir] => capture::run(Path::new(dir), &options),
        ["replay", dir] => replay::run(Path::new(dir), &options),
        ["completions", shell] => print(&completions::script(shell).map_err(Failure::Usage)?),
        ["completions"] => Err(Failure::Usage("completions needs a shell: bash, zsh or fish".into())),
        ["capture" | "replay"] => Err(Failure::Usage(format!("{} needs a directory; try --help", words[0]))),
        [word, ..] => Err(Failure::Usage(unknown(word))),
    }
}

/// The long form of the flags that have a short one.
fn long_form(argument: String) -> String {
    match argument.as_str() {
        "-h" => "--help".into(),
        "-w" => "--watch".into(),
        "-o" => "--output".into(),
        _ => match argument.strip_prefix("-o") {
            Some(format) => format!("--output={}", format.trim_start_matches('=')),
            None => argument,
        },
    }
}

fn unknown(word: &str) -> String {
    if word.starts_with('-') {
        return format!("unknown flag {word}; try --help");
    }
    if let Some(command) = COMMANDS.iter().find(|command| command.name == word) {
        return match command.operands {
            "" => format!("{word} takes no words after it; try --help"),
            operands => format!("{word} takes one word after it: {word} {operands}"),
        };
    }
    let commands = COMMANDS.iter().map(|command| command.name).filter(|name| !name.is_empty());
    let near = nearest(commands, word).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    format!("unknown command {word:?}{near}; try --help")
}

/// The program, its version and what it was built by and for, as node_exporter tells it.
fn version() -> String {
    let rust = option_env!("CARGO_PKG_RUST_VERSION").unwrap_or_default();
    format!(
        "keyhole-exporter, version {VERSION}\n  platform:     linux/{}\n  rust version: {rust} or newer\n",
        crate::self_metrics::goarch()
    )
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    screen::write(text.as_bytes()).map(drop)
}

/// The broker's socket.
fn socket(options: &Options) -> String {
    options.text("broker.socket").to_owned()
}

/// One thread, and none to be started later: the sandbox allows no more.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
}

/// A signal that asks for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stop {
    number: u8,
}

/// The signals that ask for the end, once they are waited for.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
    /// None where it was ignored at the start: nohup(1) asks for that.
    hang_up: Option<Signal>,
}

impl Stops {
    /// From here on none of them ends the process by itself. Needs a runtime.
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

    /// The next of them.
    async fn next(&mut self) -> Stop {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Stop { number: 2 },
            _ = self.terminate.recv() => Stop { number: 15 },
            _ = hang_up => Stop { number: 1 },
        }
    }
}
