//! Interrupts that each CPU has served: `proc/interrupts`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>
//!
//! Only the first columns are the same on every architecture: a name, a count for each CPU that is online, and text.

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "interrupts",
    default: false,
    help: "Interrupts that each CPU served, by source.",
    queries: &[Query::Interrupts],
    optional: &[],
    flags: &[INCLUDE_ZEROS.row, EXCLUDE.row, INCLUDE.row],
    families: || vec![INTERRUPTS],
    new: |options| Ok(Box::new(Interrupts::new(options))),
};

const PATH: &str = "proc/interrupts";
const INCLUDE_ZEROS: TypedFlag<bool> = TypedFlag::switch(
    "collector.interrupts.include-zeros",
    true,
    "Include interrupts that a CPU has never served.",
);
const EXCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.interrupts.name-exclude",
    "",
    "Interrupts to exclude, matched against name;info;devices.",
);
const INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.interrupts.name-include",
    "",
    "Interrupts to include, matched against name;info;devices.",
);

const INTERRUPTS: Family = Family {
    name: "node_interrupts_total",
    help: "Interrupts from this source that the CPU has served since boot.",
    kind: MetricType::Counter,
    labels: &["cpu", "type", "info", "devices"],
    source: Source::File(PATH),
};

/// The values of the flags.
#[derive(Debug)]
struct Interrupts {
    zeros: bool,
    /// Of `name;info;devices`.
    names: Filter,
}

impl Interrupts {
    fn new(options: &Options) -> Self {
        Self { zeros: INCLUDE_ZEROS.get(options), names: Filter::new(options, INCLUDE, EXCLUDE) }
    }
}

impl Collect for Interrupts {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut lines = out.rows(PATH, context.require(PATH)?).into_iter();
        let cpus = lines.next().and_then(text::cpu_columns);
        let cpus = cpus.ok_or_else(|| CollectError::malformed(PATH, "no line of CPUs"))?;
        for line in lines {
            out.item();
            // Wide counts leave no space behind the colon.
            let Some((name, rest)) = text::split_first(line, b':') else {
                out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
                continue;
            };
            let interrupt = Interrupt::parse(text::trim(name), rest, cpus.len());
            // ERR and MIS count for the whole machine: one number, and no text.
            let Some(interrupt) = interrupt.filter(|interrupt| interrupt.passes(&self.names)) else {
                continue;
            };
            for (cpu, count) in cpus.iter().zip(&interrupt.counts) {
                let labels = [cpu, interrupt.name, interrupt.info.as_slice(), interrupt.devices.as_slice()];
                match text::unsigned(count) {
                    Some(0) if !self.zeros => {}
                    Some(count) => out.add(&INTERRUPTS, &labels, count),
                    None => {
                        out.skip(|| format!("{PATH}: {} of {}", count.escape_ascii(), name.escape_ascii()))
                    }
                }
            }
        }
        Ok(())
    }
}

/// One line of the table.
struct Interrupt<'a> {
    name: &'a [u8],
    /// By column.
    counts: Vec<&'a [u8]>,
    /// The interrupt's chip, or what an interrupt without a number is.
    info: Vec<u8>,
    /// The rest: trigger and devices, in the architecture's own order.
    devices: Vec<u8>,
}

impl<'a> Interrupt<'a> {
    /// None when there are not as many columns as CPUs, and text behind them.
    fn parse(name: &'a [u8], rest: &'a [u8], cpus: usize) -> Option<Self> {
        let mut fields = text::fields(rest);
        let counts: Vec<&[u8]> = fields.by_ref().take(cpus).collect();
        let text: Vec<&[u8]> = fields.collect();
        let (first, others) = text.split_first().filter(|_| counts.len() == cpus)?;
        let (info, devices) = match text::unsigned(name) {
            Some(_) => (first.to_vec(), others.join(&b' ')),
            None => (text.join(&b' '), Vec::new()),
        };
        Some(Self { name, counts, info, devices })
    }

