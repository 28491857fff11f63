//! The policy table: everything that each query may read.

use crate::Query;
use crate::pattern::{devices, matches};
use AccessLevel::{Host, Minimal};
use Class::{Devices, Files, Mounts, Processes, Procfs, Sysfs};

/// A directory or file that the readers have from their start; every pattern is relative to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// The host's procfs (`--path.procfs`).
    Proc,
    /// The host's procfs, in which files are opened at each read: only with `--allow-processes`.
    Processes,
    /// The host's procfs, for files below `sys` whose value depends on a namespace of the process that opens them: they are
    /// opened only if the reader is in this namespace of the host.
    ProcIn(Namespace),
    /// The host's sysfs (`--path.sysfs`).
    Sys,
    /// udev's database of devices (`--path.udev.data`).
    Udev,
    /// The os-release file (`--path.os-release`); its only pattern is the file itself.
    OsRelease,
    /// The reader's own `/proc/self`.
    ProcSelf,
    /// Empty directories for statfs (`--filesystem.probe-directory`).
    ProbeDirectories,
    /// The host's root directory (`--path.rootfs`), for statfs alone.
    Rootfs,
}

impl Root {
    /// The first component of the paths below it, on the wire and in a capture.
    pub fn name(self) -> &'static str {
        match self {
            Root::Proc | Root::Processes | Root::ProcIn(_) => "proc",
            Root::Sys => "sys",
            Root::Udev => "udev",
            Root::OsRelease => "etc",
            Root::ProcSelf => "self",
            Root::ProbeDirectories => "probe",
            Root::Rootfs => "rootfs",
        }
    }
}

/// A kind of namespace on which values below `/proc/sys` depend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespace {
    /// `net.*`.
    Net,
    /// Shared memory, semaphores and message queues.
    Ipc,
    /// `kernel.pid_max` and `vm.memfd_noexec`.
    Pid,
    /// `user.*`.
    User,
}

impl Namespace {
    /// Its name in `/proc/<pid>/ns`, and in log lines.
    pub fn name(self) -> &'static str {
        match self {
            Namespace::Net => "net",
            Namespace::Ipc => "ipc",
            Namespace::Pid => "pid",
            Namespace::User => "user",
        }
    }
}

/// What is read of a path that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its content.
    Text,
    /// Its content, unless it is in the only directory that its last wildcard matches: the values of a process' only thread
    /// are those of the process.
    TextIfSeveralDirectories,
    /// The target of a symbolic link.
    Link,
    /// The number of entries of a directory, as its size (st_size).
    Entries,
    /// The statfs(2) of its file system.
    FileSystem,
}

/// The lowest access level of a broker at which a row is answered with the host's values: it is about mounts and
/// namespaces. File modes are another condition: some files only uid 0 may read, at any level (`root_files.txt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessLevel {
    /// No host mount: the file is the same in every container.
    Minimal,
    /// The host's /proc and /sys.
    Host,
}

/// The class of readers that read a row. Files that can hang never share a reader with files that cannot. Each query has
/// one class, so that no descriptor is cached twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Files of procfs that the kernel itself answers. Its readers open nothing in their sandbox.
    Procfs,
    /// Attributes below sysfs that the kernel itself answers, from memory.
    Sysfs,
    /// Attributes below sysfs and files of procfs that a driver, a module or a file system answers: each may sleep.
    Devices,
    /// Ordinary files: udev's data and os-release.
    Files,
    /// Files of every process, with `--allow-processes`: its readers keep procfs open.
    Processes,
    /// statfs of mount points: each may sleep as long as a file server does not answer.
    Mounts,
}

impl Class {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 6] = [Procfs, Sysfs, Devices, Files, Processes, Mounts];

    /// Its name, in flags, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Procfs => "procfs",
            Sysfs => "sysfs",
            Devices => "devices",
            Files => "files",
            Processes => "processes",
            Mounts => "mounts",
        }
    }
}

/// A pattern below a root.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Where it starts.
    pub root: Root,
    /// The pattern, in the language of [`crate::pattern`].
    pub pattern: &'static str,
    /// What is read.
    pub kind: Kind,
}

/// A row: everything that one query may read.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The query.
    pub query: Query,
    /// The class of the readers that read it.
    pub class: Class,
    /// Whether a collector that is on by default needs it: `--queries=default` permits these.
    pub default: bool,
    /// Its sources, read in this order.
    pub sources: &'static [Source],
    /// The access level it needs, for its mounts and namespaces.
    pub access_level: AccessLevel,
    /// The most bytes of one file that are sent.
    pub file_bytes: usize,
    /// The most files, links and file systems in one answer.
    pub entries: usize,
}

const fn proc(pattern: &'static str) -> Source {
    Source { root: Root::Proc, pattern, kind: Kind::Text }
}

const fn proc_in(namespace: Namespace, pattern: &'static str) -> Source {
    Source { root: Root::ProcIn(namespace), pattern, kind: Kind::Text }
}

const fn process(pattern: &'static str) -> Source {
    Source { root: Root::Processes, pattern, kind: Kind::Text }
}

const fn sys(pattern: &'static str) -> Source {
    Source { root: Root::Sys, pattern, kind: Kind::Text }
}

const fn sys_link(pattern: &'static str) -> Source {
    Source { root: Root::Sys, pattern, kind: Kind::Link }
}

// Limits: what the largest real machine needs, with a margin. They guard against a broken kernel and against a tenant that
// creates devices without end. A limit leaves whole items; the answer reports that it is truncated, and how many items
// were left out, if that is known.

/// Bytes of an attribute below sysfs, of a sysctl, and of a procfs file of one process: a page at most.
const VALUE: usize = 4 << 10;
/// Bytes of a file whose length does not grow with the machine (meminfo, snmp), or only with a few dozen controllers,
/// swap areas (29 at most, with their paths) or volumes.
const SHORT: usize = 64 << 10;
/// Bytes of a file with lines for each NUMA node or slab cache: 1,024 nodes (MAX_NUMNODES) of 4 zones with 160 bytes.
const BY_NODE: usize = 1 << 20;
/// Bytes of a file with a row for each possible CPU: 8,192 (NR_CPUS) with 256 bytes, and the lines before and after
/// them, such as /proc/stat's count of each interrupt (2 MB for all vectors of so many CPUs).
const BY_CPU: usize = 8192 * 256 + (2 << 20);
/// Bytes of a file with many bytes for each CPU: a page for each of 8,192 (cpuinfo, whose flags take 2 KB; the domains of
/// schedstat), 360 interrupts of all of them (or 2,900 of 1,024), and zoneinfo of 4,096 CPUs in 60 zones.
const BY_CPU_LONG: usize = 8192 * VALUE;
/// Bytes of a file with a line for each block device or partition: 65,536 of 256 bytes.
const BY_DISK: usize = 65_536 * 256;
/// Bytes of a file with a line for each interface, its addresses or its neighbours: 65,536 of 512 bytes.
const BY_INTERFACE: usize = 65_536 * 512;
/// Bytes of a file with a line for each socket, route or server behind a virtual one: 262,144 of 128 bytes.
const BY_SOCKET: usize = 262_144 * 128;
/// Bytes of mountinfo: 100,000 mounts (the kernel's own limit, fs.mount-max) of 160 bytes, or 10,000 overlays of 1.6 KB.
const BY_MOUNT: usize = 16_000_000;
/// Bytes of mountstats: 10,000 mounts of NFS 4.2, whose 70 operations take 5 KB. Not more, since the exporter accepts an
/// answer of 64 MiB.
const BY_NFS_MOUNT: usize = 10_000 * 5200;

/// Possible CPUs: NR_CPUS of the largest configuration.
const CPUS: usize = 8192;
/// Interfaces in one namespace: the most names that are read of one directory.
const INTERFACES: usize = 65_536;
/// Block devices and their controllers: 1,000 volumes with 16 paths each, or 8,000 volumes with two.
const DISKS: usize = 16_384;
/// Devices of which a machine has some hundreds, including the functions of SR-IOV and the sensors of drives.
const DEVICES: usize = 4096;
/// Processes or threads: more than run on any machine that is monitored by process.
const PROCESSES: usize = 131_072;
/// Mounts: fs.mount-max.
const MOUNTS: usize = 100_000;
/// Pools and datasets of ZFS. Each needs an open descriptor, with 5 KiB of kernel memory: 10,240 of them fit into the 64 MiB
/// of a broker's container. A host with a dataset for each layer of each container image has some thousands.
const DATASETS: usize = 10_240;
/// File systems of one kind that are mounted.
const FILE_SYSTEMS: usize = 1024;

/// Whether a collector that is on by default needs the query.
const ON: bool = true;
const OFF: bool = false;

/// The files of a cgroup: one pattern, so that cgroups are read one after the other.
macro_rules! cgroup_files {
    ($dir:literal) => {
        concat!(
            $dir,
            "/{cpu.stat,cpu.pressure,io.stat,io.pressure,memory.current,memory.events,memory.high,memory.max,memory.peak,",
            "memory.pressure,memory.stat,memory.swap.current,memory.swap.max,pids.current,pids.max}"
        )
    };
}

