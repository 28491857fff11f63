//! Metrics about the broker: its description of itself, and how each query of a scrape ended.

use std::collections::BTreeMap;

use keyhole_proto::v1::{DescribeResponse, Outcome, Query, ReaderClass, View};

use super::process;
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::{Snapshot, is_answered};

/// The families of this module.
pub const FAMILIES: &[Family] = &[
    UP,
    INFO,
    LAYER,
    START,
    QUERIES,
    READ_DURATION,
    READ_BYTES,
    OUTCOME,
    LEFT_OUT,
    DURATION,
    BYTES,
    DROPPED_FILES,
    READERS_STUCK,
    READER_AVAILABLE,
    READER_STUCK,
    READER_DEATHS,
    READER_SECCOMP_KILLS,
    READER_REPLACEMENTS,
    READER_REOPENINGS,
    READER_CPU,
    READER_MEMORY,
    LOG_LINES_DROPPED,
    CONNECTIONS,
    REFUSED,
    LATE,
    FAILED_ACCEPTS,
    READS,
    LIMITED,
    STUCK,
];

const DESCRIBE: &str = "keyhole.v1.Broker/Describe";
const READ: &str = "keyhole.v1.Broker/Read";

const UP: Family = Family {
    name: "keyhole_broker_up",
    help: "Whether the broker responded to the last request for its description.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Exporter(DESCRIBE),
};
const INFO: Family = Family {
    name: "keyhole_broker_info",
    help: "Always 1; its labels are the broker's version, access level, uid, and whose proc and sys its readers see.",
    labels: &["version", "access_level", "proc_view", "sys_view", "uid"],
    ..UP
};
const LAYER: Family = Family {
    name: "keyhole_broker_sandbox_layer",
    help: "Whether a sandbox layer is in force in a process of the broker: the broker itself, the zygote, or the readers of a class.",
    labels: &["process", "layer"],
    ..UP
};
const START: Family = Family {
    name: "keyhole_broker_start_time_seconds",
    help: "When the broker started, in seconds since the epoch.",
    ..UP
};
const QUERIES: Family = Family {
    name: "keyhole_queries",
    help: "Queries of this scrape, by how they ended.",
    labels: &["outcome"],
    source: Source::Exporter(READ),
    ..UP
};
const READ_DURATION: Family = Family {
    name: "keyhole_read_duration_seconds",
    help: "Time that the broker spent reading for all queries of this scrape.",
    labels: &[],
    ..QUERIES
};
const READ_BYTES: Family = Family {
    name: "keyhole_read_bytes",
    help: "Bytes of kernel files that all queries of this scrape returned.",
    ..READ_DURATION
};
const OUTCOME: Family = Family {
    name: "keyhole_query_outcome",
    help: "Always 1; the label outcome is how this query ended in this scrape. Queries that ended as ok, absent or empty are listed only with --scrape.detail.",
    labels: &["query", "outcome"],
    ..QUERIES
};
const LEFT_OUT: Family = Family {
    name: "keyhole_query_left_out",
    help: "Items of this query that a limit left out of this scrape, at least: each device counts as one, and so does a file that was cut, however much of it is missing. A query without any is listed only with --scrape.detail.",
    labels: &["query"],
    ..QUERIES
};
const DURATION: Family = Family {
    name: "keyhole_query_duration_seconds",
    help: "Time that the broker spent reading for a query of this scrape. Only with --scrape.detail.",
    labels: &["query"],
    ..OUTCOME
};
const BYTES: Family = Family {
    name: "keyhole_query_bytes",
    help: "Bytes of kernel files that a query of this scrape returned. Only with --scrape.detail.",
    ..DURATION
};
const DROPPED_FILES: Family = Family {
    name: "keyhole_read_dropped_files",
    help: "Kernel files of this scrape that could not be read to their end, and were dropped.",
    ..READ_DURATION
};
const READERS_STUCK: Family = Family {
    name: "keyhole_broker_readers_stuck",
    help: "Readers of all classes that have not returned from the kernel.",
    ..UP
};
const READER_AVAILABLE: Family = Family {
    name: "keyhole_broker_reader_available",
    help: "Whether a reader of this class is available.",
    labels: &["reader"],
    ..UP
};
const READER_STUCK: Family = Family {
    name: "keyhole_broker_reader_stuck",
    help: "Readers of this class that have not returned from the kernel.",
    ..READER_AVAILABLE
};
const READER_DEATHS: Family = Family {
    name: "keyhole_broker_reader_deaths_total",
    help: "Readers of this class that died.",
    kind: MetricType::Counter,
    ..READER_AVAILABLE
};
const READER_SECCOMP_KILLS: Family = Family {
    name: "keyhole_broker_reader_seccomp_kills_total",
    help: "Readers of this class that seccomp killed for a forbidden system call.",
    ..READER_DEATHS
};
const READER_REPLACEMENTS: Family = Family {
    name: "keyhole_broker_reader_replacements_total",
    help: "Readers of this class that were started to replace a stuck or dead one.",
    ..READER_DEATHS
};
const READER_REOPENINGS: Family = Family {
    name: "keyhole_broker_reader_reopenings_total",
    help: "Readers of this class that were started because an absent file had appeared.",
    ..READER_DEATHS
};
const READER_CPU: Family = Family {
    name: "keyhole_broker_reader_cpu_seconds_total",
    help: "CPU time of the current reader of this class, at most a minute old; restarts at 0 when the reader is replaced.",
    ..READER_DEATHS
};
const READER_MEMORY: Family = Family {
    name: "keyhole_broker_reader_resident_memory_bytes",
    help: "Resident memory of the current reader of this class, at most a minute old.",
    ..READER_AVAILABLE
};
const LOG_LINES_DROPPED: Family = Family {
    name: "keyhole_broker_log_lines_dropped_total",
    help: "Log lines that the broker dropped.",
    ..CONNECTIONS
};
const CONNECTIONS: Family = Family {
    name: "keyhole_broker_connections_total",
    help: "Connections that the broker accepted.",
    kind: MetricType::Counter,
    ..UP
};
const REFUSED: Family = Family {
    name: "keyhole_broker_refused_peers_total",
    help: "Connections that the broker refused: because of the peer's uid, or because that uid had or made too many.",
    ..CONNECTIONS
};
const LATE: Family = Family {
    name: "keyhole_broker_late_handshakes_total",
    help: "Connections that the broker closed because they sent no request in time.",
    ..CONNECTIONS
};
const FAILED_ACCEPTS: Family = Family {
    name: "keyhole_broker_failed_accepts_total",
    help: "Times that the broker could not accept a connection because of missing descriptors or memory.",
    ..CONNECTIONS
};
const READS: Family =
    Family { name: "keyhole_broker_reads_total", help: "Reads that the broker started.", ..CONNECTIONS };
