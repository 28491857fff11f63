//! `completions SHELL`: a script by which a shell completes command lines.

use std::fmt::Write as _;

use crate::similar::most_similar;
use crate::{Command, Flag, FlagError, FlagKind, Operands, Program};

pub(crate) const SHELLS: &[&str] = &["bash", "fish", "zsh"];

impl Program {
    /// The script for a shell; the error names the shells there are.
    pub fn completions(&self, shell: &str) -> Result<String, FlagError> {
        match shell {
            "bash" => Ok(self.bash()),
            "fish" => Ok(self.fish()),
            "zsh" => Ok(self.zsh()),
            other => {
                let similar = most_similar(SHELLS.iter().copied(), other);
                Err(FlagError::UnknownShell { shell: other.to_owned(), similar, shells: SHELLS })
            }
        }
    }

    fn shown_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.groups.iter().flat_map(|group| group.flags).filter(|flag| !flag.help.is_empty())
    }

    fn named_commands(&self) -> impl Iterator<Item = &'static Command> {
        self.commands.iter().filter(|command| !command.name.is_empty())
    }

    /// The commands that are followed by the path of a file or directory, or of a directory.
    fn path_commands(&self, files: bool) -> impl Iterator<Item = &'static str> {
        let with = self.named_commands().filter(move |command| match command.operands {
            Operands::Path { files: with, .. } => with == files,
            _ => false,
        });
        with.map(|command| command.name)
    }

    fn command_names(&self) -> String {
        self.named_commands().map(|command| command.name).collect::<Vec<_>>().join(" ")
    }

    /// The flags whose values are known, with these; of a command before those of any.
    fn values(&self) -> impl Iterator<Item = FlagValues> {
        self.shown_flags().filter_map(|flag| {
            let mut values = FlagValues {
                flag: flag.name,
                letter: self.short.iter().find(|(_, name)| *name == flag.name).map(|(letter, _)| *letter),
                of_commands: Vec::new(),
                of_any: Vec::new(),
                is_list: false,
            };
            if let FlagKind::Choice { choices, .. } = flag.kind {
                values.of_any = choices.iter().map(|choice| (*choice).to_owned()).collect();
            }
            for known in self.known_values.iter().filter(|known| known.flag == flag.name) {
                values.is_list |= known.is_list;
                match known.command {
                    "" => values.of_any = (known.values)(),
                    command => values.of_commands.push((command, (known.values)().join(" "))),
                }
            }
            (!values.of_any.is_empty()).then_some(values)
        })
    }

    /// The name of the shell function that completes.
    fn function(&self) -> String {
        format!("_{}", self.name.replace('-', "_"))
    }

    fn bash(&self) -> String {
        let mut arms = String::new();
        let mut letters = String::new();
        for values in self.values() {
            // Writing to a String cannot fail.
            let _ = writeln!(arms, "        {}) {} ;;", values.names(), values.bash());
            if let Some(letter) = values.letter {
                let _ = writeln!(
                    letters,
                    "                -{letter}*) {}; COMPREPLY=($(compgen -P -{letter} -W \"$words\" -- \"${{cur#-{letter}}}\")); return ;;",
                    values.bash()
                );
            }
        }
        let of_kind = |is_it: fn(FlagKind) -> bool| {
            self.shown_flags().filter(move |flag| is_it(flag.kind)).map(|flag| format!("--{}", flag.name))
        };
        let directories: Vec<String> =
            of_kind(is_directory).chain(self.path_commands(false).map(str::to_owned)).collect();
        let files: Vec<String> = of_kind(|kind| matches!(kind, FlagKind::File(_)))
            .chain(self.path_commands(true).map(str::to_owned))
            .collect();
        for (names, option) in
            [(directories, "-d"), (files, "-f")].iter().filter(|(names, _)| !names.is_empty())
        {
            let _ = writeln!(
                arms,
                "        {}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen {option} -- \"$cur\")); return ;;",
                names.join("|")
            );
        }
        let mut words_after = String::new();
        for command in self.named_commands() {
            let words = match command.operands {
                Operands::Shell => SHELLS.join(" "),
                Operands::Any { known, .. } => {
                    known().iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
                }
                Operands::None | Operands::Path { .. } | Operands::Words { .. } => continue,
            };
            let _ = writeln!(words_after, "                *,{}) words=\"{words}\" ;;", command.name);
        }
        format!(
            r#"# bash completion for {name}
{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words= command= word
    COMPREPLY=()
    # Bash takes --flag=value for three words.
    if [ "$cur" = = ]; then
        cur=
    elif [ "$before" = = ]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {commands} " in *" $word "*) command=$word; break ;; esac
    done
    case "$before" in
{arms}        *)
            case "$cur,$command" in
{letters}                -*) words="{flags}"; compopt -o nospace 2>/dev/null ;;
{words_after}                *,) words="{commands}" ;;
            esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -F {function} {name}
