//! The kernel itself and everyone on the machine: its settings, modules, keys, programs, counters and control groups.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use libc::{EINVAL, ENOENT, ENOEXEC, O_WRONLY};

use crate::host::open;
use crate::{Attack, Host, L, MINUS_ONE, R, S, U, attack, call, past};

const BPF_MAP_CREATE: i32 = 0;
const BPF_PROG_LOAD: i32 = 5;
const KEY_SPEC_PROCESS_KEYRING: i32 = -2;
const KEYCTL_GET_KEYRING_ID: i32 = 0;
const SYSLOG_ACTION_READ_ALL: i32 = 3;
const SOFTWARE_EVENT: u32 = 1;

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("kill a control group", "openat", S | L | U, |host| open_in_cgroup(host, "cgroup.kill")),
    attack("freeze a control group", "openat", S | L | U, |host| open_in_cgroup(host, "cgroup.freeze")),
    attack("move processes between control groups", "openat", S | L | U, |host| open_in_cgroup(host, "cgroup.procs")),
    attack("set what runs at a crash", "openat", S | L | U, |_| open(c"/proc/sys/kernel/core_pattern", O_WRONLY)),
    attack("pull the emergency lever", "openat", S | L | U, |_| open(c"/proc/sysrq-trigger", O_WRONLY)),
    attack("drop the kernel's caches", "openat", S | L | U, |_| open(c"/proc/sys/vm/drop_caches", O_WRONLY)),
    attack("set what runs at an event of a device", "openat", S | L | U, |_| open(c"/sys/kernel/uevent_helper", O_WRONLY)),
    attack("put the machine to sleep", "openat", S | L | U, |_| open(c"/sys/power/state", O_WRONLY)),
    attack("wait for pressure by a trigger of its own", "openat", S | L, |_| open(c"/proc/pressure/cpu", O_WRONLY)),
    attack("write to the kernel's log", "openat", S | L | U, |_| open(c"/dev/kmsg", O_WRONLY)),
    attack("read the kernel's log by a call", "syslog", S | U | R, |_| {
        let mut bytes = [0u8; 64];
        call!(SYS_syslog, SYSLOG_ACTION_READ_ALL, bytes.as_mut_ptr(), bytes.len())
    }),
    attack("load a program into the kernel", "bpf", S | U | R, |_| bpf(BPF_PROG_LOAD, &socket_filter())),
    attack("make a map of BPF", "bpf", S | U | R, |_| bpf(BPF_MAP_CREATE, &[2u32, 4, 4, 1])),
    attack("submit calls past seccomp", "io_uring_setup", S | U | R, |_| {
        let mut parameters = [0u32; 30];
        call!(SYS_io_uring_setup, 1, parameters.as_mut_ptr())
    }),
    attack("count its own events", "perf_event_open", S, |_| perf_event(0, -1)),
    attack("count everyone's events", "perf_event_open", S | U | R, |_| perf_event(-1, 0)),
    attack("put a key into the kernel", "add_key", S, |_| {
        call!(SYS_add_key, c"user".as_ptr(), c"keyhole".as_ptr(), b"x".as_ptr(), 1, KEY_SPEC_PROCESS_KEYRING)
    }),
    attack("reach the kernel's key rings", "keyctl", S, |_| call!(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1)),
    attack("ask user space for a key", "request_key", S, |_| {
        past(libc::ENOKEY, call!(SYS_request_key, c"user".as_ptr(), c"keyhole-none".as_ptr(), 0, 0))
    }),
    attack("load a module", "init_module", S | U | R, |_| past(ENOEXEC, call!(SYS_init_module, [0u8; 64].as_ptr(), 64, c"".as_ptr()))),
    attack("load a module from a file", "finit_module", S | U | R, |host| past(ENOEXEC, call!(SYS_finit_module, host.left_open, c"".as_ptr(), 0))),
    attack("unload a module", "delete_module", S | U | R, |_| past(ENOENT, call!(SYS_delete_module, c"keyhole_none".as_ptr(), libc::O_NONBLOCK))),
    attack("load another kernel", "kexec_load", S | U | R, |_| call!(SYS_kexec_load, 0, 0, 0, 0)),
    attack("restart the machine", "reboot", S | U | R, |_| past(EINVAL, call!(SYS_reboot, 0, 0, 0, 0))),
    attack("set the clock", "clock_adjtime", S | U | R, set_clock),
    attack("name the machine", "sethostname", S | U | R, |_| call!(SYS_sethostname, b"keyhole".as_ptr(), 7)),
    attack("swap to a file", "swapon", S | L | U | R, |host| past(EINVAL, call!(SYS_swapon, host.at("own").as_ptr(), 0))),
    attack("keep accounts of processes", "acct", S | U | R, |_| past(ENOENT, call!(SYS_acct, c"/none/of/these".as_ptr()))),
    attack("control a device", "ioctl", S, |host| call!(SYS_ioctl, host.left_open, libc::FIOCLEX, 0)),
    attack("set a timer", "timer_create", S, |_| {
        let mut timer = 0i32;
        call!(SYS_timer_create, libc::CLOCK_MONOTONIC, 0, &raw mut timer)
    }),
    #[cfg(target_arch = "x86_64")]
    attack("reach the machine's ports", "ioperm", S | U | R, |_| call!(SYS_ioperm, 0x80, 1, 1)),
    #[cfg(target_arch = "x86_64")]
    attack("describe segments of its own", "modify_ldt", S, |_| {
        let mut table = [0u8; 16];
        call!(SYS_modify_ldt, 0, table.as_mut_ptr(), table.len())
    }),
];

fn open_in_cgroup(host: &Host, file: &str) -> i64 {
    let path = CString::new(host.cgroup.join(file).as_os_str().as_bytes()).unwrap_or_default();
    open(&path, O_WRONLY)
}

fn bpf<T>(command: i32, attributes: &T) -> i64 {
    call!(SYS_bpf, command, attributes as *const T, size_of::<T>())
}

/// The attributes of a socket filter that lets nothing through: r0 = 0; exit.
fn socket_filter() -> [u64; 6] {
    static PROGRAM: [u64; 2] = [0xb7, 0x95];
    const SOCKET_FILTER_OF_TWO: u64 = 2 << 32 | 1;
    [SOCKET_FILTER_OF_TWO, PROGRAM.as_ptr() as u64, c"GPL".as_ptr() as u64, 0, 0, 0]
}

/// Counts task switches, of the processor's user side only.
fn perf_event(pid: i32, cpu: i32) -> i64 {
    const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;
    let mut attributes = [0u64; 16];
    attributes[0] = (size_of_val(&attributes) as u64) << 32 | u64::from(SOFTWARE_EVENT);
    attributes[5] = EXCLUDE_KERNEL_AND_HYPERVISOR;
    call!(SYS_perf_event_open, attributes.as_ptr(), pid, cpu, MINUS_ONE, 0)
}

/// Sets the clock's time constant to what it is.
fn set_clock(_: &Host) -> i64 {
    const ADJ_TIMECONST: u32 = 0x20;
    // SAFETY: timex holds integers and padding only, for which zero is a valid value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    let asked = call!(SYS_clock_adjtime, libc::CLOCK_REALTIME, &raw mut timex);
    if asked < 0 {
        return asked;
    }
    timex.modes = ADJ_TIMECONST;
    call!(SYS_clock_adjtime, libc::CLOCK_REALTIME, &raw mut timex)
}
