//! Batteries and mains: `sys/class/power_supply`.
//!
//! <https://docs.kernel.org/power/power_supply_class.html>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::go_regex::GoRegex;
use crate::options::{Options, TypedFlag};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "powersupplyclass",
    default: true,
    help: "Power supplies: batteries and mains.",
    queries: &[Query::PowerSupply],
    optional: &[],
    flags: &[IGNORED.row],
    families,
    new: |options| Ok(Box::new(PowerSupplyClass::new(options))),
};

const IGNORED: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.powersupply.ignored-supplies", "^$", "Power supplies to exclude.");

const CLASS: &str = "sys/class/power_supply";
/// The directory of a power supply.
const SUPPLY: &str = "sys/class/power_supply/*";

/// The texts of a power supply that it is described by; each is left out where it is empty.
const TEXTS: [&str; 11] = [
    "capacity_level",
    "charge_type",
    "health",
    "manufacturer",
    "model_name",
    "scope",
    "serial_number",
    "status",
    "technology",
    "type",
    "usb_type",
];

const INFO: Family = Family {
    name: "node_power_supply_info",
    help: "Attributes of the power supply that are not numeric, always 1.",
    kind: MetricType::Gauge,
    labels: &[
        "power_supply",
        "capacity_level",
        "charge_type",
        "health",
        "manufacturer",
        "model_name",
        "scope",
        "serial_number",
        "status",
        "technology",
        "type",
        "usb_type",
    ],
    source: Source::FileIn(
        SUPPLY,
        "{capacity_level,charge_type,health,manufacturer,model_name,scope,serial_number,status,technology,type,usb_type}",
    ),
};

/// A number of a power supply.
struct Attribute {
    file: &'static str,
    scale: Scale,
    family: Family,
}

/// What a number is divided by.
#[derive(Clone, Copy)]
enum Scale {
    /// Nothing.
    One,
    /// The kernel's number is in millionths.
    Micro,
    /// The kernel's number is in tenths.
    Tenth,
}
use Scale::{Micro, One, Tenth};

