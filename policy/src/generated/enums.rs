// @generated from keyhole/v1/broker.proto by `cargo run -p keyhole-proto-gen`.

/// A fixed set of kernel files. Values are grouped by subject, and never change their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Query {
    /// Never valid in a request.
    #[default]
    Unspecified = 0,
    /// CPU time, context switches, forks, interrupts: proc/stat.
    Stat = 1,
    /// Load averages: proc/loadavg.
    Loadavg = 2,
    /// Memory: proc/meminfo.
    Meminfo = 3,
    /// Virtual memory events: proc/vmstat.
    Vmstat = 4,
    /// Pressure stall information: proc/pressure/*.
    Pressure = 5,
    /// Block device counters: proc/diskstats.
    Diskstats = 6,
    /// Block device attributes: sys/block/*.
    Block = 7,
    /// udev's database of block devices: `udev/b<major>:<minor>`. Needs the broker's --path.udev.data.
    Udev = 8,
    /// File handles: proc/sys/fs/file-nr.
    FileNr = 9,
    /// The kernel's entropy pool: proc/sys/kernel/random/*.
    Random = 10,
    /// Scheduler statistics: proc/schedstat.
    Schedstat = 11,
    /// Kernel name, release and version: proc/sys/kernel/*.
    Kernel = 12,
    /// Hung tasks found: proc/sys/kernel/hung_task_detect_count.
    HungTasks = 13,
    /// CPU topology, throttling, online and isolated CPUs: sys/devices/system/cpu.
    Cpu = 14,
    /// CPU model, flags and bugs: proc/cpuinfo.
    Cpuinfo = 15,
    /// CPU frequencies: sys/devices/system/cpu/cpu*/cpufreq.
    Cpufreq = 16,
    /// CPU vulnerabilities: sys/devices/system/cpu/vulnerabilities.
    CpuVulnerabilities = 17,
    /// Clock sources: sys/devices/system/clocksource.
    Clocksource = 18,
    /// Per-CPU packet processing, the same in every network namespace: proc/1/net/softnet_stat.
    Softnet = 19,
    /// Software RAID: proc/mdstat and sys/block/md*/md.
    Md = 20,
    /// Hardware monitoring chips: sys/class/hwmon.
    Hwmon = 21,
    /// Thermal zones and cooling devices: sys/class/thermal.
    Thermal = 22,
    /// Batteries and mains: sys/class/power_supply.
    PowerSupply = 23,
    /// Name and version of the operating system: os-release. Needs the broker's --path.os-release.
    OsRelease = 24,
    /// Interface counters: proc/1/net/dev.
    NetDev = 30,
    /// Interface attributes: sys/class/net/*.
    NetClass = 31,
    /// Protocol counters: proc/1/net/{netstat,snmp,snmp6}.
    NetSnmp = 32,
    /// Sockets in use: proc/1/net/{sockstat,sockstat6}.
    Sockstat = 33,
    /// UDP sockets: proc/1/net/{udp,udp6}.
    Udp = 34,
    /// IPv4 neighbours: proc/1/net/arp.
    Arp = 35,
    /// Connection tracking: proc/1/net/stat/nf_conntrack and its limit; also the count of proc/sys/net/netfilter, if the
    /// broker is in the host's network namespace.
    Conntrack = 36,
    /// Bonding masters and their slaves: sys/class/net/*/bonding.
    Bonding = 37,
    /// Interface errors one by one, of which proc/1/net/dev has sums: sys/class/net/*/statistics.
    NetStatistics = 38,
    /// IPv6 addresses of interfaces: proc/1/net/if_inet6.
    NetAddresses = 39,
    /// Every process: `proc/<pid>/stat`. Only with the broker's --allow-processes.
    Processes = 40,
    /// More of every process: `proc/<pid>/status`, and the number of its open descriptors. Only with --allow-processes.
    ProcessDetails = 41,
    /// Every thread of processes that have several: `proc/<pid>/task/<tid>/stat`. Only with --allow-processes. The values of
    /// a process' only thread are those of the process.
    Threads = 42,
    /// The most processes and threads there may be: proc/sys/kernel/{pid_max,threads-max}. The first is read only by a broker
    /// in the host's PID namespace.
    ProcessLimits = 43,
    /// The control groups of system daemons, pods excepted: sys/fs/cgroup.
    Cgroups = 44,
    /// The host's mounts: proc/1/mountinfo.
    Mounts = 50,
    /// The broker's own mounts, to match probe directories with the host's mounts: self/mountinfo.
    OwnMounts = 51,
    /// statfs of each probe directory (the broker's --filesystem.probe-directory).
    ProbeDirectories = 52,
    /// statfs of each mount of the host, below the broker's --path.rootfs.
    RootFileSystems = 53,
    /// Free memory blocks by size: proc/buddyinfo.
    Buddyinfo = 60,
    /// Cgroup controllers: proc/cgroups.
    CgroupControllers = 61,
    /// Interrupts by CPU: proc/interrupts, which container runtimes mask in a container's own /proc.
    Interrupts = 62,
    /// Soft interrupts by CPU: proc/softirqs.
    Softirqs = 63,
    /// Slab caches: proc/slabinfo, which only uid 0 may read.
    Slabinfo = 64,
    /// Memory zones: proc/zoneinfo.
    Zoneinfo = 65,
    /// Swap areas: proc/swaps.
    Swaps = 66,
    /// Sysctls that are the same in every namespace: a fixed list below proc/sys.
    Sysctl = 67,
    /// Memory of each NUMA node: sys/devices/system/node/node*.
    Numa = 68,
    /// Merging of equal pages: sys/kernel/mm/ksm.
    Ksm = 69,
    /// Whether SELinux enforces, and has a policy: sys/fs/selinux, which is mounted only in the host's /sys.
    Selinux = 70,
    /// Watchdogs: sys/class/watchdog.
    Watchdog = 71,
    /// Memory errors found: sys/devices/system/edac/mc.
    Edac = 72,
    /// Energy used, which only uid 0 may read: sys/class/powercap, masked in a container's own /sys.
    Powercap = 73,
    /// The firmware's description of the machine: sys/class/dmi/id. Only uid 0 may read serial numbers.
    Dmi = 74,
    /// Graphics cards: sys/class/drm/card*.
    Drm = 75,
    /// PCI devices: sys/bus/pci/devices.
    Pci = 76,
    /// SCSI tape drives: sys/class/scsi_tape.
    Tape = 77,
    /// Sysctls of the host's network namespace: a fixed list below proc/sys/net, read only by a broker that is in it.
    NetSysctl = 78,
    /// Sysctls of the host's IPC, PID and user namespaces: a fixed list, read only by a broker that is in all of them.
    NamespaceSysctl = 79,
    /// Calls of the host's NFS client: proc/1/net/rpc/nfs.
    Nfs = 90,
    /// Calls that the host's NFS server answered: proc/1/net/rpc/nfsd.
    Nfsd = 91,
    /// Statistics of each XFS file system: sys/fs/xfs/*/stats/stats.
    Xfs = 92,
    /// Virtual servers of the host's network namespace: proc/1/net/{ip_vs,ip_vs_stats}.
    Ipvs = 93,
    /// NVMe controllers and their namespaces: sys/class/nvme.
    Nvme = 94,
    /// NVMe subsystems and the paths to them: sys/class/nvme-subsystem.
    NvmeSubsystem = 95,
    /// InfiniBand devices and the counters of their ports: sys/class/infiniband.
    Infiniband = 96,
    /// Fibre Channel hosts and their statistics: sys/class/fc_host.
    FibreChannel = 97,
    /// Device mapper devices, the devices below them, and the state of those: sys/block.
    DeviceMapper = 98,
    /// Caches in front of block devices: sys/fs/bcache.
    Bcache = 99,
    /// bcachefs file systems: sys/fs/bcachefs.
    Bcachefs = 100,
    /// Btrfs file systems: sys/fs/btrfs.
    Btrfs = 101,
    /// Caches of the network stack, CPU by CPU: proc/1/net/stat/*.
    Lnstat = 102,
    /// Errors of IPsec transformation: proc/1/net/xfrm_stat.
    Xfrm = 103,
    /// TCP sockets: proc/1/net/{tcp,tcp6}.
    Tcp = 104,
    /// The main routing tables: proc/1/net/{route,ipv6_route}.
    Routes = 105,
    /// Replicated block devices: proc/drbd.
    Drbd = 106,
    /// Statistics of the host's mounts: proc/1/mountstats. Only its owner, uid 0, may read it.
    MountStats = 107,
    /// Statistics of ZFS and of its pools: proc/spl/kstat/zfs.
    Zfs = 108,
    /// How full the buckets of caches are, for which the kernel sorts all of them: sys/fs/bcache/*/cache*/priority_stats.
    BcachePriorities = 109,
}

