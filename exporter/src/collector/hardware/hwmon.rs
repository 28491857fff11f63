//! Hardware monitoring chips: `sys/class/hwmon`.
//!
//! <https://docs.kernel.org/hwmon/sysfs-interface.html>

use std::borrow::Cow;
use std::collections::BTreeMap;

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::snapshot::{Content, Dir, Snapshot};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "hwmon",
    default: true,
    help: "Temperatures, voltages, fans and other sensors of hardware monitoring chips.",
    queries: &[Query::Hwmon],
    optional: &[],
    flags: &[CHIP_EXCLUDE.row, CHIP_INCLUDE.row, SENSOR_EXCLUDE.row, SENSOR_INCLUDE.row],
    families: || FAMILIES.to_vec(),
    new: |options| Ok(Box::new(Hwmon::new(options))),
};

const CHIP_INCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.hwmon.chip-include", "", "Chips to include.");
const CHIP_EXCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.hwmon.chip-exclude", "", "Chips to exclude.");
const SENSOR_INCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.hwmon.sensor-include", "", "Sensors to include, as chip;sensor.");
const SENSOR_EXCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.hwmon.sensor-exclude", "", "Sensors to exclude, as chip;sensor.");

const CLASS: &str = "sys/class/hwmon";

const CHIP_NAMES: Family = Family {
    name: "node_hwmon_chip_names",
    help: "The driver's name for the chip, always 1.",
    kind: MetricType::Gauge,
    labels: &["chip", "chip_name"],
    source: Source::Files(&["sys/class/hwmon/hwmon#/name", "sys/class/hwmon/hwmon#/device/name"]),
};
const SENSOR_LABEL: Family = Family {
    name: "node_hwmon_sensor_label",
    help: "The driver's label of the sensor, always 1.",
    kind: MetricType::Gauge,
    labels: &["chip", "sensor", "label"],
    source: Source::Files(&["sys/class/hwmon/hwmon#/*_label", "sys/class/hwmon/hwmon#/device/*_label"]),
};

/// Drivers older than Linux 3.15 have their attributes in the device's directory.
const ATTRIBUTES: Source = Source::Files(&["sys/class/hwmon/hwmon#/*", "sys/class/hwmon/hwmon#/device/*"]);

const fn family(name: &'static str, help: &'static str) -> Family {
    Family::gauge(name, help, &["chip", "sensor"], ATTRIBUTES)
}

// `<SENSOR>` stands for the sensor's type and attribute, less an attribute `input`: `in`, `temp_crit`.
#[rustfmt::skip]
const FAMILIES: [Family; 15] = [
    CHIP_NAMES, SENSOR_LABEL, AMPS, BEEP, BEEP_ENABLED, CELSIUS, JOULE, MHZ, OTHER, RPM, SECONDS, UPDATE_INTERVAL, VOLTS, VRM, WATT,
];
const AMPS: Family = family("node_hwmon_<SENSOR>_amps", "A current, or a limit of it.");
const BEEP: Family = family("node_hwmon_<SENSOR>_enabled", "Whether the sensor's alarm beeps.");
const BEEP_ENABLED: Family = family("node_hwmon_beep_enabled", "Whether the chip may beep.");
const CELSIUS: Family = family("node_hwmon_<SENSOR>_celsius", "A temperature, or a limit of it.");
const JOULE: Family =
    Family { kind: MetricType::Counter, ..family("node_hwmon_<SENSOR>_joule_total", "Energy used so far.") };
const MHZ: Family = family("node_hwmon_freq_freq_mhz", "Frequency of the clock that the label names.");
const OTHER: Family = family("node_hwmon_<SENSOR>", "Another attribute of a sensor.");
const RPM: Family = family("node_hwmon_<SENSOR>_rpm", "Speed of a fan, a limit of it, or what it should be.");
const SECONDS: Family =
    family("node_hwmon_<SENSOR>_seconds", "Time over which power is averaged, or a limit of it.");
const UPDATE_INTERVAL: Family =
    family("node_hwmon_update_interval_seconds", "Time after which the chip measures again.");
const VOLTS: Family = family("node_hwmon_<SENSOR>_volts", "A voltage, or a limit of it.");
const VRM: Family =
    family("node_hwmon_voltage_regulator_version", "Version of the voltage regulator that the chip assumes.");
