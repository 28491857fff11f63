//! `--help`.

use std::fmt::Write as _;

use super::flags::{DISABLE_DEFAULTS, GROUPS};
use crate::collector::{self, COLLECTORS};
use crate::options::{Flag, FlagKind};

const INTRODUCTION: &str = "\
keyhole-exporter: node_exporter's metrics of this node, read by a broker without privileges.

Usage:
  keyhole-exporter [FLAGS]               serve metrics
  keyhole-exporter [FLAGS] capture DIR   write what the broker answers to DIR, as kernel files under their paths
  keyhole-exporter [FLAGS] replay DIR    print the metrics of such a directory, or of any tree with proc/ and sys/

A switch is turned off by --no-NAME. Regular expressions are RE2's.
NODE_NAME in the environment is the node's name in node_uname_info.
";

/// The whole text.
pub fn text() -> String {
    let mut text = INTRODUCTION.to_owned();
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

fn section<'f>(text: &mut String, title: &str, flags: impl Iterator<Item = &'f Flag>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{title}:");
    for flag in flags.filter(|flag| !flag.help.is_empty()) {
        let (usage, default) = usage(flag);
        let _ = match usage.len() < 38 {
            true => write!(text, "  {usage:<38} {}", flag.help),
            false => write!(text, "  {usage}\n  {:<38} {}", "", flag.help),
        };
        let _ = writeln!(text, "{default}");
    }
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
}
