//! Standard output and standard error, with control characters of untrusted text escaped on a terminal.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use super::Failure;
use crate::text;

/// The properties of standard output, detected once: the sandbox forbids it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Whether it is a terminal.
    pub(super) is_terminal: bool,
    /// Whether colors are used: on a terminal that supports them, unless NO_COLOR is set.
    pub(super) colors: bool,
}

/// The style of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

impl Terminal {
    /// Detects them from standard output and the environment.
    pub(super) fn detect() -> Self {
        let value_of = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_terminal = std::io::stdout().is_terminal();
        let dumb = value_of("TERM").is_none_or(|term| term == "dumb");
        Self { is_terminal, colors: is_terminal && !dumb && value_of("NO_COLOR").is_none() }
    }

    /// `text` in a style, if colors are used.
    pub(super) fn styled(self, style: Style, text: &str) -> Cow<'_, str> {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Plain => return Cow::Borrowed(text),
        };
        if self.colors && !text.is_empty() {
            Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// The number of columns and rows of a terminal.
    pub(super) fn size(self) -> Option<(usize, usize)> {
        let size = self.is_terminal.then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())??;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
    }

    /// Bytes from a host: unchanged, or on a terminal with control characters escaped.
    pub(super) fn sanitize(self, bytes: Vec<u8>) -> Vec<u8> {
        if self.is_terminal {
            escape_controls(&text::printable(&bytes), true).into_owned().into_bytes()
        } else {
            bytes
        }
    }
}

/// Whether a character is a control character, or an invisible one that changes the text direction.
fn is_control_or_bidi(c: char) -> bool {
    let reorders =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// Escapes such characters, so that no name from the host can control the terminal. Keeps line feeds and tabs if
/// `lines` is set.
pub(super) fn escape_controls(text: &str, lines: bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_control_or_bidi(c) && !(lines && matches!(c, '\n' | '\t'));
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_escaped(c) { c.escape_default().collect() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// The same for JSON: with JSON escapes for characters that serde_json does not escape.
pub(super) fn escape_controls_in_json(json: &str) -> String {
    let escape = |c: char| {
        if is_control_or_bidi(c) && c != '\n' { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
    };
    json.chars().map(escape).collect()
}

/// Writes to standard output. Returns false if the other end of the pipe was closed (`| head`), which is no failure.
pub(super) fn write_stdout(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints a line on standard error; errors are ignored.
pub(super) fn print_error(line: &str) {
    keyhole_log::print(&format!("keyhole-exporter: {}", escape_controls(line, false)));
}

/// Progress on standard error: on a terminal one line that is overwritten, else a line per step.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    /// Whether the line on the terminal must be cleared.
    open: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), open: false }
    }

    /// Reports a new step.
    pub(super) fn step(&mut self, text: &str) {
        if self.is_terminal { self.part(text) } else { print_error(text) }
    }

    /// Reports progress within a step, on a terminal only.
    pub(super) fn part(&mut self, text: &str) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", escape_controls(text, false));
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
    fn control_characters_are_escaped() {
        assert_eq!(escape_controls("eth\x1b[2J\n0", false), "eth\\u{1b}[2J\\n0");
        assert_eq!(escape_controls("a\u{9b}31m\u{202e}b\u{7f}", true), "a\\u{9b}31m\\u{202e}b\\u{7f}");
        assert_eq!(escape_controls("straße\n\tö\r", true), "straße\n\tö\\r");
    }

    #[test]
    fn colors_are_used_only_on_terminals_that_support_them() {
        let plain = Terminal { is_terminal: true, colors: false };
        assert_eq!(plain.styled(Style::Bold, "x"), "x");
        assert_eq!(Terminal { colors: true, ..plain }.styled(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
        let raw = b"\x1b\xff".to_vec();
        assert_eq!(Terminal { is_terminal: false, ..plain }.sanitize(raw.clone()), raw);
        assert_eq!(plain.sanitize(raw), "\\u{1b}\u{fffd}".as_bytes());
    }

    proptest! {
        #[test]
        fn no_control_character_remains(text in any::<String>()) {
            prop_assert!(!escape_controls(&text, false).contains(char::is_control));
        }
    }
}
