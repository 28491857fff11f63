"""What the guides have people type: their kustomizations, built, and the queries of docs/migrating.md, evaluated by
Prometheus on two targets that differ in known ways.
"""
import pathlib
import re
import shutil
import subprocess
import tempfile
import textwrap

import yaml

import admission
import mutations
from claims import the_broker_answers_what_its_collectors_ask_and_no_query_more
from kustomize import KUBERNETES, REPOSITORY, containers, kustomize, objects, one, pod_of

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


def yaml_blocks(page):
    """The YAML in a document."""
    text = (REPOSITORY / page).read_text()
    return [textwrap.dedent(block) for _, block in re.findall(r"^( *)```yaml\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)]


def the_kustomizations_build(kubectl):
    """The guide's kustomization stands beside a checkout named keyhole."""
    (built,) = (block for block in yaml_blocks("docs/migrating.md") if "kind: Kustomization" in block)
    with tempfile.TemporaryDirectory() as directory:
        here = pathlib.Path(directory).resolve()
        shutil.copytree(REPOSITORY / "deploy", here / "keyhole/deploy", symlinks=True)
        (here / "kustomization.yaml").write_text(built)
        things = kustomize(kubectl, here)
    one(things, "DaemonSet")
    one(things, "PodMonitor")


def patches_of(section):
    """The patches that a section of the README of deploy/kubernetes has."""
    text = (KUBERNETES / "README.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    (patches,) = re.findall(r"^```yaml\n(patches:\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    return patches


def patched(kubectl, overlay, patches):
    """An overlay with patches of the README, as a site of one's own builds it."""
    with tempfile.TemporaryDirectory() as directory:
        here = pathlib.Path(directory).resolve()
        shutil.copytree(REPOSITORY / "deploy", here / "keyhole/deploy")
        (here / "kustomization.yaml").write_text(f"resources: [keyhole/deploy/kubernetes/overlays/{overlay}]\n{patches}")
        return kustomize(kubectl, here)


def the_patch_for_a_group_of_proc_adds_it_to_the_pod_and_the_policy(kubectl):
    """And the policy admits this pod, no other group, and not the pod of a kustomization that patched one of both."""
    patches = patches_of("Nodes whose /proc hides processes")
    things = patched(kubectl, "privileged-hostpath", patches)
    pod = pod_of(things)
    assert pod["spec"]["securityContext"]["supplementalGroups"] == [64646, 998], pod["spec"]["securityContext"]
    unpatched = kustomize(kubectl, KUBERNETES / "overlays/privileged-hostpath")

    def refused(policy_of, groups):
        case = mutations.create(pod)
        case["pod"]["spec"]["securityContext"]["supplementalGroups"] = groups
        policy = one(policy_of, "ValidatingAdmissionPolicy", "keyhole-pod-shape")
        found, errors, _ = admission.Policy(policy).review(case["request"], case["pod"])
        assert not errors, errors
        return found

    assert refused(things, [64646, 998]) == []
    for policy_of, groups in (
        (things, [64646]), (things, [64646, 998, 0]), (things, [64646, 997]), (unpatched, [64646, 998]),
    ):
        assert refused(policy_of, groups) == ["users"], groups
    # Without a policy of the pod's shape, the first patch is enough.
    first = patches[:patches.index("  - target: {kind: ValidatingAdmissionPolicy")]
    groups = pod_of(patched(kubectl, "restricted-pv", first))["spec"]["securityContext"]["supplementalGroups"]
    assert groups == [64646, 998], groups


def the_patch_for_another_collector_adds_its_query_to_the_broker(kubectl):
    pod = pod_of(patched(kubectl, "restricted-pv", patches_of("Collectors that are off by default")))
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
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "tests.yaml"
        path.write_text(yaml.safe_dump(tests))
        done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
