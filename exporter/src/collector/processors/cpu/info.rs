//! What each CPU is: `proc/cpuinfo`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_cpuinfo.5.html>
//!
//! Each architecture has a format of its own, which is recognised by the text alone: a capture may come from another machine.
//! Which keys of a format are emitted, and under which labels, is as in node_exporter.

use keyhole_proto::v1::Query;

use super::{CollectError, Context};
use crate::collector::processors::cpufreq;
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Options, TypedFlag};
use crate::text;

const PATH: &str = "proc/cpuinfo";

pub(super) const SWITCH: TypedFlag<bool> = TypedFlag::switch(
    "collector.cpu.info",
    false,
    "Report the model and frequency of each CPU, from /proc/cpuinfo.",
);
pub(super) const FLAGS: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.cpu.info.flags-include",
    "",
    "CPU features to include; implies --collector.cpu.info.",
);
pub(super) const BUGS: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.cpu.info.bugs-include",
    "",
    "CPU bugs to include; implies --collector.cpu.info.",
);

pub(super) const INFO: Family = Family {
    name: "node_cpu_info",
    help: "What this CPU is; always 1.",
    kind: MetricType::Gauge,
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
    source: Source::File(PATH),
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
#[derive(Clone, Copy, Debug, Default)]
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

/// Which architecture's form the text has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// Also what is not known: `processor`, and then keys that mean the same wherever they stand.
    X86,
    /// 32 and 64 bits. An old kernel has what all CPUs share before and after them.
    Arm,
    /// What describes the machine follows the last CPU, with a `model` of its own.
    PowerPc,
    RiscV,
    /// A summary with a line of each CPU, then a paragraph of each.
    S390,
    /// MIPS and LoongArch: the machine comes first.
    SystemType,
}

impl Form {
    fn parse(cpuinfo: &[u8]) -> Self {
        let keys = || keys(cpuinfo).map(|(key, _)| key);
        match keys().next() {
            Some(b"vendor_id") => return Self::S390,
            Some(b"system type") => return Self::SystemType,
            Some(b"Processor") => return Self::Arm,
            _ => {}
        }
        // By the first key that only one of them has.
        let of_one = |key: &[u8]| match key {
            b"vendor_id" | b"cpu family" => Some(Self::X86),
            b"Features" | b"CPU implementer" => Some(Self::Arm),
            b"cpu" => Some(Self::PowerPc),
            b"hart" | b"isa" => Some(Self::RiscV),
            _ => None,
        };
        keys().find_map(of_one).unwrap_or(Self::X86)
    }
}

impl<'a> Cpu<'a> {
    /// The field for the value of a key; none for a key that is not emitted.
    fn field(&mut self, form: Form, key: &[u8]) -> Option<&mut &'a [u8]> {
        Some(match (form, key) {
            (Form::X86, b"vendor" | b"vendor_id") => &mut self.vendor,
            (Form::X86, b"cpu family") => &mut self.family,
            (Form::X86, b"model") => &mut self.model,
            (Form::X86 | Form::Arm, b"model name") => &mut self.model_name,
            (Form::X86, b"stepping") => &mut self.stepping,
            (Form::X86, b"microcode") => &mut self.microcode,
            (Form::X86, b"cache size") => &mut self.cache_size,
            (Form::X86 | Form::S390, b"physical id") => &mut self.package,
            (Form::X86 | Form::S390, b"core id") => &mut self.core,
            (Form::X86, b"cpu MHz") => &mut self.mhz,
            (Form::X86, b"flags") => &mut self.flags,
            (Form::X86, b"bugs") => &mut self.bugs,

            (Form::PowerPc, b"cpu") => &mut self.vendor,
            (Form::PowerPc, b"clock") => &mut self.mhz,

            (Form::RiscV, b"hart") => &mut self.core,
            (Form::RiscV, b"isa") => &mut self.model_name,

            (Form::S390, b"cpu MHz dynamic") => &mut self.mhz,

            (Form::SystemType, b"cpu model" | b"Model Name") => &mut self.model_name,
            (Form::SystemType, b"CPU Family") => &mut self.family,
            _ => return None,
        })
    }

    /// MHz; on POWER with the unit behind it.
    fn mhz(&self) -> Option<f64> {
        let text = text::trim(self.mhz);
        text::float(text.strip_suffix(b"MHz").unwrap_or(text))
    }
}

