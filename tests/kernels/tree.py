#!/usr/bin/env python3
"""Makes a small tree for tests/kernels/trees out of what boot.py brought back.

usage: tree.py --exporter PATH --results DIR --capture late|mounts --name NAME [--out DIR]

Takes the capture that was made in the virtual machine and leaves out what no two machines have alike or what there are many of:
processes, serial numbers, all but a few PCI devices, interfaces and CPUs. The expectation is what the exporter replays of the
rest, of which only those samples stay that node_exporter had in that machine with the same value at both of its scrapes.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import guest

# What is left out, of the paths below the tree.
LEFT_OUT = re.compile(
    r"proc/(?!1/)\d+/|proc/zoneinfo|proc/(interrupts|softirqs)$|sys/bus/pci/devices/0000:(?!00:0[0-3])|keyhole/queries"
    r"|sys/class/net/(?!lo|dummy9|bond9|slave9|veth9|$)|sys/devices/system/cpu/cpu[23]/|sys/block/loop(?!0)|udev/|.*serial|.*product_uuid"
    r"|sys/class/net/[^/]*/statistics/(tx_|rx_(over|length|frame|crc|missed|fifo))"
)
FLAGS_WITHOUT = {"interrupts", "softirqs", "zoneinfo", "processes", "textfile", "timex", "time", "diskstats"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporter", required=True)
    parser.add_argument("--results", type=pathlib.Path, required=True)
    parser.add_argument("--capture", choices=["first", "late", "mounts"], default="late")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "trees")
    arguments = parser.parse_args()
    results = json.loads((arguments.results / "results.json").read_text())
    tree = arguments.out / arguments.name
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    with tarfile.open(arguments.results / f"capture-{arguments.capture}.tar.gz") as tar:
        for member in tar:
            path = member.name.partition("tree/")[2]
            if LEFT_OUT.match(f"{path}/" if member.isdir() else path):
                continue
            if member.isfile():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(tar.extractfile(member).read())
            elif member.isdir() or member.issym():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).symlink_to(member.linkname) if member.issym() else (tree / path).mkdir(exist_ok=True)
    files = tree / "keyhole/files"
    rows = files.read_text().splitlines(keepends=True)
    files.write_text("".join(row for row in rows if not LEFT_OUT.match(row.split("\t")[0])))
    flags = ["--collector.disable-defaults"]
    flags += [f"--collector.{name}" for name in results["collectors"] if name not in FLAGS_WITHOUT]
    (tree / "flags.txt").write_text("\n".join(flags) + "\n")
    done = subprocess.run([arguments.exporter, *flags, "replay", tree], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"replay {tree}: {done.stderr}")
    replayed = done.stdout
    ours, _ = guest.parse(replayed)
    scraped = "mounts" if arguments.capture == "mounts" else arguments.capture
    peer, _ = guest.parse((arguments.results / f"{scraped}.node_exporter.prom").read_text())
    expected = [(key, value) for key, value in ours.items() if peer.get(key) == value]
    (tree / "expected.prom").write_text("".join(f"{key} {value:.17g}\n" for key, value in sorted(expected)))
    (tree / "about.txt").write_text(
        f"Linux {results['release']} ({results['version']}) under QEMU, q35, four CPUs, two NUMA nodes, captured by boot.py\n"
        f"{len(expected)} samples, each as node_exporter 1.12.1 had it in that machine\n"
        "must not match: []\n"
    )
    print(f"{tree}: {len(expected)} of {len(ours)} samples; not expected:",
          sorted({key.split('{')[0] for key, value in ours.items() if peer.get(key) != value})[:400])


if __name__ == "__main__":
    main()
