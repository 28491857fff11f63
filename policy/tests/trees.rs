//! Every pattern of the table, tried against trees of real kernels: the captured and the hand-made ones of this repository,
//! and whatever kernel runs here. What a wildcard takes must have the shape of an item's name.
//!
//! `cargo test -p keyhole-policy --test trees -- --nocapture` lists how often each pattern matches.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use keyhole_policy::pattern::{is_wild, matches};
use keyhole_policy::{Root, Source, TABLE};
use support::expand;

/// Directories below sysfs whose entries are listed, and the shapes of items' names there. Independent of the patterns,
/// which name what is read of an item. A wildcard stands for nothing in the name of a directory.
#[rustfmt::skip]
const SHAPES: &[(&str, &[&str])] = &[
    ("block", &[
        "{sd,hd,vd,xvd,dasd}*", "nvme#n#", "nvme#c#n#", "mmcblk#", "mmcblk#{boot#,rpmb}", "dm-#", "md#", "md_*", "cciss!c#d#", "etherd!e#.#", "ubiblock#_#",
        "{loop,ram,zram,nullb,sr,fd,nbd,rbd,drbd,bcache,zd,scm,pmem,mtdblock,ublkb}#",
    ]),
    ("bus/pci/devices", &["*:#*.#", "*:*:*.#"]),
    ("class/drm", &["card#"]),
    ("class/fc_host", &["host#"]),
    ("class/hwmon", &["hwmon#"]),
    ("class/infiniband//ports", &["#"]),
    ("class/nvme", &["nvme#"]),
    ("class/nvme/nvme", &["nvme#n#"]),
    ("class/nvme-subsystem", &["nvme-subsys#"]),
    ("class/nvme-subsystem/nvme-subsys", &["nvme#", "nvme#n#"]),
    ("class/scsi_tape", &["st#"]),
    ("class/thermal", &["{thermal_zone,cooling_device}#"]),
    ("class/watchdog", &["watchdog#"]),
    ("devices/system/clocksource", &["clocksource#"]),
    ("devices/system/cpu", &["cpu#"]),
    ("devices/system/edac/mc", &["mc#"]),
    ("devices/system/edac/mc/mc", &["csrow#"]),
    ("devices/system/node", &["node#"]),
    ("fs/xfs", &["{sd,vd,nvme,dm-,md,loop,mapper}*"]),
];

/// What lies beside items in a directory where an item may have almost any name: never an item.
const BESIDE: &[&str] = &["uevent", "power", "subsystem"];
const NO_DIRECTORY: &[&str] = &["device", "bonding_masters", "features", "stats", "debug"];

/// Patterns that nothing matches in any tree of this repository.
#[rustfmt::skip]
const UNMET: &[&str] = &[
    // Talos alone has it.
    "fs/cgroup/system/extensions/*/{cpu.stat,cpu.pressure,io.stat,io.pressure,memory.current,memory.events,memory.high,memory.max,memory.peak,memory.pressure,memory.stat,memory.swap.current,memory.swap.max,pids.current,pids.max}",
    // Kernels before Linux 4.5.
    "class/infiniband/*/ports/#/counters_ext/port_{multicast_rcv_packets,multicast_xmit_packets,unicast_rcv_packets,unicast_xmit_packets}",
    "class/infiniband/*/ports/#/counters_ext/port_{rcv_data_64,rcv_packets_64,xmit_data_64,xmit_packets_64}",
];

fn trees() -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let entries = fs::read_dir(tests.join("kernels/trees")).unwrap();
    let mut trees: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    trees.push(tests.join("golden/host/tree"));
    trees.sort();
    trees
}

fn is_of_proc(source: &Source) -> bool {
    matches!(source.root, Root::Proc | Root::ProcIn(_))
}