impl Query {
    /// The name in the API.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unspecified => "QUERY_UNSPECIFIED",
            Self::Stat => "QUERY_STAT",
            Self::Loadavg => "QUERY_LOADAVG",
            Self::Meminfo => "QUERY_MEMINFO",
            Self::Vmstat => "QUERY_VMSTAT",
            Self::Pressure => "QUERY_PRESSURE",
            Self::Diskstats => "QUERY_DISKSTATS",
            Self::Block => "QUERY_BLOCK",
            Self::Udev => "QUERY_UDEV",
            Self::FileNr => "QUERY_FILE_NR",
            Self::Random => "QUERY_RANDOM",
            Self::Schedstat => "QUERY_SCHEDSTAT",
            Self::Kernel => "QUERY_KERNEL",
            Self::HungTasks => "QUERY_HUNG_TASKS",
            Self::Cpu => "QUERY_CPU",
            Self::Cpuinfo => "QUERY_CPUINFO",
            Self::Cpufreq => "QUERY_CPUFREQ",
            Self::CpuVulnerabilities => "QUERY_CPU_VULNERABILITIES",
            Self::Clocksource => "QUERY_CLOCKSOURCE",
            Self::Softnet => "QUERY_SOFTNET",
            Self::Md => "QUERY_MD",
            Self::Hwmon => "QUERY_HWMON",
            Self::Thermal => "QUERY_THERMAL",
            Self::PowerSupply => "QUERY_POWER_SUPPLY",
            Self::OsRelease => "QUERY_OS_RELEASE",
            Self::NetDev => "QUERY_NET_DEV",
            Self::NetClass => "QUERY_NET_CLASS",
            Self::NetSnmp => "QUERY_NET_SNMP",
            Self::Sockstat => "QUERY_SOCKSTAT",
            Self::Udp => "QUERY_UDP",
            Self::Arp => "QUERY_ARP",
            Self::Conntrack => "QUERY_CONNTRACK",
            Self::Bonding => "QUERY_BONDING",
            Self::NetStatistics => "QUERY_NET_STATISTICS",
            Self::NetAddresses => "QUERY_NET_ADDRESSES",
            Self::Processes => "QUERY_PROCESSES",
            Self::ProcessDetails => "QUERY_PROCESS_DETAILS",
            Self::Threads => "QUERY_THREADS",
            Self::ProcessLimits => "QUERY_PROCESS_LIMITS",
            Self::Cgroups => "QUERY_CGROUPS",
            Self::Mounts => "QUERY_MOUNTS",
            Self::OwnMounts => "QUERY_OWN_MOUNTS",
            Self::ProbeDirectories => "QUERY_PROBE_DIRECTORIES",
            Self::RootFileSystems => "QUERY_ROOT_FILE_SYSTEMS",
            Self::Buddyinfo => "QUERY_BUDDYINFO",
            Self::CgroupControllers => "QUERY_CGROUP_CONTROLLERS",
            Self::Interrupts => "QUERY_INTERRUPTS",
            Self::Softirqs => "QUERY_SOFTIRQS",
            Self::Slabinfo => "QUERY_SLABINFO",
            Self::Zoneinfo => "QUERY_ZONEINFO",
            Self::Swaps => "QUERY_SWAPS",
            Self::Sysctl => "QUERY_SYSCTL",
            Self::Numa => "QUERY_NUMA",
            Self::Ksm => "QUERY_KSM",
            Self::Selinux => "QUERY_SELINUX",
            Self::Watchdog => "QUERY_WATCHDOG",
            Self::Edac => "QUERY_EDAC",
            Self::Powercap => "QUERY_POWERCAP",
            Self::Dmi => "QUERY_DMI",
            Self::Drm => "QUERY_DRM",
            Self::Pci => "QUERY_PCI",
            Self::Tape => "QUERY_TAPE",
            Self::NetSysctl => "QUERY_NET_SYSCTL",
            Self::NamespaceSysctl => "QUERY_NAMESPACE_SYSCTL",
            Self::Nfs => "QUERY_NFS",
            Self::Nfsd => "QUERY_NFSD",
            Self::Xfs => "QUERY_XFS",
            Self::Ipvs => "QUERY_IPVS",
            Self::Nvme => "QUERY_NVME",
            Self::NvmeSubsystem => "QUERY_NVME_SUBSYSTEM",
            Self::Infiniband => "QUERY_INFINIBAND",
            Self::FibreChannel => "QUERY_FIBRE_CHANNEL",
            Self::DeviceMapper => "QUERY_DEVICE_MAPPER",
            Self::Bcache => "QUERY_BCACHE",
            Self::Bcachefs => "QUERY_BCACHEFS",
            Self::Btrfs => "QUERY_BTRFS",
            Self::Lnstat => "QUERY_LNSTAT",
            Self::Xfrm => "QUERY_XFRM",
            Self::Tcp => "QUERY_TCP",
            Self::Routes => "QUERY_ROUTES",
            Self::Drbd => "QUERY_DRBD",
            Self::MountStats => "QUERY_MOUNT_STATS",
            Self::Zfs => "QUERY_ZFS",
            Self::BcachePriorities => "QUERY_BCACHE_PRIORITIES",
        }
    }
}

