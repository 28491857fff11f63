//! Pressure stall information: `proc/pressure/`, since Linux 4.20.
//!
//! <https://docs.kernel.org/accounting/psi.html>
//!
//! The line `full` of `cpu`, which Linux 5.13 added, is meaningless for a whole host and is left out.

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::snapshot::Content;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "pressure",
    default: true,
    help: "Time that tasks waited for CPU, I/O and memory.",
    queries: &[Query::Pressure],
    optional: &[],
    flags: &[],
    families: || TOTALS.iter().map(|(.., family)| *family).collect(),
    new: |_| Ok(Box::new(collect)),
};

/// A total: its file, its line, and its family.
type Total = (&'static str, &'static [u8], Family);

#[rustfmt::skip]
const TOTALS: [Total; 6] = [
    total("proc/pressure/cpu",    b"some", "node_pressure_cpu_waiting_seconds_total",    "Time that at least one task waited for a CPU."),
    total("proc/pressure/io",     b"some", "node_pressure_io_waiting_seconds_total",     "Time that at least one task waited for I/O."),
    total("proc/pressure/io",     b"full", "node_pressure_io_stalled_seconds_total",     "Time that no task could run because all waited for I/O."),
    total("proc/pressure/memory", b"some", "node_pressure_memory_waiting_seconds_total", "Time that at least one task waited for memory."),
    total("proc/pressure/memory", b"full", "node_pressure_memory_stalled_seconds_total", "Time that no task could run because all waited for memory."),
    total("proc/pressure/irq",    b"full", "node_pressure_irq_stalled_seconds_total",    "Time that no task could run because interrupts were served."),
];

const fn total(file: &'static str, line: &'static [u8], name: &'static str, help: &'static str) -> Total {
    (file, line, Family::counter(name, help, &[], Source::File(file)))
}

/// In a second.
const MICROSECONDS: f64 = 1e6;

/// What the kernel answers when it was built for pressure but booted with `psi=0`, or, for `irq` alone, when
/// interrupts' time is not kept.
const EOPNOTSUPP: u32 = 95;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    let mut failure = None;
    for (file, line, family) in &TOTALS {
        match stalled(context, file, line) {
            Ok(microseconds) => {
                out.add(family, &[], microseconds as f64 / MICROSECONDS);
                any = true;
            }
            Err(CollectError::NoData(_)) => {}
            Err(error) => {
                out.skip(|| error.to_string());
                failure.get_or_insert(error);
            }
        }
    }
    if any {
        return Ok(());
    }
    Err(failure.unwrap_or_else(|| CollectError::NoData("pressure stall information".into())))
}

/// The microseconds that a file's line has counted.
fn stalled(context: &Context<'_>, path: &str, line: &[u8]) -> Result<u64, CollectError> {
    if context.snapshot.content(path) == Some(&Content::Errno(EOPNOTSUPP)) {
        return Err(CollectError::NoData(path.to_owned()));
    }
    text::lines(context.require(path)?)
        .filter(|candidate| text::fields(candidate).next() == Some(line))
        .find_map(|found| {
            text::fields(found).find_map(|field| text::unsigned(field.strip_prefix(b"total=")?))
        })
        .ok_or_else(|| CollectError::malformed(path, format!("no total of `{}`", line.escape_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    const CPU: (&str, &[u8]) = (
        "proc/pressure/cpu",
        b"some avg10=0.36 avg60=0.06 avg300=0.20 total=18066160\n\
          full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    );
    const IO: (&str, &[u8]) = (
        "proc/pressure/io",
        b"some avg10=2.50 avg60=0.49 avg300=0.81 total=30760642\n\
          full avg10=2.50 avg60=0.49 avg300=0.79 total=29992661\n",
    );
    const MEMORY: (&str, &[u8]) = (
        "proc/pressure/memory",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n\
          full avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n",
    );
    const IRQ: (&str, &[u8]) = ("proc/pressure/irq", b"full avg10=0.00 avg60=0.00 avg300=0.00 total=8494\n");

    /// Runs the collector over files of which some cannot be read.
    fn collect_with_errno(texts: &[(&str, &[u8])], errors: &[(&str, u32)]) -> Result<String, CollectError> {
        let texts =
            texts.iter().map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.to_vec())));
        let errors = errors.iter().map(|(path, errno)| (path.as_bytes().to_vec(), Content::Errno(*errno)));
        collect_snapshot(&COLLECTOR, &Snapshot::from_files(texts.chain(errors).collect()), &[], &local())
    }

    #[test]
    fn some_is_waiting_and_full_is_stalled_in_seconds() {
        assert_eq!(
            collect(&COLLECTOR, &[CPU, IO, MEMORY, IRQ], &[]).unwrap(),
            "node_pressure_cpu_waiting_seconds_total 18.06616\n\
             node_pressure_io_stalled_seconds_total 29.992661\n\
             node_pressure_io_waiting_seconds_total 30.760642\n\
             node_pressure_irq_stalled_seconds_total 0.008494\n\
             node_pressure_memory_stalled_seconds_total 1.5\n\
             node_pressure_memory_waiting_seconds_total 2\n"
        );
    }

    #[test]
    fn a_kernel_without_irq_and_without_full_for_cpu_reports_the_rest() {
        // Linux 4.20 to 5.12.
        let cpu = (CPU.0, &b"some avg10=0.36 avg60=0.06 avg300=0.20 total=18066160\n"[..]);
        let text = collect(&COLLECTOR, &[cpu, IO, MEMORY], &[]).unwrap();
        assert_eq!(text.lines().count(), 5);
        assert!(
            !text.contains("_irq_") && text.contains("node_pressure_cpu_waiting_seconds_total 18.06616\n")
        );
    }

    #[test]
    fn a_future_kernels_averages_lines_and_order_change_nothing() {
        let irq = (IRQ.0, &b"most total=1\nfull total=8494 avg900=0.00 frobs=x\n"[..]);
        let text = collect(&COLLECTOR, &[irq], &[]).unwrap();
        assert_eq!(text, "node_pressure_irq_stalled_seconds_total 0.008494\n");
    }

    #[test]
    fn a_kernel_booted_without_pressure_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        let off = [CPU.0, IO.0, MEMORY.0].map(|path| (path, EOPNOTSUPP));
        assert!(matches!(collect_with_errno(&[], &off), Err(CollectError::NoData(_))));
    }

    #[test]
    fn interrupts_that_are_not_timed_are_absent_rather_than_zero() {
        let text = collect_with_errno(&[MEMORY], &[(IRQ.0, EOPNOTSUPP)]).unwrap();
        assert!(!text.contains("_irq_"), "{text}");
    }

    #[test]
    fn only_a_file_that_cannot_be_used_is_skipped() {
        let text = collect_with_errno(&[MEMORY, (IO.0, b"some total=x\nfull\n")], &[(CPU.0, 13)]).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        let error = collect_with_errno(&[], &[(CPU.0, 13)]).unwrap_err();
        assert_eq!(error, CollectError::Unreadable { path: CPU.0.into(), errno: 13 });
        let malformed = collect(&COLLECTOR, &[(IO.0, b"some\xff")], &[]);
        assert!(matches!(malformed, Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[CPU.0, IO.0, MEMORY.0, IRQ.0]);
    }
}
