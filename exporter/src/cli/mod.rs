//! The command line.

pub mod capture;
pub mod flags;
pub mod help;
pub mod log;
pub mod replay;
pub mod serve;

use std::path::Path;
use std::process::ExitCode;

use crate::options::Options;
use crate::self_metrics::VERSION;

/// Runs the program; gives the exit status.
pub fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.into_string());
    let arguments: Result<Vec<String>, _> = arguments.collect();
    let arguments = arguments.map_err(|argument| format!("{argument:?} is not UTF-8; try --help"));
    match arguments.and_then(|arguments| run(arguments.into_iter())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyhole-exporter: error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What ends the program with a line on standard error.
type Failure = String;

fn run(arguments: impl Iterator<Item = String>) -> Result<(), Failure> {
    let arguments = arguments.map(|argument| if argument == "-h" { "--help".into() } else { argument });
    let (options, words) = flags::parse(arguments).map_err(|error| error.to_string())?;
    if options.switch("help") {
        return print(&help::text());
    }
    if options.switch("version") {
        return print(&format!("keyhole-exporter {VERSION}\n"));
    }
    log::start(&options)?;
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve::run(options),
        ["capture", dir] => capture::run(Path::new(dir), &options),
        ["replay", dir] => replay::run(Path::new(dir), &options),
        ["capture" | "replay"] => Err(format!("{} needs a directory; try --help", words.concat())),
        [word, ..] if word.starts_with('-') => Err(format!("unknown flag {word}; try --help")),
        [word, ..] => Err(format!("unknown command {word:?}; try --help")),
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// The broker's socket: the flag, else the environment, else the default.
fn socket(options: &Options) -> String {
    let from_environment = || std::env::var("KEYHOLE_BROKER_SOCKET").ok().filter(|socket| !socket.is_empty());
    match options.was_given("broker.socket") {
        true => None,
        false => from_environment(),
    }
    .unwrap_or_else(|| options.text("broker.socket").to_owned())
}

/// One thread, and none to be started later: the sandbox allows no more.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start: {error}"))
}
