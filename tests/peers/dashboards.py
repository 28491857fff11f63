#!/usr/bin/env python3
"""Asks a real Prometheus all that known dashboards, alerts and rules ask, of node_exporter and of Keyhole.

usage: dashboards.py --reference DIRECTORY --conformance DIRECTORY [--binaries DIR] [--scrapes N]

Two Prometheus servers with the same configuration and labels, so that each expression is asked word for word: one
scrapes node_exporter, the other Keyhole, each twice: on this host (Debian's node_exporter, default collectors), and on node_exporter's own
test data (what node_exporter 1.12.1 printed for it, served as a page). DIRECTORIES hold dashboard-metrics.tsv and
metric-usage.tsv, and tree.tar.gz, flags.txt and expected.prom.

What node_exporter answers must be answered by Keyhole; of the test data with every series, of this host in nearly all cases, since
Debian's node_exporter is an old one. On top, deploy/monitoring is tried: each panel of our dashboard must have data, and the
alerts must be quiet, until a stranger connects and the broker ends. Prints the shares. Needs Debian's prometheus and
prometheus-node-exporter packages, and root to be a stranger.
"""
import argparse
import collections
import csv
import doctest
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import launch
import promql
from differential import NEWER_DEFAULTS
from launch import Keyhole, fail, free_port, stop, this_host, wait_for
from monitoring import DETAIL, try_alerts, try_dashboard
from prometheus_server import Prometheus
from promql import fill, label_values, with_values

HERE = pathlib.Path(__file__).resolve().parent
HOST, DATA = "host:9100", "data:9100"
JOB, CLUSTER, NODE = "node-exporter", "one", "node-1"
# Expressions that node_exporter answers at least: fewer, and the comparison would be void.
FLOOR = 740
# The share of them that may lack a series on this host.
TOLERATED = 0.02
ATTEMPTS = 3

CONFIGURATION = """\
global: {{scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}}
rule_files: ["*.rules.yaml"]
scrape_configs:
  - job_name: {job}
    static_configs:
      - targets: ["{host}"]
        labels: {{instance: "{HOST}", cluster: {cluster}, namespace: keyhole, pod: keyhole-host}}
      - targets: ["{data}"]
        labels: {{instance: "{DATA}", cluster: {cluster}, namespace: keyhole, pod: keyhole-data}}
  - job_name: cluster
    honor_labels: true
    metrics_path: /cluster
    static_configs: [{{targets: ["{pages}"]}}]
"""

# What the kubelet and kube-state-metrics would report, which cannot be had here.
CLUSTER_PAGE = f"""\
node_namespace_pod:kube_pod_info:{{cluster="{CLUSTER}",namespace="keyhole",pod="keyhole-host",node="{NODE}"}} 1
kube_pod_info{{namespace="keyhole",pod="keyhole-host",node="{NODE}",created_by_kind="DaemonSet",created_by_name="keyhole",host_network="false"}} 1
kube_pod_init_container_status_restarts_total{{namespace="keyhole",pod="keyhole-host",container="broker"}} 0
kube_pod_container_status_restarts_total{{namespace="keyhole",pod="keyhole-host",container="exporter"}} 0
container_cpu_usage_seconds_total{{namespace="keyhole",pod="keyhole-host",container="broker"}} 1
container_cpu_usage_seconds_total{{namespace="keyhole",pod="keyhole-host",container="exporter"}} 1
container_memory_working_set_bytes{{namespace="keyhole",pod="keyhole-host",container="broker"}} 1
container_memory_working_set_bytes{{namespace="keyhole",pod="keyhole-host",container="exporter"}} 1
"""

# Cgroups of version 2 for the tree, which node_exporter's data lacks.
CGROUPS = {
    "cgroup.controllers": "cpuset cpu io memory pids\n",
    "cpu.stat": "usage_usec 90000000\nuser_usec 60000000\nsystem_usec 30000000\n",
    **{
        f"system.slice/{unit}{file}": text
        for unit in ("", "containerd.service/", "kubelet.service/")
        for file, text in {
            "cpu.stat": "usage_usec 4000000\nuser_usec 3000000\nsystem_usec 1000000\n",
            "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
            "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
            "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
            "memory.current": "50000000\n",
            "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
            "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
            "memory.stat": "anon 30000000\nfile 20000000\nkernel 1000000\ninactive_file 10000000\n",
            "pids.current": "40\n",
        }.items()
    },
}

# Off by default in both; what it reports is only asked of Keyhole, since connections come and go.
MORE = ["--collector.tcpstat"]

Row = collections.namedtuple("Row", "source kind title expression")


