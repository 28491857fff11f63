//! The first line of tables with a column a CPU: `           CPU0       CPU2`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use super::{fields, unsigned};

/// The numbers of the CPUs in the order of their columns; none when the line holds anything else, or nothing.
pub fn cpu_columns(line: &[u8]) -> Option<Vec<&[u8]>> {
    let columns: Vec<&[u8]> = fields(line)
        .map(|field| field.strip_prefix(b"CPU").filter(|digits| unsigned(digits).is_some()))
        .collect::<Option<_>>()?;
    (!columns.is_empty()).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_offline_has_no_column() {
        assert_eq!(cpu_columns(b"           CPU0       CPU2 "), Some(vec![&b"0"[..], b"2"]));
    }

    #[test]
    fn a_line_of_anything_else_has_no_columns() {
        for line in [&b""[..], b"   ", b"CPU", b"CPU0 CPUx", b"CPU0 interrupts", b"cpu0", b"\xff"] {
            assert_eq!(cpu_columns(line), None, "{}", line.escape_ascii());
        }
    }
}
