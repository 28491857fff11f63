#!/usr/bin/env python3
"""Measures what a node costs those who store its series, and works out what many nodes do.

usage: series.py [--binaries DIR] [--scrapes N] [--write]

On the made node of a cluster (worlds.py), with each profile of flags and with node_exporter as it comes: series, bytes,
CPU and memory; then the same for 1,000, 10,000 and 100,000 nodes, and what Prometheus pays for them. Then what each
collector and each family costs. --write puts the tables into docs/scale.md.

Needs what run.py needs.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

from differential import our_collectors  # noqa: E402
from launch import REPOSITORY, binaries, fail, fetch  # noqa: E402
from run import NAMESPACES, node_exporter, put  # noqa: E402
from targets import BLOCK, Measured, Peer, Target  # noqa: E402
from worlds import WORLDS  # noqa: E402

DOCUMENT = REPOSITORY / "docs/scale.md"
INTERVAL = 15  # seconds between scrapes
PODS = "^(veth|cali|lxc|eni|cilium|flannel|cni|docker|ifb).*$"
# The flags of both; each profile adds to the one above it.
PROFILES = {
    "as it comes": [],
    "without pods' interfaces": [f"--collector.netdev.device-exclude={PODS}", f"--collector.netclass.ignored-devices={PODS}"],
    "without details of CPUs": ["--no-collector.softnet", "--no-collector.schedstat", "--no-collector.cpufreq"],
    "without the exporter's own": ["--web.disable-exporter-metrics"],
}
SIZES = (1_000, 10_000, 100_000)
# What is published: docs/scale.md names where.
BYTES_A_SAMPLE, BYTES_A_SERIES, DAYS = 1.3, 3000, 15


def samples(text):
    """name -> (series, names of labels, bytes)."""
    families = collections.defaultdict(lambda: [0, set(), 0])
    for line in text.splitlines():
        found = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line)
        if found:
            family = families[found.group(1)]
            family[0] += 1
            family[1].update(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', found.group(2) or ""))
            family[2] += len(line) + 1
    return families


def of_collectors(url, names):
    """Series and bytes of each collector."""
    rows = {}
    for name in names:
        status, body = fetch(f"{url}?collect%5B%5D={name}")
        if status != 200:
            fail(f"{name} alone: {status}")
        own = [of for family, of in samples(body.decode()).items() if re.match("node_(?!scrape_collector|exporter)", family)]
        rows[name] = sum(of[0] for of in own), sum(of[2] for of in own)
        subprocess.run(["sleep", "0.1"])
    return rows


def measure(target, scrapes):
    target.begin()
    for _ in range(scrapes):
        target.measure()
    return {
        "series": target.samples, "bytes": statistics.median(target.sizes), "text": len(target.text),
        "cpu_ms": sum(statistics.median(of) for of in target.cpu.values()),
        "mib": sum(pss + kernel for _, pss, kernel in target.memory().values()),
    }


def inside(arguments):
    """Everything that is measured, in the namespaces of run.py."""
    program, result, flags = node_exporter(), {"rows": []}, []
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-series-")))
        home.chmod(0o711)
        world = stack.enter_context(WORLDS["node"][0](home, 0))
        result["title"] = world.title
        for profile, more in PROFILES.items():
            flags = flags + more
            with Measured(arguments.binaries, world.broker, [*world.exporter, *flags]) as keyhole:
                groups = {part: keyhole.groups[f"keyhole-{part}"] for part in ("broker", "exporter")}
                ours = Target("Keyhole", keyhole.url, {"broker": keyhole.broker, "exporter": keyhole.exporter}, groups, None)
                result["rows"].append(("Keyhole", profile, measure(ours, arguments.scrapes)))
                if not more:
                    result["text"] = ours.text
                    result["collectors"] = of_collectors(keyhole.url, sorted(our_collectors(ours.text)))
            with Peer("node_exporter", program, [*world.peer, *flags]) as peer:
                theirs = Target("node_exporter", peer.url, {"node_exporter": peer.process}, {"node_exporter": peer.group}, None)
                result["rows"].append(("node_exporter", profile, measure(theirs, arguments.scrapes)))
    return result


def grid(lines, numbers_from=1):
    """A Markdown table that is readable as it is."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    row = lambda line: "| " + " | ".join(
        text.ljust(width) if column < numbers_from else text.rjust(width)
        for column, (text, width) in enumerate(zip(line, widths))
    ) + " |"
    rule = "|" + "|".join("-" * (width + 1) + ("-" if column < numbers_from else ":") for column, width in enumerate(widths)) + "|"
    return "\n".join([row(lines[0]), rule, *map(row, lines[1:])])


