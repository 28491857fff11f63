//! Reading: files of the machine, of other processes, and of the kernel; proc(5), sysfs(5).

use std::ffi::CStr;

use libc::{AT_FDCWD, O_DIRECTORY, O_PATH, O_RDONLY};

use crate::host::{list, open, read};
use crate::{Attack, L, R, S, U, attack, call};

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("read /etc/shadow", "openat", L | U, |_| read(c"/etc/shadow")),
    attack("read /etc/passwd", "openat", L, |_| read(c"/etc/passwd")),
    attack("read a file of its own uid", "openat", L, |host| host.open("own", O_RDONLY)),
    attack("read a file of another uid", "openat", L | U | R, |host| host.open("strangers", O_RDONLY)),
    attack("read a file of another uid by its handle", "open_by_handle_at", S | L | U | R, by_handle),
    attack("list the root directory", "openat", L, |_| list(c"/")),
    attack("climb out of sysfs by `..`", "openat", L, |_| read(c"/sys/../etc/passwd")),
    attack("climb out of a held descriptor by `..`", "openat", L, |_| below_any_descriptor(c"../etc/passwd")),
    attack("follow a symbolic link out of a root", "openat", L, |host| host.open("udev/leak", O_RDONLY)),
    attack("climb out of a granted root by `..`", "openat", L, |host| host.open("udev/../own", O_RDONLY)),
    attack("change the working directory", "chdir", S, |_| call!(SYS_chdir, c"/etc".as_ptr())),
    attack("watch files being used", "inotify_init1", S, |_| call!(SYS_inotify_init1, 0)),
    attack("watch a whole file system", "fanotify_init", S | U | R, |_| call!(SYS_fanotify_init, 0, 0)),

    // procfs: nothing of it is opened after the seal.
    attack("read a process's command line", "openat", L, |host| host.read_strangers("cmdline")),
    attack("list the processes", "openat", L, |_| list(c"/proc")),
    attack("read the table of TCP sockets", "openat", L, |_| read(c"/proc/1/net/tcp")),
    attack("read the kernel's symbols", "openat", L, |_| read(c"/proc/kallsyms")),
    attack("read the machine's memory", "openat", L, |_| read(c"/proc/kcore")),
    attack("read the kernel's log", "openat", L | U | R, |_| open(c"/proc/kmsg", O_RDONLY | libc::O_NONBLOCK)),
    attack("enter the host's root by /proc/1/root", "openat", L | U | R, |_| read(c"/proc/1/root/etc/passwd")),
    attack("enter the host's folder by /proc/1/cwd", "openat", L | U | R, |_| open(c"/proc/1/cwd", O_RDONLY | O_DIRECTORY)),
    attack("open a namespace of PID 1", "openat", L | U | R, |_| open(c"/proc/1/ns/mnt", O_RDONLY)),
    attack("read its own environment as it was", "openat", L | U, |_| read(c"/proc/self/environ")),

    // Of a process of the same uid: what uids do not keep apart.
    attack("read a neighbour's environment", "openat", L, |host| host.read_neighbours("environ")),
    attack("read a neighbour's memory", "openat", L, |host| open(&host.of_process(host.neighbour, "mem"), O_RDONLY)),
    attack("read a neighbour's command line", "openat", L, |host| host.read_neighbours("cmdline")),
    attack("read a neighbour's input and output", "openat", L, |host| host.read_neighbours("io")),
    attack("read a neighbour's memory map", "openat", L, |host| host.read_neighbours("maps")),
    attack("list a neighbour's descriptors", "openat", L, |host| list(&host.of_process(host.neighbour, "fd"))),
    attack("open a neighbour's descriptor", "openat", L, |host| open(&host.of_process(host.neighbour, "fd/0"), O_RDONLY)),
    attack("enter a neighbour's root", "openat", L, |host| open(&host.of_process(host.neighbour, "root/etc/passwd"), O_RDONLY)),

    // Of a process of another uid.
    attack("read a stranger's environment", "openat", L | U | R, |host| host.read_strangers("environ")),
    attack("read a stranger's memory", "openat", L | U | R, |host| open(&host.of_process(host.stranger, "mem"), O_RDONLY)),
    attack("read a stranger's input and output", "openat", L | U | R, |host| host.read_strangers("io")),
    attack("read a stranger's memory map", "openat", L | U | R, |host| host.read_strangers("maps")),
    attack("list a stranger's descriptors", "openat", L | U | R, |host| list(&host.of_process(host.stranger, "fd"))),
    attack("open a stranger's descriptor", "openat", L | U | R, |host| open(&host.of_process(host.stranger, "fd/0"), O_RDONLY)),
    attack("enter a stranger's root", "openat", L | U | R, |host| open(&host.of_process(host.stranger, "root/etc/passwd"), O_RDONLY)),

    // With --allow-processes, procfs is granted like sysfs.
    attack("read a process's command line, with --allow-processes", "openat", 0, |host| host.read_strangers("cmdline"))
        .with("--allow-processes")
        .residual("What the flag costs, and why it is off by default."),
    attack("read a neighbour's environment, with --allow-processes", "openat", 0, |host| host.read_neighbours("environ"))
        .with("--allow-processes"),
    attack("read a neighbour's memory, with --allow-processes", "openat", L, |host| open(&host.of_process(host.neighbour, "mem"), O_RDONLY))
        .with("--allow-processes"),
    attack("enter the host's root, with --allow-processes", "openat", L | U | R, |_| read(c"/proc/1/root/etc/passwd"))
        .with("--allow-processes"),

    // What is left.
    attack("read a file of sysfs that no query gives", "openat", 0, |_| read(c"/sys/kernel/vmcoreinfo"))
        .residual("sysfs is granted whole: wildcards are followed after the seal. Its files are for every uid to read."),
    attack("read a file of sysfs that only root may read", "openat", U, |_| read(c"/sys/kernel/slab/dentry/objects"))
        .residual("The rung `root-files` is there to read such files; sysfs is granted whole."),
    attack("read the kernel's debug files below sysfs", "openat", U, |_| list(c"/sys/kernel/debug"))
        .residual("What is mounted below sysfs is granted with it: another reason to prefer a uid that is not root's."),
    attack("learn whether a file exists, and its size", "newfstatat", 0, |_| {
        let mut stat = [0u8; 144];
        call!(SYS_newfstatat, AT_FDCWD, c"/etc/shadow".as_ptr(), stat.as_mut_ptr(), 0)
    }).residual("Landlock does not govern stat(2), and the count of a process's descriptors needs it."),
    attack("read where a symbolic link leads", "readlinkat", 0, |_| {
        let mut path = [0u8; 256];
        call!(SYS_readlinkat, AT_FDCWD, c"/proc/self".as_ptr(), path.as_mut_ptr(), path.len())
    }).residual("Landlock does not govern readlink(2), and hwmon's chips are found by their links."),
    attack("name a directory without reading it", "openat", 0, |_| open(c"/etc", O_PATH | O_DIRECTORY))
        .residual("It takes no more than the right to search; reading by it is refused."),
    attack("read by a directory that was only named", "openat", L, |_| {
        let etc = open(c"/etc", O_PATH | O_DIRECTORY);
        call!(SYS_openat, etc, c"passwd".as_ptr(), O_RDONLY)
    }),
    attack("learn how full a file system is", "fstatfs", 0, |_| {
        let mut statfs = [0u8; 256];
        let root = open(c"/", O_PATH | O_DIRECTORY);
        call!(SYS_fstatfs, root, statfs.as_mut_ptr())
    }).residual("It is what the broker does for anchors and mount points."),
];

/// Opens `path` below the first held descriptor that lets it.
fn below_any_descriptor(path: &CStr) -> i64 {
    let attempts = (3..256).map(|fd| call!(SYS_openat, fd, path.as_ptr(), O_RDONLY));
    // What says most: that it went through, else any errno but that the descriptor is no directory.
    let idle = [libc::EBADF, libc::ENOTDIR, libc::ENOENT].map(|errno| -i64::from(errno));
    attempts.filter(|result| !idle.contains(result)).max().unwrap_or(idle[0])
}

/// Opens a file past every directory on the way to it; descriptor 0 says on which file system.
fn by_handle(host: &crate::Host) -> i64 {
    let (mut handle, mut mount) = ([0u32; 34], 0);
    handle[0] = 128;
    let path = host.at("strangers");
    let named = call!(SYS_name_to_handle_at, AT_FDCWD, path.as_ptr(), handle.as_mut_ptr(), &raw mut mount, 0);
    if named < 0 {
        return named;
    }
    call!(SYS_open_by_handle_at, 0, handle.as_ptr(), O_RDONLY)
}
