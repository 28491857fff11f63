#!/usr/bin/env python3
"""Compares the exporter with a node_exporter on the same host.

usage: differential.py --promdiff PATH [--binaries DIR] [--need RATIO] [--rounds N] [-v]

Starts Debian's node_exporter on a loopback port with the collectors that both have. A round scrapes it, then the
exporter, then it again; promdiff.py says which samples of the exporter do not lie between the two. A sample holds
when it held in one of up to three rounds. PATH may come from the environment variable PROMDIFF.

Prints matched and all samples a subject and the figure; exit status 1 below RATIO. Needs Debian's
prometheus-node-exporter package. Differences that come with the version or stay on purpose are listed in KNOWN, and
an entry there that no longer matches anything is reported.
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

from keyhole import Keyhole, fail, free_port, scrape, stop, wait_for

# Differences that are meant, by the name of the series and its labels, with the reason.
KNOWN = [
    (r"node_exporter_build_info\b", "tells the program, which is another"),
    (r"node_scrape_collector_duration_seconds\b", "tells how long the program itself took"),
]
# Labels that node_exporter has only since a later version than Debian's 1.5.0; taken out before comparing.
NEWER_LABELS = {
    "node_disk_info": "rotational",
    "node_filesystem_": "device_error",
    "node_network_info": "adminstate",
}
# Defaults that changed since.
NEWER_DEFAULTS = [
    # zram devices are left out.
    r"--collector.diskstats.device-exclude=^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$",
]
FLOOR = 0.97


def peer_collectors(program):
    """The collectors that the peer has."""
    text = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20)
    return set(re.findall(r"Enable\s+the\s+(\w+)\s+collector", text.stdout + text.stderr))


def our_collectors(exposition):
    return set(re.findall(r'^node_scrape_collector_success\{collector="(\w+)"\}', exposition, re.MULTILINE))


def without_newer_labels(exposition):
    for name, label in NEWER_LABELS.items():
        line = re.compile(rf'^({name}[a-z_]*\{{(?:[^\n]*,)?){label}="(?:[^"\\\n]|\\.)*",?', re.MULTILINE)
        exposition = line.sub(r"\1", exposition)
    return exposition.replace(",} ", "} ")


def judge(promdiff, before, got, after):
    """What promdiff says: samples a subject, and the series that do not hold with their values."""
    command = [sys.executable, promdiff, "bracket", before, got, after, "-v", "--need", "0"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if not re.search(r"^matched \d+/\d+ samples", output.stdout, re.MULTILINE) or output.stderr:
        fail(f"promdiff: {output.stdout[-500:]}{output.stderr[-500:]}")
    subjects = {name: int(total) for name, total in re.findall(r"^(\w+): \d+/(\d+)$", output.stdout, re.MULTILINE)}
    wrong = dict(re.findall(r"^  (?:missing|value|type): (.+) (want \S+ got \S+)$", output.stdout, re.MULTILINE))
    matched, total = map(int, re.findall(r"^matched (\d+)/(\d+)", output.stdout, re.MULTILINE)[-1])
    # A line that was not understood would be a sample that counts as held.
    if total - matched != len(wrong) or sum(subjects.values()) != total:
        fail("promdiff's words are not the ones that this script knows")
    return subjects, wrong


def subject(series):
    """How promdiff groups: the first two words of the name."""
    return "_".join(series.split("{")[0].split("_")[:2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promdiff", default=os.environ.get("PROMDIFF"))
    parser.add_argument("--binaries")
    parser.add_argument("--need", type=float, default=FLOOR)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-v", action="store_true", help="show what did not hold in a round, too")
    arguments = parser.parse_args()
    if not arguments.promdiff or not os.path.isfile(arguments.promdiff):
        fail("give promdiff.py's path: --promdiff PATH")
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if not program:
        fail("node_exporter is missing: apt-get install prometheus-node-exporter")
    with Keyhole(arguments.binaries) as keyhole, tempfile.TemporaryDirectory(prefix="keyhole-differential-") as home:
        home = pathlib.Path(home)
        shared = sorted(our_collectors(scrape(keyhole.url)) & peer_collectors(program))
        if len(shared) < 15:
            fail(f"only {len(shared)} collectors in common: {shared}")
        url = f"http://127.0.0.1:{free_port()}/metrics"
        flags = [f"--web.listen-address={url.split('/')[2]}", "--collector.disable-defaults"]
        flags += [f"--collector.{name}" for name in shared] + NEWER_DEFAULTS
        with open(home / "log", "w") as log:
            peer = subprocess.Popen([program, *flags], stdout=log, stderr=log)
        try:
            def ready():
                try:
                    return scrape(url)
                except OSError:
                    return None

            wait_for("node_exporter", peer, ready)
            subjects, wrong = collections.Counter(), {}
            for round_ in range(arguments.rounds):
                texts = {}
                for name, at in (("before", url), ("got", keyhole.url), ("after", url)):
                    texts[name] = scrape(at)
                for name, text in texts.items():
                    (home / name).write_text(without_newer_labels(text) if name == "got" else text)
                totals, failed = judge(arguments.promdiff, *(home / name for name in ("before", "got", "after")))
                if arguments.v:
                    print(f"round {round_ + 1}: {sum(totals.values()) - len(failed)}/{sum(totals.values())}")
                # What held once holds: only what failed in every round so far is looked at.
                wrong = {series: said for series, said in failed.items() if round_ == 0 or series in wrong}
                subjects |= totals
                if all(any(re.match(pattern, series) for pattern, _ in KNOWN) for series in wrong):
                    break
                time.sleep(0.3)
        finally:
            stop(peer)
    meant = collections.Counter()
    for series in list(wrong):
        for pattern, reason in KNOWN:
            if re.match(pattern, series):
                meant[pattern, reason] += 1
                subjects[subject(series)] -= 1
                del wrong[series]
                break
    bad = collections.Counter(subject(series) for series in wrong)
    for name in sorted(subjects):
        if subjects[name] or bad[name]:
            print(f"  {name:<28} {subjects[name] - bad[name]:>5}/{subjects[name]}")
    for series, said in wrong.items():
        print(f"  differs: {series} {said}")
    for pattern, reason in KNOWN:
        count = meant[pattern, reason]
        print(f"  on purpose: {count} of {pattern}: {reason}" if count else f"  no longer differs, take it out: {pattern}")
    total = sum(subjects.values())
    ratio = (total - len(wrong)) / total if total else 0.0
    print(f"differential: {total - len(wrong)}/{total} samples of {len(shared)} collectors lie within node_exporter's ({100 * ratio:.2f} %)")
    return 0 if ratio >= arguments.need else 1


if __name__ == "__main__":
    sys.exit(main())
