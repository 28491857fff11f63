//! Regular expressions in the syntax of Go's package regexp, which node_exporter's flags use.
//!
//! <https://pkg.go.dev/regexp/syntax>
//!
//! The regex crate has another syntax: its `\w`, `\d`, `\s` and `\b` match all of Unicode, its classes have set
//! operations (`&&`, `--`, `~~`) and can be nested, and it rejects `\Q..\E`, octal escapes and a literal `{`. So an
//! expression is parsed here by Go's grammar and translated to what both have in common: literals, classes as ranges,
//! groups, and repetitions. What Go rejects is rejected, with Go's message.
//!
//! Only whether an expression matches is used. So greediness does not matter, and groups capture nothing.

mod classes;

use std::fmt::Write as _;

use regex::bytes::Regex;
use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

/// The most bytes of an expression: the longest argument that Linux takes (MAX_ARG_STRLEN).
const LONGEST: usize = 128 << 10;
/// The most bytes of its translation, in which Unicode classes are written out as ranges.
const LONGEST_WRITTEN: usize = 1 << 20;
/// The most nested groups. Go has 1,000; the regex crate recurses up to four times for each.
const DEEPEST: usize = 50;
/// The most nested repetitions, each of which is two levels.
const MOST_WRAPPED: usize = 25;
/// The most copies that nested repetitions may ask for, as in Go.
const MOST_COPIES: u64 = 1000;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct GoRegex {
    regex: Regex,
    /// Whether it can match the empty string within a character, where Go does not look.
    splits_characters: bool,
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
        let regex = Regex::new(&parser.written);
        Ok(Self {
            regex: regex.map_err(|_| GoRegexError::TooLarge("it takes more than 10 MiB when compiled"))?,
            splits_characters: parser.splits_characters,
        })
    }

    /// Whether it matches anywhere in `text`. As in Go, each byte that is no UTF-8 is a U+FFFD.
    pub fn is_match(&self, text: &[u8]) -> bool {
        match std::str::from_utf8(text) {
            Ok(text) => self.is_match_in(text),
            Err(_) => self.is_match_in(&replaced(text)),
        }
    }

    fn is_match_in(&self, text: &str) -> bool {
        match self.splits_characters {
            false => self.regex.is_match(text.as_bytes()),
            true => self.regex.find_iter(text.as_bytes()).any(|found| text.is_char_boundary(found.start())),
        }
    }
}

/// `text` with a U+FFFD for each byte that is no UTF-8.
fn replaced(text: &[u8]) -> String {
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
    written: String,
    flags: Flags,
    open: Vec<Group>,
    group: Group,
    /// Repetitions of what is already repeated.
    wrapped: usize,
    splits_characters: bool,
}

fn syntax(reason: &'static str, part: &str) -> GoRegexError {
    // Enough to find it by.
    GoRegexError::Syntax { reason, part: part.chars().take(60).collect() }
}

const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const INVALID_ESCAPE: &str = "invalid escape sequence";
const INVALID_RANGE: &str = "invalid character class range";

