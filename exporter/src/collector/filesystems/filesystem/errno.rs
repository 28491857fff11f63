//! The words for why statfs(2) failed, as node_exporter has them in `device_error`.
//!
//! <https://man7.org/linux/man-pages/man2/statfs.2.html>

use std::borrow::Cow;

/// What statfs and the file systems below it return. Numbers are the same on x86_64 and aarch64.
#[rustfmt::skip]
const TEXTS: [(u32, &str); 34] = [
    (1,   "operation not permitted"),
    (2,   "no such file or directory"),
    (4,   "interrupted system call"),
    (5,   "input/output error"),
    (6,   "no such device or address"),
    (11,  "resource temporarily unavailable"),
    (12,  "cannot allocate memory"),
    (13,  "permission denied"),
    (16,  "device or resource busy"),
    (19,  "no such device"),
    (20,  "not a directory"),
    (22,  "invalid argument"),
    (23,  "too many open files in system"),
    (24,  "too many open files"),
    (36,  "file name too long"),
    (38,  "function not implemented"),
    (40,  "too many levels of symbolic links"),
    (62,  "timer expired"),
    (75,  "value too large for defined data type"),
    (95,  "operation not supported"),
    (103, "software caused connection abort"),
    (104, "connection reset by peer"),
    (107, "transport endpoint is not connected"),
    (108, "cannot send after transport endpoint shutdown"),
    // Not of statfs: the broker asks no network file system while so many hang.
    (109, "not asked: too many mounts hang"),
    (110, "connection timed out"),
    (111, "connection refused"),
    (112, "host is down"),
    (113, "no route to host"),
    // Not of statfs: the server of the mount hangs, or a mount above it.
    (114, "not asked: its server hangs"),
    // Not of statfs: it was asked, and has not answered.
    (115, "mountpoint timeout"),
    (116, "stale NFS file handle"),
    (117, "structure needs cleaning"),
    (126, "required key not available"),
];

/// The words for an errno, or its number.
pub(super) fn text(errno: u32) -> Cow<'static, str> {
    match TEXTS.iter().find(|(known, _)| *known == errno) {
        Some((_, text)) => Cow::Borrowed(text),
        None => Cow::Owned(format!("errno {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_errors_have_a_name_and_others_their_number() {
        assert_eq!(text(13), "permission denied");
        assert_eq!(text(133), "errno 133");
        assert!(TEXTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
