//! Our parsers against procfs-core's, whose authors read the same kernel files: on files as the kernel writes
//! them, both find the same numbers. On other bytes ours must not panic, and some of theirs do: `hostile.rs`.

mod hostile;
mod process;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use keyhole_exporter::collector::{self, COLLECTORS, Collect, Context, LocalData};
use keyhole_exporter::exposition::Exposition;
use keyhole_exporter::options::Options;
use keyhole_exporter::snapshot::{Content, Snapshot};
use keyhole_exporter::text::ProcessStat;
use procfs_core::net::{
    ArpEntries, InterfaceDeviceStatus, RouteEntries, Snmp, Snmp6, TcpNetEntries, TcpState, UdpNetEntries,
};
use procfs_core::process::Stat;
use procfs_core::{
    CGroupControllers, CpuInfo, CpuPressure, DiskStats, FromRead, FromReadSI, IoPressure, KernelStats,
    LoadAverage, Meminfo, MemoryPressure, VmStat,
};
use proptest::array::{uniform3, uniform4, uniform6, uniform7, uniform10, uniform19};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use hostile::MACHINE;

/// Options with which every filter lets everything through.
static OPTIONS: LazyLock<Options> = LazyLock::new(|| {
    let flags = [
        "--collector.diskstats.device-exclude=",
        "--collector.filesystem.fs-types-exclude=",
        "--collector.filesystem.mount-points-exclude=",
        "--collector.netstat.fields=.",
        "--collector.vmstat.fields=.",
    ];
    Options::parse(&collector::flags(), flags.map(str::to_owned)).unwrap().0
});

/// Options with which each CPU says what it is, for which `proc/cpuinfo` must be there.
static WITH_CPU_INFO: LazyLock<Options> =
    LazyLock::new(|| Options::parse(&collector::flags(), ["--collector.cpu.info".to_owned()]).unwrap().0);

/// The series of a collector over these files, by name and labels.
fn collect(collector: &str, files: &[(&str, &str)]) -> BTreeMap<String, f64> {
    collect_with(&OPTIONS, collector, files)
}

fn collect_with(options: &Options, name: &str, files: &[(&str, &str)]) -> BTreeMap<String, f64> {
    collect_snapshot(&*collector(options, name), &snapshot(files))
}

/// The collector of this name, with options.
fn collector(options: &Options, name: &str) -> Box<dyn Collect> {
    let collector = COLLECTORS.iter().find(|other| other.name == name).expect("a collector");
    (collector.new)(options).unwrap()
}

fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let file =
        |(path, text): &(&str, &str)| (path.as_bytes().to_vec(), Content::bytes(text.as_bytes().to_vec()));
    Snapshot::from_files(files.iter().map(file).collect())
}

fn collect_snapshot(collector: &dyn Collect, snapshot: &Snapshot) -> BTreeMap<String, f64> {
    let local = LocalData { now: UNIX_EPOCH, node_name: None, timex: Err(1), uname: None, time_zone: None };
    let mut out = Exposition::new();
    collector.collect(&Context { snapshot, local: &local }, &mut out).unwrap();
    out.series().map(|series| (series.key(), series.value().as_f64())).collect()
}

fn one(series: &BTreeMap<String, f64>, key: &str) -> f64 {
    *series.get(key).unwrap_or_else(|| panic!("{key} is missing in {series:?}"))
}

/// Counts of which a float is exact.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0..1000u64, 0..=(1u64 << 53)]
}

fn words(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// Lines of names and lines of values under them, as `proc/net/snmp` has them, each value replaced by the next of
/// `numbers`; but for those that are no counts.
fn pairs(names_and_values: &str, numbers: &[u64]) -> String {
    let mut numbers = numbers.iter().cycle();
    let mut lines = names_and_values.lines();
    let mut out = String::new();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let mut replaced = Vec::new();
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            let is_setting =
                matches!(name, "Forwarding" | "DefaultTTL" | "RtoAlgorithm") || name.ends_with(':');
            replaced.push(if is_setting { value.to_owned() } else { numbers.next().unwrap().to_string() });
        }
        out += &format!("{names}\n{}\n", replaced.join(" "));
    }
    out
}

