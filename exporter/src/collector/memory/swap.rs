//! Swap areas: `proc/swaps`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "swap",
    default: false,
    help: "Swap areas, their size and use.",
    queries: &[Query::Swaps],
    optional: &[],
    flags: &[],
    families: || vec![SIZE, USED, PRIORITY],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/swaps";

const SIZE: Family = Family {
    name: "node_swap_size_bytes",
    help: "Size of the swap area in bytes.",
    kind: MetricType::Gauge,
    labels: &["device", "swap_type"],
    source: Source::File(PATH),
};
const USED: Family =
    Family { name: "node_swap_used_bytes", help: "Bytes of the swap area that are used.", ..SIZE };
const PRIORITY: Family = Family {
    name: "node_swap_priority",
    help: "Priority of the swap area; areas of a higher one are filled first.",
    ..SIZE
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for line in text::lines(context.require(PATH)?).skip(1) {
        match Area::parse(line) {
            Some(area) => {
                let device = text::unescape_octal(area.device);
                let labels = [&*device, area.kind];
                out.item();
                out.add(&SIZE, &labels, area.size);
                out.add(&USED, &labels, area.used);
                out.add(&PRIORITY, &labels, area.priority);
            }
            None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
        }
    }
    Ok(())
}

/// One line of the table.
struct Area<'a> {
    /// With the kernel's escapes: `/swap\040file`.
    device: &'a [u8],
    /// `partition` or `file`.
    kind: &'a [u8],
    /// Bytes.
    size: u64,
    /// Bytes.
    used: u64,
    priority: i64,
}

impl<'a> Area<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = text::fields(line);
        let (device, kind) = (fields.next()?, fields.next()?);
        let mut kibibytes = || text::unsigned(fields.next()?)?.checked_mul(1024);
        let (size, used) = (kibibytes()?, kibibytes()?);
        let priority = text::signed(fields.next()?)?;
        Some(Self { device, kind, size, used, priority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const HEADER: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    fn of(lines: &[u8]) -> String {
        collect(&COLLECTOR, &[(PATH, &[HEADER.as_bytes(), lines].concat())], &[]).unwrap()
    }

    #[test]
    fn each_area_reports_its_size_use_and_priority() {
        assert_eq!(
            of(b"/dev/zram0                              partition\t8388604\t\t76\t\t100\n"),
            "node_swap_priority{device=\"/dev/zram0\",swap_type=\"partition\"} 100\n\
             node_swap_size_bytes{device=\"/dev/zram0\",swap_type=\"partition\"} 8589930496\n\
             node_swap_used_bytes{device=\"/dev/zram0\",swap_type=\"partition\"} 77824\n"
        );
    }

    #[test]
    fn a_negative_priority_is_one_that_the_kernel_chose() {
        assert!(
            of(b"/swap file 4 0 -2\n")
                .contains("node_swap_priority{device=\"/swap\",swap_type=\"file\"} -2\n")
        );
    }

    #[test]
    fn a_name_with_spaces_and_worse_is_one_area() {
        let text = of(b"/a\\040b\\012\\134\"\xff\\040(deleted) file 4 0 -2 column to come\n");
        assert!(
            text.contains("{device=\"/a b\\n\\\\\\\"\u{fffd} (deleted)\",swap_type=\"file\"} 4096\n"),
            "{text}"
        );
    }

    #[test]
    fn only_a_malformed_line_is_skipped() {
        let text = of(b"/a file x 0 1\n/b file 4\n\n/c file 18446744073709551615 0 1\n/d file 1 0 1\n");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.contains("\"/d\"")), "{text}");
    }

    #[test]
    fn a_host_without_swap_has_no_series_and_succeeds() {
        assert_eq!(of(b""), "");
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
