//! Processes by group, under process-exporter's names: `proc/<pid>/stat`, `proc/<pid>/status` and `proc/<pid>/fd`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>
//!
//! What needs the right to trace a process (its I/O, swap and limits) is left out. Counters are summed over scrapes, see
//! `totals`: this is the one collector whose samples are no function of one snapshot alone.

mod live_totals;
mod rules;
mod totals;

use std::sync::Mutex;

use keyhole_proto::v1::{Outcome, Query};

use self::live_totals::{LiveTotals, Measured, Process, STATE_NAMES};
use self::rules::Rules;
use self::totals::{Counts, Totals};
use crate::collector::tasks::process::{self, File};
use crate::collector::{Collect, CollectError, Collector, Context, SetupError};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::lock;
use crate::options::{Options, TypedFlag};
use crate::snapshot::{Content, Snapshot, is_answered};
use crate::text::{self, ProcessStat};

pub const COLLECTOR: Collector = Collector {
    name: "processgroups",
    default: false,
    help: "Processes by group, as in process-exporter; requires --allow-processes on the broker.",
    queries: &[Query::Processes],
    optional: &[Query::ProcessDetails, Query::Stat],
    flags: &[NAME.row, CONFIG.row, MAX.row],
    families: || FAMILIES.to_vec(),
    new: |options| Ok(Box::new(ProcessGroups::new(options)?)),
};

const NAME: TypedFlag<Vec<String>> = TypedFlag::parsed_list(
    "collector.processgroups.name",
    "NAME=REGEXP",
    "Group of the processes whose comm matches. The name may contain {{.Comm}}.",
);
const CONFIG: TypedFlag<String> = TypedFlag::file(
    "collector.processgroups.config",
    "",
    "File in process-exporter's format: process_names, each with a name and a list of comm.",
);
const MAX: TypedFlag<u64> = TypedFlag::number(
    "collector.processgroups.max-groups",
    100,
    "Maximum number of groups, at least 1. Other processes are in the group other.",
);

const STAT: &str = "proc/stat";

const PROCESSES: Family = Family {
    name: "namedprocess_namegroup_num_procs",
    help: "Processes in the group.",
    kind: MetricType::Gauge,
    labels: &["groupname"],
    source: Source::File("proc/#/stat"),
};
const THREADS: Family = Family {
    name: "namedprocess_namegroup_num_threads",
    help: "Threads of all processes in the group.",
    ..PROCESSES
};
const STATES: Family = Family {
    name: "namedprocess_namegroup_states",
    help: "Processes in the group, by state.",
    labels: &["groupname", "state"],
    ..PROCESSES
};
const MEMORY: Family = Family {
    name: "namedprocess_namegroup_memory_bytes",
    help: "Memory of all processes in the group; what they share counts once for each.",
    labels: &["groupname", "memtype"],
    source: Source::File("proc/#/{stat,status}"),
    ..PROCESSES
};
const DESCRIPTORS: Family = Family {
    name: "namedprocess_namegroup_open_filedesc",
    help: "Open file descriptors of all processes in the group; needs Linux 6.2.",
    source: Source::File("proc/#/fd"),
    ..PROCESSES
};
const OLDEST: Family = Family {
    name: "namedprocess_namegroup_oldest_start_time_seconds",
    help: "When the oldest process of the group started, in seconds since the epoch.",
    source: Source::Files(&["proc/#/stat", "proc/stat"]),
    ..PROCESSES
};
const CPU: Family = Family {
    name: "namedprocess_namegroup_cpu_seconds_total",
    help: "CPU time that processes of the group used since the exporter started.",
    kind: MetricType::Counter,
    labels: &["groupname", "mode"],
    ..PROCESSES
};
const MAJOR_FAULTS: Family = Family {
    name: "namedprocess_namegroup_major_page_faults_total",
    help: "Page faults of processes of the group that needed a disk, since the exporter started.",
    labels: &["groupname"],
    ..CPU
};
const MINOR_FAULTS: Family = Family {
    name: "namedprocess_namegroup_minor_page_faults_total",
    help: "Page faults of processes of the group that needed no disk, since the exporter started.",
    ..MAJOR_FAULTS
};
const SWITCHES: Family = Family {
    name: "namedprocess_namegroup_context_switches_total",
    help: "Context switches of the first threads of processes of the group since the exporter started.",
    labels: &["groupname", "ctxswitchtype"],
    source: Source::File("proc/#/status"),
    ..CPU
};

