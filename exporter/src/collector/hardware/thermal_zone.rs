//! Thermal zones and the devices that cool them: `sys/class/thermal`.
//!
//! <https://docs.kernel.org/driver-api/thermal/sysfs-api.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};

pub const COLLECTOR: Collector = Collector {
    name: "thermal_zone",
    default: true,
    help: "Temperatures of thermal zones, and the states of their cooling devices.",
    queries: &[Query::Thermal],
    optional: &[],
    flags: &[],
    families: || vec![TEMP, CUR_STATE, MAX_STATE],
    new: |_| Ok(Box::new(collect)),
};

const CLASS: &str = "sys/class/thermal";

const TEMP: Family = Family {
    name: "node_thermal_zone_temp",
    help: "Temperature of the thermal zone in degrees Celsius.",
    kind: MetricType::Gauge,
    labels: &["zone", "type"],
    source: Source::File("sys/class/thermal/thermal_zone#/{temp,type}"),
};
const CUR_STATE: Family = Family {
    name: "node_cooling_device_cur_state",
    help: "State of the cooling device, from 0 to its maximum state; -1 if it is not set.",
    kind: MetricType::Gauge,
    labels: &["name", "type"],
    source: Source::File("sys/class/thermal/cooling_device#/{cur_state,type}"),
};
const MAX_STATE: Family = Family {
    name: "node_cooling_device_max_state",
    help: "The maximum state of the cooling device.",
    source: Source::File("sys/class/thermal/cooling_device#/{max_state,type}"),
    ..CUR_STATE
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for dir in context.snapshot.dir(CLASS).dirs() {
        out.item();
        let Some([kind]) = dir.labels(["type"]) else {
            out.skip_half_read(dir.path());
            continue;
        };
        if let Some(zone) = dir.name().strip_prefix(b"thermal_zone") {
            // Many zones cannot be read, such as those of a sleeping radio: no temperature is not 0 degrees.
            if let Some(millidegrees) = dir.signed("temp") {
                out.add(&TEMP, &[zone, kind], millidegrees as f64 / 1000.0);
            }
        } else if let Some(name) = dir.name().strip_prefix(b"cooling_device") {
            for (attribute, family) in [("cur_state", &CUR_STATE), ("max_state", &MAX_STATE)] {
                if let Some(state) = dir.signed(attribute) {
                    out.add(family, &[name, kind], state);
                }
            }
        }
    }
    // No failure where there is none: most virtual machines are so, and node_exporter agrees.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    #[test]
    fn zones_are_in_degrees_and_cooling_devices_in_states() {
        let text = collect(
            &COLLECTOR,
            &[
                ("sys/class/thermal/thermal_zone0/temp", b"12376\n"),
                ("sys/class/thermal/thermal_zone0/type", b"cpu-thermal\n"),
                ("sys/class/thermal/thermal_zone12/temp", b"-2500\n"),
                ("sys/class/thermal/thermal_zone12/type", b"x86_pkg_temp\n"),
                ("sys/class/thermal/cooling_device0/type", b"Processor\n"),
                ("sys/class/thermal/cooling_device0/cur_state", b"-1\n"),
                ("sys/class/thermal/cooling_device0/max_state", b"3\n"),
            ],
            &[],
        );
        assert_eq!(
            text.unwrap(),
            "node_cooling_device_cur_state{name=\"0\",type=\"Processor\"} -1\n\
             node_cooling_device_max_state{name=\"0\",type=\"Processor\"} 3\n\
             node_thermal_zone_temp{type=\"cpu-thermal\",zone=\"0\"} 12.376\n\
             node_thermal_zone_temp{type=\"x86_pkg_temp\",zone=\"12\"} -2.5\n"
        );
    }

    #[test]
    fn a_zone_that_cannot_be_read_has_no_temperature() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/class/thermal/thermal_zone0/temp".to_vec(), Content::Errno(61)),
            (b"sys/class/thermal/thermal_zone0/type".to_vec(), Content::bytes(&b"iwlwifi_1\n"[..])),
            (b"sys/class/thermal/thermal_zone1/temp".to_vec(), Content::bytes(&b"\n"[..])),
            (b"sys/class/thermal/thermal_zone2/temp".to_vec(), Content::bytes(&b"0\n"[..])),
            (b"sys/class/thermal/thermal_zone2/type".to_vec(), Content::bytes(&b"ice\n"[..])),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_thermal_zone_temp{type=\"ice\",zone=\"2\"} 0\n"
        );
    }

    #[test]
    fn hostile_types_are_escaped_and_a_future_kernels_files_ignored() {
        let text = collect(
            &COLLECTOR,
            &[
                ("sys/class/thermal/thermal_zone0/temp", b"1000\n"),
                ("sys/class/thermal/thermal_zone0/type", b"a\"b\nc\xff\n"),
                ("sys/class/thermal/thermal_zone0/quux", b"1"),
                ("sys/class/thermal/quux0/temp", b"1000\n"),
                ("sys/class/thermal/cooling_device1/cur_state", b"99999999999999999999\n"),
                ("sys/class/thermal/cooling_device1/max_state", b"1\n"),
            ],
            &[],
        );
        assert_eq!(
            text.unwrap(),
            "node_cooling_device_max_state{name=\"1\",type=\"\"} 1\n\
             node_thermal_zone_temp{type=\"a\\\"b\\nc\u{fffd}\",zone=\"0\"} 1\n"
        );
    }

    #[test]
    fn a_host_without_zones_is_no_failure() {
        assert_eq!(collect(&COLLECTOR, &[], &[]), Ok(String::new()));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[
                "sys/class/thermal/thermal_zone0/temp",
                "sys/class/thermal/thermal_zone0/type",
                "sys/class/thermal/cooling_device0/cur_state",
                "sys/class/thermal/cooling_device0/max_state",
                "sys/class/thermal/cooling_device0/type",
            ],
        );
    }
}
