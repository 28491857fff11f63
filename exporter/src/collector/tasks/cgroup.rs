//! Control groups of system daemons, version 2: `sys/fs/cgroup/`.
//!
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html>
//!
//! Which cgroups there are is the broker's policy: the slices of systemd and the groups of Talos with their children.
//! Pods are not among them: the kubelet reports those.

mod values;

use std::collections::{BTreeSet, HashMap};

use keyhole_proto::v1::Query;

use self::values::{IO, Place, VALUES};
use crate::collector::{Collect, CollectError, Collector, Context, is_absent};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::snapshot::{Content, Dir, Snapshot};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "cgroup",
    default: true,
    help: "CPU, memory, I/O, processes and pressure of system daemons' cgroups (version 2).",
    queries: &[Query::Cgroups],
    optional: &[Query::Diskstats],
    flags: &[INCLUDE.row, EXCLUDE.row, MAX.row],
    families,
    new: |options| Ok(Box::new(Cgroup::new(options))),
};

const INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.cgroup.include",
    "",
    "Cgroups to include, such as /system.slice/containerd.service.",
);
// systemd makes cgroups for units that never hold a process for long.
const EXCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.cgroup.exclude", r"\.(automount|mount|socket|swap)$", "Cgroups to exclude.");
const MAX: TypedFlag<u64> = TypedFlag::number(
    "collector.cgroup.max-cgroups",
    256,
    "Maximum number of cgroups to report, those nearest to the root first; 0 for no limit.",
);

const ROOT: &str = "sys/fs/cgroup";
/// In the root of a version-2 hierarchy, and nowhere else.
const CONTROLLERS: &str = "sys/fs/cgroup/cgroup.controllers";
const IO_STAT: &str = "io.stat";
const DISKSTATS: &str = "proc/diskstats";

