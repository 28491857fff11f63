//! keyhole-reader: the privileged side. Reads the host's /proc and /sys, and parses and understands nothing.
//!
//! The broker starts it as a zygote, which forks readers. A reader opens the files of one class of queries, seals
//! itself and answers one byte with the text of files. No request holds anything else.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod cache;
pub mod encode;
mod hello;
pub mod host;
#[cfg(feature = "hostile-code-for-tests")]
pub mod hostile;
pub mod mounts;
pub mod output;
pub mod read;
mod reader;
pub mod sandbox;
pub mod view;
mod zygote;

use std::process::ExitCode;

use arguments::Arguments;
use keyhole_os::{fork, process};

/// The mechanisms of the sandbox; in a build for tests of attacks, ones that can be left out.
mod layers {
    #[cfg(not(feature = "hostile-code-for-tests"))]
    pub(crate) use keyhole_os::{capabilities, landlock, process, seccomp};
    #[cfg(feature = "hostile-code-for-tests")]
    pub(crate) use {
        crate::hostile::process,
        keyhole_os::hostile::{capabilities, landlock, seccomp},
    };
}

/// The exit status after a panic, which tells it from an end by seccomp.
pub const PANICKED: i32 = 101;

/// Runs the program.
pub fn run() -> ExitCode {
    process::clear_environment();
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) if !arguments.slots.is_empty() => arguments,
        other => {
            let which = other.err().map_or("no slots".to_owned(), |argument| format!("{argument:?}"));
            eprintln!(
                "keyhole-reader: error: {which}: it is started by a keyhole-broker of its version, not by hand"
            );
            return ExitCode::from(2);
        }
    };
    let numbers: Vec<_> = arguments.slots.iter().flatten().copied().collect();
    match process::take_inherited(&numbers) {
        Ok(pipes) => {
            fork::ignore_signals();
            std::panic::set_hook(Box::new(|panic| report_panic(&panic.to_string())));
            fork::exit(zygote::live(arguments, pipes))
        }
        Err(error) => {
            eprintln!(
                "keyhole-reader: error: the pipes of its slots: {error}: it is started by a keyhole-broker"
            );
            ExitCode::from(2)
        }
    }
}

/// Reports a panic as the last frame, whole, since chunks are written whole too.
fn report_panic(panic: &str) -> ! {
    use keyhole_policy::pipes::{Kind, header};
    let panic: String = panic.chars().take(500).collect();
    let frame = [&header(panic.len(), Kind::Failed, 0), panic.as_bytes()].concat();
    // Where nobody takes it, the exit status still says what happened.
    let _ = rustix::io::write(rustix::stdio::stdout(), &frame);
    fork::exit(PANICKED)
}
