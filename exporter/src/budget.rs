//! How much memory a scrape may take, by `--scrape.memory`.
//!
//! A scrape's memory is largest at two moments: when the broker's answer is there and its series are made, and when the
//! answer is dropped and the series are written as a page. What does not fit is left out item by item, and the
//! collectors that lose something fail: the kernel would end the whole program.

use crate::exposition::Limits;
use crate::options::Options;

/// The default of `--scrape.memory`, in MiB: what the manifests and the units give an exporter.
pub const MEMORY: u64 = 128;
/// The default of `--collector.series-limit`: more than any collector that is on by default has on the largest machine that
/// the policy's limits hold. That is netdev, with 26 series of each of 65,536 interfaces; a test has the others. Below it,
/// memory is what limits.
pub const SERIES: u64 = 2_000_000;

/// The limits of one scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// All of it, in bytes.
    pub memory: usize,
    /// The most that is kept of the broker's answer, in bytes of memory.
    pub answer: usize,
    /// The most that collectors may give.
    pub series: Limits,
}

impl Budget {
    /// The limits that the flags set.
    pub fn new(options: &Options) -> Self {
        let memory = match options.limit("scrape.memory") {
            usize::MAX => usize::MAX,
            mebibytes => mebibytes.saturating_mul(1 << 20),
        };
        Self {
            memory,
            // Half for the answer: 16,000 interfaces, or 12,000 mounts of NFS, in the 64 MiB of a program that may use 128.
            answer: memory / 2,
            // Answer and series together are 8/16 + 5/16; series and the page that is written of them, which is about as
            // large, 5/16 + 5/16. The rest is for the program itself and the compressed page of the scrape before.
            series: Limits {
                series: options.limit("collector.series-limit"),
                bytes: (memory / 16).saturating_mul(5),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_collector_of_the_largest_machine_is_below_the_limit_of_series() {
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
            assert!(series < SERIES, "{collector}: {series}");
        }
    }

    #[test]
    fn what_a_scrape_takes_is_less_than_the_memory_that_it_is_fitted_into() {
        let budget = |flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned());
            Budget::new(&Options::parse(&crate::cli::flags::all(), flags).unwrap().0)
        };
        for (given, memory) in [(&[][..], 128 << 20), (&["--scrape.memory=32"], 32 << 20)] {
            let Budget { memory: all, answer, series } = budget(given);
            assert_eq!(all, memory);
            // First the answer and its series, then the series and the page that is written of them.
            assert!(answer + series.bytes <= memory / 16 * 13 && 2 * series.bytes <= memory / 16 * 13);
        }
        let unlimited = budget(&["--scrape.memory=0", "--collector.series-limit=0"]);
        assert_eq!(unlimited.series.series, usize::MAX);
        assert!(unlimited.answer > 1 << 40 && unlimited.series.bytes > 1 << 40);
    }
}
