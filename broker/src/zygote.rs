//! The zygote: starts it before anything of a client is read, sends orders of one byte, and follows its reports.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyhole_policy::pipes::{FrameKind, SLOTS};
use keyhole_proto::reader::Hello;
use prost::Message;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::frames::{Frame, Frames};
use crate::lock;

/// The most time until a zygote or a reader is ready.
pub const START_TIMEOUT: Duration = Duration::from_secs(5);

/// The most time to wait for the exit status of a zygote that has closed its pipe.
const EXIT_STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the zygote or its first readers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program cannot be run.
    #[error(
        "{program}: {error}: keyhole-reader must be in the directory of keyhole-broker, and this uid must be able to run it"
    )]
    Program {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// The pipes cannot be made.
    #[error("cannot make the readers' pipes: {0}: allow this uid more open files")]
    Pipes(io::Error),
    /// It cannot continue, and reported why.
    #[error("{0}")]
    Failed(String),
    /// It exited before it was ready.
    #[error("{program} exited before it was ready ({how}): {}", hint(how))]
    Exited {
        /// The program.
        program: String,
        /// Its exit status or signal.
        how: String,
    },
    /// It was ready, and exited before its readers were.
    #[error("{program} exited before its readers were ready ({how})")]
    ExitedLater {
        /// The program.
        program: String,
        /// Its exit status or signal.
        how: String,
    },
    /// It did not report in time that it is ready.
    #[error("{program} was not ready within {} s: is it the keyhole-reader of this version?", START_TIMEOUT.as_secs())]
    TimedOut {
        /// The program.
        program: String,
    },
    /// It has another version.
    #[error("{0} has another version than the broker ({version}): install both together", version = env!("CARGO_PKG_VERSION"))]
    Version(String),
}

/// The likely reason of an exit without a report.
fn hint(how: &str) -> &'static str {
    if how.starts_with("killed") {
        "a limit or a seccomp filter of this container or service may have killed it, see the kernel's log"
    } else {
        "is it the keyhole-reader of this version?"
    }
}

/// The exit of a reader: its generation and its wait status.
pub type ReaderExit = (u32, i32);

/// A slot for a reader, with the broker's ends of its pipes. It has one owner.
#[derive(Debug)]
pub struct Slot {
    /// Its number.
    pub number: u8,
    /// Counted up with each reader that is started in it.
    pub generation: u32,
    /// To the reader.
    pub requests: pipe::Sender,
    /// From the reader.
    pub answers: pipe::Receiver,
    /// The bytes from the reader.
    pub frames: Frames,
    /// The exit of its last reader.
    pub ended: watch::Receiver<ReaderExit>,
}

/// The running zygote.
#[derive(Debug)]
pub struct Zygote {
    program: String,
    pid: Pid,
    orders: Mutex<pipe::Sender>,
    /// What it reported when it was ready.
    pub hello: Hello,
}

/// The zygote's reports: follow them as long as it runs.
#[derive(Debug)]
pub struct Reports {
    pipe: pipe::Receiver,
    frames: Frames,
    ends: Vec<watch::Sender<ReaderExit>>,
}

