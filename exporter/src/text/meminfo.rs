//! Lines of `proc/meminfo`, and of what each NUMA node has of the kind.
//!
//! <https://docs.kernel.org/filesystems/proc.html#meminfo>

use super::{fields, printable, split_last, trim, unsigned};

/// The value of one line.
#[derive(Debug, PartialEq, Eq)]
pub struct MeminfoLine {
    /// The kernel's name as it stands in metric names: `Active_anon` for `Active(anon)`.
    pub name: String,
    /// Bytes, or a count when the line has no unit.
    pub value: u64,
    /// Whether they are bytes.
    pub bytes: bool,
}

/// `Active(anon):  1552 kB` or `HugePages_Total:  5`; none when the line is neither.
pub fn meminfo_line(line: &[u8]) -> Option<MeminfoLine> {
    let (name, rest) = split_last(line, b':')?;
    let mut fields = fields(rest);
    let value = unsigned(fields.next()?)?;
    let (value, bytes) = match (fields.next(), fields.next()) {
        (None, _) => (value, false),
        (Some(b"kB"), None) => (value.checked_mul(1024)?, true),
        _ => return None,
    };
    let mut name = printable(trim(name)).into_owned();
    if name.contains(['(', ')']) {
        name = name.replace('(', "_").replace(')', "");
    }
    (!name.is_empty()).then_some(MeminfoLine { name, value, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kibibytes_become_bytes_and_pages_stay_a_count() {
        let line = |name: &str, value, bytes| Some(MeminfoLine { name: name.into(), value, bytes });
        assert_eq!(meminfo_line(b"Active(anon):    1552 kB"), line("Active_anon", 1_589_248, true));
        assert_eq!(meminfo_line(b"HugePages_Total:     5"), line("HugePages_Total", 5, false));
    }

    #[test]
    fn anything_else_is_none() {
        for line in [&b""[..], b"a", b"a:", b": 1", b"a: x kB", b"a: -1 kB", b"a: 1 MB", b"a: 1 kB b"] {
            assert_eq!(meminfo_line(line), None, "{}", line.escape_ascii());
        }
        assert_eq!(meminfo_line(b"a: 18446744073709551615 kB"), None, "more bytes than can be counted");
    }
}
