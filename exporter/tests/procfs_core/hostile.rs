//! Which of procfs-core's types panic on bytes that are not as the kernel writes them: ADR 4 has the list.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use procfs_core::net::{
    ArpEntries, InterfaceDeviceStatus, RouteEntries, Snmp, Snmp6, TcpNetEntries, UdpNetEntries,
};
use procfs_core::process::{Limits, MountInfos, MountStats, Stat, Status};
use procfs_core::{
    CGroupControllers, CpuInfo, CpuPressure, DiskStats, ExplicitSystemInfo, FromRead, FromReadSI, IoPressure,
    KernelStats, LoadAverage, Meminfo, MemoryPressure, VmStat,
};

/// A machine of x86-64.
pub const MACHINE: ExplicitSystemInfo =
    ExplicitSystemInfo { boot_time_secs: 0, ticks_per_second: 100, page_size: 4096, is_little_endian: true };

/// A type's name, whether it panics, what reads it, and a file as the kernel writes it.
type Case = (&'static str, bool, fn(&[u8]), &'static str);

fn read<T: FromRead>(bytes: &[u8]) {
    let _ = T::from_read(bytes);
}

fn read_si<T: FromReadSI>(bytes: &[u8]) {
    let _ = T::from_read(bytes, &MACHINE);
}

const SOCKETS: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n\
    0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000 100 0 17063 1 0 100 0 0 10 0\n";
const PRESSURE: &str = "some avg10=0.00 avg60=0.12 avg300=0.01 total=391926\n\
    full avg10=0.00 avg60=0.12 avg300=0.01 total=91926\n";
const STAT: &str = "1 (systemd) S 0 1 1 0 -1 4194560 9061 9416027 94 2620 36 98 54406 13885 20 0 1 0 29 109604864 2507 \
    18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 0 0 0 19 0 0 0 0 0 0 0 0 0 0\n";
const STATUS: &str = "Name:\tcat\nUmask:\t0022\nState:\tR (running)\nTgid:\t7\nNgid:\t0\nPid:\t7\nPPid:\t1\n\
    TracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t256\nGroups:\t0 \nVmPeak:\t 1 kB\nVmRSS:\t 1 kB\n\
    Threads:\t1\nSigQ:\t0/127\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n\
    SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
    CapEff:\t0000000000000000\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\nMems_allowed:\t1\n\
    voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1\n";
const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
    Max cpu time              unlimited            unlimited            seconds   \n\
    Max open files            1024                 524288               files     \n\
    Max nice priority         0                    0                    \n";
pub const SNMP: &str = include_str!("../../../tests/golden/host/tree/proc/1/net/snmp");
pub const SNMP6: &str = include_str!("../../../tests/golden/host/tree/proc/1/net/snmp6");