/// The table. A row: query, class, default, sources, access level, bytes a file, files.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    new_row(Query::Stat, Procfs, ON, &[proc("stat")], Minimal, BY_CPU, 1),
    new_row(Query::Loadavg, Procfs, ON, &[proc("loadavg")], Minimal, VALUE, 1),
    new_row(Query::Meminfo, Procfs, ON, &[proc("meminfo")], Minimal, SHORT, 1),
    new_row(Query::Vmstat, Procfs, ON, &[proc("vmstat")], Minimal, SHORT, 1),
    new_row(Query::Pressure, Procfs, ON, &[proc("pressure/{cpu,io,irq,memory}")], Minimal, VALUE, 4),
    new_row(Query::Diskstats, Procfs, ON, &[proc("diskstats")], Minimal, BY_DISK, 1),
    new_row(Query::Block, Sysfs, ON, &[sys("block/*/queue/rotational")], Minimal, VALUE, DISKS),
    new_row(Query::Udev, Files, ON, &[Source { root: Root::Udev, pattern: "b#:#", kind: Kind::Text }], Host, SHORT, 65_536),
    new_row(Query::FileNr, Procfs, ON, &[proc("sys/fs/file-nr")], Minimal, VALUE, 1),
    new_row(Query::Random, Procfs, ON, &[proc("sys/kernel/random/{entropy_avail,poolsize}")], Minimal, VALUE, 2),
    new_row(Query::Schedstat, Procfs, ON, &[proc("schedstat")], Minimal, BY_CPU_LONG, 1),
    new_row(Query::Kernel, Procfs, ON, &[proc("sys/kernel/{ostype,osrelease,version,arch}")], Minimal, VALUE, 4),
    new_row(Query::HungTasks, Procfs, ON, &[proc("sys/kernel/hung_task_detect_count")], Minimal, VALUE, 1),
    new_row(Query::Cpu, Sysfs, ON, &[
        sys("devices/system/cpu/{isolated,online}"),
        sys("devices/system/cpu/cpu#/online"),
        sys("devices/system/cpu/cpu#/topology/{physical_package_id,core_id}"),
        sys("devices/system/cpu/cpu#/thermal_throttle/{core_throttle_count,package_throttle_count}"),
    ], Minimal, VALUE, 2 + 5 * CPUS),
    new_row(Query::Cpuinfo, Procfs, OFF, &[proc("cpuinfo")], Minimal, BY_CPU_LONG, 1),
    new_row(Query::Cpufreq, Devices, ON, &[
        sys("devices/system/cpu/cpu#/cpufreq/{cpuinfo_avg_freq,cpuinfo_cur_freq,cpuinfo_max_freq,cpuinfo_min_freq}"),
        sys("devices/system/cpu/cpu#/cpufreq/{scaling_available_governors,scaling_cur_freq,scaling_governor,scaling_max_freq,scaling_min_freq}"),
    ], Minimal, VALUE, 9 * CPUS),
    new_row(Query::CpuVulnerabilities, Sysfs, OFF, &[sys("devices/system/cpu/vulnerabilities/*")], Minimal, VALUE, 256),
    new_row(Query::Clocksource, Sysfs, ON, &[sys("devices/system/clocksource/clocksource#/{available_clocksource,current_clocksource}")], Minimal, VALUE, 16),
    new_row(Query::Softnet, Procfs, ON, &[proc("1/net/softnet_stat")], Minimal, BY_CPU, 1),
    new_row(Query::Md, Devices, ON, &[proc("mdstat"), sys("block/md*/md/{raid_disks,degraded}")], Minimal, BY_NODE, 1 + 2 * DEVICES),
    new_row(Query::Hwmon, Devices, ON, &[
        sys_link("class/hwmon/hwmon#"),
        sys_link("class/hwmon/hwmon#/device"),
        sys("class/hwmon/hwmon#/{name,beep_enable,update_interval,vrm}"),
        // Not `power`, which is the kernel's directory for power management.
        sys("class/hwmon/hwmon#/{cpu,curr,energy,fan,freq,humidity,in,intrusion,pwm,temp}%"),
        sys("class/hwmon/hwmon#/{cpu,curr,energy,fan,freq,humidity,in,intrusion,power,pwm,temp}#_*"),
        // Drivers older than Linux 3.15 keep their attributes in the device's directory.
        sys("class/hwmon/hwmon#/device/{name,beep_enable,update_interval,vrm}"),
        sys("class/hwmon/hwmon#/device/{cpu,curr,energy,fan,freq,humidity,in,intrusion,pwm,temp}%"),
        sys("class/hwmon/hwmon#/device/{cpu,curr,energy,fan,freq,humidity,in,intrusion,power,pwm,temp}#_*"),
    ], Minimal, VALUE, 32 * DEVICES),
    new_row(Query::Thermal, Devices, ON, &[
        sys("class/thermal/thermal_zone#/{type,temp}"),
        sys("class/thermal/cooling_device#/{type,cur_state,max_state}"),
    ], Minimal, VALUE, 3 * CPUS + 2 * DEVICES),
    new_row(Query::PowerSupply, Devices, ON, &[sys("class/power_supply/*/*")], Minimal, VALUE, 32 * DEVICES),
    new_row(Query::OsRelease, Files, ON, &[Source { root: Root::OsRelease, pattern: "os-release", kind: Kind::Text }], Host, SHORT, 1),

    new_row(Query::NetDev, Procfs, ON, &[proc("1/net/dev")], Host, BY_INTERFACE, 1),
    new_row(Query::NetClass, Devices, ON, &[
        sys("class/net/*/{addr_assign_type,address,broadcast,carrier,carrier_changes,carrier_down_count,carrier_up_count,dev_id,dormant,duplex,flags}"),
        sys("class/net/*/{ifalias,ifindex,iflink,link_mode,mtu,name_assign_type,netdev_group,operstate,speed,tx_queue_len,type}"),
        sys("class/net/*/statistics/rx_nohandler"),
    ], Host, VALUE, 23 * INTERFACES),
    new_row(Query::NetSnmp, Procfs, ON, &[proc("1/net/{netstat,snmp,snmp6}")], Host, SHORT, 3),
    new_row(Query::Sockstat, Procfs, ON, &[proc("1/net/{sockstat,sockstat6}")], Host, VALUE, 2),
    new_row(Query::Udp, Procfs, ON, &[proc("1/net/{udp,udp6}")], Host, BY_SOCKET, 2),
    new_row(Query::Arp, Procfs, ON, &[proc("1/net/arp")], Host, BY_INTERFACE, 1),
    new_row(Query::Conntrack, Procfs, ON, &[
        proc("1/net/stat/nf_conntrack"),
        proc("sys/net/netfilter/nf_conntrack_max"),
        // What kernels without CONFIG_NF_CONNTRACK_PROCFS have instead of the first.
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_count"),
    ], Host, BY_CPU, 3),
    new_row(Query::Bonding, Devices, ON, &[
        sys("class/net/bonding_masters"),
        sys("class/net/*/bonding/slaves"),
        sys("class/net/*/{lower,slave}_*/bonding_slave/mii_status"),
    ], Host, VALUE, 1 + INTERFACES),
    new_row(Query::NetStatistics, Devices, OFF, &[
        sys("class/net/*/statistics/{rx_crc_errors,rx_dropped,rx_frame_errors,rx_length_errors,rx_missed_errors,rx_over_errors}"),
        sys("class/net/*/statistics/{tx_aborted_errors,tx_carrier_errors,tx_heartbeat_errors,tx_window_errors}"),
    ], Host, VALUE, 10 * INTERFACES),
    new_row(Query::NetAddresses, Procfs, OFF, &[proc("1/net/if_inet6")], Host, BY_INTERFACE, 1),

    new_row(Query::Processes, Processes, OFF, &[process("#/stat")], Host, VALUE, PROCESSES),
    new_row(Query::ProcessDetails, Processes, OFF, &[
        process("#/status"),
        Source { root: Root::Processes, pattern: "#/fd", kind: Kind::Entries },
    ], Host, VALUE, 2 * PROCESSES),
    // The stat of a process with one thread has the same content.
    new_row(Query::Threads, Processes, OFF, &[Source { root: Root::Processes, pattern: "#/task/#/stat", kind: Kind::TextIfSeveralDirectories }], Host, VALUE, PROCESSES),
    // Since Linux 6.14 each PID namespace has a pid_max of its own; threads-max is one for all.
    new_row(Query::ProcessLimits, Procfs, OFF, &[
        proc_in(Namespace::Pid, "sys/kernel/pid_max"),
        proc("sys/kernel/threads-max"),
    ], Minimal, VALUE, 2),
    new_row(Query::Cgroups, Sysfs, ON, &[
        sys("fs/cgroup/{cpu.stat,memory.stat,cgroup.controllers}"),
        sys(cgroup_files!("fs/cgroup/{init,init.scope,system,system.slice,podruntime,runtime.slice,user.slice,machine.slice}")),
        sys(cgroup_files!("fs/cgroup/{system,system.slice,podruntime,runtime.slice}/*")),
        // Talos keeps its extension services one level further down.
        sys(cgroup_files!("fs/cgroup/system/extensions/*")),
    ], Host, SHORT, 15 * DEVICES),

    new_row(Query::Mounts, Procfs, ON, &[proc("1/mountinfo")], Host, BY_MOUNT, 1),
    new_row(Query::OwnMounts, Procfs, ON, &[Source { root: Root::ProcSelf, pattern: "mountinfo", kind: Kind::Text }], Minimal, BY_MOUNT, 1),
    new_row(Query::ProbeDirectories, Mounts, ON, &[Source { root: Root::ProbeDirectories, pattern: "*", kind: Kind::FileSystem }], Minimal, BY_MOUNT, 64),
    new_row(Query::RootFileSystems, Mounts, ON, &[Source { root: Root::Rootfs, pattern: "*", kind: Kind::FileSystem }], Host, BY_MOUNT, MOUNTS),

    new_row(Query::Buddyinfo, Procfs, OFF, &[proc("buddyinfo")], Minimal, BY_NODE, 1),
    new_row(Query::CgroupControllers, Procfs, OFF, &[proc("cgroups")], Minimal, VALUE, 1),
    // Container runtimes mask it in a container's own /proc.
    new_row(Query::Interrupts, Procfs, OFF, &[proc("interrupts")], Host, BY_CPU_LONG, 1),
    new_row(Query::Softirqs, Procfs, OFF, &[proc("softirqs")], Minimal, BY_CPU, 1),
    new_row(Query::Slabinfo, Procfs, OFF, &[proc("slabinfo")], Minimal, BY_NODE, 1),
    new_row(Query::Zoneinfo, Procfs, OFF, &[proc("zoneinfo")], Minimal, BY_CPU_LONG, 1),
    new_row(Query::Swaps, Procfs, OFF, &[proc("swaps")], Minimal, SHORT, 1),
    // Not listed: values of a namespace, files that change when they are read (kernel/random/uuid, vm/stat_refresh), files
    // that may hang (fs/binfmt_misc is a mount point), and secrets: net/ipv4/tcp_fastopen_key,
    // net/ipv6/conf/*/stable_secret and net/core/netdev_rss_key are keys, and kernel/random/boot_id identifies the host.
    // The limits of connection tracking are the same in all network namespaces.
    new_row(Query::Sysctl, Procfs, OFF, &[
        proc("sys/dev/raid/{speed_limit_max,speed_limit_min}"),
        proc("sys/fs/{aio-max-nr,aio-nr,dentry-state,dir-notify-enable,file-max,file-nr,inode-nr,inode-state,lease-break-time,leases-enable}"),
        proc("sys/fs/{mount-max,nr_open,overflowgid,overflowuid,pipe-max-size,pipe-user-pages-hard,pipe-user-pages-soft}"),
        proc("sys/fs/{protected_fifos,protected_hardlinks,protected_regular,protected_symlinks,suid_dumpable}"),
        proc("sys/fs/epoll/max_user_watches"),
        proc("sys/fs/fanotify/{max_queued_events,max_user_groups,max_user_marks}"),
        proc("sys/fs/inotify/{max_queued_events,max_user_instances,max_user_watches}"),
        proc("sys/fs/quota/{allocated_dquots,cache_hits,drops,free_dquots,lookups,reads,syncs,warnings,writes}"),
        proc("sys/kernel/{acct,apparmor_restrict_unprivileged_userns,bpf_stats_enabled,cap_last_cap,core_file_note_size_limit,core_pattern}"),
        proc("sys/kernel/{core_pipe_limit,core_uses_pid,ctrl-alt-del,dmesg_restrict,ftrace_dump_on_oops,ftrace_enabled}"),
        proc("sys/kernel/{hardlockup_all_cpu_backtrace,hardlockup_panic,hung_task_all_cpu_backtrace,hung_task_check_count}"),
        proc("sys/kernel/{hung_task_check_interval_secs,hung_task_detect_count,hung_task_panic,hung_task_timeout_secs,hung_task_warnings}"),
        proc("sys/kernel/{io_uring_disabled,io_uring_group,kexec_load_disabled,kptr_restrict,max_lock_depth,modprobe,modules_disabled}"),
        proc("sys/kernel/{nmi_watchdog,numa_balancing,oops_all_cpu_backtrace,oops_limit,overflowgid,overflowuid}"),
        proc("sys/kernel/{panic,panic_on_io_nmi,panic_on_oops,panic_on_rcu_stall,panic_on_unrecovered_nmi,panic_on_warn,panic_print}"),
        proc("sys/kernel/{perf_cpu_time_max_percent,perf_event_max_sample_rate,perf_event_max_stack,perf_event_mlock_kb,perf_event_paranoid}"),
        proc("sys/kernel/{print-fatal-signals,printk,printk_delay,printk_devkmsg,printk_ratelimit,printk_ratelimit_burst}"),
        proc("sys/kernel/{randomize_va_space,sched_autogroup_enabled,sched_cfs_bandwidth_slice_us,sched_child_runs_first}"),
        proc("sys/kernel/{sched_deadline_period_max_us,sched_deadline_period_min_us,sched_energy_aware,sched_latency_ns}"),
        proc("sys/kernel/{sched_migration_cost_ns,sched_min_granularity_ns,sched_nr_migrate,sched_rr_timeslice_ms,sched_rt_period_us}"),
        proc("sys/kernel/{sched_rt_runtime_us,sched_schedstats,sched_tunable_scaling,sched_util_clamp_max,sched_util_clamp_min}"),
        proc("sys/kernel/{sched_wakeup_granularity_ns,soft_watchdog,softlockup_all_cpu_backtrace,softlockup_panic,split_lock_mitigate}"),
        proc("sys/kernel/{stack_tracer_enabled,sysctl_writes_strict,sysrq,tainted,task_delayacct,threads-max,timer_migration}"),
        proc("sys/kernel/{traceoff_on_warning,tracepoint_printk,unknown_nmi_panic,unprivileged_bpf_disabled,unprivileged_userns_clone}"),
        proc("sys/kernel/{user_events_max,warn_limit,watchdog,watchdog_thresh}"),
        proc("sys/kernel/keys/{gc_delay,maxbytes,maxkeys,persistent_keyring_expiry,root_maxbytes,root_maxkeys}"),
        proc("sys/kernel/pty/{max,nr,reserve}"),
        proc("sys/kernel/random/{entropy_avail,poolsize,read_wakeup_threshold,urandom_min_reseed_secs,write_wakeup_threshold}"),
        proc("sys/kernel/seccomp/{actions_avail,actions_logged}"),
        proc("sys/kernel/yama/ptrace_scope"),
        proc("sys/net/netfilter/nf_conntrack_{buckets,expect_max,max}"),
        proc("sys/sunrpc/{max_resvport,min_resvport,tcp_max_slot_table_entries,tcp_slot_table_entries,udp_slot_table_entries}"),
        proc("sys/vm/{admin_reserve_kbytes,compact_unevictable_allowed,compaction_proactiveness,defrag_mode,dirty_background_bytes}"),
        proc("sys/vm/{dirty_background_ratio,dirty_bytes,dirty_expire_centisecs,dirty_ratio,dirty_writeback_centisecs,dirtytime_expire_seconds}"),
        proc("sys/vm/{enable_soft_offline,extfrag_threshold,hugetlb_optimize_vmemmap,hugetlb_shm_group,laptop_mode,legacy_va_layout}"),
        proc("sys/vm/{lowmem_reserve_ratio,max_map_count,memory_failure_early_kill,memory_failure_recovery,min_free_kbytes}"),
        proc("sys/vm/{min_slab_ratio,min_unmapped_ratio,mmap_min_addr,mmap_rnd_bits,mmap_rnd_compat_bits,nr_hugepages}"),
        proc("sys/vm/{nr_hugepages_mempolicy,nr_overcommit_hugepages,numa_stat,numa_zonelist_order,oom_dump_tasks,oom_kill_allocating_task}"),
        proc("sys/vm/{overcommit_kbytes,overcommit_memory,overcommit_ratio,page-cluster,page_lock_unfairness,panic_on_oom}"),
        proc("sys/vm/{percpu_pagelist_fraction,percpu_pagelist_high_fraction,stat_interval,swappiness,unprivileged_userfaultfd}"),
        proc("sys/vm/{user_reserve_kbytes,vfs_cache_pressure,watermark_boost_factor,watermark_scale_factor,zone_reclaim_mode}"),
    ], Minimal, VALUE, 512),
    new_row(Query::NetSysctl, Procfs, OFF, &[
        proc_in(Namespace::Net, "sys/net/bridge/bridge-nf-{call-arptables,call-ip6tables,call-iptables,filter-pppoe-tagged,filter-vlan-tagged,pass-vlan-input-dev}"),
        proc_in(Namespace::Net, "sys/net/core/{bpf_jit_enable,bpf_jit_harden,bpf_jit_kallsyms,bpf_jit_limit,busy_poll,busy_read,default_qdisc,dev_weight}"),
        proc_in(Namespace::Net, "sys/net/core/{dev_weight_rx_bias,dev_weight_tx_bias,fb_tunnels_only_for_init_net,flow_limit_table_len,gro_normal_batch}"),
        proc_in(Namespace::Net, "sys/net/core/{high_order_alloc_disable,max_skb_frags,message_burst,message_cost,netdev_budget,netdev_budget_usecs}"),
        proc_in(Namespace::Net, "sys/net/core/{netdev_max_backlog,netdev_tstamp_prequeue,netdev_unregister_timeout_secs,optmem_max,rmem_default,rmem_max}"),
        proc_in(Namespace::Net, "sys/net/core/{rps_sock_flow_entries,skb_defer_max,somaxconn,tstamp_allow_data,txrehash,warnings,wmem_default,wmem_max}"),
        proc_in(Namespace::Net, "sys/net/ipv4/conf/{all,default}/{accept_local,accept_redirects,accept_source_route,arp_accept,arp_announce,arp_evict_nocarrier}"),
        proc_in(Namespace::Net, "sys/net/ipv4/conf/{all,default}/{arp_filter,arp_ignore,arp_notify,bootp_relay,disable_policy,disable_xfrm,force_igmp_version}"),
        proc_in(Namespace::Net, "sys/net/ipv4/conf/{all,default}/{forwarding,ignore_routes_with_linkdown,log_martians,mc_forwarding,promote_secondaries,proxy_arp}"),
        proc_in(Namespace::Net, "sys/net/ipv4/conf/{all,default}/{proxy_arp_pvlan,route_localnet,rp_filter,secure_redirects,send_redirects,shared_media,src_valid_mark}"),
        proc_in(Namespace::Net, "sys/net/ipv4/{cipso_cache_enable,fib_multipath_hash_policy,fib_multipath_use_neigh,fib_sync_mem,fwmark_reflect}"),
        proc_in(Namespace::Net, "sys/net/ipv4/icmp_{echo_enable_probe,echo_ignore_all,echo_ignore_broadcasts,errors_use_inbound_ifaddr,ignore_bogus_error_responses}"),
        proc_in(Namespace::Net, "sys/net/ipv4/icmp_{msgs_burst,msgs_per_sec,ratelimit,ratemask}"),
        proc_in(Namespace::Net, "sys/net/ipv4/{igmp_max_memberships,igmp_max_msf,igmp_qrv,inet_peer_maxttl,inet_peer_minttl,inet_peer_threshold}"),
        proc_in(Namespace::Net, "sys/net/ipv4/ip_{default_ttl,dynaddr,early_demux,forward,forward_update_priority,forward_use_pmtu,local_port_range}"),
        proc_in(Namespace::Net, "sys/net/ipv4/ip_{local_reserved_ports,no_pmtu_disc,nonlocal_bind,unprivileged_port_start}"),
        proc_in(Namespace::Net, "sys/net/ipv4/{ipfrag_high_thresh,ipfrag_low_thresh,ipfrag_max_dist,ipfrag_secret_interval,ipfrag_time,min_adv_mss}"),
        proc_in(Namespace::Net, "sys/net/ipv4/neigh/default/{base_reachable_time_ms,delay_first_probe_time,gc_interval,gc_stale_time,gc_thresh1,gc_thresh2,gc_thresh3}"),
        proc_in(Namespace::Net, "sys/net/ipv4/neigh/default/{mcast_solicit,retrans_time_ms,ucast_solicit,unres_qlen,unres_qlen_bytes}"),
        proc_in(Namespace::Net, "sys/net/ipv4/{nexthop_compat_mode,ping_group_range,raw_l3mdev_accept}"),
        proc_in(Namespace::Net, "sys/net/ipv4/route/{error_burst,error_cost,gc_elasticity,gc_interval,gc_min_interval_ms,gc_thresh,gc_timeout,max_size}"),
        proc_in(Namespace::Net, "sys/net/ipv4/route/{min_adv_mss,min_pmtu,mtu_expires,redirect_load,redirect_number,redirect_silence}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{abort_on_overflow,adv_win_scale,allowed_congestion_control,app_win,autocorking,available_congestion_control}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{available_ulp,backlog_ack_defer,base_mss,challenge_ack_limit,child_ehash_entries,comp_sack_delay_ns,comp_sack_nr}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{comp_sack_slack_ns,congestion_control,dsack,early_demux,early_retrans,ecn,ecn_fallback,ehash_entries,fack}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{fastopen,fastopen_blackhole_timeout_sec,fin_timeout,frto,fwmark_accept,invalid_ratelimit,keepalive_intvl}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{keepalive_probes,keepalive_time,l3mdev_accept,limit_output_bytes,low_latency,max_orphans,max_reordering}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{max_syn_backlog,max_tw_buckets,mem,migrate_req,min_rtt_wlen,min_snd_mss,min_tso_segs,moderate_rcvbuf}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{mtu_probe_floor,mtu_probing,no_metrics_save,no_ssthresh_metrics_save,notsent_lowat,orphan_retries}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{pacing_ca_ratio,pacing_ss_ratio,pingpong_thresh,plb_enabled,probe_interval,probe_threshold,recovery,reflect_tos}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{reordering,retrans_collapse,retries1,retries2,rfc1337,rmem,rto_max_ms,rto_min_us,sack,shrink_window}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{slow_start_after_idle,stdurg,syn_linear_timeouts,syn_retries,synack_retries,syncookies,thin_linear_timeouts}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_{timestamps,tso_rtt_log,tso_win_divisor,tw_recycle,tw_reuse,tw_reuse_delay,window_scaling,wmem}"),
        proc_in(Namespace::Net, "sys/net/ipv4/tcp_workaround_signed_windows"),
        proc_in(Namespace::Net, "sys/net/ipv4/udp_{child_hash_entries,early_demux,hash_entries,l3mdev_accept,mem,rmem_min,wmem_min}"),
        proc_in(Namespace::Net, "sys/net/ipv4/vs/{am_droprate,amemthresh,backup_only,cache_bypass,conn_reuse_mode,conntrack,drop_entry,drop_packet}"),
        proc_in(Namespace::Net, "sys/net/ipv4/vs/{expire_nodest_conn,expire_quiescent_template,ignore_tunneled,nat_icmp_send,pmtu_disc,run_estimation}"),
        proc_in(Namespace::Net, "sys/net/ipv4/vs/{schedule_icmp,secure_tcp,sloppy_sctp,sloppy_tcp,snat_reroute,sync_persist_mode,sync_ports,sync_qlen_max}"),
        proc_in(Namespace::Net, "sys/net/ipv4/vs/{sync_refresh_period,sync_retries,sync_sock_size,sync_threshold,sync_version}"),
        proc_in(Namespace::Net, "sys/net/ipv6/conf/{all,default}/{accept_ra,accept_ra_defrtr,accept_ra_pinfo,accept_redirects,accept_source_route,addr_gen_mode}"),
        proc_in(Namespace::Net, "sys/net/ipv6/conf/{all,default}/{autoconf,dad_transmits,disable_ipv6,forwarding,hop_limit,keep_addr_on_down,max_addresses,mtu}"),
        proc_in(Namespace::Net, "sys/net/ipv6/conf/{all,default}/{proxy_ndp,router_solicitations,seg6_enabled,temp_prefered_lft,temp_valid_lft,use_tempaddr}"),
        proc_in(Namespace::Net, "sys/net/ipv6/{auto_flowlabels,bindv6only,fib_multipath_hash_policy,flowlabel_consistency,ip6frag_high_thresh,ip6frag_low_thresh}"),
        proc_in(Namespace::Net, "sys/net/ipv6/{ip6frag_time,ip_nonlocal_bind,max_dst_opts_number,max_hbh_opts_number,mld_max_msf,skip_notify_on_dev_down}"),
        proc_in(Namespace::Net, "sys/net/ipv6/icmp/{echo_ignore_all,echo_ignore_anycast,echo_ignore_multicast,ratelimit,ratemask}"),
        proc_in(Namespace::Net, "sys/net/ipv6/neigh/default/{base_reachable_time_ms,delay_first_probe_time,gc_interval,gc_stale_time,gc_thresh1,gc_thresh2,gc_thresh3}"),
        proc_in(Namespace::Net, "sys/net/ipv6/neigh/default/{mcast_solicit,retrans_time_ms,ucast_solicit,unres_qlen,unres_qlen_bytes}"),
        proc_in(Namespace::Net, "sys/net/ipv6/route/{gc_elasticity,gc_interval,gc_min_interval_ms,gc_thresh,gc_timeout,max_size,min_adv_mss,mtu_expires}"),
        proc_in(Namespace::Net, "sys/net/mptcp/{add_addr_timeout,checksum_enabled,enabled,stale_loss_cnt}"),
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_{acct,checksum,count,events,frag6_timeout,generic_timeout,helper}"),
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_{dccp_loose,gre_timeout,gre_timeout_stream,icmp_timeout,icmpv6_timeout,log_invalid,timestamp}"),
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_sctp_timeout_{closed,cookie_echoed,cookie_wait,established,heartbeat_sent,shutdown_ack_sent}"),
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_tcp_{be_liberal,ignore_invalid_rst,loose,max_retrans}"),
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_tcp_timeout_{close,close_wait,established,fin_wait,last_ack,max_retrans,syn_recv,syn_sent}"),
        proc_in(Namespace::Net, "sys/net/netfilter/nf_conntrack_tcp_timeout_{time_wait,unacknowledged}"),
        proc_in(Namespace::Net, "sys/net/netfilter/{nf_conntrack_udp_timeout,nf_conntrack_udp_timeout_stream,nf_flowtable_tcp_timeout,nf_flowtable_udp_timeout,nf_log_all_netns}"),
        proc_in(Namespace::Net, "sys/net/nf_conntrack_max"),
        proc_in(Namespace::Net, "sys/net/unix/max_dgram_qlen"),
        proc_in(Namespace::Net, "sys/net/sctp/{association_max_retrans,hb_interval,max_burst,path_max_retrans,rto_initial,rto_max,rto_min,sctp_mem,sctp_rmem,sctp_wmem}"),
    ], Host, VALUE, 1024),
    // Not kernel/hostname: the systemd unit has a UTS namespace of its own, to keep the broker from changing the host's.
    new_row(Query::NamespaceSysctl, Procfs, OFF, &[
        proc_in(Namespace::Ipc, "sys/fs/mqueue/{msg_default,msg_max,msgsize_default,msgsize_max,queues_max}"),
        proc_in(Namespace::Ipc, "sys/kernel/{auto_msgmni,msgmax,msgmnb,msgmni,sem,shm_rmid_forced,shmall,shmmax,shmmni}"),
        proc_in(Namespace::Pid, "sys/kernel/pid_max"),
        proc_in(Namespace::Pid, "sys/vm/memfd_noexec"),
        proc_in(Namespace::User, "sys/user/max_{cgroup,ipc,mnt,net,pid,time,user,uts}_namespaces"),
        proc_in(Namespace::User, "sys/user/{max_fanotify_groups,max_fanotify_marks,max_inotify_instances,max_inotify_watches}"),
    ], Host, VALUE, 32),
    new_row(Query::Numa, Sysfs, OFF, &[sys("devices/system/node/node#/{meminfo,numastat}")], Minimal, VALUE, 2 * 1024),
    new_row(Query::Ksm, Sysfs, OFF, &[
        sys("kernel/mm/ksm/{full_scans,general_profit,merge_across_nodes,pages_shared,pages_sharing,pages_to_scan}"),
        sys("kernel/mm/ksm/{pages_unshared,pages_volatile,run,sleep_millisecs}"),
    ], Minimal, VALUE, 10),
    // selinuxfs is mounted in the host's /sys, and not in a container's.
    new_row(Query::Selinux, Sysfs, ON, &[
        sys("fs/selinux/enforce"),
        // "kernel" until a policy is loaded: only this file shows that SELinux is not in use.
        sys("fs/selinux/initial_contexts/kernel"),
    ], Host, VALUE, 2),
    new_row(Query::Watchdog, Devices, ON, &[
        // Without CONFIG_WATCHDOG_SYSFS the kernel shows only that there is a watchdog.
        sys_link("class/watchdog/watchdog#"),
        sys("class/watchdog/watchdog#/{access_cs0,bootstatus,fw_version,identity,nowayout,options}"),
        sys("class/watchdog/watchdog#/{pretimeout,pretimeout_governor,state,status,timeleft,timeout}"),
    ], Minimal, VALUE, 1024),
    new_row(Query::Edac, Devices, ON, &[
        sys("devices/system/edac/mc/mc#/{ce_count,ce_noinfo_count,ue_count,ue_noinfo_count}"),
        sys("devices/system/edac/mc/mc#/csrow#/{ce_count,ue_count}"),
        sys("devices/system/edac/mc/mc#/csrow#/ch#_{ce_count,dimm_label,ue_count}"),
    ], Minimal, VALUE, 32 * DEVICES),
    // Container runtimes mask it in a container's own /sys.
    new_row(Query::Powercap, Devices, ON, &[sys("class/powercap/*/{energy_uj,name}")], Host, VALUE, 2 * DEVICES),
    new_row(Query::Dmi, Sysfs, ON, &[
        sys("class/dmi/id/{bios_date,bios_release,bios_vendor,bios_version}"),
        sys("class/dmi/id/{board_asset_tag,board_name,board_serial,board_vendor,board_version}"),
        sys("class/dmi/id/{chassis_asset_tag,chassis_serial,chassis_vendor,chassis_version}"),
        sys("class/dmi/id/{product_family,product_name,product_serial,product_sku,product_uuid,product_version,sys_vendor}"),
    ], Minimal, VALUE, 20),
    new_row(Query::Drm, Devices, OFF, &[
        sys("class/drm/card#/device/{gpu_busy_percent,mem_info_gtt_total,mem_info_gtt_used,mem_info_vis_vram_total,mem_info_vis_vram_used}"),
        sys("class/drm/card#/device/{mem_info_vram_total,mem_info_vram_used,mem_info_vram_vendor,power_dpm_force_performance_level}"),
        sys("class/drm/card#/device/{uevent,unique_id}"),
    ], Minimal, VALUE, 11 * DEVICES),
    new_row(Query::Pci, Devices, OFF, &[
        // The target shows the parent of a device.
        sys_link("bus/pci/devices/*"),
        sys("bus/pci/devices/*/{class,device,revision,subsystem_device,subsystem_vendor,vendor}"),
        sys("bus/pci/devices/*/{current_link_speed,current_link_width,max_link_speed,max_link_width}"),
        sys("bus/pci/devices/*/{d3cold_allowed,numa_node,power_state}"),
        sys("bus/pci/devices/*/{sriov_drivers_autoprobe,sriov_numvfs,sriov_totalvfs,sriov_vf_total_msix}"),
    ], Minimal, VALUE, 18 * DISKS),
    new_row(Query::Tape, Devices, ON, &[
        sys("class/scsi_tape/st#/stats/{in_flight,io_ns,other_cnt,read_byte_cnt,read_cnt,read_ns}"),
        sys("class/scsi_tape/st#/stats/{resid_cnt,write_byte_cnt,write_cnt,write_ns}"),
    ], Minimal, VALUE, 10 * DEVICES),

    new_row(Query::Nfs, Procfs, ON, &[proc("1/net/rpc/nfs")], Host, SHORT, 1),
    new_row(Query::Nfsd, Procfs, ON, &[proc("1/net/rpc/nfsd")], Host, SHORT, 1),
    new_row(Query::Xfs, Devices, ON, &[sys("fs/xfs/*/stats/stats")], Minimal, VALUE, DEVICES),
    new_row(Query::Ipvs, Procfs, ON, &[proc("1/net/{ip_vs,ip_vs_stats}")], Host, BY_SOCKET, 2),
    new_row(Query::Nvme, Devices, ON, &[
        sys("class/nvme/nvme#/{cntlid,firmware_rev,model,serial,state}"),
        sys("class/nvme/nvme#/nvme#n#/{ana_state,nuse,size}"),
        sys("class/nvme/nvme#/nvme#n#/queue/logical_block_size"),
    ], Minimal, VALUE, 9 * DISKS),
    new_row(Query::NvmeSubsystem, Devices, OFF, &[
        sys("class/nvme-subsystem/nvme-subsys#/{iopolicy,model,serial,subsysnqn}"),
        sys("class/nvme-subsystem/nvme-subsys#/nvme#/{state,transport}"),
        sys("class/nvme-subsystem/nvme-subsys#/nvme#n#/size"),
    ], Minimal, VALUE, 7 * DISKS),
    new_row(Query::Infiniband, Devices, ON, &[
        sys("class/infiniband/*/{board_id,fw_ver,hca_type}"),
        sys("class/infiniband/*/ports/#/{phys_state,rate,state}"),
        sys("class/infiniband/*/ports/#/counters/{VL15_dropped,excessive_buffer_overrun_errors,link_downed,link_error_recovery,local_link_integrity_errors,symbol_error}"),
        sys("class/infiniband/*/ports/#/counters/{multicast_rcv_packets,multicast_xmit_packets,unicast_rcv_packets,unicast_xmit_packets}"),
        sys("class/infiniband/*/ports/#/counters/port_rcv_{constraint_errors,data,discards,errors,packets,remote_physical_errors,switch_relay_errors}"),
        sys("class/infiniband/*/ports/#/counters/port_xmit_{constraint_errors,data,discards,packets,wait}"),
        // Before Linux 4.5 the counters of 64 bits are in a directory of their own.
        sys("class/infiniband/*/ports/#/counters_ext/port_{multicast_rcv_packets,multicast_xmit_packets,unicast_rcv_packets,unicast_xmit_packets}"),
        sys("class/infiniband/*/ports/#/counters_ext/port_{rcv_data_64,rcv_packets_64,xmit_data_64,xmit_packets_64}"),
        sys("class/infiniband/*/ports/#/hw_counters/{duplicate_request,implied_nak_seq_err,lifespan,local_ack_timeout_err,np_cnp_sent,np_ecn_marked_roce_packets}"),
        sys("class/infiniband/*/ports/#/hw_counters/{out_of_buffer,out_of_sequence,packet_seq_err,req_cqe_error,req_cqe_flush_error,req_remote_access_errors}"),
        sys("class/infiniband/*/ports/#/hw_counters/{req_remote_invalid_request,resp_cqe_error,resp_cqe_flush_error,resp_local_length_error,resp_remote_access_errors}"),
        sys("class/infiniband/*/ports/#/hw_counters/{rnr_nak_retry_err,roce_adp_retrans,roce_adp_retrans_to,roce_slow_restart,roce_slow_restart_cnps,roce_slow_restart_trans}"),
        sys("class/infiniband/*/ports/#/hw_counters/{rp_cnp_handled,rp_cnp_ignored,rx_atomic_requests,rx_dct_connect,rx_icrc_encapsulated,rx_read_requests,rx_write_requests}"),
    ], Host, VALUE, 64 * DEVICES),
    new_row(Query::FibreChannel, Devices, ON, &[
        sys("class/fc_host/host#/{dev_loss_tmo,fabric_name,port_id,port_name,port_state,port_type,speed,supported_classes,supported_speeds,symbolic_name}"),
        sys("class/fc_host/host#/statistics/{dumped_frames,error_frames,fcp_packet_aborts,invalid_crc_count,invalid_tx_word_count,link_failure_count}"),
        sys("class/fc_host/host#/statistics/{loss_of_signal_count,loss_of_sync_count,nos_count,rx_frames,rx_words,seconds_since_last_reset,tx_frames,tx_words}"),
    ], Minimal, VALUE, 23 * DEVICES),
    new_row(Query::DeviceMapper, Devices, ON, &[
        sys("block/dm-#/size"),
        sys("block/dm-#/dm/{name,suspended,uuid}"),
        sys_link("block/dm-#/slaves/*"),
        sys("block/*/device/state"),
    ], Minimal, VALUE, 8 * DISKS),
    new_row(Query::Bcache, Devices, ON, &[
        sys("fs/bcache/*-*/{average_key_size,btree_cache_size,cache_available_percent,congested,root_usage_percent,tree_depth}"),
        sys("fs/bcache/*-*/internal/{active_journal_entries,btree_nodes,btree_read_average_duration_us,cache_read_races}"),
        sys("fs/bcache/*-*/bdev#/{dirty_data,writeback_rate_debug}"),
        sys("fs/bcache/*-*/bdev#/stats_total/{bypassed,cache_bypass_hits,cache_bypass_misses,cache_hits,cache_miss_collisions,cache_misses,cache_readaheads}"),
        sys("fs/bcache/*-*/cache#/{io_errors,metadata_written,written}"),
    ], Minimal, VALUE, 32 * FILE_SYSTEMS),
    new_row(Query::BcachePriorities, Devices, OFF, &[sys("fs/bcache/*-*/cache#/priority_stats")], Minimal, VALUE, FILE_SYSTEMS),
    new_row(Query::Bcachefs, Devices, ON, &[
        sys("fs/bcachefs/*-*/{btree_cache_size,btree_write_stats,compression_stats,errors}"),
        sys("fs/bcachefs/*-*/counters/*"),
        sys("fs/bcachefs/*-*/dev-#/{bucket_size,durability,io_done,io_errors,label,nbuckets,state}"),
    ], Minimal, VALUE, 128 * FILE_SYSTEMS),
    new_row(Query::Btrfs, Devices, ON, &[
        sys("fs/btrfs/*-*/{commit_stats,label,metadata_uuid}"),
        sys("fs/btrfs/*-*/allocation/global_rsv_size"),
        sys("fs/btrfs/*-*/allocation/{data,metadata,system}/bytes_reserved"),
        sys("fs/btrfs/*-*/allocation/{data,metadata,system}/*/{total_bytes,used_bytes}"),
        sys("fs/btrfs/*-*/devices/*/size"),
        sys("fs/btrfs/*-*/devinfo/#/error_stats"),
    ], Minimal, VALUE, 32 * FILE_SYSTEMS),
    new_row(Query::Lnstat, Procfs, OFF, &[proc("1/net/stat/{arp_cache,clip_arp_cache,ip_conntrack,ndisc_cache,nf_conntrack,rt_cache,synproxy}")], Host, BY_CPU, 7),
    new_row(Query::Xfrm, Procfs, OFF, &[proc("1/net/xfrm_stat")], Host, VALUE, 1),
    new_row(Query::Tcp, Procfs, OFF, &[proc("1/net/{tcp,tcp6}")], Host, BY_SOCKET, 2),
    new_row(Query::Routes, Procfs, OFF, &[proc("1/net/{ipv6_route,route}")], Host, BY_SOCKET, 2),
    new_row(Query::Drbd, Devices, OFF, &[proc("drbd")], Minimal, SHORT, 1),
    new_row(Query::MountStats, Devices, OFF, &[proc("1/mountstats")], Host, BY_NFS_MOUNT, 1),
    new_row(Query::Zfs, Devices, ON, &[
        proc("spl/kstat/zfs/{abdstats,arcstats,dbufstats,dmu_tx,dnodestats,fm,vdev_cache_stats,vdev_mirror_stats,xuio_stats,zfetchstats,zil}"),
        // Listed when a reader starts: pools and datasets that appear later are found by the next reader.
        proc("spl/kstat/zfs/*/{io,state}"),
        proc("spl/kstat/zfs/*/objset-*"),
    ], Minimal, SHORT, 11 + DATASETS),
];

