//! Regular expressions in the syntax of Go's package regexp, which node_exporter's flags use.
//!
//! <https://pkg.go.dev/regexp/syntax>
//!
//! The regex crate has another syntax: its `\w`, `\d`, `\s` and `\b` match all of Unicode, its classes have set
//! operations (`&&`, `--`, `~~`) and can be nested, and it rejects `\Q..\E`, octal escapes and a literal `{`. So an
//! expression is parsed by Go's grammar and translated to the common subset: literals, classes as ranges, groups and
//! repetitions. What Go rejects is rejected, with Go's message.
//!
//! Only `is_match` is used, so greediness does not matter and groups need not capture.

mod classes;

use std::fmt::Write as _;

use regex::bytes::Regex;
use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

/// The most bytes of an expression: the longest argument that Linux takes (MAX_ARG_STRLEN).
const MAX_PATTERN_BYTES: usize = 128 << 10;
/// The most bytes of its translation, in which Unicode classes are written out as ranges.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// The most nested groups. Go has 1,000; the regex crate recurses up to four times for each.
const MAX_GROUP_DEPTH: usize = 50;
/// The most nested repetitions, each of which is two levels.
const MAX_NESTED_REPETITIONS: usize = 25;
/// The most copies that nested repetitions may produce, as in Go.
const MAX_COPIES: u64 = 1000;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct GoRegex {
    regex: Regex,
    /// Whether it can match the empty string within a character, where Go does not look.
    may_split_characters: bool,
}

/// Why an expression is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoRegexError {
    /// Go rejects it as well.
    #[error("not a regular expression: {reason}: {part:?}")]
    Syntax {
        /// Go's message.
        reason: &'static str,
        /// What is wrong.
        part: String,
    },
    /// Go accepts it, and it exceeds a limit here.
    #[error("a regular expression too large: {0}")]
    TooLarge(&'static str),
}

impl GoRegex {
    /// Compiles `pattern`.
    pub fn new(pattern: &str) -> Result<Self, GoRegexError> {
        let mut parser = Parser::default();
        parser.parse(pattern)?;
        let regex = Regex::new(&parser.output);
        Ok(Self {
            regex: regex.map_err(|_| GoRegexError::TooLarge("it takes more than 10 MiB when compiled"))?,
            may_split_characters: parser.may_split_characters,
        })
    }

    /// Whether it matches anywhere in `text`. As in Go, each byte that is no UTF-8 is a U+FFFD.
    pub fn is_match(&self, text: &[u8]) -> bool {
        match std::str::from_utf8(text) {
            Ok(text) => self.is_match_in(text),
            Err(_) => self.is_match_in(&replace_invalid_utf8(text)),
        }
    }

    fn is_match_in(&self, text: &str) -> bool {
        if self.may_split_characters {
            self.regex.find_iter(text.as_bytes()).any(|found| text.is_char_boundary(found.start()))
        } else {
            self.regex.is_match(text.as_bytes())
        }
    }
}

/// Replaces each byte that is not UTF-8 by U+FFFD.
fn replace_invalid_utf8(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for chunk in text.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    out
}

/// What `(?ims)` sets. `U` swaps greediness, which does not matter here.
#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    fold_case: bool,
    lines: bool,
    dot_is_any: bool,
}

/// A group that is still open; the outermost is the whole expression.
#[derive(Debug, Default)]
struct Group {
    /// Where it begins in the translation.
    start: usize,
    /// The flags before it, which apply again after it.
    flags: Flags,
    /// The last thing that a repetition could follow; none after `(` and `|`.
    last: Option<Atom>,
    /// The most copies that anything before it asks for.
    copies: u64,
}

#[derive(Debug, Clone, Copy)]
struct Atom {
    start: usize,
    repeated: bool,
    /// The most copies of one thing in it that repetitions ask for.
    copies: u64,
}

#[derive(Debug, Default)]
struct Parser {
    output: String,
    flags: Flags,
    open: Vec<Group>,
    group: Group,
    /// Repetitions of what is already repeated.
    nested_repetitions: usize,
    may_split_characters: bool,
}

fn syntax(reason: &'static str, part: &str) -> GoRegexError {
    // Enough to find it in the pattern.
    GoRegexError::Syntax { reason, part: part.chars().take(60).collect() }
}

const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const INVALID_ESCAPE: &str = "invalid escape sequence";
const INVALID_RANGE: &str = "invalid character class range";

