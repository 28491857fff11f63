//! A reader: opens the files of its class, seals itself, and answers one byte at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use keyhole_os::landlock::{Grant, Right};
use keyhole_os::seccomp::{Row, Rule};
use keyhole_os::shared::SharedCells;
use keyhole_os::{Layer, ThreadStatus};
use keyhole_policy::pipes::{CHECK, END, Kind, SLOTS_PER_CLASS};
use keyhole_policy::{Class, Query, TABLE};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::arguments::Arguments;
use crate::cache::Shared;
use crate::hello::Hello;
use crate::host::{Host, READ, Roots};
use crate::layers::{landlock, seccomp};
use crate::output::{Gone, Output};
use crate::read::Scratch;
use crate::sandbox;
use crate::view::View;

/// Requests that are taken at once.
const REQUESTS: usize = 128;

/// Which reader this is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What it reads.
    pub class: Class,
    /// The number of its slot, of all slots.
    pub slot: usize,
    /// Counted from 1, of all readers that the slot has had.
    pub generation: u32,
}

/// A reader's life, from its fork on; ends with its exit status. `layers` are those that it inherited.
pub fn live(place: Place, arguments: &Arguments, page: SharedCells, layers: &[Layer]) -> i32 {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut out = Output::new(stdout.as_fd());
    match start(place, arguments, page, layers.to_vec(), &mut out) {
        Ok(mut reader) => {
            #[cfg(feature = "hostile-code-for-tests")]
            crate::hostile::in_reader(place.class);
            match reader.serve(stdin.as_fd(), &mut out) {
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

struct Reader {
    host: Host,
    scratch: Scratch,
    /// Its own, opened before the seal.
    stat: OwnedFd,
}

fn start(
    place: Place,
    arguments: &Arguments,
    page: SharedCells,
    mut layers: Vec<Layer>,
    out: &mut Output<'_>,
) -> Result<Reader, String> {
    let class = place.class;
    let own =
        |error| format!("/proc/self: {error}: a reader must see its own process: mount a procfs at /proc");
    let status = ThreadStatus::open().map_err(own)?;
    let stat = openat(CWD, "/proc/self/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| own(errno.into()))?;
    // Most of the files that are cached are attributes of network interfaces.
    let cached_files = match class {
        Class::Devices => arguments.cached_files - arguments.cached_files / 4,
        Class::Sysfs => arguments.cached_files / 4,
        _ => 0,
    };
    let shared = Shared::new(page, place.slot % SLOTS_PER_CLASS, cached_files);
    let roots = Roots::open(arguments, &[class], &shared)?;
    let view = View::find(&roots, arguments.view)?;
    let rows = TABLE.iter().filter(|row| row.class == class && arguments.permits(row.query));
    let mut host = Host::open(rows, arguments, roots, view, shared);
    host.roots.keep_for(class);
    let grants: Vec<Grant<'_>> =
        host.roots.opened_later(class).map(|dir| Grant { dir, right: Right::Read }).into_iter().collect();
    layers.retain(|layer| !matches!(layer.name, "landlock" | "seccomp"));
    layers.push(landlock::restrict(&grants));
    seal(&mut layers, &sandbox::reader_syscalls(class), &status)?;
    let closed = layers.iter().any(|layer| layer.name == "landlock" && layer.in_force);
    if closed && class != Class::Procfs && class != Class::Mounts && !root_is_closed() {
        return Err(
            "opening / is not refused although Landlock is in force: the sandbox does not hold".to_owned()
        );
    }
    let hello = Hello { generation: place.generation, layers: &layers, host: Some(&host) };
    out.message(Kind::Hello, &hello.encode()).map_err(|Gone| "the broker has gone".to_owned())?;
    host.shared.set_started();
    Ok(Reader { host, scratch: Scratch::default(), stat })
}

/// Puts a table of system calls in force, and checks what the kernel says of this process.
pub fn seal(layers: &mut Vec<Layer>, rows: &[Row], status: &ThreadStatus) -> Result<(), String> {
    let rules: Vec<Rule<'_>> = rows.iter().map(Rule::from).collect();
    let filter = seccomp::compile(&rules).map_err(|error| error.to_string())?;
    layers.push(seccomp::install(&filter, rules.len()));
    let needed = ["no_new_privs", "capabilities", "seccomp"];
    if let Some(missing) = layers.iter().find(|layer| !layer.in_force && needed.contains(&layer.name)) {
        return Err(format!("{} could not be put in force: {}", missing.name, missing.detail));
    }
    let unconfirmed = status.unconfirmed().map_err(|error| format!("/proc/self/status: {error}"))?;
    match layers.iter().find(|layer| layer.in_force && unconfirmed.contains(&layer.name)) {
        Some(layer) => Err(format!("the kernel does not confirm {}: the sandbox does not hold", layer.name)),
        None => Ok(()),
    }
}

/// Tries what Landlock must refuse.
fn root_is_closed() -> bool {
    openat(CWD, "/", READ | OFlags::DIRECTORY, Mode::empty()).is_err_and(|errno| errno == Errno::ACCESS)
}

impl Reader {
    /// Answers requests until one asks for the end, or the broker has gone.
    fn serve(&mut self, requests: BorrowedFd<'_>, out: &mut Output<'_>) -> Result<(), Gone> {
        let mut buffer = [0; REQUESTS];
        loop {
            let taken = match rustix::io::read(requests, &mut buffer) {
                Err(Errno::INTR) => continue,
                Ok(taken @ 1..) => taken,
                _ => return Err(Gone),
            };
            for (at, request) in buffer[..taken].iter().enumerate() {
                match *request {
                    END => return out.flush(),
                    CHECK => self.check(out)?,
                    query => self.answer(query, at + 1 < taken, out)?,
                }
            }
            out.flush()?;
            self.scratch.end();
        }
    }

    fn answer(&mut self, number: u8, more: bool, out: &mut Output<'_>) -> Result<(), Gone> {
        // What is no query of this class ends the reader: the broker that sends it is not the one that started it.
        let query = Query::try_from(i32::from(number)).map_err(|_| Gone)?;
        let begun = Instant::now();
        out.begin(query);
        let (outcome, left_out, skipped) = self.host.read(query, &mut self.scratch, out)?.ok_or(Gone)?;
        out.end(outcome, begun.elapsed().saturating_sub(out.waited()), left_out, skipped, more)
    }

    fn check(&mut self, out: &mut Output<'_>) -> Result<(), Gone> {
        let mut answer = [0; 1024];
        answer[0] = self.host.change() as u8;
        let length = rustix::io::pread(&self.stat, &mut answer[1..], 0).unwrap_or(0);
        out.message(Kind::Checked, &answer[..=length])
    }
}
