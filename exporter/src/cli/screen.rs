//! Where text goes: standard output and error, plain or on a terminal, with nothing in it that a terminal would obey.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use super::Failure;
use crate::text;

/// What standard output is, found out once: the sandbox does not let it be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    /// Whether it is a terminal.
    pub(super) terminal: bool,
    /// Whether it may have colours: a terminal that can, and nobody who said NO_COLOR.
    pub(super) colours: bool,
}

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

impl Screen {
    /// Looks at standard output and the environment.
    pub(super) fn find() -> Self {
        let said = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let terminal = std::io::stdout().is_terminal();
        let dumb = said("TERM").is_none_or(|term| term == "dumb");
        Self { terminal, colours: terminal && !dumb && said("NO_COLOR").is_none() }
    }

    /// `text` in a style, where there are styles.
    pub(super) fn paint(self, style: Style, text: &str) -> Cow<'_, str> {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Plain => return Cow::Borrowed(text),
        };
        match self.colours && !text.is_empty() {
            true => Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m")),
            false => Cow::Borrowed(text),
        }
    }

    /// Columns and rows, where there are any.
    pub(super) fn size(self) -> Option<(usize, usize)> {
        let size = self.terminal.then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())??;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
    }

    /// Bytes of a host as they are, but on a terminal without what it would obey.
    pub(super) fn of_host(self, bytes: Vec<u8>) -> Vec<u8> {
        match self.terminal {
            true => harmless(&text::printable(&bytes), true).into_owned().into_bytes(),
            false => bytes,
        }
    }
}

/// What a terminal obeys, and what changes the order of other characters without being seen.
fn is_obeyed(c: char) -> bool {
    let reorders =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// `text` with an escape for each such character: a name from the host moves no cursor. Line feeds and tabs stay when
/// `lines` are wanted.
pub(super) fn harmless(text: &str, lines: bool) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && !(lines && matches!(c, '\n' | '\t'));
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match obeyed(c) {
        true => c.escape_default().collect(),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// The same for JSON, whose own escapes it uses where serde_json leaves a character as it is.
pub(super) fn harmless_json(json: &str) -> String {
    let escape = |c: char| match is_obeyed(c) && c != '\n' {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    match json.contains(|c| is_obeyed(c) && c != '\n') {
        true => json.chars().map(escape).collect(),
        false => json.to_owned(),
    }
}

/// Writes to standard output; whether anybody reads on. A reader that went away (`| head`) is no failure.
pub(super) fn write(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// One line on standard error. Nothing is left to do when that is closed.
pub(super) fn complain(line: &str) {
    keyhole_log::print(&format!("keyhole-exporter: {}", harmless(line, false)));
}

/// How far a long piece of work is, on standard error: one line that is written over on a terminal, else a line a step.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    /// The line on the terminal is not ended.
    open: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), open: false }
    }

    /// A step begins.
    pub(super) fn step(&mut self, text: &str) {
        match self.terminal {
            true => self.part(text),
            false => complain(text),
        }
    }

    /// A part of the step is done: shown on a terminal alone.
    pub(super) fn part(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", harmless(text, false));
            self.open = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_moves_no_cursor() {
        assert_eq!(harmless("eth\x1b[2J\n0", false), "eth\\u{1b}[2J\\n0");
        assert_eq!(harmless("a\u{9b}31m\u{202e}b\u{7f}", true), "a\\u{9b}31m\\u{202e}b\\u{7f}");
        assert_eq!(harmless("straße\n\tö\r", true), "straße\n\tö\\r");
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let plain = Screen { terminal: true, colours: false };
        assert_eq!(plain.paint(Style::Bold, "x"), "x");
        assert_eq!(Screen { colours: true, ..plain }.paint(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
        let raw = b"\x1b\xff".to_vec();
        assert_eq!(Screen { terminal: false, ..plain }.of_host(raw.clone()), raw);
        assert_eq!(plain.of_host(raw), "\\u{1b}\u{fffd}".as_bytes());
    }

    proptest! {
        #[test]
        fn no_text_holds_a_control_character_afterwards(text in any::<String>()) {
            prop_assert!(!harmless(&text, false).contains(char::is_control));
        }
    }
}
