//! `--help`.

use std::fmt::Write as _;

use super::flags::{DISABLE_DEFAULTS, GROUPS};
use super::{COMMANDS, EXIT_STATUSES};
use crate::collector::{self, COLLECTORS};
use crate::options::{Flag, FlagKind};

const INTRODUCTION: &str =
    "keyhole-exporter: node_exporter's metrics of this node, read by a broker without privileges.\n";

const MANNERS: &str = "
A switch is turned off by --no-NAME. Regular expressions are Go's, as in node_exporter.

Environment:
  KEYHOLE_FLAG                           Each flag but the queries' own has a variable: KEYHOLE_WEB_MAX_REQUESTS=20 is --web.max-requests=20, and KEYHOLE_COLLECTOR_HWMON=false is --no-collector.hwmon. A flag that may be repeated takes one value a line. The command line stands above it.
  NODE_NAME                              The node's name in node_uname_info.
  NO_COLOR                               If set, terminals get no colours.
";

/// Everything.
pub fn text() -> String {
    let mut text = format!("{INTRODUCTION}\nUsage:\n");
    for command in COMMANDS {
        let _ = writeln!(text, "{}", usage_of(command, 52));
    }
    text.push_str(MANNERS);
    text.push_str("\nExit status:\n");
    for (status, meaning) in EXIT_STATUSES {
        row(&mut text, status, meaning);
    }
    for group in GROUPS {
        section(&mut text, group.title, group.flags.iter());
    }
    let collectors = collector::flags();
    let is_switch = |flag: &&Flag| COLLECTORS.iter().any(|c| collector::switch(c.name) == flag.name);
    let switches = collectors.iter().filter(is_switch).chain([&DISABLE_DEFAULTS]);
    section(&mut text, "Collectors", switches);
    section(&mut text, "Flags of collectors", collectors.iter().filter(|flag| !is_switch(flag)));
    text
}

/// What concerns one command, or everything.
pub fn of(name: &str) -> String {
    let Some(command) = COMMANDS.iter().find(|command| command.name == name && !name.is_empty()) else {
        return text();
    };
    let mut text = format!("{INTRODUCTION}\nUsage:\n{}\n", usage_of(command, 0));
    for group in GROUPS.iter().filter(|group| group.commands.contains(&name)) {
        section(&mut text, group.title, group.flags.iter());
    }
    text.push_str("\nThe flags of the broker's socket, of the log and of collectors apply as well; keyhole-exporter --help has them all.\n");
    text
}

fn usage_of(command: &super::Command, width: usize) -> String {
    let words = ["  keyhole-exporter [FLAGS]", command.name, command.operands];
    let usage = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    format!("{usage:<width$}  {}", command.help)
}

fn section<'f>(text: &mut String, title: &str, flags: impl Iterator<Item = &'f Flag>) {
    let _ = writeln!(text, "\n{title}:");
    for flag in flags.filter(|flag| !flag.help.is_empty()) {
        let (usage, default) = usage(flag);
        row(text, &usage, &format!("{}{default}", flag.help));
    }
}

fn row(text: &mut String, term: &str, meaning: &str) {
    // Writing to a String cannot fail.
    let _ = match term.len() < 38 {
        true => writeln!(text, "  {term:<38} {meaning}"),
        false => writeln!(text, "  {term}\n  {:<38} {meaning}", ""),
    };
}

fn usage(flag: &Flag) -> (String, String) {
    let name = flag.name;
    let default = |value: &str| match value.is_empty() {
        true => String::new(),
        false => format!(" [default: {value}]"),
    };
    match flag.kind {
        FlagKind::Switch(true) => (format!("--[no-]{name}"), " [default: on]".into()),
        FlagKind::Switch(false) | FlagKind::Alias(_) => (format!("--{name}"), String::new()),
        FlagKind::Regexp(value) => (format!("--{name}=REGEXP"), default(value)),
        FlagKind::Text(value) => (format!("--{name}=TEXT"), default(value)),
        FlagKind::Texts => (format!("--{name}=TEXT"), String::new()),
        FlagKind::Number(value) => (format!("--{name}=NUMBER"), default(&value.to_string())),
        FlagKind::Duration(value) => (format!("--{name}=DURATION"), default(value)),
        FlagKind::Interval(_) => (format!("--{name}[=DURATION]"), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_with_a_help_text_is_shown_once() {
        let text = text();
        for flag in super::super::flags::all().iter().filter(|flag| !flag.help.is_empty()) {
            let (usage, _) = usage(flag);
            let shown =
                text.lines().filter(|line| line.trim_start().split(' ').next() == Some(&usage)).count();
            assert_eq!(shown, 1, "{usage}");
        }
    }

    #[test]
    fn a_command_has_a_help_of_its_own() {
        assert!(of("query").contains("--watch[=DURATION]") && !of("query").contains("--web."));
        assert_eq!(of(""), text());
        assert_eq!(of("serve"), text());
    }
}
