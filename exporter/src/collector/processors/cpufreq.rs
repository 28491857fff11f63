//! Frequencies of CPUs and what governs them: `sys/devices/system/cpu/cpu*/cpufreq/`.
//!
//! <https://docs.kernel.org/admin-guide/pm/cpufreq.html>

use keyhole_proto::v1::Query;

use crate::collector::processors::cpu;
use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "cpufreq",
    default: true,
    help: "CPU frequencies and governors.",
    queries: &[Query::Cpufreq],
    optional: &[],
    flags: &[],
    families: || {
        vec![
            FREQUENCY,
            FREQUENCY_AVERAGE,
            FREQUENCY_MAX,
            FREQUENCY_MIN,
            SCALING_FREQUENCY,
            SCALING_MAX,
            SCALING_MIN,
            GOVERNOR,
        ]
    },
    new: |_| Ok(Box::new(collect)),
};

const CPUS: &str = "sys/devices/system/cpu";

/// The cpu collector emits it too, from `cpuinfo` and with more labels.
const FREQUENCY: Family = Family {
    labels: &["cpu"],
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/cpuinfo_cur_freq"),
    ..cpu::FREQUENCY
};
const FREQUENCY_AVERAGE: Family = Family {
    name: "node_cpu_frequency_avg_hertz",
    help: "Frequency at which the hardware ran this CPU recently, on average.",
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/cpuinfo_avg_freq"),
    ..FREQUENCY
};
const FREQUENCY_MAX: Family = Family {
    name: "node_cpu_frequency_max_hertz",
    help: "Highest frequency that this CPU can run at.",
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/cpuinfo_max_freq"),
    ..FREQUENCY
};
const FREQUENCY_MIN: Family = Family {
    name: "node_cpu_frequency_min_hertz",
    help: "Lowest frequency that this CPU can run at.",
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/cpuinfo_min_freq"),
    ..FREQUENCY
};
const SCALING_FREQUENCY: Family = Family {
    name: "node_cpu_scaling_frequency_hertz",
    help: "Frequency at which the kernel last asked this CPU to run, or at which it runs, as the driver has it.",
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/scaling_cur_freq"),
    ..FREQUENCY
};
const SCALING_MAX: Family = Family {
    name: "node_cpu_scaling_frequency_max_hertz",
    help: "Highest frequency that the policy in force lets this CPU run at.",
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/scaling_max_freq"),
    ..FREQUENCY
};
const SCALING_MIN: Family = Family {
    name: "node_cpu_scaling_frequency_min_hertz",
    help: "Lowest frequency that the policy in force lets this CPU run at.",
    source: Source::File("sys/devices/system/cpu/cpu#/cpufreq/scaling_min_freq"),
    ..FREQUENCY
};
const GOVERNOR: Family = Family {
    name: "node_cpu_scaling_governor",
    help: "Whether this governor is the one in force on this CPU.",
    kind: MetricType::Gauge,
    labels: &["cpu", "governor"],
    source: Source::File(
        "sys/devices/system/cpu/cpu#/cpufreq/{scaling_governor,scaling_available_governors}",
    ),
};

/// Files that hold one frequency, in kHz.
const FREQUENCIES: &[(&str, &Family)] = &[
    ("cpuinfo_avg_freq", &FREQUENCY_AVERAGE),
    ("cpuinfo_cur_freq", &FREQUENCY),
    ("cpuinfo_max_freq", &FREQUENCY_MAX),
    ("cpuinfo_min_freq", &FREQUENCY_MIN),
    ("scaling_cur_freq", &SCALING_FREQUENCY),
    ("scaling_max_freq", &SCALING_MAX),
    ("scaling_min_freq", &SCALING_MIN),
];

/// A host without frequency scaling, such as most virtual machines, has no samples, and that is no failure.
fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for dir in context.snapshot.dir(CPUS).dirs() {
        let Some(cpu) = text::cpu_number(dir.name()) else { continue };
        let cpufreq = dir.dir("cpufreq");
        out.item();
        for (file, family) in FREQUENCIES {
            // What the driver does not know it calls `<unknown>`.
            let Some(khz) = cpufreq.value(file).filter(|&value| value != b"<unknown>") else { continue };
            match text::unsigned(khz).and_then(|khz| khz.checked_mul(1000)) {
                Some(hertz) => out.add(family, &[cpu], hertz),
                None => out.skip(|| format!("{}: {}", cpufreq.join(file).escape_ascii(), khz.escape_ascii())),
            }
        }
        governors(&cpufreq, cpu, out);
    }
    Ok(())
}

