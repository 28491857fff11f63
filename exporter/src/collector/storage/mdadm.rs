//! Software RAID: `proc/mdstat` and `sys/block/md*/md`.
//!
//! <https://docs.kernel.org/admin-guide/md.html>

use std::collections::BTreeSet;

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::{Content, Dir};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "mdadm",
    default: true,
    help: "Software RAID arrays.",
    queries: &[Query::Md],
    optional: &[],
    flags: &[],
    families: || vec![STATE, DISKS, DISKS_REQUIRED, BLOCKS, BLOCKS_SYNCED, RAID_DISKS, DEGRADED],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/mdstat";

const STATE: Family = Family {
    name: "node_md_state",
    help: "Whether the array is in this state; all are 0 while it is reshaped or broken.",
    kind: MetricType::Gauge,
    labels: &["device", "state"],
    source: Source::File(PATH),
};
const DISKS: Family =
    Family { name: "node_md_disks", help: "Disks of the array that are active, failed or spare.", ..STATE };
const DISKS_REQUIRED: Family = Family {
    name: "node_md_disks_required",
    help: "Disks that the array needs to be complete.",
    labels: &["device"],
    ..STATE
};
const BLOCKS: Family =
    Family { name: "node_md_blocks", help: "Size of the array in blocks of 1 KiB.", ..DISKS_REQUIRED };
const BLOCKS_SYNCED: Family = Family {
    name: "node_md_blocks_synced",
    help: "Blocks that the current recovery, resync, check or reshape has processed; all blocks if there is none.",
    ..DISKS_REQUIRED
};
const RAID_DISKS: Family = Family {
    name: "node_md_raid_disks",
    help: "Number of disks of the complete array.",
    source: Source::File("sys/block/md*/md/raid_disks"),
    ..DISKS_REQUIRED
};
const DEGRADED: Family = Family {
    name: "node_md_degraded",
    help: "Disks that the array lacks.",
    source: Source::File("sys/block/md*/md/degraded"),
    ..DISKS_REQUIRED
};

/// What md does to a whole array: its word in the file, and the value of the label `state`.
const OPERATIONS: [(&[u8], &[u8]); 5] = [
    (b"check", b"check"),
    (b"recover", b"recovering"),
    (b"recovery", b"recovering"),
    (b"reshape", b"reshape"),
    (b"resync", b"resync"),
];

/// The states that node_exporter emits. A reshape has none.
const STATES: [&[u8]; 5] = [b"active", b"inactive", b"recovering", b"resync", b"check"];

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    // What an array has besides is indented.
    let begins = |line: &[u8]| line.first().is_some_and(|byte| !byte.is_ascii_whitespace());
    let content = context.require_items(PATH, begins)?;
    let blocks = context.snapshot.dir("sys/block");
    let mut added = BTreeSet::new();
    let mut add = |array: Array<'_>, out: &mut Exposition| {
        array.add_to(out);
        if added.insert(array.name.to_vec()) {
            add_sysfs(&blocks.dir(array.name), out);
        }
    };
    let mut array: Option<Array<'_>> = None;
    let mut known = false;
    for line in text::lines(content) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some(array) = &mut array {
                array.detail(line);
            }
            continue;
        }
        if line.is_empty() {
            continue;
        }
        if let Some(array) = array.take() {
            add(array, out);
        }
        if [&b"Personalities"[..], b"read_ahead", b"unused devices"].iter().any(|head| line.starts_with(head))
        {
            known = true;
            continue;
        }
        array = Array::parse(line);
        known |= array.is_some();
        if array.is_none() {
            out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
        }
    }
    if let Some(array) = array {
        add(array, out);
    }
    for block in blocks.dirs().filter(|block| !added.contains(block.name())) {
        out.item();
        add_sysfs(&block, out);
    }
    if known { Ok(()) } else { Err(CollectError::malformed(PATH, "neither personalities nor an array")) }
}

/// An array: a line that begins at the margin, and the indented ones below it.
struct Array<'a> {
    name: &'a [u8],
    state: &'a [u8],
    /// Absent when it is not assembled.
    personality: Option<&'a [u8]>,
    members: usize,
    failed: usize,
    spare: usize,
    blocks: Option<u64>,
    /// Required and active.
    disks: Option<(u64, u64)>,
    /// What is done to the whole array, and how many blocks of it are done where that is known.
    operation: Option<(&'a [u8], Option<u64>)>,
}

