#!/usr/bin/env python3
"""Measures what a scrape costs, beside node_exporter's in the same run. It passes no judgement.

usage: cost.py [--binaries DIR] [--scrapes N]

Scrapes both in turn, N times each (200 unless told otherwise), with the headers that Prometheus sends, and prints CPU
(user and system, of every process involved), memory and latency of a scrape. node_exporter runs twice: as it comes,
and with only the collectors that both have. DIR must hold release binaries. Needs Debian's prometheus-node-exporter
package; PSS needs root.
"""
import argparse
import contextlib
import gzip
import http.client
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

from differential import our_collectors, peer_collectors
from launch import PROMETHEUS_HEADERS, Keyhole, fail, free_port, scrape, stop, wait_for

WARM_UP = 10
# The broker answers 20 requests a second.
PAUSE = 0.06
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def kib(pid, file, key):
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB$", pathlib.Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    except OSError:
        return float("nan")
    return int(found.group(1)) if found else float("nan")


class Target:
    """Something to scrape, with the processes that it costs."""

    def __init__(self, name, url, processes):
        self.name, self.address = name, url.split("/")[2]
        self.pids = {name: process.pid for name, process in processes.items()}
        self.latencies, self.sizes, self.samples = [], set(), 0
        # Prometheus keeps its connection, too.
        self.connection = http.client.HTTPConnection(self.address, timeout=10)

    def scrape(self):
        start = time.perf_counter()
        self.connection.request("GET", "/metrics", headers=PROMETHEUS_HEADERS)
        answer = self.connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - start
        if answer.status != 200:
            fail(f"{self.name} answered {answer.status}: {body[:200]!r}")
        if answer.getheader("Content-Encoding") != "gzip":
            fail(f"{self.name} did not compress")
        return took, body

    def begin(self):
        for _ in range(WARM_UP):
            _, body = self.scrape()
            time.sleep(PAUSE)
        self.samples = sum(not line.startswith("#") for line in gzip.decompress(body).decode().splitlines())
        self.before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def measure(self):
        took, body = self.scrape()
        self.latencies.append(took)
        self.sizes.add(len(body))

    def end(self):
        count = len(self.latencies)
        self.cpu_ms = {name: 1000 * (cpu_seconds(pid) - self.before[name]) / count for name, pid in self.pids.items()}
        self.rss = {name: kib(pid, "status", "VmRSS") / 1024 for name, pid in self.pids.items()}
        self.pss = {name: kib(pid, "smaps_rollup", "Pss") / 1024 for name, pid in self.pids.items()}
        ordered = sorted(self.latencies)
        self.median_ms, self.p99_ms = 1000 * statistics.median(ordered), 1000 * ordered[int(0.99 * (count - 1))]


def table(ours, peers):
    """A row a measure; behind each of the peers' figures how many times ours it is."""
    rows = [
        ("CPU a scrape, ms", lambda target: sum(target.cpu_ms.values())),
        ("latency, median, ms", lambda target: target.median_ms),
        ("latency, p99, ms", lambda target: target.p99_ms),
        ("memory, RSS, MiB", lambda target: sum(target.rss.values())),
        ("memory, PSS, MiB", lambda target: sum(target.pss.values())),
        ("samples", lambda target: target.samples),
        ("bytes, compressed", lambda target: max(target.sizes)),
    ]
    print(f"  {'':<22}{ours.name:>12}" + "".join(f"{peer.name:>34}" for peer in peers))
    for name, of in rows:
        own = of(ours)
        form = ".0f" if isinstance(own, int) else ".2f"
        cells = "".join(f"{of(peer):>24{form}} ({of(peer) / own:>5.2f} x)" for peer in peers)
        print(f"  {name:<22}{own:>12{form}}{cells}")
    for process in ours.pids:
        print(
            f"    of which the {process}: CPU {ours.cpu_ms[process]:.2f} ms, RSS {ours.rss[process]:.2f} MiB, "
            f"PSS {ours.pss[process]:.2f} MiB"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--scrapes", type=int, default=200)
    arguments = parser.parse_args()
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if not program:
        fail("node_exporter is missing: apt-get install prometheus-node-exporter")
    with Keyhole(arguments.binaries) as keyhole, contextlib.ExitStack() as stack:
        shared = sorted(our_collectors(scrape(keyhole.url)) & peer_collectors(program))
        same = ["--collector.disable-defaults", *(f"--collector.{name}" for name in shared)]
        peers = []
        for name, flags in (("node_exporter as it comes", []), ("node_exporter, same collectors", same)):
            url = f"http://127.0.0.1:{free_port()}/metrics"
            # A copy of its own: pages that two processes share would count half for each in PSS.
            copy = shutil.copy(program, keyhole.home / f"node_exporter-{len(peers)}")
            command = [copy, f"--web.listen-address={url.split('/')[2]}", "--log.level=error", *flags]
            peer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(stop, peer)

            def ready():
                try:
                    return scrape(url)
                except OSError:
                    return None

            wait_for("node_exporter", peer, ready)
            peers.append(Target(name, url, {"node_exporter": peer}))
        ours = Target("Keyhole", keyhole.url, {"broker": keyhole.broker, "exporter": keyhole.exporter})
        targets = [ours, *peers]
        for target in targets:
            target.begin()
        for _ in range(arguments.scrapes):
            for target in targets:
                target.measure()
                time.sleep(PAUSE / len(targets))
        for target in targets:
            target.end()
    table(ours, peers)
    cpu = sum(ours.cpu_ms.values())
    ratios = ", ".join(f"1/{sum(peer.cpu_ms.values()) / cpu:.1f} of {peer.name}" for peer in peers)
    print(f"cost: {cpu:.2f} ms CPU a scrape over {arguments.scrapes} scrapes: {ratios}")


if __name__ == "__main__":
    sys.exit(main())
