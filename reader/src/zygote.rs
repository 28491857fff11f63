//! The zygote: holds nothing of the host, forks a reader for each order, and reports how each ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keyhole_os::fork::{self, Child, ForkError};
use keyhole_os::shared::SharedCells;
use keyhole_os::{Layer, ThreadStatus};
use keyhole_policy::Class;
use keyhole_policy::pipes::{Kind, SLOTS, SLOTS_PER_CLASS, class};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::arguments::Arguments;
use crate::cache::Shared;
use crate::hello::Hello;
use crate::layers::{capabilities, landlock, process};
use crate::output::{Gone, Output};
use crate::reader::{self, Place};
use crate::sandbox;

/// A place for a reader.
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
    /// It cannot go on, and has said why.
    failed: bool,
}

/// A zygote's life; its exit status.
pub fn live(arguments: Arguments, pipes: Vec<OwnedFd>) -> i32 {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut out = Output::new(stdout.as_fd());
    match Zygote::start(arguments, pipes) {
        Ok(mut zygote) => {
            let hello = Hello { generation: 0, layers: &zygote.layers, host: None }.encode();
            let greeted = out.message(Kind::Hello, &hello);
            #[cfg(feature = "hostile-code-for-tests")]
            crate::hostile::in_zygote();
            match greeted.and_then(|()| zygote.serve(stdin.as_fd(), &mut out)) {
                Ok(()) | Err(Gone) if zygote.failed => 1,
                Ok(()) | Err(Gone) => 0,
            }
        }
        Err(error) => {
            // Nobody is left to say it to when the broker has gone.
            let _ = out.message(Kind::Failed, error.as_bytes());
            1
        }
    }
}

impl Zygote {
    fn start(arguments: Arguments, pipes: Vec<OwnedFd>) -> Result<Self, String> {
        refuse_privilege(&arguments)?;
        fork::can_watch().map_err(|error| {
            format!("pidfd_open: {error}: Linux 5.3 or later is needed, and a container's seccomp profile that allows it")
        })?;
        let mut pipes = pipes.into_iter();
        let mut slots = Vec::new();
        while let (Some(requests), Some(answers)) = (pipes.next(), pipes.next()) {
            slots.push(Slot { requests, answers, generation: 0, child: None });
        }
        if slots.len() != SLOTS {
            return Err(format!(
                "{} slots were given, of {SLOTS}: broker and reader differ in version",
                slots.len()
            ));
        }
        let page = |_| SharedCells::new().map_err(|error| format!("a page of shared memory: {error}"));
        let pages = Class::ALL.iter().map(page).collect::<Result<_, String>>()?;
        let own = |error| format!("/proc/self/status: {error}: mount a procfs at /proc");
        let mut layers = vec![process::not_dumpable(), process::limits()];
        let status = ThreadStatus::open().map_err(own)?;
        layers.push(capabilities::no_new_privs());
        layers.push(capabilities::drop_all());
        layers.push(landlock::restrict_all_but_reading());
        reader::seal(&mut layers, sandbox::ZYGOTE, &status)?;
        Ok(Self { arguments, slots, pages, layers, failed: false })
    }

