//! `completions SHELL`: what a shell offers after `keyhole-exporter`, written from the tables of flags and collectors.

use std::fmt::Write as _;

use super::{COMMANDS, flags};
use crate::collector::COLLECTORS;
use crate::options::{Flag, FlagKind, nearest};

const SHELLS: &[&str] = &["bash", "fish", "zsh"];

/// Flags with a few values, which are offered too.
const CHOICES: &[(&str, &str)] = &[
    ("log.format", "logfmt json"),
    ("log.level", "debug info warn error"),
    ("output", "table json prom raw"),
];

/// The script for a shell; the error names the shells there are.
pub fn script(shell: &str) -> Result<String, String> {
    match shell {
        "bash" => Ok(bash()),
        "fish" => Ok(fish()),
        "zsh" => Ok(zsh()),
        other => {
            let near = nearest(SHELLS.iter().copied(), other);
            let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            Err(format!("no completions for {other:?}{near}: bash, zsh or fish"))
        }
    }
}

fn shown() -> impl Iterator<Item = Flag> {
    flags::all().into_iter().filter(|flag| !flag.help.is_empty())
}

/// The words that a flag is written as: a switch that is on is there to be turned off.
fn spelling(flag: &Flag) -> String {
    match flag.kind {
        FlagKind::Switch(true) => format!("--no-{}", flag.name),
        FlagKind::Switch(false) | FlagKind::Alias(_) | FlagKind::Interval(_) => format!("--{}", flag.name),
        _ => format!("--{}=", flag.name),
    }
}

fn commands() -> String {
    let names: Vec<&str> =
        COMMANDS.iter().map(|command| command.name).filter(|name| !name.is_empty()).collect();
    names.join(" ")
}

fn collectors() -> String {
    COLLECTORS.iter().map(|collector| collector.name).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let flags: Vec<String> = shown().map(|flag| spelling(&flag)).collect();
    let choices: String = CHOICES.iter().fold(String::new(), |mut text, (flag, values)| {
        let _ = writeln!(text, "        --{flag}) words=\"{values}\" ;;");
        text
    });
    format!(
        r#"# bash completion for keyhole-exporter
_keyhole_exporter() {{
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
{choices}        -o) words="table json prom raw" ;;
        --from|capture|replay) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
        *)
            case "$cur,$command" in
                -*) words="{flags}"; compopt -o nospace 2>/dev/null ;;
                *,query) words="{collectors}" ;;
                *,completions) words="{shells}" ;;
                *,) words="{commands}" ;;
            esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -F _keyhole_exporter keyhole-exporter
"#,
        commands = commands(),
        collectors = collectors(),
        flags = flags.join(" "),
        shells = SHELLS.join(" "),
    )
}

fn fish() -> String {
    let mut text = "# fish completion for keyhole-exporter\ncomplete -c keyhole-exporter -f\n".to_owned();
    let no_command = format!("not __fish_seen_subcommand_from {}", commands());
    for command in COMMANDS.iter().filter(|command| !command.name.is_empty()) {
        let _ = writeln!(
            text,
            "complete -c keyhole-exporter -n '{no_command}' -a {} -d {}",
            command.name,
            quoted(command.help)
        );
    }
    let after = |command: &str| format!("__fish_seen_subcommand_from {command}");
    for collector in COLLECTORS {
        let (when, help) = (after("query"), quoted(collector.help));
        let _ = writeln!(text, "complete -c keyhole-exporter -n '{when}' -a {} -d {help}", collector.name);
    }
    let _ = writeln!(
        text,
        "complete -c keyhole-exporter -n '{}' -a '{}'",
        after("completions"),
        SHELLS.join(" ")
    );
    let _ = writeln!(
        text,
        "complete -c keyhole-exporter -n '{}' -a '(__fish_complete_directories)'",
        after("capture replay")
    );
    for flag in shown() {
        let choices = CHOICES.iter().find(|(name, _)| *name == flag.name);
        let takes = match (flag.kind, choices) {
            (FlagKind::Switch(_) | FlagKind::Alias(_) | FlagKind::Interval(_), _) => String::new(),
            (_, Some((_, values))) => format!(" -x -a '{values}'"),
            (_, None) => " -r -F".to_owned(),
        };
        let name = spelling(&flag);
        let name = name.trim_start_matches("--").trim_end_matches('=');
        let _ = writeln!(text, "complete -c keyhole-exporter -l {name}{takes} -d {}", quoted(flag.help));
    }
    text
}

fn zsh() -> String {
    let described = |words: Vec<(String, &str)>| {
        let line = |(word, help): (String, &str)| {
            format!("    {}\n", quoted(&format!("{}:{help}", word.replace(':', "\\:"))))
        };
        words.into_iter().map(line).collect::<String>()
    };
    let flags = described(shown().map(|flag| (spelling(&flag), flag.help)).collect());
    let named = COMMANDS.iter().filter(|command| !command.name.is_empty());
    let commands = described(named.map(|command| (command.name.to_owned(), command.help)).collect());
    let collectors = described(COLLECTORS.iter().map(|c| (c.name.to_owned(), c.help)).collect());
    let choices: String = CHOICES.iter().fold(String::new(), |mut text, (flag, values)| {
        let _ = writeln!(text, "    --{flag}=*) compset -P '*='; compadd {values}; return ;;");
        text
    });
    format!(
        r#"#compdef keyhole-exporter
# zsh completion for keyhole-exporter
_keyhole_exporter() {{
  local -a flags commands collectors
  local word command=
  flags=(
{flags}  )
  commands=(
{commands}  )
  collectors=(
{collectors}  )
  for word in ${{words[2,CURRENT-1]}}; do
    if (( ${{commands[(I)$word:*]}} )); then command=$word; break; fi
  done
  case $PREFIX in
{choices}    --*=*) compset -P '*='; _files; return ;;
    -*) _describe -o flag flags -S ''; return ;;
  esac
  case $command in
    '') _describe command commands ;;
    query) _describe collector collectors ;;
    capture|replay) _files -/ ;;
    completions) compadd {shells} ;;
  esac
}}
if [ "$funcstack[1]" = _keyhole_exporter ]; then _keyhole_exporter "$@"; else compdef _keyhole_exporter keyhole-exporter; fi
"#,
        shells = SHELLS.join(" "),
    )
}

/// A word in single quotes, which all three shells read alike once it holds none.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "").replace('\'', "\u{2019}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_command_and_collector_is_offered_in_every_shell() {
        for shell in SHELLS {
            let script = script(shell).unwrap();
            for flag in shown() {
                let name = spelling(&flag);
                let name = name.trim_end_matches('=');
                let name = if *shell == "fish" { name.replacen("--", "-l ", 1) } else { name.to_owned() };
                assert!(script.contains(&name), "{shell}: {name}");
            }
            for name in COMMANDS.iter().map(|c| c.name).chain(COLLECTORS.iter().map(|c| c.name)) {
                assert!(script.contains(name), "{shell}: {name}");
            }
        }
        assert_eq!(
            script("bsh").unwrap_err(),
            "no completions for \"bsh\" (did you mean bash?): bash, zsh or fish"
        );
    }

    #[test]
    fn the_choices_are_of_flags_that_there_are() {
        for (name, _) in CHOICES {
            assert!(flags::all().iter().any(|flag| flag.name == *name), "{name}");
        }
    }
}
