//! Manual pages, made from what `--help` prints: one source for both. man(7)

use std::fmt::Write as _;

use crate::self_metrics::VERSION;

/// The manual page of a program, from its help text: a first line `program: what it is`, then sections, each a line
/// that ends with a colon, with rows of a term, two spaces or more, and its meaning.
pub fn page(help: &str) -> String {
    let (program, purpose) = help.lines().next().and_then(|line| line.split_once(": ")).unwrap_or_default();
    let title = program.to_uppercase();
    let mut page = format!(
        ".TH {title} 1 \"\" \"{program} {VERSION}\" \"Keyhole\"\n.ad l\n.SH NAME\n{} \\- {}\n",
        escaped(program),
        escaped(purpose)
    );
    for line in help.lines().skip(1) {
        // Writing to a String cannot fail.
        let _ = match line.strip_prefix("  ").map(str::trim_start) {
            _ if line.is_empty() => Ok(()),
            None => match line.strip_suffix(':') {
                Some(section) => writeln!(page, ".SH {}", escaped(&section.to_uppercase())),
                None => paragraph(&mut page, line),
            },
            Some(row) => match row.split_once("  ") {
                Some((term, meaning)) => {
                    writeln!(page, ".TP\n.B {}\n{}", escaped(term), escaped(meaning.trim_start()))
                }
                // The meaning of a term too long for its column, or a term before one.
                None if line.starts_with("      ") => writeln!(page, "{}", escaped(row)),
                None => writeln!(page, ".TP\n.B {}", escaped(row)),
            },
        };
    }
    page
}

/// A line of running text; `Usage: program ...`, with its continuation lines, is a section of its own.
fn paragraph(page: &mut String, line: &str) -> std::fmt::Result {
    match line.trim_start().strip_prefix("Usage: ") {
        Some(usage) => {
            let (usage, meaning) = usage.split_once("  ").unwrap_or((usage, ""));
            writeln!(page, ".SH USAGE\n.TP\n.B {}\n{}", escaped(usage), escaped(meaning.trim_start()))
        }
        None => writeln!(page, ".PP\n{}", escaped(line)),
    }
}

/// Text in which roff sees no request, no escape and no other dash than a hyphen-minus.
fn escaped(text: &str) -> String {
    let mut escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) {
        escaped.insert_str(0, "\\&");
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_terms_and_nothing_of_them_a_request() {
        let help = "p: does things.\n\nUsage: p [FLAGS]    serve\n       p x          other\n\nA\\B:\n  --a=B   .c 'd\n  --long\n                   text\n";
        let page = page(help);
        assert!(
            page.contains(
                ".SH NAME\np \\- does things.\n.SH USAGE\n.TP\n.B p [FLAGS]\nserve\n.TP\n.B p x\nother\n"
            ),
            "{page}"
        );
        assert!(
            page.ends_with(".SH A\\eB\n.TP\n.B \\-\\-a=B\n\\&.c 'd\n.TP\n.B \\-\\-long\ntext\n"),
            "{page}"
        );
    }
}