/// Starts a zygote and waits until it is ready. Needs a Tokio runtime.
pub async fn start(
    program: PathBuf,
    arguments: Vec<OsString>,
) -> Result<(Arc<Zygote>, Reports, Vec<Slot>), StartError> {
    let pipes = |errno: rustix::io::Errno| StartError::Pipes(errno.into());
    let shown = program.display().to_string();
    // The zygote inherits its ends; the broker's are closed by its exec.
    let (orders_read, orders_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
    let (reports_read, reports_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
    let (mut broker_ends, mut reader_ends): (Vec<_>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
    let mut command = Command::new(&program);
    for _ in 0..SLOTS {
        let (requests_read, requests_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
        let (answers_read, answers_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
        for end in [&requests_read, &answers_write] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::empty()).map_err(pipes)?;
        }
        command.arg(format!("--slot={},{}", requests_read.as_raw_fd(), answers_write.as_raw_fd()));
        broker_ends.push((requests_write, answers_read));
        reader_ends.extend([requests_read, answers_write]);
    }
    command.args(arguments).stdin(orders_read).stdout(reports_write).stderr(Stdio::null());
    command.env_clear();
    #[cfg(feature = "hostile-code-for-tests")]
    command.envs(crate::hostile::for_zygote());
    // The signals of a terminal are for the broker; the others exit when it does.
    command.process_group(0);
    let child = command.spawn().map_err(|error| StartError::Program { program: shown.clone(), error })?;
    let pid = Pid::from_child(&child);
    // Close the broker's copies of the zygote's ends.
    drop((command, reader_ends));
    let mut ends = Vec::new();
    let slots = broker_ends.into_iter().zip(0..).map(|((requests, answers), number)| {
        let (sender, ended) = watch::channel((0, 0));
        ends.push(sender);
        Ok(Slot {
            number,
            generation: 0,
            requests: pipe::Sender::from_owned_fd(requests)?,
            answers: pipe::Receiver::from_owned_fd(answers)?,
            frames: Frames::default(),
            ended,
        })
    });
    let slots = slots.collect::<io::Result<Vec<_>>>().map_err(StartError::Pipes)?;
    let pipe = pipe::Receiver::from_owned_fd(reports_read).map_err(StartError::Pipes)?;
    let mut reports = Reports { pipe, frames: Frames::default(), ends };
    let orders = Mutex::new(pipe::Sender::from_owned_fd(orders_write).map_err(StartError::Pipes)?);
    let zygote = Zygote { program: shown.clone(), pid, orders, hello: Hello::default() };
    let frame = timeout(START_TIMEOUT, reports.next())
        .await
        .map_err(|_| StartError::TimedOut { program: shown.clone() })?;
    let hello = match frame {
        Some(Frame { kind: FrameKind::Hello, payload, .. }) => match parse_hello(&payload) {
            Some(hello) => hello,
            None => return Err(StartError::Version(shown)),
        },
        Some(Frame { kind: FrameKind::Failed, payload, .. }) => {
            return Err(StartError::Failed(one_line(&payload)));
        }
        Some(_) => return Err(StartError::Version(shown)),
        None => return Err(StartError::Exited { program: shown, how: zygote.ended().await }),
    };
    Ok((Arc::new(Zygote { hello, ..zygote }), reports, slots))
}

/// Parses a hello; none if it is malformed or of another version.
pub fn parse_hello(payload: &[u8]) -> Option<Hello> {
    let hello = Hello::decode(payload).ok()?;
    let same = hello.version == env!("CARGO_PKG_VERSION") && hello.table_digest == keyhole_policy::digest();
    same.then_some(hello)
}

/// Text of a zygote or a reader, cut and escaped for one line of the log.
pub fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut line = String::new();
    for c in text.chars().take(500) {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// A wait status as text, see wait(2).
pub fn describe_status(status: i32) -> String {
    const PANIC_EXIT_STATUS: i32 = 101;
    match (status & 0x7f, status >> 8 & 0xff) {
        (SIGSYS, _) => "killed by seccomp (SIGSYS)".to_owned(),
        (0, PANIC_EXIT_STATUS) => "panic".to_owned(),
        (0, status) => format!("exit status {status}"),
        (signal, _) => format!("killed by signal {signal}"),
    }
}

/// Whether seccomp killed it.
pub fn was_killed_by_seccomp(status: i32) -> bool {
    status & 0x7f == SIGSYS
}

/// The same on x86_64 and aarch64.
const SIGSYS: i32 = 31;

impl Zygote {
    /// Orders a reader in a slot. If the order cannot be written, the reader will not be ready in time.
    pub fn order(&self, slot: &mut Slot) {
        slot.generation += 1;
        let _ = lock(&self.orders).try_write(&[slot.number]);
    }

    /// Waits for its exit after it has closed its pipe; returns the exit status as text.
    pub async fn ended(&self) -> String {
        const INTERVAL: Duration = Duration::from_millis(10);
        for _ in 0..EXIT_STATUS_TIMEOUT.as_millis() / INTERVAL.as_millis() {
            if let Ok(Some((_, status))) = waitpid(Some(self.pid), WaitOptions::NOHANG) {
                return describe_status(status.as_raw());
            }
            tokio::time::sleep(INTERVAL).await;
        }
        "it closed its pipe without exiting".to_owned()
    }

    /// Its PID.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.program
    }
}

impl Reports {
    /// Forwards the exits of readers to their slots. Returns when the zygote exits or writes anything else, with the reason
    /// if it reported one.
    pub async fn follow(&mut self) -> Option<String> {
        // The pause lets others be served however fast it writes.
        const PAUSE: Duration = Duration::from_millis(1);
        while let Some(frame) = self.next().await {
            if frame.kind == FrameKind::Failed {
                return Some(one_line(&frame.payload));
            }
            // A zygote that is ready writes nothing else.
            let [slot, generation, status] = parse_exit(&frame)?;
            if let Some(ends) = self.ends.get(slot as usize) {
                ends.send_replace((generation, status.cast_signed()));
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    /// The next report; none if there will be no more.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame().ok()? {
                return Some(frame);
            }
            self.pipe.readable().await.ok()?;
            match self.pipe.try_read_buf(self.frames.space()) {
                Ok(0) => return None,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return None,
                _ => {}
            }
        }
    }
}

/// Parses the report that a reader has exited: slot, generation and wait status.
fn parse_exit(frame: &Frame) -> Option<[u32; 3]> {
    let numbers: [u8; 12] =
        frame.payload.as_ref().try_into().ok().filter(|_| frame.kind == FrameKind::Exited)?;
    let number =
        |at: usize| u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
    Some([number(0), number(4), number(8)])
}