const WATT: Family = family("node_hwmon_<SENSOR>_watt", "Power, or a limit of it.");

/// How the attributes of some sensors are emitted.
struct Rule {
    /// Their types; none for any.
    types: &'static [&'static str],
    /// The attributes, the file without one being the empty one; none for any.
    attributes: &'static [&'static str],
    scale: Scale,
    family: &'static Family,
}

/// What a number is multiplied with.
#[derive(Clone, Copy)]
enum Scale {
    /// Nothing.
    One,
    /// 1 stands for yes, anything else for no.
    Flag,
    /// A hundredth.
    Percent,
    /// A thousandth.
    Milli,
    /// A hundred-thousandth.
    PerCentMille,
    /// A millionth.
    Micro,
    /// The same, of a clock: its sensor is known by its label.
    Clock,
}

/// The last words of attributes that are flags or, of automatic fans, settings: their numbers have no unit, whatever
/// their sensor's is.
const WITHOUT_UNIT: [&[u8]; 5] = [b"alarm", b"beep", b"enable", b"fault", b"pwm"];

const fn rule(
    types: &'static [&'static str],
    attributes: &'static [&'static str],
    scale: Scale,
    family: &'static Family,
) -> Rule {
    Rule { types, attributes, scale, family }
}

const ANY: &[&str] = &[];

/// The first rule that fits holds.
#[rustfmt::skip]
const RULES: [Rule; 17] = [
    rule(&["beep_enable"],                     ANY,                                Scale::Flag,         &BEEP_ENABLED),
    rule(&["update_interval"],                 ANY,                                Scale::Milli,        &UPDATE_INTERVAL),
    rule(&["vrm"],                             ANY,                                Scale::One,          &VRM),
    rule(ANY,                                  &["alarm", "fault"],                Scale::One,          &OTHER),
    rule(ANY,                                  &["beep"],                          Scale::One,          &BEEP),
    rule(&["cpu", "in"],                       ANY,                                Scale::Milli,        &VOLTS),
    rule(&["curr"],                            ANY,                                Scale::Milli,        &AMPS),
    rule(&["energy"],                          ANY,                                Scale::Micro,        &JOULE),
    rule(&["fan"],                             &["input", "max", "min", "target"], Scale::One,          &RPM),
    rule(&["freq"],                            &["input"],                         Scale::Clock,        &MHZ),
    rule(&["humidity"],                        ANY,                                Scale::PerCentMille, &OTHER),
    rule(&["power"],                           &["accuracy"],                      Scale::Percent,      &OTHER),
    rule(&["power"],                           INTERVALS,                          Scale::Milli,        &SECONDS),
    rule(&["power"],                           ANY,                                Scale::Micro,        &WATT),
    rule(&["temp"],                            &["type"],                          Scale::One,          &OTHER),
    rule(&["temp"],                            ANY,                                Scale::Milli,        &CELSIUS),
    rule(&["fan", "freq", "intrusion", "pwm"], ANY,                                Scale::One,          &OTHER),
];

const INTERVALS: &[&str] = &["average_interval", "average_interval_max", "average_interval_min"];

/// The values of the flags.
#[derive(Debug)]
struct Hwmon {
    chips: Filter,
    /// Of `chip;sensor`.
    sensors: Filter,
}

impl Hwmon {
    fn new(options: &Options) -> Self {
        Self {
            chips: Filter::new(options, CHIP_INCLUDE, CHIP_EXCLUDE),
            sensors: Filter::new(options, SENSOR_INCLUDE, SENSOR_EXCLUDE),
        }
    }
}

impl Collect for Hwmon {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let chips = chips(context.snapshot);
        if chips.is_empty() {
            return context.no_devices(Query::Hwmon, "hardware monitoring chips");
        }
        for chip in chips {
            if self.chips.passes(chip.name.as_bytes()) {
                out.item();
                chip.add_to(context, &self.sensors, out);
            }
        }
        Ok(())
    }
}

/// A chip and the name that its samples have.
struct Chip<'a> {
    dir: Dir<'a>,
    name: String,
}

