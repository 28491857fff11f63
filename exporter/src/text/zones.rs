//! How `proc/buddyinfo` and `proc/zoneinfo` name a zone of memory: `Node 0, zone   Normal`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use super::unsigned;

/// Takes the node's number and the zone's name off the fields of a line; none when it does not begin so.
pub fn node_and_zone<'a>(fields: &mut impl Iterator<Item = &'a [u8]>) -> Option<(&'a [u8], &'a [u8])> {
    (fields.next()? == b"Node").then_some(())?;
    let node = fields.next()?.strip_suffix(b",").filter(|number| unsigned(number).is_some())?;
    (fields.next()? == b"zone").then_some(())?;
    Some((node, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    #[test]
    fn a_zone_is_identified_by_its_node_and_its_name() {
        let mut line = fields(b"Node 12, zone    DMA32    759");
        assert_eq!(node_and_zone(&mut line), Some((&b"12"[..], &b"DMA32"[..])));
        assert_eq!(line.next(), Some(&b"759"[..]), "what follows is left");
    }

    #[test]
    fn anything_else_is_no_zone() {
        for line in
            [&b""[..], b"Node", b"Node 0 zone DMA", b"Node x, zone DMA", b"Node 0, zone", b"node 0, zone DMA"]
        {
            assert_eq!(node_and_zone(&mut fields(line)), None, "{}", line.escape_ascii());
        }
    }
}
