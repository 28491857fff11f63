//! Flags as rows, and the values that a command line gave them.
//!
//! Names, defaults and manners are node_exporter's (kingpin's): `--name`, `--no-name` for switches, `--name=value` or
//! `--name value` for the rest, and a flag that may stand once may stand once only.

mod remembered;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::go_regex::GoRegex;

pub use remembered::{Matcher, Remembered};

/// One flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: FlagKind,
    /// One line on what it does; empty for an alias, which is not shown.
    pub help: &'static str,
}

/// What a flag takes, with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagKind {
    /// Nothing: on or off.
    Switch(bool),
    /// A regular expression in Go's syntax; empty for none.
    Regexp(&'static str),
    /// Any text; empty for none.
    Text(&'static str),
    /// Any number of texts.
    Texts,
    /// A whole number.
    Number(u64),
    /// A duration as Go writes it: `5s`, `1m30s`, `250ms`.
    Duration(&'static str),
    /// Off, or every so often: a duration or a number of seconds, and this one when the flag stands alone.
    Interval(&'static str),
    /// Another flag's old name.
    Alias(&'static str),
}

impl Flag {
    /// The variable of the environment that stands for it; none where one would make no sense.
    pub fn variable(&self) -> Option<String> {
        let lasting = !matches!(self.kind, FlagKind::Alias(_) | FlagKind::Interval(_));
        lasting.then(|| format!("KEYHOLE_{}", self.name.to_ascii_uppercase().replace(['.', '-'], "_")))
    }
}

/// A flag's value.
#[derive(Debug, Clone)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// A compiled regular expression, and what it said in earlier scrapes.
    Regexp(Option<(GoRegex, Arc<Remembered>)>),
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
#[derive(Debug, Clone)]
pub struct Options {
    values: FxHashMap<&'static str, Value>,
    /// Flags of the command line.
    given: Vec<&'static str>,
    /// Flags of the environment.
    in_environment: Vec<&'static str>,
}

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// No such flag.
    #[error("unknown flag --{flag}{}; try --help", near.map(|near| format!(" (did you mean --{near}?)")).unwrap_or_default())]
    Unknown {
        /// As it was given.
        flag: String,
        /// The flag that looks most like it.
        near: Option<&'static str>,
    },
    /// A variable of the environment whose flag cannot take its value.
    #[error("{variable}={value:?} in the environment, for --{flag}: {reason}")]
    Environment {
        /// The variable.
        variable: String,
        /// The flag that it stands for.
        flag: &'static str,
        /// The value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// A value that the flag cannot take.
    #[error("--{flag}={value:?}: {reason}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// No value where one is needed.
    #[error("--{flag} needs a value: --{flag}=VALUE")]
    Missing {
        /// The flag.
        flag: &'static str,
    },
    /// A value where none is taken.
    #[error("--{flag} takes no value: use --{flag} or --no-{flag}")]
    Unexpected {
        /// The flag.
        flag: &'static str,
    },
    /// Twice the same.
    #[error("--{flag} cannot be repeated")]
    Repeated {
        /// The flag.
        flag: &'static str,
    },
    /// A flag of another command.
    #[error("--{flag} belongs to the commands {}; try --help", commands.join(" and "))]
    Misplaced {
        /// The flag.
        flag: &'static str,
        /// The commands that take it.
        commands: &'static [&'static str],
    },
    /// Two flags that exclude each other.
    #[error("--{one} and --{other} exclude each other: give one of them")]
    Exclusive {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
}

impl Options {
    /// The defaults of `flags`. Defaults are tested to be valid.
    pub fn defaults(flags: &[Flag]) -> Self {
        let values = flags.iter().filter_map(|flag| Some((flag.name, default(flag.kind)?))).collect();
        Self { values, given: Vec::new(), in_environment: Vec::new() }
    }

    /// Reads a command line over the defaults of `flags`. Bare words are given back, in order.
    pub fn parse(
        flags: &[Flag],
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<(Self, Vec<String>), OptionError> {
        Self::defaults(flags).over(flags, arguments)
    }

    /// Reads the environment over these values: `KEYHOLE_WEB_MAX_REQUESTS` is `--web.max-requests`. A switch takes
    /// true or false, a flag that may be repeated one value a line. An empty variable says nothing, and one that
    /// names no flag is not looked at: others put theirs here too.
    pub fn set_environment(
        &mut self,
        flags: &[Flag],
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), OptionError> {
        for (variable, value) in variables {
            let flag = flags.iter().find(|flag| flag.variable().as_deref() == Some(&variable));
            let Some(flag) = flag.filter(|_| !value.is_empty()) else { continue };
            let name = flag.name;
            let invalid =
                |reason| OptionError::Environment { variable, flag: name, value: value.clone(), reason };
            self.values.insert(name, from_variable(flag.kind, &value).map_err(invalid)?);
            self.in_environment.push(name);
        }
        Ok(())
    }

    /// Reads a command line over these values. Bare words are given back, in order.
    pub fn over(
        mut self,
        flags: &[Flag],
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<(Self, Vec<String>), OptionError> {
        let mut words = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                // What follows is no flag, whatever it looks like.
                words.extend(arguments);
                break;
            }
            let Some(flag) = argument.strip_prefix("--") else {
                words.push(argument);
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            self.take(flags, name, value, &mut arguments)?;
        }
        Ok((self, words))
    }

    fn take(
        &mut self,
        flags: &[Flag],
        name: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), OptionError> {
        let (flag, on) = find(flags, name)?;
        let name = flag.name;
        if matches!(flag.kind, FlagKind::Switch(_)) {
            if value.is_some() {
                return Err(OptionError::Unexpected { flag: name });
            }
            self.once(name)?;
            self.values.insert(name, Value::Switch(on));
            return Ok(());
        }
        if let FlagKind::Interval(alone) = flag.kind {
            self.once(name)?;
            let value = value.unwrap_or_else(|| alone.to_owned());
            let interval =
                interval(&value).map_err(|reason| OptionError::Invalid { flag: name, value, reason })?;
            self.values.insert(name, Value::Interval(Some(interval)));
            return Ok(());
        }
        let value = value.or_else(|| rest.next()).ok_or(OptionError::Missing { flag: name })?;
        if let Some(Value::Texts(texts)) = self.values.get_mut(name) {
            if !self.given.contains(&name) {
                // What the environment says is replaced, not added to.
                texts.clear();
                self.given.push(name);
            }
            texts.push(value);
            return Ok(());
        }
        self.once(name)?;
        let parsed = parse_value(flag.kind, &value).map_err(|reason| OptionError::Invalid {
            flag: name,
            value,
            reason,
        })?;
        self.values.insert(name, parsed);
        Ok(())
    }

    fn once(&mut self, flag: &'static str) -> Result<(), OptionError> {
        if self.given.contains(&flag) {
            return Err(OptionError::Repeated { flag });
        }
        self.given.push(flag);
        Ok(())
    }

    /// Refuses `one` and `other` given together.
    pub fn exclusive(&self, one: &'static str, other: &'static str) -> Result<(), OptionError> {
        match self.was_given(one) && self.was_given(other) {
            true => Err(OptionError::Exclusive { one, other }),
            false => Ok(()),
        }
    }

    /// Whether the command line or the environment gave the flag.
    pub fn was_given(&self, flag: &str) -> bool {
        self.given.contains(&flag) || self.in_environment.contains(&flag)
    }

    /// Whether a switch is on; off when there is no such switch.
    pub fn switch(&self, flag: &str) -> bool {
        matches!(self.values.get(flag), Some(Value::Switch(true)))
    }

    /// A flag's regular expression; none when it is empty.
    pub fn regexp(&self, flag: &str) -> Option<&GoRegex> {
        match self.values.get(flag) {
            Some(Value::Regexp(Some((regexp, _)))) => Some(regexp),
            _ => None,
        }
    }

    /// The same for the names of one scrape, of which there are hundreds: they are asked for in their order, and the
    /// answers kept.
    pub fn matcher(&self, flag: &str) -> Option<Matcher<'_>> {
        match self.values.get(flag) {
            Some(Value::Regexp(Some((regexp, remembered)))) => Some(remembered.matcher(regexp)),
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

    /// Overrides a switch, as `--collector.disable-defaults` does.
    pub fn set_switch(&mut self, flag: &'static str, on: bool) {
        self.values.insert(flag, Value::Switch(on));
    }

    /// Whether `name` passes an include and an exclude expression: an include must match, an exclude must not. An
    /// include stands for itself: it sets aside an exclude that is only a default.
    pub fn passes(&self, include: &str, exclude: &str, name: &[u8]) -> bool {
        match self.regexp(include) {
            Some(regexp) if !self.was_given(exclude) => regexp.is_match(name),
            included => {
                included.is_none_or(|regexp| regexp.is_match(name))
                    && self.regexp(exclude).is_none_or(|regexp| !regexp.is_match(name))
            }
        }
    }
}

/// The flag that `name` stands for, and whether it switches on.
fn find<'f>(flags: &'f [Flag], name: &str) -> Result<(&'f Flag, bool), OptionError> {
    let by_name = |name: &str| flags.iter().find(|flag| flag.name == name);
    if let Some(flag) = by_name(name) {
        return match flag.kind {
            FlagKind::Alias(target) => find(flags, target),
            _ => Ok((flag, true)),
        };
    }
    let switched_off =
        name.strip_prefix("no-").and_then(by_name).filter(|flag| matches!(flag.kind, FlagKind::Switch(_)));
    match switched_off {
        Some(flag) => Ok((flag, false)),
        None => Err(OptionError::Unknown { flag: name.to_owned(), near: near_miss(flags, name) }),
    }
}

fn default(kind: FlagKind) -> Option<Value> {
    Some(match kind {
        FlagKind::Switch(on) => Value::Switch(on),
        FlagKind::Texts => Value::Texts(Vec::new()),
        FlagKind::Number(number) => Value::Number(number),
        FlagKind::Interval(_) => Value::Interval(None),
        FlagKind::Alias(_) => return None,
        FlagKind::Regexp(text) | FlagKind::Text(text) | FlagKind::Duration(text) => {
            parse_value(kind, text).ok()?
        }
    })
}

fn parse_value(kind: FlagKind, value: &str) -> Result<Value, String> {
    Ok(match kind {
        FlagKind::Regexp(_) if value.is_empty() => Value::Regexp(None),
        FlagKind::Regexp(_) => {
            let regexp = GoRegex::new(value).map_err(|error| error.to_string())?;
            Value::Regexp(Some((regexp, Arc::default())))
        }
        FlagKind::Number(_) => Value::Number(value.parse().map_err(|_| "not a whole number".to_owned())?),
        FlagKind::Duration(_) => {
            Value::Duration(go_duration(value).ok_or("not a duration such as 5s, 1m30s or 250ms")?)
        }
        _ => Value::Text(value.to_owned()),
    })
}

/// The value that a variable of the environment stands for.
fn from_variable(kind: FlagKind, value: &str) -> Result<Value, String> {
    match kind {
        FlagKind::Switch(_) => match value {
            "true" | "1" => Ok(Value::Switch(true)),
            "false" | "0" => Ok(Value::Switch(false)),
            _ => Err("not true or false".to_owned()),
        },
        FlagKind::Texts => Ok(Value::Texts(value.lines().map(str::to_owned).collect())),
        kind => parse_value(kind, value),
    }
}

/// A duration, or a number of seconds.
fn interval(value: &str) -> Result<std::time::Duration, String> {
    let seconds = || go_duration(&format!("{value}s"));
    go_duration(value)
        .or_else(seconds)
        .ok_or_else(|| "not a number of seconds or a duration such as 500ms".to_owned())
}

/// A duration in Go's notation, and with node_exporter's days and weeks, in whole nanoseconds; at most a year.
pub(crate) fn go_duration(text: &str) -> Option<std::time::Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(std::time::Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                // Both of Unicode's letters.
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    let within_a_year = (0.0..31_536_000.0).contains(&seconds) && !text.is_empty();
    within_a_year.then(|| std::time::Duration::from_secs_f64(seconds))
}

/// The flag that differs least from `name`, when it differs by few letters.
fn near_miss(flags: &[Flag], name: &str) -> Option<&'static str> {
    let bare = name.strip_prefix("no-").unwrap_or(name);
    nearest(flags.iter().map(|flag| flag.name), bare)
}

/// The one of `names` that differs least from `name`, when it differs by few letters: by less than half of them.
pub fn nearest<'n>(names: impl Iterator<Item = &'n str>, name: &str) -> Option<&'n str> {
    names
        .map(|other| (distance(other.as_bytes(), name.as_bytes()), other))
        .min()
        .filter(|(distance, _)| *distance <= 3.max(name.len() / 6) && *distance * 2 < name.len())
        .map(|(_, other)| other)
}

/// Levenshtein's distance, over at most 128 bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let (a, b) = (&a[..a.len().min(128)], &b[..b.len().min(128)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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

    fn parse(arguments: &[&str]) -> Result<(Options, Vec<String>), OptionError> {
        Options::parse(FLAGS, arguments.iter().map(|a| a.to_string()))
    }

    #[test]
    fn defaults_hold_until_they_are_overridden() {
        let (options, _) = parse(&[]).unwrap();
        assert!(options.switch("collector.cpu"));
        assert!(!options.passes("none", "device-exclude", b"lo"));
        let (options, words) =
            parse(&["--no-collector.cpu", "query", "--device-exclude", "x", "--wait=1m0.5s"]).unwrap();
        assert!(!options.switch("collector.cpu"));
        assert!(options.passes("none", "device-exclude", b"lo"));
        assert_eq!(options.duration("wait"), std::time::Duration::from_millis(60_500));
        assert_eq!(words, ["query"]);
    }

    #[test]
    fn an_include_sets_a_default_exclude_aside() {
        let passes = |arguments: &[&str], name: &str| {
            parse(arguments).unwrap().0.passes("device-include", "device-exclude", name.as_bytes())
        };
        assert!(!passes(&[], "lo"));
        assert!(passes(&["--device-include=^(lo|eth0)$"], "lo"));
        assert!(!passes(&["--device-include=^(lo|eth0)$"], "eth1"));
        assert!(!passes(&["--device-include=^(lo|eth0)$", "--device-exclude=^lo$"], "lo"));
    }

    #[test]
    fn two_dashes_alone_end_the_flags() {
        let (options, words) = parse(&["--max=5", "--", "--max=6", "x"]).unwrap();
        assert_eq!((options.number("max"), words), (5, vec!["--max=6".to_owned(), "x".to_owned()]));
        assert_eq!(parse(&["--"]).unwrap().1, [""; 0]);
        assert!(matches!(parse(&["--=x"]), Err(OptionError::Unknown { .. })));
    }

    #[test]
    fn an_old_name_sets_the_new_flag_and_both_are_too_many() {
        let (options, _) = parse(&["--ignored-devices=^veth"]).unwrap();
        assert!(!options.passes("", "device-exclude", b"veth0"));
        assert_eq!(
            parse(&["--ignored-devices=a", "--device-exclude=b"]).unwrap_err(),
            OptionError::Repeated { flag: "device-exclude" }
        );
    }

    #[test]
    fn a_flag_that_may_repeat_keeps_its_order() {
        let (options, _) = parse(&["--listen=:9100", "--listen", "[::1]:9100"]).unwrap();
        assert_eq!(options.texts("listen"), [":9100", "[::1]:9100"]);
    }

    #[test]
    fn errors_name_the_flag_the_value_and_a_near_miss() {
        let message = |arguments: &[&str]| parse(arguments).unwrap_err().to_string();
        assert_eq!(
            message(&["--colector.cpu"]),
            "unknown flag --colector.cpu (did you mean --collector.cpu?); try --help"
        );
        assert!(message(&["--device-exclude=("]).starts_with("--device-exclude=\"(\": not a regular"));
        assert!(!message(&["--device-exclude=(\n"]).contains('\n'));
        assert_eq!(message(&["--max=many"]), "--max=\"many\": not a whole number");
        for number in ["-1", "1.5", "1e3", "1_000", "18446744073709551616"] {
            assert!(message(&[&format!("--max={number}")]).ends_with("not a whole number"), "{number}");
        }
        assert_eq!(message(&["--max"]), "--max needs a value: --max=VALUE");
        assert!(message(&["--collector.cpu=true"]).contains("takes no value"));
        assert!(message(&["--wait=5"]).contains("not a duration"));
        assert!(message(&["--something-else-altogether"]).ends_with("altogether; try --help"));
    }

    #[test]
    fn durations_are_those_of_node_exporter() {
        for (text, seconds) in [
            ("5s", 5.0),
            ("+1m30s", 90.0),
            ("1h30m5.5s", 5405.5),
            (".5s", 0.5),
            ("0", 0.0),
            ("1d2h", 93_600.0),
            ("2w", 1_209_600.0),
            ("3\u{b5}s", 3e-6),
            ("3\u{3bc}s", 3e-6),
        ] {
            assert_eq!(go_duration(text).map(|duration| duration.as_secs_f64()), Some(seconds), "{text}");
        }
        for text in ["", "5", "+", "-5s", "++5s", "s", ".s", "1y", "5 s", "1e3s", "0x5s", "53w"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_or_refused(arguments in proptest::collection::vec("\\PC{0,20}", 0..6)) {
            let _ = Options::parse(FLAGS, arguments);
        }

        #[test]
        fn any_duration_is_read_or_refused(text in "[0-9.smhnuµ]{0,12}") {
            let _ = go_duration(&text);
        }
    }
}
