//! The zygote: started before anything of a peer is read, and given orders by one byte each.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyhole_policy::pipes::{Kind, SLOTS};
use keyhole_proto::reader::Hello;
use prost::Message;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::frames::{Frame, Frames};
use crate::lock;

/// How long a zygote or a reader may take until it is ready.
pub const START_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the status of a zygote that has closed its pipe.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Why there is no zygote.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program cannot be run.
    #[error(
        "{program}: {error}: keyhole-reader must lie beside keyhole-broker, and this uid must be able to run it"
    )]
    Program {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// Pipes cannot be had.
    #[error("the readers' pipes: {0}: allow this uid more open files")]
    Pipes(io::Error),
    /// It cannot go on, and says why.
    #[error("{0}")]
    Failed(String),
    /// It ended before it was ready.
    #[error("{program} ended before it was ready ({how}): {}", hint(how))]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        how: String,
    },
    /// It was ready, and ended before its readers were.
    #[error("{program} ended before its readers were ready ({how})")]
    EndedLater {
        /// The program.
        program: String,
        /// How it ended.
        how: String,
    },
    /// It did not say that it was ready.
    #[error("{program} was not ready within {} s: is it the keyhole-reader of this version?", START_TIMEOUT.as_secs())]
    TimedOut {
        /// The program.
        program: String,
    },
    /// It is of another version.
    #[error("{0} is not of this broker's version ({version}): install both together", version = env!("CARGO_PKG_VERSION"))]
    Version(String),
}

/// What may have ended a process that said nothing.
fn hint(how: &str) -> &'static str {
    if how.starts_with("killed") {
        "a limit or a filter of this container or service may have ended it, see the kernel's log"
    } else {
        "is it the keyhole-reader of this version?"
    }
}

/// How a reader ended: its generation, and its wait status.
pub type End = (u32, i32);

/// A place for a reader, with the broker's ends of its pipes. It has one owner.
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
    /// What came from it.
    pub frames: Frames,
    /// How its last reader ended.
    pub ended: watch::Receiver<End>,
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

/// Its reports: to be followed for as long as it runs.
#[derive(Debug)]
pub struct Reports {
    pipe: pipe::Receiver,
    frames: Frames,
    ends: Vec<watch::Sender<End>>,
}

/// Starts a zygote and waits until it is ready. Needs a runtime.
pub async fn start(
    program: PathBuf,
    arguments: Vec<OsString>,
) -> Result<(Arc<Zygote>, Reports, Vec<Slot>), StartError> {
    let pipes = |errno: rustix::io::Errno| StartError::Pipes(errno.into());
    let shown = program.display().to_string();
    // The zygote inherits its ends; the broker's are closed by its exec.
    let (orders_read, orders_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
    let (reports_read, reports_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
    let (mut ours, mut theirs): (Vec<_>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
    let mut command = Command::new(&program);
    for _ in 0..SLOTS {
        let (requests_read, requests_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
        let (answers_read, answers_write) = pipe_with(PipeFlags::CLOEXEC).map_err(pipes)?;
        for end in [&requests_read, &answers_write] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::empty()).map_err(pipes)?;
        }
        command.arg(format!("--slot={},{}", requests_read.as_raw_fd(), answers_write.as_raw_fd()));
        ours.push((requests_write, answers_read));
        theirs.extend([requests_read, answers_write]);
    }
    command.args(arguments).stdin(orders_read).stdout(reports_write).stderr(Stdio::null());
    command.env_clear();
    #[cfg(feature = "hostile-code-for-tests")]
    command.envs(crate::hostile::for_zygote());
    // Signals of a terminal are the broker's: it ends the others by ending.
    command.process_group(0);
    let child = command.spawn().map_err(|error| StartError::Program { program: shown.clone(), error })?;
    let pid = Pid::from_child(&child);
    // They are the zygote's alone from here on.
    drop((command, theirs));
    let mut ends = Vec::new();
    let slots = ours.into_iter().zip(0..).map(|((requests, answers), number)| {
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
        Some(Frame { kind: Kind::Hello, payload, .. }) => match parse_hello(&payload) {
            Some(hello) => hello,
            None => return Err(StartError::Version(shown)),
        },
        Some(Frame { kind: Kind::Failed, payload, .. }) => {
            return Err(StartError::Failed(one_line(&payload)));
        }
        Some(_) => return Err(StartError::Version(shown)),
        None => return Err(StartError::Ended { program: shown, how: zygote.ended().await }),
    };
    Ok((Arc::new(Zygote { hello, ..zygote }), reports, slots))
}

/// A hello of this version.
pub fn parse_hello(payload: &[u8]) -> Option<Hello> {
    let hello = Hello::decode(payload).ok()?;
    let same = hello.version == env!("CARGO_PKG_VERSION") && hello.table_digest == keyhole_policy::digest();
    same.then_some(hello)
}

/// What a process of the privileged side says, fit for a line.
pub fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut line = String::new();
    for c in text.chars().take(500) {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// How a process ended, for a person: out of its wait status, see wait(2).
pub fn describe_status(status: i32) -> String {
    const PANICKED: i32 = 101;
    match (status & 0x7f, status >> 8 & 0xff) {
        (SIGSYS, _) => "killed by seccomp (SIGSYS)".to_owned(),
        (0, PANICKED) => "ended by a panic".to_owned(),
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
    /// Orders a reader in a slot. An order that cannot be given is seen by the reader that never is ready.
    pub fn order(&self, slot: &mut Slot) {
        slot.generation += 1;
        let _ = lock(&self.orders).try_write(&[slot.number]);
    }

    /// How it ended, once its pipe is closed.
    pub async fn ended(&self) -> String {
        const INTERVAL: Duration = Duration::from_millis(10);
        for _ in 0..STATUS_TIMEOUT.as_millis() / INTERVAL.as_millis() {
            if let Ok(Some((_, status))) = waitpid(Some(self.pid), WaitOptions::NOHANG) {
                return describe_status(status.as_raw());
            }
            tokio::time::sleep(INTERVAL).await;
        }
        "it has closed its pipe and goes on".to_owned()
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
    /// Passes on how readers end; ends when the zygote has gone, or writes what is no such report, with its own reason if it
    /// gave one.
    pub async fn follow(&mut self) -> Option<String> {
        // However fast it writes, others are served.
        const PAUSE: Duration = Duration::from_millis(1);
        while let Some(frame) = self.next().await {
            if frame.kind == Kind::Failed {
                return Some(one_line(&frame.payload));
            }
            // It writes nothing else once it is ready.
            let [slot, generation, status] = numbers(&frame)?;
            if let Some(ends) = self.ends.get(slot as usize) {
                ends.send_replace((generation, status.cast_signed()));
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    /// The next report; none when there will be no more.
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

/// The numbers of the report that a reader has ended.
fn numbers(frame: &Frame) -> Option<[u32; 3]> {
    let numbers: [u8; 12] = frame.payload.as_ref().try_into().ok().filter(|_| frame.kind == Kind::Ended)?;
    let number =
        |at: usize| u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
    Some([number(0), number(4), number(8)])
}
