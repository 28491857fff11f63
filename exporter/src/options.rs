//! The values that a command line and the environment gave the flags, with regular expressions compiled.

mod cached_regex;
mod typed;

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use keyhole_flags::{Origin, Value, Values};

use crate::go_regex::GoRegex;

pub use cached_regex::{CachedRegex, Matcher};
pub(crate) use keyhole_flags::go_duration;
pub use keyhole_flags::{DurationRange, Flag, FlagError, FlagKind, most_similar};
pub use typed::{Filter, TypedFlag};

/// The values of all flags. Code reads them by a [`TypedFlag`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    values: Values,
    /// Compiled regular expressions, of the flags whose expression is not empty.
    regexps: HashMap<&'static str, GoRegex>,
}

impl Options {
    /// The defaults of `flags`. Defaults are tested to be valid.
    pub fn defaults(flags: &[Flag]) -> Self {
        Self::try_from(Values::defaults(flags)).unwrap_or_default()
    }

    /// Reads a command line over the defaults of `flags`. Bare words are given back, in order.
    pub fn parse(
        flags: &[Flag],
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<(Self, Vec<String>), FlagError> {
        let mut values = Values::defaults(flags);
        let words = values.read_arguments(flags, &[], arguments.into_iter().map(OsString::from))?;
        Ok((Self::try_from(values)?, words))
    }

    /// Refuses `one` and `other` given together.
    pub fn exclusive(&self, one: &'static str, other: &'static str) -> Result<(), FlagError> {
        if self.is_set(one) && self.is_set(other) {
            return Err(FlagError::Exclusive { one, other });
        }
        Ok(())
    }

    /// The error that a flag cannot take `value`. It names the environment variable, if the value is that one's.
    pub fn refuse(&self, flag: &'static str, value: &str, reason: impl ToString) -> FlagError {
        self.values.refuse(flag, value, reason)
    }

    /// Whether the command line or the environment gave the flag.
    pub fn is_set(&self, flag: &str) -> bool {
        self.values.origin(flag) > Origin::Default
    }

    /// Whether a switch is on; off when there is no such switch.
    pub fn switch(&self, flag: &str) -> bool {
        self.values.switch(flag)
    }

    /// A flag's regular expression; none when it is empty.
    pub(crate) fn regexp(&self, flag: &str) -> Option<&GoRegex> {
        self.regexps.get(flag)
    }

    /// A flag's text or path; empty when there is none.
    fn text(&self, flag: &str) -> &str {
        match self.values.path(flag) {
            Some(path) => path.to_str().unwrap_or_default(),
            None => self.values.text(flag),
        }
    }

    /// The texts of a flag that may be repeated.
    fn texts(&self, flag: &str) -> &[String] {
        self.values.texts(flag)
    }

    /// A flag's number.
    fn number(&self, flag: &str) -> u64 {
        match self.values.value(flag) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// A flag's limit, of which 0 means none.
    fn limit(&self, flag: &str) -> usize {
        match self.number(flag) {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// A flag's duration.
    fn duration(&self, flag: &str) -> Duration {
        match self.values.value(flag) {
            Some(Value::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    /// A flag's interval; none when it is off.
    fn interval(&self, flag: &str) -> Option<Duration> {
        match self.values.value(flag) {
            Some(Value::Interval(interval)) => *interval,
            _ => None,
        }
    }
}

impl TryFrom<Values> for Options {
    type Error = FlagError;

    /// Compiles the regular expressions among the values. Paths must be UTF-8: metrics and JSON show them.
    fn try_from(values: Values) -> Result<Self, FlagError> {
        let mut regexps = HashMap::new();
        for (flag, text) in values.regexps().filter(|(_, text)| !text.is_empty()) {
            let regexp = GoRegex::new(text).map_err(|error| values.refuse(flag, text, error))?;
            regexps.insert(flag, regexp);
        }
        values.require_utf8_paths()?;
        Ok(Self { values, regexps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "collector.cpu", kind: FlagKind::Switch(true), help: "" },
        Flag { name: "device-exclude", kind: FlagKind::Regexp("^lo$"), help: "" },
        Flag { name: "device-include", kind: FlagKind::Regexp(""), help: "" },
        Flag { name: "ignored-devices", kind: FlagKind::Alias("device-exclude"), help: "" },
        Flag { name: "listen", kind: FlagKind::Texts, help: "" },
        Flag { name: "max", kind: FlagKind::Number(40), help: "" },
        Flag {
            name: "wait",
            kind: FlagKind::Duration { default: "5s", range: DurationRange::ANY },
            help: "",
        },
    ];

    fn parse(arguments: &[&str]) -> Result<(Options, Vec<String>), FlagError> {
        Options::parse(FLAGS, arguments.iter().map(|a| a.to_string()))
    }

    #[test]
    fn defaults_apply_until_they_are_overridden() {
        let (options, _) = parse(&[]).unwrap();
        assert!(options.switch("collector.cpu"));
        assert!(options.regexp("device-exclude").unwrap().is_match(b"lo"));
        let (options, words) =
            parse(&["--no-collector.cpu", "query", "--device-exclude", "x", "--wait=1m0.5s"]).unwrap();
        assert!(!options.switch("collector.cpu"));
        assert!(!options.regexp("device-exclude").unwrap().is_match(b"lo"));
        assert_eq!(options.duration("wait"), std::time::Duration::from_millis(60_500));
        assert_eq!(words, ["query"]);
    }

    #[test]
    fn an_old_name_sets_the_new_flag_and_both_are_too_many() {
        let (options, _) = parse(&["--ignored-devices=^veth"]).unwrap();
        assert!(options.regexp("device-exclude").unwrap().is_match(b"veth0"));
        assert_eq!(
            parse(&["--ignored-devices=a", "--device-exclude=b"]).unwrap_err(),
            FlagError::Repeated { flag: "device-exclude" }
        );
    }

    #[test]
    fn an_expression_that_does_not_compile_is_refused_in_one_line_that_names_its_flag() {
        let message = |arguments: &[&str]| parse(arguments).unwrap_err().to_string();
        assert!(message(&["--device-exclude=("]).starts_with("--device-exclude=\"(\": not a regular"));
        assert!(!message(&["--device-exclude=(\n"]).contains('\n'));
        assert_eq!(
            message(&["--device-exlude=x"]),
            "unknown flag --device-exlude (did you mean --device-exclude?); try --help"
        );
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_or_refused(arguments in proptest::collection::vec("\\PC{0,20}", 0..6)) {
            let _ = Options::parse(FLAGS, arguments);
        }
    }
}
