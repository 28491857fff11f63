//! Memory errors that the hardware found: `sys/devices/system/edac/mc/`.
//!
//! <https://docs.kernel.org/admin-guide/RAS/main.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "edac",
    default: true,
    help: "Memory errors, by controller, row and channel.",
    queries: &[Query::Edac],
    optional: &[],
    flags: &[],
    families: || {
        vec![
            CORRECTABLE,
            UNCORRECTABLE,
            ROW_CORRECTABLE,
            ROW_UNCORRECTABLE,
            CHANNEL_CORRECTABLE,
            CHANNEL_UNCORRECTABLE,
        ]
    },
    new: |_| Ok(Box::new(collect)),
};

const CONTROLLERS: &str = "sys/devices/system/edac/mc";

const CORRECTABLE: Family = Family {
    name: "node_edac_correctable_errors_total",
    help: "Memory errors that the controller has corrected.",
    kind: MetricType::Counter,
    labels: &["controller"],
    source: Source::File("sys/devices/system/edac/mc/mc#/ce_count"),
};
const UNCORRECTABLE: Family = Family {
    name: "node_edac_uncorrectable_errors_total",
    help: "Memory errors that the controller could not correct.",
    source: Source::File("sys/devices/system/edac/mc/mc#/ue_count"),
    ..CORRECTABLE
};
const ROW_CORRECTABLE: Family = Family {
    name: "node_edac_csrow_correctable_errors_total",
    help: "Memory errors in this row that were corrected; in row unknown, those that could not be placed.",
    labels: &["controller", "csrow"],
    source: Source::Files(&[
        "sys/devices/system/edac/mc/mc#/csrow#/ce_count",
        "sys/devices/system/edac/mc/mc#/ce_noinfo_count",
    ]),
    ..CORRECTABLE
};
const ROW_UNCORRECTABLE: Family = Family {
    name: "node_edac_csrow_uncorrectable_errors_total",
    help: "Memory errors in this row that were not corrected; in row unknown, those that could not be placed.",
    source: Source::Files(&[
        "sys/devices/system/edac/mc/mc#/csrow#/ue_count",
        "sys/devices/system/edac/mc/mc#/ue_noinfo_count",
    ]),
    ..ROW_CORRECTABLE
};
const CHANNEL_CORRECTABLE: Family = Family {
    name: "node_edac_channel_correctable_errors_total",
    help: "Memory errors in this channel of the row that were corrected.",
    labels: &["channel", "controller", "csrow", "dimm_label"],
    source: Source::File("sys/devices/system/edac/mc/mc#/csrow#/ch#_{ce_count,dimm_label}"),
    ..CORRECTABLE
};
const CHANNEL_UNCORRECTABLE: Family = Family {
    name: "node_edac_channel_uncorrectable_errors_total",
    help: "Memory errors in this channel of the row that were not corrected.",
    source: Source::File("sys/devices/system/edac/mc/mc#/csrow#/ch#_{ue_count,dimm_label}"),
    ..CHANNEL_CORRECTABLE
};

const UNKNOWN: &[u8] = b"unknown";

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for dir in context.snapshot.dir(CONTROLLERS).dirs() {
        out.item();
        let Some(controller) = numbered(dir.name(), b"mc") else { continue };
        add(out, &CORRECTABLE, &[controller], dir.value("ce_count"));
        add(out, &UNCORRECTABLE, &[controller], dir.value("ue_count"));
        add(out, &ROW_CORRECTABLE, &[controller, UNKNOWN], dir.value("ce_noinfo_count"));
        add(out, &ROW_UNCORRECTABLE, &[controller, UNKNOWN], dir.value("ue_noinfo_count"));
        for row_dir in dir.dirs() {
            let Some(row) = numbered(row_dir.name(), b"csrow") else { continue };
            add(out, &ROW_CORRECTABLE, &[controller, row], row_dir.value("ce_count"));
            add(out, &ROW_UNCORRECTABLE, &[controller, row], row_dir.value("ue_count"));
            add_channels(&row_dir, controller, row, out);
        }
    }
    Ok(())
}

fn add_channels(dir: &Dir<'_>, controller: &[u8], row: &[u8], out: &mut Exposition) {
    for (file, _) in dir.files() {
        let Some((name, count)) = text::split_first(file, b'_') else { continue };
        let family = match count {
            b"ce_count" => &CHANNEL_CORRECTABLE,
            b"ue_count" => &CHANNEL_UNCORRECTABLE,
            _ => continue,
        };
        let Some(channel) = numbered(name, b"ch") else { continue };
        if dir.is_half_read([[name, b"_dimm_label"].concat()]) {
            out.skip_half_read(dir.path());
            continue;
        }
        let label = dir.value([name, b"_dimm_label"].concat()).map(label);
        let label = label.as_deref().map_or(UNKNOWN, str::as_bytes);
        add(out, family, &[channel, controller, row, label], dir.value(file));
    }
}

