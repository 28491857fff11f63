//! A process or a thread in one line: `proc/<pid>/stat`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>

use super::{fields, split_first, split_last, trim, unsigned};

/// What the line says of a process. Times are in clock ticks, of which the kernel shows 100 a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat<'a> {
    /// Its name: any bytes but NUL, its own choice, at most 15 (63 for a kernel thread).
    pub comm: &'a [u8],
    /// Its state, a letter.
    pub state: u8,
    /// Whether it is a thread of the kernel itself.
    pub kernel: bool,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
    /// Time in user mode.
    pub user_ticks: u64,
    /// Time in kernel mode.
    pub system_ticks: u64,
    /// Its threads.
    pub threads: u64,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
    /// The size of its address space in bytes.
    pub virtual_bytes: u64,
    /// Its pages in RAM; none when the line ends before.
    pub resident_pages: Option<u64>,
}

/// Set in `flags` for a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

impl<'a> ProcessStat<'a> {
    /// Reads the line; none when a column up to the size of the address space is missing or no number.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (name, rest) = split_last(line, b')')?;
        let (_, comm) = split_first(name, b'(')?;
        // Columns are numbered as in the manual page; `rest` begins with the third.
        let mut rest = trim(rest).split(|&byte| byte == b' ');
        let mut read = 2;
        let mut column = |number: usize| {
            let field = rest.nth(number.checked_sub(read + 1)?)?;
            read = number;
            Some(field)
        };
        let state = letter(column(3)?)?;
        let mut number = |at| unsigned(column(at)?);
        Some(Self {
            comm,
            state,
            kernel: number(9)? & PF_KTHREAD != 0,
            minor_faults: number(10)?,
            major_faults: number(12)?,
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24),
        })
    }
}

/// The state alone, which of threads is all that is asked.
pub fn process_state(line: &[u8]) -> Option<u8> {
    let (_, rest) = split_last(line, b')')?;
    letter(fields(rest).next()?)
}

fn letter(field: &[u8]) -> Option<u8> {
    match field {
        [letter] if letter.is_ascii_alphabetic() => Some(*letter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYSTEMD: &[u8] = b"1 (systemd) S 0 1 1 0 -1 4194560 9061 9416027 94 2620 36 98 54406 13885 20 0 1 0 29 \
        109604864 2507 18446744073709551615 1 1 0 0 0 0 671173123 4096 1260 0 0 0 17 0 0 0 19 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn columns_are_those_of_the_manual_page() {
        let systemd = ProcessStat {
            comm: b"systemd",
            state: b'S',
            kernel: false,
            minor_faults: 9061,
            major_faults: 94,
            user_ticks: 36,
            system_ticks: 98,
            threads: 1,
            start_ticks: 29,
            virtual_bytes: 109_604_864,
            resident_pages: Some(2507),
        };
        assert_eq!(ProcessStat::parse(SYSTEMD), Some(systemd));
    }

    #[test]
    fn a_comm_with_newlines_and_parentheses_is_one_process() {
        for comm in [&b") R 1 (x"[..], b"a\nb) Z 9", b"((()))", b"", b"\xff\xfe)", b" "] {
            let line =
                [&b"7 ("[..], comm, b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"].concat();
            let stat = ProcessStat::parse(&line).unwrap();
            assert_eq!((stat.comm, stat.state, stat.start_ticks), (comm, b'S', 19));
            assert_eq!(process_state(&line), Some(b'S'));
        }
    }

    #[test]
    fn a_kernel_thread_is_recognised_by_its_flag_and_not_by_its_name() {
        let line =
            b"17 (khungtaskd) S 2 0 0 0 -1 2129984 0 0 0 0 14 0 0 0 20 0 1 0 24 0 0 18446744073709551615";
        assert!(ProcessStat::parse(line).unwrap().kernel);
        assert!(!ProcessStat::parse(SYSTEMD).unwrap().kernel);
    }

    #[test]
    fn a_line_that_was_cut_is_no_process() {
        assert_eq!(ProcessStat::parse(b"1 (systemd) S 0 1 1 0"), None);
        assert_eq!(ProcessStat::parse(b"1 (systemd S 0 1 1 0"), None);
        assert_eq!(process_state(b"1 (systemd)"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_process_or_none(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (ProcessStat::parse(&line), process_state(&line));
        }
    }
}
