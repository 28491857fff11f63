//! Memory of the host: `proc/meminfo`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#meminfo>
//!
//! Every line is a metric, so that a counter of a new kernel needs no new exporter.

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "meminfo",
    default: true,
    help: "Memory of the host, by use.",
    queries: &[Query::Meminfo],
    optional: &[],
    flags: &[],
    families: || vec![BYTES, COUNT],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/meminfo";

const BYTES: Family = Family {
    name: "node_memory_<FIELD>_bytes",
    help: "Memory that the kernel counts under this name, in bytes.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::File(PATH),
};
const COUNT: Family =
    Family { name: "node_memory_<FIELD>", help: "Pages that the kernel counts under this name.", ..BYTES };

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for line in text::lines(context.require(PATH)?) {
        match text::meminfo_line(line) {
            Some(line) => {
                let family = if line.bytes { &BYTES } else { &COUNT };
                out.add_named(family, &family.name_of(&line.name), &[], line.value);
                any = true;
            }
            None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
        }
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line with a name and a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    #[test]
    fn kibibytes_become_bytes_and_pages_stay_a_count() {
        let meminfo = b"MemTotal:       24684084 kB\n\
            Active(anon):       1552 kB\n\
            Committed_AS:     132380 kB\n\
            VmallocTotal:   34359738367 kB\n\
            HugePages_Total:       5\n\
            DirectMap1G:    25165824 kB\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, meminfo)], &[]).unwrap(),
            "node_memory_Active_anon_bytes 1589248\n\
             node_memory_Committed_AS_bytes 135557120\n\
             node_memory_DirectMap1G_bytes 25769803776\n\
             node_memory_HugePages_Total 5\n\
             node_memory_MemTotal_bytes 25276502016\n\
             node_memory_VmallocTotal_bytes 35184372087808\n"
        );
    }

    #[test]
    fn a_future_kernels_line_is_reported_under_its_name() {
        let text = collect(&COLLECTOR, &[(PATH, b"Unaccepted(far): 3 kB\nFrobs: 4\n")], &[]).unwrap();
        assert_eq!(text, "node_memory_Frobs 4\nnode_memory_Unaccepted_far_bytes 3072\n");
    }

    #[test]
    fn only_a_malformed_line_is_skipped() {
        let meminfo = b"MemFree: 1 kB\nMemTotal: 1 MB\nCached: -1 kB\n: 1 kB\n\nSlab\nDirty: 1 kB per page\n\
            Huge: 18446744073709551615 kB\n";
        let text = collect(&COLLECTOR, &[(PATH, meminfo)], &[]).unwrap();
        assert_eq!(text, "node_memory_MemFree_bytes 1024\n");
        assert_eq!(skipped(&COLLECTOR, &[(PATH, meminfo)], &[]), 7);
    }

    #[test]
    fn a_hostile_name_becomes_a_metric_name() {
        let text = collect(&COLLECTOR, &[(PATH, b"a\"{b}:\xff): 1 kB\n")], &[]).unwrap();
        let (name, value) = text.trim_end().split_once(' ').unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte)), "{text}");
        assert_eq!(value, "1024");
    }

    #[test]
    fn a_file_without_any_number_is_malformed_and_a_missing_one_no_data() {
        for bytes in [&b""[..], b"nothing\n"] {
            let result = collect(&COLLECTOR, &[(PATH, bytes)], &[]);
            assert!(matches!(result, Err(CollectError::Malformed { .. })));
        }
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
