//! keyhole-reader: the privileged side. It reads the host's /proc and /sys and does not parse them, but for mount points.
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

use std::os::fd::OwnedFd;
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
    match start() {
        Ok((arguments, pipes)) => {
            fork::ignore_signals();
            std::panic::set_hook(Box::new(|panic| report_panic(&panic.to_string())));
            fork::exit(zygote::live(arguments, pipes))
        }
        Err(why) => {
            eprintln!(
                "keyhole-reader: error: {why}: it is started by a keyhole-broker of its version, not by hand"
            );
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<(Arguments, Vec<OwnedFd>), String> {
    let arguments = Arguments::parse(std::env::args_os().skip(1)).map_err(|wrong| format!("{wrong:?}"))?;
    let numbers: Vec<_> = arguments.slots.iter().flatten().copied().collect();
    if numbers.is_empty() {
        return Err("no slots".to_owned());
    }
    let pipes =
        process::take_inherited(&numbers).map_err(|error| format!("the pipes of its slots: {error}"))?;
    Ok((arguments, pipes))
}

/// Reports a panic as the last frame, whole, since chunks are written whole too.
fn report_panic(panic: &str) -> ! {
    use keyhole_policy::pipes::{Kind, header};
    let panic: String = panic.chars().take(500).collect();
    let frame = [&header(panic.len(), Kind::Failed, 0, 0), panic.as_bytes()].concat();
    // Where nobody takes it, the exit status still says what happened.
    let _ = rustix::io::write(rustix::stdio::stdout(), &frame);
    fork::exit(PANICKED)
}
