//! How much memory a scrape may take, by `--scrape.memory`.
//!
//! A scrape's memory is largest at two moments: when the broker's answer is there and its series are made, and when the
//! answer is dropped and the series are written as a page. What does not fit is left out item by item, and the
//! collectors that lose something fail: the kernel would end the whole program.

use crate::exposition::Limits;
use crate::options::Options;

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
            // With the answer that is 13/16, and with the page that is written of them 10/16: what is left is the program
            // itself and the page of the scrape before, compressed.
            series: Limits {
                series: options.limit("collector.series-limit"),
                bytes: (memory / 16).saturating_mul(5),
            },
        }
    }
}