const fn new_row(
    query: Query,
    class: Class,
    default: bool,
    sources: &'static [Source],
    access_level: AccessLevel,
    file_bytes: usize,
    entries: usize,
) -> Row {
    Row { query, class, default, sources, access_level, file_bytes, entries }
}

impl Row {
    /// The item to which a path of an answer belongs: the directory of the last wildcard, or alternative of directories,
    /// that all patterns with the same [`devices`] share. None for a file that is an item by itself.
    pub fn item<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let (root, below) = path.split_at_checked(path.iter().position(|byte| *byte == b'/')? + 1)?;
        let has_root = |source: &&Source| source.root.name().as_bytes() == &root[..root.len() - 1];
        let source =
            self.sources.iter().filter(has_root).find(|source| matches(source.pattern.as_bytes(), below))?;
        let devices = devices(source.pattern).filter(|_| source.root != Root::Proc)?;
        let is_in_group = |other: &&Source| crate::pattern::devices(other.pattern) == Some(devices);
        let group = self.sources.iter().filter(is_in_group).map(|source| source.pattern);
        let components: Vec<&str> = source.pattern.split('/').collect();
        let alone = group.clone().count() == 1;
        let shared = group.fold(components.len() - usize::from(alone), |shared, pattern| {
            components
                .iter()
                .zip(pattern.split('/'))
                .take(shared)
                .take_while(|(one, other)| *one == other)
                .count()
        });
        let wild =
            components[..shared].iter().rposition(|component| crate::pattern::matches_several(component))?;
        let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        Some(&path[..slashes.nth(wild + 1).unwrap_or(path.len())])
    }
}