impl<'a> Array<'a> {
    /// Reads `md0 : active (auto-read-only) raid1 sda1[0] sdb1[1](F)`.
    fn parse(line: &'a [u8]) -> Option<Self> {
        const SEPARATOR: &[u8] = b" : ";
        // An array may be named as its maker likes; members' names are short and the kernel's.
        let at = line.windows(SEPARATOR.len()).rposition(|window| window == SEPARATOR)?;
        let name = text::trim(line.get(..at)?);
        let mut fields = text::fields(line.get(at + SEPARATOR.len()..)?);
        let state = fields.next()?;
        let mut array = Self {
            name,
            state,
            personality: None,
            members: 0,
            failed: 0,
            spare: 0,
            blocks: None,
            disks: None,
            operation: None,
        };
        for field in fields {
            if field.contains(&b'[') {
                array.members += 1;
                array.failed += usize::from(has(field, b"(F)"));
                array.spare += usize::from(has(field, b"(S)"));
            } else if !field.starts_with(b"(") && array.personality.is_none() {
                array.personality = Some(field);
            }
        }
        (!name.is_empty()).then_some(array)
    }

    /// Reads one of the indented lines: the size, a sync under way, or the bitmap's.
    fn detail(&mut self, line: &'a [u8]) {
        let mut fields = text::fields(line).peekable();
        if fields.peek() == Some(&&b"bitmap:"[..]) {
            return;
        }
        if self.blocks.is_none() {
            let first = fields.next().and_then(text::unsigned);
            if fields.next() == Some(b"blocks") {
                self.blocks = first;
                self.disks = fields.filter_map(disks).last();
                return;
            }
        }
        if self.operation.is_none() {
            self.operation = operation(line);
        }
    }

    fn add_to(&self, out: &mut Exposition) {
        out.item();
        let name = self.name;
        // The kernel writes the size of every array that has a member.
        let Some(blocks) = self.blocks else {
            out.skip(|| format!("{PATH}: {} without its blocks", name.escape_ascii()));
            return;
        };
        let state = self.operation.map_or(self.state, |(operation, _)| operation);
        for candidate in STATES {
            out.add(&STATE, &[name, candidate], candidate == state);
        }
        // These two have no redundancy, so that they run with all their members or not at all.
        let whole = matches!(self.personality, Some(b"raid0" | b"linear"));
        let disks = match self.disks {
            _ if whole => Some((self.members as u64, self.members as u64)),
            _ if self.state == b"inactive" => Some((0, 0)),
            disks => disks,
        };
        if let Some((required, active)) = disks {
            out.add(&DISKS_REQUIRED, &[name], required);
            out.add(&DISKS, &[name, b"active"], active);
        }
        out.add(&DISKS, &[name, b"failed"], self.failed);
        out.add(&DISKS, &[name, b"spare"], self.spare);
        out.add(&BLOCKS, &[name], blocks);
        if let Some(synced) = self.operation.map_or(Some(blocks), |(_, synced)| synced) {
            out.add(&BLOCKS_SYNCED, &[name], synced);
        }
    }
}

fn has(field: &[u8], mark: &[u8]) -> bool {
    field.windows(mark.len()).any(|window| window == mark)
}

/// Reads `[2/1]`: required and active.
fn disks(field: &[u8]) -> Option<(u64, u64)> {
    fraction(field.strip_prefix(b"[")?.strip_suffix(b"]")?)
}

fn fraction(text: &[u8]) -> Option<(u64, u64)> {
    let (part, whole) = text::split_first(text, b'/')?;
    Some((text::unsigned(part)?, text::unsigned(whole)?))
}

/// Reads `[=>...]  recovery =  8.5% (16775552/195310144) finish=17.0min`, `resync=DELAYED` and their like.
fn operation(line: &[u8]) -> Option<(&'static [u8], Option<u64>)> {
    let mut fields = text::fields(line);
    let (state, waits) = fields.find_map(|field| {
        let (word, waits) = match text::split_first(field, b'=') {
            Some((word, waits)) => (word, Some(waits)),
            None => (field, None),
        };
        let (_, state) = OPERATIONS.iter().find(|(operation, _)| *operation == word)?;
        Some((*state, waits))
    })?;
    let synced = match waits {
        Some(b"DELAYED" | b"PENDING") => Some(0),
        // Another node of a cluster does it, and this one does not know how far it is.
        Some(b"REMOTE") => None,
        _ => fields
            .find_map(|field| fraction(field.strip_prefix(b"(")?.strip_suffix(b")")?))
            .map(|(synced, _)| synced),
    };
    Some((state, synced))
}