/// The number of `mc0`, `csrow0` or `ch0`.
fn numbered<'a>(name: &'a [u8], kind: &[u8]) -> Option<&'a [u8]> {
    name.strip_prefix(kind).filter(|number| text::unsigned(number).is_some())
}

/// A memory module's label as node_exporter emits it: `mc#0csrow#1channel#2` becomes `mc0_csrow1_channel2`.
fn label(text: &[u8]) -> String {
    text::printable(text).replace('#', "").replace("csrow", "_csrow").replace("channel", "_channel")
}

fn add(out: &mut Exposition, family: &Family, labels: &[&[u8]], value: Option<&[u8]>) {
    let Some(value) = value else { return };
    match text::unsigned(value) {
        Some(count) => out.add(family, labels, count),
        None => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    #[test]
    fn errors_are_counted_by_controller_row_and_channel() {
        let files: &[(&str, &[u8])] = &[
            ("sys/devices/system/edac/mc/mc0/ce_count", b"1\n"),
            ("sys/devices/system/edac/mc/mc0/ce_noinfo_count", b"2\n"),
            ("sys/devices/system/edac/mc/mc0/ue_count", b"5\n"),
            ("sys/devices/system/edac/mc/mc0/ue_noinfo_count", b"6\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ce_count", b"3\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ue_count", b"4\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ch0_ce_count", b"7\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ch0_ue_count", b"8\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ch0_dimm_label", b"mc#0csrow#0channel#0\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ch11_ce_count", b"9\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "\
node_edac_channel_correctable_errors_total{channel=\"0\",controller=\"0\",csrow=\"0\",dimm_label=\"mc0_csrow0_channel0\"} 7
node_edac_channel_correctable_errors_total{channel=\"11\",controller=\"0\",csrow=\"0\",dimm_label=\"unknown\"} 9
node_edac_channel_uncorrectable_errors_total{channel=\"0\",controller=\"0\",csrow=\"0\",dimm_label=\"mc0_csrow0_channel0\"} 8
node_edac_correctable_errors_total{controller=\"0\"} 1
node_edac_csrow_correctable_errors_total{controller=\"0\",csrow=\"0\"} 3
node_edac_csrow_correctable_errors_total{controller=\"0\",csrow=\"unknown\"} 2
node_edac_csrow_uncorrectable_errors_total{controller=\"0\",csrow=\"0\"} 4
node_edac_csrow_uncorrectable_errors_total{controller=\"0\",csrow=\"unknown\"} 6
node_edac_uncorrectable_errors_total{controller=\"0\"} 5
"
        );
    }

    #[test]
    fn a_kernel_that_has_no_rows_any_more_counts_by_controller() {
        let files: &[(&str, &[u8])] = &[
            ("sys/devices/system/edac/mc/mc1/ce_count", b"1\n"),
            ("sys/devices/system/edac/mc/mc1/dimm0/dimm_ce_count", b"1\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "node_edac_correctable_errors_total{controller=\"1\"} 1\n"
        );
    }

    #[test]
    fn only_a_malformed_count_is_skipped_and_a_label_may_have_any_bytes() {
        let files: &[(&str, &[u8])] = &[
            ("sys/devices/system/edac/mc/mc0/ce_count", b"x\n"),
            ("sys/devices/system/edac/mc/mc0/ue_count", b"-1\n"),
            ("sys/devices/system/edac/mc/mcx/ue_count", b"1\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ch0_ce_count", b"7\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/ch0_dimm_label", b"CPU_SrcID#0_\"a\nb\xff\n"),
            ("sys/devices/system/edac/mc/mc0/csrow0/chx_ce_count", b"7\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "node_edac_channel_correctable_errors_total{channel=\"0\",controller=\"0\",csrow=\"0\",\
             dimm_label=\"CPU_SrcID0_\\\"a\\nb\u{fffd}\"} 7\n"
        );
        assert_eq!(skipped(&COLLECTOR, files, &[]), 2);
    }

    #[test]
    fn a_host_without_a_driver_has_no_series_and_succeeds() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[
                "sys/devices/system/edac/mc/mc0/ce_count",
                "sys/devices/system/edac/mc/mc0/csrow0/ch0_ce_count",
                "sys/devices/system/edac/mc/mc0/csrow0/ch0_dimm_label",
            ],
        );
    }
}
