//! Answers of a regular expression, remembered from one scrape to the next.
//!
//! Some kernel files name hundreds of fields, the same ones in the same order each time. What an expression said of
//! them is kept in that order: looking one up is comparing it with the one that is due.

use std::sync::{Mutex, MutexGuard};

use crate::go_regex::GoRegex;

/// The most that is remembered: far more than the kernel's files have, and a bound for whatever else is asked.
const NAMES: usize = 4096;
const BYTES: usize = 128 << 10;

/// An expression, and what it said of the names that it was asked for, in their order.
#[derive(Debug)]
pub struct Remembered {
    regexp: GoRegex,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    /// The names, one after the other.
    names: Vec<u8>,
    /// Where each name ends, and whether it matches.
    each: Vec<(usize, bool)>,
}

/// An expression that is asked for the names of one scrape, in turn.
#[derive(Debug)]
pub struct Matcher<'a> {
    regexp: &'a GoRegex,
    /// The same one, once it is asked. What it builds while it searches, 150 KiB for netstat's fields, goes with it:
    /// later scrapes ask only for what is new.
    asked: Option<GoRegex>,
    /// None while another scrape is asking: then nothing is remembered.
    known: Option<MutexGuard<'a, Answers>>,
    /// How many names are behind, and where in the text they end.
    at: (usize, usize),
}

impl Remembered {
    /// An expression that has not said anything yet.
    pub fn new(regexp: GoRegex) -> Self {
        Self { regexp, answers: Mutex::default() }
    }

    /// The expression for one scrape's names, with what it said before.
    pub fn matcher(&self) -> Matcher<'_> {
        Matcher { regexp: &self.regexp, asked: None, known: self.answers.try_lock().ok(), at: (0, 0) }
    }
}

impl Matcher<'_> {
    /// Whether the expression matches `name`.
    pub fn is_match(&mut self, name: &[u8]) -> bool {
        let regexp = self.regexp;
        let mut ask = || self.asked.get_or_insert_with(|| regexp.clone()).is_match(name);
        let Some(known) = &mut self.known else { return ask() };
        let (at, start) = self.at;
        match known.each.get(at) {
            Some(&(end, answer)) if known.names[start..end] == *name => {
                self.at = (at + 1, end);
                return answer;
            }
            // Another host's file, or a field has come or gone: the rest is matched again.
            Some(_) => {
                known.each.truncate(at);
                known.names.truncate(start);
            }
            None => {}
        }
        let answer = ask();
        let end = start + name.len();
        if at < NAMES && end <= BYTES {
            known.names.extend_from_slice(name);
            known.each.push((end, answer));
            self.at = (at + 1, end);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn remembered(regexp: &str) -> Remembered {
        Remembered::new(GoRegex::new(regexp).unwrap())
    }

    #[test]
    fn names_in_the_same_order_are_cached_and_others_matched_again() {
        let remembered = remembered("^a");
        let ask = |names: &[&str]| {
            let mut matcher = remembered.matcher();
            names.iter().map(|name| matcher.is_match(name.as_bytes())).collect::<Vec<_>>()
        };
        let known = || String::from_utf8(remembered.answers.lock().unwrap().names.clone()).unwrap();
        assert_eq!(ask(&["a1", "b", "", "a2"]), [true, false, false, true]);
        assert_eq!(known(), "a1ba2");
        assert_eq!(ask(&["a1", "b"]), [true, false]);
        assert_eq!(known(), "a1ba2", "a shorter file forgets nothing");
        assert_eq!(ask(&["a1", "a3", "b"]), [true, true, false]);
        assert_eq!(known(), "a1a3b");
    }

    #[test]
    fn the_cache_is_bounded() {
        let remembered = remembered("9$");
        for _ in 0..2 {
            let mut matcher = remembered.matcher();
            for number in 0..2 * NAMES {
                assert_eq!(matcher.is_match(number.to_string().as_bytes()), number % 10 == 9);
            }
            assert!(!matcher.is_match(&vec![b'x'; 2 * BYTES]));
        }
        let known = remembered.answers.lock().unwrap();
        assert_eq!(known.each.len(), NAMES);
        assert!(known.names.len() <= BYTES);
    }

    #[test]
    fn two_concurrent_scrapes_get_the_same_results() {
        let remembered = remembered("^a");
        let (mut one, mut other) = (remembered.matcher(), remembered.matcher());
        assert_eq!((one.is_match(b"a"), other.is_match(b"b"), one.is_match(b"b")), (true, false, false));
    }

    proptest! {
        #[test]
        fn the_results_equal_those_of_the_expression(scrapes in proptest::collection::vec(proptest::collection::vec("[ab]{0,3}", 0..8), 0..8)) {
            let remembered = remembered("^a.*b$");
            for names in scrapes {
                let mut matcher = remembered.matcher();
                for name in names {
                    prop_assert_eq!(matcher.is_match(name.as_bytes()), remembered.regexp.is_match(name.as_bytes()));
                }
            }
        }
    }
}
