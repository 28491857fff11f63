//! What can be wrong with a command line or an environment.

use crate::similar::suggestion;

/// A mistake on the command line or in the environment. Each message is one line, if the names of flags are.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// No such flag.
    #[error("unknown flag {flag}{}; try --help", suggestion(similar.as_deref()))]
    Unknown {
        /// As it was given, with its dashes.
        flag: String,
        /// The flag that is most similar, or the present name of this one, with dashes.
        similar: Option<String>,
    },
    /// An environment variable with a value that its flag cannot take.
    #[error("{variable}={value:?} in the environment, for --{flag}: {reason}")]
    Environment {
        /// The variable.
        variable: String,
        /// The flag that it sets.
        flag: &'static str,
        /// Its value.
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
    /// An argument that is no path and not UTF-8.
    #[error("the argument {argument} is not UTF-8: use a name that is")]
    NotUtf8 {
        /// The argument, quoted and escaped.
        argument: String,
    },
    /// No value where one is needed.
    #[error("--{flag} needs a value: --{flag}={placeholder}{}", match next {
        Some(next) => format!("; {next:?} is none: a value that begins with - must follow the ="),
        None => String::new(),
    })]
    Missing {
        /// The flag.
        flag: &'static str,
        /// What stands for its value in the help.
        placeholder: String,
        /// The argument after it, if it begins with a dash.
        next: Option<String>,
    },
    /// A value in an argument of its own, where it would be an operand.
    #[error("--{flag} and its value are one word: --{flag}={value}")]
    Apart {
        /// The flag.
        flag: &'static str,
        /// The value, with its unit.
        value: String,
    },
    /// A value where none is taken.
    #[error("--{flag} takes no value: use --{flag} or --no-{flag}")]
    Unexpected {
        /// The flag.
        flag: &'static str,
    },
    /// Twice the same.
    #[error("--{flag} cannot be repeated: give it once")]
    Repeated {
        /// The flag.
        flag: &'static str,
    },
    /// A flag of another command.
    #[error(
        "--{flag} belongs to the command{} {}; try --help",
        if commands.len() > 1 { "s" } else { "" },
        commands.join(" and ")
    )]
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
    /// No such command.
    #[error("unknown command {word:?}{}; try --help", match similar {
        Some(_) => suggestion(*similar),
        None => format!(": use {}", alternatives(commands)),
    })]
    UnknownCommand {
        /// As it was given.
        word: String,
        /// The command that is most similar.
        similar: Option<&'static str>,
        /// All of them.
        commands: Vec<&'static str>,
    },
    /// A command with too few or too many words after it.
    #[error("{command} {mistake}; try --help")]
    Operands {
        /// The command.
        command: &'static str,
        /// What is wrong: `takes no words after it`.
        mistake: String,
    },
    /// No completions for this shell.
    #[error("no completions for {shell:?}{}: use {}", suggestion(*similar), alternatives(shells))]
    UnknownShell {
        /// As it was given.
        shell: String,
        /// The shell that is most similar.
        similar: Option<&'static str>,
        /// All of them.
        shells: &'static [&'static str],
    },
}

/// `a, b or c`.
pub fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