def of_node(result):
    lines = [["", "profile", "series", "samples a second", "bytes a scrape", "CPU a scrape, ms", "MiB"]]
    for program, profile, of in result["rows"]:
        lines.append([
            program, profile, f"{of['series']:,}", f"{of['series'] / INTERVAL:,.0f}", f"{of['bytes']:,.0f}",
            f"{of['cpu_ms']:.1f}", f"{of['mib']:.1f}",
        ])
    return f"{result['title']}\n\n" + grid(lines, 2)


def of_clusters(result):
    lines = [[
        "nodes", "", "profile", "series, M", "samples a second", "Prometheus' memory, GiB", f"disk, {DAYS} days, GiB",
        "network, MB/s", "CPUs on the nodes", "memory on the nodes, GiB",
    ]]
    for nodes in SIZES:
        for program, profile, of in result["rows"]:
            series, a_second = nodes * of["series"], nodes * of["series"] / INTERVAL
            lines.append([
                f"{nodes:,}", program, profile, f"{series / 1e6:,.1f}", f"{a_second:,.0f}", f"{series * BYTES_A_SERIES / 2**30:,.1f}",
                f"{a_second * DAYS * 86400 * BYTES_A_SAMPLE / 2**30:,.0f}", f"{nodes * of['bytes'] / INTERVAL / 1e6:,.1f}",
                f"{nodes * of['cpu_ms'] / 1000 / INTERVAL:,.1f}", f"{nodes * of['mib'] / 1024:,.1f}",
            ])
    return grid(lines, 3)


def of_families(result):
    of_collector = sorted(result["collectors"].items(), key=lambda row: -row[1][0])
    lines = [["collector", "series", "bytes, uncompressed"]]
    lines += [[name, f"{series:,}", f"{size:,}"] for name, (series, size) in of_collector[:12]]
    rest = of_collector[12:]
    lines.append([f"{len(rest)} others", f"{sum(of[0] for _, of in rest):,}", f"{sum(of[1] for _, of in rest):,}"])
    families = samples(result["text"])
    for prefix in ("keyhole_", "node_scrape_", "process_", "promhttp_"):
        own = [of for name, of in families.items() if name.startswith(prefix)]
        lines.append([f"{prefix}*", f"{sum(of[0] for of in own):,}", f"{sum(of[2] for of in own):,}"])
    largest = sorted(families.items(), key=lambda row: -row[1][0])[:12]
    by_label = [["family", "labels", "series"]]
    by_label += [[f"`{name}`", ", ".join(sorted(labels)), f"{series:,}"] for name, (series, labels, _) in largest]
    return f"{grid(lines)}\n\n{grid(by_label, 2)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--scrapes", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        fail("not root: namespaces and cgroups need it")
    arguments.binaries, arguments.scrapes = binaries(arguments.binaries), max(1, arguments.scrapes // BLOCK) * BLOCK
    if arguments.inside:
        pathlib.Path(arguments.inside).write_text(json.dumps(inside(arguments)))
        return
    with tempfile.NamedTemporaryFile(prefix="keyhole-series-") as file:
        command = [sys.executable, __file__, "--inside", file.name, f"--scrapes={arguments.scrapes}", f"--binaries={arguments.binaries}"]
        if subprocess.run([*NAMESPACES, *command]).returncode != 0:
            fail("no figures: see above")
        result = json.load(open(file.name))
    parts = {"node": of_node(result), "clusters": of_clusters(result), "families": of_families(result)}
    print("\n\n".join(parts.values()))
    if arguments.write:
        put(DOCUMENT, parts, "series.py")


if __name__ == "__main__":
    sys.exit(main())