"#,
            name = self.name,
            function = self.function(),
            commands = self.command_names(),
            flags = self.shown_flags().map(spelling).collect::<Vec<_>>().join(" "),
        )
    }

    fn fish(&self) -> String {
        let name = self.name;
        let mut text = format!("# fish completion for {name}\ncomplete -c {name} -f\n");
        let no_command = format!("not __fish_seen_subcommand_from {}", self.command_names());
        let after = |command: &str| format!("__fish_seen_subcommand_from {command}");
        let offer = |text: &mut String, when: &str, words: &str, help: &str| {
            let help = if help.is_empty() { String::new() } else { format!(" -d {}", quoted(help)) };
            let _ = writeln!(text, "complete -c {name} -n '{when}' -a '{words}'{help}");
        };
        for command in self.named_commands() {
            offer(&mut text, &no_command, command.name, command.help);
        }
        for command in self.named_commands() {
            let when = after(command.name);
            match command.operands {
                Operands::None | Operands::Words { .. } => {}
                Operands::Path { files, .. } => {
                    let paths =
                        if files { "(__fish_complete_path)" } else { "(__fish_complete_directories)" };
                    offer(&mut text, &when, paths, "");
                }
                Operands::Shell => offer(&mut text, &when, &SHELLS.join(" "), ""),
                Operands::Any { known, .. } => {
                    known().iter().for_each(|(word, help)| offer(&mut text, &when, word, help));
                }
            }
        }
        for flag in self.shown_flags() {
            let takes = match flag.kind {
                FlagKind::Switch(_)
                | FlagKind::Alias(_)
                | FlagKind::FormerName(_)
                | FlagKind::Interval { .. } => String::new(),
                kind if is_directory(kind) => " -x -a '(__fish_complete_directories)'".to_owned(),
                FlagKind::File(_) | FlagKind::Text(_) | FlagKind::Texts => " -r -F".to_owned(),
                _ => " -x".to_owned(),
            };
            let word = spelling(flag);
            let mut word = word.trim_start_matches("--").trim_end_matches('=').to_owned();
            if let Some((letter, _)) = self.short.iter().find(|(_, name)| *name == flag.name) {
                let _ = write!(word, " -s {letter}");
            }
            let help = quoted(flag.help);
            let Some(values) = self.values().find(|values| values.flag == flag.name) else {
                let _ = writeln!(text, "complete -c {name} -l {word}{takes} -d {help}");
                continue;
            };
            let commands: Vec<&str> = values.of_commands.iter().map(|(command, _)| *command).collect();
            let otherwise = match &*commands {
                [] => String::new(),
                _ => format!(" -n 'not __fish_seen_subcommand_from {}'", commands.join(" ")),
            };
            let of_any = values.of_any.join(" ");
            let of_any = if values.is_list { format!("(__fish_append , {of_any})") } else { of_any };
            let _ = writeln!(text, "complete -c {name}{otherwise} -l {word} -x -a '{of_any}' -d {help}");
            for (command, words) in &values.of_commands {
                let _ = writeln!(
                    text,
                    "complete -c {name} -n '{}' -l {word} -x -a '{words}' -d {help}",
                    after(command)
                );
            }
        }
        text
    }

    fn zsh(&self) -> String {
        let described = |words: Vec<(String, &str)>| {
            let line = |(word, help): (String, &str)| {
                format!("    {}\n", quoted(&format!("{}:{help}", word.replace(':', "\\:"))))
            };
            words.into_iter().map(line).collect::<String>()
        };
        let flags = described(self.shown_flags().map(|flag| (spelling(flag), flag.help)).collect());
        let commands = self.named_commands().map(|command| (command.name.to_owned(), command.help));
        let commands = described(commands.collect());
        let (mut values_after_equals, mut values_apart) = (String::new(), String::new());
        for values in self.values() {
            let add = values.zsh();
            let _ =
                writeln!(values_after_equals, "    --{}=*) compset -P '*='; {add}; return ;;", values.flag);
            let _ = writeln!(values_apart, "    {}) {add}; return ;;", values.names());
        }
        let mut after = String::new();
        for command in self.named_commands() {
            let offer = match command.operands {
                Operands::None | Operands::Words { .. } => continue,
                Operands::Path { files, .. } => if files { "_files" } else { "_files -/" }.to_owned(),
                Operands::Shell => format!("compadd {}", SHELLS.join(" ")),
                Operands::Any { known, placeholder } => {
                    let known = known().into_iter().map(|(word, help)| (word.to_owned(), help)).collect();
                    let title = placeholder.to_lowercase();
                    format!("operands=(\n{}    ); _describe {title} operands", described(known))
                }
            };
            let _ = writeln!(after, "    {}) {offer} ;;", command.name);
        }
        format!(
            r#"#compdef {name}
# zsh completion for {name}
{function}() {{
  local -a flags commands operands
  local word command=
  flags=(
{flags}  )
  commands=(
{commands}  )
  for word in ${{words[2,CURRENT-1]}}; do
    if (( ${{commands[(I)$word:*]}} )); then command=$word; break; fi
  done
  case ${{words[CURRENT-1]}} in
{values_apart}  esac
  case $PREFIX in
{values_after_equals}    --*=*) compset -P '*='; _files; return ;;
    -*) _describe -o flag flags -S ''; return ;;
  esac
  case $command in
    '') _describe command commands ;;
{after}  esac
}}
if [ "$funcstack[1]" = {function} ]; then {function} "$@"; else compdef {function} {name}; fi
"#,
            name = self.name,
            function = self.function(),
        )
    }
}

