//! What each CPU is: `proc/cpuinfo`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_cpuinfo.5.html>
//!
//! The keys are each architecture's own. All of x86's are known here; of arm64's those that have the same meaning.

use super::Context;
use crate::exposition::{Exposition, Family, Kind};
use crate::options::{Flag, FlagKind};
use crate::text;

const PATH: &str = "proc/cpuinfo";

pub(super) const SWITCH: Flag = Flag {
    name: "collector.cpu.info",
    kind: FlagKind::Switch(false),
    help: "Give each CPU's model and frequency, as cpuinfo has them.",
};
pub(super) const FLAGS: Flag = Flag {
    name: "collector.cpu.info.flags-include",
    kind: FlagKind::Regexp(""),
    help: "Features of CPUs to give, as a regular expression; implies --collector.cpu.info.",
};
pub(super) const BUGS: Flag = Flag {
    name: "collector.cpu.info.bugs-include",
    kind: FlagKind::Regexp(""),
    help: "Bugs of CPUs to give, as a regular expression; implies --collector.cpu.info.",
};
/// The frequencies come with the collector of frequencies, as in node_exporter.
const CPUFREQ_SWITCH: &str = "collector.cpufreq";

pub(super) const INFO: Family = Family {
    name: "node_cpu_info",
    help: "What this CPU is; always 1.",
    kind: Kind::Gauge,
    labels: &[
        "cachesize",
        "core",
        "cpu",
        "family",
        "microcode",
        "model",
        "model_name",
        "package",
        "stepping",
        "vendor",
    ],
    source: PATH,
};
/// Where this CPU runs at, from here and from the cpufreq collector.
pub const FREQUENCY: Family = Family {
    name: "node_cpu_frequency_hertz",
    help: "Frequency at which this CPU runs.",
    labels: &["core", "cpu", "package"],
    ..INFO
};
pub(super) const FLAG_INFO: Family = Family {
    name: "node_cpu_flag_info",
    help: "A feature that the first CPU has; always 1.",
    labels: &["flag"],
    ..INFO
};
pub(super) const BUG_INFO: Family = Family {
    name: "node_cpu_bug_info",
    help: "A bug that the first CPU has; always 1.",
    labels: &["bug"],
    ..INFO
};

/// One CPU: values of its keys as the kernel wrote them, empty where it did not.
#[derive(Debug, Default)]
struct Cpu<'a> {
    number: &'a [u8],
    vendor: &'a [u8],
    family: &'a [u8],
    model: &'a [u8],
    model_name: &'a [u8],
    stepping: &'a [u8],
    microcode: &'a [u8],
    cache_size: &'a [u8],
    package: &'a [u8],
    core: &'a [u8],
    mhz: &'a [u8],
    flags: &'a [u8],
    bugs: &'a [u8],
}

impl<'a> Cpu<'a> {
    /// Where the value of a key belongs; none for a key that is not given.
    fn field(&mut self, key: &[u8]) -> Option<&mut &'a [u8]> {
        Some(match key {
            b"vendor_id" => &mut self.vendor,
            b"cpu family" => &mut self.family,
            b"model" => &mut self.model,
            b"model name" => &mut self.model_name,
            b"stepping" => &mut self.stepping,
            b"microcode" => &mut self.microcode,
            b"cache size" => &mut self.cache_size,
            b"physical id" => &mut self.package,
            b"core id" => &mut self.core,
            b"cpu MHz" => &mut self.mhz,
            b"flags" | b"Features" => &mut self.flags,
            b"bugs" => &mut self.bugs,
            _ => return None,
        })
    }
}