/// A socket of `proc/net/tcp` or `udp`: a state and two queues.
fn sockets(sockets: &[(u8, u32, u32)]) -> String {
    let line = |(at, (state, tx, rx)): (usize, &(u8, u32, u32))| {
        format!(
            "{at:4}: 0100007F:0CEA 00000000:0000 {state:02X} {tx:08X}:{rx:08X} 00:00000000 00000000 0 0 17063 1 0\n"
        )
    };
    let lines: String = sockets.iter().enumerate().map(line).collect();
    format!(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n{lines}"
    )
}

proptest! {
    #[test]
    fn load_averages(loads in uniform3(0..100_000u32), threads in any::<[u32; 2]>()) {
        let [one_minute, five, fifteen] = loads.map(|load| format!("{}.{:02}", load / 100, load % 100));
        let text = format!("{one_minute} {five} {fifteen} {}/{} 7\n", threads[0], threads[1]);
        let theirs = LoadAverage::from_read(text.as_bytes()).unwrap();
        let ours = collect("loadavg", &[("proc/loadavg", &text)]);
        let theirs =
            [("node_load1", theirs.one), ("node_load5", theirs.five), ("node_load15", theirs.fifteen)];
        for (name, theirs) in theirs {
            prop_assert_eq!(one(&ours, name) as f32, theirs);
        }
    }

    #[test]
    fn virtual_memory(fields in btree_map("[a-z][a-z_0-9]{0,20}", count(), 1..40)) {
        let text: String = fields.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        let VmStat(theirs) = VmStat::from_read(text.as_bytes()).unwrap();
        let ours = collect("vmstat", &[("proc/vmstat", &text)]);
        prop_assert_eq!(ours.len(), theirs.len());
        for (name, value) in theirs {
            prop_assert_eq!(one(&ours, &format!("node_vmstat_{name}")), value as f64);
        }
    }

    #[test]
    fn memory(
        values in uniform19(0..1u64 << 40),
        more in btree_map("[A-Z][a-z]{9,12}", 0..1u64 << 40, 0..9),
    ) {
        const NEEDED: [&str; 19] = [
            "MemTotal", "MemFree", "Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal",
            "SwapFree", "Dirty", "Writeback", "Mapped", "Slab", "Committed_AS", "VmallocTotal", "VmallocUsed",
            "VmallocChunk", "Active(anon)", "MemAvailable",
        ];
        let more = more.iter().map(|(name, value)| (name.as_str(), *value));
        let fields = NEEDED.into_iter().zip(values).chain(more);
        let mut text: String =
            fields.map(|(name, value)| format!("{:15} {value:8} kB\n", format!("{name}:"))).collect();
        text += &format!("HugePages_Total: {:6}\n", values[0]);
        let theirs = Meminfo::from_read(text.as_bytes()).unwrap();
        let ours = collect("meminfo", &[("proc/meminfo", &text)]);
        for (name, value) in [
            ("node_memory_MemTotal_bytes", theirs.mem_total),
            ("node_memory_Cached_bytes", theirs.cached),
            ("node_memory_Committed_AS_bytes", theirs.committed_as),
            ("node_memory_Active_anon_bytes", theirs.active_anon.unwrap()),
            ("node_memory_MemAvailable_bytes", theirs.mem_available.unwrap()),
            ("node_memory_HugePages_Total", theirs.hugepages_total.unwrap()),
        ] {
            prop_assert_eq!(one(&ours, name), value as f64, "{}", name);
        }
    }

    #[test]
    fn the_kernels_counters_and_cpus(
        cpus in vec(uniform10(count()), 1..9),
        counters in uniform3(count()),
        tasks in any::<[u32; 2]>(),
    ) {
        let line = |name: &str, cpu: &[u64; 10]| format!("{name} {}\n", words(cpu));
        let mut text = line("cpu ", &cpus[0]);
        text.extend(cpus.iter().enumerate().map(|(at, cpu)| line(&format!("cpu{at}"), cpu)));
        let [switches, boot, forks] = counters;
        text += &format!(
            "intr 5 0 5\nctxt {switches}\nbtime {boot}\nprocesses {forks}\nprocs_running {}\n\
             procs_blocked {}\nsoftirq 1 1\n",
            tasks[0], tasks[1]
        );
        let theirs = KernelStats::from_read(text.as_bytes(), &MACHINE).unwrap();
        let ours = collect("stat", &[("proc/stat", &text)]);
        for (name, value) in [
            ("node_context_switches_total", theirs.ctxt as f64),
            ("node_boot_time_seconds", theirs.btime as f64),
            ("node_forks_total", theirs.processes as f64),
            ("node_procs_running", theirs.procs_running.unwrap().into()),
            ("node_procs_blocked", theirs.procs_blocked.unwrap().into()),
        ] {
            prop_assert_eq!(one(&ours, name), value, "{}", name);
        }
        let ours = collect("cpu", &[("proc/stat", &text)]);
        for (at, cpu) in theirs.cpu_time.iter().enumerate() {
            for (mode, ticks) in [
                ("user", cpu.user),
                ("nice", cpu.nice),
                ("system", cpu.system),
                ("idle", cpu.idle),
                ("iowait", cpu.iowait.unwrap()),
                ("irq", cpu.irq.unwrap()),
                ("softirq", cpu.softirq.unwrap()),
                ("steal", cpu.steal.unwrap()),
            ] {
                let key = format!("node_cpu_seconds_total{{cpu=\"{at}\",mode=\"{mode}\"}}");
                prop_assert_eq!(one(&ours, &key), ticks as f64 / 100.0, "{}", key);
            }
            for (mode, ticks) in [("user", cpu.guest), ("nice", cpu.guest_nice)] {
                let key = format!("node_cpu_guest_seconds_total{{cpu=\"{at}\",mode=\"{mode}\"}}");
                prop_assert_eq!(one(&ours, &key), ticks.unwrap() as f64 / 100.0, "{}", key);
            }
        }
    }

    #[test]
    fn disks(
        disks in btree_map(
            "[a-z]{2,8}[0-9]{0,3}",
            (vec(0..1u64 << 40, 17), prop_oneof![Just(11), Just(15), Just(17)]),
            1..6,
        ),
    ) {
        let line = |(name, (counters, columns)): (&String, &(Vec<u64>, usize))| {
            format!("   8      16 {name} {}\n", words(&counters[..*columns]))
        };
        let text: String = disks.iter().map(line).collect();
        let DiskStats(theirs) = DiskStats::from_read(text.as_bytes()).unwrap();
        let ours = collect("diskstats", &[("proc/diskstats", &text)]);
        for disk in theirs {
            let bytes = |sectors: u64| sectors as f64 * 512.0;
            let seconds = |milliseconds: u64| milliseconds as f64 * 0.001;
            for (name, value) in [
                ("reads_completed_total", Some(disk.reads as f64)),
                ("reads_merged_total", Some(disk.merged as f64)),
                ("read_bytes_total", Some(bytes(disk.sectors_read))),
                ("read_time_seconds_total", Some(seconds(disk.time_reading))),
                ("writes_completed_total", Some(disk.writes as f64)),
                ("writes_merged_total", Some(disk.writes_merged as f64)),
                ("written_bytes_total", Some(bytes(disk.sectors_written))),
                ("write_time_seconds_total", Some(seconds(disk.time_writing))),
                ("io_now", Some(disk.in_progress as f64)),
                ("io_time_seconds_total", Some(seconds(disk.time_in_progress))),
                ("io_time_weighted_seconds_total", Some(seconds(disk.weighted_time_in_progress))),
                ("discards_completed_total", disk.discards.map(|value| value as f64)),
                ("discards_merged_total", disk.discards_merged.map(|value| value as f64)),
                ("discarded_sectors_total", disk.sectors_discarded.map(|value| value as f64)),
                ("discard_time_seconds_total", disk.time_discarding.map(seconds)),
                ("flush_requests_total", disk.flushes.map(|value| value as f64)),
                ("flush_requests_time_seconds_total", disk.time_flushing.map(seconds)),
            ] {
                let key = format!("node_disk_{name}{{device=\"{}\"}}", disk.name);
                prop_assert_eq!(ours.get(&key).copied(), value, "{}", key);
            }
        }
    }

    #[test]
    fn interfaces(devices in btree_map("[a-z]{1,8}[0-9]{0,3}", vec(count(), 16), 1..6)) {
        let mut text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|\
            bytes    packets errs drop fifo colls carrier compressed\n".to_owned();
        text.extend(devices.iter().map(|(name, numbers)| format!("{name:>6}: {}\n", words(numbers))));
        let InterfaceDeviceStatus(theirs) = InterfaceDeviceStatus::from_read(text.as_bytes()).unwrap();
        let ours = collect("netdev", &[("proc/1/net/dev", &text)]);
        prop_assert_eq!(ours.len(), 16 * theirs.len());
        for (device, status) in theirs {
            for (name, value) in [
                ("receive_bytes", status.recv_bytes),
                ("receive_packets", status.recv_packets),
                ("receive_errs", status.recv_errs),
                ("receive_drop", status.recv_drop),
                ("receive_fifo", status.recv_fifo),
                ("receive_frame", status.recv_frame),
                ("receive_compressed", status.recv_compressed),
                ("receive_multicast", status.recv_multicast),
                ("transmit_bytes", status.sent_bytes),
                ("transmit_packets", status.sent_packets),
                ("transmit_errs", status.sent_errs),
                ("transmit_drop", status.sent_drop),
                ("transmit_fifo", status.sent_fifo),
                ("transmit_colls", status.sent_colls),
                ("transmit_carrier", status.sent_carrier),
                ("transmit_compressed", status.sent_compressed),
            ] {
                let key = format!("node_network_{name}_total{{device=\"{device}\"}}");
                prop_assert_eq!(one(&ours, &key), value as f64, "{}", key);
            }
        }
    }

    #[test]
    fn neighbours(entries in vec((any::<[u8; 4]>(), "[a-z]{1,5}[0-9]"), 0..20)) {
        let mut text = "IP address       HW type     Flags       HW address            Mask     Device\n".to_owned();
        for ([a, b, c, d], device) in &entries {
            let address = format!("{a}.{b}.{c}.{d}");
            text += &format!("{address:16} 0x1         0x2         02:00:00:00:00:01     *        {device}\n");
        }
        let ArpEntries(theirs) = ArpEntries::from_read(text.as_bytes()).unwrap();
        let mut expected = BTreeMap::new();
        for entry in theirs {
            *expected.entry(format!("node_arp_entries{{device=\"{}\"}}", entry.device)).or_default() += 1.0;
        }
        prop_assert_eq!(collect("arp", &[("proc/1/net/arp", &text)]), expected);
    }

    #[test]
    fn tcp_and_udp_sockets(entries in vec((1..=11u8, any::<u32>(), any::<u32>()), 0..30)) {
        let text = sockets(&entries);
        let TcpNetEntries(theirs) = TcpNetEntries::from_read(text.as_bytes(), &MACHINE).unwrap();
        let ours = collect("tcpstat", &[("proc/1/net/tcp", &text)]);
        let state = |name: &str| format!("node_tcp_connection_states{{state=\"{name}\"}}");
        for (number, name) in (1..).zip([
            "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait", "close",
            "close_wait", "last_ack", "listen", "closing",
        ]) {
            let count = theirs.iter().filter(|socket| socket.state.to_u8() == number).count();
            prop_assert_eq!(ours.get(&state(name)).copied().unwrap_or_default(), count as f64, "{}", name);
        }
        let connected = || theirs.iter().filter(|socket| socket.state != TcpState::Listen);
        let queued: [f64; 2] = [
            connected().map(|socket| f64::from(socket.tx_queue)).sum(),
            connected().map(|socket| f64::from(socket.rx_queue)).sum(),
        ];
        prop_assert_eq!(["tx_queued_bytes", "rx_queued_bytes"].map(|name| one(&ours, &state(name))), queued);

        let entries: Vec<_> = entries.iter().map(|(_, tx, rx)| (7, *tx, *rx)).collect();
        let text = sockets(&entries);
        let UdpNetEntries(theirs) = UdpNetEntries::from_read(text.as_bytes(), &MACHINE).unwrap();
        let ours = collect("udp_queues", &[("proc/1/net/udp", &text)]);
        let queue = |name: &str| one(&ours, &format!("node_udp_queues{{ip=\"v4\",queue=\"{name}\"}}"));
        let queued: [f64; 2] = [
            theirs.iter().map(|socket| f64::from(socket.tx_queue)).sum(),
            theirs.iter().map(|socket| f64::from(socket.rx_queue)).sum(),
        ];
        prop_assert_eq!(["tx", "rx"].map(queue), queued);
    }

    #[test]
    fn routes(
        routes in vec(
            ("[a-z]{1,5}[0-9]", any::<[u8; 4]>(), 1..=32u32, any::<[u8; 4]>(), any::<u16>()),
            1..9,
        ),
    ) {
        let mut text =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n".to_owned();
        for (device, destination, length, gateway, metric) in &routes {
            let mask = u32::MAX << (32 - length);
            let destination = (u32::from_be_bytes(*destination) & mask).swap_bytes();
            let (gateway, mask) = (u32::from_le_bytes(*gateway), mask.swap_bytes());
            let addresses = format!("{destination:08X}\t{gateway:08X}");
            text += &format!("{device}\t{addresses}\t0003\t0\t0\t{metric}\t{mask:08X}\t0\t0\t0\n");
        }
        let RouteEntries(theirs) = RouteEntries::from_read(text.as_bytes()).unwrap();
        let ours = collect("network_route", &[("proc/1/net/route", &text)]);
        for route in theirs {
            let key = format!(
                "node_network_route_info{{dest=\"{}/{}\",device=\"{}\",gw=\"{}\",priority=\"{}\",proto=\"\",\
                 src=\"\",weight=\"\"}}",
                route.destination,
                u32::from(route.mask).leading_ones(),
                route.iface,
                route.gateway,
                route.metrics
            );
            prop_assert_eq!(one(&ours, &key), 1.0);
        }
    }

    #[test]
    fn protocols(numbers in vec(count(), 90)) {
        let snmp = pairs(hostile::SNMP, &numbers);
        let line = |(line, number): (&str, &u64)| format!("{} {number}\n", line.split_whitespace().next().unwrap());
        let snmp6: String = hostile::SNMP6.lines().zip(numbers.iter().cycle()).map(line).collect();
        let theirs = Snmp::from_read(snmp.as_bytes()).unwrap();
        let theirs6 = Snmp6::from_read(snmp6.as_bytes()).unwrap();
        let netstat = "TcpExt: SyncookiesSent\nTcpExt: 1\n";
        let files = [("proc/1/net/netstat", netstat), ("proc/1/net/snmp", &snmp), ("proc/1/net/snmp6", &snmp6)];
        let ours = collect("netstat", &files);
        for (name, value) in [
            ("Ip_DefaultTTL", theirs.ip_default_ttl.into()),
            ("Ip_InReceives", theirs.ip_in_receives),
            ("Ip_FragCreates", theirs.ip_frag_creates),
            ("Icmp_InMsgs", theirs.icmp_in_msgs),
            ("Icmp_OutAddrMaskReps", theirs.icmp_out_addr_mask_reps),
            ("Tcp_CurrEstab", theirs.tcp_curr_estab),
            ("Tcp_RetransSegs", theirs.tcp_retrans_segs),
            ("Tcp_OutRsts", theirs.tcp_out_rsts),
            ("Udp_InDatagrams", theirs.udp_in_datagrams),
            ("Udp_IgnoredMulti", theirs.udp_ignored_multi),
            ("UdpLite_InErrors", theirs.udp_lite_in_errors),
            ("Ip6_InReceives", theirs6.ip_in_receives),
            ("Ip6_OutOctets", theirs6.ip_out_octets),
            ("Icmp6_InMsgs", theirs6.icmp_in_msgs),
            ("Icmp6_OutMsgs", theirs6.icmp_out_msgs),
            ("UdpLite6_InCsumErrors", theirs6.udp_lite_in_csum_errors),
        ] {
            prop_assert_eq!(one(&ours, &format!("node_netstat_{name}")), value as f64, "{}", name);
        }
    }

    #[test]
    fn pressure(totals in uniform6(count())) {
        let files = [0, 2, 4].map(|at| {
            format!(
                "some avg10=0.00 avg60=0.12 avg300=0.01 total={}\n\
                 full avg10=0.00 avg60=0.12 avg300=0.01 total={}\n",
                totals[at], totals[at + 1]
            )
        });
        let [cpu, io, memory] = &files;
        let files =
            [("proc/pressure/cpu", &cpu[..]), ("proc/pressure/io", io), ("proc/pressure/memory", memory)];
        let ours = collect("pressure", &files);
        let cpu = CpuPressure::from_read(cpu.as_bytes()).unwrap();
        let io = IoPressure::from_read(io.as_bytes()).unwrap();
        let memory = MemoryPressure::from_read(memory.as_bytes()).unwrap();
        for (name, theirs) in [
            ("cpu_waiting", cpu.some),
            ("io_waiting", io.some),
            ("io_stalled", io.full),
            ("memory_waiting", memory.some),
            ("memory_stalled", memory.full),
        ] {
            let ours = one(&ours, &format!("node_pressure_{name}_seconds_total"));
            prop_assert_eq!(ours, theirs.total as f64 / 1e6, "{}", name);
        }
    }

    #[test]
    fn controllers(
        controllers in btree_map("[a-z_]{1,12}", any::<(u32, u32, bool)>(), 1..15),
    ) {
        let mut text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n".to_owned();
        text.extend(controllers.iter().map(|(name, (hierarchy, cgroups, enabled))| {
            format!("{name}\t{hierarchy}\t{cgroups}\t{}\n", u8::from(*enabled))
        }));
        let CGroupControllers(theirs) = CGroupControllers::from_read(text.as_bytes()).unwrap();
        let ours = collect("cgroups", &[("proc/cgroups", &text)]);
        prop_assert_eq!(ours.len(), 2 * theirs.len());
        for controller in theirs {
            let series = |name: &str| {
                one(&ours, &format!("node_cgroups_{name}{{subsys_name=\"{}\"}}", controller.name))
            };
            prop_assert_eq!(series("cgroups"), f64::from(controller.num_cgroups));
            prop_assert_eq!(series("enabled"), f64::from(u8::from(controller.enabled)));
        }
    }

    #[test]
    fn what_a_cpu_is(
        cpus in vec(("[A-Za-z]{1,12}", 0..99u32, "[A-Z][a-z() 0-9]{0,20}[a-z]", 0..9u32), 1..5),
    ) {
        let mut text = String::new();
        for (at, (vendor, family, name, package)) in cpus.iter().enumerate() {
            text += &format!(
                "processor\t: {at}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 85\n\
                 model name\t: {name}\nstepping\t: 4\nmicrocode\t: 0x1\ncpu MHz\t\t: 2000.000\n\
                 cache size\t: 33792 KB\nphysical id\t: {package}\ncore id\t\t: {at}\n\n"
            );
        }
        let theirs = CpuInfo::from_read(text.as_bytes()).unwrap();
        let stat: String = (0..cpus.len()).map(|at| format!("cpu{at} 1 2 3 4 5 6 7 8 9 10\n")).collect();
        let ours = collect_with(&WITH_CPU_INFO, "cpu", &[("proc/stat", &stat), ("proc/cpuinfo", &text)]);
        for at in 0..cpus.len() {
            let field = |name: &str| theirs.get_field(at, name).unwrap();
            let key = format!(
                "node_cpu_info{{cachesize=\"{}\",core=\"{}\",cpu=\"{at}\",family=\"{}\",microcode=\"{}\",\
                 model=\"{}\",model_name=\"{}\",package=\"{}\",stepping=\"{}\",vendor=\"{}\"}}",
                field("cache size"),
                field("core id"),
                field("cpu family"),
                field("microcode"),
                field("model"),
                theirs.model_name(at).unwrap(),
                theirs.physical_id(at).unwrap(),
                field("stepping"),
                theirs.vendor_id(at).unwrap()
            );
            prop_assert_eq!(one(&ours, &key), 1.0);
        }
    }

    #[test]
    fn a_process(
        comm in "\\PC{0,15}",
        state in "[RSDZTtXI]",
        flags in any::<u32>(),
        faults in uniform4(0..1u64 << 62),
        numbers in uniform7(0..1u64 << 62),
        rest in vec(0..1u64 << 31, 28),
    ) {
        let [minor, children_minor, major, children_major] = faults;
        let [user, system, threads, start, size, resident, limit] = numbers;
        let text = format!(
            "7 ({comm}) {state} 1 7 7 0 -1 {flags} {minor} {children_minor} {major} {children_major} {user} \
             {system} 1 2 20 0 {threads} 0 {start} {size} {resident} {limit} {}\n",
            words(&rest)
        );
        let theirs = Stat::from_read(text.as_bytes()).unwrap();
        let ours = ProcessStat::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(ours.comm, theirs.comm.as_bytes());
        prop_assert_eq!(char::from(ours.state), theirs.state);
        prop_assert_eq!(ours.kernel, theirs.flags & 0x20_0000 != 0);
        let numbers = [
            (ours.minor_faults, theirs.minflt),
            (ours.major_faults, theirs.majflt),
            (ours.user_ticks, theirs.utime),
            (ours.system_ticks, theirs.stime),
            (ours.threads, theirs.num_threads as u64),
            (ours.start_ticks, theirs.starttime),
            (ours.virtual_bytes, theirs.vsize),
            (ours.resident_pages.unwrap(), theirs.rss),
        ];
        for (ours, theirs) in numbers {
            prop_assert_eq!(ours, theirs);
        }
    }
}
