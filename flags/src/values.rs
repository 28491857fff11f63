//! The values of flags, and where each comes from.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::similar::{most_similar, suggestion};
use crate::{Flag, FlagError, FlagKind, duration};

const NOT_UTF8: &str = "not UTF-8: use a value that is";

/// A flag's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// Text.
    Text(String),
    /// Texts in the order given.
    Texts(Vec<String>),
    /// A path; empty for none.
    Path(PathBuf),
    /// Paths in the order given.
    Paths(Vec<PathBuf>),
    /// A whole number.
    Number(u64),
    /// A duration.
    Duration(Duration),
    /// A duration, if it is on.
    Interval(Option<Duration>),
}

/// Where a value comes from, the weakest first: each replaces those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The flag's row.
    Default,
    /// An environment variable.
    Environment,
    /// The command line.
    CommandLine,
}

/// The values of a program's flags.
#[derive(Debug, Clone, Default)]
pub struct Values(pub(crate) Vec<Entry>);

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) flag: Flag,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

impl Values {
    /// The defaults of `flags`. A default that its flag cannot take is empty; the programs test that there is none.
    pub fn defaults(flags: &[Flag]) -> Self {
        let entry = |flag: &Flag| {
            Some(Entry { flag: *flag, value: Value::default_of(flag.kind)?, origin: Origin::Default })
        };
        Self(flags.iter().filter_map(entry).collect())
    }