/// The keys and values of the lines.
fn keys(cpuinfo: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text::lines(cpuinfo).filter_map(|line| {
        let (key, value) = text::split_first(line, b':')?;
        Some((text::trim(key), value.strip_prefix(b" ").unwrap_or(value)))
    })
}

/// What the flags ask for of cpuinfo.
#[derive(Debug)]
pub(super) struct InfoOptions {
    models: bool,
    /// The frequencies come with the collector of frequencies, as in node_exporter.
    frequencies: bool,
    flags: Option<GoRegex>,
    bugs: Option<GoRegex>,
}

impl InfoOptions {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            models: SWITCH.get(options),
            frequencies: cpufreq::COLLECTOR.is_enabled(options),
            flags: FLAGS.get(options),
            bugs: BUGS.get(options),
        }
    }

    /// Whether cpuinfo is needed. An expression implies the switch.
    pub(super) fn needs_cpuinfo(&self) -> bool {
        self.models || self.flags.is_some() || self.bugs.is_some()
    }
}

/// What cpuinfo contains, as far as the flags ask for it.
pub(super) struct Described<'a> {
    cpus: Vec<Cpu<'a>>,
    options: &'a InfoOptions,
}

/// Reads what the flags ask for; where they ask for something, it is a failure to have nothing.
pub(super) fn read<'a>(
    options: &'a InfoOptions,
    context: &Context<'a>,
    out: &mut Exposition,
) -> (Described<'a>, Result<(), CollectError>) {
    let cpus = if options.needs_cpuinfo() { cpus(context, out) } else { Ok(Vec::new()) };
    let (cpus, result) = match cpus {
        Ok(cpus) => (cpus, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    (Described { cpus, options }, result)
}

fn cpus<'a>(context: &Context<'a>, out: &mut Exposition) -> Result<Vec<Cpu<'a>>, CollectError> {
    let begins = |line: &[u8]| line.starts_with(b"processor") || line.starts_with(b"cpu number");
    context.require_answered(Query::Cpuinfo)?;
    let cpuinfo = context.require_items(PATH, begins).map_err(|error| match error {
        CollectError::NoData(_) => CollectError::malformed(PATH, "missing, and a flag asks for it"),
        error => error,
    })?;
    let cpus = parse(cpuinfo, out);
    if cpus.is_empty() {
        return Err(CollectError::malformed(PATH, "no CPU"));
    }
    Ok(cpus)
}

impl Described<'_> {
    /// The numbers of the CPUs.
    pub(super) fn numbers(&self) -> impl Iterator<Item = &[u8]> {
        self.cpus.iter().map(|cpu| cpu.number)
    }

    /// Adds what one of them is.
    pub(super) fn add(&self, at: usize, out: &mut Exposition) {
        let cpu = &self.cpus[at];
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
        if self.options.frequencies && !cpu.mhz.is_empty() {
            match cpu.mhz() {
                Some(mhz) => out.add(&FREQUENCY, &[cpu.core, cpu.number, cpu.package], mhz * 1e6),
                None => out.skip(|| format!("{PATH}: cpu MHz: {}", cpu.mhz.escape_ascii())),
            }
        }
    }

    /// Adds the features and bugs of the first, each an item of its own.
    pub(super) fn add_flags(&self, out: &mut Exposition) {
        let Some(first) = self.cpus.first() else { return };
        let InfoOptions { flags, bugs, .. } = self.options;
        for (include, family, words) in [(flags, &FLAG_INFO, first.flags), (bugs, &BUG_INFO, first.bugs)] {
            let Some(include) = include else { continue };
            for word in text::fields(words).filter(|word| include.is_match(word)) {
                out.item();
                out.add(family, &[word], true);
            }
        }
    }
}

