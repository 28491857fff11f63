//! Compares with Go's package regexp: `table.json` is written by `tests/peers/go_regex/main.go`.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Table {
    /// A character of these is a byte.
    texts: Vec<String>,
    /// A pattern, whether Go accepts it, and the indexes of the texts that it matches.
    patterns: Vec<(String, bool, Vec<usize>)>,
}

#[test]
fn a_pattern_matches_or_is_rejected_as_in_go() {
    let table =
        std::env::var("GO_REGEX_TABLE").ok().map(|path| std::fs::read_to_string(path).expect("a table"));
    let table: Table =
        serde_json::from_str(table.as_deref().unwrap_or(include_str!("table.json"))).expect("a table");
    let texts: Vec<Vec<u8>> =
        table.texts.iter().map(|text| text.chars().map(|byte| byte as u8).collect()).collect();
    assert!(texts.len() > 100 && table.patterns.len() > 400);
    let mut wrong = Vec::new();
    for (pattern, taken, matched) in &table.patterns {
        match GoRegex::new(pattern) {
            Ok(_) if !taken => wrong.push(format!("{pattern}: Go refuses it")),
            Err(error) if *taken => wrong.push(format!("{pattern}: Go takes it: {error}")),
            Err(_) => {}
            Ok(regex) => {
                for (at, text) in texts.iter().enumerate() {
                    let (here, there) = (regex.is_match(text), matched.contains(&at));
                    if here != there {
                        wrong.push(format!("{pattern} on {}: {here}, in Go {there}", text.escape_ascii()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}

#[test]
fn errors_are_gos_in_one_line() {
    for (pattern, error) in [
        ("(\n", r#"not a regular expression: missing closing ): "(\n""#),
        ("x)", r#"not a regular expression: unexpected ): "x)""#),
        ("a**", r#"not a regular expression: invalid nested repetition operator: "**""#),
        ("a*??b", r#"not a regular expression: invalid nested repetition operator: "*??""#),
        ("*", r#"not a regular expression: missing argument to repetition operator: "*""#),
        ("ab{2,1}c", r#"not a regular expression: invalid repeat count: "{2,1}""#),
        (r"a\yb", r#"not a regular expression: invalid escape sequence: "\\y""#),
        (r"[b-a]", r#"not a regular expression: invalid character class range: "b-a""#),
        (r"\p{Foo}x", r#"not a regular expression: invalid character class range: "\\p{Foo}""#),
        ("(?=x)", r#"not a regular expression: invalid or unsupported Perl syntax: "(?=""#),
        ("[a", r#"not a regular expression: missing closing ]: "[a""#),
    ] {
        assert_eq!(GoRegex::new(pattern).unwrap_err().to_string(), error);
    }
}

#[test]
fn a_pattern_that_is_too_large_is_rejected_quickly() {
    let deep = format!("{}x{}", "(".repeat(51), ")".repeat(51));
    let long = "x".repeat(MAX_PATTERN_BYTES + 1);
    let classes = r"\pL".repeat(1000);
    let repeated = format!("x*{}", "(?i)*".repeat(26));
    for pattern in [&deep, &long, &classes, &repeated, r"(?:\pL{1000})"] {
        let error = GoRegex::new(pattern).unwrap_err();
        assert!(matches!(error, GoRegexError::TooLarge(_)), "{error}");
    }
    let deep = format!("{}x{}", "(a|b*(?i)*c".repeat(25), ")*".repeat(25));
    assert!(GoRegex::new(&deep).is_ok());
    assert!(GoRegex::new("(?:.{1000})").is_ok());
}

#[test]
fn scripts_have_their_long_names_with_or_without_underscores() {
    // Go before 1.25 has the one spelling, Go since then the other alone.
    for name in ["Old_Italic", "OldItalic", "old italic"] {
        assert!(
            GoRegex::new(&format!(r"^\p{{{name}}}$")).unwrap().is_match("\u{10300}".as_bytes()),
            "{name}"
        );
    }
    for script in SCRIPTS_OF_A_FEW_LETTERS {
        assert!(GoRegex::new(&format!(r"\p{{{script}}}")).is_ok(), "{script}");
    }
}

#[test]
fn unicode_is_newer_than_gos() {
    // Garay came with Unicode 16.
    assert!(GoRegex::new(r"^\p{Garay}$").unwrap().is_match("\u{10d50}".as_bytes()));
}

const SCRIPTS_OF_A_FEW_LETTERS: &[&str] = &[
    "Ahom", "Cham", "Han", "Kawi", "Lao", "Lisu", "Miao", "Modi", "Mro", "Newa", "Nko", "Thai", "Toto",
    "Vai", "Yi",
];

proptest! {
    #[test]
    fn no_pattern_panics(pattern in "\\PC{0,30}", text in prop::collection::vec(any::<u8>(), 0..20)) {
        if let Ok(regex) = GoRegex::new(&pattern) {
            regex.is_match(&text);
        }
    }

    #[test]
    fn no_pattern_of_syntax_characters_panics(
        pattern in r"[\\(){}\[\]|*+?^$.,:&~<>=!#'-9Qa-ceipswxzABCEPQU é\n]{0,30}",
        text in "[a-zA-Z0-9é\n ]{0,12}",
    ) {
        match GoRegex::new(&pattern) {
            Ok(regex) => _ = regex.is_match(text.as_bytes()),
            Err(error) => prop_assert!(matches!(error, GoRegexError::Syntax { .. }), "{error}"),
        }
    }

    #[test]
    fn quoted_text_matches_literally(text in "[^\\\\]{0,30}") {
        let regex = GoRegex::new(&format!(r"^\Q{text}\E$")).unwrap();
        prop_assert!(regex.is_match(text.as_bytes()));
        let longer = text + "x";
        prop_assert!(!regex.is_match(longer.as_bytes()));
    }
}
