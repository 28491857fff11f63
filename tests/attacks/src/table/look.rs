//! Reading: files of the machine, of other processes, and of the kernel; proc(5), sysfs(5).

use std::ffi::CStr;

use libc::{AT_FDCWD, O_DIRECTORY, O_PATH, O_RDONLY};

use crate::host::{list, open, open_at, read, stat};
use crate::process::{DEVICES, EXPORTER, FILES, MOUNTS, PROCESSES, READERS, SYSFS, ZYGOTE};
use crate::{Attack, L, Processes, R, S, U, attack, call};

/// A zygote may read what its uid may.
const UNSEALED: (Processes, &str) = (
    ZYGOTE,
    "A zygote becomes the readers, and each of them gives up what it does not need. Nothing of a peer reaches it: it \
     takes orders of one byte, each the number of a slot.",
);

/// Readers that list processes open files of procfs.
const PROCFS_IS_OPEN: (Processes, &str) = (
    PROCESSES,
    "procfs is granted whole to readers of this class. It is what --allow-processes costs, and why it is off by default.",
);

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("read /etc/shadow", "openat", S | L | U, |_| read(c"/etc/shadow"))
        .residual(&[UNSEALED]),
    attack("read /etc/passwd", "openat", S | L, |_| read(c"/etc/passwd"))
        .residual(&[UNSEALED]),
    attack("read a file of its own uid", "openat", S | L, |host| host.open("own", O_RDONLY))
        .residual(&[UNSEALED]),
    attack("read a file of another uid", "openat", S | L | U | R, |host| host.open("other_uid", O_RDONLY)),
    attack("read a file of another uid by its handle", "open_by_handle_at", S | L | U | R, by_handle),
    attack("list the root directory", "openat", S | L, |_| list(c"/"))
        .residual(&[UNSEALED]),
    attack("climb out of sysfs by `..`", "openat", S | L, |_| read(c"/sys/../etc/passwd"))
        .residual(&[UNSEALED]),
    attack("climb out of an open descriptor by `..`", "openat", S | L, |_| below_any_descriptor(c"../../../../../../../../etc/passwd")),
    attack("follow a symbolic link out of a root", "openat", S | L, |host| read(&host.in_granted("leak")))
        .residual(&[UNSEALED]),
    attack("climb out of a granted root by `..`", "openat", S | L, |host| read(&host.in_granted("../own")))
        .residual(&[UNSEALED]),
    attack("change the working directory", "chdir", S, |_| call!(SYS_chdir, c"/etc".as_ptr())),
    attack("watch files being used", "inotify_init1", S, |_| call!(SYS_inotify_init1, 0)),
    attack("watch a whole file system", "fanotify_init", S | U | R, |_| call!(SYS_fanotify_init, 0, 0)),

    // procfs: nothing of it is opened in the sandbox.
    attack("read a process's command line", "openat", S | L, |host| host.read_of_other_uid("cmdline"))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),
    attack("list the processes", "openat", S | L, |_| list(c"/proc"))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),
    attack("read the table of TCP sockets", "openat", S | L, |_| read(c"/proc/1/net/tcp"))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),
    attack("read the kernel's symbols", "openat", S | L, |_| read(c"/proc/kallsyms"))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),
    attack("read the machine's memory", "openat", S | L, |_| read(c"/proc/kcore")),
    attack("read the kernel's log", "openat", S | L | U | R, |_| open(c"/proc/kmsg", O_RDONLY)),
    attack("enter the host's root by /proc/1/root", "openat", S | L | U | R, |_| read(c"/proc/1/root/etc/passwd")),
    attack("enter the host's directory by /proc/1/cwd", "openat", S | L | U | R, |_| open(c"/proc/1/cwd", O_RDONLY | O_DIRECTORY)),
    attack("open a namespace of PID 1", "openat", S | L | U | R, |_| open(c"/proc/1/ns/mnt", O_RDONLY)),
    attack("read its own environment as it was", "openat", S | L | U, |_| read(c"/proc/self/environ"))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),

    // Of a process of the same uid: what uids do not keep apart.
    attack("read a neighbour's environment", "openat", S | L, |host| host.read_neighbours("environ")),
    attack("read a neighbour's memory", "openat", S | L, |host| open(&host.of_process(host.neighbour, "mem"), O_RDONLY)),
    attack("read a neighbour's command line", "openat", S | L, |host| host.read_neighbours("cmdline"))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),
    attack("read a neighbour's input and output", "openat", S | L, |host| host.read_neighbours("io")),
    attack("read a neighbour's memory map", "openat", S | L, |host| host.read_neighbours("maps")),
    attack("list a neighbour's descriptors", "openat", S | L, |host| list(&host.of_process(host.neighbour, "fd")))
        .residual(&[PROCFS_IS_OPEN, UNSEALED]),
    attack("open a neighbour's descriptor", "openat", S | L, |host| open(&host.of_process(host.neighbour, "fd/0"), O_RDONLY)),
    attack("enter a neighbour's root", "openat", S | L, |host| open(&host.of_process(host.neighbour, "root/etc/passwd"), O_RDONLY)),

    // Of a process of another uid.
    attack("read the environment of another uid's process", "openat", S | L | U | R, |host| host.read_of_other_uid("environ")),
    attack("read the memory of another uid's process", "openat", S | L | U | R, |host| open(&host.of_process(host.other_uid_pid, "mem"), O_RDONLY)),
    attack("read the input and output of another uid's process", "openat", S | L | U | R, |host| host.read_of_other_uid("io")),
    attack("read the memory map of another uid's process", "openat", S | L | U | R, |host| host.read_of_other_uid("maps")),
    attack("list the descriptors of another uid's process", "openat", S | L | U | R, |host| list(&host.of_process(host.other_uid_pid, "fd"))),
    attack("open a descriptor of another uid's process", "openat", S | L | U | R, |host| open(&host.of_process(host.other_uid_pid, "fd/0"), O_RDONLY)),
    attack("enter the root of another uid's process", "openat", S | L | U | R, |host| open(&host.of_process(host.other_uid_pid, "root/etc/passwd"), O_RDONLY)),

    // What is left.
    attack("read a file of sysfs that no query gives", "openat", S | L, |_| read(c"/sys/kernel/vmcoreinfo"))
        .residual(&[(SYSFS | DEVICES, "sysfs is granted whole: wildcards are followed in the sandbox. Its files are for every uid to read."), UNSEALED]),
    attack("read a file of sysfs that only root may read", "openat", S | L | U, |_| read(c"/sys/kernel/slab/dentry/objects"))
        .residual(&[(SYSFS | DEVICES, "The access level `root` is there to read such files; sysfs is granted whole."), UNSEALED]),
    attack("read the kernel's debug files below sysfs", "openat", S | L | U, |_| list(c"/sys/kernel/debug"))
        .residual(&[(SYSFS | DEVICES, "What is mounted below sysfs is granted with it: another reason to prefer a uid that is not root's."), UNSEALED]),
    attack("read a file of udev's data", "openat", S | L, |host| host.open("udev/b8:0", O_RDONLY))
        .residual(&[(FILES, "It is what this reader does."), UNSEALED]),
    attack("read a file of the textfile collector", "openat", S | L, |host| host.open("text/x.prom", O_RDONLY))
        .residual(&[(EXPORTER, "It is what an exporter does."), UNSEALED]),
    attack("read what lies beside the web configuration", "openat", S | L, |host| host.open("web/key.pem", O_RDONLY))
        .residual(&[(EXPORTER, "It reads certificates and keys again when they are replaced: they are to sign nothing else."), UNSEALED]),
    attack("learn whether a file exists, and its size", "newfstatat", S, |_| stat(c"/etc/shadow"))
    .residual(&[(EXPORTER, "Landlock does not govern stat(2), and the textfile collector asks when files were changed."), (READERS, "Landlock does not govern stat(2), and a reader looks for what has appeared since its start."), UNSEALED]),
    attack("read where a symbolic link leads", "readlinkat", S, |_| {
        let mut path = [0u8; 256];
        call!(SYS_readlinkat, AT_FDCWD, c"/proc/self".as_ptr(), path.as_mut_ptr(), path.len())
    }).residual(&[(DEVICES, "Landlock does not govern readlink(2), and hwmon's chips are found by their links."), UNSEALED]),
    attack("name a directory without reading it", "openat", S, |_| open(c"/etc", O_PATH | O_DIRECTORY))
        .residual(&[(SYSFS | DEVICES | MOUNTS, "It takes no more than the right to search; reading by it is refused."), UNSEALED]),
    attack("read by a directory that was only named", "openat", S | L, |_| {
        let etc = open(c"/etc", O_PATH | O_DIRECTORY);
        if etc < 0 {
            return etc;
        }
        open_at(etc, c"passwd", O_RDONLY)
    })
    .residual(&[UNSEALED]),
    attack("learn how full a file system is", "fstatfs", S, |_| {
        let mut statfs = [0u8; 256];
        let root = open(c"/", O_PATH | O_DIRECTORY);
        if root < 0 {
            return root;
        }
        call!(SYS_fstatfs, root, statfs.as_mut_ptr())
    }).residual(&[(MOUNTS, "It is what this reader does for mount points."), UNSEALED]),
];

/// Opens `path` below the first open descriptor that allows it.
fn below_any_descriptor(path: &CStr) -> i64 {
    let attempts = (3..256).map(|fd| open_at(fd, path, O_RDONLY));
    // What says most: that it went through, else any errno but that the descriptor is no directory.
    let idle = [libc::EBADF, libc::ENOTDIR, libc::ENOENT].map(|errno| -i64::from(errno));
    attempts.filter(|result| !idle.contains(result)).max().unwrap_or(idle[0])
}

/// Opens a file past every directory on the way to it; the descriptor that was left open says on which file system.
fn by_handle(host: &crate::Host) -> i64 {
    let (mut handle, mut mount) = ([0u32; 34], 0);
    handle[0] = 128;
    let path = host.at("other_uid");
    let named = call!(SYS_name_to_handle_at, AT_FDCWD, path.as_ptr(), handle.as_mut_ptr(), &raw mut mount, 0);
    if named < 0 {
        return named;
    }
    call!(SYS_open_by_handle_at, host.left_open, handle.as_ptr(), O_RDONLY)
}
