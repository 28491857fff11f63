//! Whether CPUs are throttled, isolated or online, from `sys/devices/system/cpu/`.
//!
//! <https://docs.kernel.org/admin-guide/cputopology.html>

use std::collections::BTreeSet;

use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::{Dir, Snapshot};
use crate::text;

const CPUS: &str = "sys/devices/system/cpu";

pub(super) const CORE_THROTTLES: Family = Family {
    name: "node_cpu_core_throttles_total",
    help: "Times that this core was slowed down because it was too hot.",
    kind: MetricType::Counter,
    labels: &["core", "package"],
    source: Source::Files(&[
        "sys/devices/system/cpu/cpu#/thermal_throttle/core_throttle_count",
        "sys/devices/system/cpu/cpu#/topology/{core_id,physical_package_id}",
    ]),
};
pub(super) const PACKAGE_THROTTLES: Family = Family {
    name: "node_cpu_package_throttles_total",
    help: "Times that this package was slowed down because it was too hot.",
    labels: &["package"],
    source: Source::Files(&[
        "sys/devices/system/cpu/cpu#/thermal_throttle/package_throttle_count",
        "sys/devices/system/cpu/cpu#/topology/physical_package_id",
    ]),
    ..CORE_THROTTLES
};
pub(super) const ISOLATED: Family = Family {
    name: "node_cpu_isolated",
    help: "A CPU that is isolated from the scheduler; always 1.",
    kind: MetricType::Gauge,
    labels: &["cpu"],
    source: Source::File("sys/devices/system/cpu/isolated"),
};
pub(super) const ONLINE: Family = Family {
    name: "node_cpu_online",
    help: "Whether this CPU is online.",
    source: Source::Files(&["sys/devices/system/cpu/cpu#/online", "sys/devices/system/cpu/online"]),
    ..ISOLATED
};

/// The CPUs that the scheduler leaves alone.
pub(super) fn isolated(snapshot: &Snapshot, out: &mut Exposition) -> Vec<u64> {
    let cpus = snapshot.dir(CPUS);
    let listed = text::cpu_list(cpus.text("isolated").unwrap_or_default());
    let mut known = |cpu: Option<u64>| {
        if cpu.is_none() {
            out.skip(|| format!("{}: not a list of CPUs", ISOLATED.source));
        }
        cpu
    };
    listed.filter_map(&mut known).collect()
}

/// Adds how often each core and each package was slowed down, each an item of its own. The CPUs of a core, and of a package,
/// all have the same counter: the first one found is used.
pub(super) fn throttles(snapshot: &Snapshot, out: &mut Exposition) {
    let cpus = &snapshot.dir(CPUS);
    let (mut packages, mut cores) = (BTreeSet::new(), BTreeSet::new());
    for (_, dir) in numbered(cpus) {
        // Some firmware does not number packages: the kernel writes -1.
        let Some(package) = number(&dir, "topology/physical_package_id") else { continue };
        if !packages.contains(package)
            && let Some(count) = count(&dir, "thermal_throttle/package_throttle_count", out)
        {
            packages.insert(package);
            out.item();
            out.add(&PACKAGE_THROTTLES, &[package], count);
        }
        let Some(core) = number(&dir, "topology/core_id") else { continue };
        if !cores.contains(&(package, core))
            && let Some(count) = count(&dir, "thermal_throttle/core_throttle_count", out)
        {
            cores.insert((package, core));
            out.item();
            out.add(&CORE_THROTTLES, &[core, package], count);
        }
    }
}

/// Which CPUs are online. One that cannot go offline (the first one of x86) has no file of its own. Where none has, CPUs do
/// not come and go, and nothing is emitted.
pub(super) fn online(snapshot: &Snapshot, out: &mut Exposition) -> Vec<(Vec<u8>, bool)> {
    let cpus = &snapshot.dir(CPUS);
    let mut known = Vec::new();
    if !numbered(cpus).any(|(_, dir)| dir.content("online").is_some()) {
        return known;
    }
    let listed: Option<BTreeSet<u64>> =
        cpus.text("online").map(|list| text::cpu_list(list).flatten().collect());
    for (cpu, dir) in numbered(cpus) {
        if let Some(own) = dir.value("online") {
            match own {
                b"0" => known.push((cpu, false)),
                b"1" => known.push((cpu, true)),
                _ => out.skip(|| format!("{}: neither 0 nor 1", dir.join("online").escape_ascii())),
            }
        } else if let (None, Some(listed)) = (dir.content("online"), &listed)
            && let Some(number) = text::unsigned(&cpu)
        {
            known.push((cpu, listed.contains(&number)));
        }
    }
    known
}

/// The CPUs' directories, with their numbers.
fn numbered<'a>(cpus: &Dir<'a>) -> impl Iterator<Item = (Vec<u8>, Dir<'a>)> {
    cpus.dirs().filter_map(|dir| Some((text::cpu_number(dir.name())?.to_vec(), dir)))
}

/// The digits of a file with a number.
fn number<'a>(dir: &Dir<'a>, file: &str) -> Option<&'a [u8]> {
    dir.value(file).filter(|digits| text::unsigned(digits).is_some())
}

