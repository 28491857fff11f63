//! Mount points out of a mountinfo: the one thing that the broker looks for inside a file, and only when it was
//! given a host root to statfs. <https://docs.kernel.org/filesystems/proc.html> (section 3.5)

/// The mount points of a mountinfo, in its order, each once. Lines without one are left out, as is any with a `..`.
pub fn mount_points(mountinfo: &[u8]) -> Vec<Vec<u8>> {
    let mut seen = std::collections::HashSet::new();
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(unescape)
        .filter(|point| point.starts_with(b"/") && !point.contains(&0))
        .filter(|point| !point.split(|&byte| byte == b'/').any(|component| component == b".."))
        .filter(|point| seen.insert(point.clone()))
        .collect()
}

/// Undoes `\040` and its kin.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mount_point_with_a_space_is_one() {
        let text =
            b"36 35 98:0 /m1 /mnt/a\\040b rw - ext3 /dev/root rw\n37 35 98:0 / /mnt/\xff rw - ext3 x rw\n";
        assert_eq!(mount_points(text), [&b"/mnt/a b"[..], b"/mnt/\xff"]);
    }

    #[test]
    fn what_could_leave_the_root_is_left_out() {
        let text =
            b"1 2 3:4 / /../etc rw\n1 2 3:4 / relative rw\n1 2 3:4 / /a\\000b rw\n1 2 3\n1 2 3:4 / /ok rw\n";
        assert_eq!(mount_points(text), [b"/ok"]);
        assert_eq!(mount_points(b"1 2 3:4 / /a/\\056\\056/b rw"), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_mount_point_mounted_over_is_asked_once() {
        assert_eq!(mount_points(b"1 2 3:4 / /a rw\n2 3 4:5 / /a rw\n").len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_give_absolute_paths(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            for point in mount_points(&text) {
                prop_assert!(point.starts_with(b"/") && !point.contains(&0));
            }
        }
    }
}