const LIMITED: Family = Family {
    name: "keyhole_broker_limited_requests_total",
    help: "Requests that the broker refused because of its rate limit.",
    ..CONNECTIONS
};
const STUCK: Family = Family {
    name: "keyhole_broker_stuck_queries_total",
    help: "Times that a query did not end within its timeout in the broker.",
    ..CONNECTIONS
};

/// Adds how the queries of a scrape ended: totals, and each query that failed; with `detail` every query.
pub fn add_queries(snapshot: &Snapshot, queries: &[Query], detail: bool, out: &mut Exposition) {
    // The outcome ok is present even if it is 0, so that the family always exists.
    let mut ended = BTreeMap::from([(Outcome::Ok, 0_u64)]);
    let (mut elapsed_ns, mut bytes) = (0_u64, 0_u64);
    for (query, report) in snapshot.reports().filter(|(query, _)| queries.contains(query)) {
        *ended.entry(report.outcome).or_default() += 1;
        elapsed_ns = elapsed_ns.saturating_add(report.elapsed_ns);
        bytes = bytes.saturating_add(report.bytes);
        let query = word(query.as_str_name(), "QUERY_");
        if detail || report.left_out > 0 {
            out.add(&LEFT_OUT, &[query.as_bytes()], report.left_out);
        }
        if !detail && is_answered(report.outcome) {
            continue;
        }
        let outcome = word(report.outcome.as_str_name(), "OUTCOME_");
        out.add(&OUTCOME, &[query.as_bytes(), outcome.as_bytes()], true);
        if detail {
            out.add(&DURATION, &[query.as_bytes()], report.elapsed_ns as f64 / 1e9);
            out.add(&BYTES, &[query.as_bytes()], report.bytes);
        }
    }
    for (outcome, queries) in ended {
        out.add(&QUERIES, &[word(outcome.as_str_name(), "OUTCOME_").as_bytes()], queries);
    }
    out.add(&READ_DURATION, &[], elapsed_ns as f64 / 1e9);
    out.add(&READ_BYTES, &[], bytes);
    out.add(&DROPPED_FILES, &[], snapshot.dropped_files());
}

