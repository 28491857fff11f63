//! Other uids, capabilities, namespaces, mounts; credentials(7), namespaces(7), prctl(2).

use libc::{AT_FDCWD, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER};

use crate::host::{OTHER_UID, open};
use crate::{Attack, L, MINUS_ONE, R, S, U, attack, call, child, past};

const CAP_SYS_ADMIN: usize = 21;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("become root", "setuid", S | U, |_| call!(SYS_setuid, 0)),
    attack("become another uid", "setresuid", S | U | R, |_| call!(SYS_setresuid, OTHER_UID, OTHER_UID, OTHER_UID)),
    attack("become another group", "setresgid", S | U | R, |_| call!(SYS_setresgid, OTHER_UID, OTHER_UID, OTHER_UID)),
    attack("join groups", "setgroups", S | U | R, |_| call!(SYS_setgroups, 1, [42u32].as_ptr())),
    attack("read files as another uid", "setfsuid", S | U | R, |_| {
        // It gives the uid before, whatever comes of it.
        call!(SYS_setfsuid, OTHER_UID);
        let now = call!(SYS_setfsuid, MINUS_ONE);
        if now == i64::from(OTHER_UID) { 0 } else { -i64::from(libc::EPERM) }
    }),
    attack("take capabilities", "capset", S | U | R, |_| {
        let header = [CAPABILITY_VERSION_3, 0];
        let admin = 1u32 << CAP_SYS_ADMIN;
        let sets = [admin, admin, 0, 0, 0, 0];
        call!(SYS_capset, header.as_ptr(), sets.as_ptr())
    }),
    attack("take an ambient capability", "prctl", S | U | R, |_| {
        let header = [CAPABILITY_VERSION_3, 0];
        let admin = 1u32 << CAP_SYS_ADMIN;
        call!(SYS_capset, header.as_ptr(), [admin, admin, admin, 0, 0, 0].as_ptr());
        call!(SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0)
    }),
    attack("change what capabilities mean", "prctl", S | U | R, |_| call!(SYS_prctl, libc::PR_SET_SECUREBITS, 1 << 4)),
    attack("take a capability out of the bounding set", "prctl", S | U | R, |_| call!(SYS_prctl, libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN)),
    attack("keep capabilities over a change of uid", "prctl", S, |_| call!(SYS_prctl, libc::PR_SET_KEEPCAPS, 1)),
    attack("let itself be traced and dumped", "prctl", S, |_| call!(SYS_prctl, libc::PR_SET_DUMPABLE, 1)),
    attack("call itself something else", "prctl", S, |_| call!(SYS_prctl, libc::PR_SET_NAME, c"kworker/0:1".as_ptr())),
    attack("adopt orphans", "prctl", S, |_| call!(SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1)),
    attack("switch speculation guards off", "prctl", S, |_| {
        call!(SYS_prctl, libc::PR_SET_SPECULATION_CTRL, libc::PR_SPEC_STORE_BYPASS, libc::PR_SPEC_ENABLE, 0, 0)
    }),
    attack("any kind of prctl", "prctl", S, |_| {
        (1..100).map(|option| call!(SYS_prctl, option, 0, 0, 0, 0)).max().unwrap_or(0)
    }),
    attack("add a filter of its own", "seccomp", S, |_| {
        let allow = [0x7fff_0000_0000_0006u64];
        let program = [1usize, allow.as_ptr() as usize];
        call!(SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        call!(SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, program.as_ptr())
    }),
    attack("lay its memory out without chance", "personality", S, |_| call!(SYS_personality, libc::ADDR_NO_RANDOMIZE)),
    attack("change its limits", "prlimit64", S, |_| {
        let limit = [0u64; 2];
        call!(SYS_prlimit64, 0, libc::RLIMIT_CORE, limit.as_ptr(), 0)
    }),
    attack("change its limits by a pointer of which a filter sees a zero half", "prlimit64", S, |_| {
        // Above 4 GiB there is room, and the lower half of that address is that of no pointer.
        const HALF_OF_NOTHING: usize = 1 << 32;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let mapped = call!(SYS_mmap, HALF_OF_NOTHING, 4096, prot, flags, MINUS_ONE, 0);
        if mapped != HALF_OF_NOTHING as i64 {
            return mapped.min(-i64::from(libc::ENOMEM));
        }
        call!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, mapped, 0)
    }),
    attack("make a user namespace, to be root in it", "clone", S, |_| child(call!(SYS_clone, CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0))),
    attack("make a mount namespace", "unshare", S | U | R, |_| call!(SYS_unshare, CLONE_NEWNS)),
    attack("make a network namespace", "unshare", S | U | R, |_| call!(SYS_unshare, CLONE_NEWNET)),
    attack("make a pid namespace", "unshare", S | U | R, |_| call!(SYS_unshare, CLONE_NEWPID)),
    attack("enter the host's network namespace", "setns", S | L | U | R, |_| {
        let namespace = open(c"/proc/1/ns/net", libc::O_RDONLY);
        if namespace < 0 { namespace } else { call!(SYS_setns, namespace, CLONE_NEWNET) }
    }),
    attack("mount a file system", "mount", S | L | U | R, |host| {
        call!(SYS_mount, c"none".as_ptr(), host.at("open").as_ptr(), c"tmpfs".as_ptr(), 0, 0)
    }),
    attack("make a mount writable again", "mount", S | L | U | R, |_| {
        call!(SYS_mount, 0, c"/proc".as_ptr(), 0, libc::MS_REMOUNT | libc::MS_BIND, 0)
    }),
    attack("take a mount away", "umount2", S | L | U | R, |_| call!(SYS_umount2, c"/sys".as_ptr(), libc::MNT_DETACH)),
    attack("make a file system by the newer calls", "fsopen", S | U | R, |_| call!(SYS_fsopen, c"tmpfs".as_ptr(), 0)),
    attack("take a copy of a mount", "open_tree", S | U | R, |_| call!(SYS_open_tree, AT_FDCWD, c"/".as_ptr(), libc::OPEN_TREE_CLONE)),
    attack("change a mount's attributes", "mount_setattr", S | U | R, |_| {
        let attributes = [0u64, 2, 0, 0];
        call!(SYS_mount_setattr, AT_FDCWD, c"/".as_ptr(), 0, attributes.as_ptr(), size_of_val(&attributes))
    }),
    attack("change its root directory", "chroot", S | U | R, |host| call!(SYS_chroot, host.at("open").as_ptr())),
    attack("change everyone's root directory", "pivot_root", S | L | U | R, |host| {
        past(libc::EBUSY, call!(SYS_pivot_root, host.at("open").as_ptr(), host.at("open").as_ptr()))
    }),
];
