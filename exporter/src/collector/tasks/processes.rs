//! Processes and threads, counted by state: `proc/<pid>/stat` and `proc/<pid>/task/<tid>/stat`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>

use std::collections::BTreeMap;

use keyhole_proto::v1::Query;

use crate::collector::tasks::process::{self, File};
use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Content;
use crate::text::{self, ProcessStat};

pub const COLLECTOR: Collector = Collector {
    name: "processes",
    default: false,
    help: "Processes and threads by state; requires --allow-processes on the broker.",
    queries: &[Query::Processes, Query::Threads, Query::ProcessLimits],
    optional: &[],
    flags: &[],
    families: || vec![PIDS, STATE, THREADS, THREADS_STATE, MAX_PROCESSES, MAX_THREADS],
    new: |_| Ok(Box::new(collect)),
};

const PID_MAX: &str = "proc/sys/kernel/pid_max";
const THREADS_MAX: &str = "proc/sys/kernel/threads-max";

const PIDS: Family = Family {
    name: "node_processes_pids",
    help: "Processes.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::File("proc/#/stat"),
};
const STATE: Family = Family {
    name: "node_processes_state",
    help: "Processes by the state of their first thread, a letter.",
    labels: &["state"],
    ..PIDS
};
const THREADS: Family = Family { name: "node_processes_threads", help: "Threads of all processes.", ..PIDS };
const THREADS_STATE: Family = Family {
    name: "node_processes_threads_state",
    help: "Threads by state, a letter.",
    labels: &["thread_state"],
    source: Source::File("proc/#/task/#/stat"),
    ..PIDS
};
const MAX_PROCESSES: Family = Family {
    name: "node_processes_max_processes",
    help: "The number at which pids wrap, and so the maximum number of processes and threads.",
    source: Source::File(PID_MAX),
    ..PIDS
};
const MAX_THREADS: Family = Family {
    name: "node_processes_max_threads",
    help: "The most threads that the kernel creates.",
    source: Source::File(THREADS_MAX),
    ..PIDS
};

/// Counts by the letter of a state.
type States = BTreeMap<u8, u64>;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let limits = [(PID_MAX, &MAX_PROCESSES), (THREADS_MAX, &MAX_THREADS)];
    let limits = limits.map(|(file, family)| (file, family, context.snapshot.value(file)));
    for (file, family, text) in limits {
        match text.map(text::unsigned) {
            Some(Some(limit)) => out.add(family, &[], limit),
            Some(None) => out.skip(|| format!("{file}: no number")),
            // Every kernel that has one limit has the other.
            None if limits.iter().any(|(.., text)| text.is_some()) => out.skip(|| match file {
                PID_MAX => format!("{file}: missing, and it is read in the host's PID namespace alone"),
                _ => format!("{file}: missing"),
            }),
            None => {}
        }
    }
    context.require_answered(Query::Processes)?;
    process::none_refused(context.snapshot)?;
    let (mut pids, mut threads) = (0u64, 0u64);
    let (mut states, mut thread_states) = (States::new(), States::new());
    // A process with one thread has the state of the thread. A broker sends no thread of it, a captured tree has it.
    let mut alone = None;
    process::each_file(context.snapshot, |pid, file, content| {
        let known = match (file, content) {
            (File::Stat, Content::Bytes { bytes, .. }) => ProcessStat::parse(bytes).map(|stat| {
                pids += 1;
                threads = threads.saturating_add(stat.threads);
                count(&mut states, Some(stat.state));
                count(&mut thread_states, alone.take().map(|(_, state)| state));
                alone = (stat.threads == 1).then_some((pid, stat.state));
            }),
            (File::Thread, Content::Bytes { bytes, .. }) => {
                alone.take_if(|(of, _)| *of == pid);
                text::process_state(bytes).map(|state| count(&mut thread_states, Some(state)))
            }
            (File::Stat | File::Thread, _) => None,
            (File::Status | File::Descriptors, _) => Some(()),
        };
        if known.is_none() {
            out.skip(|| format!("proc/{pid}: {file:?} is not as the kernel writes it"));
        }
    });
    if pids == 0 {
        return Err(CollectError::NoData("processes".into()));
    }
    out.add(&PIDS, &[], pids);
    out.add(&THREADS, &[], threads);
    add_states(&STATE, &states, out);
    context.require_answered(Query::Threads)?;
    count(&mut thread_states, alone.map(|(_, state)| state));
    add_states(&THREADS_STATE, &thread_states, out);
    Ok(())
}

fn count(states: &mut States, state: Option<u8>) {
    if let Some(state) = state {
        *states.entry(state).or_default() += 1;
    }
}

fn add_states(family: &Family, states: &States, out: &mut Exposition) {
    for (state, count) in states {
        out.add(family, &[&[*state]], *count);
    }
}

