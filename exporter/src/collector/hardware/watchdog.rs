//! Watchdogs: `sys/class/watchdog/<name>/`.
//!
//! <https://docs.kernel.org/watchdog/watchdog-api.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "watchdog",
    default: true,
    help: "Watchdogs, their timeouts and state.",
    queries: &[Query::Watchdog],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const WATCHDOGS: &str = "sys/class/watchdog";
/// The directory of a watchdog.
const WATCHDOG: &str = "sys/class/watchdog/watchdog#";

/// Attributes that are numbers: the file and its family.
#[rustfmt::skip]
const NUMBERS: &[(&str, Family)] = &[
    number("access_cs0", "node_watchdog_access_cs0",         "Whether the watchdog starts the system from its first chip select again."),
    number("bootstatus", "node_watchdog_bootstatus",         "Why the system was last started, as bits (WDIOF_*)."),
    number("fw_version", "node_watchdog_fw_version",         "Version of the watchdog's firmware."),
    number("nowayout",   "node_watchdog_nowayout",           "Whether the watchdog, once started, cannot be stopped."),
    number("pretimeout", "node_watchdog_pretimeout_seconds", "Seconds before its timeout at which the watchdog warns."),
    number("timeleft",   "node_watchdog_timeleft_seconds",   "Seconds left until the watchdog acts."),
    number("timeout",    "node_watchdog_timeout_seconds",    "Seconds without a keepalive after which the watchdog acts."),
];

const fn number(file: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    (file, Family::gauge(name, help, &["name"], Source::FileIn(WATCHDOG, file)))
}

const INFO: Family = Family {
    name: "node_watchdog_info",
    help: "Attributes of the watchdog that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &["identity", "name", "options", "pretimeout_governor", "state", "status"],
    source: Source::FileIn(WATCHDOG, "{identity,options,pretimeout_governor,state,status}"),
};

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(_, family)| *family);
    [INFO].into_iter().chain(numbers).collect()
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let watchdogs = context.snapshot.dir(WATCHDOGS);
    // A kernel without WATCHDOG_SYSFS has links to devices and no attributes in them.
    let mut names: Vec<Vec<u8>> = watchdogs.files().map(|(name, _)| name.to_vec()).collect();
    names.extend(watchdogs.dirs().map(|watchdog| watchdog.name().to_vec()));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return context.no_devices(Query::Watchdog, "watchdogs");
    }
    for name in names {
        out.item();
        add_watchdog(&watchdogs.dir(name), out);
    }
    Ok(())
}

fn add_watchdog(watchdog: &Dir<'_>, out: &mut Exposition) {
    let name = watchdog.name();
    for (file, family) in NUMBERS {
        // Reading an attribute that the device does not support fails.
        let Some(value) = watchdog.value(file) else { continue };
        match text::integer(value) {
            Some(value) => out.add(family, &[name], value),
            None => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
        }
    }
    match watchdog.labels(["identity", "options", "pretimeout_governor", "state", "status"]) {
        Some([identity, options, governor, state, status]) => {
            out.add(&INFO, &[identity, name, options, governor, state, status], 1u64);
        }
        None => out.skip_half_read(watchdog.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local, skipped_of};
    use crate::snapshot::{Content, Snapshot};

    #[test]
    fn numbers_are_metrics_and_texts_are_labels() {
        let files: &[(&str, &[u8])] = &[
            ("sys/class/watchdog/watchdog0/access_cs0", b"0\n"),
            ("sys/class/watchdog/watchdog0/bootstatus", b"1\n"),
            ("sys/class/watchdog/watchdog0/fw_version", b"2\n"),
            ("sys/class/watchdog/watchdog0/identity", b"Software Watchdog\n"),
            ("sys/class/watchdog/watchdog0/nowayout", b"0\n"),
            ("sys/class/watchdog/watchdog0/options", b"0x8380\n"),
            ("sys/class/watchdog/watchdog0/pretimeout", b"120\n"),
            ("sys/class/watchdog/watchdog0/pretimeout_governor", b"noop\n"),
            ("sys/class/watchdog/watchdog0/state", b"active\n"),
            ("sys/class/watchdog/watchdog0/status", b"0x8000\n"),
            ("sys/class/watchdog/watchdog0/timeleft", b"300\n"),
            ("sys/class/watchdog/watchdog0/timeout", b"60\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "\
node_watchdog_access_cs0{name=\"watchdog0\"} 0
node_watchdog_bootstatus{name=\"watchdog0\"} 1
node_watchdog_fw_version{name=\"watchdog0\"} 2
node_watchdog_info{identity=\"Software Watchdog\",name=\"watchdog0\",options=\"0x8380\",pretimeout_governor=\"noop\",state=\"active\",status=\"0x8000\"} 1
node_watchdog_nowayout{name=\"watchdog0\"} 0
node_watchdog_pretimeout_seconds{name=\"watchdog0\"} 120
node_watchdog_timeleft_seconds{name=\"watchdog0\"} 300
node_watchdog_timeout_seconds{name=\"watchdog0\"} 60
"
        );
    }

    #[test]
    fn a_watchdog_without_attributes_is_there() {
        let link = Content::Link(b"../../devices/virtual/watchdog/watchdog1".to_vec());
        let snapshot = Snapshot::from_files(vec![(b"sys/class/watchdog/watchdog1".to_vec(), link)]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_watchdog_info{identity=\"\",name=\"watchdog1\",options=\"\",pretimeout_governor=\"\",state=\"\",status=\"\"} 1\n"
        );
    }

    #[test]
    fn only_an_attribute_that_fails_or_is_no_number_is_skipped() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/class/watchdog/watchdog0/timeleft".to_vec(), Content::Errno(95)),
            (b"sys/class/watchdog/watchdog0/timeout".to_vec(), Content::bytes(&b"soon"[..])),
            (b"sys/class/watchdog/watchdog0/nowayout".to_vec(), Content::bytes(&b"1"[..])),
            (b"sys/class/watchdog/watchdog0/identity".to_vec(), Content::bytes(&b"a\"b\nc\xff"[..])),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_watchdog_info{identity=\"a\\\"b\\nc\u{fffd}\",name=\"watchdog0\",options=\"\",\
             pretimeout_governor=\"\",state=\"\",status=\"\"} 1\n\
             node_watchdog_nowayout{name=\"watchdog0\"} 1\n"
        );
        assert_eq!(skipped_of(&COLLECTOR, &snapshot, &[]), 1);
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &["sys/class/watchdog/watchdog0/timeout", "sys/class/watchdog/watchdog0/identity"],
        );
    }
}