/// Gives what the flags ask for.
pub(super) fn collect(context: &Context<'_>, out: &mut Exposition) {
    let options = context.options;
    let fields = [(&FLAGS, &FLAG_INFO), (&BUGS, &BUG_INFO)]
        .map(|(flag, family)| (options.regexp(flag.name), family));
    if !options.switch(SWITCH.name) && fields.iter().all(|(include, _)| include.is_none()) {
        return;
    }
    let Ok(cpuinfo) = context.require_items(PATH, |line| line.starts_with(b"processor")) else { return };
    let cpus = parse(cpuinfo, out);
    for cpu in &cpus {
        let labels = [
            cpu.cache_size,
            cpu.core,
            cpu.number,
            cpu.family,
            cpu.microcode,
            cpu.model,
            cpu.model_name,
            cpu.package,
            cpu.stepping,
            cpu.vendor,
        ];
        out.add(&INFO, &labels, true);
        if options.switch(CPUFREQ_SWITCH) && !cpu.mhz.is_empty() {
            match text::float(text::trim(cpu.mhz)) {
                Some(mhz) => out.add(&FREQUENCY, &[cpu.core, cpu.number, cpu.package], mhz * 1e6),
                None => out.skip(|| format!("{PATH}: cpu MHz: {}", cpu.mhz.escape_ascii())),
            }
        }
    }
    let Some(first) = cpus.first() else { return };
    for ((include, family), words) in fields.into_iter().zip([first.flags, first.bugs]) {
        let Some(include) = include else { continue };
        for word in text::fields(words).filter(|word| include.is_match(word)) {
            out.add(family, &[word], true);
        }
    }
}

