#!/usr/bin/env python3
"""Measures what Keyhole's processes hold when four readers of one class are stuck.

usage: stuck.py [--binaries DIR] [--pairs N] [--write]

In a network namespace of 200 veth pairs (worlds.py), whose attributes fill the readers' descriptor caches. The reader that
holds most descriptors is stopped by SIGSTOP, which the broker cannot distinguish from one that sleeps in the kernel, and its
replacement scraped until its cache is full as well; so on until four are stuck. --write puts the table into
docs/performance.md.

Needs root, iproute2 and Debian's prometheus-node-exporter package.
"""
import argparse
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

from launch import PROCESS_TIMEOUT, binaries, descendants, fail  # noqa: E402
from run import DOCUMENT, NAMESPACES, look_first, node_exporter, put  # noqa: E402
from targets import Measured, Target  # noqa: E402
from worlds import WORLDS  # noqa: E402

# A class may have so many.
STUCK = 4
# What the first opens is cached, and what the second finds again.
SCRAPES = 3


def descriptors(pid):
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def readers(keyhole):
    """The readers' processes, in the order in which they were started: the zygote comes first."""
    return descendants(keyhole.broker.pid)[1:]


def fill(target, stuck):
    """Scrapes until the readers' caches are full and so many are reported as stuck: the exporter asks every 15 s."""
    deadline = time.monotonic() + PROCESS_TIMEOUT
    for scrape in itertools.count(1):
        target.begin(1)
        found = re.search(r"^keyhole_broker_readers_stuck (\d+)$", target.text, re.MULTILINE)
        if found and int(found.group(1)) == stuck and scrape >= SCRAPES:
            return
        if time.monotonic() > deadline:
            fail(f"{found.group(1) if found else 'no'} readers are reported as stuck, and not {stuck}")


def row(title, target, count):
    of = {name: (pss, kernel) for name, (_, pss, kernel) in target.memory().items()}
    return {"title": title, "readers": count, "of": of}


def inside(arguments):
    """The rows, measured in the namespaces of run.py."""
    rows, stopped = [], []
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-stuck-")))
        home.chmod(0o711)
        world = stack.enter_context(WORLDS["interfaces"][0](home, arguments.pairs))
        look_first(arguments, world, node_exporter())
        keyhole = stack.enter_context(Measured(arguments.binaries, world.broker, world.exporter))
        groups = {part: keyhole.groups[f"keyhole-{part}"] for part in ("broker", "exporter")}
        target = Target("Keyhole", keyhole.url, {"broker": keyhole.broker, "exporter": keyhole.exporter}, groups, None)
        try:
            fill(target, 0)
            rows.append(row(f"{world.title}: no reader is stuck", target, len(readers(keyhole))))
            # Of the class that holds most; then each one's replacement, which is the youngest.
            stopped.append(max(readers(keyhole), key=descriptors))
            for stuck in range(1, STUCK + 1):
                os.kill(stopped[-1], signal.SIGSTOP)
                fill(target, stuck)
                stopped.append(readers(keyhole)[-1])
            rows.append(row(f"{world.title}: {STUCK} are stuck", target, len(readers(keyhole))))
        finally:
            # A stopped process would not see that the broker has gone.
            for pid in stopped[:STUCK]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
    return rows


def table(rows):
    lines = [["MiB", "readers", "PSS: broker", "exporter", "kernel: broker", "exporter", "all"]]
    for of in rows:
        figures = [of["of"][name][index] for index in (0, 1) for name in ("broker", "exporter")]
        lines.append([of["title"], str(of["readers"]), *(f"{figure:.2f}" for figure in [*figures, sum(figures)])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = lambda line: "| " + " | ".join(
        of.rjust(width) if column else of.ljust(width) for column, (of, width) in enumerate(zip(line, widths))
    ) + " |"
    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([text(lines[0]), rule, *map(text, lines[1:])])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        fail("not root: namespaces and cgroups need it")
    arguments.binaries = binaries(arguments.binaries)
    if arguments.inside:
        pathlib.Path(arguments.inside).write_text(json.dumps(inside(arguments)))
        return
    with tempfile.NamedTemporaryFile(prefix="keyhole-stuck-") as file:
        command = [sys.executable, __file__, "--inside", file.name, f"--pairs={arguments.pairs}", f"--binaries={arguments.binaries}"]
        if subprocess.run([*NAMESPACES, *command], timeout=600).returncode != 0:
            fail("no figures: see above")
        part = table(json.load(open(file.name)))
    print(part)
    if arguments.write:
        put(DOCUMENT, {"stuck": part}, "stuck.py")


if __name__ == "__main__":
    sys.exit(main())