const FAMILIES: [Family; 10] =
    [PROCESSES, THREADS, STATES, MEMORY, DESCRIPTORS, OLDEST, CPU, MAJOR_FAULTS, MINOR_FAULTS, SWITCHES];

/// Clock ticks in a second (USER_HZ), independent of the kernel's own.
const TICKS: f64 = 100.0;

/// A counter of a group: one row.
struct Counter {
    family: Family,
    /// The values of its labels after the group's name.
    labels: &'static [&'static [u8]],
    divisor: f64,
    value: fn(&Process<'_>) -> Option<u64>,
}

#[rustfmt::skip]
const COUNTERS: [Counter; 6] = [
    Counter { family: CPU,          labels: &[b"user"],         divisor: TICKS, value: |process| Some(process.stat.user_ticks) },
    Counter { family: CPU,          labels: &[b"system"],       divisor: TICKS, value: |process| Some(process.stat.system_ticks) },
    Counter { family: MAJOR_FAULTS, labels: &[],                divisor: 1.0,   value: |process| Some(process.stat.major_faults) },
    Counter { family: MINOR_FAULTS, labels: &[],                divisor: 1.0,   value: |process| Some(process.stat.minor_faults) },
    Counter { family: SWITCHES,     labels: &[b"voluntary"],    divisor: 1.0,   value: |process| process.voluntary_switches },
    Counter { family: SWITCHES,     labels: &[b"nonvoluntary"], divisor: 1.0,   value: |process| process.nonvoluntary_switches },
];

/// How processes are grouped, and what the groups have used in all scrapes so far.
#[derive(Debug)]
struct ProcessGroups {
    rules: Rules,
    /// The maximum number of groups.
    max_groups: usize,
    totals: Mutex<Totals>,
}

impl ProcessGroups {
    /// Reads the flags and the file that they may name; the error states what to do about it.
    fn new(options: &Options) -> Result<Self, SetupError> {
        let max_groups = usize::try_from(MAX.get(options)).unwrap_or(usize::MAX);
        if max_groups == 0 {
            // Not "no limit", as elsewhere: the counters of groups whose processes ended are kept.
            return Err(options.refuse(MAX.row.name, "0", "use at least 1: groups need a limit").into());
        }
        Ok(Self { rules: Rules::new(options)?, max_groups, totals: Mutex::default() })
    }
}

impl Collect for ProcessGroups {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        context.require_answered(Query::Processes)?;
        process::none_refused(context.snapshot)?;
        let processes = processes(context.snapshot, out);
        if processes.is_empty() {
            return Err(CollectError::NoData("processes".into()));
        }
        let available = Available::new(context.snapshot, &processes);
        if available.boot_time.is_none() {
            out.skip(|| {
                format!(
                    "{STAT}: no boot time, so that it is not known when the oldest process of a group started"
                )
            });
        }
        let processes: Vec<_> = processes
            .into_iter()
            .filter_map(|process| Some((self.rules.group(&process.stat)?, process)))
            .collect();
        let mut totals = lock(&self.totals);
        for (name, group) in totals.update(&processes, self.max_groups) {
            out.item();
            add_counters(name.as_bytes(), &group.used, out);
            add_live_totals(name.as_bytes(), &group.live, &available, out);
        }
        Ok(())
    }
}

/// Every process whose `stat` could be read, with what else was read of it.
fn processes<'a>(snapshot: &'a Snapshot, out: &mut Exposition) -> Vec<Process<'a>> {
    // A part of the details is worse than none; a single file that was cut is only its process' matter.
    let details = snapshot
        .report(Query::ProcessDetails)
        .is_none_or(|report| is_answered(report.outcome) || report.outcome == Outcome::Truncated);
    let mut processes: Vec<Process<'a>> = Vec::new();
    // In the snapshot's order `fd` stands before `stat`, and `status` after it.
    let mut descriptors = (0, Measured::Absent);
    process::each_file(snapshot, |pid, file, content| match (file, content) {
        (File::Descriptors, Content::Entries(count)) if details => {
            descriptors = (pid, Measured::Value(*count))
        }
        (File::Descriptors, _) if details => descriptors = (pid, Measured::Unknown),
        (File::Stat, Content::Bytes { bytes, .. }) => match ProcessStat::parse(bytes) {
            Some(stat) => {
                let descriptors = if descriptors.0 == pid { descriptors.1 } else { Measured::Absent };
                processes.push(Process { descriptors, ..Process::new(pid, stat) });
            }
            None => out.skip(|| format!("proc/{pid}/stat: too few columns, or no numbers in them")),
        },
        (File::Stat, _) => out.skip(|| format!("proc/{pid}/stat: not readable")),
        (File::Status, status) if details => {
            if let Some(process) = processes.last_mut().filter(|process| process.pid == pid) {
                process.read_status(status);
            }
        }
        _ => {}
    });
    processes
}

