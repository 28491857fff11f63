#!/usr/bin/env python3
"""Compares what the exporter replays of hand-made trees with what node_exporter has of the same files, in both directions.

usage: compare.py --exporter PATH --node-exporter PATH [--update] TREE...

Each sample that only one of them has, and each value that differs, is printed; a difference must have its row in
docs/compatibility.md. With --update, `expected.prom` becomes what the exporter gave, and the line before the last of `about.txt`
says how much of it node_exporter has as well, and which families differ.
"""
import argparse
import contextlib
import math
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request

import guest

# What a scrape tells of itself, and what is of the machine that runs this, not of a tree.
OF_THE_SCRAPE = re.compile(r"(node_scrape_|node_exporter_|go_|process_|promhttp_|keyhole_|node_textfile_|node_softnet_backlog_len)")
PORT = 19177


def peer(program, flags, tree):
    """What node_exporter has of a tree. It reads its network's files in /proc/net and /proc/self, which lead to process 1."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "tree"
        shutil.copytree(tree, copy, symlinks=True)
        for directory in ["proc/1", "sys"]:
            (copy / directory).mkdir(parents=True, exist_ok=True)
        (copy / "proc/self").symlink_to("1")
        (copy / "proc/net").symlink_to("1/net")
        command = [program, *flags, "--no-collector.netdev.netlink", "--no-collector.arp.netlink", f"--web.listen-address=127.0.0.1:{PORT}"]
        command += [f"--path.procfs={copy}/proc", f"--path.sysfs={copy}/sys", f"--path.rootfs={copy}", f"--path.udev.data={copy}/udev"]
        log = pathlib.Path(scratch) / "log"
        process = subprocess.Popen(command, stderr=log.open("w"))
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    text = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5).read().decode()
                    # The label `path` begins with --path.sysfs.
                    return text.replace(str(copy) + "/", "/"), [line for line in log.read_text().splitlines() if "err=" in line]
                time.sleep(0.05)
            raise SystemExit(f"{program} does not answer on port {PORT}: {log.read_text()}")
        finally:
            process.kill()
            process.wait(10)


def parsed(text):
    samples, _ = guest.parse(text)
    return {key: value for key, value in samples.items() if not OF_THE_SCRAPE.match(key)}


def succeeded(text):
    return {line for line in text.splitlines() if line.startswith("node_scrape_collector_success")}


def same(one, other):
    return one == other or (math.isnan(one) and math.isnan(other))


def compare(arguments, tree):
    flags = (tree / "flags.txt").read_text().split()
    text = subprocess.run([arguments.exporter, *flags, "replay", tree], capture_output=True, text=True, check=True).stdout
    peer_text, errors = peer(arguments.node_exporter, flags, tree)
    ours, theirs = parsed(text), parsed(peer_text)
    lines = [f"only here: {key} {ours[key]:.17g}" for key in sorted(ours.keys() - theirs.keys())]
    lines += [f"only in node_exporter: {key} {theirs[key]:.17g}" for key in sorted(theirs.keys() - ours.keys())]
    both = sorted(ours.keys() & theirs.keys())
    differing = [key for key in both if not same(ours[key], theirs[key])]
    lines += [f"{key}: {ours[key]:.17g}, in node_exporter {theirs[key]:.17g}" for key in differing]
    lines += [f"success: {line}, not so in node_exporter" for line in sorted(succeeded(text) - succeeded(peer_text))]
    print(f"{tree.name}: {len(both) - len(differing)} samples alike, {len(lines)} differences")
    for line in lines + [f"node_exporter says: {error.partition('msg=')[2]}" for error in errors]:
        print(f"  {line}")
    if arguments.update:
        names = sorted({key.split("{")[0] for key in [*(ours.keys() ^ theirs.keys()), *differing]})
        alike = f"{len(ours)} samples, {len(both) - len(differing)} of them as node_exporter 1.12.1 has them from the same files"
        told = f"{alike}; different on purpose (docs/compatibility.md): {', '.join(names)}" if names else alike
        about = (tree / "about.txt").read_text().splitlines()
        about[-2] = told
        (tree / "about.txt").write_text("\n".join(about) + "\n")
        expected = [line for line in text.splitlines() if line and not line.startswith("#") and not OF_THE_SCRAPE.match(line)]
        expected += sorted(succeeded(text))
        (tree / "expected.prom").write_text("".join(line + "\n" for line in expected))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporter", required=True)
    parser.add_argument("--node-exporter", required=True)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("trees", nargs="+", type=pathlib.Path, metavar="TREE")
    arguments = parser.parse_args()
    for tree in arguments.trees:
        compare(arguments, tree)


if __name__ == "__main__":
    main()