#[rustfmt::skip]
const ATTRIBUTES: [Attribute; 49] = [
    attribute("authentic",                   One,   "node_power_supply_authentic",                   "Whether the battery is the maker's."),
    attribute("calibrate",                   One,   "node_power_supply_calibrate",                   "Whether the battery is being calibrated."),
    attribute("capacity",                    One,   "node_power_supply_capacity",                    "Charge of the battery in percent."),
    attribute("capacity_alert_max",          One,   "node_power_supply_capacity_alert_max",          "Charge in percent above which the battery raises an alert."),
    attribute("capacity_alert_min",          One,   "node_power_supply_capacity_alert_min",          "Charge in percent below which the battery raises an alert."),
    attribute("charge_control_limit",        Micro, "node_power_supply_charge_control_limit",        "Limit set for charging, in amperes."),
    attribute("charge_control_limit_max",    Micro, "node_power_supply_charge_control_limit_max",    "Highest limit that can be set for charging, in amperes."),
    attribute("charge_counter",              Micro, "node_power_supply_charge_counter",              "Charge since the counter was started, in ampere hours; it may be negative."),
    attribute("charge_empty",                Micro, "node_power_supply_charge_empty",                "Charge of the battery when it counts as empty, in ampere hours."),
    attribute("charge_empty_design",         Micro, "node_power_supply_charge_empty_design",         "Charge of the battery when it counts as empty, by its design, in ampere hours."),
    attribute("charge_full",                 Micro, "node_power_supply_charge_full",                 "Charge of the battery when it was last full, in ampere hours."),
    attribute("charge_full_design",          Micro, "node_power_supply_charge_full_design",          "Charge of the battery when it is full, by its design, in ampere hours."),
    attribute("charge_now",                  Micro, "node_power_supply_charge_ampere",               "Charge of the battery in ampere hours."),
    attribute("charge_term_current",         Micro, "node_power_supply_charge_term_current",         "Current in amperes below which charging ends."),
    attribute("constant_charge_current",     Micro, "node_power_supply_constant_charge_current",     "Current of the charger in amperes."),
    attribute("constant_charge_current_max", Micro, "node_power_supply_constant_charge_current_max", "Highest current of the charger in amperes."),
    attribute("constant_charge_voltage",     Micro, "node_power_supply_constant_charge_voltage",     "Voltage of the charger in volts."),
    attribute("constant_charge_voltage_max", Micro, "node_power_supply_constant_charge_voltage_max", "Highest voltage of the charger in volts."),
    attribute("current_boot",                Micro, "node_power_supply_current_boot",                "Current when the machine started, in amperes."),
    attribute("current_max",                 Micro, "node_power_supply_current_max",                 "Highest current that the supply may provide, in amperes."),
    attribute("current_now",                 Micro, "node_power_supply_current_ampere",              "Current in amperes."),
    attribute("cycle_count",                 One,   "node_power_supply_cyclecount",                  "Times that the battery was charged and used up."),
    attribute("energy_empty",                Micro, "node_power_supply_energy_empty",                "Energy of the battery when it counts as empty, in watt hours."),
    attribute("energy_empty_design",         Micro, "node_power_supply_energy_empty_design",         "Energy of the battery when it counts as empty, by its design, in watt hours."),
    attribute("energy_full",                 Micro, "node_power_supply_energy_full",                 "Energy of the battery when it was last full, in watt hours."),
    attribute("energy_full_design",          Micro, "node_power_supply_energy_full_design",          "Energy of the battery when it is full, by its design, in watt hours."),
    attribute("energy_now",                  Micro, "node_power_supply_energy_watthour",             "Energy of the battery in watt hours."),
    attribute("input_current_limit",         Micro, "node_power_supply_input_current_limit",         "Limit set for the current that is drawn, in amperes."),
    attribute("online",                      One,   "node_power_supply_online",                      "Whether the supply provides power."),
    attribute("power_now",                   Micro, "node_power_supply_power_watt",                  "Power in watts."),
    attribute("precharge_current",           Micro, "node_power_supply_precharge_current",           "Current in amperes while a deeply discharged battery is precharged."),
    attribute("present",                     One,   "node_power_supply_present",                     "Whether the battery is present."),
    attribute("temp",                        Tenth, "node_power_supply_temp_celsius",                "Temperature of the supply in degrees Celsius."),
    attribute("temp_alert_max",              Tenth, "node_power_supply_temp_alert_max_celsius",      "Temperature above which the supply raises an alert."),
    attribute("temp_alert_min",              Tenth, "node_power_supply_temp_alert_min_celsius",      "Temperature below which the supply raises an alert."),
    attribute("temp_ambient",                Tenth, "node_power_supply_temp_ambient_celsius",        "Temperature around the supply in degrees Celsius."),
    attribute("temp_ambient_alert_max",      Tenth, "node_power_supply_temp_ambient_max_celsius",    "Temperature around it above which the supply raises an alert."),
    attribute("temp_ambient_alert_min",      Tenth, "node_power_supply_temp_ambient_min_celsius",    "Temperature around it below which the supply raises an alert."),
    attribute("temp_max",                    Tenth, "node_power_supply_temp_max_celsius",            "Highest temperature that the supply may have."),
    attribute("temp_min",                    Tenth, "node_power_supply_temp_min_celsius",            "Lowest temperature that the supply may have."),
    attribute("time_to_empty_now",           One,   "node_power_supply_time_to_empty_seconds",       "Time until the battery is empty."),
    attribute("time_to_full_now",            One,   "node_power_supply_time_to_full_seconds",        "Time until the battery is full."),
    attribute("voltage_boot",                Micro, "node_power_supply_voltage_boot",                "Voltage when the machine started, in volts."),
    attribute("voltage_max",                 Micro, "node_power_supply_voltage_max",                 "Highest voltage measured, or that the supply may provide, in volts."),
    attribute("voltage_max_design",          Micro, "node_power_supply_voltage_max_design",          "Voltage of a full battery by its design, in volts."),
    attribute("voltage_min",                 Micro, "node_power_supply_voltage_min",                 "Lowest voltage measured, or that the supply may provide, in volts."),
    attribute("voltage_min_design",          Micro, "node_power_supply_voltage_min_design",          "Voltage of an empty battery by its design, in volts."),
    attribute("voltage_now",                 Micro, "node_power_supply_voltage_volt",                "Voltage in volts."),
    attribute("voltage_ocv",                 Micro, "node_power_supply_voltage_ocv",                 "Voltage without a load, in volts."),
];

const fn attribute(file: &'static str, scale: Scale, name: &'static str, help: &'static str) -> Attribute {
    let family = Family::gauge(name, help, &["power_supply"], Source::FileIn(SUPPLY, file));
    Attribute { file, scale, family }
}

fn families() -> Vec<Family> {
    ATTRIBUTES.iter().map(|attribute| attribute.family).chain([INFO]).collect()
}

/// The values of the flags.
#[derive(Debug)]
struct PowerSupplyClass {
    ignored: Option<GoRegex>,
}

impl PowerSupplyClass {
    fn new(options: &Options) -> Self {
        Self { ignored: IGNORED.get(options) }
    }
}

impl Collect for PowerSupplyClass {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut any = false;
        for supply in context.snapshot.dir(CLASS).dirs() {
            any = true;
            let name = text::printable(supply.name());
            if self.ignored.as_ref().is_none_or(|ignored| !ignored.is_match(name.as_bytes())) {
                out.item();
                add_supply(&supply, out);
            }
        }
        // Most virtual machines have the class, and nothing in it.
        if any { Ok(()) } else { context.no_devices(Query::PowerSupply, "power supplies") }
    }
}