/// All chips, each with a name of its own.
///
/// Chips of one device have its name in common; they differ by the driver's name for each, or, where that
/// is the same too, the kernel's.
fn chips(snapshot: &Snapshot) -> Vec<Chip<'_>> {
    let mut chips: Vec<Chip<'_>> = snapshot
        .dir(CLASS)
        .dirs()
        .filter_map(|dir| Some(Chip { name: base_name(snapshot, &dir)?, dir }))
        .collect();
    let mut devices: BTreeMap<String, usize> = BTreeMap::new();
    let mut drivers: BTreeMap<(String, &[u8]), usize> = BTreeMap::new();
    for chip in &chips {
        *devices.entry(chip.name.clone()).or_default() += 1;
        *drivers.entry((chip.name.clone(), chip.driver_name())).or_default() += 1;
    }
    for chip in &mut chips {
        if devices.get(&chip.name).is_none_or(|chips| *chips < 2) {
            continue;
        }
        let driver_name = chip.driver_name();
        let alone = drivers.get(&(chip.name.clone(), driver_name)) == Some(&1);
        let suffix = Some(clean(driver_name)).filter(|name| alone && !name.is_empty());
        let suffix = suffix.unwrap_or_else(|| clean(chip.dir.name()));
        chip.name = format!("{}_{suffix}", chip.name);
    }
    chips
}

/// A chip's name: that of its device, else the driver's, else the kernel's.
fn base_name(snapshot: &Snapshot, dir: &Dir<'_>) -> Option<String> {
    [device_name(snapshot, dir).unwrap_or_default(), clean(dir.value("name").unwrap_or_default())]
        .into_iter()
        .chain([clean(dir.name())])
        .find(|name| !name.is_empty())
}

/// The name of a chip's device: the last two components of its path, such as `platform_coretemp_0`.
fn device_name(snapshot: &Snapshot, dir: &Dir<'_>) -> Option<String> {
    let mut path = Vec::new();
    resolve(&mut path, CLASS.as_bytes());
    match snapshot.content(dir.path()) {
        Some(Content::Link(target)) => resolve(&mut path, target),
        // A directory and no link, as in trees made by hand and on old kernels: EINVAL.
        Some(Content::Errno(22)) | None => path.push(dir.name()),
        Some(_) => return None,
    }
    resolve(&mut path, dir.link("device")?);
    let device = path.pop().map(clean)?;
    match path.pop().map(clean) {
        Some(bus) if !bus.is_empty() && !device.is_empty() => Some(format!("{bus}_{device}")),
        _ => Some(device),
    }
}

/// Whether a chip belongs to a power supply: its link, or its device's, leads through that class.
fn is_of_power_supply(snapshot: &Snapshot, chip: &Dir<'_>) -> bool {
    let link = match snapshot.content(chip.path()) {
        Some(Content::Link(target)) => Some(&**target),
        _ => chip.link("device"),
    };
    link.is_some_and(|target| target.split(|byte| *byte == b'/').any(|name| name == b"power_supply"))
}

/// Follows a link from the directory `path` by its text alone: no directory of sysfs on the way to a device is a link.
fn resolve<'a>(path: &mut Vec<&'a [u8]>, target: &'a [u8]) {
    if target.starts_with(b"/") {
        path.clear();
    }
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                path.pop();
            }
            component => path.push(component),
        }
    }
}

/// `name` in lower case, with `_` for what cannot stand in a metric's name.
fn clean(name: &[u8]) -> String {
    let lower = String::from_utf8_lossy(name).to_lowercase();
    let clean: String =
        lower.chars().map(|c| if matches!(c, 'a'..='z' | '0'..='9' | ':' | '_') { c } else { '_' }).collect();
    clean.trim_matches('_').to_owned()
}

/// A sensor's attributes and what their files hold.
type Attributes<'a> = BTreeMap<&'a [u8], &'a [u8]>;

