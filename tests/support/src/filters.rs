//! The seccomp filters of a running process, as the kernel holds them, compared with the table that they should be.
//!
//! <https://docs.kernel.org/userspace-api/seccomp_filter.html>

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ptr;

use keyhole_os::seccomp::Row;

use crate::fork::Call;

/// The filters of one thread, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters(Vec<Vec<Instruction>>);

/// struct sock_filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

/// A thread that is stopped until this is dropped.
struct Stopped(libc::pid_t);

impl Stopped {
    fn new(thread: libc::pid_t) -> Self {
        // SAFETY: these requests take numbers, and `status` is ours. The thread is another process's.
        unsafe {
            let seized = libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0);
            assert_eq!(seized, 0, "ptrace of {thread}: {}", io::Error::last_os_error());
            let stopped = Self(thread);
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0), 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(thread, &mut status, libc::__WALL), thread);
            assert!(libc::WIFSTOPPED(status), "{thread} ended: {status:#x}");
            stopped
        }
    }

    /// The filter at a place, if there are that many.
    fn filter(&self, at: usize) -> Option<Vec<Instruction>> {
        // Without a place for the filter the kernel returns its length.
        let length = self.ptrace_filter(at, ptr::null_mut())?;
        let mut filter = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; length];
        assert_eq!(self.ptrace_filter(at, filter.as_mut_ptr()), Some(length));
        let instructions = filter.iter().map(|libc::sock_filter { code, jt, jf, k }| Instruction {
            code: *code,
            jump_true: *jt,
            jump_false: *jf,
            k: *k,
        });
        Some(instructions.collect())
    }

    fn ptrace_filter(&self, at: usize, filter: *mut libc::sock_filter) -> Option<usize> {
        const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
        // SAFETY: `filter` is null or has room for as many instructions as the kernel returned for this filter.
        let length = unsafe { libc::ptrace(PTRACE_SECCOMP_GET_FILTER, self.0, at, filter) };
        let error = io::Error::last_os_error();
        // ENOENT: there is none at this place; EINVAL: there is none at all.
        let none = length < 0 && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL));
        assert!(length >= 0 || none, "the filter of {}: {error}", self.0);
        usize::try_from(length).ok()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: the request takes numbers. A thread that has ended needs no detaching.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

impl Filters {
    /// The filters of every thread of a process, which must be the same. Needs root and a kernel with
    /// CONFIG_CHECKPOINT_RESTORE.
    pub fn dump(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process of this test");
        let threads = tasks.map(|task| task.unwrap().file_name().into_string().unwrap().parse().unwrap());
        let mut all: Vec<Self> = threads.map(Self::dump_thread).collect();
        let one = all.pop().expect("a process has a thread");
        assert!(all.iter().all(|other| *other == one), "the threads of {pid} have different filters");
        one
    }

