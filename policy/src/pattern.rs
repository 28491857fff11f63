//! The pattern language of the policy table: `*` is any run of bytes within one path component, `#` one or more
//! digits, `{a,b}` either text. No regular expressions, no `..`, nothing that leaves its root.

use std::fmt;

/// A parsed pattern: one or more components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<Component>,
}

/// One component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Component {
    /// Fixed names, to be tried in order; no directory needs to be listed.
    Fixed(Vec<String>),
    /// A name to be found by listing its directory.
    Wild(Wild),
}

/// A component with a wildcard: alternatives, each a sequence of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wild {
    alternatives: Vec<Vec<Token>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Text(Vec<u8>),
    Digits,
    Any,
}

/// Why a pattern is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern {:?}: {}", self.pattern, self.reason)
    }
}

impl std::error::Error for InvalidPattern {}

impl Pattern {
    /// Parses a pattern such as `class/hwmon/hwmon#/{temp,fan}#_*`.
    pub fn parse(pattern: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason| InvalidPattern { pattern: pattern.to_owned(), reason };
        let components = pattern
            .split('/')
            .map(|component| parse_component(component).map_err(invalid))
            .collect::<Result<_, _>>()?;
        Ok(Self { components })
    }

    /// The components, from the root down.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Whether no directory has to be listed to find its files.
    pub fn is_fixed(&self) -> bool {
        self.components.iter().all(|component| matches!(component, Component::Fixed(_)))
    }
}

impl Wild {
    /// Whether the name of a directory entry matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.alternatives.iter().any(|tokens| matches(tokens, name))
    }
}

/// Backtracks over `*` only; names and patterns are short, and a pattern holds at most two `*` a component.
fn matches(tokens: &[Token], name: &[u8]) -> bool {
    let Some((first, rest)) = tokens.split_first() else {
        return name.is_empty();
    };
    match first {
        Token::Text(text) => name.strip_prefix(text.as_slice()).is_some_and(|tail| matches(rest, tail)),
        Token::Digits => {
            let digits = name.iter().take_while(|b| b.is_ascii_digit()).count();
            digits > 0 && matches(rest, &name[digits..])
        }
        Token::Any => (0..=name.len()).any(|at| matches(rest, &name[at..])),
    }
}

fn parse_component(text: &str) -> Result<Component, &'static str> {
    let names = alternatives(text)?;
    for name in &names {
        if name.is_empty() || name == "." || name == ".." {
            return Err("a component is empty, `.` or `..`");
        }
        if name.bytes().any(|b| b == 0) {
            return Err("a component holds a zero byte");
        }
    }
    if !text.contains(['*', '#']) {
        return Ok(Component::Fixed(names));
    }
    let alternatives = names.iter().map(|name| tokens(name)).collect::<Result<_, _>>()?;
    Ok(Component::Wild(Wild { alternatives }))
}

/// Multiplies out every `{a,b}` of a component.
fn alternatives(text: &str) -> Result<Vec<String>, &'static str> {
    let Some((head, tail)) = text.split_once('{') else {
        return match text.contains('}') {
            true => Err("a `}` without its `{`"),
            false => Ok(vec![text.to_owned()]),
        };
    };
    let Some((choices, tail)) = tail.split_once('}') else {
        return Err("a `{` without its `}`");
    };
    if head.contains('}') || choices.contains('{') {
        return Err("braces do not nest");
    }
    let tails = alternatives(tail)?;
    Ok(choices
        .split(',')
        .flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}")))
        .collect())
}

fn tokens(text: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut stars = 0;
    for byte in text.bytes() {
        match byte {
            b'*' if tokens.last() == Some(&Token::Any) => return Err("`**` is not a pattern"),
            b'*' => {
                stars += 1;
                tokens.push(Token::Any);
            }
            b'#' => tokens.push(Token::Digits),
            byte => match tokens.last_mut() {
                Some(Token::Text(text)) => text.push(byte),
                _ => tokens.push(Token::Text(vec![byte])),
            },
        }
    }
    match stars {
        0..=2 => Ok(tokens),
        _ => Err("more than two `*` in a component"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wild(pattern: &str) -> Wild {
        match parse_component(pattern) {
            Ok(Component::Wild(wild)) => wild,
            other => panic!("{pattern} is {other:?}"),
        }
    }

    #[test]
    fn a_component_without_wildcards_lists_its_names() {
        let pattern = Pattern::parse("net/{snmp,snmp6}").unwrap();
        assert!(pattern.is_fixed());
        assert_eq!(pattern.components()[1], Component::Fixed(vec!["snmp".into(), "snmp6".into()]));
    }

    #[test]
    fn digits_are_one_or_more_and_nothing_else() {
        let cpu = wild("cpu#");
        assert!(cpu.matches(b"cpu0") && cpu.matches(b"cpu128"));
        for other in [&b"cpu"[..], b"cpu0x", b"cpufreq", b"xcpu0", b"cpu-1", b""] {
            assert!(!cpu.matches(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_star_matches_within_its_component() {
        let sensor = wild("{temp,fan}#_*");
        assert!(sensor.matches(b"temp12_crit_alarm") && sensor.matches(b"fan1_input"));
        assert!(!sensor.matches(b"temp_input") && !sensor.matches(b"power1_input"));
        assert!(wild("lower_*").matches(b"lower_eth\xff\n"));
        assert!(wild("*").matches(b""), "a listing never has an empty name");
    }

    #[test]
    fn what_could_leave_the_root_is_not_a_pattern() {
        for pattern in ["", "/etc", "a//b", "../etc", "a/./b", "{.,..}", "a/", "{a,}"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn unbalanced_braces_and_too_many_stars_are_refused() {
        for pattern in ["{a", "a}", "{a{b}}", "**", "*a*b*c"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in "\\PC{0,40}") {
            let _ = Pattern::parse(&text);
        }

        #[test]
        fn a_literal_matches_itself_alone(name in "[a-z]{1,8}", other in "[a-z]{1,8}") {
            let pattern = wild(&format!("{name}*"));
            prop_assert!(pattern.matches(name.as_bytes()));
            prop_assert_eq!(pattern.matches(other.as_bytes()), other.starts_with(&name));
        }

        #[test]
        fn matching_ends_for_any_name(name in proptest::collection::vec(any::<u8>(), 0..300)) {
            for pattern in ["*a*", "*#*", "#*", "{a,b}*#"] {
                let _ = wild(pattern).matches(&name);
            }
        }
    }
}