impl<'a> Chip<'a> {
    fn driver_name(&self) -> &'a [u8] {
        self.dir.value("name").unwrap_or_default()
    }

    fn add_to(&self, context: &Context<'_>, wanted: &Filter, out: &mut Exposition) {
        let chip = self.name.as_bytes();
        let driver_name = clean(self.driver_name());
        if !driver_name.is_empty() {
            out.add(&CHIP_NAMES, &[chip, driver_name.as_bytes()], 1u64);
        }
        let mut sensors: BTreeMap<(&str, u64), Attributes<'_>> = BTreeMap::new();
        let device = self.dir.dir("device");
        // A power supply's own `temp` is in tenths of a degree; its chip has the same as temp1.
        let is_supply = is_of_power_supply(context.snapshot, &self.dir);
        for (dir, are_ours) in [(&self.dir, true), (&device, !is_supply)] {
            for (name, content) in dir.files() {
                if let (Some((kind, number, attribute)), Content::Bytes { bytes, .. }) =
                    (split(name), content)
                    && (are_ours || name.iter().any(u8::is_ascii_digit))
                {
                    sensors.entry((kind, number)).or_default().insert(attribute, bytes);
                }
            }
        }
        for ((kind, number), attributes) in &sensors {
            let sensor = format!("{kind}{number}");
            let filtered = format!("{};{sensor}", self.name);
            if wanted.passes(filtered.as_bytes()) {
                add_sensor(chip, kind, &sensor, attributes, out);
            }
        }
    }
}

/// Splits a file's name, such as `temp1_crit_alarm`, into type, number and attribute.
fn split(name: &[u8]) -> Option<(&'static str, u64, &[u8])> {
    let letters = name.iter().position(u8::is_ascii_digit).unwrap_or(name.len());
    let (kind, rest) = name.split_at_checked(letters)?;
    let kind = RULES.iter().flat_map(|rule| rule.types).find(|known| known.as_bytes() == kind)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at_checked(digits)?;
    let number = if digits.is_empty() { 0 } else { text::unsigned(digits)? };
    match rest {
        b"" => Some((kind, number, rest)),
        _ => Some((kind, number, rest.strip_prefix(b"_").filter(|attribute| !attribute.is_empty())?)),
    }
}

