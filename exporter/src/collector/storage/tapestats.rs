//! SCSI tape drives: `sys/class/scsi_tape/<device>/stats/`.
//!
//! <https://docs.kernel.org/scsi/st.html#sysfs-and-statistics-for-tape-devices>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Kind};
use crate::options::{Flag, FlagKind};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "tapestats",
    default: true,
    help: "SCSI tape drives.",
    queries: &[Query::Tape],
    optional: &[],
    flags: &[Flag { name: IGNORED, kind: FlagKind::Regexp("^$"), help: "Tape drives to exclude." }],
    families: FAMILIES,
    collect,
};

const TAPES: &str = "sys/class/scsi_tape";
const IGNORED: &str = "collector.tapestats.ignored-devices";
/// What comes before an attribute's file name in the source of its family.
const OF_TAPE: &str = "sys/class/scsi_tape/<device>/stats/";

/// Every family gives the number in its source, those in seconds nanoseconds.
#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    Family { name: "node_tape_io_now",                   help: "Requests to the drive that are under way.",                                          source: "sys/class/scsi_tape/<device>/stats/in_flight",      kind: Kind::Gauge, ..COUNT },
    Family { name: "node_tape_io_others_total",          help: "Requests to the drive that were neither reads nor writes.",                          source: "sys/class/scsi_tape/<device>/stats/other_cnt",      ..COUNT },
    Family { name: "node_tape_io_time_seconds_total",    help: "Seconds spent on requests of any kind, such as moving the tape.",                    source: "sys/class/scsi_tape/<device>/stats/io_ns",          ..COUNT },
    Family { name: "node_tape_read_bytes_total",         help: "Bytes read from the drive.",                                                         source: "sys/class/scsi_tape/<device>/stats/read_byte_cnt",  ..COUNT },
    Family { name: "node_tape_read_time_seconds_total",  help: "Seconds spent on reads.",                                                            source: "sys/class/scsi_tape/<device>/stats/read_ns",        ..COUNT },
    Family { name: "node_tape_reads_completed_total",    help: "Reads that were completed.",                                                         source: "sys/class/scsi_tape/<device>/stats/read_cnt",       ..COUNT },
    Family { name: "node_tape_residual_total",           help: "Reads and writes that moved less than they asked for.",                              source: "sys/class/scsi_tape/<device>/stats/resid_cnt",      ..COUNT },
    Family { name: "node_tape_write_time_seconds_total", help: "Seconds spent on writes.",                                                           source: "sys/class/scsi_tape/<device>/stats/write_ns",       ..COUNT },
    Family { name: "node_tape_writes_completed_total",   help: "Writes that were completed.",                                                        source: "sys/class/scsi_tape/<device>/stats/write_cnt",      ..COUNT },
    Family { name: "node_tape_written_bytes_total",      help: "Bytes written to the drive.",                                                        source: "sys/class/scsi_tape/<device>/stats/write_byte_cnt", ..COUNT },
];

const COUNT: Family = Family { name: "", help: "", kind: Kind::Counter, labels: &["device"], source: "" };

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let ignored = context.options.regexp(IGNORED);
    let mut any = false;
    for device in context.snapshot.dir(TAPES).dirs() {
        out.item();
        any = true;
        let name = device.name();
        if ignored.is_some_and(|ignored| ignored.is_match(name)) {
            continue;
        }
        let stats = device.dir("stats");
        for family in FAMILIES {
            let file = family.source.strip_prefix(OF_TAPE);
            let Some(value) = file.and_then(|file| stats.value(file)) else { continue };
            match text::unsigned(value) {
                Some(nanoseconds) if family.source.ends_with("_ns") => {
                    out.add(family, &[name], nanoseconds as f64 * 1e-9);
                }
                Some(value) => out.add(family, &[name], value),
                None => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
            }
        }
    }
    if any { Ok(()) } else { context.none_of(Query::Tape, "tape drives") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{collect, survives};

    fn path(family: &Family) -> String {
        family.source.replace("<device>", "st0")
    }

    #[test]
    fn every_file_is_a_metric_and_times_are_seconds() {
        let paths: Vec<String> = FAMILIES.iter().map(path).collect();
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
    fn a_missing_file_is_absent_and_a_bad_number_costs_only_itself() {
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
    fn any_bytes_are_survived() {
        let paths: Vec<String> = FAMILIES.iter().map(path).collect();
        survives(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
