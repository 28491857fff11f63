//! Aligned tables: each column but the last is as wide as its widest cell.

use super::super::terminal::{Style, Terminal, escape_controls};

/// A column.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Column {
    pub(in super::super) title: &'static str,
    /// Whether cells are aligned to the right, as numbers are.
    pub(in super::super) right: bool,
}

/// A cell, with control characters escaped.
#[derive(Debug, Clone)]
pub(in super::super) struct Cell {
    text: String,
    width: usize,
    style: Style,
}

/// Rows with optional titles.
#[derive(Debug)]
pub(in super::super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Cell {
    pub(in super::super) fn new(text: &str, style: Style) -> Self {
        let text = escape_controls(text, false).into_owned();
        Self { width: text.chars().count(), text, style }
    }

    pub(in super::super) fn plain(text: &str) -> Self {
        Self::new(text, Style::Plain)
    }
}

impl Table {
    pub(in super::super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells at its end are empty.
    pub(in super::super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines, without line feeds, each at most `width` wide; with `head` the first has the titles.
    pub(in super::super) fn lines(
        &self,
        terminal: Terminal,
        head: bool,
        width: Option<usize>,
    ) -> Vec<String> {
        let titles: Vec<Cell> = self.columns.iter().map(|c| Cell::new(c.title, Style::Bold)).collect();
        let rows = || head.then_some(&titles).into_iter().chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| rows().filter_map(|row| row.get(at)).map(|cell| cell.width).max().unwrap_or(0))
            .collect();
        rows().map(|row| self.line(row, &widths, terminal, width.unwrap_or(usize::MAX))).collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize], terminal: Terminal, mut room: usize) -> String {
        let mut line = String::new();
        let last = row.iter().rposition(|cell| cell.width > 0).unwrap_or(0);
        for (at, (cell, column)) in row.iter().zip(&self.columns).enumerate().take(last + 1) {
            let fill = widths.get(at).map_or(0, |width| width.saturating_sub(cell.width));
            let gap = if at > 0 { 2 } else { 0 };
            let before = gap + if column.right { fill } else { 0 };
            let after = if column.right || at == last { 0 } else { fill };
            let text: String = cell.text.chars().take(room.saturating_sub(before)).collect();
            push_spaces(&mut line, before, &mut room);
            line.push_str(&terminal.styled(cell.style, &text));
            room = room.saturating_sub(cell.width);
            push_spaces(&mut line, after, &mut room);
        }
        line
    }
}

fn push_spaces(line: &mut String, spaces: usize, room: &mut usize) {
    let spaces = spaces.min(*room);
    line.extend(std::iter::repeat_n(' ', spaces));
    *room -= spaces;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Terminal = Terminal { is_terminal: true, colors: false };

    fn table() -> Table {
        let column = |title, right| Column { title, right };
        let mut table =
            Table::new(&[column("METRIC", false), column("VALUE", true), column("LABELS", false)]);
        table.row(["node_load1", "0.5"].map(Cell::plain).to_vec());
        table.row(["up", "12345", "device=\"eth\x1b[2J\n0\""].map(Cell::plain).to_vec());
        table
    }

    #[test]
    fn columns_are_aligned_without_trailing_spaces() {
        let lines = table().lines(PLAIN, true, None);
        assert_eq!(
            lines,
            [
                "METRIC      VALUE  LABELS",
                "node_load1    0.5",
                "up          12345  device=\"eth\\u{1b}[2J\\n0\"",
            ]
        );
        assert_eq!(table().lines(PLAIN, false, None).len(), 2);
    }

    #[test]
    fn a_narrow_terminal_cuts_lines_but_not_escape_sequences() {
        for width in 0..60 {
            let lines = table().lines(PLAIN, true, Some(width));
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
        }
        let colors = Terminal { colors: true, ..PLAIN };
        assert_eq!(table().lines(colors, true, Some(3))[0], "\x1b[1mMET\x1b[0m");
    }
}
