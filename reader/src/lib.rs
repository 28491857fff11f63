//! keyhole-reader, the privileged program: it reads the host's /proc and /sys, and parses nothing but mountinfo.
//!
//! The broker starts it as a zygote, which forks readers. A reader opens the files of one class of queries, enters its
//! sandbox, and answers requests with the content of files. A request is one byte.
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

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use arguments::Arguments;
use keyhole_os::{fork, process};

/// The sandbox mechanisms. The builds of `tests/attacks` replace them by ones that can be switched off.
mod layers {
    #[cfg(not(feature = "hostile-code-for-tests"))]
    pub(crate) use keyhole_os::{capabilities, landlock, process, seccomp};
    #[cfg(feature = "hostile-code-for-tests")]
    pub(crate) use {
        crate::hostile::process,
        keyhole_os::hostile::{capabilities, landlock, seccomp},
    };
}

/// The exit status after a panic, by which the broker logs it as one.
pub const PANIC_EXIT_STATUS: i32 = 101;

/// Runs the program.
pub fn run() -> ExitCode {
    process::clear_environment();
    match start() {
        Ok((arguments, pipes)) => {
            fork::ignore_signals();
            std::panic::set_hook(Box::new(|panic| report_panic(&panic.to_string())));
            fork::exit(zygote::run(arguments, pipes))
        }
        Err(why) => {
            eprintln!(
                "keyhole-reader: error: {why}: keyhole-broker of the same version starts this program, do not start it by hand"
            );
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<(Arguments, Vec<OwnedFd>), String> {
    let arguments = Arguments::parse(std::env::args_os().skip(1))
        .map_err(|argument| format!("unknown argument {argument:?}"))?;
    let numbers: Vec<_> = arguments.slots.iter().flatten().copied().collect();
    if numbers.is_empty() {
        return Err("no slots".to_owned());
    }
    let pipes = process::take_inherited(&numbers)
        .map_err(|error| format!("cannot inherit the pipes of the slots: {error}"))?;
    Ok((arguments, pipes))
}

/// Reports a panic as the last frame of the pipe. Frames are written as a whole, so this one follows a complete one.
fn report_panic(panic: &str) -> ! {
    use keyhole_policy::pipes::{FrameKind, header};
    let panic: String = panic.chars().take(500).collect();
    let frame = [&header(panic.len(), FrameKind::Failed, 0, 0), panic.as_bytes()].concat();
    // If nobody reads it, the exit status still reports the panic.
    let _ = rustix::io::write(rustix::stdio::stdout(), &frame);
    fork::exit(PANIC_EXIT_STATUS)
}
