#!/usr/bin/env python3
"""Compares what the exporter and node_exporter 1.12.1 make of the same trees of kernel files.

usage: trees.py [--binaries DIR] [-v] [--update] [TREE...]

Without a TREE it takes those of this repository: tests/golden/host/tree and tests/kernels/trees/*. The exporter replays a
tree; node_exporter reads a copy of it by its --path flags, with the tree's flags (flags.txt), else with every collector
that reads files below them alone. Each difference must be in EXCEPTIONS with its reason, or in those of differential.py.
A capture lacks files that only node_exporter wants; collectors that fail there for that reason are left out of that tree
and named. Every collector that both
have must have a sample in some tree. Exit status 1 when one has none, or anything differs besides. With --update, `expected.prom` becomes what the exporter gave, and
the line before the last of `about.txt` says how much of it node_exporter has as well. Needs node_exporter 1.12.1
(target/ci-tools/go/bin/node_exporter, from .ci/setup).
"""
import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import differential
from launch import REPOSITORY, binaries, fail, free_port, stop, wait_for_page

# Collectors of node_exporter that ask the running kernel, whatever the paths say; and processes, whose directories a
# capture does not have.
LIVE = {"ethtool", "filesystem", "logind", "network_route", "ntp", "perf", "qdisc", "runit", "selinux", "supervisord",
        "processes", "systemd", "tcpstat", "textfile", "time", "timex", "uname", "wifi", "xdp"}
# Flags that make node_exporter read a file where it would ask by netlink.
BY_FILE = ["--no-collector.arp.netlink", "--no-collector.netdev.netlink"]
FAILED = re.compile(r'^node_scrape_collector_success\{collector="(\w+)"\} 0$', re.MULTILINE)
# Expected differences, as in differential.py: the kind, a pattern, and the reason.
EXCEPTIONS = [
    ("only ours", r"node_network_receive_nohandler_total\b", "asked by netlink there"),
    ("only theirs", r"node_nfsd?_\w+\{.*\} 0$", "0 for lines that the kernel does not have"),
    ("only theirs", r"node_btrfs_(commits_total|\w*commit_seconds\w*)\{.*\} 0$", "0 before Linux 6.0"),
    ("only ours", r"node_btrfs_device_errors_total\b", "asked by ioctl there"),
    ("value", r"node_btrfs_global_rsv_size_bytes\b.* 0 \.\. 0,", "0 there unless a file lies beside it that no family needs"),
    ("only theirs", r'node_hwmon_\w+\{chip="hwmon0_device"', "a capture has no links, of which the chip's name is made"),
    ("only ours", r'node_hwmon_\w+\{chip="i2c_0_0_0048"', "a capture says where its links lead"),
    ("only theirs", r"node_cpu_frequency_hertz\{.*\} 0$", "0 where /proc/cpuinfo has no frequency"),
    ("value", r"node_cpu_frequency_hertz\b.* 0 \.\. 0,", "0 where /proc/cpuinfo has no frequency"),
    ("only ours", r'node_cpu_info\{.*("rv64|POWER9)', "node_exporter for x86 does not know this architecture's /proc/cpuinfo"),
    ("only theirs", r'node_cpu_info\{cpu="\d+"(,model="IBM pSeries.*")?\} 1$', "node_exporter for x86 does not know this architecture's /proc/cpuinfo"),
    ("only theirs", r"node_(softirqs_total\{.*\}|softnet_backlog_len\{.*\}) 0$", "0 for columns that the kernel does not have"),
    ("only theirs", r'node_ipvs_backend_\w+\{local_address="2620::1"', "SCTP's servers under the service before them"),
    ("only ours", r'node_ipvs_backend_\w+\{.*proto="SCTP"', "SCTP's servers under the service before them"),
    ("value", r"node_infiniband_lifespan_seconds\b", "whole seconds there"),
    ("value", r"node_hwmon_humidity\b|node_hwmon_\w+_(alarm|enable)_\w+", "flags and ratios by the kernel's units"),
    ("only theirs", r'node_hwmon_temp_celsius\{chip="power_supply_bat0",sensor="temp0"', "tenths of a degree, taken for thousandths there"),
    ("only ours", r"node_hwmon_power_accuracy\b", "`90.0%` is read"),
    ("only ours", r"node_bcache_cache_readaheads_total\b.* 0$", "absent there while it is 0"),
    ("value", r"node_bcache_(average_key_size_sectors|btree_read_average_duration_seconds)\b", "by the kernel's units"),
    ("value", r'node_bcachefs_errors_total\{error_type="extent_io_opts_not_set"', "a count that runs into the time behind it"),
    ("value", r"node_drbd_network_received_bytes_total\b", "KiB, taken for bytes there"),
    ("only ours", r'node_md_raid_disks\{device="md6"', "absent there while the level is not known"),
    ("only ours", r'node_interrupts_total\{.*timer event device",type="LOC"', "of two lines of a type the last one"),
]


