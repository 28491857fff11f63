//! `top`: the load of nodes, from two readings of each in one exec.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::{Format, Invocation, Top};
use crate::explain::{self, shortened};
use crate::fleet::{self, Answers, Job, Parsed, by_reason};
use crate::kubectl::Output;
use crate::output::{self, Table, left, print_error, right};
use crate::reading::{Collector, LIMIT, Metric, Reading};

/// What is asked for. Each line of the table needs these alone.
const COLLECTORS: [&str; 6] = ["cpu", "meminfo", "filesystem", "diskstats", "netdev", "pressure"];
const FILTER: &str = "^node_(cpu_seconds_total|memory_Mem(Total|Available)_bytes|filesystem_(size_bytes|free_bytes|avail_bytes|readonly)|disk_io_time_seconds_total|network_(receive|transmit)_bytes_total|pressure_(cpu|memory|io)_waiting_seconds_total)([{]|$)";

/// Interfaces that carry what others carry as well: counting both would show traffic twice.
const VIRTUAL_INTERFACES: [&str; 16] = [
    "lo", "veth", "cali", "cilium", "lxc", "lxd", "docker", "br-", "cni", "flannel", "kube-", "virbr",
    "vxlan", "tap", "tun", "wg",
];

/// File systems that are full by intent.
const IMAGES: [&str; 4] = ["squashfs", "iso9660", "erofs", "cramfs"];

/// What the table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Cpu,
    Memory,
    Disk,
    Io,
    Network,
    Pressure,
    Node,
}

impl Key {
    pub const NAMES: &[&str] = &["cpu", "memory", "disk", "io", "network", "pressure", "node"];

    /// The key with this name; the flag takes no other.
    pub fn parse(name: &str) -> Self {
        match name {
            "memory" => Self::Memory,
            "disk" => Self::Disk,
            "io" => Self::Io,
            "network" => Self::Network,
            "pressure" => Self::Pressure,
            "node" => Self::Node,
            _ => Self::Cpu,
        }
    }

    /// The number that sorts a node; none sorts last.
    fn number(self, load: &Load) -> Option<f64> {
        let sum = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0.0) + other.unwrap_or(0.0)),
        };
        let pressure = [load.pressure_cpu_percent, load.pressure_memory_percent, load.pressure_io_percent];
        match self {
            Self::Cpu => load.cpu_percent,
            Self::Memory => load.memory_used_percent,
            Self::Disk => load.disk_used_percent,
            Self::Io => load.io_percent,
            Self::Network => sum(load.receive_bytes_per_second, load.transmit_bytes_per_second),
            Self::Pressure => pressure.into_iter().flatten().reduce(f64::max),
            Self::Node => None,
        }
    }
}

/// The load of a node; none where the node does not show it.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Load {
    cpu_percent: Option<f64>,
    memory_used_percent: Option<f64>,
    memory_bytes: Option<f64>,
    disk_used_percent: Option<f64>,
    disk_mountpoint: Option<String>,
    io_percent: Option<f64>,
    receive_bytes_per_second: Option<f64>,
    transmit_bytes_per_second: Option<f64>,
    pressure_cpu_percent: Option<f64>,
    pressure_memory_percent: Option<f64>,
    pressure_io_percent: Option<f64>,
    /// Why something is missing: a collector and its reason.
    missing: Vec<String>,
}

/// Runs the command.
pub async fn run(invocation: &Invocation, top: &Top) -> Result<(), Failure> {
    let mut arguments = vec!["query".to_owned(), "--output=json".to_owned(), "--count=2".to_owned()];
    arguments.push(format!("--watch={}ms", top.interval.as_millis()));
    arguments.push(format!("--filter={FILTER}"));
    arguments.extend(COLLECTORS.map(str::to_owned));
    let job = Job { arguments, limit: LIMIT, longer: top.interval };
    let mut answers = fleet::ask(invocation, &top.nodes, job, parse).await?;
    sort(&mut answers.answers, top.sort_by);
    let text = match top.format {
        Format::Json => output::json(&answers.answers.iter().map(item).collect::<Vec<_>>(), true)?,
        Format::Table if answers.good().next().is_none() => String::new(),
        Format::Table => table(&answers, top.headers),
    };
    output::print(text).await?;
    if top.format == Format::Table {
        let missing =
            answers.good().flat_map(|(node, load)| load.missing.iter().map(move |why| (node, &**why)));
        by_reason(missing).iter().for_each(|line| print_error(&format!("-: {line}")));
    }
    answers.finish()
}