#[cfg(test)]
mod tests {
    use keyhole_proto::v1::Outcome;

    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Report, Snapshot};

    const INIT: &[u8] = b"1 (systemd) S 0 1 1 0 -1 4194560 9061 9416027 94 2620 36 98 54406 13885 20 0 3 0 29 \
        109604864 2507 18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 0 0 0 19 0 0 0 0 0 0 0 0 0 0\n";
    const KTHREADD: &[u8] = b"2 (kthreadd) I 0 0 0 0 -1 2129984 0 0 0 0 0 4 0 0 20 0 1 0 29 0 0\n";

    const FILES: &[(&str, &[u8])] = &[
        ("proc/1/stat", INIT),
        ("proc/1/task/1/stat", INIT),
        ("proc/1/task/8/stat", b"8 (a) R"),
        ("proc/1/task/9/stat", b"9 (b) D 1 "),
        ("proc/2/stat", KTHREADD),
        ("proc/2/task/2/stat", KTHREADD),
        ("proc/sys/kernel/pid_max", b"4194304\n"),
        ("proc/sys/kernel/threads-max", b"7801\n"),
    ];

    const ALL: &str = "node_processes_max_processes 4194304\n\
        node_processes_max_threads 7801\n\
        node_processes_pids 2\n\
        node_processes_state{state=\"I\"} 1\n\
        node_processes_state{state=\"S\"} 1\n\
        node_processes_threads 4\n\
        node_processes_threads_state{thread_state=\"D\"} 1\n\
        node_processes_threads_state{thread_state=\"I\"} 1\n\
        node_processes_threads_state{thread_state=\"R\"} 1\n\
        node_processes_threads_state{thread_state=\"S\"} 1\n";

    fn init() -> String {
        String::from_utf8(INIT.to_vec()).unwrap()
    }

    fn snapshot(files: &[(&str, &[u8])], query: Query, outcome: Outcome) -> Snapshot {
        let files =
            files.iter().map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.to_vec())));
        let mut snapshot = Snapshot::from_files(files.collect());
        snapshot.set_report(query, Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 });
        snapshot
    }

    #[test]
    fn processes_and_threads_are_counted_by_state() {
        assert_eq!(collect(&COLLECTOR, FILES, &[]).unwrap(), ALL);
    }

    #[test]
    fn the_state_of_a_lone_thread_is_its_processs() {
        let with_several_threads: Vec<_> =
            FILES.iter().copied().filter(|(path, _)| *path != "proc/2/task/2/stat").collect();
        assert_eq!(collect(&COLLECTOR, &with_several_threads, &[]).unwrap(), ALL);
    }

    #[test]
    fn a_comm_that_looks_like_a_state_is_none() {
        let line = init().replace("systemd", "x) Z 1\n(y");
        let text = collect(&COLLECTOR, &[("proc/1/stat", line.as_bytes())], &[]).unwrap();
        assert!(text.contains("node_processes_state{state=\"S\"} 1\n") && !text.contains("\"Z\""), "{text}");
    }

    #[test]
    fn a_future_kernels_columns_are_ignored_and_its_states_reported() {
        let line = init().replace(") S", ") Q").replace('\n', " 1 2 3\n");
        let text = collect(&COLLECTOR, &[("proc/1/stat", line.as_bytes())], &[]).unwrap();
        assert_eq!(
            text,
            "node_processes_pids 1\nnode_processes_state{state=\"Q\"} 1\nnode_processes_threads 3\n"
        );
    }

    #[test]
    fn only_a_process_that_cannot_be_read_is_skipped() {
        let files = [FILES, &[("proc/3/stat", b"3 (cut"), ("proc/3/task/3/stat", b"")]].concat();
        assert_eq!(collect(&COLLECTOR, &files, &[]).unwrap(), ALL);
    }

    #[test]
    fn with_a_process_that_the_kernel_refuses_none_are_counted() {
        let mut files: Vec<_> = FILES
            .iter()
            .map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.to_vec())))
            .collect();
        for (errno, expected) in [(1, "proc/1/stat: errno 1"), (13, "proc/1/stat: errno 13")] {
            files[0].1 = Content::Errno(errno);
            let error = collect_snapshot(&COLLECTOR, &Snapshot::from_files(files.clone()), &[], &local());
            assert_eq!(error.unwrap_err().to_string(), expected);
        }
        // One that has ended meanwhile is none.
        files[0].1 = Content::Errno(3);
        let text = collect_snapshot(&COLLECTOR, &Snapshot::from_files(files), &[], &local()).unwrap();
        assert!(text.contains("node_processes_pids 1\n"), "{text}");
    }

    #[test]
    fn an_incomplete_list_of_processes_is_not_counted() {
        let cut = snapshot(FILES, Query::Processes, Outcome::Truncated);
        let error = collect_snapshot(&COLLECTOR, &cut, &[], &local()).unwrap_err();
        assert_eq!(error.to_string(), "query PROCESSES: TRUNCATED");
    }

    #[test]
    fn a_host_without_processes_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn the_limit_of_another_pid_namespace_is_absent_and_reported() {
        let elsewhere = FILES.iter().filter(|(path, _)| *path != PID_MAX);
        let files = elsewhere.map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.to_vec())));
        let snapshot = &Snapshot::from_files(files.collect());
        let mut out = Exposition::new();
        super::collect(&Context { snapshot, local: &local() }, &mut out).unwrap();
        let text = out.to_text();
        assert!(!text.contains("node_processes_max_processes"), "{text}");
        assert!(text.contains("node_processes_max_threads 7801\n"), "{text}");
        let skipped = out.end().skipped_items;
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert!(skipped[0].contains("the host's PID namespace alone"), "{skipped:?}");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &FILES.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    }
}
