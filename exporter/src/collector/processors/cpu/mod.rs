//! CPUs: how they spent their time, from `proc/stat`; what they are and which state they are in, from sysfs and `proc/cpuinfo`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat>

mod info;
mod topology;

use std::collections::BTreeMap;

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::options::{Options, TypedFlag};
use crate::text;

pub use info::FREQUENCY;

pub const COLLECTOR: Collector = Collector {
    name: "cpu",
    default: true,
    help: "Time that each CPU spent in each mode; throttling, isolation and, with --collector.cpu.info, its model.",
    queries: &[Query::Stat],
    optional: &[Query::Cpu, Query::Cpuinfo],
    flags: &[GUEST_FLAG.row, info::SWITCH.row, info::BUGS.row, info::FLAGS.row],
    families: || {
        vec![
            SECONDS,
            GUEST_SECONDS,
            info::INFO,
            info::FREQUENCY,
            info::FLAG_INFO,
            info::BUG_INFO,
            topology::CORE_THROTTLES,
            topology::PACKAGE_THROTTLES,
            topology::ISOLATED,
            topology::ONLINE,
        ]
    },
    new: |options| Ok(Box::new(Cpu::new(options))),
};

const PATH: &str = "proc/stat";
const GUEST_FLAG: TypedFlag<bool> = TypedFlag::switch(
    "collector.cpu.guest",
    true,
    "Also report the time spent in guests separately (node_cpu_guest_seconds_total).",
);

const SECONDS: Family = Family {
    name: "node_cpu_seconds_total",
    help: "Time that this CPU has spent in this mode.",
    kind: MetricType::Counter,
    labels: &["cpu", "mode"],
    source: Source::File(PATH),
};
const GUEST_SECONDS: Family = Family {
    name: "node_cpu_guest_seconds_total",
    help: "Time that this CPU has spent for guests, which its modes `user` and `nice` include.",
    ..SECONDS
};

/// The first columns of a CPU's line.
const MODES: [&[u8]; 8] = [b"user", b"nice", b"system", b"idle", b"iowait", b"irq", b"softirq", b"steal"];

/// The columns after them: what the columns of these modes contain for guests.
const GUEST_MODES: [&[u8]; 2] = [b"user", b"nice"];

/// The ticks of a second in what the kernel shows to user space (USER_HZ), on every architecture that this is built for.
const TICKS: f64 = 100.0;

/// The values of the flags.
#[derive(Debug)]
struct Cpu {
    /// Whether the time spent for guests is given.
    guests: bool,
    info: info::InfoOptions,
}

impl Cpu {
    fn new(options: &Options) -> Self {
        Self { guests: GUEST_FLAG.get(options), info: info::InfoOptions::new(options) }
    }
}

impl Collect for Cpu {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let (described, info) = info::read(&self.info, context, out);
        let mut about = BTreeMap::<Vec<u8>, About>::new();
        for (at, number) in described.numbers().enumerate() {
            about.entry(number.to_vec()).or_default().described.push(at);
        }
        for (number, is_online) in topology::online(context.snapshot, out) {
            about.entry(number).or_default().is_online = Some(is_online);
        }
        for number in topology::isolated(context.snapshot, out) {
            about.entry(number.to_string().into_bytes()).or_default().is_isolated = true;
        }
        let add = |number: &[u8], about: &About, out: &mut Exposition| {
            about.described.iter().for_each(|at| described.add(*at, out));
            if let Some(is_online) = about.is_online {
                out.add(&topology::ONLINE, &[number], is_online);
            }
            if about.is_isolated {
                out.add(&topology::ISOLATED, &[number], true);
            }
        };
        let result = times(context, self.guests, out, |number, out| {
            about.remove(number).iter().for_each(|about| add(number, about, out));
        });
        // A CPU that is offline has no times, but samples from sysfs and cpuinfo.
        for (number, about) in &about {
            out.item();
            add(number, about, out);
        }
        topology::throttles(context.snapshot, out);
        described.add_flags(out);
        result.and(info)
    }

    fn wants(&self, query: Query) -> bool {
        query != Query::Cpuinfo || self.info.needs_cpuinfo()
    }
}

/// What is known of a CPU besides its times. All of it is one item, so that a limit leaves CPUs whole.
#[derive(Debug, Default)]
struct About {
    /// Where cpuinfo describes it.
    described: Vec<usize>,
    is_online: Option<bool>,
    is_isolated: bool,
}