fn parse(node: &str, output: &Output) -> Parsed<Load> {
    explain::ended(output)?;
    // The first reading has no rates.
    let mut lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (Some(_), Some(second), None) = (lines.next(), lines.next(), lines.next()) else {
        return Err("it did not print two readings: is its Keyhole older than 0.2?".into());
    };
    Ok((Load::new(&Reading::parse(node, second)?), Vec::new()))
}

/// The busiest first; nodes without the number, and those that failed, last.
fn sort(answers: &mut [(String, Result<Load, String>)], key: Key) {
    let number = |answer: &Result<Load, String>| answer.as_ref().ok().and_then(|load| key.number(load));
    answers.sort_by(|(name, one), (other_name, other)| {
        let by_number = match (number(one), number(other)) {
            (Some(one), Some(other)) => other.total_cmp(&one),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        one.is_err().cmp(&other.is_err()).then(by_number).then_with(|| name.cmp(other_name))
    });
}

fn item((node, answer): &(String, Result<Load, String>)) -> Value {
    match answer {
        Ok(load) => {
            let mut item = json!(load);
            item["node"] = node.as_str().into();
            item
        }
        Err(error) => json!({ "error": error, "node": node }),
    }
}

fn table(answers: &Answers<Load>, head: bool) -> String {
    let mut table = Table::new([
        left("NODE"),
        right("CPU(%)"),
        right("MEM(%)"),
        right("OF(GiB)"),
        right("DISK(%)"),
        left("FULLEST"),
        right("IO(%)"),
        right("RX(kB/s)"),
        right("TX(kB/s)"),
        right("PSI-CPU(%)"),
        right("PSI-MEM(%)"),
        right("PSI-IO(%)"),
    ]);
    // What is unknown is not 0.
    let number = |number: Option<f64>, unit: f64| match number {
        Some(number) => format!("{:.1}", number / unit),
        None => "-".to_owned(),
    };
    for (node, load) in answers.good() {
        table.row([
            node,
            &number(load.cpu_percent, 1.0),
            &number(load.memory_used_percent, 1.0),
            &number(load.memory_bytes, f64::from(1 << 30)),
            &number(load.disk_used_percent, 1.0),
            load.disk_mountpoint.as_deref().unwrap_or("-"),
            &number(load.io_percent, 1.0),
            &number(load.receive_bytes_per_second, 1e3),
            &number(load.transmit_bytes_per_second, 1e3),
            &number(load.pressure_cpu_percent, 1.0),
            &number(load.pressure_memory_percent, 1.0),
            &number(load.pressure_io_percent, 1.0),
        ]);
    }
    table.text(head)
}

impl Load {
    fn new(reading: &Reading) -> Self {
        let named = |name: &'static str| reading.metrics.iter().filter(move |metric| metric.name == name);
        let value = |name| named(name).find_map(|metric| metric.value.number());
        let rate = |metric: &Metric| metric.rate.as_ref().and_then(|rate| rate.number());
        // The clocks of the two readings are not the kernel's: of one second, 1.01 may have passed.
        let percent_of_time = |rate: f64| (rate * 100.0).min(100.0);
        let percent = |name| named(name).find_map(rate).map(percent_of_time);

        let (mut busy, mut all) = (0.0, 0.0);
        for metric in named("node_cpu_seconds_total") {
            let Some(rate) = rate(metric) else { continue };
            all += rate;
            if !matches!(metric.label("mode"), "idle" | "iowait") {
                busy += rate;
            }
        }
        let total = value("node_memory_MemTotal_bytes");
        let available = value("node_memory_MemAvailable_bytes");
        let is_counted = |metric: &&Metric| {
            let device = metric.label("device");
            !VIRTUAL_INTERFACES.iter().any(|prefix| device.starts_with(prefix))
        };
        let network = |name| {
            let rates: Vec<f64> = named(name).filter(is_counted).filter_map(rate).collect();
            (!rates.is_empty()).then(|| rates.iter().sum())
        };
        let fullest = fullest(reading);
        Self {
            cpu_percent: (all > 0.0).then(|| 100.0 * busy / all),
            memory_used_percent: total
                .zip(available)
                .and_then(|(total, available)| share(total - available, total)),
            memory_bytes: total,
            disk_used_percent: fullest.as_ref().map(|(used, _)| *used),
            disk_mountpoint: fullest.map(|(_, mountpoint)| mountpoint),
            io_percent: named("node_disk_io_time_seconds_total")
                .filter_map(rate)
                .reduce(f64::max)
                .map(percent_of_time),
            receive_bytes_per_second: network("node_network_receive_bytes_total"),
            transmit_bytes_per_second: network("node_network_transmit_bytes_total"),
            pressure_cpu_percent: percent("node_pressure_cpu_waiting_seconds_total"),
            pressure_memory_percent: percent("node_pressure_memory_waiting_seconds_total"),
            pressure_io_percent: percent("node_pressure_io_waiting_seconds_total"),
            missing: missing(reading),
        }
    }
}

/// The file system that is used most, as df(1) counts: what only root may use is not free.
fn fullest(reading: &Reading) -> Option<(f64, String)> {
    /// size, free, available, read-only
    type Sizes = [Option<f64>; 4];
    let names = [
        "node_filesystem_size_bytes",
        "node_filesystem_free_bytes",
        "node_filesystem_avail_bytes",
        "node_filesystem_readonly",
    ];
    let mut file_systems: BTreeMap<(&str, &str), Sizes> = BTreeMap::new();
    for metric in &reading.metrics {
        let Some(place) = names.iter().position(|name| *name == metric.name) else { continue };
        if !IMAGES.contains(&metric.label("fstype")) {
            let sizes = file_systems.entry((metric.label("mountpoint"), metric.label("device"))).or_default();
            sizes[place] = metric.value.number();
        }
    }
    let used = |((mountpoint, _), sizes): ((&str, &str), Sizes)| {
        let [Some(size), Some(free), Some(available), readonly] = sizes else { return None };
        if readonly.unwrap_or(0.0) != 0.0 {
            return None;
        }
        Some((share(size - free, size - free + available)?, mountpoint.to_owned()))
    };
    file_systems.into_iter().filter_map(used).max_by(|one, other| one.0.total_cmp(&other.0))
}

/// A part in percent.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| 100.0 * part / whole)
}