/// Adds the queries that a limit truncated, for a capture, of which nothing else is known.
pub fn add_truncated(snapshot: &Snapshot, out: &mut Exposition) {
    let outcome = word(Outcome::Truncated.as_str_name(), "OUTCOME_");
    for (query, report) in snapshot.reports().filter(|(_, report)| report.outcome == Outcome::Truncated) {
        let query = word(query.as_str_name(), "QUERY_");
        out.add(&OUTCOME, &[query.as_bytes(), outcome.as_bytes()], true);
        out.add(&LEFT_OUT, &[query.as_bytes()], report.left_out);
    }
}

/// Adds the broker's description of itself; none if it did not respond.
pub fn add_description(description: Option<&DescribeResponse>, out: &mut Exposition) {
    out.add(&UP, &[], description.is_some());
    let Some(broker) = description else { return };
    let view = |view: View| word(view.as_str_name(), "VIEW_");
    let labels = [
        broker.version.clone(),
        word(broker.access_level().as_str_name(), "ACCESS_LEVEL_"),
        view(broker.proc_view()),
        view(broker.sys_view()),
        broker.uid.to_string(),
    ];
    out.add(&INFO, &labels.each_ref().map(|label| label.as_bytes()), true);
    out.add(&START, &[], broker.start_time_ms as f64 / 1e3);
    for layer in &broker.layers {
        out.add(&LAYER, &[layer.process.as_bytes(), layer.name.as_bytes()], layer.in_force);
    }
    broker.readers.iter().for_each(|reader| add_reader(reader, out));
    if let Some(counters) = &broker.counters {
        for (family, count) in [
            (&CONNECTIONS, counters.connections),
            (&REFUSED, counters.refused_peers),
            (&LATE, counters.late_handshakes),
            (&FAILED_ACCEPTS, counters.failed_accepts),
            (&READS, counters.reads),
            (&LIMITED, counters.limited_requests),
            (&STUCK, counters.stuck_queries),
            (&READERS_STUCK, counters.readers_stuck),
            (&LOG_LINES_DROPPED, counters.log_lines_dropped),
        ] {
            out.add(family, &[], count);
        }
    }
}

fn add_reader(reader: &ReaderClass, out: &mut Exposition) {
    let class = [reader.name.as_bytes()];
    out.add(&READER_AVAILABLE, &class, reader.available);
    for (family, count) in [
        (&READER_STUCK, reader.stuck),
        (&READER_DEATHS, reader.deaths),
        (&READER_SECCOMP_KILLS, reader.seccomp_kills),
        (&READER_REPLACEMENTS, reader.replacements),
        (&READER_REOPENINGS, reader.reopenings),
    ] {
        out.add(family, &class, count);
    }
    if let Some(usage) = process::usage(&reader.stat) {
        out.add(&READER_CPU, &class, usage.cpu_seconds);
        out.add(&READER_MEMORY, &class, usage.resident_bytes);
    }
}