/// What is wrong with a path that a pattern below sysfs matched.
fn flaw(pattern: &str, path: &str) -> Option<String> {
    let (patterns, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    for (at, _) in patterns.iter().enumerate().filter(|(_, component)| is_wild(component)) {
        let name = path[at];
        let is_last = at + 1 == path.len();
        // All that a supply has is read; it has too many attributes to name them.
        let of_supply = pattern == "class/power_supply/*/*" && is_last;
        if (BESIDE.contains(&name) && !of_supply) || (!is_last && NO_DIRECTORY.contains(&name)) {
            return Some(format!("{name} lies beside items"));
        }
        let fixed = |component: &&str| component.trim_matches(['#', '*']).to_owned();
        let directory = patterns[..at].iter().map(fixed).collect::<Vec<_>>().join("/");
        let Some((_, shapes)) = SHAPES.iter().find(|(shaped, _)| *shaped == directory) else { continue };
        if !shapes.iter().any(|shape| matches(shape.as_bytes(), name.as_bytes())) {
            return Some(format!("{name} has the shape of none of {shapes:?}"));
        }
    }
    let is_uuid =
        |name: &str| name.len() == 36 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    match *path {
        ["fs", "bcache" | "bcachefs" | "btrfs", name, ..] if !is_uuid(name) => {
            Some(format!("{name} is no UUID"))
        }
        _ => None,
    }
}

#[test]
fn what_a_wildcard_matches_has_the_form_of_an_item_in_every_tree_and_on_this_machine() {
    let mut wrong = Vec::new();
    let mut matched: BTreeMap<&str, usize> = BTreeMap::new();
    let here = (PathBuf::from("/sys"), PathBuf::from("/proc"));
    let of_trees = trees().into_iter().map(|tree| (tree.join("sys"), tree.join("proc")));
    for (sys, proc) in of_trees.chain([here]) {
        for source in TABLE.iter().flat_map(|row| row.sources) {
            let dir = match source.root {
                Root::Sys => &sys,
                _ if is_of_proc(source) => &proc,
                _ => continue,
            };
            let found = expand(dir, source.pattern);
            *matched.entry(source.pattern).or_default() += found.len();
            let flaws = found.iter().filter_map(|path| Some((path, flaw(source.pattern, path)?)));
            wrong.extend(
                flaws.map(|(path, flaw)| format!("{}/{path} for {}: {flaw}", dir.display(), source.pattern)),
            );
        }
    }
    for (pattern, count) in matched {
        println!("{count:6} {pattern}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The directory of a capture's index.
const INDEX: &str = "keyhole";

/// Below a root, trees also have what lies beside the policy's files, which no pattern may match.
#[test]
fn every_directory_of_a_tree_is_a_root_of_the_policy() {
    let sources = TABLE.iter().flat_map(|row| row.sources);
    let roots: Vec<&str> = sources.map(|source| source.root.name()).collect();
    let mut unknown = Vec::new();
    for tree in trees() {
        let entries = fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path());
        unknown.extend(entries.filter(|path| path.is_dir()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name != INDEX && !roots.contains(&&*name)
        }));
    }
    assert!(unknown.is_empty(), "no pattern matches anything in {unknown:?}");
}

#[test]
fn a_file_that_others_may_not_read_on_this_machine_is_listed_as_one_for_uid_0() {
    const OTHERS_MAY_READ: u32 = 0o004;
    let listed: Vec<&str> =
        include_str!("../root_files.txt").lines().filter(|line| !line.starts_with('#')).collect();
    let mut unlisted = Vec::new();
    for source in TABLE.iter().flat_map(|row| row.sources) {
        if source.root != Root::Sys && !is_of_proc(source) {
            continue;
        }
        let root = source.root.name();
        for path in expand(&Path::new("/").join(root), source.pattern) {
            let path = format!("{root}/{path}");
            // A device may be gone by now.
            let Ok(metadata) = Path::new("/").join(&path).metadata() else { continue };
            let is_listed = listed.iter().any(|file| matches(file.as_bytes(), path.as_bytes()));
            if metadata.is_file() && metadata.mode() & OTHERS_MAY_READ == 0 && !is_listed {
                unlisted.push(path);
            }
        }
    }
    assert!(unlisted.is_empty(), "add to policy/root_files.txt: {unlisted:?}");
}

#[test]
fn every_pattern_of_a_device_matches_in_some_tree() {
    let trees = trees();
    let sources = TABLE.iter().flat_map(|row| row.sources).filter(|source| {
        source.root == Root::Sys || (is_of_proc(source) && !source.pattern.starts_with("sys/"))
    });
    let nowhere = sources.filter(|source| {
        let root = if source.root == Root::Sys { "sys" } else { "proc" };
        trees.iter().all(|tree| expand(&tree.join(root), source.pattern).is_empty())
    });
    let nowhere: Vec<&str> = nowhere.map(|source| source.pattern).collect();
    assert_eq!(nowhere, UNMET, "add files that these patterns match to tests/kernels/trees/everything");
}

#[test]
fn a_name_beside_items_is_detected() {
    for (pattern, path) in [
        ("fs/btrfs/*/label", "fs/btrfs/features/label"),
        ("class/net/*/mtu", "class/net/bonding_masters/mtu"),
        ("class/scsi_tape/*/stats/in_flight", "class/scsi_tape/nst0/stats/in_flight"),
        ("devices/system/cpu/*/online", "devices/system/cpu/cpufreq/online"),
        ("class/hwmon/hwmon#/*", "class/hwmon/hwmon0/uevent"),
        ("fs/xfs/*/stats/stats", "fs/xfs/stats/stats/stats"),
    ] {
        assert!(flaw(pattern, path).is_some(), "{path}");
    }
    assert_eq!(flaw("class/net/*/mtu", "class/net/device1/mtu"), None);
}