impl Parser {
    fn parse(&mut self, pattern: &str) -> Result<(), GoRegexError> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(GoRegexError::TooLarge("it is longer than 128 KiB"));
        }
        let mut rest = pattern;
        // Where the repetition began that was the last thing seen: `a**` is an error.
        let mut repetition: Option<&str> = None;
        while let Some(first) = rest.chars().next() {
            if self.output.len() > MAX_OUTPUT_BYTES {
                return Err(GoRegexError::TooLarge("its classes take more than 1 MiB"));
            }
            let before = rest;
            let after = &rest[first.len_utf8()..];
            let mut repeated = false;
            rest = match first {
                '(' if after.starts_with('?') => self.flags_or_group(rest)?,
                '(' => self.begin_group(after)?,
                '|' => {
                    self.end_atom();
                    self.output.push('|');
                    after
                }
                ')' => {
                    self.end_group().ok_or_else(|| syntax("unexpected )", pattern))?;
                    after
                }
                '^' => self.fixed(if self.flags.lines { "(?m:^)" } else { r"\A" }, after),
                '$' => self.fixed(if self.flags.lines { "(?m:$)" } else { r"\z" }, after),
                '.' => self.fixed(if self.flags.dot_is_any { "(?s:.)" } else { r"[^\n]" }, after),
                '[' => {
                    let (class, after) = classes::bracketed(rest, self.flags.fold_case)?;
                    self.class(&class, after)
                }
                '*' | '+' | '?' => {
                    repeated = true;
                    self.repeat(None, before, after, repetition)?
                }
                '{' => match Counts::parse(rest) {
                    None => self.literal('{', after),
                    Some((counts, after)) => {
                        repeated = true;
                        if !counts.are_valid() {
                            let part = &before[..before.len() - after.len()];
                            return Err(syntax("invalid repeat count", part));
                        }
                        self.repeat(Some(counts), before, after, repetition)?
                    }
                },
                '\\' => self.escape(rest)?,
                character => self.literal(character, after),
            };
            repetition = repeated.then_some(before);
        }
        if self.open.is_empty() { Ok(()) } else { Err(syntax("missing closing )", pattern)) }
    }

    /// Begins something that a repetition may follow.
    fn begin_atom(&mut self) {
        self.end_atom();
        self.group.last = Some(Atom { start: self.output.len(), repeated: false, copies: 1 });
    }

    fn end_atom(&mut self) {
        if let Some(atom) = self.group.last.take() {
            self.group.copies = self.group.copies.max(atom.copies);
        }
    }

    fn fixed<'p>(&mut self, text: &str, after: &'p str) -> &'p str {
        self.begin_atom();
        self.output.push_str(text);
        after
    }

    fn literal<'p>(&mut self, character: char, after: &'p str) -> &'p str {
        if self.flags.fold_case {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(character, character)]);
            class.case_fold_simple();
            return self.class(&class, after);
        }
        self.begin_atom();
        self.output.push_str(&regex_syntax::escape(character.encode_utf8(&mut [0; 4])));
        after
    }

    fn class<'p>(&mut self, class: &ClassUnicode, after: &'p str) -> &'p str {
        self.begin_atom();
        if class.ranges().is_empty() {
            // A class that matches nothing.
            self.output.push_str(r"[^\x00-\x{10FFFF}]");
            return after;
        }
        self.output.push('[');
        for range in class.ranges() {
            let (start, end) = (u32::from(range.start()), u32::from(range.end()));
            // Writing to a String cannot fail.
            let _ = if start == end {
                write!(self.output, r"\x{{{start:X}}}")
            } else {
                write!(self.output, r"\x{{{start:X}}}-\x{{{end:X}}}")
            };
        }
        self.output.push(']');
        after
    }

    fn begin_group<'p>(&mut self, after: &'p str) -> Result<&'p str, GoRegexError> {
        if self.open.len() >= MAX_GROUP_DEPTH {
            return Err(GoRegexError::TooLarge("its groups are more than 50 deep"));
        }
        self.begin_atom();
        let group = Group { start: self.output.len(), flags: self.flags, ..Group::default() };
        self.open.push(std::mem::replace(&mut self.group, group));
        self.output.push_str("(?:");
        Ok(after)
    }

    fn end_group(&mut self) -> Option<()> {
        let outer = self.open.pop()?;
        self.end_atom();
        let inner = std::mem::replace(&mut self.group, outer);
        self.output.push(')');
        self.flags = inner.flags;
        self.group.last = Some(Atom { start: inner.start, repeated: false, copies: inner.copies.max(1) });
        Some(())
    }

    /// `(?P<name>`, `(?<name>`, `(?flags)` or `(?flags:`.
    fn flags_or_group<'p>(&mut self, text: &'p str) -> Result<&'p str, GoRegexError> {
        if let Some(named) = text.strip_prefix("(?P<").or_else(|| text.strip_prefix("(?<")) {
            let (name, after) = named.split_once('>').ok_or_else(|| syntax("invalid named capture", text))?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(syntax("invalid named capture", &text[..text.len() - after.len()]));
            }
            return self.begin_group(after);
        }
        let mut flags = self.flags;
        let (mut on, mut seen) = (true, false);
        let letters = &text[2..];
        for (at, letter) in letters.char_indices() {
            let after = &letters[at + letter.len_utf8()..];
            match letter {
                'i' => flags.fold_case = on,
                'm' => flags.lines = on,
                's' => flags.dot_is_any = on,
                'U' => {}
                '-' if on => {
                    (on, seen) = (false, false);
                    continue;
                }
                ':' | ')' if on || seen => {
                    if letter == ':' {
                        self.begin_group(after)?;
                    }
                    self.flags = flags;
                    return Ok(after);
                }
                _ => {
                    return Err(syntax(
                        "invalid or unsupported Perl syntax",
                        &text[..text.len() - after.len()],
                    ));
                }
            }
            seen = true;
        }
        Err(syntax("invalid or unsupported Perl syntax", text))
    }

    fn repeat<'p>(
        &mut self,
        counts: Option<Counts>,
        before: &'p str,
        after: &'p str,
        repetition: Option<&str>,
    ) -> Result<&'p str, GoRegexError> {
        let operator = &before[..before.len() - after.len()];
        let after = after.strip_prefix('?').unwrap_or(after);
        let part = |from: &'p str| &from[..from.len() - after.len()];
        if let Some(first) = repetition {
            return Err(syntax("invalid nested repetition operator", &first[..first.len() - after.len()]));
        }
        let Some(atom) = &mut self.group.last else {
            return Err(syntax(MISSING_ARGUMENT, part(before)));
        };
        if let Some(counts) = counts {
            atom.copies = match counts.max.unwrap_or(counts.min) {
                // `x{0}` leaves no copies.
                0 if counts.max == Some(0) => 0,
                copies => atom.copies.saturating_mul(copies.max(1)),
            };
            let several = counts.min >= 2 || counts.max.is_some_and(|max| max >= 2);
            if several && atom.copies > MAX_COPIES {
                return Err(syntax("invalid repeat count", part(before)));
            }
        }
        if atom.repeated {
            self.nested_repetitions += 1;
            if self.nested_repetitions > MAX_NESTED_REPETITIONS {
                return Err(GoRegexError::TooLarge("it repeats repetitions more than 25 times"));
            }
            self.output.insert_str(atom.start, "(?:");
            self.output.push(')');
        }
        atom.repeated = true;
        match counts {
            None => self.output.push_str(operator),
            Some(counts) => counts.write(&mut self.output),
        }
        Ok(after)
    }

    /// An escape sequence outside of brackets.
    fn escape<'p>(&mut self, text: &'p str) -> Result<&'p str, GoRegexError> {
        if let Some(quoted) = text.strip_prefix(r"\Q") {
            let (literals, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            for character in literals.chars() {
                self.literal(character, after);
            }
            return Ok(after);
        }
        let after = text.get(2..).unwrap_or_default();
        match text.as_bytes().get(1) {
            Some(b'A') => return Ok(self.fixed(r"\A", after)),
            Some(b'z') => return Ok(self.fixed(r"\z", after)),
            Some(b'b') => return Ok(self.fixed(r"(?-u:\b)", after)),
            Some(b'B') => {
                self.may_split_characters = true;
                return Ok(self.fixed(r"(?-u:\B)", after));
            }
            _ => {}
        }
        if let Some((class, after)) = classes::escaped(text, self.flags.fold_case)? {
            return Ok(self.class(&class, after));
        }
        let (code, after) = classes::escaped_character(text)?;
        Ok(match char::from_u32(code) {
            Some(character) => self.literal(character, after),
            // A surrogate, which valid text does not contain.
            None => self.class(&ClassUnicode::empty(), after),
        })
    }
}

/// The counts of `{min,max}`.
#[derive(Debug, Clone, Copy)]
struct Counts {
    min: u64,
    max: Option<u64>,
}

impl Counts {
    /// `{2}`, `{2,}` or `{2,5}`; none when it is anything else, and then stands for itself.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            (plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().unwrap_or(u64::MAX))
        };
        let counts = match inside.split_once(',') {
            None => Self { min: number(inside)?, max: Some(number(inside)?) },
            Some((min, "")) => Self { min: number(min)?, max: None },
            Some((min, max)) => Self { min: number(min)?, max: Some(number(max)?) },
        };
        Some((counts, after))
    }

    fn are_valid(self) -> bool {
        let max = self.max.unwrap_or(MAX_COPIES);
        self.min <= max && max <= MAX_COPIES
    }

    fn write(self, out: &mut String) {
        let Self { min, max } = self;
        // Writing to a String cannot fail.
        let _ = match max {
            Some(max) => write!(out, "{{{min},{max}}}"),
            None => write!(out, "{{{min},}}"),
        };
    }
}

#[cfg(test)]
mod tests;