fn add_sensor(chip: &[u8], kind: &str, sensor: &str, attributes: &Attributes<'_>, out: &mut Exposition) {
    let label = attributes.get(&b"label"[..]).map(|label| {
        let label = label.strip_suffix(b"\n").unwrap_or(label);
        out.add(&SENSOR_LABEL, &[chip, sensor.as_bytes(), label], 1u64);
        clean(label)
    });
    for (&attribute, value) in attributes {
        if attribute == b"label" {
            continue;
        }
        let fits = |these: &[&str], this: &[u8]| {
            these.is_empty() || these.iter().any(|that| that.as_bytes() == this)
        };
        let rule =
            RULES.iter().find(|rule| fits(rule.types, kind.as_bytes()) && fits(rule.attributes, attribute));
        // The accuracy of power alone may have a percent sign behind it.
        let value = text::trim(value);
        let value = if attribute == b"accuracy" { value.strip_suffix(b"%").unwrap_or(value) } else { value };
        let (Some(rule), Some(value)) = (rule, text::float(value)) else {
            continue;
        };
        let sensor = match (rule.scale, &label) {
            (Scale::Clock, Some(label)) => label,
            // A clock without a label has no name.
            (Scale::Clock, None) => continue,
            _ => sensor,
        };
        let last_word = attribute.rsplit(|&byte| byte == b'_').next().unwrap_or_default();
        let value = match rule.scale {
            _ if WITHOUT_UNIT.contains(&last_word) => value,
            Scale::One => value,
            Scale::Flag => f64::from(value == 1.0),
            Scale::PerCentMille => value / 1e5,
            Scale::Percent => value / 100.0,
            Scale::Milli => value * 0.001,
            Scale::Micro | Scale::Clock => value / 1e6,
        };
        let subject: Cow<'_, str> = match attribute {
            b"" => kind.into(),
            b"input" if !attributes.contains_key(&b""[..]) => kind.into(),
            attribute => format!("{kind}_{}", clean(attribute)).into(),
        };
        let name = rule.family.name_of(&subject);
        out.add_named(rule.family, &name, &[chip, sensor.as_bytes()], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};

    const CORETEMP: [(&str, &str); 2] = [
        ("sys/class/hwmon/hwmon0", "../../devices/platform/coretemp.0/hwmon/hwmon0"),
        ("sys/class/hwmon/hwmon0/device", "../../../coretemp.0"),
    ];

    /// The samples of a host with these links and files.
    fn samples(links: &[(&str, &str)], files: &[(&str, &str)], flags: &[&str]) -> String {
        let links = links.iter().map(|(path, target)| (path, Content::Link(target.as_bytes().to_vec())));
        let files = files.iter().map(|(path, text)| (path, Content::bytes(text.as_bytes().to_vec())));
        let all = links.chain(files).map(|(path, content)| (path.as_bytes().to_vec(), content)).collect();
        collect_snapshot(&COLLECTOR, &Snapshot::from_files(all), flags, &local()).unwrap()
    }

    /// One sensor file of a chip named `x`.
    fn sensor(files: &[(&str, &str)]) -> String {
        let paths: Vec<String> = files.iter().map(|(name, _)| format!("{CLASS}/hwmon0/{name}")).collect();
        let files = paths.iter().zip(files).map(|(path, (_, text))| (path.as_str(), *text));
        let files: Vec<_> = files.chain([("sys/class/hwmon/hwmon0/name", "x\n")]).collect();
        let text = samples(&[], &files, &[]);
        text.replace("node_hwmon_chip_names{chip=\"x\",chip_name=\"x\"} 1\n", "").replace("chip=\"x\",", "")
    }

    #[test]
    fn a_chip_is_named_by_its_device_and_a_temperature_is_in_degrees() {
        let files = [
            ("sys/class/hwmon/hwmon0/name", "coretemp\n"),
            ("sys/class/hwmon/hwmon0/temp1_crit_alarm", "0\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "55000\n"),
            ("sys/class/hwmon/hwmon0/temp1_label", "Physical id \"0\"\n"),
        ];
        assert_eq!(
            samples(&CORETEMP, &files, &[]),
            "node_hwmon_chip_names{chip=\"platform_coretemp_0\",chip_name=\"coretemp\"} 1\n\
             node_hwmon_sensor_label{chip=\"platform_coretemp_0\",label=\"Physical id \\\"0\\\"\",sensor=\"temp1\"} 1\n\
             node_hwmon_temp_celsius{chip=\"platform_coretemp_0\",sensor=\"temp1\"} 55\n\
             node_hwmon_temp_crit_alarm_celsius{chip=\"platform_coretemp_0\",sensor=\"temp1\"} 0\n"
        );
    }

    #[test]
    fn without_a_device_the_driver_or_the_kernel_names_the_chip() {
        let files = [
            ("sys/class/hwmon/hwmon3/name", "NCT 6779\n"),
            ("sys/class/hwmon/hwmon3/in0_input", "792\n"),
            ("sys/class/hwmon/hwmon4/in0_input", "1\n"),
        ];
        let text = samples(&[], &files, &[]);
        assert!(text.contains("node_hwmon_in_volts{chip=\"nct_6779\",sensor=\"in0\"} 0.792\n"), "{text}");
        assert!(text.contains("node_hwmon_in_volts{chip=\"hwmon4\",sensor=\"in0\"} 0.001\n"), "{text}");
    }

    #[test]
    fn a_chip_whose_directory_is_no_link_is_also_named_by_its_device() {
        let file = |path: &str, content| (format!("{CLASS}/hwmon1{path}").into_bytes(), content);
        let snapshot = Snapshot::from_files(vec![
            file("", Content::Errno(22)),
            file("/device", Content::Link(b"../../../devices/platform/coretemp.0".to_vec())),
            file("/name", Content::bytes(b"coretemp\n".to_vec())),
            file("/temp1_input", Content::bytes(b"55000\n".to_vec())),
        ]);
        let text = collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap();
        assert!(text.contains("{chip=\"platform_coretemp_0\",sensor=\"temp1\"} 55\n"), "{text}");
    }

    #[test]
    fn chips_of_one_device_have_different_labels() {
        let wmi = ["hwmon6", "hwmon7", "hwmon8"].map(|name| {
            let target = format!("../../devices/platform/asus-nb-wmi/hwmon/{name}");
            [
                (format!("{CLASS}/{name}"), target),
                (format!("{CLASS}/{name}/device"), "../../../asus-nb-wmi".into()),
            ]
        });
        let links: Vec<_> =
            wmi.iter().flatten().map(|(path, target)| (path.as_str(), target.as_str())).collect();
        let files = [
            ("sys/class/hwmon/hwmon6/name", "asus\n"),
            ("sys/class/hwmon/hwmon7/name", "twin\n"),
            ("sys/class/hwmon/hwmon8/name", "twin\n"),
        ];
        let text = samples(&links, &files, &[]);
        for chip in ["asus_nb_wmi_asus", "asus_nb_wmi_hwmon7", "asus_nb_wmi_hwmon8"] {
            assert!(text.contains(&format!("{{chip=\"platform_{chip}\",")), "{text}");
        }
    }

    #[test]
    fn a_thermal_zones_own_temperature_is_its_chips_temp0_and_a_batterys_is_not() {
        let of = |path: &str, device: &str| {
            let links = [(&*format!("{CLASS}/hwmon0"), path), (&*format!("{CLASS}/hwmon0/device"), device)]
                .map(|(path, target)| (path.to_owned(), target));
            let links: Vec<(&str, &str)> =
                links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
            let files = [
                ("sys/class/hwmon/hwmon0/temp1_input", "60552\n"),
                ("sys/class/hwmon/hwmon0/device/temp", "60690\n"),
                ("sys/class/hwmon/hwmon0/device/temp_alert_min", "5\n"),
            ];
            samples(&links, &files, &[])
        };
        let zone = of("../../devices/virtual/thermal/thermal_zone0/hwmon0", "../../thermal_zone0");
        let own = "node_hwmon_temp_celsius{chip=\"thermal_thermal_zone0\",sensor=\"temp0\"} 60.69\n";
        assert!(zone.contains(own) && zone.contains("sensor=\"temp1\"} 60.552\n"), "{zone}");
        let battery = of("../../devices/LNXSYSTM:00/PNP0C0A:00/power_supply/BAT0/hwmon0", "../../BAT0");
        assert!(battery.contains("sensor=\"temp1\"} 60.552\n") && !battery.contains("temp0"), "{battery}");
        // Where the chip's directory is no link, its device's link is used.
        let files =
            [("sys/class/hwmon/hwmon0/temp1_input", "1\n"), ("sys/class/hwmon/hwmon0/device/temp", "2\n")];
        let links = [("sys/class/hwmon/hwmon0/device", "../../power_supply/BAT0")];
        let battery = samples(&links, &files, &[]);
        assert!(battery.contains("temp1") && !battery.contains("temp0"), "{battery}");
    }

    #[test]
    fn links_without_a_usable_target_are_ignored() {
        for target in ["", "/", "../../../../../../..", "../../..//./"] {
            let links = [("sys/class/hwmon/hwmon0/device", target)];
            let text = samples(&links, &[("sys/class/hwmon/hwmon0/fan1_input", "1")], &[]);
            assert!(text.starts_with("node_hwmon_fan_rpm{chip="), "{target}: {text}");
        }
        let links = [("sys/class/hwmon/hwmon5", "../../devices/platform/bogus.0/hwmon/hwmon5/")];
        let chips = chips(&Snapshot::from_files(
            links
                .iter()
                .map(|(path, to)| (path.as_bytes().to_vec(), Content::Link(to.as_bytes().to_vec())))
                .collect(),
        ))
        .len();
        assert_eq!(chips, 0);
    }

    #[test]
    fn each_type_has_its_unit_and_its_exceptions() {
        for (name, text, sample) in [
            ("beep_enable", "1\n", "node_hwmon_beep_enabled{sensor=\"beep_enable0\"} 1\n"),
            ("beep_enable", "2\n", "node_hwmon_beep_enabled{sensor=\"beep_enable0\"} 0\n"),
            ("cpu0_vid", "1500", "node_hwmon_cpu_vid_volts{sensor=\"cpu0\"} 1.5\n"),
            ("curr1_input", "-2000", "node_hwmon_curr_amps{sensor=\"curr1\"} -2\n"),
            ("energy1_input", "5000000", "node_hwmon_energy_joule_total{sensor=\"energy1\"} 5\n"),
            ("fan1_fault", "1", "node_hwmon_fan_fault{sensor=\"fan1\"} 1\n"),
            ("fan1_pulses", "2", "node_hwmon_fan_pulses{sensor=\"fan1\"} 2\n"),
            ("fan1_target", "27000", "node_hwmon_fan_target_rpm{sensor=\"fan1\"} 27000\n"),
            ("freq1_input", "1000", ""),
            ("humidity1_input", "52000", "node_hwmon_humidity{sensor=\"humidity1\"} 0.52\n"),
            ("humidity1_alarm", "1", "node_hwmon_humidity_alarm{sensor=\"humidity1\"} 1\n"),
            ("humidity1_max_alarm", "1", "node_hwmon_humidity_max_alarm{sensor=\"humidity1\"} 1\n"),
            ("in0_beep", "0", "node_hwmon_in_beep_enabled{sensor=\"in0\"} 0\n"),
            ("in0_alarm", "1", "node_hwmon_in_alarm{sensor=\"in0\"} 1\n"),
            ("in10_min", "1744", "node_hwmon_in_min_volts{sensor=\"in10\"} 1.744\n"),
            ("intrusion0_alarm", "1", "node_hwmon_intrusion_alarm{sensor=\"intrusion0\"} 1\n"),
            ("power1_accuracy", "5", "node_hwmon_power_accuracy{sensor=\"power1\"} 0.05\n"),
            ("power1_accuracy", "90.0%\n", "node_hwmon_power_accuracy{sensor=\"power1\"} 0.9\n"),
            ("power1_cap_alarm", "1", "node_hwmon_power_cap_alarm_watt{sensor=\"power1\"} 1\n"),
            ("curr1_crit_alarm", "1", "node_hwmon_curr_crit_alarm_amps{sensor=\"curr1\"} 1\n"),
            ("energy1_enable", "1", "node_hwmon_energy_enable_joule_total{sensor=\"energy1\"} 1\n"),
            ("in1_lcrit_alarm", "1", "node_hwmon_in_lcrit_alarm_volts{sensor=\"in1\"} 1\n"),
            ("in1_enable", "1", "node_hwmon_in_enable_volts{sensor=\"in1\"} 1\n"),
            ("temp1_crit_alarm", "1", "node_hwmon_temp_crit_alarm_celsius{sensor=\"temp1\"} 1\n"),
            ("temp1_emergency_alarm", "1", "node_hwmon_temp_emergency_alarm_celsius{sensor=\"temp1\"} 1\n"),
            ("temp1_min_beep", "1", "node_hwmon_temp_min_beep_celsius{sensor=\"temp1\"} 1\n"),
            (
                "temp1_auto_point1_pwm",
                "128",
                "node_hwmon_temp_auto_point1_pwm_celsius{sensor=\"temp1\"} 128\n",
            ),
            (
                "temp1_auto_point1_temp",
                "40000",
                "node_hwmon_temp_auto_point1_temp_celsius{sensor=\"temp1\"} 40\n",
            ),
            ("temp1_crit_hyst", "-5000", "node_hwmon_temp_crit_hyst_celsius{sensor=\"temp1\"} -5\n"),
            (
                "power1_average_interval",
                "1000",
                "node_hwmon_power_average_interval_seconds{sensor=\"power1\"} 1\n",
            ),
            ("power1_average", "2500000", "node_hwmon_power_average_watt{sensor=\"power1\"} 2.5\n"),
            ("pwm1", "255", "node_hwmon_pwm{sensor=\"pwm1\"} 255\n"),
            ("pwm1_auto_point1_temp", "30000", "node_hwmon_pwm_auto_point1_temp{sensor=\"pwm1\"} 30000\n"),
            ("temp1_type", "4", "node_hwmon_temp_type{sensor=\"temp1\"} 4\n"),
            (
                "update_interval",
                "1500",
                "node_hwmon_update_interval_seconds{sensor=\"update_interval0\"} 1.5\n",
            ),
            ("vrm", "90", "node_hwmon_voltage_regulator_version{sensor=\"vrm0\"} 90\n"),
            // What is not a number, and what is not a sensor.
            ("fan1_safe", "", ""),
            ("in0_input", "N/A\n", ""),
            ("temp1x", "1", ""),
            ("temp99999999999999999999_input", "1", ""),
            ("uevent", "1", ""),
        ] {
            assert_eq!(sensor(&[(name, text)]), sample, "{name}");
        }
    }

    #[test]
    fn a_clock_is_named_by_its_label() {
        assert_eq!(
            sensor(&[("freq1_input", "214000000\n"), ("freq1_label", "sclk\n")]),
            "node_hwmon_freq_freq_mhz{sensor=\"sclk\"} 214\nnode_hwmon_sensor_label{label=\"sclk\",sensor=\"freq1\"} 1\n"
        );
    }

    #[test]
    fn a_clocks_other_attributes_keep_its_sensor() {
        let text =
            sensor(&[("freq1_input", "214000000\n"), ("freq1_max", "300\n"), ("freq1_label", "sclk\n")]);
        assert!(
            text.lines().filter(|line| line.contains("_max")).all(|line| line.contains("sensor=\"freq1\"")),
            "{text}"
        );
        assert!(text.contains("_max"), "{text}");
    }

    #[test]
    fn an_input_beside_a_bare_file_keeps_its_name() {
        assert_eq!(
            sensor(&[("pwm1", "100"), ("pwm1_input", "99")]),
            "node_hwmon_pwm{sensor=\"pwm1\"} 100\nnode_hwmon_pwm_input{sensor=\"pwm1\"} 99\n"
        );
    }

    #[test]
    fn sensors_of_old_drivers_are_found_with_the_device() {
        let files = [("sys/class/hwmon/hwmon0/device/fan1_input", "1998\n")];
        assert_eq!(
            samples(&CORETEMP, &files, &[]),
            "node_hwmon_fan_rpm{chip=\"platform_coretemp_0\",sensor=\"fan1\"} 1998\n"
        );
    }

    #[test]
    fn chips_and_sensors_are_filtered() {
        let files = [
            ("sys/class/hwmon/hwmon0/temp1_input", "1000"),
            ("sys/class/hwmon/hwmon0/temp2_input", "2000"),
            ("sys/class/hwmon/hwmon4/temp1_input", "3000"),
        ];
        let values = |flag: &str| {
            let text = samples(&CORETEMP, &files, &[flag]);
            text.lines().filter_map(|line| line.rsplit(' ').next()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(values("--collector.hwmon.chip-include=coretemp"), "1 2");
        assert_eq!(values("--collector.hwmon.chip-exclude=coretemp"), "3");
        assert_eq!(values("--collector.hwmon.sensor-include=;temp1$"), "3 1");
        assert_eq!(values("--collector.hwmon.sensor-exclude=platform_coretemp_0;temp2"), "3 1");
    }

    #[test]
    fn a_sensor_that_cannot_be_read_is_absent_and_hostile_text_is_escaped() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/class/hwmon/hwmon0/temp1_input".to_vec(), Content::Errno(6)),
            (b"sys/class/hwmon/hwmon0/temp1_label".to_vec(), Content::bytes(&b"a\"\n\xff\n"[..])),
            (b"sys/class/hwmon/hwmon0/name".to_vec(), Content::bytes(&b"\xff)\"\nx:\n"[..])),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_hwmon_chip_names{chip=\"x:\",chip_name=\"x:\"} 1\n\
             node_hwmon_sensor_label{chip=\"x:\",label=\"a\\\"\\n\u{fffd}\",sensor=\"temp1\"} 1\n"
        );
    }

    #[test]
    fn a_host_without_chips_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[
                "sys/class/hwmon/hwmon0/name",
                "sys/class/hwmon/hwmon0/temp1_input",
                "sys/class/hwmon/hwmon0/freq1_input",
                "sys/class/hwmon/hwmon0/freq1_label",
                "sys/class/hwmon/hwmon0/device/name",
                "sys/class/hwmon/hwmon0/device/in0_input",
            ],
        );
    }

    proptest::proptest! {
        #[test]
        fn any_link_target_is_parsed_without_a_panic(class in ".{0,30}", device in "[./a]{0,40}") {
            let links = [("sys/class/hwmon/hwmon0", class.as_str()), ("sys/class/hwmon/hwmon0/device", &device)];
            let text = samples(&links, &[("sys/class/hwmon/hwmon0/fan1_input", "7")], &[]);
            proptest::prop_assert_eq!(text.split(",sensor=").nth(1), Some("\"fan1\"} 7\n"));
        }
    }
}
