//! The zygote: forks a reader for each order and reports how each exited. It opens no file of the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keyhole_os::fork::{self, Child, ForkError};
use keyhole_os::shared::SharedCells;
use keyhole_os::{Layer, ThreadStatus};
use keyhole_policy::Class;
use keyhole_policy::pipes::{FrameKind, SLOTS, SLOTS_PER_CLASS, slot_class};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::arguments::Arguments;
use crate::cache::SharedState;
use crate::hello::Hello;
use crate::layers::{capabilities, landlock, process};
use crate::output::{BrokerGone, Output};
use crate::reader::{self, ReaderId};
use crate::sandbox;

/// A slot: the pipes of a reader, and the reader that runs in it.
struct Slot {
    requests: OwnedFd,
    answers: OwnedFd,
    generation: u32,
    child: Option<Child>,
}

/// A zygote that is ready.
struct Zygote {
    arguments: Arguments,
    slots: Vec<Slot>,
    /// A page for each class, in the order of their numbers.
    pages: Vec<SharedCells>,
    layers: Vec<Layer>,
    /// It cannot continue, and has reported why.
    failed: bool,
}

/// Runs the zygote; returns its exit status.
pub fn run(arguments: Arguments, pipes: Vec<OwnedFd>) -> i32 {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut out = Output::new(stdout.as_fd());
    match Zygote::start(arguments, pipes) {
        Ok(mut zygote) => {
            let hello = Hello { generation: 0, layers: &zygote.layers, host: None }.encode();
            let sent = out.message(FrameKind::Hello, &hello);
            #[cfg(feature = "hostile-code-for-tests")]
            crate::hostile::in_zygote();
            match sent.and_then(|()| zygote.serve(stdin.as_fd(), &mut out)) {
                Ok(()) | Err(BrokerGone) if zygote.failed => 1,
                Ok(()) | Err(BrokerGone) => 0,
            }
        }
        Err(error) => {
            // If the broker is gone, there is nobody to report it to.
            let _ = out.message(FrameKind::Failed, error.as_bytes());
            1
        }
    }
}

impl Zygote {
    fn start(arguments: Arguments, pipes: Vec<OwnedFd>) -> Result<Self, String> {
        capabilities::refuse_privilege(arguments.allow_root, arguments.allow_capabilities)?;
        fork::check_pidfd_open().map_err(|error| {
            format!("pidfd_open: {error}: run Linux 5.3 or later, and let the container's seccomp profile allow the call")
        })?;
        let mut pipes = pipes.into_iter();
        let mut slots = Vec::new();
        while let (Some(requests), Some(answers)) = (pipes.next(), pipes.next()) {
            slots.push(Slot { requests, answers, generation: 0, child: None });
        }
        if slots.len() != SLOTS {
            return Err(format!(
                "{} slots instead of {SLOTS}: the broker has another version than the reader",
                slots.len()
            ));
        }
        let page = |_| SharedCells::new().map_err(|error| format!("cannot map shared memory: {error}"));
        let pages = Class::ALL.iter().map(page).collect::<Result<_, String>>()?;
        let proc_self = |error| format!("/proc/self/status: {error}: mount a procfs at /proc");
        let mut layers = vec![process::not_dumpable(), process::limits()];
        let status = ThreadStatus::open().map_err(proc_self)?;
        layers.push(capabilities::no_new_privs());
        layers.push(capabilities::drop_all());
        layers.push(landlock::restrict_to_reading());
        reader::install_seccomp(&mut layers, sandbox::ZYGOTE, &status)?;
        Ok(Self { arguments, slots, pages, layers, failed: false })
    }