    fn passes(&self, names: &Filter) -> bool {
        names.is_empty() || names.passes(&[self.name, &self.info, &self.devices].join(&b';'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const X86: &[u8] = b"           CPU0       CPU1       \n  \
          0:         18          0  IR-IO-APIC-edge      timer\n \
         16:     328511     322879  IO-APIC   16-fasteoi   ehci_hcd:usb1, mmc0\n\
        NMI:         47       5031   Non-maskable interrupts\n\
        ERR:          0\n\
        MIS:          0\n";

    #[test]
    fn a_number_has_a_chip_and_devices_and_a_name_has_a_text() {
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, X86)], &[]).unwrap(),
            "\
node_interrupts_total{cpu=\"0\",devices=\"\",info=\"Non-maskable interrupts\",type=\"NMI\"} 47
node_interrupts_total{cpu=\"0\",devices=\"16-fasteoi ehci_hcd:usb1, mmc0\",info=\"IO-APIC\",type=\"16\"} 328511
node_interrupts_total{cpu=\"0\",devices=\"timer\",info=\"IR-IO-APIC-edge\",type=\"0\"} 18
node_interrupts_total{cpu=\"1\",devices=\"\",info=\"Non-maskable interrupts\",type=\"NMI\"} 5031
node_interrupts_total{cpu=\"1\",devices=\"16-fasteoi ehci_hcd:usb1, mmc0\",info=\"IO-APIC\",type=\"16\"} 322879
node_interrupts_total{cpu=\"1\",devices=\"timer\",info=\"IR-IO-APIC-edge\",type=\"0\"} 0
"
        );
    }

    #[test]
    fn on_arm_a_count_may_touch_the_colon() {
        let arm = b"           CPU0       CPU1\n \
            10: 3287008667 3310445093     GICv3  27 Level     arch_timer\n\
            IPI0:2768808080 2844211768       Rescheduling interrupts\n\
            IPI3:         0          0       CPU stop (for crash dump) interrupts\n\
            Err:          0\n";
        let text = collect(&COLLECTOR, &[(PATH, arm)], &["--no-collector.interrupts.include-zeros"]).unwrap();
        assert_eq!(
            text,
            "\
node_interrupts_total{cpu=\"0\",devices=\"\",info=\"Rescheduling interrupts\",type=\"IPI0\"} 2768808080
node_interrupts_total{cpu=\"0\",devices=\"27 Level arch_timer\",info=\"GICv3\",type=\"10\"} 3287008667
node_interrupts_total{cpu=\"1\",devices=\"\",info=\"Rescheduling interrupts\",type=\"IPI0\"} 2844211768
node_interrupts_total{cpu=\"1\",devices=\"27 Level arch_timer\",info=\"GICv3\",type=\"10\"} 3310445093
"
        );
    }

    #[test]
    fn a_machine_wide_count_is_no_cpus_even_on_a_machine_with_one() {
        let text = collect(&COLLECTOR, &[(PATH, b"  CPU0\n  5:  9  PIC  eth0\nERR:  3\n")], &[]).unwrap();
        assert_eq!(text, "node_interrupts_total{cpu=\"0\",devices=\"eth0\",info=\"PIC\",type=\"5\"} 9\n");
    }

    #[test]
    fn columns_carry_the_numbers_of_their_cpus() {
        let text = collect(&COLLECTOR, &[(PATH, b"  CPU0  CPU4\n  5:  9  8  PIC  eth0\n")], &[]).unwrap();
        assert!(text.contains("{cpu=\"4\",devices=\"eth0\",info=\"PIC\",type=\"5\"} 8\n"), "{text}");
    }

    #[test]
    fn filters_see_name_info_and_devices() {
        let names = |flag: &str| {
            let text = collect(&COLLECTOR, &[(PATH, X86)], &[flag]).unwrap();
            text.lines().filter_map(|line| line.split('"').nth(7)).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names("--collector.interrupts.name-include=^16;IO-APIC;.*mmc0$"), ["16", "16"]);
        assert_eq!(names("--collector.interrupts.name-exclude=^(NMI|16);"), ["0", "0"]);
    }

    #[test]
    fn hostile_names_of_devices_are_labels() {
        let hostile = b"  CPU0\n  5:  9  PIC  a\"b\\ \xff{x}: 1\n  6: x  PIC  b\nno colon\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, hostile)], &[]).unwrap(),
            "node_interrupts_total{cpu=\"0\",devices=\"a\\\"b\\\\ \u{fffd}{x}: 1\",info=\"PIC\",type=\"5\"} 9\n"
        );
    }

    #[test]
    fn a_masked_file_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }

    proptest::proptest! {
        #[test]
        fn any_rows_below_the_cpus_are_parsed_without_a_panic(rows in "([0-9A-Z]{0,3}:?[0-9a-z \\t]{0,30}\\n?){0,5}") {
            let table = format!(" CPU0 CPU1\n{rows}");
            let text = collect(&COLLECTOR, &[(PATH, table.as_bytes())], &[]).unwrap();
            proptest::prop_assert!(text.lines().count() <= 2 * rows.lines().count(), "{text}");
        }
    }
}
