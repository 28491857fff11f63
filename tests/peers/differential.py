#!/usr/bin/env python3
"""Compares the exporter with a node_exporter on the same host, in both directions.

usage: differential.py [--binaries DIR] [--rounds N] [--keep DIR] [-v]

With node_exporter 1.12.1 (target/ci-tools/go/bin/node_exporter, which .ci/setup builds where Go is there) it is
strict: what only one of the two has, types, label sets, and values between two of node_exporter's are compared, for
every collector that both have, on by default or not. As root both run in new PID, network and mount namespaces with odd
interfaces, mounts and text files (oddities.py). Each difference must be in EXCEPTIONS with its reason; an entry there
that matches nothing is reported. Without 1.12.1 Debian's node_exporter stands in: then the collectors that are on by
default are compared, and what only the exporter has is not looked at.

A round scrapes node_exporter, the exporter, and node_exporter again. What held in one round holds. Exit status 1 when
anything differs that is not an exception.
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
import time

import oddities
from launch import BROKER_UID, REPOSITORY, Keyhole, fail, fetch, free_port, scrape, stop, this_host, wait_for_page

NEW = REPOSITORY / "target/ci-tools/go/bin/node_exporter"

# Expected differences: the kind (only ours, only theirs, type, value, label order), a pattern for the series with its labels
# sorted by name, ALWAYS or HERE, and the reason. HERE marks those that depend on the host: they may match nothing.
ALWAYS, HERE = True, False
EXCEPTIONS = [
    ("value", r"node_scrape_collector_duration_seconds\b", ALWAYS, "the time that the program itself took"),
    ("value", r"(process|promhttp)_", ALWAYS, "about the program itself"),
    ("only ours", r"(keyhole|namedprocess)_", ALWAYS, "families beyond node_exporter's"),
    ("only theirs", r"go_", ALWAYS, "there is no Go runtime"),
    ("only ours", r"node_exporter_build_info\b", ALWAYS, "names the program, which is another"),
    ("only theirs", r"node_exporter_build_info\b", ALWAYS, "names the program, which is another"),
    ("only ours", r"node_memory_", HERE, "every line of /proc/meminfo"),
    ("only ours", r"node_cpu_online\b", HERE, "given without the first CPU's file"),
    ("only ours", r"node_ksmd_general_profit_bytes\b", HERE, "no such family there"),
    ("only theirs", r"node_pcidevice_\w+\{.*\} (-1|0)$", HERE, "-1 and 0 for what a device does not have"),
    ("only ours", r"node_network_route", HERE, "files have neither proto nor src, and of IPv4 only the main table"),
    ("only theirs", r"node_network_route", HERE, "files have neither proto nor src, and of IPv4 only the main table"),
    ("only ours", r"node_network_info\{.*ifalias=\"alias with .*x{150}", HERE, "a long alias is whole: the file is not cut"),
    ("only theirs", r"node_network_info\{.*ifalias=\"alias with .*x{90}", HERE, "a long alias is cut"),
    ("value", r"node_processes_(state|threads_state)\b", HERE, "the programs that read run while they read"),
    ("value", r"node_procs_running\b", HERE, "the programs that read run while they read: a reader of each class at once"),
    ("value", r"node_tcp_connection_states\{state=\"[rt]x_queued_bytes\"\}", HERE, "backlogs of sockets that listen are no bytes"),
    ("value", r"node_scrape_collector_success\{collector=\"mountstats\"\}", HERE, "of process 1, which a broker of another uid may not read"),
    # File systems.
    ("only theirs", r"node_filesystem_\w+\{.*/hidden/below", HERE, "a mount that is hidden under another gives nothing"),
    ("only theirs", r"node_filesystem_mount_info\{.*/twice\"", HERE, "a mount that is hidden under another gives nothing"),
    ("only theirs", r"node_filesystem_\w+\{.*\ufffd", HERE, "a name that is not UTF-8 is asked for by its bytes"),
    ("only ours", r"node_filesystem_\w+\{.*\ufffd", HERE, "a name that is not UTF-8 is asked for by its bytes"),
    ("only theirs", r"node_filesystem_\w+\{.*\\\\\d\d\d", HERE, "octal escapes are undone, in devices and of all bytes"),
    ("only ours", r"node_filesystem_\w+\{.*(\\n|\\\\|\t|#)", HERE, "octal escapes are undone, in devices and of all bytes"),
]
# Debian's node_exporter is older: labels and defaults that came since.
NEWER_LABELS = {
    "node_disk_info": "rotational",
    "node_filesystem_": "device_error",
    "node_network_info": "adminstate",
}
NEWER_DEFAULTS = [
    # zram devices are left out.
    r"--collector.diskstats.device-exclude=^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$",
]
# Collectors that both have and that are not compared.
NOT_COMPARED = set()

LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')


class Exposition:
    """Samples by name and labels, sorted and without empty ones, and types by family."""

    def __init__(self, text, newer_labels=()):
        self.samples, self.types, self.orders = {}, {}, {}
        # Not splitlines(): labels may hold other characters that end a line there.
        for line in text.split("\n"):
            if line.startswith("# TYPE "):
                _, _, family, kind = line.split(" ")
                self.types[family] = kind
            if not line or line.startswith("#"):
                continue
            match = SAMPLE.match(line)
            if not match or LABEL.sub("", match[2] or ""):
                fail(f"not a sample: {line}")
            labels = [pair for pair in LABEL.findall(match[2] or "") if pair[1]]
            labels = [pair for pair in labels if not any(match[1].startswith(name) and pair[0] == label for name, label in newer_labels)]
            self.orders.setdefault(match[1], []).append([name for name, _ in labels])
            key = match[1] + ("{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels)) + "}" if labels else "")
            if key in self.samples:
                fail(f"twice the same series: {key}")
            self.samples[key] = float(match[3])

    def families(self):
        return {re.split(r"[{]", key)[0] for key in self.samples}


def text_of(url):
    """A scrape's text; node_exporter passes on help texts that are not UTF-8."""
    status, body = fetch(url)
    if status != 200:
        fail(f"{url} answered {status}: {body.decode(errors='replace').strip()}")
    return body.decode(errors="replace")


