//! A reader: opens the files of its class, enters its sandbox, and answers requests of one byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use keyhole_os::landlock::{Grant, Right};
use keyhole_os::seccomp::{Row, Rule};
use keyhole_os::shared::SharedCells;
use keyhole_os::{Layer, ThreadStatus};
use keyhole_policy::pipes::{CHECK_REQUEST, EXIT_REQUEST, FrameKind, SLOTS_PER_CLASS};
use keyhole_policy::{Class, Query, TABLE};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::arguments::Arguments;
use crate::cache::SharedState;
use crate::hello::Hello;
use crate::host::{Host, READ, Roots};
use crate::layers::{landlock, seccomp};
use crate::output::{BrokerGone, Output};
use crate::read::Scratch;
use crate::sandbox;
use crate::view::View;

/// The most requests (one byte each) that one read(2) of the pipe takes.
const REQUEST_BATCH: usize = 128;

/// Identifies a reader.
#[derive(Debug, Clone, Copy)]
pub struct ReaderId {
    /// The class of queries that it answers.
    pub class: Class,
    /// The number of its slot, counted over all classes.
    pub slot: usize,
    /// Which reader of its slot this is, counted from 1.
    pub generation: u32,
}

/// Runs a reader after its fork; returns its exit status. `layers` are the sandbox layers that it inherited.
pub fn run(id: ReaderId, arguments: &Arguments, page: SharedCells, layers: &[Layer]) -> i32 {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut out = Output::new(stdout.as_fd());
    match start(id, arguments, page, layers.to_vec(), &mut out) {
        Ok(mut reader) => {
            #[cfg(feature = "hostile-code-for-tests")]
            crate::hostile::in_reader(id.class);
            match reader.serve(stdin.as_fd(), &mut out) {
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

struct Reader {
    host: Host,
    scratch: Scratch,
    /// The reader's own /proc/self/stat, opened before the sandbox forbids opening it.
    stat: OwnedFd,
}

fn start(
    id: ReaderId,
    arguments: &Arguments,
    page: SharedCells,
    mut layers: Vec<Layer>,
    out: &mut Output<'_>,
) -> Result<Reader, String> {
    let class = id.class;
    let proc_self =
        |error| format!("/proc/self: {error}: a reader must see its own process: mount a procfs at /proc");
    let status = ThreadStatus::open().map_err(proc_self)?;
    let stat = openat(CWD, "/proc/self/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| proc_self(errno.into()))?;
    // Most cached files are attributes of network interfaces.
    let cached_files = match class {
        Class::Devices => arguments.cached_files - arguments.cached_files / 4,
        Class::Sysfs => arguments.cached_files / 4,
        _ => 0,
    };
    let shared = SharedState::new(page, id.slot % SLOTS_PER_CLASS, cached_files);
    let roots = Roots::open(arguments, &[class], &shared)?;
    let view = View::find(&roots, arguments.view)?;
    let rows = TABLE.iter().filter(|row| row.class == class && arguments.permits(row.query));
    let mut host = Host::open(rows, arguments, roots, view, shared);
    host.roots.retain_class_roots(class);
    let grants: Vec<Grant<'_>> =
        host.roots.landlock_dir(class).map(|dir| Grant { dir, right: Right::Read }).into_iter().collect();
    layers.retain(|layer| !matches!(layer.name, "landlock" | "seccomp"));
    layers.push(landlock::restrict(&grants));
    install_seccomp(&mut layers, &sandbox::reader_syscalls(class), &status)?;
    let landlock_in_force = layers.iter().any(|layer| layer.name == "landlock" && layer.in_force);
    if landlock_in_force && class != Class::Procfs && class != Class::Mounts && !root_is_refused() {
        return Err(
            "opening / is not refused although Landlock is in force: the sandbox is incomplete".to_owned()
        );
    }
    let hello = Hello { generation: id.generation, layers: &layers, host: Some(&host) };
    out.message(FrameKind::Hello, &hello.encode()).map_err(|BrokerGone| "the broker is gone".to_owned())?;
    host.shared.set_ready();
    Ok(Reader { host, scratch: Scratch::default(), stat })
}

/// Installs the seccomp filter of a table of system calls, and checks that the kernel confirms every layer.
pub fn install_seccomp(layers: &mut Vec<Layer>, rows: &[Row], status: &ThreadStatus) -> Result<(), String> {
    let rules: Vec<Rule<'_>> = rows.iter().map(Rule::from).collect();
    let filter = seccomp::compile(&rules).map_err(|error| error.to_string())?;
    layers.push(seccomp::install(&filter, rules.len()));
    let required = ["no_new_privs", "capabilities", "seccomp"];
    if let Some(missing) = layers.iter().find(|layer| !layer.in_force && required.contains(&layer.name)) {
        return Err(format!("{} could not be enabled: {}", missing.name, missing.detail));
    }
    let unconfirmed = status.unconfirmed().map_err(|error| format!("/proc/self/status: {error}"))?;
    match layers.iter().find(|layer| layer.in_force && unconfirmed.contains(&layer.name)) {
        Some(layer) => Err(format!("the kernel does not confirm {}: the sandbox is incomplete", layer.name)),
        None => Ok(()),
    }
}

/// Whether the kernel refuses to open `/`, as Landlock must.
fn root_is_refused() -> bool {
    openat(CWD, "/", READ | OFlags::DIRECTORY, Mode::empty()).is_err_and(|errno| errno == Errno::ACCESS)
}

impl Reader {
    /// Answers requests until one asks the reader to exit, or the broker is gone.
    fn serve(&mut self, requests: BorrowedFd<'_>, out: &mut Output<'_>) -> Result<(), BrokerGone> {
        let mut buffer = [0; REQUEST_BATCH];
        loop {
            let length = match rustix::io::read(requests, &mut buffer) {
                Err(Errno::INTR) => continue,
                Ok(length @ 1..) => length,
                _ => return Err(BrokerGone),
            };
            for (at, request) in buffer[..length].iter().enumerate() {
                match *request {
                    EXIT_REQUEST => return out.flush(),
                    CHECK_REQUEST => self.check(out)?,
                    query => self.answer(query, at + 1 < length, out)?,
                }
            }
            out.flush()?;
            self.scratch.end_request();
        }
    }

    fn answer(&mut self, number: u8, more: bool, out: &mut Output<'_>) -> Result<(), BrokerGone> {
        // A byte that is no permitted query of this class ends the reader: only a compromised broker sends one.
        let query = Query::try_from(i32::from(number)).map_err(|_| BrokerGone)?;
        let start = Instant::now();
        out.begin(query);
        let (outcome, left_out, skipped) =
            self.host.read(query, &mut self.scratch, out)?.ok_or(BrokerGone)?;
        out.end(outcome, start.elapsed().saturating_sub(out.time_blocked()), left_out, skipped, more)
    }

    fn check(&mut self, out: &mut Output<'_>) -> Result<(), BrokerGone> {
        let mut report = [0; 1024];
        report[0] = self.host.changed_since_start() as u8;
        let length = rustix::io::pread(&self.stat, &mut report[1..], 0).unwrap_or(0);
        out.message(FrameKind::Checked, &report[..=length])
    }
}
