//! A regular expression with its results cached from one scrape to the next.
//!
//! Some kernel files list hundreds of names, the same ones in the same order each time. The results are cached in that
//! order, so that a lookup compares a name with the next cached one.

use std::sync::{Mutex, MutexGuard};

use crate::go_regex::GoRegex;

/// Limits of a cache: far more than the kernel's files have.
const MAX_NAMES: usize = 4096;
const MAX_BYTES: usize = 128 << 10;

/// A regular expression, and its results for the names of the last scrape.
#[derive(Debug)]
pub struct CachedRegex {
    regex: GoRegex,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// The names, concatenated.
    names: Vec<u8>,
    /// Where each name ends, and whether it matches.
    results: Vec<(usize, bool)>,
}

/// Matches the names of one scrape, in their order.
#[derive(Debug)]
pub struct Matcher<'a> {
    regex: &'a GoRegex,
    /// A clone of it, made for the first name that is not cached. What it allocates while it searches, 150 KiB for the
    /// fields of netstat, is freed with it: later scrapes match only new names.
    clone: Option<GoRegex>,
    /// None while another scrape uses it: this one then works without a cache.
    cache: Option<MutexGuard<'a, Cache>>,
    /// The index of the next cached name, and where it starts.
    next: (usize, usize),
}

impl CachedRegex {
    /// With an empty cache.
    pub fn new(regex: GoRegex) -> Self {
        Self { regex, cache: Mutex::default() }
    }

    /// A matcher for the names of one scrape.
    pub fn matcher(&self) -> Matcher<'_> {
        Matcher { regex: &self.regex, clone: None, cache: self.cache.try_lock().ok(), next: (0, 0) }
    }
}

impl Matcher<'_> {
    /// Whether the expression matches `name`.
    pub fn is_match(&mut self, name: &[u8]) -> bool {
        let regex = self.regex;
        let mut search = || self.clone.get_or_insert_with(|| regex.clone()).is_match(name);
        let Some(cache) = &mut self.cache else { return search() };
        let (index, start) = self.next;
        match cache.results.get(index) {
            Some(&(end, is_match)) if cache.names[start..end] == *name => {
                self.next = (index + 1, end);
                return is_match;
            }
            // Another host's file, or a field was added or removed: the rest is matched again.
            Some(_) => {
                cache.results.truncate(index);
                cache.names.truncate(start);
            }
            None => {}
        }
        let is_match = search();
        let end = start + name.len();
        if index < MAX_NAMES && end <= MAX_BYTES {
            cache.names.extend_from_slice(name);
            cache.results.push((end, is_match));
            self.next = (index + 1, end);
        }
        is_match
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cached(regex: &str) -> CachedRegex {
        CachedRegex::new(GoRegex::new(regex).unwrap())
    }

    #[test]
    fn names_in_the_same_order_are_cached_and_others_matched_again() {
        let cached = cached("^a");
        let results = |names: &[&str]| {
            let mut matcher = cached.matcher();
            names.iter().map(|name| matcher.is_match(name.as_bytes())).collect::<Vec<_>>()
        };
        let names_in_cache = || String::from_utf8(cached.cache.lock().unwrap().names.clone()).unwrap();
        assert_eq!(results(&["a1", "b", "", "a2"]), [true, false, false, true]);
        assert_eq!(names_in_cache(), "a1ba2");
        assert_eq!(results(&["a1", "b"]), [true, false]);
        assert_eq!(names_in_cache(), "a1ba2", "a shorter file removes nothing from the cache");
        assert_eq!(results(&["a1", "a3", "b"]), [true, true, false]);
        assert_eq!(names_in_cache(), "a1a3b");
    }

    #[test]
    fn the_cache_is_bounded() {
        let cached = cached("9$");
        for _ in 0..2 {
            let mut matcher = cached.matcher();
            for number in 0..2 * MAX_NAMES {
                assert_eq!(matcher.is_match(number.to_string().as_bytes()), number % 10 == 9);
            }
            assert!(!matcher.is_match(&vec![b'x'; 2 * MAX_BYTES]));
        }
        let cache = cached.cache.lock().unwrap();
        assert_eq!(cache.results.len(), MAX_NAMES);
        assert!(cache.names.len() <= MAX_BYTES);
    }

    #[test]
    fn two_concurrent_scrapes_get_the_same_results() {
        let cached = cached("^a");
        let (mut one, mut other) = (cached.matcher(), cached.matcher());
        assert_eq!((one.is_match(b"a"), other.is_match(b"b"), one.is_match(b"b")), (true, false, false));
    }

    proptest! {
        #[test]
        fn the_results_equal_those_of_the_expression(scrapes in proptest::collection::vec(proptest::collection::vec("[ab]{0,3}", 0..8), 0..8)) {
            let cached = cached("^a.*b$");
            for names in scrapes {
                let mut matcher = cached.matcher();
                for name in names {
                    prop_assert_eq!(matcher.is_match(name.as_bytes()), cached.regex.is_match(name.as_bytes()));
                }
            }
        }
    }
}