def all_trees():
    """The trees of this repository."""
    return [REPOSITORY / "tests/golden/host/tree", *sorted((REPOSITORY / "tests/kernels/trees").iterdir())]


def with_links(tree, home):
    """A copy of a tree that has the links of /proc, which a capture leaves out."""
    copy = home / "tree"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tree, copy, symlinks=True)
    proc = copy / "proc"
    if proc.is_dir() and not os.path.lexists(proc / "self"):
        (proc / "self").symlink_to("1")
    if proc.is_dir() and not os.path.lexists(proc / "net"):
        (proc / "net").symlink_to("self/net")
    return copy


def flags_of(tree, collectors, ours_alone=frozenset()):
    """The flags of a tree, without the collectors that ask the running kernel and those that node_exporter does not have."""
    flags = tree / "flags.txt"
    given = flags.read_text().split() if flags.exists() else ["--collector.disable-defaults", *(f"--collector.{name}" for name in collectors)]
    return [flag for flag in given if re.split("[.=]", flag.removeprefix("--collector."))[0] not in LIVE | ours_alone]


def live_flags(tree, collectors):
    """The flags of the collectors of a tree that ask the running kernel in node_exporter: a replay has them of the tree."""
    flags = tree / "flags.txt"
    given = flags.read_text().split() if flags.exists() else [f"--collector.{name}" for name in collectors]
    return ["--collector.disable-defaults", *(flag for flag in given if flag.removeprefix("--collector.") in LIVE)]


def theirs(program, tree, flags, log):
    """node_exporter's exposition of a tree."""
    url = f"http://127.0.0.1:{free_port()}/metrics"
    command = [program, f"--web.listen-address={url.split('/')[2]}", "--web.disable-exporter-metrics",
               f"--path.procfs={tree}/proc", f"--path.sysfs={tree}/sys", f"--path.rootfs={tree}", f"--path.udev.data={tree}/udev/data",
               *flags, *BY_FILE]
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", env={**os.environ, "TZ": "UTC"})
    try:
        wait_for_page("node_exporter", process, url)
        # The label of a zone's path begins with --path.sysfs.
        return differential.text_of(url).replace(f"{tree}/", "/")
    finally:
        stop(process)