/// What the host and the broker let the collector read of processes.
struct Available {
    /// Whether their memory is.
    resident: bool,
    /// Whether their descriptors are: before Linux 6.2 a directory of them counts none.
    descriptors: bool,
    /// When the host booted, in seconds since the epoch.
    boot_time: Option<u64>,
}

impl Available {
    fn new(snapshot: &Snapshot, processes: &[Process<'_>]) -> Self {
        let btime = |line| {
            let mut fields = text::fields(line);
            text::unsigned(fields.nth(1).filter(|_| line.starts_with(b"btime "))?)
        };
        Self {
            resident: processes.iter().any(|process| process.resident != Measured::Absent),
            descriptors: processes
                .iter()
                .any(|process| !matches!(process.descriptors, Measured::Absent | Measured::Value(0))),
            boot_time: snapshot.text(STAT).and_then(|stat| text::lines(stat).find_map(btime)),
        }
    }
}

fn add_counters(group: &[u8], used: &Counts, out: &mut Exposition) {
    for (counter, used) in COUNTERS.iter().zip(used) {
        if let Some(used) = used {
            let labels = [&[group], counter.labels].concat();
            out.add(&counter.family, &labels, *used as f64 / counter.divisor);
        }
    }
}

fn add_live_totals(group: &[u8], live: &LiveTotals, available: &Available, out: &mut Exposition) {
    out.add(&PROCESSES, &[group], live.processes);
    out.add(&THREADS, &[group], live.threads);
    for ((_, state), count) in STATE_NAMES.iter().zip(live.states) {
        out.add(&STATES, &[group, state], count);
    }
    out.add(&MEMORY, &[group, b"virtual"], live.virtual_bytes);
    if let Some(resident) = live.resident.filter(|_| available.resident) {
        out.add(&MEMORY, &[group, b"resident"], resident);
    }
    if let Some(descriptors) = live.descriptors.filter(|_| available.descriptors) {
        out.add(&DESCRIPTORS, &[group], descriptors);
    }
    if let (Some(start), Some(boot_time)) = (live.oldest_start, available.boot_time) {
        out.add(&OLDEST, &[group], boot_time as f64 + start as f64 / TICKS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::Instance;
    use crate::collector::testing::{
        accepts_any_bytes, collect, collect_again, collect_snapshot, instance, local,
    };
    use crate::snapshot::Report;

    const KUBELET: &[u8] =
        b"812 (kubelet) S 1 812 812 0 -1 4194560 900 0 12 0 4000 2000 0 0 20 0 14 0 2050 2000000000 25000 \
        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
    const STATUS: &[u8] =
        b"Name:\tkubelet\nState:\tS (sleeping)\nPid:\t812\nVmPeak:\t 2000000 kB\nVmRSS:\t  100000 kB\n\
        Threads:\t14\nvoluntary_ctxt_switches:\t700\nnonvoluntary_ctxt_switches:\t30\n";
    /// A thread of the kernel has no memory.
    const KTHREADD_STATUS: &[u8] =
        b"Name:\tkthreadd\nvoluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t0\n";
    const KTHREADD: &[u8] = b"2 (kthreadd) I 0 0 0 0 -1 2129984 0 0 0 0 0 4 0 0 20 0 1 0 3 0 0\n";

    fn bytes(path: &str, text: &[u8]) -> (Vec<u8>, Content) {
        (path.as_bytes().to_vec(), Content::bytes(text.to_vec()))
    }

    fn host() -> Vec<(Vec<u8>, Content)> {
        vec![
            bytes("proc/stat", b"cpu 1 2 3\nbtime 1700000000\nprocesses 9\n"),
            bytes("proc/2/stat", KTHREADD),
            bytes("proc/2/status", KTHREADD_STATUS),
            (b"proc/2/fd".to_vec(), Content::Entries(0)),
            bytes("proc/812/stat", KUBELET),
            bytes("proc/812/status", STATUS),
            (b"proc/812/fd".to_vec(), Content::Entries(41)),
        ]
    }

    /// The samples of one group, without what every line has.
    fn of_group(text: &str, group: &str) -> String {
        let label = format!("groupname=\"{group}\"");
        let lines = text.lines().filter(|line| line.contains(&label)).map(|line| format!("{line}\n"));
        let text: String = lines.collect();
        text.replace("namedprocess_namegroup_", "")
            .replace(&label, "")
            .replace("{}", "")
            .replace("{,", "{")
            .replace(",}", "}")
    }

    fn series(files: Vec<(Vec<u8>, Content)>) -> String {
        collect_again_text(&instance(&COLLECTOR, &[]), files)
    }

    fn collect_again_text(groups: &Instance, files: Vec<(Vec<u8>, Content)>) -> String {
        collect_again(groups, &Snapshot::from_files(files), &local()).unwrap()
    }

    #[test]
    fn a_group_has_process_exporters_families() {
        let groups = instance(&COLLECTOR, &[]);
        let start = collect_again_text(&groups, host());
        assert!(start.contains("cpu_seconds_total{groupname=\"kubelet\",mode=\"user\"} 0\n"), "{start}");
        let mut later = host();
        later[4] =
            bytes("proc/812/stat", &replaced(KUBELET, " 900 0 12 0 4000 2000 ", " 905 0 13 0 4150 2025 "));
        later[5] = bytes("proc/812/status", &replaced(STATUS, "\t700\n", "\t707\n"));
        assert_eq!(
            of_group(&collect_again_text(&groups, later), "kubelet"),
            "context_switches_total{ctxswitchtype=\"nonvoluntary\"} 0\n\
             context_switches_total{ctxswitchtype=\"voluntary\"} 7\n\
             cpu_seconds_total{mode=\"system\"} 0.25\n\
             cpu_seconds_total{mode=\"user\"} 1.5\n\
             major_page_faults_total 1\n\
             memory_bytes{memtype=\"resident\"} 102400000\n\
             memory_bytes{memtype=\"virtual\"} 2000000000\n\
             minor_page_faults_total 5\n\
             num_procs 1\n\
             num_threads 14\n\
             oldest_start_time_seconds 1700000020.5\n\
             open_filedesc 41\n\
             states{state=\"Other\"} 0\n\
             states{state=\"Running\"} 0\n\
             states{state=\"Sleeping\"} 1\n\
             states{state=\"Waiting\"} 0\n\
             states{state=\"Zombie\"} 0\n"
        );
    }

    fn replaced(text: &[u8], from: &str, to: &str) -> Vec<u8> {
        String::from_utf8(text.to_vec()).unwrap().replace(from, to).into_bytes()
    }

    #[test]
    fn the_kernels_threads_are_one_group_without_memory() {
        let text = of_group(&series(host()), "[kernel]");
        assert!(text.contains("memory_bytes{memtype=\"resident\"} 0\n"), "{text}");
        assert!(text.contains("states{state=\"Other\"} 1\n") && text.contains("open_filedesc 0\n"), "{text}");
    }

    #[test]
    fn a_group_whose_processes_ended_keeps_its_counters_and_has_no_processes() {
        let groups = instance(&COLLECTOR, &[]);
        collect_again_text(&groups, host());
        let text = of_group(&collect_again_text(&groups, host().drain(..4).collect()), "kubelet");
        assert!(text.contains("cpu_seconds_total{mode=\"user\"} 0\n"), "{text}");
        assert!(text.contains("num_procs 0\n") && !text.contains("oldest_start"), "{text}");
    }

    #[test]
    fn on_a_kernel_that_does_not_count_descriptors_they_are_absent_rather_than_zero() {
        let mut files = host();
        files[6].1 = Content::Entries(0);
        let text = series(files);
        assert!(text.contains("resident") && !text.contains("open_filedesc"), "{text}");
    }

    #[test]
    fn without_details_and_boot_time_the_rest_is_reported() {
        let stat = [("proc/812/stat", KUBELET)];
        let text = of_group(&collect(&COLLECTOR, &stat, &[]).unwrap(), "kubelet");
        assert_eq!(text.lines().count(), 12, "{text}");
        for absent in ["resident", "filedesc", "oldest", "context_switches"] {
            assert!(!text.contains(absent), "{text}");
        }
    }

    #[test]
    fn a_file_that_was_cut_leaves_only_its_groups_sums_unknown() {
        let mut files = host();
        let cut = Content::Bytes { bytes: STATUS[..40].to_vec(), truncated: true };
        files[5].1 = cut;
        files[6].1 = Content::Errno(24);
        let text = series(files);
        let kubelet = of_group(&text, "kubelet");
        assert!(!kubelet.contains("resident") && !kubelet.contains("filedesc"), "{text}");
        assert!(of_group(&text, "[kernel]").contains("resident"), "{text}");
    }

    #[test]
    fn an_incomplete_list_of_processes_forms_no_group_and_incomplete_details_no_sum() {
        let report = |outcome| Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 };
        let mut snapshot = Snapshot::from_files(host());
        snapshot.set_report(Query::ProcessDetails, report(Outcome::TimedOut));
        let text = collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap();
        assert!(
            text.contains("virtual") && !text.contains("resident") && !text.contains("switches"),
            "{text}"
        );
        snapshot.set_report(Query::Processes, report(Outcome::NotPermitted));
        let error = collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap_err();
        assert_eq!(error.to_string(), "query PROCESSES: NOT_PERMITTED");
    }

    #[test]
    fn a_limit_of_no_groups_is_refused() {
        let new = |value: &str| {
            let options = crate::cli::flags::parse([format!("--{}={value}", MAX.row.name)]).unwrap();
            ProcessGroups::new(&options).map(|groups| groups.max_groups).map_err(|error| error.to_string())
        };
        assert_eq!(new("1"), Ok(1));
        assert_eq!(
            new("0").unwrap_err(),
            "--collector.processgroups.max-groups=\"0\": use at least 1: groups need a limit"
        );
    }

    #[test]
    fn hostile_names_are_groups_of_their_own_or_one() {
        let comms = [&b") R 1 2\n(\"}"[..], b"\xff", b"\xfe\xff", b"a\\"];
        let file = |(at, comm): (usize, &&[u8])| {
            let stat = [b"7 (", *comm, &KUBELET[12..]].concat();
            (format!("proc/{}/stat", at + 10).into_bytes(), Content::bytes(stat))
        };
        let files = comms.iter().enumerate().map(file).collect();
        let text = series(files);
        let groups: Vec<_> = text.lines().filter(|line| line.contains("num_procs")).collect();
        assert_eq!(
            groups,
            [
                r#"namedprocess_namegroup_num_procs{groupname=") R 1 2\n(\"}"} 1"#,
                r#"namedprocess_namegroup_num_procs{groupname="a\\"} 1"#,
                "namedprocess_namegroup_num_procs{groupname=\"\u{fffd}\"} 2",
            ]
        );
    }

    #[test]
    fn a_future_kernels_columns_lines_and_states_change_nothing() {
        let mut files = host();
        let stat = replaced(KUBELET, ") S", ") Q").trim_ascii().to_vec();
        files[4] = bytes("proc/812/stat", &[&stat[..], b" 1 2 3\n"].concat());
        files[5] = bytes("proc/812/status", &[b"Frobs: x\nNone\n", STATUS].concat());
        let text = of_group(&series(files), "kubelet");
        assert!(text.contains("states{state=\"Other\"} 1\n") && text.contains("} 102400000\n"), "{text}");
    }

    #[test]
    fn a_comm_cannot_pass_for_a_line_of_its_status() {
        let mut files = host();
        files[5] = bytes("proc/812/status", &[b"Name:\tx\nVmRSS:\t1 kB\n", STATUS].concat());
        assert!(series(files).contains("memtype=\"resident\"} 102400000\n"));
    }

    #[test]
    fn a_host_without_processes_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &["proc/stat", "proc/2/stat", "proc/2/status", "proc/812/stat", "proc/812/status"],
        );
    }
}
