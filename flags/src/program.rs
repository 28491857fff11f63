//! A program: its commands and flags, and what follows from them.

use std::ffi::OsString;

use crate::completions::SHELLS;
use crate::similar::most_similar;
use crate::values::{Origin, Values};
use crate::{Flag, FlagError, FlagKind, VARIABLE_PREFIX};

/// A program with its commands and flags.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its version, for the manual page.
    pub version: &'static str,
    /// What `--version` prints.
    pub version_text: String,
    /// One line on what it does.
    pub purpose: &'static str,
    /// A paragraph for the help, on one line; may be empty.
    pub note: &'static str,
    /// Every command; the one with an empty name is what the program does without a command.
    pub commands: &'static [Command],
    /// Every flag, in groups.
    pub groups: Vec<Group>,
    /// Letters that stand for flags: `-h`.
    pub short: &'static [(char, &'static str)],
    /// Whether a flag that takes one value may be given again, so that the last value counts.
    pub may_repeat: bool,
    /// Environment variables that are no flags', with what they mean.
    pub variables: &'static [(&'static str, &'static str)],
    /// The exit statuses, with what they mean.
    pub exit_statuses: &'static [(&'static str, &'static str)],
}

/// A group of flags, which is a section of the help.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// The commands that its flags belong to; empty for all.
    pub commands: &'static [&'static str],
    /// Whether environment variables set its flags.
    pub environment: bool,
    /// Its flags.
    pub flags: &'static [Flag],
}

/// A command.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The word that stands for it; empty for what the program does without a command.
    pub name: &'static str,
    /// The words that follow it.
    pub operands: Operands,
    /// One line on what it does.
    pub help: &'static str,
}

/// The words that follow a command.
#[derive(Debug, Clone, Copy)]
pub enum Operands {
    /// None.
    None,
    /// The path of a directory.
    Directory,
    /// The name of a shell.
    Shell,
    /// Any number of words.
    Any {
        /// What stands for each in the help.
        placeholder: &'static str,
        /// The words that completions offer, with what they mean.
        known: fn() -> Vec<(&'static str, &'static str)>,
    },
}

impl Operands {
    /// As in the help: `[COLLECTOR...]`.
    pub(crate) fn usage(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Directory => "DIRECTORY".to_owned(),
            Self::Shell => "SHELL".to_owned(),
            Self::Any { placeholder, .. } => format!("[{placeholder}...]"),
        }
    }
}

/// The command that prints completions, for each program's table.
pub const COMPLETIONS: Command =
    Command { name: "completions", operands: Operands::Shell, help: "print completions for bash, fish or zsh" };

/// An environment variable that looks as if it would set a flag, and does not.
#[derive(Debug, PartialEq, Eq)]
pub struct Unused {
    /// Its name.
    pub variable: String,
    /// What to do about it.
    pub advice: String,
}

impl Program {
    /// Every flag.
    pub fn flags(&self) -> Vec<Flag> {
        self.groups.iter().flat_map(|group| group.flags).copied().collect()
    }

    /// The flags that environment variables set.
    pub fn flags_in_environment(&self) -> Vec<Flag> {
        let groups = self.groups.iter().filter(|group| group.environment);
        groups.flat_map(|group| group.flags).copied().collect()
    }

    /// Reads the values of all flags, and the words: a command and its operands. The command line stands above the
    /// environment, and that above the defaults.
    pub fn parse(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Values, Vec<String>), FlagError> {
        let flags = self.flags();
        let mut values = Values::defaults(&flags);
        values.read_environment(&self.flags_in_environment(), environment)?;
        let words = values.read_arguments(&flags, self.short, self.may_repeat, arguments)?;
        let command = words.first().map_or("", String::as_str);
        for group in self.groups.iter().filter(|group| !group.commands.is_empty()) {
            let given = group.flags.iter().find(|flag| values.origin(flag.name) > Origin::Default);
            if let Some(flag) = given.filter(|_| !group.commands.contains(&command)) {
                return Err(FlagError::Misplaced { flag: flag.name, commands: group.commands });
            }
        }
        Ok((values, words))
    }

