//! Writing, creating and removing files; open(2), unlink(2), rename(2), chmod(2).

use libc::{AT_FDCWD, O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY};

use crate::host::{OTHER_UID, open};
use crate::process::BROKER;
use crate::{Attack, L, MINUS_ONE, R, S, U, attack, call};

const ATTR: &std::ffi::CStr = c"user.keyhole";

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("write to a file of its own uid", "openat", S | L, |host| host.open("own", O_WRONLY)),
    attack("write to a file that all may write", "openat", S | L, |host| host.open("world", O_WRONLY)),
    attack("write to a file of root", "openat", S | L | U, |host| host.open("roots", O_WRONLY)),
    attack("write to a file of another uid", "openat", S | L | U | R, |host| host.open("other_uid", O_WRONLY)),
    attack("read and write a file", "openat", S | L, |host| host.open("own", O_RDWR)),
    attack("append to a file", "openat", S | L, |host| host.open("own", O_WRONLY | O_APPEND)),
    attack("truncate a file as it is opened", "openat", S | L, |host| host.open("own", O_RDONLY | O_TRUNC)),
    attack("truncate a file by its path", "truncate", S | L, |host| call!(SYS_truncate, host.at("own").as_ptr(), 0)),
    attack("create a file", "openat", S | L, |host| host.open("open/new", O_WRONLY | O_CREAT)),
    attack("create a file without a name", "openat", S | L, |host| host.open("open", O_RDWR | O_TMPFILE)),
    attack("open to write past seccomp's view of flags", "openat2", S | L, |host| {
        let how = [O_WRONLY as u64, 0, 0];
        call!(SYS_openat2, AT_FDCWD, host.at("own").as_ptr(), how.as_ptr(), size_of_val(&how))
    }),
    attack("open a descriptor again, to write", "openat", S | L, |host| open(&host.of_left_open(), O_WRONLY)),
    attack("remove a file", "unlinkat", S | L, |host| call!(SYS_unlinkat, AT_FDCWD, host.at("own").as_ptr(), 0)),
    attack("remove a directory", "unlinkat", S | L, |host| {
        call!(SYS_unlinkat, AT_FDCWD, host.at("open").as_ptr(), libc::AT_REMOVEDIR)
    }),
    attack("make a directory", "mkdirat", S | L, |host| call!(SYS_mkdirat, AT_FDCWD, host.at("open/new").as_ptr(), 0o700)),
    attack("make a symbolic link", "symlinkat", S | L, |host| {
        call!(SYS_symlinkat, c"/etc/shadow".as_ptr(), AT_FDCWD, host.at("open/new").as_ptr())
    }),
    attack("give a file a second name", "linkat", S | L, |host| {
        call!(SYS_linkat, AT_FDCWD, host.at("own").as_ptr(), AT_FDCWD, host.at("open/new").as_ptr(), 0)
    }),
    attack("rename a file", "renameat2", S | L, |host| {
        call!(SYS_renameat2, AT_FDCWD, host.at("own").as_ptr(), AT_FDCWD, host.at("open/new").as_ptr(), 0)
    }),
    attack("make a named pipe", "mknodat", S | L, |host| {
        call!(SYS_mknodat, AT_FDCWD, host.at("open/new").as_ptr(), libc::S_IFIFO | 0o600, 0)
    }),
    attack("make a device file of the disk", "mknodat", S | L | U | R, |host| {
        call!(SYS_mknodat, AT_FDCWD, host.at("open/new").as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(254, 0))
    }),
    attack("change a file's mode", "fchmodat", S, |host| call!(SYS_fchmodat, AT_FDCWD, host.at("own").as_ptr(), 0o4755)),
    attack("give a file to another uid", "fchownat", S | U | R, |host| {
        call!(SYS_fchownat, AT_FDCWD, host.at("own").as_ptr(), OTHER_UID, MINUS_ONE, 0)
    }),
    attack("change a file's times", "utimensat", S, |host| call!(SYS_utimensat, AT_FDCWD, host.at("own").as_ptr(), 0, 0)),
    attack("set an extended attribute", "setxattr", S, |host| {
        call!(SYS_setxattr, host.at("own").as_ptr(), ATTR.as_ptr(), b"x".as_ptr(), 1, 0)
    }),
    // Where Landlock is missing, seccomp allows no unlinkat at all: it could not be restricted to the socket's directory.
    attack("remove its own socket", "unlinkat", S, |host| call!(SYS_unlinkat, host.socket_dir, c"broker.sock".as_ptr(), 0))
        .within(BROKER)
        .residual(&[(BROKER, "It does so at its end; the exporter reports that the broker cannot be reached.")]),
    attack("remove another file beside its socket", "unlinkat", S, |host| call!(SYS_unlinkat, host.socket_dir, c"beside".as_ptr(), 0))
        .within(BROKER)
        .residual(&[(BROKER, "seccomp cannot see names, and Landlock's rule is the directory's. Nothing else belongs in it.")]),
    attack("remove a file by way of its socket's directory", "unlinkat", S | L, |host| call!(SYS_unlinkat, host.socket_dir, c"../own".as_ptr(), 0))
        .within(BROKER),
];