    /// Follows orders until the broker has gone.
    fn serve(&mut self, orders: BorrowedFd<'_>, out: &mut Output<'_>) -> Result<(), Gone> {
        loop {
            let running = self.slots.iter().filter_map(|slot| slot.child.as_ref());
            let mut waited: Vec<PollFd<'_>> =
                running.map(|child| PollFd::new(&child.pidfd, PollFlags::IN)).collect();
            waited.push(PollFd::from_borrowed_fd(orders, PollFlags::IN));
            match poll(&mut waited, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
            let ordered = waited.pop().is_some_and(|orders| !orders.revents().is_empty());
            drop(waited);
            self.report_ends(out)?;
            if ordered {
                let mut slot = [0];
                match rustix::io::read(orders, &mut slot) {
                    Ok(1) => self.fork(slot[0].into(), out)?,
                    Err(Errno::INTR) => {}
                    _ => return Err(Gone),
                }
            }
        }
    }

    fn report_ends(&mut self, out: &mut Output<'_>) -> Result<(), Gone> {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let status = match slot.child.as_ref().map(Child::status) {
                None | Some(Ok(None)) => continue,
                Some(Ok(Some(status))) => status,
                // It is gone, and nobody knows how.
                Some(Err(_)) => FAILED,
            };
            slot.child = None;
            Shared::clear(&self.pages[number / SLOTS_PER_CLASS], number % SLOTS_PER_CLASS);
            report_end(number, slot.generation, status, out)?;
        }
        Ok(())
    }

    /// Forks a reader in a slot; nothing where there is one, or no such slot.
    fn fork(&mut self, number: usize, out: &mut Output<'_>) -> Result<(), Gone> {
        let (Some(class), Some(slot)) = (class(number), self.slots.get_mut(number)) else { return Ok(()) };
        if slot.child.is_some() {
            return Ok(());
        }
        slot.generation += 1;
        let place = Place { class, slot: number, generation: slot.generation };
        // What the last reader was asked and has not read. The broker may have written it after that reader's end.
        empty(slot.requests.as_fd());
        match fork::fork(|| self.become_reader(place)) {
            Ok(child) => {
                self.slots[number].child = Some(child);
                Ok(())
            }
            // It runs, and nobody would see its end: all ends with this process.
            Err(error @ ForkError::Watch(_)) => {
                self.failed = true;
                out.message(Kind::Failed, format!("a reader's end cannot be watched: {error}").as_bytes())?;
                Err(Gone)
            }
            // As if it had started and failed.
            Err(ForkError::Fork(_)) => report_end(number, place.generation, FAILED, out),
        }
    }

    /// In the new process: keeps the pipes of one slot and the page of one class, and nothing else of the zygote.
    fn become_reader(&mut self, place: Place) {
        let slot = &self.slots[place.slot];
        // One that hangs in a file sees no end of its pipe.
        let bound = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let moved = bound.and_then(|()| rustix::stdio::dup2_stdin(&slot.requests));
        let moved = moved.and_then(|()| rustix::stdio::dup2_stdout(&slot.answers));
        // The values that owned them are never dropped: this process ends by exit(2) alone.
        process::close_inherited();
        let page = std::mem::take(&mut self.pages).into_iter().nth(place.class as usize);
        fork::exit(match (moved, page) {
            (Ok(()), Some(page)) => reader::live(place, &self.arguments, page, &self.layers),
            _ => 1,
        })
    }
}

/// What waitpid(2) gives of a process that ends with status 1.
const FAILED: i32 = 1 << 8;

/// Takes what an earlier reader has left of its requests; no more than a pipe holds.
fn empty(requests: BorrowedFd<'_>) {
    const PIPE_BYTES: usize = 64 << 10;
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut buffer = [0; 4096];
    for _ in 0..PIPE_BYTES / buffer.len() {
        let there = poll(&mut [PollFd::from_borrowed_fd(requests, PollFlags::IN)], Some(&NOW));
        if there != Ok(1) || !rustix::io::read(requests, &mut buffer).is_ok_and(|read| read > 0) {
            return;
        }
    }
}

fn report_end(slot: usize, generation: u32, status: i32, out: &mut Output<'_>) -> Result<(), Gone> {
    let numbers = [slot as u32, generation, status.cast_unsigned()];
    out.message(Kind::Ended, numbers.map(u32::to_le_bytes).as_flattened())
}

/// Privilege that was not asked for is a mistake in a manifest: better said at once than carried around.
fn refuse_privilege(arguments: &Arguments) -> Result<(), String> {
    let root = rustix::process::getuid().is_root() || rustix::process::geteuid().is_root();
    if root && !arguments.allow_root {
        return Err("running as uid 0: run as a uid of its own, or pass --allow-root".to_owned());
    }
    let held = capabilities::held().map_err(|error| error.to_string())?;
    if !held.is_empty() && !arguments.allow_capabilities {
        let held = held.join(" ");
        return Err(format!(
            "started with capabilities ({held}): drop them all, or pass --allow-capabilities"
        ));
    }
    Ok(())
}
