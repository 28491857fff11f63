//! `--help`: the usage, the commands and the flags of a program in columns.

use std::fmt::Write as _;

use crate::{Command, Flag, FlagKind, Program};

/// The column that the meanings of terms begin in, and the one that they end before.
const MEANING_COLUMN: usize = 41;
const WIDTH: usize = 110;

const USAGE: &str = "Usage";

/// A section of the help: a heading, and rows of a term and its meaning.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) rows: Vec<(String, String)>,
}

impl Program {
    /// The whole help.
    pub fn help(&self) -> String {
        let mut text = format!("{}: {}\n", self.name, self.purpose);
        for (place, section) in self.sections().iter().enumerate() {
            section.write(&mut text);
            if place == 0 && !self.note.is_empty() {
                let _ = writeln!(text, "\n{}", wrapped(self.note, 0));
            }
        }
        text
    }

    /// The help of one command; the whole help if there is no such command.
    pub fn command_help(&self, name: &str) -> String {
        let command = self.commands.iter().find(|command| command.name == name && !name.is_empty());
        let Some(command) = command else { return self.help() };
        let mut text = format!("{}: {}\n", self.name, self.purpose);
        Section { title: USAGE, rows: vec![self.usage(command)] }.write(&mut text);
        for group in self.groups.iter().filter(|group| group.commands.contains(&name)) {
            Section::new(group.title, group.flags).write(&mut text);
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\nAll other flags: {} --help", self.name);
        text
    }

    /// The sections of the help, the first of which is the usage.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section {
            title: USAGE,
            rows: self.commands.iter().map(|command| self.usage(command)).collect(),
        }];
        let own = |rows: &[(&str, &str)]| {
            rows.iter().map(|(term, meaning)| ((*term).to_owned(), (*meaning).to_owned())).collect::<Vec<_>>()
        };
        let mut variables = own(self.variables);
        if self.groups.iter().any(|group| group.environment) {
            variables.insert(0, (format!("{}FLAG", crate::VARIABLE_PREFIX), self.environment_rule()));
        }
        sections.push(Section { title: "Environment", rows: variables });
        sections.push(Section { title: "Exit status", rows: own(self.exit_statuses) });
        sections.extend(self.groups.iter().map(|group| Section::new(group.title, group.flags)));
        sections.retain(|section| !section.rows.is_empty());
        sections
    }

    fn environment_rule(&self) -> String {
        let is_without = |group: &&crate::Group| {
            !group.environment && group.flags.iter().any(|flag| !flag.help.is_empty())
        };
        let without: Vec<&str> = self.groups.iter().filter(is_without).map(|group| group.title).collect();
        let except = match without.split_last() {
            None => String::new(),
            Some((last, [])) => format!(", except the flags under {last}"),
            Some((last, others)) => format!(", except the flags under {} and {last}", others.join(", ")),
        };
        format!(
            "A variable sets the flag with the same name{except}: {0}LOG_LEVEL=debug is --log.level=debug. \
             A switch is true or false. A repeatable flag has one value per line. \
             The command line overrides the environment. \
             A variable that both the broker and the exporter read has the same meaning for both.",
            crate::VARIABLE_PREFIX
        )
    }

    fn usage(&self, command: &Command) -> (String, String) {
        let operands = command.operands.usage();
        let words = [self.name, "[FLAGS]", command.name, &operands];
        let usage = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        (usage, command.help.to_owned())
    }
}

impl Section {
    fn new(title: &'static str, flags: &[Flag]) -> Self {
        let shown = flags.iter().filter(|flag| !flag.help.is_empty());
        Self { title, rows: shown.map(row).collect() }
    }

    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "\n{}:", self.title);
        let longest = self.rows.iter().map(|(term, _)| term.len()).max().unwrap_or_default();
        // The commands are few, and have a column of their own.
        let column = if self.title == USAGE { longest + 4 } else { MEANING_COLUMN };
        for (term, meaning) in &self.rows {
            let meaning = wrapped(meaning, column);
            // A term that is too long for its column has a line of its own.
            let _ = if term.len() + 3 < column {
                writeln!(text, "  {term:<width$}{meaning}", width = column - 2)
            } else {
                writeln!(text, "  {term}\n{:<column$}{meaning}", "")
            };
        }
    }
}

