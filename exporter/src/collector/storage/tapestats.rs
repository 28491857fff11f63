//! SCSI tape drives: `sys/class/scsi_tape/<device>/stats/`.
//!
//! <https://docs.kernel.org/scsi/st.html#sysfs-and-statistics-for-tape-devices>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::go_regex::GoRegex;
use crate::options::{Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "tapestats",
    default: true,
    help: "SCSI tape drives.",
    queries: &[Query::Tape],
    optional: &[],
    flags: &[IGNORED.row],
    families: || STATISTICS.iter().map(|statistic| statistic.family).collect(),
    new: |options| Ok(Box::new(Tapestats::new(options))),
};

const TAPES: &str = "sys/class/scsi_tape";
const IGNORED: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.tapestats.ignored-devices", "^$", "Tape drives to exclude.");
/// The directory of a drive's statistics.
const DIRECTORY: &str = "sys/class/scsi_tape/st#/stats";

/// A statistic: the file, the unit of its number, and the family.
struct Statistic {
    file: &'static str,
    unit: Unit,
    family: Family,
}

enum Unit {
    One,
    Nanoseconds,
}
use Unit::{Nanoseconds, One};

#[rustfmt::skip]
const STATISTICS: &[Statistic] = &[
    gauge("in_flight",        One,         "node_tape_io_now",                   "Requests to the drive that are under way."),
    counter("other_cnt",      One,         "node_tape_io_others_total",          "Requests to the drive that were neither reads nor writes."),
    counter("io_ns",          Nanoseconds, "node_tape_io_time_seconds_total",    "Seconds spent on requests of any kind, such as moving the tape."),
    counter("read_byte_cnt",  One,         "node_tape_read_bytes_total",         "Bytes read from the drive."),
    counter("read_ns",        Nanoseconds, "node_tape_read_time_seconds_total",  "Seconds spent on reads."),
    counter("read_cnt",       One,         "node_tape_reads_completed_total",    "Reads that were completed."),
    counter("resid_cnt",      One,         "node_tape_residual_total",           "Reads and writes that transferred less data than requested."),
    counter("write_ns",       Nanoseconds, "node_tape_write_time_seconds_total", "Seconds spent on writes."),
    counter("write_cnt",      One,         "node_tape_writes_completed_total",   "Writes that were completed."),
    counter("write_byte_cnt", One,         "node_tape_written_bytes_total",      "Bytes written to the drive."),
];

const fn counter(file: &'static str, unit: Unit, name: &'static str, help: &'static str) -> Statistic {
    Statistic {
        file,
        unit,
        family: Family::counter(name, help, &["device"], Source::FileIn(DIRECTORY, file)),
    }
}

const fn gauge(file: &'static str, unit: Unit, name: &'static str, help: &'static str) -> Statistic {
    Statistic { file, unit, family: Family::gauge(name, help, &["device"], Source::FileIn(DIRECTORY, file)) }
}

/// The values of the flags.
#[derive(Debug)]
struct Tapestats {
    ignored: Option<GoRegex>,
}

impl Tapestats {
    fn new(options: &Options) -> Self {
        Self { ignored: IGNORED.get(options) }
    }
}

impl Collect for Tapestats {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut any = false;
        for device in context.snapshot.dir(TAPES).dirs() {
            out.item();
            any = true;
            let name = device.name();
            if self.ignored.as_ref().is_some_and(|ignored| ignored.is_match(name)) {
                continue;
            }
            let stats = device.dir("stats");
            for Statistic { file, unit, family } in STATISTICS {
                let Some(value) = stats.value(file) else { continue };
                match (text::unsigned(value), unit) {
                    (Some(value), One) => out.add(family, &[name], value),
                    (Some(value), Nanoseconds) => out.add(family, &[name], value as f64 * 1e-9),
                    (None, _) => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
                }
            }
        }
        if any { Ok(()) } else { context.no_devices(Query::Tape, "tape drives") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    fn path(statistic: &Statistic) -> String {
        format!("sys/class/scsi_tape/st0/stats/{}", statistic.file)
    }

    #[test]
    fn every_file_is_a_metric_and_times_are_seconds() {
        let paths: Vec<String> = STATISTICS.iter().map(path).collect();
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (&**path, &b"2500000000\n"[..])).collect();
        let text = collect(&COLLECTOR, &files, &[]).unwrap();
        assert_eq!(
            text,
            "node_tape_io_now{device=\"st0\"} 2500000000\n\
             node_tape_io_others_total{device=\"st0\"} 2500000000\n\
             node_tape_io_time_seconds_total{device=\"st0\"} 2.5\n\
             node_tape_read_bytes_total{device=\"st0\"} 2500000000\n\
             node_tape_read_time_seconds_total{device=\"st0\"} 2.5\n\
             node_tape_reads_completed_total{device=\"st0\"} 2500000000\n\
             node_tape_residual_total{device=\"st0\"} 2500000000\n\
             node_tape_write_time_seconds_total{device=\"st0\"} 2.5\n\
             node_tape_writes_completed_total{device=\"st0\"} 2500000000\n\
             node_tape_written_bytes_total{device=\"st0\"} 2500000000\n"
        );
    }

    #[test]
    fn drives_are_left_out_by_name() {
        let files: &[(&str, &[u8])] = &[
            ("sys/class/scsi_tape/st0/stats/in_flight", b"1\n"),
            ("sys/class/scsi_tape/st1/stats/in_flight", b"2\n"),
        ];
        let text = collect(&COLLECTOR, files, &["--collector.tapestats.ignored-devices=^st0$"]).unwrap();
        assert_eq!(text, "node_tape_io_now{device=\"st1\"} 2\n");
    }

    #[test]
    fn a_missing_file_is_absent_and_only_a_malformed_number_is_skipped() {
        let files: &[(&str, &[u8])] = &[
            ("sys/class/scsi_tape/st0/stats/in_flight", b"1\n"),
            ("sys/class/scsi_tape/st0/stats/read_cnt", b"-1\n"),
        ];
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), "node_tape_io_now{device=\"st0\"} 1\n");
    }

    #[test]
    fn a_host_without_drives_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let paths: Vec<String> = STATISTICS.iter().map(path).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