/// The CPUs of the file; each begins with its number.
fn parse<'a>(cpuinfo: &'a [u8], out: &mut Exposition) -> Vec<Cpu<'a>> {
    let form = Form::parse(cpuinfo);
    let mut cpus: Vec<Cpu<'a>> = Vec::new();
    // What all CPUs have in common.
    let mut common = Cpu::default();
    // That which the lines describe.
    let mut current = None;
    for (key, value) in keys(cpuinfo) {
        let number = match (form, key) {
            (Form::S390, _) => key.strip_prefix(b"processor ").map(text::trim),
            (_, b"processor") => Some(text::trim(value)),
            // An old ARM kernel has no number where there is one CPU.
            (Form::Arm, b"BogoMIPS") if cpus.is_empty() => Some(&b"0"[..]),
            _ => None,
        };
        match (form, key) {
            _ if number.is_some() => {
                let number = number.filter(|number| text::unsigned(number).is_some());
                current = number.map(|number| {
                    cpus.push(Cpu { number, ..common });
                    cpus.len() - 1
                });
                if current.is_none() {
                    out.skip(|| format!("{PATH}: {}: {}", key.escape_ascii(), value.escape_ascii()));
                }
            }
            (Form::S390, b"cpu number") => {
                let number = text::unsigned(text::trim(value));
                current = number.and_then(|number| find(&cpus, number));
                if current.is_none() {
                    out.skip(|| format!("{PATH}: cpu number: {}: not in the summary", value.escape_ascii()));
                }
            }
            (Form::S390, b"vendor_id") | (Form::SystemType, b"system type") => common.vendor = value,
            (Form::S390, b"features") => common.flags = value,
            (Form::Arm, b"Processor") => common.model_name = value,
            // In an old kernel they follow the last CPU, and are those of all.
            (Form::Arm, b"Features") => common.flags = value,
            _ => {
                if let Some(field) = current.and_then(|at| cpus.get_mut(at)?.field(form, key)) {
                    *field = value;
                }
            }
        }
    }
    if form == Form::Arm {
        cpus.iter_mut().for_each(|cpu| cpu.flags = common.flags);
    }
    cpus
}

