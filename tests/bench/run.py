#!/usr/bin/env python3
"""Measures what a scrape costs, beside node_exporter's on the same host in the same run. It passes no judgement.

usage: run.py [--binaries DIR] [--static DIR] [--scrapes N] [--short] [--write] [WORLD[=COUNT]]...

Scrapes both in turn, N times each (1000 by default), with the headers that Prometheus sends. Prints, for each
world, medians with their quartiles and the ratio of node_exporter's figure to Keyhole's. Worlds are host, interfaces, cached,
processes, tree, cpus, disks and mounts; all of them unless named, and COUNT changes how many there are of what they have
many of.

  --binaries DIR   release binaries (target/release)
  --static DIR     static ones, for their sizes alone
  --short          host alone, 100 scrapes, less of all else: half a minute, for CI
  --write          put the tables into docs/performance.md, each between its marks

What is said of the broker is the sum over its process, the zygote and the readers.

Needs root, a C compiler, strace, iproute2 and Debian's prometheus-node-exporter package.
"""
import argparse
import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

from differential import NEWER_DEFAULTS, our_collectors, peer_collectors  # noqa: E402
from launch import PROGRAMS, REPOSITORY, binaries, fail, scrape  # noqa: E402
from targets import BLOCK, Measured, Peer, Target  # noqa: E402
from worlds import WORLDS, compiled  # noqa: E402

DOCUMENT = REPOSITORY / "docs/performance.md"
# What a program is run by in namespaces of its own.
NAMESPACES = [
    "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
    "sh", "-c", 'ip link set lo up && exec "$0" "$@"',
]


def quartiles(values):
    """Median, and the quartiles when there are several values."""
    if len(values) < 4:
        return statistics.median(values), None
    first, middle, third = statistics.quantiles(values, n=4)
    return middle, (first, third)


def percentile_99(values):
    return sorted(values)[int(0.99 * (len(values) - 1))]