/// The attributes of a block device in sysfs, if it is an array.
fn add_sysfs(block: &Dir<'_>, out: &mut Exposition) {
    let md: Dir<'_> = block.dir("md");
    if !block.name().starts_with(b"md") || md.is_empty() {
        return;
    }
    // While an array is reshaped it is `11 (10)`, the new number first; a container of arrays has an empty file.
    let raid_disks = md.text("raid_disks").and_then(|disks| text::fields(disks).next());
    if let Some(disks) = raid_disks.and_then(text::unsigned) {
        out.add(&RAID_DISKS, &[block.name()], disks);
    }
    let degraded = match md.content("degraded") {
        Some(Content::Bytes { bytes, .. }) => text::unsigned(text::trim(bytes)),
        Some(_) => None,
        // The kernel leaves it out where there is no redundancy to lose.
        None => Some(0),
    };
    if let Some(degraded) = degraded {
        out.add(&DEGRADED, &[block.name()], degraded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    /// The samples of `text` as `name label...=value`, short enough to compare.
    fn short(text: &str) -> Vec<String> {
        let short = |line: &str| {
            line.replace("node_md_", "").replace("device=\"md0\"", "").replace(['{', '}', ',', '"'], "")
        };
        text.lines().filter(|line| !line.ends_with(" 0")).map(short).collect()
    }

    fn array(lines: &str) -> Vec<String> {
        let file = format!("Personalities : [raid1] [raid6]\n\n{lines}\nunused devices: <none>\n");
        short(&collect(&COLLECTOR, &[(PATH, file.as_bytes())], &[]).unwrap())
    }

    #[test]
    fn a_complete_array_is_active_and_all_synced() {
        let file = b"Personalities : [raid1]\nmd127 : active raid1 sdi2[0] sdj2[1]\n      312319552 blocks [2/2] [UU]\n\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, file)], &[]).unwrap(),
            "node_md_blocks{device=\"md127\"} 312319552\n\
             node_md_blocks_synced{device=\"md127\"} 312319552\n\
             node_md_disks{device=\"md127\",state=\"active\"} 2\n\
             node_md_disks{device=\"md127\",state=\"failed\"} 0\n\
             node_md_disks{device=\"md127\",state=\"spare\"} 0\n\
             node_md_disks_required{device=\"md127\"} 2\n\
             node_md_state{device=\"md127\",state=\"active\"} 1\n\
             node_md_state{device=\"md127\",state=\"check\"} 0\n\
             node_md_state{device=\"md127\",state=\"inactive\"} 0\n\
             node_md_state{device=\"md127\",state=\"recovering\"} 0\n\
             node_md_state{device=\"md127\",state=\"resync\"} 0\n"
        );
    }

    #[test]
    fn a_degraded_array_recovers_with_its_spare() {
        let lines = "md0 : active raid1 sdb2[2](F) sdc[1](S) sda2[0]\n      195310144 blocks [2/1] [U_]\n      \
            [=>...................]  recovery =  8.5% (16775552/195310144) finish=17.0min speed=259783K/sec\n      \
            bitmap: 0/30 pages [0KB], 65536KB chunk, file: /var/resync = (1/2)\n\n";
        assert_eq!(
            array(lines),
            [
                "blocks 195310144",
                "blocks_synced 16775552",
                "disksstate=active 1",
                "disksstate=failed 1",
                "disksstate=spare 1",
                "disks_required 2",
                "statestate=recovering 1",
            ]
        );
    }

    #[test]
    fn a_bitmap_line_may_precede_or_follow_the_sync_line() {
        let sync = "      [=>...]  check =  5.7% (114176/1993728) finish=0.2min speed=114176K/sec\n";
        let bitmap = "      bitmap: 0/1 pages [0KB], 65536KB chunk\n";
        let head = "md0 : active raid1 sda3[0] sdb3[1]\n      1993728 blocks super 1.2 [2/2] [UU]\n";
        let before = array(&format!("{head}{bitmap}{sync}"));
        assert_eq!(before, array(&format!("{head}{sync}{bitmap}")));
        assert!(before.contains(&"blocks_synced 114176".to_owned()), "{before:?}");
        assert!(before.contains(&"statestate=check 1".to_owned()), "{before:?}");
    }

    #[test]
    fn a_pending_or_remote_sync_reports_no_progress() {
        let waits = |how: &str| {
            array(&format!(
                "md0 : active (auto-read-only) raid1 sdb2[0] sdc2[1]\n      4190208 blocks super 1.2 [2/2] [UU]\n      \t{how}\n\n"
            ))
        };
        for how in ["resync=PENDING", "resync=DELAYED", "resync=REMOTE"] {
            let samples = waits(how);
            assert!(samples.contains(&"statestate=resync 1".to_owned()), "{samples:?}");
            assert!(!samples.iter().any(|sample| sample.starts_with("blocks_synced")), "{samples:?}");
        }
        assert!(waits("recover=REMOTE").contains(&"statestate=recovering 1".to_owned()));
        let text = collect(
            &COLLECTOR,
            &[(PATH, b"md0 : active raid1 a[0]\n  10 blocks [1/1] [U]\n  resync=DELAYED\n")],
            &[],
        );
        assert!(text.unwrap().contains("node_md_blocks_synced{device=\"md0\"} 0\n"));
    }

    #[test]
    fn a_reshape_has_progress_but_no_state() {
        let samples = array(
            "md0 : active raid5 sda[0] sdb[1] sdc[2]\n  100 blocks level 5, 64k chunk, algorithm 2 [3/3] [UUU]\n  \
             [>....]  reshape =  2.4% (42/100) finish=1.0min speed=1K/sec\n",
        );
        assert!(samples.contains(&"blocks_synced 42".to_owned()), "{samples:?}");
        assert!(!samples.iter().any(|sample| sample.starts_with("statestate")), "{samples:?}");
    }

    #[test]
    fn without_redundancy_every_member_is_required() {
        let samples = array(
            "md0 : active (read-only) raid0 sdb[2] sdd[1] sdc[0]\n  322560 blocks super 1.2 512k chunks\n",
        );
        assert!(samples.contains(&"disks_required 3".to_owned()), "{samples:?}");
        assert!(samples.contains(&"disksstate=active 3".to_owned()), "{samples:?}");
    }

    #[test]
    fn an_inactive_array_has_no_personality_and_only_spares() {
        let samples =
            array("md0 : inactive sdb[2](S) sdc[1](S) sda[0](S)\n        7932 blocks super external:imsm\n");
        assert_eq!(
            samples,
            ["blocks 7932", "blocks_synced 7932", "disksstate=spare 3", "statestate=inactive 1"]
        );
    }

    #[test]
    fn what_a_line_lacks_is_absent() {
        // A personality of a kernel to come, without counts.
        let samples = array("md0 : active raid99 sda[0]\n      10 blocks quux\n");
        assert_eq!(samples, ["blocks 10", "blocks_synced 10", "statestate=active 1"]);
        assert_eq!(
            array("md0 : broken raid1 sda[0](F)\n  7 blocks\n"),
            ["blocks 7", "blocks_synced 7", "disksstate=failed 1"]
        );
    }

    #[test]
    fn an_array_without_its_size_is_left_out_and_counted() {
        for broken in [
            "md1 : active raid1\n",
            "md1 : active raid1 c[0] d[1]\n\n",
            "md1 : active raid1 c[0]\n  x blocks [1/1] [U]\n",
        ] {
            let whole = "md0 : active raid1 a[0] b[1]\n  5 blocks [2/2] [UU]\n\n";
            let table = format!("Personalities : [raid1]\n{broken}{whole}unused devices: <none>\n");
            let text = collect(&COLLECTOR, &[(PATH, table.as_bytes())], &[]).unwrap();
            assert!(text.contains("md0") && !text.contains("md1"), "{text}");
            assert_eq!(skipped(&COLLECTOR, &[(PATH, table.as_bytes())], &[]), 1);
        }
    }

    #[test]
    fn a_line_that_is_no_array_is_skipped_and_a_name_may_have_the_separator() {
        let file = b"Personalities : \nnonsense\n  5 blocks\n\nmd_\"a : b\xff : active raid1 sda[0]\n  7 blocks [1/1] [U]\n";
        let text = collect(&COLLECTOR, &[(PATH, file)], &[]).unwrap();
        assert!(text.starts_with("node_md_blocks{device=\"md_\\\"a : b\u{fffd}\"} 7\n"), "{text}");
        assert_eq!(text.lines().count(), 11, "{text}");
    }

    #[test]
    fn raid_disks_and_how_many_are_missing_are_read_from_sysfs() {
        let text = collect(
            &COLLECTOR,
            &[
                (PATH, b"Personalities : [raid0]\nunused devices: <none>\n"),
                ("sys/block/md0/md/raid_disks", b"2\n"),
                ("sys/block/md5/md/raid_disks", b"11 (10)\n"),
                ("sys/block/md5/md/degraded", b"1\n"),
                ("sys/block/md127/md/raid_disks", b""),
                ("sys/block/sda/queue/rotational", b"0\n"),
            ],
            &[],
        );
        assert_eq!(
            text.unwrap(),
            "node_md_degraded{device=\"md0\"} 0\nnode_md_degraded{device=\"md127\"} 0\n\
             node_md_degraded{device=\"md5\"} 1\nnode_md_raid_disks{device=\"md0\"} 2\n\
             node_md_raid_disks{device=\"md5\"} 11\n"
        );
    }

    #[test]
    fn no_file_is_no_data_and_a_strange_one_malformed() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"x\n")], &[]), Err(CollectError::Malformed { .. })));
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, b"Personalities : \nunused devices: <none>\n")], &[]).unwrap(),
            ""
        );
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH, "sys/block/md0/md/raid_disks", "sys/block/md0/md/degraded"]);
    }
}
