//! What an intruder in a sandboxed process would try: a table of attacks, each with the layers that stop it.
//!
//! To add an attack, add a row to one of the files below `table/`. The test `attacks` starts the real programs with one
//! layer in force at a time, and with all of them, runs the row's code inside each kind of process, and compares what it
//! sees with the row and with `docs/attacks.md`.

#[cfg(feature = "hostile-code-for-tests")]
pub mod act;
mod host;
#[cfg(feature = "hostile-code-for-tests")]
pub mod intruder;
mod process;
mod table;

pub use host::{BROKER_UID, Host, OTHER_UID};
pub use process::{Process, Processes};
pub use table::{SECTIONS, Section};

/// A set of layers, any one of which is enough to stop an attack.
pub type Layers = u8;

/// seccomp.
pub const S: Layers = 1;
/// Landlock.
pub const L: Layers = 1 << 1;
/// Uid 64646 without capabilities, under no_new_privs, not dumpable and limited: what the kernel refuses to any such
/// process, by file modes above all.
pub const U: Layers = 1 << 2;
/// The same with uid 0.
pub const R: Layers = 1 << 3;

/// One thing that an intruder tries.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// What it is, in words.
    pub what: &'static str,
    /// The system call that does it.
    pub call: &'static str,
    /// Which layers stop it when nothing else is in force: in the broker, or in the exporter where only that can make it.
    pub stopped_by: Layers,
    /// Does it; returns what a system call returns, so less than zero when it was refused.
    pub go: fn(&Host) -> i64,
    /// In which sandboxed processes it goes through, what an intruder gains, and why that is accepted.
    pub residual: &'static [(Processes, &'static str)],
    /// In which processes it can be made.
    pub within: Processes,
    /// Whether the descriptor that was left open is to be a socket.
    pub on_socket: bool,
}

/// A row of the table.
const fn attack(what: &'static str, call: &'static str, stopped_by: Layers, go: fn(&Host) -> i64) -> Attack {
    Attack { what, call, stopped_by, go, residual: &[], within: process::EVERY, on_socket: false }
}

impl Attack {
    const fn residual(mut self, residual: &'static [(Processes, &'static str)]) -> Self {
        self.residual = residual;
        self
    }

    const fn within(mut self, processes: Processes) -> Self {
        self.within = processes;
        self
    }

    const fn on_socket(mut self) -> Self {
        self.on_socket = true;
        self
    }

    /// Whether it can be made in a process.
    pub fn is_possible_in(&self, process: Process) -> bool {
        self.within & process.bit() != 0
    }

    /// The process in which single layers are tried, and which represents the others.
    pub fn first(&self) -> Process {
        if self.is_possible_in(Process::Broker) { Process::Broker } else { Process::Exporter }
    }

    /// Why it is accepted that this goes through in a sandboxed process, if it is.
    pub fn accepted(&self, process: Process) -> Option<&'static str> {
        self.residual.iter().find(|(processes, _)| processes & process.bit() != 0).map(|(_, why)| *why)
    }
}

/// Every attack, in the order of the document.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    SECTIONS.iter().flat_map(|section| section.attacks)
}

/// What one attack came to, as the process it ran in reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It went through.
    Through,
    /// The kernel refused it with an errno.
    Refused(i32),
    /// seccomp ended the process.
    Killed,
}

/// What a process writes before the outcome of its attack.
const REPORT: &str = "the attack came to ";

/// Does an attack, reports what it came to, and ends the process. Broker and exporter write to standard error; a zygote
/// and its readers may write to standard output alone.
pub fn strike(attack: &Attack, host: &Host) -> ! {
    host::here(host);
    let came_to = (attack.go)(host);
    let line = format!("\n{REPORT}{}\n", came_to.min(0));
    let descriptor = if host.process.speaks() { 2 } else { 1 };
    call!(SYS_write, descriptor, line.as_ptr(), line.len());
    loop {
        call!(SYS_exit_group, 0);
    }
}

/// What a process reported of its attack; none when it did not live to do so.
pub fn parse_report(log: &str) -> Option<End> {
    let came_to = log.lines().find_map(|line| line.strip_prefix(REPORT))?;
    match came_to.parse::<i32>().ok()? {
        0 => Some(End::Through),
        errno => Some(End::Refused(-errno)),
    }
}

/// What an attack that went through says when it has become another program.
pub const WENT_THROUGH: &std::ffi::CStr =
    c"echo 'the attack came to 0' >&2; echo; echo 'the attack came to 0'";

/// A system call, as the kernel answers it: not less than zero, or an errno with its sign turned.
fn raw(number: i64, arguments: &[usize]) -> i64 {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    let [a, b, c, d, e, f] = std::array::from_fn(argument);
    // SAFETY: this program exists to be harmed. Pointers that are passed point to memory that lives through the call
    // and has the length that is passed; what a call does to the process ends with it, since it makes one attack and exits.
    let result = unsafe { libc::syscall(number as libc::c_long, a, b, c, d, e, f) };
    match result {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        result => result,
    }
}

/// `call!(SYS_openat, descriptor, path.as_ptr(), flags)`: a system call by its name.
macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        $crate::raw(libc::$number as i64, &[$($argument as usize),*])
    };
}
pub(crate) use call;

/// -1 as an argument: no descriptor, no key, nobody.
const MINUS_ONE: usize = usize::MAX;

/// Takes an errno for success: past the check of privilege the kernel found nothing to do, as it was meant to.
fn past(errno: i32, result: i64) -> i64 {
    if result == -i64::from(errno) { 0 } else { result }
}

/// Ends a child that was forked, at once; its parent goes on with the child's pid.
fn child(pid: i64) -> i64 {
    if pid == 0 {
        call!(SYS_exit_group, 0);
    }
    pid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_an_attack_is_parsed() {
        let echoed = WENT_THROUGH.to_str().unwrap().split('\'').nth(1).unwrap();
        assert_eq!(parse_report(echoed), Some(End::Through));
        assert_eq!(parse_report(&format!("a line before\n{REPORT}-13\n")), Some(End::Refused(13)));
        assert_eq!(parse_report("a line before\n"), None);
    }
}