/// Adds each CPU's times, and has `rest` add what else is known of it.
fn times(
    context: &Context<'_>,
    guests: bool,
    out: &mut Exposition,
    mut rest: impl FnMut(&[u8], &mut Exposition),
) -> Result<(), CollectError> {
    let guest_modes = if guests { &GUEST_MODES[..] } else { &[] };
    let columns = (MODES.iter().map(|mode| (mode, &SECONDS)))
        .chain(guest_modes.iter().map(|mode| (mode, &GUEST_SECONDS)));
    let mut any = false;
    for line in text::lines(context.require(PATH)?) {
        let mut fields = text::fields(line);
        let Some(cpu) = fields.next().and_then(text::cpu_number) else { continue };
        out.item();
        for ((mode, family), ticks) in columns.clone().zip(fields) {
            match text::unsigned(ticks) {
                Some(ticks) => out.add(family, &[cpu, mode], ticks as f64 / TICKS),
                None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
            }
        }
        rest(cpu, out);
        any = true;
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line of a CPU"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn each_cpu_is_reported_by_its_number_and_their_sum_is_not() {
        // CPU 1 is offline.
        let stat = b"cpu  301854 612 111922 8979004 3552 2 3944 0 44 36\n\
            cpu0 44490 19 21045 1087069 220 1 3410 7 2 1\n\
            cpu2 1 2 3 4 5 6 7 8 9 10\n\
            intr 8885917 17 0\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, stat)], &[]).unwrap(),
            "node_cpu_guest_seconds_total{cpu=\"0\",mode=\"nice\"} 0.01\n\
             node_cpu_guest_seconds_total{cpu=\"0\",mode=\"user\"} 0.02\n\
             node_cpu_guest_seconds_total{cpu=\"2\",mode=\"nice\"} 0.1\n\
             node_cpu_guest_seconds_total{cpu=\"2\",mode=\"user\"} 0.09\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 10870.69\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"iowait\"} 2.2\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"irq\"} 0.01\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"nice\"} 0.19\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"softirq\"} 34.1\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"steal\"} 0.07\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"system\"} 210.45\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 444.9\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"idle\"} 0.04\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"iowait\"} 0.05\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"irq\"} 0.06\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"nice\"} 0.02\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"softirq\"} 0.07\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"steal\"} 0.08\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"system\"} 0.03\n\
             node_cpu_seconds_total{cpu=\"2\",mode=\"user\"} 0.01\n"
        );
    }

    #[test]
    fn an_idle_time_that_fell_is_reported_unchanged() {
        let idle = |stat: &[u8]| collect(&COLLECTOR, &[(PATH, stat)], &[]).unwrap();
        let (before, after) = (idle(b"cpu0 1 2 3 1000\n"), idle(b"cpu0 1 2 3 900\n"));
        assert!(
            before.contains("mode=\"idle\"} 10\n") && after.contains("mode=\"idle\"} 9\n"),
            "{before}{after}"
        );
    }

    #[test]
    fn guests_are_left_out_if_the_flag_is_off() {
        let files = [(PATH, &b"cpu0 1 2 3 4 5 6 7 8 9 10\n"[..])];
        let text = collect(&COLLECTOR, &files, &["--no-collector.cpu.guest"]).unwrap();
        assert_eq!(text.lines().count(), 8);
        assert!(!text.contains("guest"), "{text}");
    }

    #[test]
    fn modes_that_an_old_kernel_lacks_are_absent_and_a_future_kernels_ignored() {
        let text = collect(&COLLECTOR, &[(PATH, b"cpu0 1 2 3 4\n")], &[]).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(!text.contains("steal"), "{text}");
        let text = collect(&COLLECTOR, &[(PATH, b"cpu0 1 2 3 4 5 6 7 8 9 10 11 12\n")], &[]).unwrap();
        assert_eq!(text.lines().count(), 10);
    }

    #[test]
    fn only_a_malformed_column_is_skipped() {
        let text = collect(&COLLECTOR, &[(PATH, b"cpu0 1 x 300\ncpux 1 2\ncpu1\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_cpu_seconds_total{cpu=\"0\",mode=\"system\"} 3\n\
             node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 0.01\n"
        );
    }

    #[test]
    fn a_file_without_cpus_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"cpu  1 2 3\nctxt 1\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
