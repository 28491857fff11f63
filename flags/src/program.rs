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
    /// Values of flags that completions offer, besides the choices of [`FlagKind::Choice`].
    pub known_values: &'static [KnownValues],
    /// Environment variables that are no flags', with what they mean.
    pub variables: &'static [(&'static str, &'static str)],
    /// The exit statuses, with what they mean.
    pub exit_statuses: &'static [(&'static str, &'static str)],
}

/// Values that completions offer for a flag.
#[derive(Debug, Clone, Copy)]
pub struct KnownValues {
    /// The flag.
    pub flag: &'static str,
    /// The command with which it takes these values; empty for any.
    pub command: &'static str,
    /// The values. In a list, those that begin with `+` follow others.
    pub values: fn() -> Vec<String>,
    /// Whether the flag takes several, separated by commas.
    pub is_list: bool,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// To print this text and do nothing else: for `--help`, `--help-man`, `--version` and the command `completions`. The
    /// values are those of the command line alone.
    Print(Values, String),
    /// To run, with the values of all flags, and with the words: a command and its operands.
    Run(Values, Vec<String>),
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
    /// A path, or `-` for standard input or output.
    Path {
        /// What stands for it in the help.
        placeholder: &'static str,
        /// What it is, for an error: `a directory`.
        what: &'static str,
        /// Whether completions offer files, and not directories alone.
        files: bool,
    },
    /// The name of a shell.
    Shell,
    /// Any number of words.
    Any {
        /// What stands for each in the help.
        placeholder: &'static str,
        /// The words that completions offer, with what they mean.
        known: fn() -> Vec<(&'static str, &'static str)>,
    },
    /// Words that the program checks itself; completions offer none.
    Words {
        /// As in the help: `NODE [COLLECTOR...]`.
        usage: &'static str,
    },
}

impl Operands {
    /// As in the help: `[COLLECTOR...]`.
    pub(crate) fn usage(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Path { placeholder, .. } => placeholder.to_owned(),
            Self::Shell => "SHELL".to_owned(),
            Self::Any { placeholder, .. } => format!("[{placeholder}...]"),
            Self::Words { usage } => usage.to_owned(),
        }
    }
}