/// The number in a file that a CPU may lack.
fn count(dir: &Dir<'_>, file: &str, out: &mut Exposition) -> Option<u64> {
    let value = dir.value(file)?;
    let count = text::unsigned(value);
    if count.is_none() {
        out.skip(|| format!("{}: {}", dir.join(file).escape_ascii(), value.escape_ascii()));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::COLLECTOR;
    use crate::collector::testing::{accepts_any_bytes, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    /// The samples that come from `files` below the CPUs' directory; a file of `!` cannot be read.
    fn topology(files: &[(&str, &str)]) -> String {
        let content = |text: &str| match text {
            "!" => Content::Errno(5),
            text => Content::bytes(text.as_bytes().to_vec()),
        };
        let files = files
            .iter()
            .map(|(path, text)| (format!("{}/{path}", super::CPUS).into_bytes(), content(text)))
            .chain([(b"proc/stat".to_vec(), content("cpu0 1\n"))])
            .collect();
        let text = collect_snapshot(&COLLECTOR, &Snapshot::from_files(files), &[], &local()).unwrap();
        text.lines().filter(|line| !line.contains("seconds")).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn each_core_and_each_package_is_counted_once() {
        let mut files = Vec::new();
        // Two threads a core, as their siblings count them: the first of each is given.
        for (cpu, package, core, core_count, package_count) in [
            ("cpu0", "0\n", "0\n", "5\n", "30\n"),
            ("cpu1", "0\n", "1\n", "0\n", "31\n"),
            ("cpu2", "1\n", "0\n", "9\n", "6\n"),
            ("cpu3", "0\n", "0\n", "4\n", "30\n"),
        ] {
            files.push((format!("{cpu}/topology/physical_package_id"), package));
            files.push((format!("{cpu}/topology/core_id"), core));
            files.push((format!("{cpu}/thermal_throttle/core_throttle_count"), core_count));
            files.push((format!("{cpu}/thermal_throttle/package_throttle_count"), package_count));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        assert_eq!(
            topology(&files),
            "node_cpu_core_throttles_total{core=\"0\",package=\"0\"} 5\n\
             node_cpu_core_throttles_total{core=\"0\",package=\"1\"} 9\n\
             node_cpu_core_throttles_total{core=\"1\",package=\"0\"} 0\n\
             node_cpu_package_throttles_total{package=\"0\"} 30\n\
             node_cpu_package_throttles_total{package=\"1\"} 6\n"
        );
    }

    #[test]
    fn a_thread_whose_count_cannot_be_read_leaves_its_core_to_the_next() {
        let text = topology(&[
            ("cpu0/topology/physical_package_id", "0\n"),
            ("cpu0/topology/core_id", "0\n"),
            ("cpu0/thermal_throttle/core_throttle_count", "x\n"),
            ("cpu1/topology/physical_package_id", "0\n"),
            ("cpu1/topology/core_id", "0\n"),
            ("cpu1/thermal_throttle/core_throttle_count", "3\n"),
            // Firmware without numbers for packages.
            ("cpu2/topology/physical_package_id", "-1\n"),
            ("cpu2/topology/core_id", "0\n"),
            ("cpu2/thermal_throttle/core_throttle_count", "7\n"),
        ]);
        assert_eq!(text, "node_cpu_core_throttles_total{core=\"0\",package=\"0\"} 3\n");
    }

    #[test]
    fn cpus_without_throttling_such_as_virtual_ones_have_no_counts() {
        let text =
            topology(&[("cpu0/topology/physical_package_id", "0\n"), ("cpu0/topology/core_id", "0\n")]);
        assert_eq!(text, "");
    }

    #[test]
    fn isolated_cpus_are_listed_and_only_a_malformed_range_is_skipped() {
        let text = topology(&[("isolated", "1,3-4,x,0-18446744073709551615,9\n")]);
        assert_eq!(
            text,
            "node_cpu_isolated{cpu=\"1\"} 1\n\
             node_cpu_isolated{cpu=\"3\"} 1\n\
             node_cpu_isolated{cpu=\"4\"} 1\n\
             node_cpu_isolated{cpu=\"9\"} 1\n"
        );
        assert_eq!(topology(&[("isolated", "\n")]), "");
    }

    #[test]
    fn a_cpu_that_cannot_go_offline_is_online_beside_those_that_can() {
        let text = topology(&[
            ("online", "0,2\n"),
            ("cpu0/topology/core_id", "0\n"),
            ("cpu1/online", "0\n"),
            ("cpu2/online", "1\n"),
        ]);
        assert_eq!(
            text,
            "node_cpu_online{cpu=\"0\"} 1\nnode_cpu_online{cpu=\"1\"} 0\nnode_cpu_online{cpu=\"2\"} 1\n"
        );
    }

    #[test]
    fn where_no_cpu_can_go_offline_nothing_is_reported() {
        assert_eq!(topology(&[("online", "0-3\n"), ("cpu0/topology/core_id", "0\n")]), "");
    }

    #[test]
    fn what_is_not_known_to_be_online_is_absent_rather_than_offline() {
        let text = topology(&[
            ("cpu0/topology/core_id", "0\n"),
            ("cpu1/online", "1\n"),
            ("cpu2/online", "!"),
            ("cpu3/online", "maybe\n"),
        ]);
        assert_eq!(text, "node_cpu_online{cpu=\"1\"} 1\n", "there is no list, and cpu2 cannot be read");
    }

    #[test]
    fn directories_that_are_no_cpu_are_ignored() {
        assert_eq!(topology(&[("cpuidle/online", "1\n"), ("cpufreq/online", "1\n")]), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[
                "sys/devices/system/cpu/isolated",
                "sys/devices/system/cpu/online",
                "sys/devices/system/cpu/cpu0/online",
                "sys/devices/system/cpu/cpu0/topology/physical_package_id",
                "sys/devices/system/cpu/cpu0/topology/core_id",
                "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
                "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
            ],
        );
    }
}
