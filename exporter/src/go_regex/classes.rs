//! Sets of characters: `[a-z]`, `\d`, `\p{Greek}`, `[[:alpha:]]`.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::{GoRegexError, INVALID_ESCAPE, INVALID_RANGE, syntax};

/// `\d`, `\s` and `\w` are ASCII only, and `\s` has no vertical tab.
const PERL: &[(char, &[(char, char)])] = &[
    ('d', &[('0', '9')]),
    ('s', &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
    ('w', &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
];

#[rustfmt::skip]
const POSIX: &[(&str, &[(char, char)])] = &[
    ("alnum",  &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha",  &[('A', 'Z'), ('a', 'z')]),
    ("ascii",  &[('\0', '\x7f')]),
    ("blank",  &[('\t', '\t'), (' ', ' ')]),
    ("cntrl",  &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit",  &[('0', '9')]),
    ("graph",  &[('!', '~')]),
    ("lower",  &[('a', 'z')]),
    ("print",  &[(' ', '~')]),
    ("punct",  &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space",  &[('\t', '\r'), (' ', ' ')]),
    ("upper",  &[('A', 'Z')]),
    ("word",   &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

/// Scripts whose names are no longer than the codes of scripts (`Latn`), which Go does not know.
const SHORT_SCRIPTS: &[&str] = &[
    "ahom", "cham", "han", "kawi", "lao", "lisu", "miao", "modi", "mro", "newa", "nko", "thai", "toto",
    "vai", "yi",
];

/// Go's categories, without spaces, `_` and `-`.
#[rustfmt::skip]
const CATEGORIES: &[&str] = &[
    "c", "casedletter", "cc", "cf", "closepunctuation", "cn", "cntrl", "co", "combiningmark", "connectorpunctuation", "control",
    "currencysymbol", "dashpunctuation", "decimalnumber", "digit", "enclosingmark", "finalpunctuation", "format",
    "initialpunctuation", "l", "lc", "letter", "letternumber", "lineseparator", "ll", "lm", "lo", "lowercaseletter", "lt", "lu", "m",
    "mark", "mathsymbol", "mc", "me", "mn", "modifierletter", "modifiersymbol", "n", "nd", "nl", "no", "nonspacingmark", "number",
    "openpunctuation", "other", "otherletter", "othernumber", "otherpunctuation", "othersymbol", "p", "paragraphseparator", "pc",
    "pd", "pe", "pf", "pi", "po", "privateuse", "ps", "punct", "punctuation", "s", "sc", "separator", "sk", "sm", "so",
    "spaceseparator", "spacingmark", "symbol", "titlecaseletter", "unassigned", "uppercaseletter", "z", "zl", "zp", "zs",
];

fn set(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(ranges.iter().map(|&(start, end)| ClassUnicodeRange::new(start, end)))
}

/// A named set, case-folded and negated as requested, in this order.
fn named(mut class: ClassUnicode, fold_case: bool, negated: bool) -> ClassUnicode {
    if fold_case {
        class.case_fold_simple();
    }
    if negated { complement(&class) } else { class }
}

/// `\d`, `\D`, `\pN` and the like, and what follows it; none when `text` begins with another escape.
pub fn escaped(text: &str, fold_case: bool) -> Result<Option<(ClassUnicode, &str)>, GoRegexError> {
    let Some(letter) = text.strip_prefix('\\').and_then(|rest| rest.chars().next()) else { return Ok(None) };
    if matches!(letter, 'p' | 'P') {
        return unicode(text, letter == 'P', fold_case).map(Some);
    }
    let perl = PERL.iter().find(|(name, _)| *name == letter.to_ascii_lowercase());
    Ok(perl.map(|(_, ranges)| (named(set(ranges), fold_case, letter.is_ascii_uppercase()), &text[2..])))
}

/// `\pN`, `\p{Greek}`, `\p{^Greek}`, `\P{Greek}`.
fn unicode(text: &str, negated: bool, fold_case: bool) -> Result<(ClassUnicode, &str), GoRegexError> {
    let name = &text[2..];
    let (name, after) = match name.strip_prefix('{') {
        Some(name) => name.split_once('}').ok_or_else(|| syntax(INVALID_RANGE, text))?,
        None => name.split_at(name.chars().next().map_or(0, char::len_utf8)),
    };
    let part = &text[..text.len() - after.len()];
    let (name, inverted) = match name.strip_prefix('^') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let class = property(name).ok_or_else(|| syntax(INVALID_RANGE, part))?;
    Ok((named(class, fold_case, negated != inverted), after))
}

/// A category or a script by its name. Case, spaces, `_` and `-` in it do not matter.
fn property(name: &str) -> Option<ClassUnicode> {
    let name: String =
        name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).collect::<String>().to_ascii_lowercase();
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let kind = match name.as_str() {
        "any" => return Some(set(&[('\0', char::MAX)])),
        "ascii" => return Some(set(&[('\0', '\x7f')])),
        // Surrogates, which valid text does not contain.
        "cs" | "surrogate" => return Some(ClassUnicode::empty()),
        "assigned" => "gc",
        name if CATEGORIES.contains(&name) => "gc",
        name if name.len() > 4 || SHORT_SCRIPTS.contains(&name) => "sc",
        _ => return None,
    };
    match regex_syntax::parse(&format!(r"\p{{{kind}={name}}}")).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        _ => None,
    }
}

/// One character after a backslash, as a number, and what follows it.
pub fn escaped_character(text: &str) -> Result<(u32, &str), GoRegexError> {
    let mut rest = text[1..].chars();
    let Some(first) = rest.next() else {
        return Err(syntax("trailing backslash at end of expression", text));
    };
    let after = rest.as_str();
    let found = match first {
        // A digit alone would refer to a group.
        '1'..='7' if !after.starts_with(|c: char| c.is_digit(8)) => None,
        '0'..='7' => {
            let digits = text[1..].bytes().take(3).take_while(|byte| (b'0'..b'8').contains(byte)).count();
            u32::from_str_radix(&text[1..1 + digits], 8).ok().map(|code| (code, &text[1 + digits..]))
        }
        'x' => match after.strip_prefix('{') {
            Some(braced) => {
                braced.split_once('}').and_then(|(digits, after)| Some((code_point(digits)?, after)))
            }
            None => after.get(..2).and_then(|digits| Some((code_point(digits)?, &after[2..]))),
        },
        'a' => Some((7, after)),
        'f' => Some((0xc, after)),
        'n' => Some((0xa, after)),
        'r' => Some((0xd, after)),
        't' => Some((9, after)),
        'v' => Some((0xb, after)),
        first if first.is_ascii() && !first.is_ascii_alphanumeric() => Some((first.into(), after)),
        _ => None,
    };
    found.ok_or_else(|| syntax(INVALID_ESCAPE, &text[..text.len() - after.len()]))
}

fn code_point(digits: &str) -> Option<u32> {
    let hexadecimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Any number of leading zeros is allowed.
    let digits = digits.trim_start_matches('0');
    let code = if digits.is_empty() { Some(0) } else { u32::from_str_radix(digits, 16).ok() };
    code.filter(|code| hexadecimal && *code <= u32::from(char::MAX))
}

/// A class in brackets at the beginning of `text`, and what follows it.
pub fn bracketed(text: &str, fold_case: bool) -> Result<(ClassUnicode, &str), GoRegexError> {
    let mut rest = &text[1..];
    let negated = rest.strip_prefix('^').inspect(|after| rest = after).is_some();
    let mut ranges = Vec::new();
    let mut push = |class: &ClassUnicode| ranges.extend(class.iter().copied());
    let mut first = true;
    while first || !rest.starts_with(']') {
        first = false;
        if let Some((class, after)) = posix(rest, fold_case)? {
            push(&class);
            rest = after;
            continue;
        }
        if let Some((class, after)) = escaped(rest, fold_case)? {
            push(&class);
            rest = after;
            continue;
        }
        let range = rest;
        let (low, after) = character(rest, text)?;
        let mut high = low;
        rest = after;
        // `[a-]` holds both.
        if let Some(end) = rest.strip_prefix('-').filter(|end| !end.is_empty() && !end.starts_with(']')) {
            (high, rest) = character(end, text)?;
            if high < low {
                return Err(syntax(INVALID_RANGE, &range[..range.len() - rest.len()]));
            }
        }
        push(&named(between(low, high), fold_case, false));
    }
    Ok((named(ClassUnicode::new(ranges), false, negated), &rest[1..]))
}

/// One character in brackets, as a number: surrogates are none of text.
fn character<'p>(text: &'p str, class: &str) -> Result<(u32, &'p str), GoRegexError> {
    match text.chars().next() {
        None => Err(syntax("missing closing ]", class)),
        Some('\\') => escaped_character(text),
        Some(character) => Ok((character.into(), &text[character.len_utf8()..])),
    }
}

/// The characters from `low` to `high`, without the surrogates at either end.
fn between(low: u32, high: u32) -> ClassUnicode {
    let surrogate = |code: &u32| (0xd800..0xe000).contains(code);
    let (low, high) =
        (if surrogate(&low) { 0xe000 } else { low }, if surrogate(&high) { 0xd7ff } else { high });
    let ends = char::from_u32(low).zip(char::from_u32(high)).filter(|(low, high)| low <= high);
    set(ends.as_slice())
}

/// All characters that are not in `class`. `ClassUnicode::negate` wrongly includes U+D7FF and U+E000 if one range ends
/// at the surrogates and the next begins after them.
fn complement(class: &ClassUnicode) -> ClassUnicode {
    let mut others = ClassUnicode::empty();
    let mut low = 0;
    for range in class.iter() {
        let start = u32::from(range.start());
        if low < start {
            others.union(&between(low, start - 1));
        }
        low = u32::from(range.end()) + 1;
    }
    if low <= u32::from(char::MAX) {
        others.union(&between(low, char::MAX.into()));
    }
    others
}

/// `[:alpha:]` or `[:^alpha:]`; none if `text` does not begin with one.
fn posix(text: &str, fold_case: bool) -> Result<Option<(ClassUnicode, &str)>, GoRegexError> {
    let Some((name, after)) = text.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
        return Ok(None);
    };
    let (plain, negated) = match name.strip_prefix('^') {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let known = POSIX.iter().find(|(known, _)| *known == plain);
    let (_, ranges) = known.ok_or_else(|| syntax(INVALID_RANGE, &text[..text.len() - after.len()]))?;
    Ok(Some((named(set(ranges), fold_case, negated), after)))
}
