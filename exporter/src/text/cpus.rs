//! CPUs as the kernel names them, `cpu7`, and lists them, `0-3,8,10-11`.
//!
//! <https://docs.kernel.org/admin-guide/cputopology.html>

use super::{split_first, trim, unsigned};

/// More CPUs than any kernel can be built for: a range up to 2⁶⁴ must not be counted out.
const MAX_CPUS: usize = 65_536;

/// The number in a CPU's name, in its digits; none for `cpu` (all of them) and for what merely begins so (`cpufreq`).
pub fn cpu_number(name: &[u8]) -> Option<&[u8]> {
    let digits = name.strip_prefix(b"cpu")?;
    unsigned(digits).map(|_| digits)
}

/// The numbers of a list, in its order; none for each part that is neither a number nor a range.
pub fn cpu_list(text: &[u8]) -> impl Iterator<Item = Option<u64>> {
    let text = trim(text);
    let parts = text.split(|&byte| byte == b',').filter(move |_| !text.is_empty());
    let numbers = parts.flat_map(|part| {
        let (first, last) = match split_first(part, b'-') {
            Some((first, last)) => (unsigned(first), unsigned(last)),
            None => (unsigned(part), unsigned(part)),
        };
        let range = first.zip(last).filter(|(first, last)| first <= last && *last < MAX_CPUS as u64);
        // An empty range and one `None` after it stand for a part that is no range.
        let (first, last) = range.unwrap_or((1, 0));
        (first..=last).map(Some).chain(range.is_none().then_some(None))
    });
    numbers.take(MAX_CPUS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Vec<Option<u64>> {
        cpu_list(text.as_bytes()).collect()
    }

    #[test]
    fn only_a_name_with_a_number_is_a_cpu() {
        assert_eq!(cpu_number(b"cpu12"), Some(&b"12"[..]));
        for other in [&b"cpu"[..], b"cpufreq", b"cpu1x", b"cpu-1", b"Cpu1", b""] {
            assert_eq!(cpu_number(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn numbers_and_ranges_are_counted_out() {
        assert_eq!(list("1,3-5,9\n"), [1, 3, 4, 5, 9].map(Some));
        assert_eq!(list("0\n"), [Some(0)]);
        assert!(list("\n").is_empty(), "no CPU at all");
    }

    #[test]
    fn only_a_malformed_range_is_skipped() {
        assert_eq!(list("0,x,2"), [Some(0), None, Some(2)]);
        assert_eq!(list("3-1,-2,4-"), [None, None, None]);
    }

    #[test]
    fn a_range_without_end_is_not_counted_out() {
        assert_eq!(list("0-18446744073709551615"), [None]);
        assert_eq!(list(&"0-65535,".repeat(500)).len(), MAX_CPUS);
    }

    proptest! {
        #[test]
        fn any_bytes_result_in_a_bounded_list(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(cpu_list(&text).count() <= MAX_CPUS);
        }
    }
}