const DROPPED: Family = Family {
    name: "keyhole_cgroup_dropped",
    help: "Cgroups left out of this scrape because there are more than --collector.cgroup.max-cgroups.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::File("sys/fs/cgroup/*/*"),
};

fn families() -> Vec<Family> {
    let values = VALUES.iter().map(|value| value.family);
    let io = IO.iter().map(|(_, family)| *family);
    [DROPPED].into_iter().chain(values).chain(io).collect()
}

/// Of a file of pressure: the kernel was booted with `psi=0`.
const EOPNOTSUPP: u32 = 95;

/// The values of the flags.
#[derive(Debug)]
struct Cgroup {
    paths: Filter,
    /// The most cgroups that are given.
    most: usize,
}

impl Cgroup {
    fn new(options: &Options) -> Self {
        Self { paths: Filter::new(options, INCLUDE, EXCLUDE), most: MAX.limit(options) }
    }
}

impl Collect for Cgroup {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let snapshot = context.snapshot;
        if snapshot.content(CONTROLLERS).is_none() {
            // No failure: an alert on collectors that fail must stay quiet on a host with version 1.
            return Ok(());
        }
        let mut cgroups = cgroups(snapshot);
        cgroups.retain(|(_, path)| self.paths.passes(&label(path)));
        out.add(&DROPPED, &[], cgroups.len().saturating_sub(self.most));
        let devices = devices(snapshot);
        for (_, path) in cgroups.iter().take(self.most) {
            out.item();
            let dir = match path {
                [] => snapshot.dir(ROOT),
                path => snapshot.dir(ROOT).dir(path),
            };
            let label = label(path);
            add_values(&dir, &label, out);
            add_io(&dir, &label, &devices, out);
        }
        Ok(())
    }
}

/// The paths of all cgroups below the root, each with its depth: the order in which they are emitted.
fn cgroups(snapshot: &Snapshot) -> BTreeSet<(usize, &[u8])> {
    let mut cgroups = BTreeSet::new();
    for (path, _) in snapshot.files() {
        let below = path.strip_prefix(ROOT.as_bytes()).and_then(|path| path.strip_prefix(b"/"));
        let Some(file) = below else { continue };
        let path = text::split_last(file, b'/').map_or(&[][..], |(path, _)| path);
        let depth = file.iter().filter(|byte| **byte == b'/').count();
        cgroups.insert((depth, path));
    }
    cgroups
}

/// As in `/proc/<pid>/cgroup`. As text, since a dot in an expression stands for a character.
fn label(path: &[u8]) -> Vec<u8> {
    format!("/{}", text::printable(path)).into_bytes()
}

fn add_values(dir: &Dir<'_>, cgroup: &[u8], out: &mut Exposition) {
    for values in VALUES.chunk_by(|one, other| one.file == other.file) {
        let Some(file) = values.first().map(|value| value.file) else { continue };
        let Some(text) = contents(dir, file, out) else { continue };
        for value in values {
            let Some(number) = find(text, value.place) else { continue };
            match text::unsigned(number) {
                Some(number) => out.add(&value.family, &[cgroup], number as f64 / value.divisor),
                None if number == b"max" => {}
                None => out.skip(|| bad(dir, file, number)),
            }
        }
    }
}

fn contents<'a>(dir: &Dir<'a>, file: &str, out: &mut Exposition) -> Option<&'a [u8]> {
    match dir.content(file)? {
        Content::Bytes { bytes, .. } => Some(bytes),
        Content::Errno(errno) if !is_absent(*errno) && *errno != EOPNOTSUPP => {
            out.skip(|| bad(dir, file, format!("errno {errno}").as_bytes()));
            None
        }
        _ => None,
    }
}

fn bad(dir: &Dir<'_>, file: &str, what: &[u8]) -> String {
    format!("{}/{file}: {}", dir.path().escape_ascii(), what.escape_ascii())
}

/// The number at `place`; none where the kernel lacks it.
fn find(text: &[u8], place: Place) -> Option<&[u8]> {
    let line = |key: &str| {
        text::lines(text).find_map(|line| {
            let mut fields = text::fields(line);
            (fields.next() == Some(key.as_bytes())).then_some(fields)
        })
    };
    match place {
        Place::Alone => Some(text::trim(text)),
        Place::After(key) => line(key)?.next(),
        Place::Total(key) => line(key)?.find_map(|field| field.strip_prefix(b"total=")),
    }
}

/// `8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=0 dios=0`. Before Linux 6.4 the numbers of devices
/// without I/O can stand before others' on one line: what counts is which device was named last.
fn add_io(dir: &Dir<'_>, cgroup: &[u8], devices: &HashMap<Vec<u8>, &[u8]>, out: &mut Exposition) {
    let Some(text) = contents(dir, IO_STAT, out) else { return };
    let mut device: &[u8] = b"";
    for field in text::fields(text) {
        let Some((key, number)) = text::split_first(field, b'=') else {
            device = devices.get(field).copied().unwrap_or(field);
            continue;
        };
        let Some((_, family)) = IO.iter().find(|(name, _)| name.as_bytes() == key) else { continue };
        match text::unsigned(number).filter(|_| !device.is_empty()) {
            Some(number) => out.add(family, &[cgroup, device], number),
            None => out.skip(|| bad(dir, IO_STAT, field)),
        }
    }
}

/// The names of block devices, by `major:minor`.
fn devices(snapshot: &Snapshot) -> HashMap<Vec<u8>, &[u8]> {
    let lines = text::lines(snapshot.text(DISKSTATS).unwrap_or_default());
    let device = |line| {
        let mut fields = text::fields(line);
        let number = [fields.next()?, fields.next()?].join(&b':');
        Some((number, fields.next()?))
    };
    lines.filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};

    /// A cgroup with every controller, as Linux 6.12 shows it; memory.stat has more lines.
    const KUBELET: &[(&str, &[u8])] = &[
        (
            "cpu.stat",
            b"usage_usec 94823671\nuser_usec 61000000\nsystem_usec 33823671\nnice_usec 0\n\
              core_sched.force_idle_usec 0\nnr_periods 40\nnr_throttled 3\nthrottled_usec 1500000\nnr_bursts 0\nburst_usec 0\n",
        ),
        (
            "cpu.pressure",
            b"some avg10=0.00 avg60=0.01 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
        ),
        ("io.stat", b"8:0 rbytes=90430464 wbytes=299008 rios=8950 wios=1252 dbytes=0 dios=0\n259:3 rbytes=1 wbytes=2 rios=3 wios=4\n"),
        ("io.pressure", b"some avg10=0.00 avg60=0.00 avg300=0.00 total=30760642\nfull avg10=0.00 total=500000\n"),
        ("memory.current", b"104857600\n"),
        ("memory.events", b"low 0\nhigh 7\nmax 0\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ("memory.high", b"max\n"),
        ("memory.max", b"536870912\n"),
        ("memory.peak", b"204857600\n"),
        ("memory.pressure", b"some avg10=0.00 total=1\nfull avg10=0.00 total=0\n"),
        ("memory.stat", b"anon 52428800\nfile 31457280\nkernel 10485760\nkernel_stack 16384\ninactive_file 20971520\n"),
        ("memory.swap.current", b"4096\n"),
        ("memory.swap.max", b"max\n"),
        ("pids.current", b"23\n"),
        ("pids.max", b"max\n"),
    ];

    /// What those files come to, without what every line has.
    const SAMPLES: &str = "\
        cpu_periods_total 40\n\
        cpu_system_seconds_total 33.823671\n\
        cpu_throttled_periods_total 3\n\
        cpu_throttled_seconds_total 1.5\n\
        cpu_usage_seconds_total 94.823671\n\
        cpu_user_seconds_total 61\n\
        dropped 0\n\
        io_read_bytes_total{device=\"259:3\"} 1\n\
        io_read_bytes_total{device=\"sda\"} 90430464\n\
        io_reads_total{device=\"259:3\"} 3\n\
        io_reads_total{device=\"sda\"} 8950\n\
        io_writes_total{device=\"259:3\"} 4\n\
        io_writes_total{device=\"sda\"} 1252\n\
        io_written_bytes_total{device=\"259:3\"} 2\n\
        io_written_bytes_total{device=\"sda\"} 299008\n\
        memory_anon_bytes 52428800\n\
        memory_current_bytes 104857600\n\
        memory_file_bytes 31457280\n\
        memory_inactive_file_bytes 20971520\n\
        memory_kernel_bytes 10485760\n\
        memory_max_bytes 536870912\n\
        memory_oom_events_total 2\n\
        memory_oom_kills_total 1\n\
        memory_peak_bytes 204857600\n\
        memory_swap_current_bytes 4096\n\
        pids_current 23\n\
        pressure_cpu_stalled_seconds_total 1\n\
        pressure_cpu_waiting_seconds_total 2.5\n\
        pressure_io_stalled_seconds_total 0.5\n\
        pressure_io_waiting_seconds_total 30.760642\n\
        pressure_memory_stalled_seconds_total 0\n\
        pressure_memory_waiting_seconds_total 1e-6\n";

    const CPU_STAT: &[u8] = b"usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\n";

    /// Runs the collector over a version-2 hierarchy with these files.
    fn series(files: &[(&[u8], &[u8])], flags: &[&str]) -> String {
        let path = |path: &[u8]| [ROOT.as_bytes(), b"/", path].concat();
        let mut all = vec![(CONTROLLERS.as_bytes().to_vec(), Content::bytes(&b"cpu io memory pids\n"[..]))];
        all.extend(files.iter().map(|(name, text)| (path(name), Content::bytes(text.to_vec()))));
        let disks = &b"   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n"[..];
        all.push((DISKSTATS.as_bytes().to_vec(), Content::bytes(disks)));
        collect_snapshot(&COLLECTOR, &Snapshot::from_files(all), flags, &local()).unwrap()
    }

    /// The cgroups that have CPU time.
    fn cgroups_of(text: &str) -> Vec<&str> {
        let lines = text.lines().filter(|line| line.starts_with("keyhole_cgroup_cpu_usage"));
        lines.filter_map(|line| line.split('"').nth(1)).collect()
    }

    #[test]
    fn a_daemons_files_are_reported_in_seconds_and_bytes() {
        let names: Vec<String> =
            KUBELET.iter().map(|(name, _)| format!("podruntime/kubelet/{name}")).collect();
        let files: Vec<_> =
            names.iter().zip(KUBELET).map(|(path, (_, text))| (path.as_bytes(), *text)).collect();
        let text =
            series(&files, &[]).replace("keyhole_cgroup_", "").replace("cgroup=\"/podruntime/kubelet\"", "");
        assert_eq!(text.replace("{}", "").replace("{,", "{"), SAMPLES);
    }

    #[test]
    fn taloss_tree_is_reported_down_to_its_extension_services() {
        let paths = [
            "init",
            "podruntime",
            "podruntime/etcd",
            "system",
            "system/apid",
            "system/extensions/nut-client",
        ];
        let paths = paths.map(|path| format!("{path}/cpu.stat"));
        let files: Vec<_> = paths.iter().map(|path| (path.as_bytes(), CPU_STAT)).collect();
        let text = series(&files, &[]);
        let expected = [
            "/init",
            "/podruntime",
            "/podruntime/etcd",
            "/system",
            "/system/apid",
            "/system/extensions/nut-client",
        ];
        assert_eq!(cgroups_of(&text), expected);
    }

    #[test]
    fn systemds_tree_is_reported_without_transient_units() {
        let files: &[(&[u8], &[u8])] = &[
            (b"cpu.stat", CPU_STAT),
            (b"memory.stat", b"anon 4096\n"),
            (b"init.scope/cpu.stat", CPU_STAT),
            (b"system.slice/cpu.stat", CPU_STAT),
            (b"system.slice/containerd.service/cpu.stat", CPU_STAT),
            (b"system.slice/dbus.socket/cpu.stat", CPU_STAT),
            (br"system.slice/snap-core20-1.mount/cpu.stat", CPU_STAT),
            (br"system.slice/system-systemd\x2dfsck.slice/cpu.stat", CPU_STAT),
            (b"user.slice/cpu.stat", CPU_STAT),
        ];
        let text = series(files, &[]);
        let expected = [
            "/",
            "/init.scope",
            "/system.slice",
            "/system.slice/containerd.service",
            r"/system.slice/system-systemd\\x2dfsck.slice",
            "/user.slice",
        ];
        assert_eq!(cgroups_of(&text), expected);
        assert!(text.contains("keyhole_cgroup_memory_anon_bytes{cgroup=\"/\"} 4096\n"), "{text}");
    }

    #[test]
    fn expressions_choose_cgroups_by_their_whole_path() {
        let files: &[(&[u8], &[u8])] = &[
            (b"system.slice/a.service/cpu.stat", CPU_STAT),
            (b"system.slice/b.mount/cpu.stat", CPU_STAT),
            (b"system/apid/cpu.stat", CPU_STAT),
        ];
        assert_eq!(cgroups_of(&series(files, &["--collector.cgroup.include=^/system/"])), ["/system/apid"]);
        let included = series(files, &["--collector.cgroup.include=b.mount$"]);
        assert_eq!(cgroups_of(&included), ["/system.slice/b.mount"], "an include sets the default aside");
        assert_eq!(cgroups_of(&series(files, &["--collector.cgroup.exclude="])).len(), 3);
        let both = ["--collector.cgroup.include=slice", "--collector.cgroup.exclude=/a"];
        assert_eq!(cgroups_of(&series(files, &both)), ["/system.slice/b.mount"]);
    }

    #[test]
    fn beyond_the_limit_cgroups_nearest_to_the_root_are_reported_and_the_rest_counted() {
        let files: &[(&[u8], &[u8])] = &[
            (b"a.slice/b.service/cpu.stat", CPU_STAT),
            (b"a.slice/a.service/cpu.stat", CPU_STAT),
            (b"cpu.stat", CPU_STAT),
            (b"z.slice/cpu.stat", CPU_STAT),
        ];
        let text = series(files, &["--collector.cgroup.max-cgroups=3"]);
        assert_eq!(cgroups_of(&text), ["/", "/a.slice/a.service", "/z.slice"]);
        assert!(text.contains("keyhole_cgroup_dropped 1\n"), "{text}");
        let text = series(files, &["--collector.cgroup.max-cgroups=0"]);
        assert!(cgroups_of(&text).len() == 4 && text.contains("keyhole_cgroup_dropped 0\n"), "{text}");
    }

    #[test]
    fn an_old_kernel_without_half_of_the_files_reports_the_rest() {
        // Linux 4.18: no pressure, no peak, no `kernel`.
        let files: &[(&[u8], &[u8])] = &[
            (b"system.slice/cpu.stat", CPU_STAT),
            (b"system.slice/memory.stat", b"anon 1\nfile 2\nkernel_stack 3\n"),
        ];
        assert_eq!(series(files, &[]).lines().count(), 6);
    }

    #[test]
    fn a_future_kernels_keys_files_and_devices_change_nothing() {
        let files: &[(&[u8], &[u8])] = &[
            (b"a.slice/cpu.stat", b"usage_usec 1000000 9\nfrobs 1\nfrobs.usec 2 3\n"),
            (b"a.slice/io.stat", b"8:0 rbytes=1 cost.vrate=100.00 fbytes=2\nfabric0 rbytes=7\n"),
            (b"a.slice/io.pressure", b"most avg10=0.00 total=5\nsome total=1000000 avg900=1\n"),
        ];
        assert_eq!(
            series(files, &[]),
            "keyhole_cgroup_cpu_usage_seconds_total{cgroup=\"/a.slice\"} 1\n\
             keyhole_cgroup_dropped 0\n\
             keyhole_cgroup_io_read_bytes_total{cgroup=\"/a.slice\",device=\"fabric0\"} 7\n\
             keyhole_cgroup_io_read_bytes_total{cgroup=\"/a.slice\",device=\"sda\"} 1\n\
             keyhole_cgroup_pressure_io_waiting_seconds_total{cgroup=\"/a.slice\"} 1\n"
        );
    }

    #[test]
    fn devices_without_io_before_another_on_its_line_take_none_of_its_numbers() {
        let files: &[(&[u8], &[u8])] = &[(b"a.slice/io.stat", b"7:7 7:6 8:0 rbytes=1 wbytes=x\nrios=2\n")];
        let text = series(files, &[]);
        assert!(text.contains("io_read_bytes_total{cgroup=\"/a.slice\",device=\"sda\"} 1\n"), "{text}");
        assert!(!text.contains("device=\"7:") && !text.contains("written"), "{text}");
    }

    #[test]
    fn hostile_names_stay_in_their_label() {
        let files: &[(&[u8], &[u8])] = &[
            (b"system.slice/a\"} 1\nx{b=\".service/cpu.stat", CPU_STAT),
            (b"system.slice/\xff\xfe:).service/cpu.stat", CPU_STAT),
        ];
        let text = series(files, &[]);
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(text.contains(r#"{cgroup="/system.slice/a\"} 1\nx{b=\".service"} 5"#), "{text}");
        assert!(text.contains("{cgroup=\"/system.slice/\u{fffd}:).service\"} 5\n"), "{text}");
    }

    #[test]
    fn a_cgroup_that_cannot_be_read_affects_no_other() {
        let file = |path: &str, content| (format!("{ROOT}/{path}").into_bytes(), content);
        let files = vec![
            file("cgroup.controllers", Content::bytes(&b""[..])),
            file("a.slice/cpu.pressure", Content::Errno(95)),
            file("a.slice/memory.current", Content::Errno(13)),
            file("a.slice/pids.current", Content::bytes(&b"7\n"[..])),
            file("a.slice/pids.max", Content::bytes(&b"many\n"[..])),
        ];
        let snapshot = Snapshot::from_files(files);
        let text = collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap();
        assert_eq!(text, "keyhole_cgroup_dropped 0\nkeyhole_cgroup_pids_current{cgroup=\"/a.slice\"} 7\n");
    }

    #[test]
    fn a_host_with_cgroups_of_version_1_is_no_failure() {
        let version_1 = collect(&COLLECTOR, &[("sys/fs/cgroup/system.slice/cpu.stat", CPU_STAT)], &[]);
        assert_eq!(version_1, Ok(String::new()));
    }

    #[test]
    fn values_are_sorted_by_file_so_that_each_is_looked_up_once() {
        assert!(VALUES.is_sorted_by_key(|value| value.file));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let files = KUBELET.iter().map(|(name, _)| format!("{ROOT}/system.slice/{name}"));
        let paths: Vec<String> = files.chain([CONTROLLERS.into(), DISKSTATS.into()]).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
