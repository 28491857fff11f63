//! The kernel's random number generator: `proc/sys/kernel/random/`.
//!
//! <https://docs.kernel.org/admin-guide/sysctl/kernel.html#random>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Kind};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "entropy",
    default: true,
    help: "Entropy of the kernel's random number generator.",
    queries: &[Query::Random],
    optional: &[],
    flags: &[],
    families: &[AVAILABLE, POOL_SIZE],
    collect,
};

const AVAILABLE: Family = Family {
    name: "node_entropy_available_bits",
    help: "Entropy that the input pool holds, in bits.",
    kind: Kind::Gauge,
    labels: &[],
    source: "proc/sys/kernel/random/entropy_avail",
};
const POOL_SIZE: Family = Family {
    name: "node_entropy_pool_size_bits",
    help: "Entropy that the input pool can hold, in bits.",
    source: "proc/sys/kernel/random/poolsize",
    ..AVAILABLE
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let results = [&AVAILABLE, &POOL_SIZE].map(|family| {
        let path = family.source;
        let bits = text::unsigned(text::trim(context.require(path)?));
        out.add(family, &[], bits.ok_or_else(|| CollectError::malformed(path, "not a number"))?);
        Ok(())
    });
    // Each file is given where the other cannot be.
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{collect, collect_snapshot, own, survives};
    use crate::exposition::Exposition;
    use crate::options::Options;
    use crate::snapshot::{Content, Snapshot};

    #[test]
    fn both_sizes_are_given_in_bits_whatever_the_kernels_pool() {
        for (available, size) in [("1337", "4096"), ("256", "256")] {
            let files = [
                (AVAILABLE.source, format!("{available}\n").into_bytes()),
                (POOL_SIZE.source, format!("{size}\n").into_bytes()),
            ];
            let files = [(files[0].0, &files[0].1[..]), (files[1].0, &files[1].1[..])];
            assert_eq!(
                collect(&COLLECTOR, &files, &[]).unwrap(),
                format!("node_entropy_available_bits {available}\nnode_entropy_pool_size_bits {size}\n")
            );
        }
    }

    #[test]
    fn one_file_is_given_where_the_other_makes_no_sense() {
        let files = [(AVAILABLE.source, b"many\n".to_vec()), (POOL_SIZE.source, b"256\n".to_vec())];
        let files = files.map(|(path, bytes)| (path.as_bytes().to_vec(), Content::bytes(bytes)));
        let snapshot = Snapshot::of_files(files.into());
        let options = Options::defaults(&crate::collector::flags());
        let mut out = Exposition::new();
        let context = Context { snapshot: &snapshot, options: &options, own: &own() };
        let error = (COLLECTOR.collect)(&context, &mut out).unwrap_err();
        assert_eq!(error, CollectError::malformed(AVAILABLE.source, "not a number"));
        assert!(out.to_text().ends_with("\nnode_entropy_pool_size_bits 256\n"));
    }

    #[test]
    fn files_that_are_not_there_are_no_data_and_refused_ones_are_said() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        let snapshot = Snapshot::of_files(vec![(AVAILABLE.source.into(), Content::Errno(13))]);
        let error = collect_snapshot(&COLLECTOR, &snapshot, &[], &own()).unwrap_err();
        assert_eq!(error, CollectError::Unreadable { path: AVAILABLE.source.into(), errno: 13 });
    }

    #[test]
    fn any_bytes_are_survived() {
        survives(&COLLECTOR, &[AVAILABLE.source, POOL_SIZE.source]);
    }
}
