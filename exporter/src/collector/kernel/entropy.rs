//! The kernel's random number generator: `proc/sys/kernel/random/`.
//!
//! <https://docs.kernel.org/admin-guide/sysctl/kernel.html#random>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "entropy",
    default: true,
    help: "Entropy of the kernel's random number generator.",
    queries: &[Query::Random],
    optional: &[],
    flags: &[],
    families: || NUMBERS.iter().map(|(_, family)| *family).collect(),
    new: |_| Ok(Box::new(collect)),
};

const AVAILABLE: &str = "proc/sys/kernel/random/entropy_avail";
const POOL_SIZE: &str = "proc/sys/kernel/random/poolsize";

/// The files, each with the family of its number.
#[rustfmt::skip]
const NUMBERS: [(&str, Family); 2] = [
    number(AVAILABLE, "node_entropy_available_bits", "Entropy that the input pool holds, in bits."),
    number(POOL_SIZE, "node_entropy_pool_size_bits", "Entropy that the input pool can hold, in bits."),
];

const fn number(file: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    (file, Family::gauge(name, help, &[], Source::File(file)))
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let results = NUMBERS.map(|(file, family)| {
        let bits = text::unsigned(text::trim(context.require(file)?));
        out.add(&family, &[], bits.ok_or_else(|| CollectError::malformed(file, "not a number"))?);
        Ok(())
    });
    // One file that cannot be read does not stop the other.
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::exposition::Exposition;
    use crate::snapshot::{Content, Snapshot};

    #[test]
    fn both_sizes_are_reported_in_bits_for_every_size_of_pool() {
        for (available, size) in [("1337", "4096"), ("256", "256")] {
            let files = [
                (AVAILABLE, format!("{available}\n").into_bytes()),
                (POOL_SIZE, format!("{size}\n").into_bytes()),
            ];
            let files = [(files[0].0, &files[0].1[..]), (files[1].0, &files[1].1[..])];
            assert_eq!(
                collect(&COLLECTOR, &files, &[]).unwrap(),
                format!("node_entropy_available_bits {available}\nnode_entropy_pool_size_bits {size}\n")
            );
        }
    }

    #[test]
    fn one_file_is_reported_if_the_other_is_malformed() {
        let files = [(AVAILABLE, b"many\n".to_vec()), (POOL_SIZE, b"256\n".to_vec())];
        let files = files.map(|(path, bytes)| (path.as_bytes().to_vec(), Content::bytes(bytes)));
        let snapshot = Snapshot::from_files(files.into());
        let mut out = Exposition::new();
        let context = Context { snapshot: &snapshot, local: &local() };
        let error = super::collect(&context, &mut out).unwrap_err();
        assert_eq!(error, CollectError::malformed(AVAILABLE, "not a number"));
        assert!(out.to_text().ends_with("\nnode_entropy_pool_size_bits 256\n"));
    }

    #[test]
    fn missing_files_are_no_data_and_unreadable_ones_an_error() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        let snapshot = Snapshot::from_files(vec![(AVAILABLE.into(), Content::Errno(13))]);
        let error = collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap_err();
        assert_eq!(error, CollectError::Unreadable { path: AVAILABLE.into(), errno: 13 });
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[AVAILABLE, POOL_SIZE]);
    }
}