def floor(files, rounds, home):
    """Milliseconds of CPU that a bare pread loop over `files` takes, by round."""
    (home / "files").write_text("".join(f"{path}\n" for path in files))
    command = [compiled("floor", home), home / "files", str(rounds), "60"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    if output.returncode != 0:
        fail("the floor could not be measured")
    return [int(line) / 1e6 for line in output.stdout.split()]


def measured(ours, peers, home, short):
    """The rows of the table: title, digits, and for each target its observations."""
    targets = [ours, *peers]
    memory = {target.name: target.memory() for target in targets}
    # strace makes a call dozens of times as slow: one scrape is enough where there are tens of thousands.
    few = 1 if statistics.median(ours.latencies) > 30 else 3 if short else 10
    traces = {target.name: target.trace(few, home) for target in targets}
    files = traces[ours.name].files
    bare = floor(files, 30 if short else 100, home) if files else [float("nan")]
    start_up = {target.name: target.start_up(5 if short else 20) for target in targets}

    def of(title, digits, observations, parts=True):
        """A row of all, and one for each process of ours."""
        rows = [(title, digits, [[sum(at) for at in zip(*observations(target).values())] for target in targets])]
        if parts:
            rows += [(f"— {name}", digits, [values]) for name, values in observations(ours).items()]
        return rows

    single = lambda values: {name: [value] for name, value in values.items()}
    broker = statistics.median(ours.cpu["broker"])
    rows = [
        *of("CPU a scrape, ms", 2, lambda target: target.cpu),
        ("— bare pread loop over the readers' files, ms", 2, [bare]),
        ("— broker's CPU as a multiple of that", 2, [[broker / statistics.median(bare)]]),
        ("latency, p50, ms", 2, [target.latencies for target in targets]),
        ("latency, p99, ms", 2, [[percentile_99(target.latencies)] for target in targets]),
    ]
    for index, title in enumerate(("RSS, MiB", "PSS, MiB", "kernel memory, MiB")):
        rows += of(title, 2, lambda target: {name: [of[index]] for name, of in memory[target.name].items()}, index > 0)
    rows += of("PSS and kernel memory, MiB", 2, lambda target: {
        name: [pss + kernel] for name, (_, pss, kernel) in memory[target.name].items()
    }, False)
    rows += of("system calls a scrape", 0, lambda target: single(traces[target.name].calls))
    rows += [
        ("start to first answer, ms", 1, [start_up[target.name] for target in targets]),
        ("samples", 0, [[target.samples] for target in targets]),
        ("bytes to Prometheus, compressed", 0, [[statistics.median(target.sizes)] for target in targets]),
        ("bytes on the broker's socket", 0, [[traces[ours.name].written["broker"]]]),
        ("files that the readers read", 0, [[len(files) or float("nan")]]),
    ]
    return rows


def node_exporter():
    """Its path."""
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    return program or fail("node_exporter is missing: apt-get install prometheus-node-exporter")


def look_first(arguments, world, program):
    """A scrape of others: the kernel charges its cache of names and inodes, which is everybody's, to who looks first."""
    with Measured(arguments.binaries, world.broker, world.exporter) as keyhole, Peer("first", program, world.peer) as peer:
        for url in (keyhole.url, peer.url):
            scrape(url)


def inside(name, count, arguments):
    """Measures in one world; gives what the table is made of."""
    program = node_exporter()
    make = WORLDS[name][0]
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-bench-")))
        home.chmod(0o711)
        world = stack.enter_context(make(home, count))
        look_first(arguments, world, program)
        keyhole = stack.enter_context(Measured(arguments.binaries, world.broker, world.exporter))
        shared = sorted(our_collectors(scrape(keyhole.url)) & peer_collectors(program))
        same = ["--collector.disable-defaults", *(f"--collector.{of}" for of in shared), *NEWER_DEFAULTS]
        kinds = [("node_exporter", same)] + ([("node_exporter (defaults)", [])] if name == "host" else [])
        started = [stack.enter_context(Peer(title, program, [*flags, *world.peer])) for title, flags in kinds]
        ours = Target(
            "Keyhole", keyhole.url, {"broker": keyhole.broker, "exporter": keyhole.exporter},
            {part: keyhole.groups[f"keyhole-{part}"] for part in ("broker", "exporter")}, keyhole.start_again,
        )
        peers = [Target(of.name, of.url, {of.name: of.process}, {of.name: of.group}, of.start_again) for of in started]
        for target in (ours, *peers):
            target.begin()
        for _ in range(arguments.scrapes // BLOCK * BLOCK):
            for target in (ours, *peers):
                target.measure()
        rows = measured(ours, peers, home, arguments.short)
        names = [ours.name, *(peer.name for peer in peers)]
        return {
            "title": world.title, "name": name, "count": world.count, "scrapes": len(ours.latencies), "names": names,
            "collectors": len(shared), "rows": rows,
        }


def enter(name, count, arguments):
    """Runs `inside` in a process of its own, in namespaces of its own for all worlds but this host."""
    with tempfile.NamedTemporaryFile(prefix="keyhole-bench-") as result:
        command = [sys.executable, __file__, "--inside", result.name, f"--scrapes={arguments.scrapes}", f"{name}={count}"]
        command += ["--short"] * arguments.short + [f"--binaries={arguments.binaries}"]
        if name != "host":
            command = [*NAMESPACES, *command]
        if subprocess.run(command).returncode != 0:
            fail(f"no figures for {name}: see above")
        return json.load(open(result.name))


def cell(values, digits):
    middle, spread = quartiles(values)
    if math.isnan(middle):
        return "not known"
    text = f"{middle:,.{digits}f}"
    return text + (f" ({spread[0]:,.{digits}f}–{spread[1]:,.{digits}f})" if spread else "")


def times(theirs, ours):
    """Their figure divided by ours: by pair where there are pairs."""
    if len(theirs) == len(ours) and len(ours) >= 4:
        middle, spread = quartiles([their / our for their, our in zip(theirs, ours)])
        return f"{middle:.1f} ({spread[0]:.1f}–{spread[1]:.1f})"
    ratio = statistics.median(theirs) / statistics.median(ours)
    return "" if math.isnan(ratio) else f"{ratio:.1f}"


def table(result):
    """A Markdown table, readable as it is."""
    names = result["names"]
    head = ["", names[0]] + [part for name in names[1:] for part in (name, "ratio")]
    lines = [head]
    for title, digits, (ours, *peers) in result["rows"]:
        line = [title, cell(ours, digits)]
        for theirs in peers:
            line += [cell(theirs, digits), times(theirs, ours)]
        lines.append(line + [""] * (len(head) - len(line)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    row = lambda line: "| " + " | ".join(
        text.ljust(width) if not column else text.rjust(width) for column, (text, width) in enumerate(zip(line, widths))
    ) + " |"
    rule = "|" + "|".join("-" * (width + 1) + ("-" if not column else ":") for column, width in enumerate(widths)) + "|"
    heading = f"{result['title']}: {result['scrapes']} scrapes, {result['collectors']} collectors in common"
    return f"{heading}\n\n" + "\n".join([row(lines[0]), rule, *map(row, lines[1:])])


def growth(results):
    """What one more of each costs: CPU of a scrape, between a world and the one that it enlarges."""
    by_name = {result["name"]: result for result in results}
    lines = []
    for name, (_, _, base) in WORLDS.items():
        if base in by_name and name in by_name and by_name[name]["count"]:
            titles = [{title: values for title, _, values in by_name[of]["rows"]} for of in (name, base)]
            more = []
            for row in ("CPU a scrape, ms", "samples"):
                large, small = (rows[row] for rows in titles)
                factor = 1000 if row.startswith("CPU") else 1
                more.append([
                    factor * (statistics.median(large[at]) - statistics.median(small[at])) / by_name[name]["count"] for at in (0, 1)
                ])
            (our_cpu, their_cpu), (our_samples, _) = more
            lines.append(f"| {name:<10} | {by_name[name]['count']:>5} | {our_samples:>7.1f} | {our_cpu:>7.1f} | {their_cpu:>13.1f} |")
    if not lines:
        return None
    head = "|            | count | samples | Keyhole | node_exporter |\n|------------|------:|--------:|--------:|--------------:|\n"
    return "What one more costs, µs of CPU a scrape\n\n" + head + "\n".join(lines)


def sizes(arguments):
    """MiB of the programs."""
    of = {"dynamic": binaries(arguments.binaries)}
    if arguments.static:
        of["static"] = binaries(arguments.static)
    mib = lambda path: f"{os.path.getsize(path) / (1 << 20):>8.2f}"
    rows = [f"| {kind:<8} | {' | '.join(mib(at / program) for program in PROGRAMS)} | {'':>13} |" for kind, at in of.items()]
    rows[0] = rows[0][:-15] + f"{mib(node_exporter()):>13} |"
    titles = "".join(f" {program.removeprefix('keyhole-'):>8} |" for program in PROGRAMS)
    head = f"| MiB      |{titles} node_exporter |\n|----------|{'---------:|' * len(PROGRAMS)}--------------:|\n"
    return "Sizes of the programs\n\n" + head + "\n".join(rows)


def put(document, parts, script="run.py"):
    """Puts each part into a document, between the marks that have its name."""
    text = document.read_text()
    for name, part in parts.items():
        marks = re.compile(rf"(<!-- {name}: written by tests/bench/{re.escape(script)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = marks.subn(lambda match: f"{match.group(1)}\n{part}\n\n{match.group(2)}", text)
        if found != 1:
            fail(f"{document.name} has {found} places for {name}")
    document.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--static")
    parser.add_argument("--scrapes", type=int)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("worlds", nargs="*")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        fail("not root: namespaces, cgroups and strace need it")
    arguments.binaries = binaries(arguments.binaries)
    arguments.scrapes = arguments.scrapes or (100 if arguments.short else 1000)
    if arguments.scrapes < 4 * BLOCK:
        fail(f"--scrapes: at least {4 * BLOCK}, for quartiles")
    wanted = []
    for word in arguments.worlds or (["host"] if arguments.short else WORLDS):
        name, _, count = word.partition("=")
        if name not in WORLDS or not (count or "0").isdigit():
            fail(f"no world {word}: {', '.join(WORLDS)}, with =COUNT")
        wanted.append((name, int(count) if count else WORLDS[name][1]))
    if arguments.inside:
        result = inside(*wanted[0], arguments)
        pathlib.Path(arguments.inside).write_text(json.dumps(result))
        return
    results = []

    def publish(name, part):
        print(f"{part}\n", flush=True)
        if arguments.write:
            put(DOCUMENT, {name: part})

    for name, count in wanted:
        results.append(enter(name, count, arguments))
        publish(name, table(results[-1]))
    if of_growth := growth(results):
        publish("growth", of_growth)
    publish("sizes", sizes(arguments))


if __name__ == "__main__":
    sys.exit(main())
