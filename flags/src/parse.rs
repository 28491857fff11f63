//! Reads values from the environment and from the command line.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;

use crate::similar::most_similar;
use crate::values::{Origin, Value, Values, not_utf8};
use crate::{Flag, FlagError, FlagKind, duration};

impl Values {
    /// Replaces these values by those of environment variables: `KEYHOLE_WEB_MAX_REQUESTS` sets `--web.max-requests`,
    /// if it is one of `flags`. An empty variable, and one that is no flag's, changes nothing. That of a flag on the
    /// command line, which is read before, is not looked at.
    pub fn read_environment(
        &mut self,
        flags: &[Flag],
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), FlagError> {
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|_| !value.is_empty()) else { continue };
            let flag = flags.iter().find(|flag| flag.variable().as_deref() == Some(variable));
            let Some(flag) = flag.filter(|flag| self.origin(flag.name) < Origin::CommandLine) else {
                continue;
            };
            let parsed =
                Value::from_variable(flag.kind, &value).map_err(|reason| FlagError::Environment {
                    variable: variable.to_owned(),
                    flag: flag.name,
                    value: value.to_string_lossy().into_owned(),
                    reason,
                })?;
            self.set(flag.name, parsed, Origin::Environment);
        }
        Ok(())
    }

    /// Replaces these values by those of a command line, and returns the words that are neither flags nor values.
    /// `short` maps letters to flags: `-o json`. A flag that is not repeatable is refused the second time.
    pub fn read_arguments(
        &mut self,
        flags: &[Flag],
        short: &[(char, &'static str)],
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Vec<String>, FlagError> {
        let mut reader = Reader { values: self, flags, short };
        let arguments: &mut dyn Iterator<Item = OsString> = &mut arguments.into_iter();
        reader.read(&mut arguments.peekable())
    }

    fn set(&mut self, flag: &str, value: Value, origin: Origin) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.flag.name == flag) {
            if entry.origin == origin {
                entry.value.push(value);
            } else {
                // The weaker origin is replaced, not added to.
                entry.value = value;
                entry.origin = origin;
            }
        }
    }
}

struct Reader<'v, 'f> {
    values: &'v mut Values,
    flags: &'f [Flag],
    short: &'f [(char, &'static str)],
}

type Arguments<'a> = Peekable<&'a mut dyn Iterator<Item = OsString>>;

