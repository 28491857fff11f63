//! `--help-man`: the help as a manual page. man(7)

use std::fmt::Write as _;

use crate::Program;

impl Program {
    /// The manual page.
    pub fn man_page(&self) -> String {
        let (name, title) = (self.name, self.name.to_uppercase());
        let mut page = format!(
            ".TH {title} 1 \"\" \"{name} {}\" \"Keyhole\"\n.ad l\n.SH NAME\n{} \\- {}\n",
            self.version,
            escaped(name),
            escaped(self.purpose)
        );
        for (place, section) in self.sections().iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(page, ".SH {}", escaped(&section.title.to_uppercase()));
            for (term, meaning) in &section.rows {
                let _ = writeln!(page, ".TP\n.B {}\n{}", escaped(term), escaped(meaning));
            }
            if place == 0 && !self.note.is_empty() {
                let _ = writeln!(page, ".SH DESCRIPTION\n{}", escaped(self.note));
            }
        }
        page
    }
}

/// Text in which roff finds no request, no escape, and no dash but the hyphen-minus.
fn escaped(text: &str) -> String {
    let mut escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) {
        escaped.insert_str(0, "\\&");
    }
    escaped
}

#[cfg(test)]
mod tests {
    use crate::program::tests::program;

    #[test]
    fn rows_become_terms_of_a_man_page_and_never_roff_requests() {
        let page = program().man_page();
        assert!(
            page.contains(
                ".SH NAME\na\\-program \\- does things.\n.SH USAGE\n.TP\n.B a\\-program [FLAGS]\nserve\n"
            ),
            "{page}"
        );
        assert!(page.contains(".B \\-\\-input=FILE\n\\&.in 'file' of C:\\e. [default: /etc/in]\n"), "{page}");
    }
}