    pub(crate) fn entry(&self, flag: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.flag.name == flag)
    }

    /// Each flag that takes a regular expression, with the expression.
    pub fn regexps(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().filter_map(|entry| match (entry.flag.kind, &entry.value) {
            (FlagKind::Regexp(_), Value::Text(text)) => Some((entry.flag.name, text.as_str())),
            _ => None,
        })
    }

    /// Where a flag's value comes from.
    pub fn origin(&self, flag: &str) -> Origin {
        self.entry(flag).map_or(Origin::Default, |entry| entry.origin)
    }

    /// A flag's value.
    pub fn value(&self, flag: &str) -> Option<&Value> {
        self.entry(flag).map(|entry| &entry.value)
    }

    /// Whether a switch is on; off if there is no such switch.
    pub fn switch(&self, flag: &str) -> bool {
        matches!(self.value(flag), Some(Value::Switch(true)))
    }

    /// A flag's text; empty if there is none.
    pub fn text(&self, flag: &str) -> &str {
        match self.value(flag) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// The texts of a repeatable flag.
    pub fn texts(&self, flag: &str) -> &[String] {
        match self.value(flag) {
            Some(Value::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// A flag's path; none if it is empty.
    pub fn path(&self, flag: &str) -> Option<&Path> {
        match self.value(flag) {
            Some(Value::Path(path)) if !path.as_os_str().is_empty() => Some(path),
            _ => None,
        }
    }

    /// Refuses a path that is not UTF-8.
    pub fn require_utf8_paths(&self) -> Result<(), FlagError> {
        for entry in &self.0 {
            let paths = match &entry.value {
                Value::Path(path) => std::slice::from_ref(path),
                Value::Paths(paths) => paths,
                _ => &[],
            };
            if let Some(path) = paths.iter().find(|path| path.to_str().is_none()) {
                return Err(self.refuse(entry.flag.name, &path.to_string_lossy(), NOT_UTF8));
            }
        }
        Ok(())
    }

    /// The paths of a repeatable flag.
    pub fn paths(&self, flag: &str) -> &[PathBuf] {
        match self.value(flag) {
            Some(Value::Paths(paths)) => paths,
            _ => &[],
        }
    }

    /// What `parse` makes of a flag's text; none if the text is empty and the default is none. The error names the
    /// flag, the text and the reason.
    pub fn parse<T, R: ToString>(
        &self,
        flag: &'static str,
        parse: impl FnOnce(&str) -> Result<T, R>,
    ) -> Result<Option<T>, FlagError> {
        let text = self.text(flag);
        if text.is_empty() && self.origin(flag) == Origin::Default {
            return Ok(None);
        }
        parse(text).map(Some).map_err(|reason| self.refuse(flag, text, reason))
    }

    /// What `parse` makes of each text of a repeatable flag.
    pub fn parse_each<T, R: ToString>(
        &self,
        flag: &'static str,
        parse: impl Fn(&str) -> Result<T, R>,
    ) -> Result<Vec<T>, FlagError> {
        let one = |text: &String| parse(text).map_err(|reason| self.refuse(flag, text, reason));
        self.texts(flag).iter().map(one).collect()
    }

    /// The error that a flag cannot take `value`, wherever it comes from.
    pub fn refuse(&self, flag: &'static str, value: &str, reason: impl ToString) -> FlagError {
        let (value, reason) = (value.to_owned(), reason.to_string());
        let variable = self.entry(flag).and_then(|entry| entry.flag.variable());
        match variable.filter(|_| self.origin(flag) == Origin::Environment) {
            Some(variable) => FlagError::Environment { variable, flag, value, reason },
            None => FlagError::Invalid { flag, value, reason },
        }
    }
}

impl Value {
    fn default_of(kind: FlagKind) -> Option<Self> {
        Some(match kind {
            FlagKind::Switch(on) => Self::Switch(on),
            FlagKind::Regexp(text)
            | FlagKind::Text(text)
            | FlagKind::Parsed { default: text, .. }
            | FlagKind::Choice { default: text, .. } => Self::Text(text.to_owned()),
            FlagKind::Texts | FlagKind::ParsedList { .. } => Self::Texts(Vec::new()),
            FlagKind::File(path) | FlagKind::Directory(path) => Self::Path(path.into()),
            FlagKind::Directories => Self::Paths(Vec::new()),
            FlagKind::Number(number) => Self::Number(number),
            FlagKind::Duration { default, .. } => {
                Self::Duration(crate::go_duration(default).unwrap_or_default())
            }
            FlagKind::Interval { .. } => Self::Interval(None),
            FlagKind::Alias(_) | FlagKind::FormerName(_) => return None,
        })
    }

    /// Reads one value of a flag.
    pub(crate) fn parse(kind: FlagKind, value: &OsStr) -> Result<Self, String> {
        match kind {
            FlagKind::File(_) | FlagKind::Directory(_) => return Ok(Self::Path(value.into())),
            FlagKind::Directories => return Ok(Self::Paths(vec![value.into()])),
            _ => {}
        }
        let text = value.to_str().ok_or(NOT_UTF8)?;
        Ok(match kind {
            FlagKind::Texts | FlagKind::ParsedList { .. } => Self::Texts(vec![text.to_owned()]),
            FlagKind::Number(_) => Self::Number(text.parse().map_err(|_| "not a whole number")?),
            FlagKind::Duration { range, .. } => Self::Duration(duration::duration(text, range)?),
            FlagKind::Interval { range, .. } => Self::Interval(Some(duration::interval(text, range)?)),
            FlagKind::Choice { choices, ignore_case, .. } => {
                let is_it =
                    |choice: &&&str| **choice == text || ignore_case && choice.eq_ignore_ascii_case(text);
                let choice = choices.iter().find(is_it);
                let refused = || {
                    let similar = most_similar(choices.iter().copied(), text);
                    format!("use {}{}", crate::alternatives(choices), suggestion(similar))
                };
                Self::Text((*choice.ok_or_else(refused)?).to_owned())
            }
            _ => Self::Text(text.to_owned()),
        })
    }

    /// Reads what an environment variable holds: a switch is `true` or `false`, a repeatable flag has a value a line.
    pub(crate) fn from_variable(kind: FlagKind, value: &OsStr) -> Result<Self, String> {
        if !matches!(
            kind,
            FlagKind::Switch(_) | FlagKind::Texts | FlagKind::ParsedList { .. } | FlagKind::Directories
        ) {
            return Self::parse(kind, value);
        }
        let text = value.to_str().ok_or(NOT_UTF8)?;
        match (kind, text) {
            (FlagKind::Switch(_), "true" | "1") => Ok(Self::Switch(true)),
            (FlagKind::Switch(_), "false" | "0") => Ok(Self::Switch(false)),
            (FlagKind::Switch(_), _) => Err("not true or false".to_owned()),
            (FlagKind::Directories, _) => Ok(Self::Paths(text.lines().map(PathBuf::from).collect())),
            (_, _) => Ok(Self::Texts(text.lines().map(str::to_owned).collect())),
        }
    }

    /// Appends the values of a repeatable flag, or takes the place of any other.
    pub(crate) fn push(&mut self, other: Self) {
        match (self, other) {
            (Self::Texts(texts), Self::Texts(more)) => texts.extend(more),
            (Self::Paths(paths), Self::Paths(more)) => paths.extend(more),
            (value, other) => *value = other,
        }
    }
}

/// An argument that is not UTF-8, for an error.
pub(crate) fn not_utf8(argument: &OsString) -> FlagError {
    FlagError::NotUtf8 { argument: format!("{argument:?}") }
}