/// The values of a flag, for completions.
struct FlagValues {
    flag: &'static str,
    /// The letter that stands for it.
    letter: Option<char>,
    /// Those with a command, where they are others.
    of_commands: Vec<(&'static str, String)>,
    of_any: Vec<String>,
    /// Whether it takes several, separated by commas.
    is_list: bool,
}

impl FlagValues {
    /// The flag and its letter, as a pattern of a shell: `--output|-o`.
    fn names(&self) -> String {
        self.letter.map_or_else(|| format!("--{}", self.flag), |letter| format!("--{}|-{letter}", self.flag))
    }

    /// The values that may be first in a list, and those that may follow.
    fn of_list(&self) -> (String, String) {
        let (more, first): (Vec<&str>, Vec<&str>) =
            self.of_any.iter().map(String::as_str).partition(|value| value.starts_with('+'));
        (first.join(" "), if more.is_empty() { first.join(" ") } else { more.join(" ") })
    }

    /// Sets `words` to the values, in bash, or completes an item of a list.
    fn bash(&self) -> String {
        if self.is_list {
            let (first, more) = self.of_list();
            return format!(
                "words=\"{first}\" list=; case \"$cur\" in *,*) words=\"{more}\" list=${{cur%,*}}, ;; esac; \
                 compopt -o nospace 2>/dev/null; \
                 COMPREPLY=($(compgen -P \"$list\" -W \"$words\" -- \"${{cur##*,}}\")); return"
            );
        }
        let of_any = self.of_any.join(" ");
        if self.of_commands.is_empty() {
            return format!("words=\"{of_any}\"");
        }
        let arms =
            self.of_commands.iter().map(|(command, words)| format!("{command}) words=\"{words}\" ;; "));
        let arms: String = arms.collect();
        format!("case \"$command\" in {arms}*) words=\"{of_any}\" ;; esac")
    }

    /// Adds the values, in zsh.
    fn zsh(&self) -> String {
        if self.is_list {
            let (first, more) = self.of_list();
            return format!(
                "if compset -P '*,'; then compadd -S '' -- {more}; else compadd -S '' -- {first}; fi"
            );
        }
        let of_any = self.of_any.join(" ");
        if self.of_commands.is_empty() {
            return format!("compadd {of_any}");
        }
        let arms = self.of_commands.iter().map(|(command, words)| format!("{command}) compadd {words} ;; "));
        format!("case $command in {}*) compadd {of_any} ;; esac", arms.collect::<String>())
    }
}

/// How a flag is offered: a switch that is on is there to be turned off.
fn spelling(flag: &Flag) -> String {
    match flag.kind {
        FlagKind::Switch(true) => format!("--no-{}", flag.name),
        FlagKind::Switch(false)
        | FlagKind::Alias(_)
        | FlagKind::FormerName(_)
        | FlagKind::Interval { .. } => format!("--{}", flag.name),
        _ => format!("--{}=", flag.name),
    }
}

fn is_directory(kind: FlagKind) -> bool {
    // A pattern of directories is parsed by the program.
    let is_pattern = matches!(kind, FlagKind::ParsedList { placeholder: "DIRECTORY" });
    is_pattern || matches!(kind, FlagKind::Directory(_) | FlagKind::Directories)
}

/// Text in single quotes, which all three shells read alike if it holds none.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "").replace('\'', "\u{2019}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::program;

    #[test]
    fn every_flag_command_and_operand_is_completed_in_every_shell() {
        let program = program();
        for shell in SHELLS {
            let script = program.completions(shell).unwrap();
            for flag in program.shown_flags() {
                let word = spelling(flag);
                let word = word.trim_end_matches('=');
                let word = if *shell == "fish" { word.replacen("--", "-l ", 1) } else { word.to_owned() };
                assert!(script.contains(&word), "{shell}: {word}");
            }
            let commands = program.commands.iter().map(|command| command.name);
            for word in commands.chain(["stone", "logfmt json", "bash", "all", "+more"]) {
                assert!(script.contains(word), "{shell}: {word}");
            }
            for other in ["old", "former"] {
                assert!(!script.contains(other), "{shell} offers another name");
            }
        }
    }
}