impl Parser {
    fn parse(&mut self, pattern: &str) -> Result<(), GoRegexError> {
        if pattern.len() > LONGEST {
            return Err(GoRegexError::TooLarge("it is longer than 128 KiB"));
        }
        let mut rest = pattern;
        // Where the repetition began that was the last thing seen: `a**` is an error.
        let mut repetition: Option<&str> = None;
        while let Some(first) = rest.chars().next() {
            if self.written.len() > LONGEST_WRITTEN {
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
                    self.written.push('|');
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
                        if !counts.fit() {
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
        match self.open.is_empty() {
            true => Ok(()),
            false => Err(syntax("missing closing )", pattern)),
        }
    }

    /// Something that a repetition may follow, beginning here.
    fn begin_atom(&mut self) {
        self.end_atom();
        self.group.last = Some(Atom { start: self.written.len(), repeated: false, copies: 1 });
    }

    fn end_atom(&mut self) {
        if let Some(atom) = self.group.last.take() {
            self.group.copies = self.group.copies.max(atom.copies);
        }
    }

    fn fixed<'p>(&mut self, text: &str, after: &'p str) -> &'p str {
        self.begin_atom();
        self.written.push_str(text);
        after
    }

    fn literal<'p>(&mut self, character: char, after: &'p str) -> &'p str {
        if self.flags.fold_case {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(character, character)]);
            class.case_fold_simple();
            return self.class(&class, after);
        }
        self.begin_atom();
        self.written.push_str(&regex_syntax::escape(character.encode_utf8(&mut [0; 4])));
        after
    }

    fn class<'p>(&mut self, class: &ClassUnicode, after: &'p str) -> &'p str {
        self.begin_atom();
        if class.ranges().is_empty() {
            // What nothing matches.
            self.written.push_str(r"[^\x00-\x{10FFFF}]");
            return after;
        }
        self.written.push('[');
        for range in class.ranges() {
            let (start, end) = (u32::from(range.start()), u32::from(range.end()));
            // Writing to a String cannot fail.
            let _ = match start == end {
                true => write!(self.written, r"\x{{{start:X}}}"),
                false => write!(self.written, r"\x{{{start:X}}}-\x{{{end:X}}}"),
            };
        }
        self.written.push(']');
        after
    }

    fn begin_group<'p>(&mut self, after: &'p str) -> Result<&'p str, GoRegexError> {
        if self.open.len() >= DEEPEST {
            return Err(GoRegexError::TooLarge("its groups are more than 50 deep"));
        }
        self.begin_atom();
        let group = Group { start: self.written.len(), flags: self.flags, ..Group::default() };
        self.open.push(std::mem::replace(&mut self.group, group));
        self.written.push_str("(?:");
        Ok(after)
    }

    fn end_group(&mut self) -> Option<()> {
        let outer = self.open.pop()?;
        self.end_atom();
        let inner = std::mem::replace(&mut self.group, outer);
        self.written.push(')');
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
            atom.copies = match counts.most.unwrap_or(counts.least) {
                // Nothing is left of what is repeated no times.
                0 if counts.most == Some(0) => 0,
                copies => atom.copies.saturating_mul(copies.max(1)),
            };
            let several = counts.least >= 2 || counts.most.is_some_and(|most| most >= 2);
            if several && atom.copies > MOST_COPIES {
                return Err(syntax("invalid repeat count", part(before)));
            }
        }
        if atom.repeated {
            self.wrapped += 1;
            if self.wrapped > MOST_WRAPPED {
                return Err(GoRegexError::TooLarge("it repeats repetitions more than 25 times"));
            }
            self.written.insert_str(atom.start, "(?:");
            self.written.push(')');
        }
        atom.repeated = true;
        match counts {
            None => self.written.push_str(operator),
            Some(counts) => counts.write(&mut self.written),
        }
        Ok(after)
    }

    /// What begins with a backslash, outside of brackets.
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
                self.splits_characters = true;
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
            // A surrogate, which no text holds.
            None => self.class(&ClassUnicode::empty(), after),
        })
    }
}

/// What stands in `{least,most}`.
#[derive(Debug, Clone, Copy)]
struct Counts {
    least: u64,
    most: Option<u64>,
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
            None => Self { least: number(inside)?, most: Some(number(inside)?) },
            Some((least, "")) => Self { least: number(least)?, most: None },
            Some((least, most)) => Self { least: number(least)?, most: Some(number(most)?) },
        };
        Some((counts, after))
    }

    fn fit(self) -> bool {
        let most = self.most.unwrap_or(MOST_COPIES);
        self.least <= most && most <= MOST_COPIES
    }

    fn write(self, out: &mut String) {
        let Self { least, most } = self;
        // Writing to a String cannot fail.
        let _ = match most {
            Some(most) => write!(out, "{{{least},{most}}}"),
            None => write!(out, "{{{least},}}"),
        };
    }
}

#[cfg(test)]
mod tests;
