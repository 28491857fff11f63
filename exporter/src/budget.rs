//! The memory limits of a scrape, derived from `--scrape.memory`.
//!
//! A scrape needs the most memory at two times: when the series are created from the broker's response, and, with the
//! response dropped, when the series are encoded. Items that do not fit are left out, and their collectors fail.
//! Without these limits the kernel would kill the whole program.

use crate::cli::flags::{SCRAPE_MEMORY, SERIES_LIMIT};
use crate::exposition::Limits;
use crate::options::Options;

/// The default of `--scrape.memory`, in MiB: the memory limit in the manifests and units.
pub const DEFAULT_MEMORY_MIB: u64 = 128;
/// The default of `--collector.series-limit`: more than any default collector returns on the largest machine within the
/// policy's limits (netdev, with 26 series for each of 65,536 interfaces; a test has the others). In practice the memory
/// limit is reached first.
pub const DEFAULT_SERIES_LIMIT: u64 = 2_000_000;

/// The limits of one scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The total, in bytes.
    pub memory: usize,
    /// The memory for the broker's response, in bytes.
    pub response: usize,
    /// The limits of the collectors.
    pub series: Limits,
}

impl Budget {
    /// The limits set by the flags.
    pub fn new(options: &Options) -> Self {
        // No limit is usize::MAX, which saturates.
        let memory = SCRAPE_MEMORY.limit(options).saturating_mul(1 << 20);
        Self {
            memory,
            // Half for the response: 64 MiB of the default 128 MiB hold 16,000 interfaces or 12,000 NFS mounts.
            response: memory / 2,
            // Response and series are 8/16 + 5/16; series and their encoding, which is about as large, 5/16 + 5/16. The
            // rest is for the program itself and the compressed response of the previous scrape.
            series: Limits { series: SERIES_LIMIT.limit(options), bytes: (memory / 16).saturating_mul(5) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_collector_on_the_largest_machine_is_below_the_series_limit() {
        const INTERFACES: u64 = 65_536;
        const CPUS: u64 = 8192;
        let largest = [
            ("netclass", INTERFACES * 23),
            ("netdev", INTERFACES * 26),
            ("diskstats", 16_384 * 30),
            ("cpu", CPUS * 16),
            ("cpufreq", CPUS * 14),
            ("softnet", CPUS * 7),
            ("schedstat", CPUS * 3),
            ("filesystem", 100_000 * 9),
            ("zfs", 10_240 * 8),
            ("thermal_zone", 3 * CPUS),
        ];
        for (collector, series) in largest {
            assert!(series < DEFAULT_SERIES_LIMIT, "{collector}: {series}");
        }
    }

    #[test]
    fn response_series_and_encoding_fit_the_memory_limit() {
        let budget = |flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned());
            Budget::new(&Options::parse(&crate::cli::flags::all(), flags).unwrap().0)
        };
        for (flags, memory) in [(&[][..], 128 << 20), (&["--scrape.memory=32"], 32 << 20)] {
            let Budget { memory: total, response, series } = budget(flags);
            assert_eq!(total, memory);
            // First the response and the series, then the series and their encoding.
            assert!(response + series.bytes <= memory / 16 * 13 && 2 * series.bytes <= memory / 16 * 13);
        }
        let unlimited = budget(&["--scrape.memory=0", "--collector.series-limit=0"]);
        assert_eq!(unlimited.series.series, usize::MAX);
        assert!(unlimited.response > 1 << 40 && unlimited.series.bytes > 1 << 40);
    }
}