/// An enum value of the API as a label: without its prefix, in lower case.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Report;
    use keyhole_proto::v1::{AccessLevel, Counters, Layer};

    /// The samples of a scrape whose queries ended so, without HELP and TYPE lines.
    fn lines(queries: &[(Query, Outcome)], detail: bool) -> Vec<String> {
        let mut snapshot = Snapshot::default();
        for &(query, outcome) in queries {
            snapshot.set_report(query, Report { outcome, elapsed_ns: 1_500_000, bytes: 12, left_out: 0 });
        }
        // One that was asked for others, as in a snapshot that selections share.
        snapshot.set_report(
            Query::Drbd,
            Report { outcome: Outcome::Failed, elapsed_ns: 1, bytes: 1, left_out: 0 },
        );
        let asked: Vec<Query> = queries.iter().map(|(query, _)| *query).collect();
        let mut out = Exposition::new();
        add_queries(&snapshot, &asked, detail, &mut out);
        out.to_text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn queries_that_succeed_are_summed_up_and_each_other_is_reported() {
        let well = [(Query::Stat, Outcome::Ok), (Query::Loadavg, Outcome::Ok), (Query::Nfs, Outcome::Absent)];
        let ill =
            [Outcome::Denied, Outcome::TimedOut, Outcome::Stuck, Outcome::Truncated, Outcome::ContainerView];
        let ill_queries = [Query::Slabinfo, Query::Hwmon, Query::Thermal, Query::Processes, Query::NetDev];
        let all: Vec<_> = well.into_iter().chain(ill_queries.into_iter().zip(ill)).collect();
        let all_lines = lines(&all, false);
        for line in [
            "keyhole_queries{outcome=\"absent\"} 1",
            "keyhole_queries{outcome=\"ok\"} 2",
            "keyhole_queries{outcome=\"stuck\"} 1",
            "keyhole_query_outcome{outcome=\"timed_out\",query=\"hwmon\"} 1",
            "keyhole_query_outcome{outcome=\"container_view\",query=\"net_dev\"} 1",
            "keyhole_query_outcome{outcome=\"truncated\",query=\"processes\"} 1",
            "keyhole_query_outcome{outcome=\"denied\",query=\"slabinfo\"} 1",
            "keyhole_query_outcome{outcome=\"stuck\",query=\"thermal\"} 1",
            "keyhole_read_bytes 96",
            "keyhole_read_duration_seconds 0.012",
        ] {
            assert!(all_lines.iter().any(|l| l == line), "{line} is missing in {all_lines:#?}");
        }
        assert_eq!(all_lines.len(), 7 + 5 + 3, "{all_lines:#?}");
        let without = [
            "keyhole_queries{outcome=\"ok\"} 0",
            "keyhole_read_bytes 0",
            "keyhole_read_dropped_files 0",
            "keyhole_read_duration_seconds 0",
        ];
        assert_eq!(lines(&[], false), without);
    }

    #[test]
    fn in_detail_each_query_has_its_outcome_time_and_bytes() {
        let detailed = lines(&[(Query::Stat, Outcome::Ok), (Query::Nfs, Outcome::Absent)], true);
        for line in [
            "keyhole_query_outcome{outcome=\"ok\",query=\"stat\"} 1",
            "keyhole_query_outcome{outcome=\"absent\",query=\"nfs\"} 1",
            "keyhole_query_duration_seconds{query=\"stat\"} 0.0015",
            "keyhole_query_bytes{query=\"nfs\"} 12",
            "keyhole_queries{outcome=\"ok\"} 1",
            "keyhole_read_duration_seconds 0.003",
        ] {
            assert!(detailed.iter().any(|l| l == line), "{line} is missing in {detailed:#?}");
        }
    }

    fn layer(process: &str, name: &str, in_force: bool) -> Layer {
        Layer { name: name.into(), in_force, detail: String::new(), process: process.into() }
    }

    #[test]
    fn each_class_of_readers_has_its_counts_and_the_usage_that_is_known() {
        let page = rustix::param::page_size() as u64;
        let second = rustix::param::clock_ticks_per_second();
        let fields = "S 1 2 3 4 5 6 7 8 9 10";
        let stat = format!("7 (keyhole-reader) {fields} {second} {second} 0 0 20 0 1 0 900 4096 3 0\n");
        let procfs = ReaderClass {
            name: "procfs".into(),
            available: true,
            deaths: 2,
            seccomp_kills: 1,
            replacements: 3,
            reopenings: 4,
            stuck: 0,
            stat: stat.into_bytes(),
        };
        let mounts = ReaderClass { name: "mounts".into(), stuck: 4, ..Default::default() };
        let mut out = Exposition::new();
        let broker = DescribeResponse { readers: vec![procfs, mounts], ..Default::default() };
        add_description(Some(&broker), &mut out);
        let text = out.to_text();
        for line in [
            "keyhole_broker_reader_available{reader=\"procfs\"} 1",
            "keyhole_broker_reader_available{reader=\"mounts\"} 0",
            "keyhole_broker_reader_stuck{reader=\"mounts\"} 4",
            "keyhole_broker_reader_deaths_total{reader=\"procfs\"} 2",
            "keyhole_broker_reader_seccomp_kills_total{reader=\"procfs\"} 1",
            "keyhole_broker_reader_replacements_total{reader=\"procfs\"} 3",
            "keyhole_broker_reader_reopenings_total{reader=\"procfs\"} 4",
            "keyhole_broker_reader_cpu_seconds_total{reader=\"procfs\"} 2",
            &format!("keyhole_broker_reader_resident_memory_bytes{{reader=\"procfs\"}} {}", 3 * page),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
        }
        assert!(
            !text.contains("cpu_seconds_total{reader=\"mounts\"}"),
            "its reader has reported nothing: {text}"
        );
        assert!(!text.contains("resident_memory_bytes{reader=\"mounts\"}"), "{text}");
    }

    #[test]
    fn a_broker_that_answered_is_described_and_an_absent_one_is_down() {
        let mut out = Exposition::new();
        let broker = DescribeResponse {
            version: "1.2".into(),
            uid: 64646,
            access_level: AccessLevel::Host.into(),
            proc_view: View::Host.into(),
            layers: vec![layer("broker", "landlock", false), layer("reader-procfs", "seccomp", true)],
            counters: Some(Counters {
                connections: 2,
                refused_peers: 3,
                late_handshakes: 4,
                reads: 5,
                limited_requests: 6,
                stuck_queries: 7,
                readers_stuck: 8,
                failed_accepts: 9,
                log_lines_dropped: 10,
            }),
            ..Default::default()
        };
        add_description(Some(&broker), &mut out);
        let text = out.to_text();
        for line in [
            "keyhole_broker_up 1",
            "keyhole_broker_info{access_level=\"host\",proc_view=\"host\",sys_view=\"unspecified\",uid=\"64646\",version=\"1.2\"} 1",
            "keyhole_broker_sandbox_layer{layer=\"landlock\",process=\"broker\"} 0",
            "keyhole_broker_sandbox_layer{layer=\"seccomp\",process=\"reader-procfs\"} 1",
            "keyhole_broker_connections_total 2",
            "keyhole_broker_refused_peers_total 3",
            "keyhole_broker_late_handshakes_total 4",
            "keyhole_broker_reads_total 5",
            "keyhole_broker_limited_requests_total 6",
            "keyhole_broker_stuck_queries_total 7",
            "keyhole_broker_readers_stuck 8",
            "keyhole_broker_log_lines_dropped_total 10",
            "keyhole_broker_failed_accepts_total 9",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
        }
        let mut out = Exposition::new();
        add_description(None, &mut out);
        assert!(out.to_text().ends_with("gauge\nkeyhole_broker_up 0\n"));
    }
}