impl TryFrom<i32> for Query {
    type Error = crate::UnknownNumber;

    fn try_from(number: i32) -> Result<Self, Self::Error> {
        match number {
            0 => Ok(Self::Unspecified),
            1 => Ok(Self::Stat),
            2 => Ok(Self::Loadavg),
            3 => Ok(Self::Meminfo),
            4 => Ok(Self::Vmstat),
            5 => Ok(Self::Pressure),
            6 => Ok(Self::Diskstats),
            7 => Ok(Self::Block),
            8 => Ok(Self::Udev),
            9 => Ok(Self::FileNr),
            10 => Ok(Self::Random),
            11 => Ok(Self::Schedstat),
            12 => Ok(Self::Kernel),
            13 => Ok(Self::HungTasks),
            14 => Ok(Self::Cpu),
            15 => Ok(Self::Cpuinfo),
            16 => Ok(Self::Cpufreq),
            17 => Ok(Self::CpuVulnerabilities),
            18 => Ok(Self::Clocksource),
            19 => Ok(Self::Softnet),
            20 => Ok(Self::Md),
            21 => Ok(Self::Hwmon),
            22 => Ok(Self::Thermal),
            23 => Ok(Self::PowerSupply),
            24 => Ok(Self::OsRelease),
            30 => Ok(Self::NetDev),
            31 => Ok(Self::NetClass),
            32 => Ok(Self::NetSnmp),
            33 => Ok(Self::Sockstat),
            34 => Ok(Self::Udp),
            35 => Ok(Self::Arp),
            36 => Ok(Self::Conntrack),
            37 => Ok(Self::Bonding),
            38 => Ok(Self::NetStatistics),
            39 => Ok(Self::NetAddresses),
            40 => Ok(Self::Processes),
            41 => Ok(Self::ProcessDetails),
            42 => Ok(Self::Threads),
            43 => Ok(Self::ProcessLimits),
            44 => Ok(Self::Cgroups),
            50 => Ok(Self::Mounts),
            51 => Ok(Self::OwnMounts),
            52 => Ok(Self::ProbeDirectories),
            53 => Ok(Self::RootFileSystems),
            60 => Ok(Self::Buddyinfo),
            61 => Ok(Self::CgroupControllers),
            62 => Ok(Self::Interrupts),
            63 => Ok(Self::Softirqs),
            64 => Ok(Self::Slabinfo),
            65 => Ok(Self::Zoneinfo),
            66 => Ok(Self::Swaps),
            67 => Ok(Self::Sysctl),
            68 => Ok(Self::Numa),
            69 => Ok(Self::Ksm),
            70 => Ok(Self::Selinux),
            71 => Ok(Self::Watchdog),
            72 => Ok(Self::Edac),
            73 => Ok(Self::Powercap),
            74 => Ok(Self::Dmi),
            75 => Ok(Self::Drm),
            76 => Ok(Self::Pci),
            77 => Ok(Self::Tape),
            78 => Ok(Self::NetSysctl),
            79 => Ok(Self::NamespaceSysctl),
            90 => Ok(Self::Nfs),
            91 => Ok(Self::Nfsd),
            92 => Ok(Self::Xfs),
            93 => Ok(Self::Ipvs),
            94 => Ok(Self::Nvme),
            95 => Ok(Self::NvmeSubsystem),
            96 => Ok(Self::Infiniband),
            97 => Ok(Self::FibreChannel),
            98 => Ok(Self::DeviceMapper),
            99 => Ok(Self::Bcache),
            100 => Ok(Self::Bcachefs),
            101 => Ok(Self::Btrfs),
            102 => Ok(Self::Lnstat),
            103 => Ok(Self::Xfrm),
            104 => Ok(Self::Tcp),
            105 => Ok(Self::Routes),
            106 => Ok(Self::Drbd),
            107 => Ok(Self::MountStats),
            108 => Ok(Self::Zfs),
            109 => Ok(Self::BcachePriorities),
            other => Err(crate::UnknownNumber(other)),
        }
    }
}