def between(one, value, other):
    if value != value:
        return one != one or other != other
    low, high = min(one, other), max(one, other)
    if value in (low, high):
        return True
    slack = 1e-9 * max(abs(low), abs(high))
    return low - slack <= value <= high + slack


def differences(before, got, after, strict):
    """What differs in a round: pairs of what it is and the series, with the values."""
    found = {}
    for key in before.samples.keys() & after.samples.keys() - got.samples.keys():
        found["only theirs", key] = f"{before.samples[key]:.17g}"
    for key in got.samples.keys() - before.samples.keys() - after.samples.keys():
        if strict:
            found["only ours", key] = f"{got.samples[key]:.17g}"
    for key in got.samples.keys() & before.samples.keys() & after.samples.keys():
        values = [each.samples[key] for each in (before, got, after)]
        if not between(*values):
            found["value", key] = "{0:.17g} .. {2:.17g}, got {1:.17g}".format(*values)
    for family in got.types.keys() & after.types.keys():
        if got.types[family] != after.types[family]:
            found["type", family] = f"{after.types[family]}, got {got.types[family]}"
    # Programs that read expositions by patterns (awk, node-problem-detector) expect the labels in this order.
    for name in got.orders.keys() & after.orders.keys() if strict else ():
        theirs, ours = ({tuple(order) for order in each.orders[name]} for each in (after, got))
        swapped = next((order for order in ours - theirs if any(sorted(order) == sorted(other) for other in theirs)), None)
        if swapped:
            found["label order", name] = f"{theirs}, got {swapped}"
    compared = (before.samples.keys() & after.samples.keys()) | (got.samples.keys() if strict else set())
    return found, compared


def peer():
    """The node_exporter to compare with, and whether it is the one that the names come from."""
    if os.access(NEW, os.X_OK):
        return NEW, True
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if not program:
        fail("node_exporter is missing: apt-get install prometheus-node-exporter")
    return program, False


def peer_collectors(program):
    """The collectors that the peer has."""
    text = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20)
    return set(re.findall(r"Enable\s+the\s+(\w+)\s+collector", text.stdout + text.stderr))


def our_collectors(exposition):
    """The collectors that ran for a scrape."""
    return set(re.findall(r'^node_scrape_collector_success\{collector="(\w+)"\}', exposition, re.MULTILINE))


def collectors_with_flags(binaries):
    """The collectors that the exporter has flags for."""
    text = subprocess.run([binaries / "keyhole-exporter", "--help"], capture_output=True, text=True, timeout=20).stdout
    return set(re.findall(r"--(?:\[no-\]|no-)?collector\.([a-z_0-9]+)\s", text))


