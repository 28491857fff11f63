"""What the guides tell people to type: their kustomizations, built, and the queries of docs/migrating.md, evaluated by
Prometheus on two targets that differ in known ways.
"""
import pathlib
import re
import shutil
import subprocess
import tempfile
import textwrap

import yaml

from claims import the_broker_answers_what_its_collectors_ask_and_no_query_more
from kustomize import KUBERNETES, REPOSITORY, containers, kustomize, one, pod_of

NEW, OLD = "keyhole-trial", "node-exporter"

# What the targets give, at one sample a minute: name and labels, values under the old job, values under the new.
SERIES = [
    ("up", {}, "1x20", "1x20"),
    ("node_uname_info", {"nodename": "a"}, "1x20", "1x20"),
    ("node_only_of_node_exporter", {}, "1x20", None),
    ("node_network_up", {"device": "eth0"}, "1x20", "1x20"),
    ("node_network_up", {"device": "eth1"}, "1x20", None),
    ("node_cpu_seconds_total", {"cpu": "0", "mode": "user"}, "0+60x20", "0+30x20"),
    ("node_network_receive_bytes_total", {"device": "eth0"}, "0+100x20", "0+100x20"),
    ("node_filesystem_size_bytes", {"mountpoint": "/var"}, "100x20", "90x20"),
    ("node_scrape_collector_success", {"collector": "cpu"}, "1x20", "1x20"),
    ("node_scrape_collector_success", {"collector": "hwmon"}, "1x20", "0x20"),
]
# What each query of the guide, in its order, finds in that.
FOUND = [
    {'{job="node-exporter"}': 1, '{job="keyhole-trial"}': 1},
    {"node_only_of_node_exporter": 1},
    {'{name="node_network_up"}': 0.5},
    {'{nodename="a"}': 0.5},
    {'{nodename="a", device="eth0"}': 1},
    {'{nodename="a", mountpoint="/var"}': 0.9},
    {'{collector="hwmon"}': 1},
]


def the_kustomizations_build(kubectl):
    """Each guide's kustomization stands beside a checkout named keyhole."""
    for guide, needed in (("talos", "NetworkPolicy"), ("migrating", "PodMonitor")):
        text = (REPOSITORY / f"docs/{guide}.md").read_text()
        blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
        built = [block for _, block in blocks if "kind: Kustomization" in block]
        assert len(built) == 1, f"{len(built)} kustomizations in {guide}"
        with tempfile.TemporaryDirectory() as folder:
            here = pathlib.Path(folder).resolve()
            shutil.copytree(REPOSITORY / "deploy", here / "keyhole/deploy")
            (here / "kustomization.yaml").write_text(textwrap.dedent(built[0]))
            things = kustomize(kubectl, here)
        one(things, "DaemonSet")
        one(things, needed)


def the_patch_for_another_collector_gives_the_broker_its_query(kubectl):
    text = (KUBERNETES / "README.md").read_text()
    (patch,) = re.findall(r"^```yaml\n(patches:\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder).resolve()
        shutil.copytree(REPOSITORY / "deploy", here / "keyhole/deploy")
        (here / "kustomization.yaml").write_text(
            f"resources: [keyhole/deploy/kubernetes/overlays/restricted-pv]\n{patch}")
        pod = pod_of(kustomize(kubectl, here))
    assert any("--collector.tcpstat" in each["args"] for each in containers(pod))
    the_broker_answers_what_its_collectors_ask_and_no_query_more(pod)


def series(name, labels, job):
    # As in a cluster: the old target listens on the node, the new one on its pod.
    labels = {**labels, "job": job, "instance": "10.0.0.1:9100" if job == OLD else "10.244.0.7:9100"}
    return name + "{" + ", ".join(f'{key}="{text}"' for key, text in labels.items()) + "}"


def the_queries_find_what_they_are_for():
    text = (REPOSITORY / "docs/migrating.md").read_text()
    queries = re.findall(r"^```promql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(queries) == len(FOUND), f"{len(queries)} queries, {len(FOUND)} expectations"
    tests = {"tests": [{
        "interval": "1m",
        "input_series": [
            {"series": series(name, labels, job), "values": values}
            for name, labels, old, new in SERIES for job, values in ((OLD, old), (NEW, new)) if values
        ],
        "promql_expr_test": [
            {"expr": query, "eval_time": "15m",
             "exp_samples": [{"labels": labels, "value": value} for labels, value in found.items()]}
            for query, found in zip(queries, FOUND)
        ],
    }]}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tests.yaml"
        path.write_text(yaml.safe_dump(tests))
        done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