impl From<Query> for i32 {
    fn from(value: Query) -> Self {
        value as i32
    }
}

/// The result of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Outcome {
    /// Never sent.
    #[default]
    Unspecified = 0,
    /// Read. Single files may still have an errno.
    Ok = 1,
    /// The host has none of the files, and no directory in which a wildcard could find one.
    Absent = 2,
    /// The kernel refused every file to the broker's uid, or hides the processes below which they are (hidepid).
    Denied = 3,
    /// The query or the read timed out; what was read before was sent.
    TimedOut = 4,
    /// Nothing was read: the query's class has no free reader, since they hang in the kernel or none has started, or files of
    /// the query were skipped, since another reader hangs in them.
    Stuck = 5,
    /// A limit of the policy table (bytes or entries), or of the broker's descriptors, cut the answer.
    Truncated = 6,
    /// The broker was started without the root that this query reads from, or without a flag that permits the query.
    NotPermitted = 7,
    /// The broker sees a container's own /proc or /sys, or is in a namespace of its own: the files would not be the host's.
    ContainerView = 8,
    /// The process that read it died before the query ended; what was read before was sent.
    Failed = 9,
    /// The directory of a wildcard exists and has no entries: the kernel has this class of devices, and the host has no
    /// device of it.
    Empty = 10,
}