impl Reader<'_, '_> {
    fn read(&mut self, arguments: &mut Arguments<'_>) -> Result<Vec<String>, FlagError> {
        let mut words = Vec::new();
        let word = |argument: OsString| argument.into_string().map_err(|argument| not_utf8(&argument));
        while let Some(argument) = arguments.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" {
                // What follows is no flag, whatever it looks like.
                words.extend(arguments.map(word).collect::<Result<Vec<_>, _>>()?);
                break;
            } else if let Some(flag) = bytes.strip_prefix(b"--") {
                let (name, value) = match flag.iter().position(|byte| *byte == b'=') {
                    Some(at) => (&flag[..at], Some(OsStr::from_bytes(&flag[at + 1..]))),
                    None => (flag, None),
                };
                let name = std::str::from_utf8(name).map_err(|_| not_utf8(&argument))?;
                let (flag, on) = self.find(name)?;
                self.take(flag, on, value, arguments)?;
            } else if bytes.len() > 1 && bytes[0] == b'-' {
                let (flag, value) = self.find_short(&argument)?;
                self.take(flag, true, value, arguments)?;
            } else {
                words.push(word(argument)?);
            }
        }
        Ok(words)
    }

    /// The flag with this name or alias, and whether the name switches it on.
    fn find(&self, name: &str) -> Result<(Flag, bool), FlagError> {
        let by_name = |name: &str| self.flags.iter().find(|flag| flag.name == name);
        if let Some(flag) = by_name(name) {
            return match flag.kind {
                FlagKind::Alias(target) => self.find(target),
                FlagKind::FormerName(present) => Err(FlagError::Unknown {
                    flag: format!("--{name}"),
                    similar: Some(format!("--{present}")),
                }),
                _ => Ok((*flag, true)),
            };
        }
        let positive = name.strip_prefix("no-");
        let switch = positive.and_then(by_name).filter(|flag| matches!(flag.kind, FlagKind::Switch(_)));
        let unknown = || {
            let similar =
                |name| most_similar(self.flags.iter().map(|flag| flag.name), name).and_then(by_name);
            let similar = similar(name).map(|flag| format!("--{}", flag.present_name())).or_else(|| {
                let switch = similar(positive?).filter(|flag| matches!(flag.kind, FlagKind::Switch(_)))?;
                Some(format!("--no-{}", switch.name))
            });
            FlagError::Unknown { flag: format!("--{name}"), similar }
        };
        switch.map(|flag| (*flag, false)).ok_or_else(unknown)
    }

    /// The flag that a letter stands for, and the value that is written together with it: `-ojson`, `-o=json`.
    fn find_short<'a>(&self, argument: &'a OsStr) -> Result<(Flag, Option<&'a OsStr>), FlagError> {
        let (letter, value) = (char::from(argument.as_bytes()[1]), &argument.as_bytes()[2..]);
        let name = self.short.iter().find(|(short, _)| *short == letter).map(|(_, name)| *name);
        let value = (!value.is_empty()).then(|| value.strip_prefix(b"=").unwrap_or(value));
        let flag = name.and_then(|name| self.flags.iter().find(|flag| flag.name == name));
        let takes = |flag: &&Flag| value.is_none() || !matches!(flag.kind, FlagKind::Switch(_));
        let unknown = || FlagError::Unknown { flag: argument.to_string_lossy().into_owned(), similar: None };
        flag.filter(takes).map(|flag| (*flag, value.map(OsStr::from_bytes))).ok_or_else(unknown)
    }

    fn take(
        &mut self,
        flag: Flag,
        on: bool,
        value: Option<&OsStr>,
        rest: &mut Arguments<'_>,
    ) -> Result<(), FlagError> {
        let name = flag.name;
        let parse = |value: &OsStr| {
            let value_text = || value.to_string_lossy().into_owned();
            let invalid = |reason| FlagError::Invalid { flag: name, value: value_text(), reason };
            Value::parse(flag.kind, value).map_err(invalid)
        };
        let parsed = match (flag.kind, value) {
            (FlagKind::Switch(_), Some(_)) => return Err(FlagError::Unexpected { flag: name }),
            (FlagKind::Switch(_), None) => Value::Switch(on),
            (_, Some(value)) => parse(value)?,
            (FlagKind::Interval { alone, .. }, None) => {
                if let Some(value) = rest.peek().and_then(|next| duration::written_with_unit(next.to_str()?))
                {
                    return Err(FlagError::Apart { flag: name, value });
                }
                parse(OsStr::new(alone))?
            }
            (_, None) => {
                // As in node_exporter: what begins with a dash is a flag, and a dash alone is a value.
                let is_value = |next: &OsString| next.len() <= 1 || next.as_bytes()[0] != b'-';
                let value = rest.next_if(is_value).ok_or_else(|| FlagError::Missing {
                    flag: name,
                    placeholder: flag.kind.placeholder().unwrap_or_default(),
                    next: rest.peek().map(|next| next.to_string_lossy().into_owned()),
                })?;
                parse(&value)?
            }
        };
        let repeated = self.values.origin(name) == Origin::CommandLine;
        if repeated && !flag.kind.is_repeatable() {
            return Err(FlagError::Repeated { flag: name });
        }
        self.values.set(name, parsed, Origin::CommandLine);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::DurationRange;

    const FLAGS: &[Flag] = &[
        Flag { name: "collector.cpu", kind: FlagKind::Switch(true), help: "" },
        Flag { name: "device-exclude", kind: FlagKind::Regexp("^lo$"), help: "" },
        Flag { name: "ignored-devices", kind: FlagKind::Alias("device-exclude"), help: "" },
        Flag { name: "most", kind: FlagKind::FormerName("max"), help: "" },
        Flag { name: "listen", kind: FlagKind::Texts, help: "" },
        Flag { name: "max", kind: FlagKind::Number(40), help: "" },
        Flag {
            name: "wait",
            kind: FlagKind::Duration { default: "5s", range: DurationRange::ANY },
            help: "",
        },
        Flag { name: "watch", kind: FlagKind::Interval { alone: "2s", range: DurationRange::ANY }, help: "" },
        Flag { name: "dir", kind: FlagKind::Directories, help: "" },
        Flag { name: "file", kind: FlagKind::File("/a"), help: "" },
        Flag { name: "id", kind: FlagKind::Parsed { placeholder: "ID", default: "" }, help: "" },
        Flag {
            name: "mode",
            kind: FlagKind::Choice { default: "one", choices: &["one", "two"], ignore_case: false },
            help: "",
        },
    ];
    const SHORT: &[(char, &str)] = &[('m', "max"), ('w', "watch"), ('c', "collector.cpu")];

    fn read(variables: &[(&str, &str)], arguments: &[&str]) -> Result<(Values, Vec<String>), FlagError> {
        let mut values = Values::defaults(FLAGS);
        let words = values.read_arguments(FLAGS, SHORT, arguments.iter().map(OsString::from))?;
        values.read_environment(FLAGS, variables.iter().map(|(name, value)| (name.into(), value.into())))?;
        Ok((values, words))
    }

    fn parse(arguments: &[&str]) -> Result<(Values, Vec<String>), FlagError> {
        read(&[], arguments)
    }

    fn message(arguments: &[&str]) -> String {
        parse(arguments).unwrap_err().to_string()
    }

    #[test]
    fn defaults_apply_until_they_are_replaced() {
        let (values, _) = parse(&[]).unwrap();
        assert!(values.switch("collector.cpu"));
        assert_eq!(
            (values.text("device-exclude"), values.origin("device-exclude")),
            ("^lo$", Origin::Default)
        );
        let (values, words) =
            parse(&["--no-collector.cpu", "query", "--device-exclude", "x", "--wait=1m0.5s"]).unwrap();
        assert!(!values.switch("collector.cpu"));
        assert_eq!(values.text("device-exclude"), "x");
        assert_eq!(values.value("wait"), Some(&Value::Duration(Duration::from_millis(60_500))));
        assert_eq!(words, ["query"]);
    }

    #[test]
    fn the_command_line_replaces_the_environment_and_that_the_defaults() {
        let variables = [("KEYHOLE_MAX", "7"), ("KEYHOLE_LISTEN", ":1\n:2"), ("KEYHOLE_COLLECTOR_CPU", "0")];
        let (values, _) = read(&variables, &["--listen=:3"]).unwrap();
        assert_eq!(values.value("max"), Some(&Value::Number(7)));
        assert_eq!(values.texts("listen"), [":3"]);
        assert!(!values.switch("collector.cpu"));
        let (values, _) = read(&variables, &[]).unwrap();
        assert_eq!(values.texts("listen"), [":1", ":2"]);
        assert_eq!(values.origin("listen"), Origin::Environment);
        for nothing in
            [("KEYHOLE_MAX", ""), ("KEYHOLE_WATCH", "5s"), ("KEYHOLE_IGNORED_DEVICES", "x"), ("MAX", "7")]
        {
            let (values, _) = read(&[nothing], &[]).unwrap();
            assert!(FLAGS.iter().all(|flag| values.origin(flag.name) == Origin::Default), "{nothing:?}");
        }
    }

    #[test]
    fn the_variable_of_a_flag_on_the_command_line_is_never_parsed() {
        for (argument, variable) in [
            ("--no-collector.cpu", ("KEYHOLE_COLLECTOR_CPU", "maybe")),
            ("--max=1", ("KEYHOLE_MAX", "many")),
            ("--wait=1s", ("KEYHOLE_WAIT", "soon")),
            ("--mode=two", ("KEYHOLE_MODE", "three")),
            ("--listen=:3", ("KEYHOLE_LISTEN", ":1")),
        ] {
            let (values, _) = read(&[variable], &[argument]).unwrap();
            let alone = parse(&[argument]).unwrap().0;
            assert!(FLAGS.iter().all(|flag| values.value(flag.name) == alone.value(flag.name)), "{argument}");
            if variable.0 != "KEYHOLE_LISTEN" {
                let error = read(&[variable], &[]).unwrap_err().to_string();
                assert!(error.starts_with(variable.0), "{error}");
            }
        }
    }

    #[test]
    fn an_argument_with_a_dash_is_no_value_unless_it_follows_the_equals_sign() {
        for arguments in [
            &["--device-exclude", "--max=1"][..],
            &["--device-exclude", "-m"],
            &["--device-exclude", "-1"],
            &["--device-exclude", "--"],
            &["--ignored-devices", "-x"],
        ] {
            assert_eq!(
                message(arguments),
                format!(
                    "--device-exclude needs a value: --device-exclude=REGEXP; {:?} is none: a value that begins \
                     with - must follow the =",
                    arguments[1]
                )
            );
        }
        assert!(
            message(&["-m", "--wait=5s"]).starts_with("--max needs a value: --max=NUMBER; \"--wait=5s\"")
        );
        for arguments in [&["--device-exclude=-1"][..], &["--device-exclude", "-"], &["--device-exclude", ""]]
        {
            let value = arguments.last().unwrap().trim_start_matches("--device-exclude=");
            assert_eq!(parse(arguments).unwrap().0.text("device-exclude"), value, "{arguments:?}");
        }
    }

    #[test]
    fn a_former_name_is_an_error_that_names_the_present_one() {
        for name in ["--most=1", "--mosst", "--mots=1"] {
            let name = name.split('=').next().unwrap();
            assert_eq!(message(&[name]), format!("unknown flag {name} (did you mean --max?); try --help"));
        }
    }

    #[test]
    fn two_dashes_alone_end_the_flags() {
        let (values, words) = parse(&["--max=5", "--", "--max=6", "x"]).unwrap();
        assert_eq!(values.value("max"), Some(&Value::Number(5)));
        assert_eq!(words, ["--max=6", "x"]);
        assert_eq!(parse(&["--", "-"]).unwrap().1, ["-"]);
        assert!(matches!(parse(&["--=x"]), Err(FlagError::Unknown { .. })));
    }

    #[test]
    fn a_letter_is_short_for_a_flag_with_its_value_attached_or_next() {
        for arguments in [&["-m5"][..], &["-m=5"], &["-m", "5"]] {
            assert_eq!(parse(arguments).unwrap().0.value("max"), Some(&Value::Number(5)), "{arguments:?}");
        }
        let (values, words) = parse(&["-w", "x"]).unwrap();
        assert_eq!(values.value("watch"), Some(&Value::Interval(Some(Duration::from_secs(2)))));
        assert_eq!(words, ["x"], "an interval is written together with its flag");
        assert_eq!(message(&["-w", "1"]), "--watch and its value are one word: --watch=1s");
        assert_eq!(message(&["--watch", "500ms"]), "--watch and its value are one word: --watch=500ms");
        assert_eq!(message(&["-cx"]), "unknown flag -cx; try --help");
        assert_eq!(message(&["-x"]), "unknown flag -x; try --help");
    }

    #[test]
    fn an_alias_sets_the_flag_and_both_are_too_many() {
        let (values, _) = parse(&["--ignored-devices=^veth"]).unwrap();
        assert_eq!(values.text("device-exclude"), "^veth");
        assert_eq!(
            parse(&["--ignored-devices=a", "--device-exclude=b"]).unwrap_err(),
            FlagError::Repeated { flag: "device-exclude" }
        );
    }

    #[test]
    fn a_flag_that_takes_one_value_is_accepted_once() {
        let (values, _) = parse(&["--max=1", "--listen=a", "--listen", "b"]).unwrap();
        assert_eq!(values.texts("listen"), ["a", "b"]);
        assert_eq!(message(&["--max=1", "--max=1"]), "--max cannot be repeated: give it once");
        assert_eq!(message(&["-w", "--watch"]), "--watch cannot be repeated: give it once");
        assert!(message(&["--collector.cpu", "--no-collector.cpu"]).contains("cannot be repeated"));
    }

    #[test]
    fn a_path_may_be_any_bytes_and_other_arguments_may_not() {
        let odd = |prefix: &str| OsString::from_vec([prefix.as_bytes(), b"\xff"].concat());
        use std::os::unix::ffi::OsStringExt;
        let read = |argument| Values::defaults(FLAGS).read_arguments(FLAGS, SHORT, [argument]);
        let mut values = Values::defaults(FLAGS);
        let arguments = [odd("--file="), odd("--dir="), "--dir".into(), odd("")];
        values.read_arguments(FLAGS, SHORT, arguments).unwrap();
        assert_eq!(values.path("file").unwrap().as_os_str().as_bytes(), b"\xff");
        assert_eq!(values.paths("dir").len(), 2);
        assert_eq!(
            read(odd("--max=")).unwrap_err().to_string(),
            "--max=\"\u{fffd}\": not UTF-8: use a value that is"
        );
        assert!(read(odd("")).unwrap_err().to_string().starts_with("the argument \"\\xFF\" is not UTF-8: "));
        let error = values.require_utf8_paths().unwrap_err().to_string();
        assert_eq!(error, "--dir=\"\u{fffd}\": not UTF-8: use a value that is");
        assert!(matches!(read(odd("--ma")), Err(FlagError::NotUtf8 { .. })));
        assert!(matches!(read(odd("-")), Err(FlagError::Unknown { .. })));
    }

    #[test]
    fn errors_name_the_flag_the_value_and_a_suggestion() {
        assert_eq!(
            message(&["--colector.cpu"]),
            "unknown flag --colector.cpu (did you mean --collector.cpu?); try --help"
        );
        assert_eq!(message(&["--max=many"]), "--max=\"many\": not a whole number");
        assert!(!message(&["--max=\n"]).contains('\n'));
        for number in ["-1", "1.5", "1e3", "1_000", "18446744073709551616"] {
            assert!(message(&[&format!("--max={number}")]).ends_with("not a whole number"), "{number}");
        }
        assert_eq!(message(&["--max"]), "--max needs a value: --max=NUMBER");
        assert_eq!(message(&["--id"]), "--id needs a value: --id=ID");
        assert!(message(&["--collector.cpu=true"]).contains("takes no value"));
        assert_eq!(message(&["--wait=5"]), "--wait=\"5\": no unit: use 5s for seconds");
        assert_eq!(message(&["--mode=Two"]), "--mode=\"Two\": use one or two (did you mean two?)");
        assert_eq!(
            message(&["--no-collector.cpuu"]),
            "unknown flag --no-collector.cpuu (did you mean --no-collector.cpu?); try --help"
        );
        assert!(message(&["--something-else-altogether"]).ends_with("altogether; try --help"));
        assert_eq!(
            read(&[("KEYHOLE_MAX", "many")], &[]).unwrap_err().to_string(),
            "KEYHOLE_MAX=\"many\" in the environment, for --max: not a whole number"
        );
    }

    #[test]
    fn a_value_that_a_program_cannot_parse_is_refused_with_its_origin() {
        let parse_id =
            |values: &Values| values.parse("id", |text| text.parse::<u8>().map_err(|_| "not an ID"));
        assert_eq!(parse_id(&Values::defaults(FLAGS)), Ok(None));
        let error = |variables: &[(&str, &str)], arguments: &[&str]| {
            parse_id(&read(variables, arguments).unwrap().0).unwrap_err().to_string()
        };
        assert_eq!(error(&[], &["--id=x"]), "--id=\"x\": not an ID");
        assert_eq!(error(&[], &["--id="]), "--id=\"\": not an ID");
        assert_eq!(
            error(&[("KEYHOLE_ID", "x")], &[]),
            "KEYHOLE_ID=\"x\" in the environment, for --id: not an ID"
        );
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_or_refused(
            arguments in proptest::collection::vec("(--|-)?(max|listen|w|m|dir)?=?\\PC{0,20}", 0..6),
        ) {
            let mut values = Values::defaults(FLAGS);
            if let Ok(words) = values.read_arguments(FLAGS, SHORT, arguments.iter().map(OsString::from)) {
                let given = FLAGS.iter().filter(|flag| values.origin(flag.name) == Origin::CommandLine);
                prop_assert!(given.count() + words.len() <= arguments.len());
            }
        }
    }
}