/// Breaks lines before the width, and begins each but the first in a column. A word that is longer stays whole.
fn wrapped(text: &str, column: usize) -> String {
    let mut wrapped = String::new();
    let mut width = column;
    // A default stands on one line.
    let (meaning, default) =
        text.find(" [default: ").map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    for word in meaning.split(' ').chain(default) {
        let letters = word.chars().count();
        if width > column {
            if width + 1 + letters > WIDTH {
                let _ = write!(wrapped, "\n{:column$}", "");
                width = column;
            } else {
                wrapped.push(' ');
                width += 1;
            }
        }
        wrapped.push_str(word);
        width += letters;
    }
    wrapped
}

/// How a flag is written, and what it does.
fn row(flag: &Flag) -> (String, String) {
    let name = flag.name;
    let term = match (flag.kind, flag.kind.placeholder()) {
        (FlagKind::Switch(true), _) => format!("--[no-]{name}"),
        (FlagKind::Interval { .. }, Some(placeholder)) => format!("--{name}[={placeholder}]"),
        (_, Some(placeholder)) => format!("--{name}={placeholder}"),
        (_, None) => format!("--{name}"),
    };
    let repeatable = if flag.kind.is_repeatable() { " Repeatable." } else { "" };
    let default = match flag.kind {
        FlagKind::Switch(true) => "on".to_owned(),
        FlagKind::Number(number) => number.to_string(),
        FlagKind::Regexp(text)
        | FlagKind::Text(text)
        | FlagKind::Parsed { default: text, .. }
        | FlagKind::Choice { default: text, .. }
        | FlagKind::File(text)
        | FlagKind::Directory(text)
        | FlagKind::Duration { default: text, .. } => text.to_owned(),
        FlagKind::Switch(false)
        | FlagKind::Interval { .. }
        | FlagKind::Alias(_)
        | FlagKind::FormerName(_)
        | FlagKind::Texts
        | FlagKind::ParsedList { .. }
        | FlagKind::Directories => String::new(),
    };
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    let range = match flag.kind {
        FlagKind::Duration { range, .. } | FlagKind::Interval { range, .. } => range.help(),
        _ => String::new(),
    };
    (term, format!("{}{range}{repeatable}{default}", flag.help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::program;

    #[test]
    fn every_documented_flag_is_shown_once() {
        let (program, help) = (program(), program().help());
        for flag in program.flags() {
            let (term, _) = row(&flag);
            let lines = help.lines().filter(|line| line.trim_start().split(' ').next() == Some(&term));
            assert_eq!(lines.count(), usize::from(!flag.help.is_empty()), "{term}");
        }
    }

    #[test]
    fn a_long_term_has_a_line_of_its_own_and_meanings_are_wrapped_in_their_column() {
        let help = program().help();
        assert!(
            help.contains("\n  --[no-]fast                            Be fast. [default: on]\n"),
            "{help}"
        );
        let alone = "\n  --a-flag-whose-name-fills-the-column=NUMBER\n                                         How many. [default: 3]\n";
        assert!(help.contains(alone), "{help}");
        assert!(help.lines().all(|line| line.len() <= WIDTH), "{help}");
        assert_eq!(wrapped("a b", 0), "a b");
        let long = "x".repeat(WIDTH - 4);
        assert_eq!(wrapped(&format!("{long} y z {long}{long}"), 2), format!("{long} y\n  z\n  {long}{long}"));
    }

    #[test]
    fn a_command_has_a_help_of_its_own() {
        let program = program();
        let help = program.command_help("copy");
        assert!(help.contains("--every[=DURATION]") && !help.contains("--place"), "{help}");
        assert_eq!(program.command_help(""), program.help());
        assert_eq!(program.command_help("nothing"), program.help());
    }
}
