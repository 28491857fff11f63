//! The values that a command line and the environment gave the flags, with regular expressions compiled.

mod remembered;
mod typed;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use keyhole_flags::{Origin, Values};

use crate::go_regex::GoRegex;

pub(crate) use keyhole_flags::go_duration;
pub use keyhole_flags::{Flag, FlagError, FlagKind, most_similar};
pub use remembered::{Matcher, Remembered};
pub use typed::{Filter, TypedFlag};

/// A flag's value.
#[derive(Debug, Clone)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// A compiled regular expression.
    Regexp(Option<GoRegex>),
    /// Text.
    Text(String),
    /// Texts in the order given.
    Texts(Vec<String>),
    /// A whole number.
    Number(u64),
    /// A duration.
    Duration(std::time::Duration),
    /// A duration, when it is on.
    Interval(Option<std::time::Duration>),
}

/// The values of all flags.
#[derive(Debug, Clone, Default)]
pub struct Options {
    values: HashMap<&'static str, Value>,
    /// Flags of the command line and of the environment.
    given: Vec<&'static str>,
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
        let words = values.read_arguments(flags, &[], false, arguments.into_iter().map(OsString::from))?;
        Ok((Self::try_from(values)?, words))
    }

    /// Refuses `one` and `other` given together.
    pub fn exclusive(&self, one: &'static str, other: &'static str) -> Result<(), FlagError> {
        if self.was_given(one) && self.was_given(other) {
            return Err(FlagError::Exclusive { one, other });
        }
        Ok(())
    }

    /// Whether the command line or the environment gave the flag.
    pub fn was_given(&self, flag: &str) -> bool {
        self.given.contains(&flag)
    }

    /// Whether a switch is on; off when there is no such switch.
    pub fn switch(&self, flag: &str) -> bool {
        matches!(self.values.get(flag), Some(Value::Switch(true)))
    }

    /// A flag's regular expression; none when it is empty.
    pub fn regexp(&self, flag: &str) -> Option<&GoRegex> {
        match self.values.get(flag) {
            Some(Value::Regexp(regexp)) => regexp.as_ref(),
            _ => None,
        }
    }

    /// A flag's text; empty when there is none.
    pub fn text(&self, flag: &str) -> &str {
        match self.values.get(flag) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// The texts of a flag that may be repeated.
    pub fn texts(&self, flag: &str) -> &[String] {
        match self.values.get(flag) {
            Some(Value::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// A flag's number.
    pub fn number(&self, flag: &str) -> u64 {
        match self.values.get(flag) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// A flag's limit, of which 0 means none.
    pub fn limit(&self, flag: &str) -> usize {
        match self.number(flag) {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// A flag's duration.
    pub fn duration(&self, flag: &str) -> std::time::Duration {
        match self.values.get(flag) {
            Some(Value::Duration(duration)) => *duration,
            _ => std::time::Duration::ZERO,
        }
    }

    /// A flag's interval; none when it is off.
    pub fn interval(&self, flag: &str) -> Option<std::time::Duration> {
        match self.values.get(flag) {
            Some(Value::Interval(interval)) => *interval,
            _ => None,
        }
    }
}

impl TryFrom<Values> for Options {
    type Error = FlagError;

    /// Compiles the regular expressions among the values. Paths must be UTF-8: metrics and JSON show them.
    fn try_from(values: Values) -> Result<Self, FlagError> {
        use keyhole_flags::Value as Parsed;
        let mut regexps = HashMap::new();
        for (flag, text) in values.regexps() {
            let compile = || GoRegex::new(text);
            let regexp = (!text.is_empty()).then(compile).transpose();
            regexps.insert(flag, regexp.map_err(|error| values.refuse(flag, text, error))?);
        }
        let utf8 = |path: PathBuf| {
            let argument = |path| FlagError::NotUtf8 { argument: format!("{path:?}") };
            path.into_os_string().into_string().map_err(argument)
        };
        let mut options = Self::default();
        for (flag, value, origin) in values.into_entries() {
            let value = match value {
                Parsed::Switch(on) => Value::Switch(on),
                Parsed::Text(text) => match regexps.remove(flag.name) {
                    Some(regexp) => Value::Regexp(regexp),
                    None => Value::Text(text),
                },
                Parsed::Path(path) => Value::Text(utf8(path)?),
                Parsed::Texts(texts) => Value::Texts(texts),
                Parsed::Paths(paths) => Value::Texts(paths.into_iter().map(utf8).collect::<Result<_, _>>()?),
                Parsed::Number(number) => Value::Number(number),
                Parsed::Duration(duration) => Value::Duration(duration),
                Parsed::Interval(interval) => Value::Interval(interval),
            };
            options.values.insert(flag.name, value);
            if origin > Origin::Default {
                options.given.push(flag.name);
            }
        }
        Ok(options)
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
        Flag { name: "wait", kind: FlagKind::Duration("5s"), help: "" },
    ];

    fn parse(arguments: &[&str]) -> Result<(Options, Vec<String>), FlagError> {
        Options::parse(FLAGS, arguments.iter().map(|a| a.to_string()))
    }

    #[test]
    fn defaults_hold_until_they_are_overridden() {
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
