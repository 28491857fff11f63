//! What reaches the terminal: tables, messages and progress, without control characters of others.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use crate::Failure;

/// Whether a character is a control character, or an invisible one that changes the text direction.
fn is_control_or_bidi(c: char) -> bool {
    let reorders =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// Text with such characters escaped.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control_or_bidi) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_control_or_bidi(c) { c.escape_default().collect() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// JSON with JSON's escapes for such characters, of which serde_json escapes a part alone.
fn escape_json(json: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| is_control_or_bidi(c) && c != '\n';
    if !json.contains(is_escaped) {
        return Cow::Borrowed(json);
    }
    let escape = |c: char| if is_escaped(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(json.chars().map(escape).collect())
}

/// A value as JSON, on several lines or on one, with a line feed at its end.
pub fn json(value: &impl serde::Serialize, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    let text = text.map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(escape_json(&text).into_owned() + "\n")
}

/// Writes to standard output. Returns false if nobody reads it any more (`| head`), which is no failure.
pub fn write_stdout(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// The same on a thread of its own: a reader that has stopped reading does not keep signals and deadlines from what waits here.
pub async fn print(bytes: impl Into<Vec<u8>>) -> Result<bool, Failure> {
    let bytes = bytes.into();
    let written = tokio::task::spawn_blocking(move || write_stdout(&bytes)).await;
    written.map_err(|error| Failure::Failed(error.to_string()))?
}

/// Prints a line on standard error; errors are ignored.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "kubectl-keyhole: {}", escape(line));
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// Whether cells are aligned to the right, as numbers are.
    pub right: bool,
}

pub const fn left(title: &'static str) -> Column {
    Column { title, right: false }
}

pub const fn right(title: &'static str) -> Column {
    Column { title, right: true }
}

/// A wider cell moves what follows it in its row, and no other row: of a name of megabytes, each row would have as many spaces.
const WIDEST: usize = 100;

/// Rows below titles; each column but the last is as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row; control characters are escaped.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|cell| escape(cell.as_ref()).into_owned()).collect());
    }

    /// The lines, each with its line feed; with `head`, the titles first.
    pub fn text(&self, head: bool) -> String {
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let rows = || head.then_some(&titles).into_iter().chain(&self.rows);
        let width = |cell: &String| cell.chars().count();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                rows()
                    .filter_map(|row| row.get(at))
                    .map(width)
                    .filter(|width| *width <= WIDEST)
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in rows() {
            let mut line = String::new();
            for ((cell, column), widest) in row.iter().zip(&self.columns).zip(&widths) {
                let fill = " ".repeat(widest.saturating_sub(width(cell)));
                let (before, after) = if column.right { (&*fill, "") } else { ("", &*fill) };
                line.extend([before, cell, after, "  "]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A line about progress, on standard error if that is a terminal; cleared at the end.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&self, text: &str) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", escape(text));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// `3 nodes`, `1 node`.
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_aligned_and_escaped_without_trailing_spaces() {
        let mut table = Table::new([left("NODE"), right("VALUE"), left("LABELS")]);
        table.row(["node-1", "0.5", ""]);
        table.row(["n\x1b[2J", "12345", "device=\"eth\n0\""]);
        assert_eq!(
            table.text(true),
            "NODE        VALUE  LABELS\nnode-1        0.5\nn\\u{1b}[2J  12345  device=\"eth\\n0\"\n"
        );
        assert_eq!(table.text(false).lines().count(), 2);
        table.row(["x".repeat(1 << 20).as_str(), "1", ""]);
        assert!(table.text(false).starts_with("node-1        0.5\n"));
    }

    proptest! {
        #[test]
        fn no_control_character_remains(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(is_control_or_bidi));
            let json = json(&text, false).unwrap();
            prop_assert!(!json.trim_end_matches('\n').contains(is_control_or_bidi));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