def compare(arguments, home):
    program, strict = peer()
    broker, flags = this_host(), []
    made, directory = [], None
    if strict and oddities.possible():
        made, directory = oddities.make(home)
        flags += [f"--collector.textfile.directory={directory}", "--collector.filesystem.fs-types-exclude=^(proc|sysfs|cgroup2?|devpts|mqueue)$"]
        flags += ["--collector.sysctl.include=vm.swappiness", "--collector.sysctl.include=kernel.threads-max"]
    print(f"peer: {program}, {'strict' if strict else 'in one direction, collectors that are on by default'}")
    for what in made:
        print(f"  {what}")
    if strict:
        broker += ["--allow-processes", "--queries=all"]
    with Keyhole(arguments.binaries, broker, []) as keyhole:
        theirs = peer_collectors(program)
        enabled = set(re.findall(r'^node_scrape_collector_success\{collector="(\w+)"\}', scrape(keyhole.url), re.MULTILINE))
        ours = collectors_with_flags(keyhole.binaries) if strict else enabled
        shared = sorted((ours | enabled) & theirs - NOT_COMPARED)
        if len(shared) < 15:
            fail(f"only {len(shared)} collectors in common: {shared}")
        switches = ["--collector.disable-defaults", *(f"--collector.{name}" for name in shared)]
        keyhole.processes.remove(keyhole.exporter)
        stop(keyhole.exporter)
        keyhole.exporter_flags = [*flags, *switches]
        keyhole.start_exporter()
        url = f"http://127.0.0.1:{free_port()}/metrics"
        command = [program, f"--web.listen-address={url.split('/')[2]}", *flags, *switches, *([] if strict else NEWER_DEFAULTS)]
        drop = dict(user=BROKER_UID, group=BROKER_UID, extra_groups=[]) if os.geteuid() == 0 else {}
        with open(home / "log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **drop)
        try:
            wait_for_page("node_exporter", process, url)
            return strict, len(shared), *rounds(arguments, url, keyhole.url, strict)
        finally:
            stop(process)
            oddities.unmount()
            if arguments.v:
                print(*(line for line in (home / "log").read_text().splitlines() if "level=INFO" not in line), sep="\n")


def rounds(arguments, theirs, ours, strict):
    """What differed in every round, and everything that was compared."""
    left, compared = None, set()
    newer = () if strict else tuple(NEWER_LABELS.items())
    for number in range(arguments.rounds):
        texts = [text_of(url) for url in (theirs, ours, theirs)]
        if arguments.keep:
            for name, text in zip(("before", "got", "after"), texts):
                (pathlib.Path(arguments.keep) / name).write_text(text)
        before, got, after = Exposition(texts[0]), Exposition(texts[1], newer), Exposition(texts[2])
        found, keys = differences(before, got, after, strict)
        compared |= keys
        left = found if left is None else {key: value for key, value in found.items() if key in left}
        if arguments.v:
            print(f"round {number + 1}: {len(found)} of {len(keys)} differ")
        if not unexplained(left)[0]:
            break
        time.sleep(0.3)
    return left, compared


def unexplained(found):
    """The differences that are no exceptions, and how often each exception matched."""
    counts, rest = collections.Counter(), {}
    for (what, key), values in found.items():
        text = f"{key} {values}"
        entry = next((entry for entry in EXCEPTIONS if entry[0] == what and re.match(entry[1], text)), None)
        if entry:
            counts[entry] += 1
        else:
            rest[what, key] = values
    return rest, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--keep", help="write the last round's scrapes into this directory")
    parser.add_argument("-v", action="store_true", help="show each round")
    arguments = parser.parse_args()
    if peer()[1]:
        oddities.enter_namespaces()
    with tempfile.TemporaryDirectory(prefix="keyhole-differential-") as home:
        strict, collectors, found, compared = compare(arguments, pathlib.Path(home))
    rest, counts = unexplained(found)
    for (what, key), values in sorted(rest.items()):
        print(f"  differs: {what}: {key} {values}")
    for entry in EXCEPTIONS if strict else []:
        what, pattern, always, reason = entry
        if counts[entry]:
            print(f"  on purpose: {counts[entry]} {what} of {pattern}: {reason}")
        else:
            print(f"  {'no longer differs, take it out' if always else 'matches nothing on this host'}: {what} of {pattern}")
    exceptions, total = sum(counts.values()), len(compared)
    print(
        f"differential: {total - exceptions - len(rest)}/{total - exceptions} series of {collectors} collectors match "
        f"node_exporter's; {exceptions} exceptions by {len(counts)} entries"
    )
    return 1 if rest else 0


if __name__ == "__main__":
    sys.exit(main())
