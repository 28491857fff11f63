//! A minimal broker: starts the program of the zygote and its readers, and speaks to it over its pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use keyhole_policy::pipes::{FrameKind, HEADER_BYTES, SLOTS, SLOTS_PER_CLASS};
use keyhole_policy::{Class, TABLE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{ChildProcess, Fixture, Programs, end, unshare};

/// The longest that a frame may take.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// A running zygote, with this process as its broker.
#[derive(Debug)]
pub struct Zygote {
    child: ChildProcess,
    orders: File,
    reports: Source,
    /// The pipes of each slot; none of a slot that this broker does not use.
    slots: Vec<Option<(File, Source)>>,
}

/// What a program writes to a pipe.
#[derive(Debug)]
pub struct Source {
    pipe: File,
    /// What was read and not taken yet.
    pub bytes: Vec<u8>,
}

/// A frame: its kind, what it is about, and its payload.
pub type Frame = (FrameKind, u8, Vec<u8>);

/// The first slot of a class.
pub fn slot(class: Class) -> usize {
    class as usize * SLOTS_PER_CLASS
}

impl Zygote {
    /// Starts one, as a uid, on `fixture`, which uses these slots alone.
    pub fn start(
        programs: &Programs,
        fixture: &Fixture,
        uid: u32,
        used: &[usize],
        left_open: Stdio,
        extra_syscalls: impl FnOnce(&mut Command),
    ) -> Self {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
        let ((orders_read, orders_write), (reports_read, reports_write)) = (pipe(), pipe());
        let mut command = programs.reader();
        let (mut slots, mut theirs): (Vec<_>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        for slot in 0..SLOTS {
            if used.contains(&slot) {
                let ((requests_read, requests_write), (answers_read, answers_write)) = (pipe(), pipe());
                slots.push(Some((File::from(requests_write), Source::new(answers_read))));
                theirs.extend([requests_read, answers_write]);
            } else {
                slots.push(None);
                theirs.extend(std::array::from_fn::<_, 2, _>(|_| File::open("/dev/null").unwrap().into()));
            }
        }
        let numbers: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        command.args(numbers.chunks(2).map(|pair| format!("--slot={},{}", pair[0], pair[1])));
        command
            .arg(format!("--path.udev.data={}", fixture.at("udev").display()))
            .args(["--path.rootfs=/", "--view=host", "--descriptor-cache=64"])
            .args(["--allow-root", "--allow-capabilities"])
            .stdin(orders_read)
            .stdout(reports_write)
            .stderr(left_open);
        extra_syscalls(&mut command);
        let classes: Vec<_> =
            used.iter().filter_map(|slot| keyhole_policy::pipes::slot_class(*slot)).collect();
        let asked = TABLE.iter().filter(|row| classes.contains(&row.class));
        command.args(asked.map(|row| format!("--query={}", row.query as i32)));
        // SAFETY: the child makes system calls that take numbers or null and constant strings.
        unsafe {
            command.pre_exec(move || {
                unshare(uid)?;
                // Here, and not before the fork: no other child inherits them.
                numbers.iter().for_each(|number| {
                    libc::fcntl(*number, libc::F_SETFD, 0);
                });
                Ok(())
            });
        }
        let child = ChildProcess::spawn(&mut command);
        Self { child, orders: File::from(orders_write), reports: Source::new(reports_read), slots }
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Orders a reader in a slot.
    pub fn order(&mut self, slot: usize) {
        self.order_bytes(&[slot as u8]);
    }

    /// Writes to the orders' pipe; whether the zygote could take it.
    pub fn order_bytes(&mut self, bytes: &[u8]) -> bool {
        self.orders.write_all(bytes).is_ok()
    }

    /// Asks a slot.
    pub fn ask(&mut self, slot: usize, requests: &[u8]) -> bool {
        self.slots[slot].as_mut().is_some_and(|(pipe, _)| pipe.write_all(requests).is_ok())
    }

    /// What the reader of a slot writes.
    pub fn answers(&mut self, slot: usize) -> &mut Source {
        &mut self.slots[slot].as_mut().unwrap().1
    }

    /// What the zygote reports.
    pub fn reports(&mut self) -> &mut Source {
        &mut self.reports
    }

    /// The next frame of the zygote; none when it has exited or does not write for long.
    pub fn report(&mut self) -> Option<Frame> {
        self.reports.frame(FRAME_TIMEOUT)
    }

    /// The slot of the next reader that ends, and its wait status; the error is how the zygote ended.
    pub fn next_end(&mut self) -> Result<(usize, i32), ExitStatus> {
        loop {
            match self.report() {
                Some((FrameKind::Exited, _, payload)) => {
                    let number = |at: usize| i32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
                    return Ok((number(0) as usize, number(8)));
                }
                Some(_) => {}
                None => return Err(end(&mut self.child)),
            }
        }
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.child.try_wait().unwrap().is_none()
    }

    /// Closes its pipes as the end of a broker does, and waits for its end.
    pub fn leave(self) -> ExitStatus {
        let Self { mut child, orders, reports, slots } = self;
        drop((orders, reports, slots));
        end(&mut child)
    }

    /// Waits for the end of one that ends by itself, and takes what it wrote.
    pub fn end(&mut self) -> ExitStatus {
        self.reports.rest();
        end(&mut self.child)
    }
}

impl Source {
    fn new(pipe: OwnedFd) -> Self {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
        Self { pipe: File::from(pipe), bytes: Vec::new() }
    }

    /// Waits for bytes and takes them; returns how many, and 0 at the end.
    pub fn take(&mut self, wait: Duration) -> usize {
        let mut ready = [PollFd::new(&self.pipe, PollFlags::IN)];
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        if poll(&mut ready, Some(&wait)).unwrap_or(0) == 0 {
            return 0;
        }
        let mut buffer = vec![0; 64 << 10];
        let length = self.pipe.read(&mut buffer).unwrap_or(0);
        self.bytes.extend_from_slice(&buffer[..length]);
        length
    }

    /// The next frame, if one comes in time.
    pub fn frame(&mut self, wait: Duration) -> Option<Frame> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() {
                let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let (kind, about) = (FrameKind::parse(header[4])?, header[5]);
                if self.bytes.len() >= HEADER_BYTES + length {
                    let payload = self.bytes[HEADER_BYTES..HEADER_BYTES + length].to_vec();
                    self.bytes.drain(..HEADER_BYTES + length);
                    return Some((kind, about, payload));
                }
            }
            if self.take(deadline.saturating_duration_since(Instant::now())) == 0 {
                return None;
            }
        }
    }

    /// Takes everything that is there.
    pub fn rest(&mut self) -> String {
        while self.take(Duration::ZERO) > 0 {}
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The signal that ended a reader, out of its wait status.
pub fn signal(status: i32) -> Option<i32> {
    ExitStatus::from_raw(status).signal()
}