/// A hash of the table (FNV-1a, 64 bits), which must be the same in a broker and its readers.
pub fn digest() -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    TABLE.iter().fold(OFFSET, |hash, row| format!("{row:?}").as_bytes().iter().fold(hash, add))
}

/// The row of a query; none for `QUERY_UNSPECIFIED`.
pub fn row(query: Query) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.query == query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::is_wild;

    fn sources() -> impl Iterator<Item = &'static Source> {
        TABLE.iter().flat_map(|row| row.sources)
    }

    #[test]
    fn every_query_has_exactly_one_row() {
        // Enum values of the API stay below 256; gaps are values that were never used.
        let queries = (1..256).filter_map(|value| Query::try_from(value).ok());
        let mut seen = 0;
        for query in queries {
            let rows = TABLE.iter().filter(|row| row.query == query).count();
            assert_eq!(rows, 1, "{}", query.as_str_name());
            seen += 1;
        }
        assert_eq!(seen, TABLE.len());
        assert!(row(Query::Unspecified).is_none());
    }

    /// What is wrong with a component of a pattern.
    fn flaw(component: &str) -> Option<&'static str> {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-:*#%{},".contains(c);
        let (mut inside, mut outside) = (Vec::new(), String::new());
        let mut rest = component;
        while let Some((head, tail)) = rest.split_once('{') {
            let Some((choices, tail)) = tail.split_once('}') else { return Some("a `{` without `}`") };
            outside += head;
            inside.extend(choices.split(','));
            rest = tail;
        }
        outside += rest;
        if !component.chars().all(letter) {
            return Some("a character that is not allowed");
        }
        if outside.contains([',', '}']) || inside.iter().any(|choice| choice.contains(['{', '*', '#', '%'])) {
            return Some("alternatives nest, contain a wildcard, or have no `{`");
        }
        if outside.contains("**") || outside.matches('*').count() > 2 {
            return Some("too many `*` to match fast");
        }
        let mut names = crate::pattern::names(component);
        names.retain(|name| ["", ".", ".."].contains(&&**name));
        (!names.is_empty()).then_some("a component is empty, `.` or `..`")
    }

    #[test]
    fn every_pattern_is_well_formed_and_stays_below_its_root() {
        for source in sources() {
            for component in source.pattern.split('/') {
                assert_eq!(flaw(component), None, "{}", source.pattern);
            }
        }
    }

    #[test]
    fn a_pattern_that_leaves_the_root_or_is_slow_to_match_is_malformed() {
        let flawed =
            ["", "/etc", "a//b", "../etc", "a/./b", "{.,..}", "a/", "{a,}", "{a", "a}", "{a{b}}", "a,b"];
        for pattern in flawed.into_iter().chain(["**", "*a*b*c", "{a*,b}", "{#}", "a\0b", "a b"]) {
            assert!(pattern.split('/').any(|component| flaw(component).is_some()), "{pattern:?}");
        }
    }

    #[test]
    fn procfs_patterns_have_no_wildcards_except_for_zfs() {
        for source in sources().filter(|source| source.root == Root::Proc) {
            // A sandboxed reader opens nothing in procfs. Wildcards are expanded once, before the sandbox: for ZFS, whose
            // pools and datasets have any names. Its directory has counters and names, and nothing of processes.
            let is_zfs = source.pattern.starts_with("spl/kstat/zfs/");
            assert!(is_zfs || !is_wild(source.pattern), "{}", source.pattern);
        }
    }

    /// Every path of a source without wildcards, and the pattern of one with them.
    fn paths(source: &Source) -> Vec<String> {
        let mut paths = vec![String::new()];
        for component in source.pattern.split('/') {
            let names = if is_wild(component) {
                vec![component.to_owned()]
            } else {
                crate::pattern::names(component)
            };
            paths = paths
                .iter()
                .flat_map(|path| names.iter().map(move |name| format!("{path}/{name}")))
                .collect();
        }
        // statfs of mounts asks for the mount points that mountinfo names.
        if source.root == Root::Rootfs { vec!["proc/1/mountinfo".into()] } else { paths }
            .into_iter()
            .map(|path| {
                path.replacen('/', &format!("{}/", source.root.name()), usize::from(path.starts_with('/')))
            })
            .collect()
    }

    #[test]
    fn rows_that_read_the_same_file_have_the_same_limit() {
        let mut limits = std::collections::HashMap::new();
        let mut shared = Vec::new();
        for row in TABLE {
            for path in row.sources.iter().flat_map(paths) {
                let (other, bytes) = *limits.entry(path.clone()).or_insert((row.query, row.file_bytes));
                // A sysctl is one line, which fits every limit.
                let is_value = path.starts_with("proc/sys/") && bytes.min(row.file_bytes) >= VALUE;
                assert!(bytes == row.file_bytes || is_value, "{path}: {other:?} and {:?}", row.query);
                shared.extend((other != row.query).then_some(path));
            }
        }
        for path in ["proc/1/net/stat/nf_conntrack", "proc/1/mountinfo", "proc/sys/fs/file-nr"] {
            assert!(shared.iter().any(|of| of == path), "{path}: {shared:?}");
        }
    }

    #[test]
    fn a_limit_of_files_permits_each_alternative_of_the_row_once() {
        for row in TABLE {
            let alternatives = |source: &Source| crate::pattern::names(source.pattern).len();
            let files: usize = row.sources.iter().map(alternatives).sum();
            assert!(row.entries >= files, "{:?}: {} of {files} files", row.query, row.entries);
        }
    }

    #[test]
    fn no_limit_truncates_the_largest_machine() {
        // As long as the kernel's formats make them, with counters that have run for years.
        let conntrack = 17 * 9 * CPUS;
        let softnet = 15 * 9 * CPUS;
        let stat = "cpu8191 ".len() * CPUS + 10 * 12 * CPUS + 2 * 8 * CPUS;
        let softirqs = 11 * (12 + 11 * CPUS);
        for (query, bytes) in [
            (Query::Conntrack, conntrack),
            (Query::Softnet, softnet),
            (Query::Stat, stat),
            (Query::Softirqs, softirqs),
            (Query::Cpuinfo, 2048 * CPUS),
            (Query::Interrupts, 300 * (12 + 11 * CPUS)),
            (Query::Schedstat, CPUS * (100 + CPUS / 32 * 9 + 36 * 8)),
            (Query::NetDev, INTERFACES * 350),
            (Query::Arp, INTERFACES * 80),
            (Query::Udp, 200_000 * 150),
            (Query::Ipvs, 200_000 * 100),
            (Query::MountStats, 10_000 * 5100),
            (Query::Mounts, 2500 * 5000),
            (Query::Diskstats, 4 * DISKS * 200),
        ] {
            let limit = row(query).unwrap().file_bytes;
            assert!(bytes < limit, "{query:?}: {bytes} of {limit}");
        }
    }

    #[test]
    fn an_item_is_the_prefix_that_all_patterns_of_a_device_share() {
        for (query, path, item) in [
            (Query::NetClass, "sys/class/net/eth0/mtu", Some("sys/class/net/eth0")),
            (Query::NetClass, "sys/class/net/eth0/statistics/rx_nohandler", Some("sys/class/net/eth0")),
            (Query::Hwmon, "sys/class/hwmon/hwmon3/device/temp1_input", Some("sys/class/hwmon/hwmon3")),
            (Query::Hwmon, "sys/class/hwmon/hwmon3/temp", Some("sys/class/hwmon/hwmon3")),
            (Query::Infiniband, "sys/class/infiniband/a/ports/1/rate", Some("sys/class/infiniband/a")),
            (Query::Cgroups, "sys/fs/cgroup/system.slice/x/cpu.stat", Some("sys/fs/cgroup/system.slice/x")),
            (Query::Cgroups, "sys/fs/cgroup/init.scope/cpu.stat", Some("sys/fs/cgroup/init.scope")),
            (Query::Cgroups, "sys/fs/cgroup/cpu.stat", None),
            (
                Query::Thermal,
                "sys/class/thermal/cooling_device1/type",
                Some("sys/class/thermal/cooling_device1"),
            ),
            (Query::Btrfs, "sys/fs/btrfs/a-b/devinfo/1/error_stats", Some("sys/fs/btrfs/a-b")),
            (Query::Threads, "proc/7/task/8/stat", Some("proc/7/task/8")),
            // Each file is an item.
            (Query::Zfs, "proc/spl/kstat/zfs/tank/objset-0x1", None),
            (Query::Udev, "udev/b8:0", None),
            (Query::Conntrack, "proc/1/net/stat/nf_conntrack", None),
            (Query::NetClass, "sys/elsewhere", None),
            (Query::NetClass, "", None),
        ] {
            let found = row(query).unwrap().item(path.as_bytes());
            assert_eq!(found, item.map(str::as_bytes), "{query:?} {path}");
        }
    }

    /// Files that kernels have beside those of items, in the same directories: by the kernel's documentation (ABI/, and
    /// hwmon, btrfs, bcache, powercap of its guides) and by trees of real hosts. None of them may be taken for an item.
    #[rustfmt::skip]
    const NO_ITEMS: &[&str] = &[
        "block/sda/sda1/size", "block/sda/slaves/sdb", "block/mmcblk0/md/level", "block/dm-0/dm/rq_based_seq_io_merge_deadline",
        "bus/pci/devices/0000:00:1f.0/power/control", "bus/pci/devices/0000:00:1f.0/resource",
        "class/dmi/id/modalias", "class/dmi/id/uevent",
        "class/drm/card0-HDMI-A-1/device/uevent", "class/drm/renderD128/device/uevent", "class/drm/version",
        "class/fc_host/host1/statistics/reset_statistics", "class/fc_host/hostx/port_id",
        "class/hwmon/hwmon0/uevent", "class/hwmon/hwmon0/power", "class/hwmon/hwmon0/device/power", "class/hwmon/hwmon0/temperature", "class/hwmon/hwmon0/fan_control",
        "class/hwmon/hwmon0/device/power_now", "class/hwmon/hwmon0/device/energy_full", "class/hwmon/hwmon0/device/temp_alert_min",
        "class/hwmon/hwmon0/device/input", "class/hwmon/hwmon0/device/power/control",
        "class/infiniband/mlx5_0/ports/1/gids/0", "class/infiniband/mlx5_0/node_guid", "class/infiniband/mlx5_0/hw_counters/lifespan",
        "class/net/bonding_masters/mtu/x", "class/net/eth0/queues/tx-0/tx_timeout", "class/net/eth0/phys_port_name",
        "class/nvme/nvme0/nvme0c0n1/size", "class/nvme/nvme0/hwmon1/name", "class/nvme/nvme0/ng0n1/uevent", "class/nvme/nvme0/power/control",
        "class/nvme-subsystem/nvme-subsys0/nvme0c0n1/size", "class/nvme-subsystem/nvme-subsys0/nvme0n1/nuse",
        "class/power_supply/BAT0/power/control", "class/power_supply/BAT0/hwmon2/name",
        "class/powercap/intel-rapl/enabled", "class/powercap/intel-rapl:0/constraint_0_name", "class/powercap/dtpm/uevent",
        "class/scsi_tape/nst0/stats/in_flight", "class/scsi_tape/st0l/stats/in_flight", "class/scsi_tape/nst0a/stats/in_flight",
        "class/thermal/thermal_zone0/trip_point_0_temp", "class/thermal/thermal_message/type", "class/thermal/cooling_device0/stats/total_trans",
        "class/watchdog/watchdog0/device", "devices/system/clocksource/power/control",
        "devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "devices/system/cpu/cpuidle/current_driver", "devices/system/cpu/cpu0/crash_notes",
        "devices/system/cpu/possible", "devices/system/cpu/smt/active", "devices/system/cpu/power/control",
        "devices/system/edac/mc/power/control", "devices/system/edac/mc/mc0/dimm0/dimm_label", "devices/system/edac/mc/mc0/rank0/size",
        "devices/system/edac/pci/pci0/pe_count", "devices/system/node/has_cpu", "devices/system/node/node0/vmstat", "devices/system/node/power/control",
        "fs/bcache/pendings_cleanup", "fs/bcache/register", "fs/bcache/register_quiet",
        "fs/btrfs/debug/label", "fs/btrfs/features/label", "fs/btrfs/features/metadata_uuid", "fs/btrfs/features/raid56",
        "fs/cgroup/kubepods.slice/cpu.stat", "fs/cgroup/cgroup.procs", "fs/cgroup/system.slice/cpu.stat/cpu.stat/x",
        "fs/selinux/status", "fs/xfs/debug/bug_on_assert", "fs/xfs/sda1/error/fail_at_unmount", "fs/xfs/sda1/log/write_grant_head", "fs/xfs/stats/stats",
        "kernel/mm/ksm/use_zero_pages",
    ];

    /// A file of an item for each directory in which the names of items cannot all be known.
    #[rustfmt::skip]
    const ITEMS: &[&str] = &[
        "block/sda/queue/rotational", "block/md0/md/degraded", "block/md_d0/md/degraded", "block/md127/md/raid_disks", "block/dm-12/dm/uuid",
        "block/dm-0/slaves/sda", "block/sda/device/state", "bus/pci/devices/0000:00:1f.0", "bus/pci/devices/10000:e1:00.0/class",
        "class/drm/card10/device/uevent", "class/fc_host/host10/statistics/rx_words",
        "class/hwmon/hwmon0", "class/hwmon/hwmon0/temp", "class/hwmon/hwmon0/temp1_input", "class/hwmon/hwmon0/pwm1", "class/hwmon/hwmon0/in0_input",
        "class/hwmon/hwmon0/device/temp", "class/hwmon/hwmon0/device/humidity", "class/hwmon/hwmon0/intrusion0_alarm", "class/hwmon/hwmon0/cpu0_vid",
        "class/infiniband/mlx5_bond_0/ports/1/counters/port_rcv_data", "class/net/eth0.100/mtu", "class/net/bond-0/bonding/slaves",
        "class/net/br-1a2b/statistics/rx_nohandler", "class/nvme/nvme10/nvme10n1/size", "class/nvme-subsystem/nvme-subsys1/nvme1n1/size",
        "class/nvme-subsystem/nvme-subsys1/nvme1/state", "class/power_supply/BAT0/capacity", "class/power_supply/ucsi-source-psy-USBC000:001/online",
        "class/powercap/intel-rapl-mmio:0/energy_uj", "class/powercap/intel-rapl:0:1/name", "class/scsi_tape/st0/stats/read_cnt",
        "class/thermal/cooling_device12/cur_state", "class/thermal/thermal_zone0/temp", "class/watchdog/watchdog0/timeout",
        "devices/system/cpu/cpu8191/topology/core_id", "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "devices/system/cpu/vulnerabilities/spectre_v2",
        "devices/system/clocksource/clocksource0/current_clocksource", "devices/system/edac/mc/mc0/csrow0/ch0_ce_count", "devices/system/node/node0/meminfo",
        "fs/bcache/deaddd54-c735-46d5-868e-f331c5fd7c74/cache0/priority_stats", "fs/bcachefs/deaddd54-c735-46d5-868e-f331c5fd7c74/dev-0/label",
        "fs/btrfs/0abb23a9-579b-43e6-ad30-227ef47fcb9d/allocation/data/raid1c3/used_bytes", "fs/cgroup/system.slice/ssh.service/cpu.stat",
        "fs/cgroup/system/extensions/iscsid/pids.max", "fs/cgroup/init.scope/memory.stat", "fs/xfs/dm-0/stats/stats",
    ];

    fn matching(path: &str) -> Vec<&'static str> {
        let below_sys = sources().filter(|source| source.root == Root::Sys);
        below_sys
            .map(|source| source.pattern)
            .filter(|pattern| matches(pattern.as_bytes(), path.as_bytes()))
            .collect()
    }

    #[test]
    fn no_pattern_matches_a_file_beside_items_as_an_item() {
        for path in NO_ITEMS {
            assert_eq!(matching(path), [""; 0], "{path}");
        }
    }

    #[test]
    fn every_pattern_with_wildcards_has_an_item_and_every_item_a_pattern() {
        let mut met: Vec<&str> = Vec::new();
        for path in ITEMS {
            let patterns = matching(path);
            assert!(!patterns.is_empty(), "{path}");
            met.extend(patterns.iter().filter_map(|pattern| devices(pattern)));
        }
        for source in sources().filter(|source| source.root == Root::Sys) {
            let Some(devices) = devices(source.pattern) else { continue };
            assert!(
                met.contains(&devices),
                "{devices}: add a file of such an item to ITEMS above, and what lies beside its items to NO_ITEMS"
            );
        }
    }

    #[test]
    fn file_systems_of_this_machine_are_items_by_their_uuids() {
        for class in ["bcache", "bcachefs", "btrfs"] {
            let dir = format!("/sys/fs/{class}");
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let is_uuid =
                    name.len() == 36 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
                let pattern = format!("fs/{class}/*-*");
                let is_item = matches(pattern.as_bytes(), format!("fs/{class}/{name}").as_bytes());
                assert_eq!(is_item, is_uuid, "{dir}/{name}");
            }
        }
    }

    /// What lies below sys/net and is one for all network namespaces, in each of which it is seen: nf_conntrack_standalone.c
    /// copies its table for each namespace, and leaves these three at the kernel's own variables, read-only in all but the
    /// first (since Linux 5.12.2; before it others could write the same ones).
    const GLOBAL_OF_NET: [&str; 3] = [
        "sys/net/netfilter/nf_conntrack_buckets",
        "sys/net/netfilter/nf_conntrack_expect_max",
        "sys/net/netfilter/nf_conntrack_max",
    ];

    #[test]
    fn no_pattern_reads_the_readers_own_network_namespace() {
        for source in sources().filter(|source| source.root == Root::Proc) {
            assert!(!source.pattern.starts_with("net"), "{}", source.pattern);
            assert!(!source.pattern.starts_with("self"), "{}", source.pattern);
            // The limits are global; everything else below sys/net is of the network namespace of who reads.
            let below_net = |path: &String| path.starts_with("sys/net");
            for path in crate::pattern::names(source.pattern).into_iter().filter(below_net) {
                assert!(GLOBAL_OF_NET.contains(&&*path), "{path}");
            }
        }
    }

    #[test]
    fn files_that_depend_on_the_readers_namespace_have_the_root_procin() {
        let expected = |path: &str| match path {
            _ if GLOBAL_OF_NET.contains(&path) => None,
            _ if path.starts_with("sys/net/") => Some(Namespace::Net),
            _ if path.starts_with("sys/fs/mqueue/") => Some(Namespace::Ipc),
            _ if ["auto_msgmni", "msg", "sem", "shm"]
                .iter()
                .any(|name| path.strip_prefix("sys/kernel/").is_some_and(|rest| rest.starts_with(name))) =>
            {
                Some(Namespace::Ipc)
            }
            "sys/kernel/pid_max" | "sys/vm/memfd_noexec" => Some(Namespace::Pid),
            _ if path.starts_with("sys/user/") => Some(Namespace::User),
            _ => None,
        };
        for source in sources() {
            // A choice of names may hide one of them.
            for path in crate::pattern::names(source.pattern) {
                match source.root {
                    Root::ProcIn(namespace) => assert_eq!(expected(&path), Some(namespace), "{path}"),
                    Root::Proc => assert_eq!(expected(&path), None, "{path}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn no_sysctl_is_a_key_or_changed_by_reading_it() {
        for source in sources().filter(|source| source.pattern.starts_with("sys/")) {
            for no in [
                "key,",
                "secret,",
                "secret}",
                "fastopen_key",
                "rss_key",
                "uuid",
                "boot_id",
                "stat_refresh",
                "drop_caches",
            ] {
                let pattern = source.pattern.replace('}', ",");
                assert!(!pattern.contains(no) || pattern.contains("secret_interval"), "{no}: {source:?}");
            }
        }
    }

    #[test]
    fn files_of_the_hosts_network_namespace_need_the_access_level_host() {
        for row in TABLE {
            for source in row.sources {
                let namespaced = source.root == Root::Processes
                    || source.pattern.starts_with("1/")
                    || source.pattern.starts_with("class/net");
                if namespaced && row.query != Query::Softnet {
                    assert_eq!(row.access_level, Host, "{}", row.query.as_str_name());
                }
            }
        }
    }

    #[test]
    fn no_pattern_matches_a_process_file_that_may_have_secrets() {
        for source in sources() {
            for secret in ["environ", "cmdline", "maps", "mem", "root", "cwd", "exe", "fd", "io"] {
                assert!(
                    source.root != Root::Proc || !source.pattern.split('/').any(|c| c == secret),
                    "{}",
                    source.pattern
                );
            }
        }
    }
}