impl Outcome {
    /// The name in the API.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unspecified => "OUTCOME_UNSPECIFIED",
            Self::Ok => "OUTCOME_OK",
            Self::Absent => "OUTCOME_ABSENT",
            Self::Denied => "OUTCOME_DENIED",
            Self::TimedOut => "OUTCOME_TIMED_OUT",
            Self::Stuck => "OUTCOME_STUCK",
            Self::Truncated => "OUTCOME_TRUNCATED",
            Self::NotPermitted => "OUTCOME_NOT_PERMITTED",
            Self::ContainerView => "OUTCOME_CONTAINER_VIEW",
            Self::Failed => "OUTCOME_FAILED",
            Self::Empty => "OUTCOME_EMPTY",
        }
    }
}

impl TryFrom<i32> for Outcome {
    type Error = crate::UnknownNumber;

    fn try_from(number: i32) -> Result<Self, Self::Error> {
        match number {
            0 => Ok(Self::Unspecified),
            1 => Ok(Self::Ok),
            2 => Ok(Self::Absent),
            3 => Ok(Self::Denied),
            4 => Ok(Self::TimedOut),
            5 => Ok(Self::Stuck),
            6 => Ok(Self::Truncated),
            7 => Ok(Self::NotPermitted),
            8 => Ok(Self::ContainerView),
            9 => Ok(Self::Failed),
            10 => Ok(Self::Empty),
            other => Err(crate::UnknownNumber(other)),
        }
    }
}

impl From<Outcome> for i32 {
    fn from(value: Outcome) -> Self {
        value as i32
    }
}