/// The command that prints completions, for each program's table.
pub const COMPLETIONS: Command = Command {
    name: "completions",
    operands: Operands::Shell,
    help: "print completions for bash, fish or zsh",
};

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

    /// Reads the values of all flags. The command line stands above the environment, and that above the defaults. What
    /// only prints does not look at the environment.
    pub fn parse(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Parsed, FlagError> {
        let flags = self.flags();
        let mut values = Values::defaults(&flags);
        let words = values.read_arguments(&flags, self.short, arguments)?;
        let command = words.first().map_or("", String::as_str);
        for group in self.groups.iter().filter(|group| !group.commands.is_empty()) {
            let given = group.flags.iter().find(|flag| values.origin(flag.name) > Origin::Default);
            if let Some(flag) = given.filter(|_| !group.commands.contains(&command)) {
                return Err(FlagError::Misplaced { flag: flag.name, commands: group.commands });
            }
        }
        if let Some(text) = self.text_to_print(&values, &words)? {
            return Ok(Parsed::Print(values, text));
        }
        values.read_environment(&self.flags_in_environment(), environment)?;
        Ok(Parsed::Run(values, words))
    }

    fn text_to_print(&self, values: &Values, words: &[String]) -> Result<Option<String>, FlagError> {
        Ok(match words {
            [command, ..] if values.switch("help") => Some(self.command_help(command)),
            [] if values.switch("help") => Some(self.help()),
            // node_exporter's.
            _ if values.switch("help-long") => Some(self.help()),
            _ if values.switch("help-man") => Some(self.man_page()),
            _ if values.switch("version") => Some(self.version_text.clone()),
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
        if word.starts_with('-') {
            // It stood after two dashes alone.
            return Err(FlagError::Unknown { flag: word.clone(), similar: None });
        }
        let named = || self.commands.iter().filter(|command| !command.name.is_empty());
        let Some(command) = named().find(|command| command.name == word) else {
            let commands: Vec<_> = named().map(|command| command.name).collect();
            let similar = most_similar(commands.iter().copied(), word);
            return Err(FlagError::UnknownCommand { word: word.clone(), similar, commands });
        };
        let mistake = match (command.operands, operands.len()) {
            (Operands::Any { .. } | Operands::Words { .. }, _)
            | (Operands::None, 0)
            | (Operands::Path { .. } | Operands::Shell, 1) => {
                return Ok(Some((command.name, operands)));
            }
            (Operands::None, _) => "takes no words after it".to_owned(),
            (Operands::Path { what, .. }, 0) => format!("needs {what}"),
            (Operands::Shell, 0) => format!("needs a shell: {}", crate::error::alternatives(SHELLS)),
            (operands, _) => format!("takes one word after it: {word} {}", operands.usage()),
        };
        Err(FlagError::Operands { command: command.name, mistake })
    }

    /// The variables among `names` that look as if they would set a flag, and do not: they are misspelled, or the
    /// flag is set on the command line only.
    pub fn unused_variables(&self, names: impl IntoIterator<Item = OsString>) -> Vec<Unused> {
        let known: Vec<String> = self.flags_in_environment().iter().filter_map(Flag::variable).collect();
        // Other software's variables may well be named KEYHOLE_HELP or KEYHOLE_VERSION.
        let groups = self.groups.iter().filter(|group| group.flags.iter().all(|flag| flag.name != "help"));
        let flags: Vec<&Flag> = groups.flat_map(|group| group.flags).collect();
        let advice = |variable: &str| {
            let name = variable.strip_prefix(VARIABLE_PREFIX)?;
            if known.iter().any(|known| known == variable) {
                return None;
            }
            let flag = flags.iter().find(|flag| crate::variable(flag.name) == variable);
            let similar = match flag.map(|flag| (flag.name, flag.kind)) {
                Some((_, FlagKind::Alias(target) | FlagKind::FormerName(target))) => {
                    let target_variable = crate::variable(target);
                    if !known.contains(&target_variable) {
                        return Some(format!("set --{target} on the command line: no variable may set it"));
                    }
                    target_variable
                }
                Some((name, _)) => {
                    return Some(format!("set --{name} on the command line: no variable may set it"));
                }
                None => {
                    let known = known.iter().filter_map(|known| known.strip_prefix(VARIABLE_PREFIX));
                    format!("{VARIABLE_PREFIX}{}", most_similar(known, name)?)
                }
            };
            Some(format!("did you mean {similar}?"))
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
            Self::Switch(_) | Self::Alias(_) | Self::FormerName(_) => return None,
            Self::Regexp(_) => "REGEXP".to_owned(),
            Self::Text(_) | Self::Texts => "TEXT".to_owned(),
            Self::Parsed { placeholder, .. } | Self::ParsedList { placeholder } => placeholder.to_owned(),
            Self::Choice { choices, .. } => choices.join("|"),
            Self::File(_) => "FILE".to_owned(),
            Self::Directory(_) | Self::Directories => "DIRECTORY".to_owned(),
            Self::Number(_) => "NUMBER".to_owned(),
            Self::Duration { .. } | Self::Interval { .. } => "DURATION".to_owned(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::{DurationRange, HELP_FLAGS, LOG_FLAGS};

    pub(crate) fn program() -> Program {
        const OWN: &[Flag] = &[
            Flag { name: "fast", kind: FlagKind::Switch(true), help: "Be fast." },
            Flag { name: "input", kind: FlagKind::File("/etc/in"), help: ".in 'file' of C:\\." },
            Flag { name: "place", kind: FlagKind::Directories, help: "Where." },
            Flag { name: "old", kind: FlagKind::Alias("place"), help: "" },
            Flag { name: "former", kind: FlagKind::FormerName("input"), help: "" },
        ];
        const COPY: &[Flag] = &[
            Flag { name: "a-flag-whose-name-fills-the-column", kind: FlagKind::Number(3), help: "How many." },
            Flag {
                name: "every",
                kind: FlagKind::Interval { alone: "2s", range: DurationRange::ANY },
                help: "Repeat.",
            },
        ];
        const COMMANDS: &[Command] = &[
            Command { name: "", operands: Operands::None, help: "serve" },
            Command {
                name: "copy",
                operands: Operands::Path { placeholder: "DIRECTORY", what: "a directory", files: false },
                help: "copy files",
            },
            Command {
                name: "show",
                operands: Operands::Any { placeholder: "THING", known: || vec![("stone", "a stone")] },
                help: "show things",
            },
            COMPLETIONS,
        ];
        let group = |title, commands, environment, flags| Group { title, commands, environment, flags };
        Program {
            name: "a-program",
            version: "1.0.0",
            version_text: "a-program 1.0.0\n".to_owned(),
            purpose: "does things.",
            note: "A note.",
            commands: COMMANDS,
            groups: vec![
                group("Own", &[], true, OWN),
                group("Copying", &["copy"], false, COPY),
                group(
                    "Secret",
                    &[],
                    false,
                    &[
                        Flag { name: "grant", kind: FlagKind::Texts, help: "Grant." },
                        Flag { name: "former-grant", kind: FlagKind::FormerName("grant"), help: "" },
                    ],
                ),
                group("Log", &[], true, LOG_FLAGS),
                group("Help", &[], false, HELP_FLAGS),
            ],
            short: &[('h', "help")],
            known_values: &[KnownValues {
                flag: "grant",
                command: "",
                values: || vec!["all".to_owned(), "+more".to_owned()],
                is_list: true,
            }],
            variables: &[("NODE_NAME", "The node.")],
            exit_statuses: &[("0", "Success.")],
        }
    }

    fn parse(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Parsed, FlagError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        program().parse(arguments.iter().map(OsString::from), variables)
    }

    fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        match parse(arguments, variables) {
            Ok(Parsed::Print(_, text)) => Ok(Some(text)),
            Ok(Parsed::Run(..)) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_flag_of_a_command_is_refused_elsewhere() {
        assert!(parse(&["copy", "x", "--every"], &[]).is_ok());
        assert_eq!(
            parse(&["--every"], &[]).unwrap_err().to_string(),
            "--every belongs to the command copy; try --help"
        );
    }

    #[test]
    fn variables_set_the_flags_of_groups_that_allow_it_and_no_others() {
        let variables = [("KEYHOLE_FAST", "false"), ("KEYHOLE_GRANT", "all"), ("KEYHOLE_HELP", "1")];
        let Parsed::Run(values, _) = parse(&[], &variables).unwrap() else { panic!("printed") };
        assert!(!values.switch("fast") && !values.switch("help"));
        assert_eq!(values.texts("grant"), [""; 0]);
    }

    #[test]
    fn a_variable_without_effect_is_listed_with_what_to_do() {
        let names = [
            "KEYHOLE_GRANT",
            "KEYHOLE_LOG_LEVLE",
            "KEYHOLE_FAST",
            "KEYHOLE_HELP",
            "KEYHOLE_IN",
            "LOG_LEVLE",
            "KEYHOLE_OLD",
            "KEYHOLE_FORMER",
            "KEYHOLE_FORMER_GRANT",
            "KEYHOLE_EVERY",
        ];
        let unused = program().unused_variables(names.map(OsString::from));
        let unused: Vec<_> = unused.iter().map(|unused| (&*unused.variable, &*unused.advice)).collect();
        assert_eq!(
            unused,
            [
                ("KEYHOLE_GRANT", "set --grant on the command line: no variable may set it"),
                ("KEYHOLE_LOG_LEVLE", "did you mean KEYHOLE_LOG_LEVEL?"),
                ("KEYHOLE_OLD", "did you mean KEYHOLE_PLACE?"),
                ("KEYHOLE_FORMER", "did you mean KEYHOLE_INPUT?"),
                ("KEYHOLE_FORMER_GRANT", "set --grant on the command line: no variable may set it"),
                ("KEYHOLE_EVERY", "set --every on the command line: no variable may set it"),
            ]
        );
    }

    #[test]
    fn a_command_is_checked_with_its_operands() {
        let command = |given: &[&str]| {
            let words = words(given);
            let found = program().command(&words);
            found
                .map(|found| found.map(|(name, operands)| (name, operands.len())))
                .map_err(|error| error.to_string())
        };
        assert_eq!(command(&[]), Ok(None));
        assert_eq!(command(&["copy", "x"]), Ok(Some(("copy", 1))));
        assert_eq!(command(&["show"]), Ok(Some(("show", 0))));
        for (given, error) in [
            (&["copy"][..], "copy needs a directory; try --help"),
            (&["copy", "x", "y"], "copy takes one word after it: copy DIRECTORY; try --help"),
            (&["--fast"], "unknown flag --fast; try --help"),
            (&["completions"], "completions needs a shell: bash, fish or zsh; try --help"),
            (&["coppy"], "unknown command \"coppy\" (did you mean copy?); try --help"),
            (&["serve"], "unknown command \"serve\": use copy, show or completions; try --help"),
        ] {
            assert_eq!(command(given).unwrap_err(), error);
        }
    }

    #[test]
    fn help_version_and_completions_are_printed() {
        // Whatever the environment is.
        let printed = |given: &[&str]| printed(given, &[("KEYHOLE_LOG_LEVEL", "loud")]);
        assert!(printed(&["copy", "x"]).unwrap_err().starts_with("KEYHOLE_LOG_LEVEL=\"loud\""));
        assert_eq!(printed(&["--help"]), Ok(Some(program().help())));
        assert_eq!(printed(&["--help", "copy"]), Ok(Some(program().command_help("copy"))));
        assert_eq!(printed(&["--help-man"]), Ok(Some(program().man_page())));
        assert_eq!(printed(&["--version"]), Ok(Some("a-program 1.0.0\n".to_owned())));
        assert_eq!(printed(&["completions", "zsh"]).unwrap(), program().completions("zsh").ok());
        assert_eq!(
            printed(&["completions", "bsh"]),
            Err("no completions for \"bsh\" (did you mean bash?): use bash, fish or zsh".to_owned())
        );
    }

    #[test]
    fn without_a_text_to_print_the_program_runs() {
        assert_eq!(printed(&["copy", "x"], &[]), Ok(None));
        assert_eq!(printed(&["--no-help", "--no-version"], &[]), Ok(None));
    }
}
