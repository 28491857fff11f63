//! The clock, its time zone, and the kernel's clock sources: `sys/devices/system/clocksource`.
//!
//! The clock is the exporter's own, which is the node's; the time zone is the exporter's, which is UTC in a container.
//!
//! <https://docs.kernel.org/timers/timekeeping.html>

use std::time::UNIX_EPOCH;

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "time",
    default: true,
    help: "System time, time zone and clock sources.",
    queries: &[],
    optional: &[Query::Clocksource],
    flags: &[],
    families: || vec![SECONDS, ZONE_OFFSET, AVAILABLE, CURRENT],
    new: |_| Ok(Box::new(collect)),
};

const SECONDS: Family = Family {
    name: "node_time_seconds",
    help: "Time of the node's clock, in seconds since the epoch.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Exporter("clock_gettime(2)"),
};
const ZONE_OFFSET: Family = Family {
    name: "node_time_zone_offset_seconds",
    help: "Seconds by which the exporter's time zone is ahead of UTC.",
    labels: &["time_zone"],
    source: Source::Exporter("exporter"),
    ..SECONDS
};
const AVAILABLE: Family = Family {
    name: "node_time_clocksource_available_info",
    help: "Always 1; its labels name a clock source that the kernel could use.",
    labels: &["clocksource", "device"],
    source: Source::File("sys/devices/system/clocksource/clocksource#/available_clocksource"),
    ..SECONDS
};
const CURRENT: Family = Family {
    name: "node_time_clocksource_current_info",
    help: "Always 1; its labels name the clock source that the kernel uses.",
    source: Source::File("sys/devices/system/clocksource/clocksource#/current_clocksource"),
    ..AVAILABLE
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let now = context.local.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.add(&SECONDS, &[], now.as_secs_f64());
    if let Some(zone) = &context.local.time_zone {
        out.add(&ZONE_OFFSET, &[zone.name.as_bytes()], i64::from(zone.offset));
    }
    for dir in context.snapshot.dir("sys/devices/system/clocksource").dirs() {
        let Some(device) = dir.name().strip_prefix(b"clocksource") else { continue };
        out.item();
        for (family, file) in [(&AVAILABLE, "available_clocksource"), (&CURRENT, "current_clocksource")] {
            for source in text::fields(dir.text(file).unwrap_or_default()) {
                out.add(family, &[source, device], true);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::collector::{LocalData, TimeZone};
    use crate::snapshot::Snapshot;

    const DIR: &str = "sys/devices/system/clocksource/clocksource0";

    #[test]
    fn each_clock_source_is_reported_and_the_one_in_use() {
        let text = collect(
            &COLLECTOR,
            &[
                (&format!("{DIR}/available_clocksource"), b"tsc hpet acpi_pm \n"),
                (&format!("{DIR}/current_clocksource"), b"tsc\n"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(
            text,
            "node_time_clocksource_available_info{clocksource=\"acpi_pm\",device=\"0\"} 1\n\
             node_time_clocksource_available_info{clocksource=\"hpet\",device=\"0\"} 1\n\
             node_time_clocksource_available_info{clocksource=\"tsc\",device=\"0\"} 1\n\
             node_time_clocksource_current_info{clocksource=\"tsc\",device=\"0\"} 1\n\
             node_time_seconds 0\n"
        );
    }

    #[test]
    fn the_clock_is_reported_with_its_fraction_and_without_any_file() {
        let zone = TimeZone { name: "UTC".into(), offset: 0 };
        let own =
            LocalData { now: UNIX_EPOCH + Duration::from_millis(1500), time_zone: Some(zone), ..local() };
        let text = collect_snapshot(&COLLECTOR, &Snapshot::default(), &[], &own).unwrap();
        assert_eq!(text, "node_time_seconds 1.5\nnode_time_zone_offset_seconds{time_zone=\"UTC\"} 0\n");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[&format!("{DIR}/available_clocksource"), &format!("{DIR}/current_clocksource")],
        );
    }
}