    /// Follows orders until the broker is gone.
    fn serve(&mut self, orders: BorrowedFd<'_>, out: &mut Output<'_>) -> Result<(), BrokerGone> {
        loop {
            let running = self.slots.iter().filter_map(|slot| slot.child.as_ref());
            let mut polled: Vec<PollFd<'_>> =
                running.map(|child| PollFd::new(&child.pidfd, PollFlags::IN)).collect();
            polled.push(PollFd::from_borrowed_fd(orders, PollFlags::IN));
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(BrokerGone),
            }
            let ordered = polled.pop().is_some_and(|orders| !orders.revents().is_empty());
            drop(polled);
            self.report_exits(out)?;
            if ordered {
                let mut slot = [0];
                match rustix::io::read(orders, &mut slot) {
                    Ok(1) => self.fork(slot[0].into(), out)?,
                    Err(Errno::INTR) => {}
                    _ => return Err(BrokerGone),
                }
            }
        }
    }

    fn report_exits(&mut self, out: &mut Output<'_>) -> Result<(), BrokerGone> {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let status = match slot.child.as_ref().map(Child::status) {
                None | Some(Ok(None)) => continue,
                Some(Ok(Some(status))) => status,
                // It has exited, and its status is lost.
                Some(Err(_)) => FAILURE_STATUS,
            };
            slot.child = None;
            SharedState::clear(&self.pages[number / SLOTS_PER_CLASS], number % SLOTS_PER_CLASS);
            report_exit(number, slot.generation, status, out)?;
        }
        Ok(())
    }

    /// Forks a reader in a slot; does nothing if the slot has a reader or does not exist.
    fn fork(&mut self, number: usize, out: &mut Output<'_>) -> Result<(), BrokerGone> {
        let (Some(class), Some(slot)) = (slot_class(number), self.slots.get_mut(number)) else {
            return Ok(());
        };
        if slot.child.is_some() {
            return Ok(());
        }
        slot.generation += 1;
        let id = ReaderId { class, slot: number, generation: slot.generation };
        // Requests that the last reader has not read. The broker may have written them after that reader exited.
        discard_requests(slot.requests.as_fd());
        match fork::fork(|| self.become_reader(id)) {
            Ok(child) => {
                self.slots[number].child = Some(child);
                Ok(())
            }
            // The reader runs, but its exit cannot be noticed. When this process exits, so does the reader.
            Err(error @ ForkError::Watch(_)) => {
                self.failed = true;
                out.message(
                    FrameKind::Failed,
                    format!("the exit of a reader cannot be watched: {error}").as_bytes(),
                )?;
                Err(BrokerGone)
            }
            // The broker treats it like a reader that failed to start.
            Err(ForkError::Fork(_)) => report_exit(number, id.generation, FAILURE_STATUS, out),
        }
    }

    /// In the new process: keeps the pipes of one slot and the page of one class, and nothing else of the zygote.
    fn become_reader(&mut self, id: ReaderId) {
        let slot = &self.slots[id.slot];
        // A reader that hangs in a file does not notice when its pipe is closed.
        let bound = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let moved = bound.and_then(|()| rustix::stdio::dup2_stdin(&slot.requests));
        let moved = moved.and_then(|()| rustix::stdio::dup2_stdout(&slot.answers));
        // The values that own these descriptors are never dropped: this process ends by _exit(2).
        process::close_inherited();
        let page = std::mem::take(&mut self.pages).into_iter().nth(id.class as usize);
        fork::exit(match (moved, page) {
            (Ok(()), Some(page)) => reader::run(id, &self.arguments, page, &self.layers),
            _ => 1,
        })
    }
}

/// The wait status of a process that exits with 1.
const FAILURE_STATUS: i32 = 1 << 8;

/// Discards the requests that an earlier reader has left in its pipe: at most as much as a pipe holds.
fn discard_requests(requests: BorrowedFd<'_>) {
    const PIPE_BYTES: usize = 64 << 10;
    const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut buffer = [0; 4096];
    for _ in 0..PIPE_BYTES / buffer.len() {
        let readable = poll(&mut [PollFd::from_borrowed_fd(requests, PollFlags::IN)], Some(&NO_WAIT));
        if readable != Ok(1) || !rustix::io::read(requests, &mut buffer).is_ok_and(|read| read > 0) {
            return;
        }
    }
}

fn report_exit(slot: usize, generation: u32, status: i32, out: &mut Output<'_>) -> Result<(), BrokerGone> {
    let numbers = [slot as u32, generation, status.cast_unsigned()];
    out.message(FrameKind::Exited, numbers.map(u32::to_le_bytes).as_flattened())
}