/// The collectors that show nothing, with the reasons.
fn missing(reading: &Reading) -> Vec<String> {
    let others = reading.collectors.iter().filter(|each| each.state != "ok");
    let reason =
        |each: &Collector| format!("{}: {}", each.name, each.error.as_deref().unwrap_or(&each.state));
    others.map(|each| shortened(&reason(each))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, labels: &str, value: f64, rate: Option<f64>) -> String {
        let rate = rate.map(|rate| format!(", \"rate\": {rate}")).unwrap_or_default();
        format!(r#"{{"name": "node_{name}", "type": "x", "labels": {{{labels}}}, "value": {value}{rate}}}"#)
    }

    fn load(metrics: &[String]) -> Load {
        let text = format!(
            r#"{{"collectors": [{{"name": "netdev", "state": "failed", "error": "not permitted", "skipped": 0, "skipped_items": []}}],
            "metrics": [{}], "node": null, "time": 1}}"#,
            metrics.join(",")
        );
        Load::new(&Reading::parse("node-1", text.as_bytes()).unwrap())
    }

    #[test]
    fn cpu_is_what_is_neither_idle_nor_waiting() {
        let modes = [("user", 0.5), ("system", 0.25), ("idle", 1.0), ("iowait", 0.25)];
        let metrics = modes.map(|(mode, rate)| {
            metric("cpu_seconds_total", &format!(r#""cpu": "0", "mode": "{mode}""#), 1.0, Some(rate))
        });
        assert_eq!(load(&metrics).cpu_percent, Some(37.5));
    }

    #[test]
    fn memory_is_used_if_it_is_not_available() {
        let metrics = [
            metric("memory_MemTotal_bytes", "", 8e9, None),
            metric("memory_MemAvailable_bytes", "", 2e9, None),
        ];
        let load = load(&metrics);
        assert_eq!((load.memory_used_percent, load.memory_bytes), (Some(75.0), Some(8e9)));
    }

    #[test]
    fn the_fullest_disk_is_one_that_can_be_written_to() {
        let sizes = |mountpoint: &str, fstype: &str, sizes: [f64; 4]| {
            let labels = format!(r#""device": "/dev/x", "fstype": "{fstype}", "mountpoint": "{mountpoint}""#);
            let names = ["size_bytes", "free_bytes", "avail_bytes", "readonly"];
            names
                .iter()
                .zip(sizes)
                .map(|(name, size)| metric(&format!("filesystem_{name}"), &labels, size, None))
                .collect::<Vec<_>>()
        };
        let metrics = [
            sizes("/", "ext4", [1000.0, 600.0, 400.0, 0.0]),
            sizes("/var", "ext4", [1000.0, 900.0, 900.0, 0.0]),
            sizes("/snap", "squashfs", [1000.0, 0.0, 0.0, 0.0]),
            sizes("/usr", "ext4", [1000.0, 0.0, 0.0, 1.0]),
            sizes("/empty", "autofs", [0.0; 4]),
        ]
        .concat();
        let load = load(&metrics);
        assert_eq!((load.disk_used_percent, load.disk_mountpoint.as_deref()), (Some(50.0), Some("/")));
    }

    #[test]
    fn traffic_is_counted_once_and_the_busiest_disk_is_shown() {
        let device = |name: &str, device: &str, rate: f64| {
            metric(name, &format!(r#""device": "{device}""#), 1.0, Some(rate))
        };
        let metrics = [
            device("network_receive_bytes_total", "eth0", 1000.0),
            device("network_receive_bytes_total", "ens1", 500.0),
            device("network_receive_bytes_total", "lo", 9e9),
            device("network_receive_bytes_total", "veth12", 9e9),
            device("disk_io_time_seconds_total", "sda", 0.25),
            device("disk_io_time_seconds_total", "sdb", 0.5),
            metric("pressure_io_waiting_seconds_total", "", 1.0, Some(0.125)),
            metric("pressure_cpu_waiting_seconds_total", "", 1.0, Some(1.02)),
        ];
        let load = load(&metrics);
        assert_eq!(load.receive_bytes_per_second, Some(1500.0));
        assert_eq!(load.io_percent, Some(50.0));
        assert_eq!(load.pressure_io_percent, Some(12.5));
        assert_eq!(load.pressure_cpu_percent, Some(100.0));
    }

    #[test]
    fn what_a_node_does_not_show_is_a_dash_with_a_reason_and_sorts_last() {
        let empty = load(&[]);
        assert_eq!(empty, Load { missing: vec!["netdev: not permitted".into()], ..Load::default() });
        let with_cpu = |percent| Load { cpu_percent: Some(percent), ..Load::default() };
        let mut answers = vec![
            ("a".to_owned(), Err("x".to_owned())),
            ("b".to_owned(), Ok(empty)),
            ("c".to_owned(), Ok(with_cpu(1.0))),
            ("d".to_owned(), Ok(with_cpu(90.0))),
        ];
        sort(&mut answers, Key::Cpu);
        let order = |answers: &[(String, Result<Load, String>)]| {
            answers.iter().map(|(node, _)| node.clone()).collect::<String>()
        };
        assert_eq!(order(&answers), "dcba");
        sort(&mut answers, Key::Node);
        assert_eq!(order(&answers), "bcda");
        let text = table(&Answers { answers, notes: Vec::new() }, false);
        assert_eq!(
            text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
            [&["b"][..], &["-"; 11]].concat()
        );
    }

    #[test]
    fn every_key_has_a_name() {
        for name in Key::NAMES {
            assert_eq!(format!("{:?}", Key::parse(name)).to_lowercase(), *name);
        }
    }
}