const CASES: [Case; 22] = [
    (
        "ArpEntries",
        true,
        read::<ArpEntries>,
        "IP address HW type Flags HW address Mask Device\n\
        192.0.2.1 0x1 0x2 02:00:00:00:00:01 * eth0\n",
    ),
    (
        "CGroupControllers",
        false,
        read::<CGroupControllers>,
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t9\t1\n",
    ),
    (
        "CpuInfo",
        false,
        read::<CpuInfo>,
        "processor\t: 0\nmodel name\t: a b\n\nprocessor\t: 1\nmodel name\t: a b\n\n",
    ),
    ("CpuPressure", true, read::<CpuPressure>, PRESSURE),
    ("DiskStats", false, read::<DiskStats>, "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n"),
    (
        "InterfaceDeviceStatus",
        false,
        read::<InterfaceDeviceStatus>,
        "Inter-| Receive | Transmit\n face |bytes |bytes\n\
        eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
    ),
    ("IoPressure", true, read::<IoPressure>, PRESSURE),
    (
        "KernelStats",
        false,
        read_si::<KernelStats>,
        "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1 2\nctxt 1\n\
        btime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 1\n",
    ),
    ("Limits", true, read::<Limits>, LIMITS),
    ("LoadAverage", false, read::<LoadAverage>, "0.01 0.02 0.03 1/234 5678\n"),
    (
        "Meminfo",
        true,
        read::<Meminfo>,
        "MemTotal:       24684084 kB\nMemFree: 1 kB\nHugePages_Total:       0\n",
    ),
    ("MemoryPressure", true, read::<MemoryPressure>, PRESSURE),
    (
        "MountInfos",
        false,
        read::<MountInfos>,
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
    ),
    (
        "MountStats",
        false,
        read::<MountStats>,
        "device h:/e mounted on /mnt with fstype nfs4 statvers=1.1\n\topts:\trw\n\
        \tage:\t7\n\tcaps:\tcaps=0x1\n\tsec:\tflavor=1\n\tevents:\t1 2\n\tbytes:\t1 2\n\tper-op statistics\n\t\tREAD: 1 2\n\n",
    ),
    (
        "RouteEntries",
        false,
        read::<RouteEntries>,
        "Iface\tDestination\tGateway\tFlags\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    ),
    ("Snmp", false, read::<Snmp>, SNMP),
    ("Snmp6", false, read::<Snmp6>, SNMP6),
    ("Stat", true, read::<Stat>, STAT),
    ("Status", false, read::<Status>, STATUS),
    ("TcpNetEntries", false, read_si::<TcpNetEntries>, SOCKETS),
    ("UdpNetEntries", false, read_si::<UdpNetEntries>, SOCKETS),
    ("VmStat", false, read::<VmStat>, "nr_free_pages 1\noom_kill 0\n"),
];

/// What is put into a file: what ends a field or a line, numbers that are too large or none, letters of two bytes.
const PIECES: [&[u8]; 14] = [
    b"",
    b" ",
    b"\n",
    b"\t",
    b":",
    b"(",
    b")",
    b"=",
    b"0",
    b"-1",
    b"18446744073709551615",
    b"x",
    "\u{e4}".as_bytes(),
    b"\xff",
];

/// Numbers as xorshift makes them, the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).expect("small")
    }
}

/// The file with up to four places replaced, or cut.
fn changed(file: &str, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = file.as_bytes().to_vec();
    for _ in 0..=numbers.below(4) {
        let start = numbers.below(bytes.len() + 1);
        let end = (start + numbers.below(6)).min(bytes.len());
        bytes.splice(start..end, PIECES[numbers.below(PIECES.len())].iter().copied());
    }
    if numbers.below(4) == 0 {
        bytes.truncate(numbers.below(bytes.len() + 1));
    }
    bytes
}

#[test]
fn the_types_that_panic_on_hostile_bytes_are_those_of_the_list() {
    const TRIES: usize = 3000;
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = BTreeSet::new();
    for (name, _, read, file) in CASES {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let tries = if file.len() > 1000 { TRIES / 20 } else { TRIES };
        let panics = |bytes: &[u8]| catch_unwind(AssertUnwindSafe(|| read(bytes))).is_err();
        let hostile = (0..tries).map(|_| changed(file, &mut numbers)).find(|bytes| panics(bytes));
        if let Some(bytes) = hostile {
            eprintln!("{name}: {}", bytes.escape_ascii());
            found.insert(name);
        }
        assert!(!panics(file.as_bytes()), "{name} on what the kernel writes");
    }
    let _ = std::panic::take_hook();
    let listed: BTreeSet<&str> =
        CASES.into_iter().filter(|(_, panics, ..)| *panics).map(|(name, ..)| name).collect();
    assert_eq!(found, listed);
}

/// Types that panic on hostile bytes and have no counterpart among our parsers.
const WITHOUT_COUNTERPART: [&str; 1] = ["Limits"];

#[test]
fn every_type_that_has_a_counterpart_is_compared() {
    let compared = [include_str!("main.rs"), include_str!("process.rs")].concat();
    for (name, panics, ..) in CASES {
        let is_compared = compared.contains(&format!("{name}::from_read("));
        assert!(is_compared != WITHOUT_COUNTERPART.contains(&name), "{name}");
        assert!(is_compared || panics, "{name} does not panic, so it is an oracle");
    }
}