fn add_supply(supply: &Dir<'_>, out: &mut Exposition) {
    let name = supply.name();
    // A battery that is not there has its files still: reading them fails, or finds no number.
    for Attribute { file, scale, family } in &ATTRIBUTES {
        if let Some(number) = supply.signed(file) {
            match scale {
                One => out.add(family, &[name], number),
                Micro => out.add(family, &[name], number as f64 / 1e6),
                Tenth => out.add(family, &[name], number as f64 / 10.0),
            }
        }
    }
    if supply.is_half_read(TEXTS) {
        return out.skip_half_read(supply.path());
    }
    let texts = TEXTS.into_iter().filter_map(|file| {
        let text = supply.value(file)?;
        (!text.is_empty()).then_some((file, text))
    });
    let labels = std::iter::once(("power_supply", name)).chain(texts);
    out.add_sample(INFO.name, "", INFO.help, INFO.kind, labels, Value::Unsigned(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    fn battery(files: &[(&str, &[u8])], flags: &[&str]) -> String {
        let paths: Vec<String> = files.iter().map(|(name, _)| format!("{CLASS}/BAT0/{name}")).collect();
        let files: Vec<(&str, &[u8])> =
            paths.iter().zip(files).map(|(path, (_, bytes))| (path.as_str(), *bytes)).collect();
        collect(&COLLECTOR, &files, flags).unwrap()
    }

    #[test]
    fn numbers_are_in_base_units_and_text_is_a_label() {
        let text = battery(
            &[
                ("capacity", b"81\n"),
                ("capacity_level", b"Normal\n"),
                ("cycle_count", b"0\n"),
                ("energy_now", b"36580000\n"),
                ("current_now", b"-1500000\n"),
                ("manufacturer", b"\n"),
                ("model_name", b"LNV-45N1\"\xff\xfe\n"),
                ("power_now", b"5002000\n"),
                ("temp", b"301\n"),
                ("time_to_empty_now", b"7200\n"),
                ("type", b"Battery\n"),
                ("uevent", b"POWER_SUPPLY_NAME=BAT0\n"),
            ],
            &[],
        );
        assert_eq!(
            text,
            "node_power_supply_capacity{power_supply=\"BAT0\"} 81\n\
             node_power_supply_current_ampere{power_supply=\"BAT0\"} -1.5\n\
             node_power_supply_cyclecount{power_supply=\"BAT0\"} 0\n\
             node_power_supply_energy_watthour{power_supply=\"BAT0\"} 36.58\n\
             node_power_supply_info{capacity_level=\"Normal\",model_name=\"LNV-45N1\\\"\u{fffd}\",power_supply=\"BAT0\",type=\"Battery\"} 1\n\
             node_power_supply_power_watt{power_supply=\"BAT0\"} 5.002\n\
             node_power_supply_temp_celsius{power_supply=\"BAT0\"} 30.1\n\
             node_power_supply_time_to_empty_seconds{power_supply=\"BAT0\"} 7200\n"
        );
    }

    #[test]
    fn every_attribute_has_its_own_family() {
        let files: Vec<(&str, &[u8])> =
            ATTRIBUTES.iter().map(|attribute| (attribute.file, &b"10\n"[..])).collect();
        let text = battery(&files, &[]);
        for Attribute { file, scale, family } in &ATTRIBUTES {
            let value = match scale {
                One => "10",
                Micro => "0.00001",
                Tenth => "1",
            };
            assert!(
                text.contains(&format!("{}{{power_supply=\"BAT0\"}} {value}\n", family.name)),
                "{file}: {text}"
            );
        }
    }

    #[test]
    fn the_info_family_declares_the_labels_it_may_have() {
        assert!(INFO.labels.iter().skip(1).eq(TEXTS.iter()));
    }

    #[test]
    fn supplies_are_ignored_by_name() {
        let flag = "--collector.powersupply.ignored-supplies=^BAT";
        assert_eq!(battery(&[("present", b"1\n")], &[flag]), "");
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/class/power_supply/BAT0/capacity".to_vec(), Content::Errno(19)),
            (b"sys/class/power_supply/BAT0/online".to_vec(), Content::bytes(&b"yes\n"[..])),
            (b"sys/class/power_supply/BAT0/quux".to_vec(), Content::bytes(&b"1\n"[..])),
            (b"sys/class/power_supply/BAT0/status".to_vec(), Content::Errno(61)),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_power_supply_info{power_supply=\"BAT0\"} 1\n"
        );
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[
                "sys/class/power_supply/A/capacity",
                "sys/class/power_supply/A/temp",
                "sys/class/power_supply/A/type",
            ],
        );
    }
}