/// The CPUs of the file; each begins with its number.
fn parse<'a>(cpuinfo: &'a [u8], out: &mut Exposition) -> Vec<Cpu<'a>> {
    let mut cpus: Vec<Cpu<'a>> = Vec::new();
    let mut in_cpu = false;
    for line in text::lines(cpuinfo) {
        let Some((key, value)) = text::split_first(line, b':') else { continue };
        let (key, value) = (text::trim(key), value.strip_prefix(b" ").unwrap_or(value));
        if key == b"processor" {
            let number = text::trim(value);
            in_cpu = text::unsigned(number).is_some();
            match in_cpu {
                true => cpus.push(Cpu { number, ..Cpu::default() }),
                false => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
            }
        } else if in_cpu && let Some(field) = cpus.last_mut().and_then(|cpu| cpu.field(key)) {
            *field = value;
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{collect_snapshot, own};
    use super::super::COLLECTOR;
    use crate::snapshot::{Content, Snapshot};

    const X86: &[u8] = b"processor\t: 0\n\
        vendor_id\t: GenuineIntel\n\
        cpu family\t: 6\n\
        model\t\t: 142\n\
        model name\t: Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz\n\
        stepping\t: 10\n\
        microcode\t: 0xb4\n\
        cpu MHz\t\t: 799.998\n\
        cache size\t: 8192 KB\n\
        physical id\t: 0\n\
        siblings\t: 8\n\
        core id\t\t: 3\n\
        flags\t\t: fpu vme aes avx avx2\n\
        vmx flags\t: vnmi aes2\n\
        bugs\t\t: cpu_meltdown spectre_v1 mds\n\
        bogomips\t: 4224.00\n\
        power management:\n\n";

    const ARM: &[u8] = b"processor\t: 0\n\
        BogoMIPS\t: 243.75\n\
        Features\t: fp asimd aes\n\
        CPU implementer\t: 0x41\n\
        CPU architecture: 8\n\
        CPU revision\t: 1\n\n\
        processor\t: 4\n\
        BogoMIPS\t: 243.75\n\n\
        Hardware\t: BCM2835\n\
        Model\t\t: Raspberry Pi 4\n";

    /// The samples that come from `cpuinfo`.
    fn info(cpuinfo: &[u8], flags: &[&str]) -> String {
        let files = [("proc/stat", &b"cpu0 1\n"[..]), (super::PATH, cpuinfo)];
        let files = files.map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.to_vec())));
        let text = collect_snapshot(&COLLECTOR, &Snapshot::of_files(files.into()), flags, &own()).unwrap();
        text.lines().filter(|line| !line.contains("seconds")).map(|line| format!("{line}\n")).collect()
    }

    const X86_INFO: &str = "node_cpu_info{cachesize=\"8192 KB\",core=\"3\",cpu=\"0\",family=\"6\",\
        microcode=\"0xb4\",model=\"142\",model_name=\"Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz\",\
        package=\"0\",stepping=\"10\",vendor=\"GenuineIntel\"} 1\n";
    const X86_FREQUENCY: &str = "node_cpu_frequency_hertz{core=\"3\",cpu=\"0\",package=\"0\"} 799998000\n";

    #[test]
    fn a_cpu_is_described_only_when_asked_for() {
        assert_eq!(info(X86, &[]), "");
        assert_eq!(info(X86, &["--collector.cpu.info"]), format!("{X86_FREQUENCY}{X86_INFO}"));
    }

    #[test]
    fn frequencies_come_with_the_collector_of_frequencies() {
        assert_eq!(info(X86, &["--collector.cpu.info", "--no-collector.cpufreq"]), X86_INFO);
    }

    #[test]
    fn features_and_bugs_that_are_asked_for_imply_the_rest() {
        let flags = ["--collector.cpu.info.flags-include=^(aes|avx.?)$"];
        assert_eq!(
            info(X86, &flags),
            format!(
                "node_cpu_flag_info{{flag=\"aes\"}} 1\n\
                 node_cpu_flag_info{{flag=\"avx\"}} 1\n\
                 node_cpu_flag_info{{flag=\"avx2\"}} 1\n\
                 {X86_FREQUENCY}{X86_INFO}"
            )
        );
        let text = info(X86, &["--collector.cpu.info.bugs-include=^mds$"]);
        assert_eq!(text, format!("node_cpu_bug_info{{bug=\"mds\"}} 1\n{X86_FREQUENCY}{X86_INFO}"));
    }

    #[test]
    fn an_arm_cpu_has_features_and_no_frequency_rather_than_zero() {
        let text = info(ARM, &["--collector.cpu.info.flags-include=aes"]);
        let nothing = |number| {
            format!(
                "node_cpu_info{{cachesize=\"\",core=\"\",cpu=\"{number}\",family=\"\",microcode=\"\",model=\"\",\
                 model_name=\"\",package=\"\",stepping=\"\",vendor=\"\"}} 1\n"
            )
        };
        let expected = format!("node_cpu_flag_info{{flag=\"aes\"}} 1\n{}{}", nothing(0), nothing(4));
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cpu_without_a_number_costs_only_itself() {
        let cpuinfo = b"model name: early\nprocessor: x\nmodel name: lost\nprocessor: 7\ncpu MHz: fast\nvendor_id: a:b\n";
        let text = info(cpuinfo, &["--collector.cpu.info"]);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("cpu=\"7\"") && text.contains("model_name=\"\""), "{text}");
        assert!(text.contains("vendor=\"a:b\""), "{text}");
    }

    #[test]
    fn a_hostile_model_stays_on_its_line() {
        let text = info(b"processor: 0\nmodel name: a\"b\\c\xff\n", &["--collector.cpu.info"]);
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("model_name=\"a\\\"b\\\\c\u{fffd}\""), "{text}");
    }

    #[test]
    fn without_cpuinfo_the_times_are_given() {
        let snapshot = Snapshot::of_files(vec![(b"proc/stat".to_vec(), Content::bytes(&b"cpu0 1\n"[..]))]);
        let text = collect_snapshot(&COLLECTOR, &snapshot, &["--collector.cpu.info"], &own()).unwrap();
        assert_eq!(text, "node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 0.01\n");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100),
            texty in "((processor|flags|bugs|cpu MHz|model)\t: [0-9a-z. ]{0,5}\n){0,6}",
        ) {
            let flags = ["--collector.cpu.info.flags-include=.", "--collector.cpu.info.bugs-include=."];
            let cpuinfo = [texty.as_bytes(), &bytes].concat();
            // A CPU gives a description and perhaps a frequency; a word of its first one a sample more.
            proptest::prop_assert!(info(&cpuinfo, &flags).lines().count() <= 2 * cpuinfo.len());
        }
    }
}