    fn dump_thread(thread: libc::pid_t) -> Self {
        let stopped = Stopped::new(thread);
        Self((0..).map_while(|at| stopped.filter(at)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What the kernel does with a call: the strictest of what the filters return.
    fn action(&self, architecture: u32, call: Call) -> Action {
        let data = seccomp_data(architecture, call);
        // The kernel takes the smallest, as a signed number: to kill the process comes first, to allow last.
        let actions = self.0.iter().map(|filter| run(filter, &data) & 0xffff_0000);
        match actions.min_by_key(|action| *action as i32) {
            None | Some(0x7fff_0000) => Action::Allow,
            Some(0x8000_0000) => Action::Kill,
            Some(other) => Action::Other(other),
        }
    }

    /// Whether a call is allowed.
    pub fn allows(&self, call: Call) -> bool {
        self.action(ARCHITECTURE, call) == Action::Allow
    }

    fn kills(&self, call: Call) -> bool {
        self.action(ARCHITECTURE, call) == Action::Kill
    }

    /// Panics unless the filters allow what the rows allow, and kill the process for everything else: each row with the
    /// values that it checks, each bit that it checks changed, each bit that it does not check changed, and every
    /// call that has no row.
    pub fn assert_are(&self, rows: &[Row]) {
        assert!(!self.0.is_empty(), "no filter");
        for row in rows {
            let call = Call::harmless(row);
            assert!(self.allows(call), "{} as the table has it: {call:x?}", row.name);
            for index in 0..6 {
                let checked = row.when.iter().filter(|argument| argument.index == index);
                let mask = checked.fold(0, |mask, argument| mask | argument.mask);
                for bit in 0..64 {
                    let changed = call.flipped(index, bit);
                    // Another row may allow what this one does not.
                    if mask & (1 << bit) == 0 || changed.is_allowed_by(rows) {
                        assert!(self.allows(changed), "{} with bit {bit}: {changed:x?}", row.name);
                    } else {
                        assert!(self.kills(changed), "{} with bit {bit}: {changed:x?}", row.name);
                    }
                }
            }
        }
        let numbers: BTreeSet<i64> = rows.iter().map(|row| row.number).collect();
        let others = (-1..2048).chain([0x7fff_ffff, 0x8000_0000]).filter(|number| !numbers.contains(number));
        for number in others {
            let killed = self.0.iter().any(|filter| always_kills(filter, number));
            assert!(killed, "system call {number} has no row, and some arguments let it pass");
        }
        for row in rows {
            let call = Call::harmless(row);
            // x32, whose numbers are those of x86_64 with a bit set.
            assert!(self.kills(Call(call.0 | 0x4000_0000, call.1)), "{} of x32", row.name);
            for architecture in [0x4000_0003, 0x4000_0028, 0xc000_003e, 0xc000_00b7] {
                if architecture != ARCHITECTURE {
                    let action = self.action(architecture, call);
                    assert_eq!(action, Action::Kill, "{} of {architecture:#x}", row.name);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Kill,
    Other(u32),
}

/// AUDIT_ARCH_*.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// struct seccomp_data.
fn seccomp_data(architecture: u32, Call(number, arguments): Call) -> Vec<u8> {
    let mut data = Vec::with_capacity(64);
    data.extend((number as u32).to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    // The instruction pointer.
    data.extend(0u64.to_ne_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
    data
}

/// What a filter returns: as much of classic BPF as seccomp allows and filters of tables need.
fn run(filter: &[Instruction], data: &[u8]) -> u32 {
    let (mut accumulator, mut at) = (0u32, 0);
    loop {
        let Instruction { code, jump_true, jump_false, k } = filter[at];
        at += 1;
        let jump = |condition: bool| usize::from(if condition { jump_true } else { jump_false });
        match u32::from(code) {
            LOAD => accumulator = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_EQUAL => at += jump(accumulator == k),
            JUMP_GREATER => at += jump(accumulator > k),
            JUMP_GREATER_OR_EQUAL => at += jump(accumulator >= k),
            JUMP_SET => at += jump(accumulator & k != 0),
            RETURN => return k,
            other => panic!("an instruction that no table needs: {other:#x}"),
        }
    }
}

/// Whether a filter kills this call whatever its arguments are: no way through it that they could choose ends otherwise.
fn always_kills(filter: &[Instruction], number: i64) -> bool {
    // Where the filter can be, with what is in the accumulator if arguments have no part in it.
    let mut ways = vec![(0, Some(0))];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        if !seen.insert(way) {
            continue;
        }
        let (at, accumulator) = way;
        let Instruction { code, jump_true, jump_false, k } = filter[at];
        let next = at + 1;
        let mut jump = |condition: Option<bool>| {
            for (jump, taken) in [(jump_true, true), (jump_false, false)] {
                if condition.is_none_or(|condition| condition == taken) {
                    ways.push((next + usize::from(jump), accumulator));
                }
            }
        };
        match u32::from(code) {
            // The number and the architecture come first in struct seccomp_data.
            LOAD if k == 0 => ways.push((next, Some(number as u32))),
            LOAD if k == 4 => ways.push((next, Some(ARCHITECTURE))),
            LOAD => ways.push((next, None)),
            AND => ways.push((next, accumulator.map(|value| value & k))),
            JUMP => ways.push((next + k as usize, accumulator)),
            JUMP_EQUAL => jump(accumulator.map(|value| value == k)),
            JUMP_GREATER => jump(accumulator.map(|value| value > k)),
            JUMP_GREATER_OR_EQUAL => jump(accumulator.map(|value| value >= k)),
            JUMP_SET => jump(accumulator.map(|value| value & k != 0)),
            RETURN if k & 0xffff_0000 == 0x8000_0000 => {}
            RETURN => return false,
            other => panic!("an instruction that no table needs: {other:#x}"),
        }
    }
    true
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const JUMP_GREATER_OR_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
