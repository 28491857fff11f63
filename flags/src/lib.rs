//! Command-line flags as rows of a table.
//!
//! A [`Program`] lists its commands and its flags. Everything else follows from these rows: parsing the command line
//! and the environment, errors with suggestions, `--help`, the manual page and shell completions.
//!
//! The syntax is node_exporter's, whose flags come from the Go library kingpin: `--name` and `--no-name` for switches,
//! `--name=value` or `--name value` for the rest, and `--` before words that begin with a dash. As there, an argument that
//! begins with a dash is no value, and a flag that takes one value is given once.
#![forbid(unsafe_code)]

mod completions;
mod duration;
mod error;
mod help;
mod man;
mod parse;
mod program;
mod similar;
mod values;

pub use duration::{DurationRange, go_duration};
pub use error::{FlagError, alternatives};
pub use program::{COMPLETIONS, Command, Group, KnownValues, Operands, Parsed, Program, Unused};
pub use similar::{most_similar, suggestion};
pub use values::{Origin, Value, Values};

/// What the name of each environment variable begins with, for all programs: a variable that several of them know
/// means the same to each, so that one environment can serve all.
pub const VARIABLE_PREFIX: &str = "KEYHOLE_";

/// One flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// What value it takes.
    pub kind: FlagKind,
    /// One line on what it does. Empty for a flag that is accepted but not documented, such as an alias.
    pub help: &'static str,
}

/// What value a flag takes, with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagKind {
    /// None: on or off.
    Switch(bool),
    /// A regular expression; empty for none. The program compiles it: this crate knows no syntax of expressions.
    Regexp(&'static str),
    /// Any text; empty for none.
    Text(&'static str),
    /// Any text, repeatable.
    Texts,
    /// A text that the program parses, shown under a name of its own.
    Parsed {
        /// What stands for the value in the help: `UID`.
        placeholder: &'static str,
        /// The default; empty for none.
        default: &'static str,
    },
    /// The same, repeatable.
    ParsedList {
        /// What stands for the value in the help.
        placeholder: &'static str,
    },
    /// One of a few words.
    Choice {
        /// The default.
        default: &'static str,
        /// All of them.
        choices: &'static [&'static str],
        /// Whether they may be written in capitals.
        ignore_case: bool,
    },
    /// The path of a file, not necessarily UTF-8; empty for none.
    File(&'static str),
    /// The path of a directory, not necessarily UTF-8; empty for none.
    Directory(&'static str),
    /// Paths of directories, repeatable.
    Directories,
    /// A whole number.
    Number(u64),
    /// A duration as Go writes it: `5s`, `1m30s`, `250ms`.
    Duration {
        /// The default.
        default: &'static str,
        /// Which it takes.
        range: DurationRange,
    },
    /// Off by default. On with an interval if the flag stands alone, or with the one that it is given: a duration or a
    /// number of seconds.
    Interval {
        /// The interval if the flag stands alone.
        alone: &'static str,
        /// Which it takes.
        range: DurationRange,
    },
    /// Another name of this flag.
    Alias(&'static str),
    /// The former name of this flag: an error that names the present one.
    FormerName(&'static str),
}

impl Flag {
    /// The environment variable that sets it; none for another name, and for an interval, which has no value for "off".
    pub fn variable(&self) -> Option<String> {
        let has_none =
            matches!(self.kind, FlagKind::Alias(_) | FlagKind::FormerName(_) | FlagKind::Interval { .. });
        (!has_none).then(|| variable(self.name))
    }

    /// Its name, or the present one of a former name.
    pub(crate) fn present_name(&self) -> &'static str {
        match self.kind {
            FlagKind::FormerName(name) => name,
            _ => self.name,
        }
    }
}

/// The environment variable with a flag's name.
pub(crate) fn variable(flag: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", flag.to_ascii_uppercase().replace(['.', '-'], "_"))
}

/// The flags of the log, which are the same for every program.
#[rustfmt::skip]
pub const LOG_FLAGS: &[Flag] = &[
    Flag { name: "log.level", kind: FlagKind::Choice { default: "info", choices: &["debug", "info", "warn", "error"], ignore_case: true }, help: "Log messages of this severity or above." },
    Flag { name: "log.format", kind: FlagKind::Choice { default: "logfmt", choices: &["logfmt", "json"], ignore_case: false }, help: "Format of log messages." },
];

/// The flags that [`Program::parse`] answers itself.
#[rustfmt::skip]
pub const HELP_FLAGS: &[Flag] = &[
    Flag { name: "help", kind: FlagKind::Switch(false), help: "Print this help; with a command, the help of that command. Short: -h." },
    Flag { name: "help-man", kind: FlagKind::Switch(false), help: "Print the help as a manual page." },
    Flag { name: "version", kind: FlagKind::Switch(false), help: "Print the version." },
];