def ours(program, tree, flags):
    """The exporter's exposition of a tree."""
    command = [program, *flags, *BY_FILE, "replay", tree]
    done = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "TZ": "UTC", "NODE_NAME": "guest"})
    # 3: some collectors fail, as their samples show.
    if done.returncode != 0:
        fail(f"replay {tree}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


# Collectors that no file of a tree answers: by a system call, and from a directory of the exporter's own.
OF_NO_TREE = {"timex", "textfile"}


def collectors_of_families():
    """Expressions for the families of each collector, by docs/metrics.md, whose names have `<...>` for what varies."""
    collectors, name = {}, None
    for line in (REPOSITORY / "docs/metrics.md").read_text().splitlines():
        title, family = re.match(r"## (\w+) \(", line), re.match(r"\| `([\w<>:]+)` \|", line)
        if title:
            name = title[1]
            collectors[name] = []
        elif line.startswith("## "):
            name = None
        elif family and name:
            collectors[name].append(re.sub(r"<[^>]*>", r"\\w+", family[1]))
    return {name: re.compile(rf"(?:{'|'.join(families)})(?:_bucket|_sum|_count)?[{{ ]") for name, families in collectors.items()}


def without_samples(names, keys):
    """The collectors of `names` of which no series is among `keys`."""
    expressions = collectors_of_families()
    return sorted(name for name in names if not any(expressions[name].match(f"{key} ") for key in keys))


# Series about the scrape itself.
OF_THE_SCRAPE = re.compile(r"(node_scrape_|node_exporter_|go_|process_|promhttp_|keyhole_|node_textfile_)")


def update(tree, text, alike):
    """Makes what the exporter gave of a tree its expectation: a replay has no `keyhole_*` but those of collectors."""
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    expected = [line for line in lines if line.startswith("keyhole_") or not OF_THE_SCRAPE.match(line)]
    about = (tree / "about.txt").read_text().splitlines()
    about[-2] = f"{len(expected)} samples, {alike} of them as node_exporter 1.12.1 has them from the same files"
    expected += sorted(line for line in lines if line.startswith("node_scrape_collector_success"))
    (tree / "expected.prom").write_text("".join(line + "\n" for line in expected))
    (tree / "about.txt").write_text("".join(line + "\n" for line in about))


def reason(what, text):
    for entry in EXCEPTIONS:
        if entry[0] == what and re.match(entry[1], text):
            return entry[-1]
    return next((entry[3] for entry in differential.EXCEPTIONS if entry[0] == what and re.match(entry[1], text)), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("-v", action="store_true", help="show each exception")
    parser.add_argument("--update", action="store_true", help="write the trees' expectations")
    parser.add_argument("trees", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    program, strict = differential.peer()
    if not strict:
        print("trees: node_exporter 1.12.1 is not there: nothing was compared")
        return 0
    exporter = binaries(arguments.binaries) / "keyhole-exporter"
    our_collectors, their_collectors = differential.collectors_with_flags(exporter.parent), differential.peer_collectors(program)
    shared, ours_alone = our_collectors & their_collectors, our_collectors - their_collectors
    collectors = sorted(shared - LIVE)
    trees = arguments.trees or all_trees()
    compared = wrong = excepted = 0
    matched, replayed = set(), set()
    left_out = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="keyhole-trees-") as home:
        home = pathlib.Path(home)
        for tree in trees:
            copy = with_links(tree, home)
            with open(home / "log", "w") as log:
                flags = flags_of(copy, collectors, ours_alone)
                failed = set(FAILED.findall(theirs(program, copy, flags, log)))
                left_out.update(failed)
                flags = [flag for flag in flags if flag.removeprefix("--collector.") not in failed]
                their = differential.Exposition(theirs(program, copy, flags, log))
            our = differential.Exposition(ours(exporter, copy, flags))
            replayed |= differential.Exposition(ours(exporter, copy, live_flags(copy, shared))).samples.keys()
            found, keys = differential.differences(their, our, their, True)
            if not flags_of(copy, []) or len(their.samples) < 2 * len(our.samples) // 3:
                fail(f"{tree}: node_exporter gave only {len(their.samples)} samples")
            left = {}
            for (what, key), values in found.items():
                why = reason(what, f"{key} {values}")
                if why is None:
                    left[what, key] = values
                elif arguments.v:
                    print(f"  {tree.name}: on purpose: {what}: {key} {values}: {why}")
            for (what, key), values in sorted(left.items()):
                print(f"  {tree.name}: differs: {what}: {key} {values}")
            if arguments.update:
                alike = sum(not OF_THE_SCRAPE.match(key) for key in keys - {key for _, key in found})
                update(tree, ours(exporter, copy, (copy / "flags.txt").read_text().split()), alike)
            matched |= keys - {key for _, key in found}
            compared += len(keys)
            excepted += len(found) - len(left)
            wrong += len(left)
    if not arguments.trees:
        for name in without_samples(set(collectors), matched) + without_samples(shared & LIVE - OF_NO_TREE, replayed):
            print(f"  no tree has a sample of the collector {name}: extend tests/kernels/trees/everything")
            wrong += 1
    print("  node_exporter fails, in so many trees:", ", ".join(f"{name} {count}" for name, count in sorted(left_out.items())))
    print(f"trees: {compared - excepted - wrong}/{compared - excepted} series of {len(trees)} trees and {len(collectors)} collectors match node_exporter's; {excepted} exceptions")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
