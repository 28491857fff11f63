#!/usr/bin/env python3
"""Checks that the exporter gives every series that known dashboards, alerts and recording rules ask for.

usage: queries_of_dashboards.py [--binaries DIR] [--reference DIR] [--update]

queries-of-dashboards.tsv holds what they ask, as facts: metric, labels, whether it is there, and who asks. What is marked `yes` must be
among what the exporter replays of this repository's trees. Whatever node_exporter 1.12.1 gives of these, on the trees or on this
host, the exporter must give too. Where DIR (../shared/reference) holds dashboard-metrics.tsv, which lists the expressions
themselves, the facts must be all that it asks; --update writes them from there.
"""
import argparse
import csv
import pathlib
import re
import sys
import tempfile

import differential
import trees
from launch import REPOSITORY, Keyhole, binaries, fail, scrape, this_host

FACTS = pathlib.Path(__file__).resolve().parent / "queries-of-dashboards.tsv"
HEADER = ["metric", "labels", "there", "asked by"]
# Labels that Prometheus adds to a target's series, or that distinguish targets.
OF_THE_TARGET = {"cluster", "instance", "job", "namespace", "node", "pod"}
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
SELECTOR = re.compile(r"^(node_\w+)\{(.*)\}$")


def facts_of(row):
    """What a row of dashboard-metrics.tsv asks: metrics of an exporter with their labels, and who asks."""
    title = row["panel_or_alert"]
    rule = re.search(r"(alert|record) (\S+)", title) if row["kind"] in ("alert", "record") else None
    by = f"{row['source'].rsplit('.', 1)[0]}: {rule[2]}" if rule else row["source"].rsplit(".", 1)[0]
    selectors = [found for found in map(SELECTOR.match, row["metrics{matchers}"].split(" ; ")) if found]
    for selector in selectors:
        labels = {
            f'{name}="{value}"' if how == "=" and value and not value.startswith("X") else name
            for name, how, value in MATCHER.findall(selector[2])
        }
        if len(selectors) == 1:
            groups = (group.partition(":") for group in row["grouping_labels"].split())
            labels |= {name for kind, _, name in groups if kind in ("by", "on/ignoring", "label_values")}
        named = {label.partition("=")[0] for label in labels if "=" in label}
        labels -= named | OF_THE_TARGET | {label for label in labels if label.partition("=")[0] in OF_THE_TARGET}
        yield (selector[1], " ".join(sorted(labels))), by


def asked(path):
    """Every fact of dashboard-metrics.tsv with who asks."""
    csv.field_size_limit(1 << 20)
    facts = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            for fact, by in facts_of(row):
                facts.setdefault(fact, set()).add(by)
    return {fact: "; ".join(sorted(by)) for fact, by in sorted(facts.items())}


def committed():
    with open(FACTS, newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if rows[:1] != [HEADER]:
        fail(f"{FACTS.name} does not begin with its header")
    return {(metric, labels): (there, by) for metric, labels, there, by in rows[1:]}


class Series:
    """The label sets of an exposition's series, by metric."""

    def __init__(self):
        self.by_metric = {}

    def add(self, text, excepted=False):
        """Adds an exposition's series; `excepted` leaves out those that only node_exporter has, for a reason that trees.py knows."""
        for key, value in differential.Exposition(text).samples.items():
            if excepted and trees.reason("only theirs", f"{key} {value:.17g}"):
                continue
            metric, _, labels = key.partition("{")
            self.by_metric.setdefault(metric, []).append(dict(differential.LABEL.findall(labels.rstrip("}"))))

    def has(self, fact):
        """Whether a series has the metric and all labels of a fact, and their values where it names them."""
        metric, labels = fact
        wanted = [MATCHER.fullmatch(label) for label in labels.split()]
        values = {found[1]: found[3] for found in wanted if found}
        names = [label for label, found in zip(labels.split(), wanted) if not found]
        return any(
            all(series.get(name) == value for name, value in values.items()) and all(name in series for name in names)
            for series in self.by_metric.get(metric, ())
        )


def collect(arguments):
    """Series of the exporter by replays alone, with those of this host, and node_exporter's of both."""
    replayed, ours, theirs = Series(), Series(), Series()
    program, strict = differential.peer()
    directory = binaries(arguments.binaries)
    collectors = sorted(differential.collectors_with_flags(directory))
    every = [f"--collector.{name}" for name in collectors]
    with tempfile.TemporaryDirectory(prefix="keyhole-queries-") as home, open(pathlib.Path(home) / "log", "w") as log:
        for tree in trees.all_trees():
            copy = trees.with_links(tree, pathlib.Path(home))
            flags = copy / "flags.txt"
            text = trees.ours(directory / "keyhole-exporter", copy, flags.read_text().split() if flags.exists() else every)
            replayed.add(text)
            ours.add(text)
            if strict:
                shared = differential.peer_collectors(program) & set(collectors) - trees.LIVE
                theirs.add(trees.theirs(program, copy, trees.flags_of(copy, shared), log), excepted=True)
        with Keyhole(arguments.binaries, [*this_host(), "--allow-processes"], every) as keyhole:
            ours.add(scrape(keyhole.url))
    if not strict:
        print("  node_exporter 1.12.1 is not there: only what the facts say was looked for")
    return replayed, ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--reference", type=pathlib.Path, default=REPOSITORY.parent / "shared/reference")
    parser.add_argument("--update", action="store_true", help="write the facts")
    arguments = parser.parse_args()
    source = arguments.reference / "dashboard-metrics.tsv"
    replayed, ours, theirs = collect(arguments)
    wrong = []
    if arguments.update:
        rows = [[*fact, "yes" if replayed.has(fact) else "no", by] for fact, by in asked(source).items()]
        FACTS.write_text("".join("\t".join(row) + "\n" for row in [HEADER, *rows]))
    facts = committed()
    if source.is_file():
        wanted = asked(source)
        wrong += [f"{metric} {labels}: asked, and not in {FACTS.name}: --update" for metric, labels in sorted(wanted.keys() - facts.keys())]
        wrong += [f"{metric} {labels}: in {FACTS.name}, and no longer asked: --update" for metric, labels in sorted(facts.keys() - wanted.keys())]
    else:
        print(f"  the facts are not compared with the expressions themselves: {source} is not there")
    for fact, (there, by) in facts.items():
        what = " ".join(fact)
        if there == "yes" and not replayed.has(fact):
            wrong.append(f"missing in every tree: {what}: asked by {by}")
        elif there == "no" and replayed.has(fact):
            wrong.append(f"there, and marked as missing: {what}: --update")
        elif theirs.has(fact) and not ours.has(fact):
            wrong.append(f"node_exporter gives it: {what}: asked by {by}")
    for line in wrong:
        print(f"  {line}")
    there = sum(mark == "yes" for mark, _ in facts.values())
    print(f"queries: {there} of {len(facts)} facts of dashboards, alerts and rules are there, {len(wrong)} faults")
    return 1 if wrong or there < 400 else 0


if __name__ == "__main__":
    sys.exit(main())