fn governors(cpufreq: &Dir<'_>, cpu: &[u8], out: &mut Exposition) {
    let Some(governor) = cpufreq.value("scaling_governor").filter(|name| !name.is_empty()) else { return };
    // First, so that it is emitted even if the list of available governors lacks it.
    out.add(&GOVERNOR, &[cpu, governor], true);
    let available = cpufreq.text("scaling_available_governors").unwrap_or_default();
    for other in text::fields(available).filter(|other| *other != governor) {
        out.add(&GOVERNOR, &[cpu, other], false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    const GOVERNOR_FILE: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    const GOVERNORS_FILE: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors";
    const CURRENT_FILE: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq";

    #[test]
    fn every_frequency_file_has_its_family_in_hertz() {
        for (file, family) in FREQUENCIES {
            let path = format!("sys/devices/system/cpu/cpu12/cpufreq/{file}");
            let text = collect(&COLLECTOR, &[(&path, b"1699981\n")], &[]).unwrap();
            assert_eq!(text, format!("{}{{cpu=\"12\"}} 1699981000\n", family.name));
            assert!(family.source.to_string().ends_with(file), "{file}");
        }
    }

    #[test]
    fn the_governor_in_force_is_one_and_the_others_zero() {
        let files =
            [(GOVERNOR_FILE, &b"powersave\n"[..]), (GOVERNORS_FILE, b"performance powersave schedutil \n")];
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap(),
            "node_cpu_scaling_governor{cpu=\"0\",governor=\"performance\"} 0\n\
             node_cpu_scaling_governor{cpu=\"0\",governor=\"powersave\"} 1\n\
             node_cpu_scaling_governor{cpu=\"0\",governor=\"schedutil\"} 0\n"
        );
    }

    #[test]
    fn a_governor_without_a_list_is_reported() {
        let text = collect(&COLLECTOR, &[(GOVERNOR_FILE, b"userspace\n")], &[]).unwrap();
        assert_eq!(text, "node_cpu_scaling_governor{cpu=\"0\",governor=\"userspace\"} 1\n");
    }

    #[test]
    fn a_hostile_governor_stays_on_its_line() {
        let text = collect(&COLLECTOR, &[(GOVERNOR_FILE, b"a\"\nb\xff\n")], &[]).unwrap();
        assert_eq!(text, "node_cpu_scaling_governor{cpu=\"0\",governor=\"a\\\"\\nb\u{fffd}\"} 1\n");
    }

    #[test]
    fn a_frequency_that_is_unknown_or_refused_is_absent_rather_than_zero() {
        for bytes in [&b"<unknown>\n"[..], b"", b"-1\n", b"18446744073709551615\n"] {
            assert_eq!(collect(&COLLECTOR, &[(CURRENT_FILE, bytes)], &[]).unwrap(), "");
        }
        // A CPU that is idle has no average.
        let snapshot = Snapshot::from_files(vec![(CURRENT_FILE.into(), Content::Errno(11))]);
        assert_eq!(collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(), "");
    }

    #[test]
    fn a_host_without_scaling_and_directories_that_are_no_cpu_are_no_failure() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
        let policy = "sys/devices/system/cpu/cpufreq/cpufreq/scaling_cur_freq";
        assert_eq!(collect(&COLLECTOR, &[(policy, b"1\n")], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        let frequencies: Vec<String> = FREQUENCIES
            .iter()
            .map(|(file, _)| format!("sys/devices/system/cpu/cpu0/cpufreq/{file}"))
            .collect();
        let mut paths: Vec<&str> = frequencies.iter().map(String::as_str).collect();
        paths.extend([GOVERNOR_FILE, GOVERNORS_FILE]);
        accepts_any_bytes(&COLLECTOR, &paths);
    }
}
