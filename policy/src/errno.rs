//! The error numbers by which the kernel says that a file is not there.
//!
//! <https://man7.org/linux/man-pages/man3/errno.3.html>

/// ENOENT, ESRCH, ENODEV and ENOTDIR: the host does not have the file, or not any more.
const ABSENT: [i32; 4] = [2, 3, 19, 20];

/// Whether an error number means that there is no such file, device or process.
pub fn is_absent(errno: i32) -> bool {
    ABSENT.contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_not_be_read_is_there() {
        for (errno, absent) in
            [(2, true), (3, true), (19, true), (20, true), (1, false), (13, false), (5, false)]
        {
            assert_eq!(is_absent(errno), absent, "{errno}");
        }
    }
}