/// Where the CPU of a number is: they come in order, so that this need not look at all of them.
fn find(cpus: &[Cpu<'_>], number: u64) -> Option<usize> {
    let of = |cpu: &Cpu<'_>| text::unsigned(cpu.number).unwrap_or_default();
    cpus.binary_search_by_key(&number, of).ok()
}

#[cfg(test)]
mod tests {
    use super::super::COLLECTOR;
    use crate::collector::testing::{collect_snapshot, collect_with_result, local};
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
        let (text, _) = collect_with_result(&COLLECTOR, &Snapshot::from_files(files.into()), flags, &local());
        text.lines().filter(|line| !line.contains("seconds")).map(|line| format!("{line}\n")).collect()
    }

    const X86_INFO: &str = "node_cpu_info{cachesize=\"8192 KB\",core=\"3\",cpu=\"0\",family=\"6\",\
        microcode=\"0xb4\",model=\"142\",model_name=\"Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz\",\
        package=\"0\",stepping=\"10\",vendor=\"GenuineIntel\"} 1\n";
    const X86_FREQUENCY: &str = "node_cpu_frequency_hertz{core=\"3\",cpu=\"0\",package=\"0\"} 799998000\n";

    #[test]
    fn a_cpu_is_described_only_if_the_flag_is_on() {
        assert_eq!(info(X86, &[]), "");
        assert_eq!(info(X86, &["--collector.cpu.info"]), format!("{X86_FREQUENCY}{X86_INFO}"));
    }

    #[test]
    fn frequencies_are_reported_if_the_frequency_collector_is_enabled() {
        assert_eq!(info(X86, &["--collector.cpu.info", "--no-collector.cpufreq"]), X86_INFO);
    }

    #[test]
    fn selected_features_and_bugs_imply_the_rest() {
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

    /// A CPU's samples, of which only those labels have values that are given.
    fn cpu(number: u64, labels: &[(&str, &str)], hertz: Option<u64>) -> String {
        let value = |name| labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value);
        let (core, package) = (value("core"), value("package"));
        let frequency = hertz.map(|hertz| {
            format!(
                "node_cpu_frequency_hertz{{core=\"{core}\",cpu=\"{number}\",package=\"{package}\"}} {hertz}\n"
            )
        });
        format!(
            "{}node_cpu_info{{cachesize=\"\",core=\"{core}\",cpu=\"{number}\",family=\"{}\",microcode=\"\",model=\"\",\
             model_name=\"{}\",package=\"{package}\",stepping=\"\",vendor=\"{}\"}} 1\n",
            frequency.unwrap_or_default(),
            value("family"),
            value("model_name"),
            value("vendor"),
        )
    }

    /// The samples of CPUs, sorted as they are printed.
    fn cpus(cpus: &[String]) -> String {
        let mut lines: Vec<&str> = cpus.iter().flat_map(|cpu| cpu.lines()).collect();
        lines.sort_unstable();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    const S390: &[u8] = b"vendor_id       : IBM/S390\n\
        # processors    : 2\n\
        bogomips per cpu: 13370.00\n\
        features\t: esan3 zarch stfle\n\
        cache0          : level=1 type=Data scope=Private size=128K\n\
        processor 0: version = FF,  identification = 2733E8,  machine = 2964\n\
        processor 4: version = FF,  identification = 2733E8,  machine = 2964\n\n\
        cpu number      : 0\n\
        physical id     : 2\n\
        core id         : 3\n\
        siblings        : 8\n\
        cpu cores       : 4\n\
        machine         : 2964\n\
        cpu MHz dynamic : 5000\n\
        cpu MHz static  : 5200\n\n\
        cpu number      : 4\n\
        physical id     : 2\n\
        core id         : 9\n\n\
        cpu number      : 5\n\
        physical id     : lost\n";

    #[test]
    fn a_mainframe_lists_a_summary_and_then_each_cpu() {
        let first = cpu(0, &[("vendor", "IBM/S390"), ("package", "2"), ("core", "3")], Some(5_000_000_000));
        let second = cpu(4, &[("vendor", "IBM/S390"), ("package", "2"), ("core", "9")], None);
        assert_eq!(info(S390, &["--collector.cpu.info"]), cpus(&[first, second]));
        let flags = info(S390, &["--collector.cpu.info.flags-include=^z"]);
        assert!(flags.starts_with("node_cpu_flag_info{flag=\"zarch\"} 1\n"), "{flags}");
    }

    #[test]
    fn lines_about_a_power_machine_describe_no_cpu() {
        for end in ["\n", ""] {
            let text = format!(
                "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 2300.000000MHz\n\
                 revision\t: 2.2 (pvr 004e 1202)\n{end}\
                 processor\t: 8\ncpu\t\t: POWER9, altivec supported\n{end}\
                 timebase\t: 512000000\nplatform\t: PowerNV\nmodel\t\t: 9006-22P\nMMU\t\t: Radix\n"
            );
            let vendor = [("vendor", "POWER9, altivec supported")];
            let expected = cpus(&[cpu(0, &vendor, Some(2_300_000_000)), cpu(8, &vendor, None)]);
            assert_eq!(info(text.as_bytes(), &["--collector.cpu.info"]), expected);
        }
    }

    #[test]
    fn a_riscv_hart_is_the_core_and_its_isa_the_model() {
        let text =
            b"processor\t: 0\nhart\t\t: 2\nisa\t\t: rv64imafdc\nmmu\t\t: sv39\nuarch\t\t: sifive,u74-mc\n\n\
            processor\t: 1\nhart\t\t: 1\nisa\t\t: rv64imac\nhart isa\t: rv64imafdc\n";
        let labels = |hart, isa| [("core", hart), ("model_name", isa)];
        let expected =
            cpus(&[cpu(0, &labels("2", "rv64imafdc"), None), cpu(1, &labels("1", "rv64imac"), None)]);
        assert_eq!(info(text, &["--collector.cpu.info"]), expected);
    }

    #[test]
    fn the_system_type_of_mips_and_loongarch_is_every_cpus_vendor() {
        let mips = b"system type\t\t: UBNT_E100\nmachine\t\t\t: Unknown\nprocessor\t\t: 0\n\
            cpu model\t\t: Cavium Octeon+ V0.1\nBogoMIPS\t\t: 1000.00\ncore\t\t\t: 0\n\n\
            processor\t\t: 1\ncpu model\t\t: Cavium Octeon+ V0.2\n";
        let labels = |model| [("vendor", "UBNT_E100"), ("model_name", model)];
        let expected =
            [cpu(0, &labels("Cavium Octeon+ V0.1"), None), cpu(1, &labels("Cavium Octeon+ V0.2"), None)];
        assert_eq!(info(mips, &["--collector.cpu.info"]), cpus(&expected));

        let loong = b"system type\t\t: generic-loongson-machine\n\nprocessor\t\t: 0\npackage\t\t\t: 0\n\
            CPU Family\t\t: Loongson-64bit\nModel Name\t\t: Loongson-3A5000-HV\nCPU MHz\t\t\t: 2500.00\n\n";
        let labels = [
            ("vendor", "generic-loongson-machine"),
            ("family", "Loongson-64bit"),
            ("model_name", "Loongson-3A5000-HV"),
        ];
        assert_eq!(info(loong, &["--collector.cpu.info"]), cpu(0, &labels, None));
    }

    #[test]
    fn an_old_arm_kernel_lists_what_all_cpus_share_once() {
        let several = b"Processor\t: ARMv7 Processor rev 2 (v7l)\nprocessor\t: 0\nBogoMIPS\t: 50.52\n\n\
            processor\t: 1\nBogoMIPS\t: 50.52\n\nFeatures\t: swp half\nCPU part\t: 0xc09\n\nHardware\t: sun8i\n";
        let model = [("model_name", "ARMv7 Processor rev 2 (v7l)")];
        let expected = cpus(&[cpu(0, &model, None), cpu(1, &model, None)]);
        let text = info(several, &["--collector.cpu.info.flags-include=^swp$"]);
        assert_eq!(text, format!("node_cpu_flag_info{{flag=\"swp\"}} 1\n{expected}"));

        let alone = b"Processor\t: Feroceon 88FR131 rev 1 (v5l)\nBogoMIPS\t: 1196.85\nFeatures\t: swp\n";
        let model = [("model_name", "Feroceon 88FR131 rev 1 (v5l)")];
        assert_eq!(info(alone, &["--collector.cpu.info"]), cpu(0, &model, None));

        let newer =
            b"processor\t: 0\nmodel name\t: ARMv7 Processor rev 4 (v7l)\nFeatures\t: half\nCPU part\t: 1\n";
        let model = [("model_name", "ARMv7 Processor rev 4 (v7l)")];
        assert_eq!(info(newer, &["--collector.cpu.info"]), cpu(0, &model, None));
    }

    #[test]
    fn only_a_cpu_without_a_number_is_skipped() {
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
    fn without_a_cpu_in_cpuinfo_the_collector_fails_if_info_is_enabled_and_reports_the_times() {
        let times = "node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 0.01\n";
        for (cpuinfo, reason) in [
            (None, "missing, and a flag asks for it"),
            (Some(&b""[..]), "no CPU"),
            (Some(b"\n"), "no CPU"),
            (Some(b"model name: x\n"), "no CPU"),
        ] {
            let mut files = vec![(b"proc/stat".to_vec(), Content::bytes(&b"cpu0 1\n"[..]))];
            files
                .extend(cpuinfo.map(|text| (super::PATH.as_bytes().to_vec(), Content::bytes(text.to_vec()))));
            let snapshot = Snapshot::from_files(files);
            for flag in ["--collector.cpu.info", "--collector.cpu.info.bugs-include=."] {
                let (text, result) = collect_with_result(&COLLECTOR, &snapshot, &[flag], &local());
                assert_eq!(text, times);
                assert_eq!(result.unwrap_err().to_string(), format!("proc/cpuinfo: {reason}"));
            }
            assert_eq!(collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).as_deref(), Ok(times));
        }
    }

    #[test]
    fn a_broker_that_may_not_read_cpuinfo_fails_a_flag_that_needs_it() {
        let mut snapshot =
            Snapshot::from_files(vec![(b"proc/stat".to_vec(), Content::bytes(&b"cpu0 1\n"[..]))]);
        let outcome = keyhole_proto::v1::Outcome::NotPermitted;
        let report = crate::snapshot::Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 };
        snapshot.set_report(keyhole_proto::v1::Query::Cpuinfo, report);
        let result = collect_snapshot(&COLLECTOR, &snapshot, &["--collector.cpu.info"], &local());
        assert_eq!(result.unwrap_err().to_string(), "query CPUINFO: NOT_PERMITTED");
        assert!(collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_accepted(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100),
            texty in "((processor|Processor|BogoMIPS|vendor_id|cpu number|system type|cpu|flags|bugs|cpu MHz|model)\t: [0-9a-z. ]{0,5}\n|processor [0-9]:\n){0,6}",
        ) {
            let flags = ["--collector.cpu.info.flags-include=.", "--collector.cpu.info.bugs-include=."];
            let cpuinfo = [texty.as_bytes(), &bytes].concat();
            // A CPU gives a description and perhaps a frequency; a word of its first one a sample more.
            proptest::prop_assert!(info(&cpuinfo, &flags).lines().count() <= 2 * cpuinfo.len());
        }
    }
}