class Pages:
    """Serves fixed pages on a loopback port; a context manager."""

    def __init__(self, pages):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = pages.get(self.path, "").encode()
                self.send_response(200 if self.path in pages else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class NodeExporter:
    """Debian's node_exporter with the default collectors of the newest one; a context manager."""

    def __enter__(self):
        program = shutil.which("prometheus-node-exporter") or fail("prometheus-node-exporter is missing: apt-get install prometheus-node-exporter")
        self.address = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [program, f"--web.listen-address={self.address}", "--no-collector.systemd", *NEWER_DEFAULTS], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def ready():
            try:
                return launch.fetch(f"http://{self.address}/", timeout=2)[0] == 200
            except OSError:
                return False

        try:
            wait_for("node_exporter", self.process, ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        stop(self.process)


def unpack(conformance, home):
    """node_exporter's test data with cgroups; the broker's uid may read it."""
    tree = home / "conformance"
    with tarfile.open(conformance / "tree.tar.gz") as archive:
        archive.extractall(tree)
    for name, text in CGROUPS.items():
        path = tree / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["chmod", "-R", "a+rX", home], check=True)
    return tree


def data_flags(conformance, tree, exporter):
    """The exporter's flags for the test data: those of node_exporter's run that it knows."""
    flags = (line.strip().replace("TREE", str(tree)) for line in (conformance / "flags.txt").read_text().splitlines())
    collectors = [flag for flag in flags if re.match(r"--(no-)?collector\.", flag)]
    return [flag for flag in collectors if subprocess.run([exporter, flag, "--version"], capture_output=True, timeout=20).returncode == 0]


def rows_of(path):
    """The rows of dashboard-metrics.tsv; node-mixin's own job name is kube-prometheus' here."""
    csv.field_size_limit(1 << 20)
    with open(path, newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield Row(row["source"], row["kind"], row["panel_or_alert"], row["expr"].replace('job="node"', f'job="{JOB}"'))


def recording_rules(rows):
    """A rule file of the rows that record, each name once: node-mixin's are kube-prometheus' over again."""
    rules = {}
    # kubernetes-mixin's, which the rows lack because it names no metric of node_exporter itself.
    rules["cluster:node_cpu:ratio_rate5m"] = {
        "record": "cluster:node_cpu:ratio_rate5m", "expr": "avg by (cluster) (node:node_cpu_utilization:ratio_rate5m)"
    }
    for row in rows:
        if row.kind == "record":
            name = row.title.split(" / record ")[1]
            if not row.source.startswith("node-mixin") or name not in rules:
                rules[name] = {"record": name, "expr": row.expression}
    # One after the other in a group: some are made from others.
    return json.dumps({"groups": [{"name": "recorded", "rules": list(rules.values())}]})


def queries_of(row):
    """What is asked for a row: an expression for each of the two instances, or one when it names none."""
    for instance in (HOST, DATA):
        node, port = instance.split(":")
        by_port = "$port" in row.expression
        yield fill(row.expression, {
            "job": JOB, "cluster": CLUSTER, "instance": instance, "node": node if by_port else instance, "port": port,
            "nodename": os.uname().nodename,
        })


def answer(prometheus, row):
    """The label sets that answer a row, of both instances."""
    series = set()
    for query in dict.fromkeys(queries_of(row)):
        variable = row.kind == "variable" and label_values(query)
        if variable:
            selector, label = variable
            found = prometheus.get(f"label/{label}/values", {"match[]": selector})
            series |= {frozenset({(label, value)}) for value in found}
        else:
            series |= {frozenset(one["metric"].items()) for one in prometheus.ask(with_values(query))}
    return series


def instances(series):
    """Which instances series are of; none is one of its own, for what is summed up over them."""
    return {dict(labels).get("instance") for labels in series}


class Comparison:
    """What node_exporter answers and Keyhole does not, row by row."""

    def __init__(self, theirs, ours):
        self.theirs, self.ours = theirs, ours
        self.wanted, self.given, self.whole, self.neither, self.ours_alone = (collections.Counter() for _ in range(5))
        self.unanswered, self.partial, self.partial_here = {}, {}, {}

    def ask_all(self, rows):
        """Asks for every row, and once more for those that fall short: what came or went between two scrapes settles."""
        for attempt in range(ATTEMPTS):
            rows = [row for row in rows if not self.ask(row, final=attempt == ATTEMPTS - 1)]
            if not rows:
                break
            time.sleep(3)

    def ask(self, row, final):
        """Counts what the two answer, unless Keyhole falls short and this is not the last time; whether it was counted."""
        wanted, given = answer(self.theirs, row), answer(self.ours, row)
        if not (final or wanted <= given):
            return False
        if not wanted:
            (self.ours_alone if given else self.neither)[row.source] += 1
            return True
        missing = sorted(map(sorted, wanted - given))
        answered = instances(wanted) <= instances(given)
        self.wanted[row.kind] += 1
        self.given[row.kind] += answered
        self.whole[row.kind] += not missing
        if not answered:
            self.unanswered[row.expression] = (row, missing)
        elif missing:
            here = all(("instance", HOST) in labels for labels in missing)
            (self.partial_here if here else self.partial)[row.expression] = (row, missing)
        return True

    def report(self):
        """Prints the shares; what is wrong."""
        for kind in (*self.wanted, None):
            counts = [counter[kind] if kind else counter.total() for counter in (self.wanted, self.given, self.whole)]
            asked, given, whole = counts
            print(f"  {kind or 'all of them'}: node_exporter answers {asked}, Keyhole {given} of them ({100 * given / max(asked, 1):.2f} %), {whole} with every series")
        for what, counter in (("neither", self.neither), ("Keyhole alone", self.ours_alone)):
            print(f"  answered by {what}: {counter.total()}: " + ", ".join(f"{source} {count}" for source, count in counter.most_common()))
        for row, missing in self.partial_here.values():
            print(f"  lacks a series on this host: {self.describe(row, missing)}")
        wrong = [f"no data: {self.describe(*entry)}" for entry in self.unanswered.values()]
        wrong += [f"lacks a series: {self.describe(*entry)}" for entry in self.partial.values()]
        if len(self.partial_here) > TOLERATED * self.wanted.total():
            wrong.append(f"{len(self.partial_here)} expressions lack a series on this host")
        if self.wanted.total() < FLOOR:
            wrong.append(f"only {self.wanted.total()} expressions are answered by node_exporter, of at least {FLOOR}")
        return wrong

    @staticmethod
    def describe(row, missing):
        return f"{row.source}: {row.title}: {row.expression[:300]}: {dict(missing[0])}"


def compare_names(theirs, ours, path):
    """The names of metric-usage.tsv: prints the share; what is wrong."""
    with open(path, newline="") as file:
        names = [row["metric"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    have = [set(prometheus.get("label/__name__/values")) for prometheus in (theirs, ours)]
    wanted = [name for name in names if name in have[0]]
    missing = [name for name in wanted if name not in have[1]]
    more = [name for name in names if name in have[1] - have[0]]
    neither = [name for name in names if name not in have[0] | have[1]]
    print(f"{path.name}: node_exporter gives {len(wanted)} of {len(names)} metrics, Keyhole {len(wanted) - len(missing)} of them and {len(more)} more ({', '.join(more)})")
    print(f"  given by neither: {', '.join(neither)}")
    return [f"metric {name} is missing" for name in missing]


def settle(prometheus, scrapes):
    """Waits until every target was scraped so often."""
    deadline = time.monotonic() + 6 * scrapes + launch.PROCESS_TIMEOUT
    while (prometheus.number("min(sum_over_time(up[1h]))") or 0) < scrapes or prometheus.number("count(up)") < 3:
        if time.monotonic() > deadline:
            fail(f"fewer than {scrapes} scrapes in time: {prometheus.ask('sum_over_time(up[1h])')}")
        time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=pathlib.Path)
    parser.add_argument("--conformance", required=True, type=pathlib.Path)
    parser.add_argument("--binaries")
    parser.add_argument("--scrapes", type=int, default=5)
    arguments = parser.parse_args()
    if doctest.testmod(promql).failed:
        fail("promql.py does not do what it says")
    rows = list(rows_of(arguments.reference / "dashboard-metrics.tsv"))
    rules = {"recorded.rules.yaml": recording_rules(rows)}
    alerts = {"alerts.rules.yaml": (launch.REPOSITORY / "deploy/monitoring/alerts.yaml").read_text()}
    exporter = launch.binaries(arguments.binaries) / "keyhole-exporter"
    pages = {"/metrics": (arguments.conformance / "expected.prom").read_text(), "/cluster": CLUSTER_PAGE}

    def configuration(host, data):
        return CONFIGURATION.format(job=JOB, cluster=CLUSTER, HOST=HOST, DATA=DATA, host=host, data=data, pages=served.address)

    with tempfile.TemporaryDirectory(prefix="keyhole-data-") as home, Pages(pages) as served:
        tree = unpack(arguments.conformance, pathlib.Path(home))
        broker_flags = [
            "--view=host", f"--path.procfs={tree}/proc", f"--path.sysfs={tree}/sys", f"--path.udev.data={tree}/udev/data",
            f"--path.os-release={tree}/usr/lib/os-release", "--allow-processes",
        ]
        host = Keyhole(arguments.binaries, this_host(), [*MORE, DETAIL])
        # File systems stay on: their broker has no probe directories, so that one query is not permitted, as a panel must show.
        flags = [flag for flag in data_flags(arguments.conformance, tree, exporter) if flag != "--no-collector.filesystem"]
        data = Keyhole(arguments.binaries, broker_flags, flags)
        with NodeExporter() as node_exporter, host, data:
            theirs = Prometheus(configuration(node_exporter.address, served.address), rules)
            ours = Prometheus(configuration(host.url.split("/")[2], data.url.split("/")[2]), rules | alerts)
            with theirs, ours:
                settle(theirs, arguments.scrapes)
                settle(ours, arguments.scrapes)
                comparison = Comparison(theirs, ours)
                comparison.ask_all(rows)
                print(f"dashboard-metrics.tsv: {len(rows)} expressions")
                wrong = comparison.report()
                wrong += compare_names(theirs, ours, arguments.reference / "metric-usage.tsv")
                wrong += try_dashboard(ours, {"job": JOB, "namespace": "keyhole"}, plain=DATA, detailed=HOST)
                wrong += try_alerts(ours, host, HOST)
            wrong += [f"prometheus' log: {line}" for server in (theirs, ours) for line in server.complaints]
    for line in wrong:
        print(f"  wrong: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