    /// What to print and do nothing else: for `--help`, `--help-man`, `--version`, and for the command `completions`.
    pub fn answer(
        &self,
        is_on: impl Fn(&str) -> bool,
        words: &[String],
    ) -> Result<Option<String>, FlagError> {
        Ok(match words {
            [command, ..] if is_on("help") => Some(self.command_help(command)),
            [] if is_on("help") => Some(self.help()),
            _ if is_on("help-man") => Some(self.man_page()),
            _ if is_on("version") => Some(self.version_text.clone()),
            [command, shell] if command == COMPLETIONS.name => Some(self.completions(shell)?),
            _ => None,
        })
    }

    /// The command, with its operands; none if there are no words.
    pub fn command<'w>(
        &self,
        words: &'w [String],
    ) -> Result<Option<(&'static str, &'w [String])>, FlagError> {
        let Some((word, operands)) = words.split_first() else { return Ok(None) };
        let named = || self.commands.iter().filter(|command| !command.name.is_empty());
        let Some(command) = named().find(|command| command.name == word) else {
            let commands: Vec<_> = named().map(|command| command.name).collect();
            let similar = most_similar(commands.iter().copied(), word);
            return Err(FlagError::UnknownCommand { word: word.clone(), similar, commands });
        };
        let takes = match (command.operands, operands.len()) {
            (Operands::Any { .. }, _) | (Operands::None, 0) | (Operands::Directory | Operands::Shell, 1) => {
                return Ok(Some((command.name, operands)));
            }
            (Operands::None, _) => "no words after it".to_owned(),
            (Operands::Directory, _) => format!("one directory after it: {word} DIRECTORY"),
            (Operands::Shell, _) => {
                format!("one shell after it: {word} {}", crate::error::alternatives(SHELLS))
            }
        };
        Err(FlagError::Operands { command: command.name, takes })
    }

    /// The variables among `names` that look as if they would set a flag, and do not: they are misspelled, or the
    /// flag is set on the command line only.
    pub fn unused_variables(&self, names: impl IntoIterator<Item = OsString>) -> Vec<Unused> {
        let known: Vec<String> = self.flags_in_environment().iter().filter_map(Flag::variable).collect();
        let without = self.groups.iter().filter(|group| !group.environment && group.commands.is_empty());
        // Other software's variables may well be named KEYHOLE_HELP or KEYHOLE_VERSION.
        let without = without.filter(|group| group.flags.iter().all(|flag| flag.name != "help"));
        let without: Vec<&Flag> = without.flat_map(|group| group.flags).collect();
        let bare = |variable: &str| variable.strip_prefix(VARIABLE_PREFIX).map(str::to_owned);
        let advice = |variable: &str| {
            let name = bare(variable)?;
            if known.iter().any(|known| known == variable) {
                return None;
            }
            let flag = without.iter().find(|flag| flag.variable().as_deref() == Some(variable));
            if let Some(flag) = flag {
                return Some(format!("set --{} on the command line: no variable may set it", flag.name));
            }
            let known = known.iter().filter_map(|known| known.strip_prefix(VARIABLE_PREFIX));
            most_similar(known, &name).map(|similar| format!("did you mean {VARIABLE_PREFIX}{similar}?"))
        };
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        names.filter_map(|variable| Some(Unused { advice: advice(&variable)?, variable })).collect()
    }
}

impl FlagKind {
    /// Whether a flag of this kind may be given several times, and keeps all values.
    pub fn is_repeatable(self) -> bool {
        matches!(self, Self::Texts | Self::ParsedList { .. } | Self::Directories)
    }

    /// What stands for the value in the help; none for a switch and an alias.
    pub(crate) fn placeholder(self) -> Option<String> {
        Some(match self {
            Self::Switch(_) | Self::Alias(_) => return None,
            Self::Regexp(_) => "REGEXP".to_owned(),
            Self::Text(_) | Self::Texts => "TEXT".to_owned(),
            Self::Parsed { placeholder, .. } | Self::ParsedList { placeholder } => placeholder.to_owned(),
            Self::Choice { choices, .. } => choices.join("|"),
            Self::File(_) => "FILE".to_owned(),
            Self::Directory(_) | Self::Directories => "DIRECTORY".to_owned(),
            Self::Number(_) => "NUMBER".to_owned(),
            Self::Duration(_) | Self::Interval(_) => "DURATION".to_owned(),
        })
    }
}
