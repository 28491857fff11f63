#!/usr/bin/env python3
"""Renders the Helm chart over a matrix of values and holds it against the kustomizations, which it must equal.

usage: charts.py [--helm PATH] [--kubectl PATH] [--binaries DIR] [--update]

Each overlay with each set of components has values that render the same objects. What the chart renders beyond that is validated
by Kubernetes' schemas and its arguments by the programs. Values that must be refused are, with their names and what to do.
--update writes what is generated: the chart's table of collectors and the table of values in docs/migrating.md. Nothing here talks
to a cluster: tests/cluster installs the chart.
"""
import argparse
import copy
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

import guide
import launch
import queries
from kustomize import REPOSITORY, combinations, objects, one, pod_of, with_components
from manifests import OPERATOR, VERSIONS, Programs, its_schema_takes_it
from results import Refusal, Results

CHART = REPOSITORY / "deploy/helm/keyhole"
COLLECTORS = CHART / "files/collectors.yaml"
NODE_EXPORTER = CHART / "files/node-exporter-values.yaml"
MIGRATING = REPOSITORY / "docs/migrating.md"
# The names of all values of the chart prometheus-node-exporter 4.56.1; lists and maps with free keys are one value.
THEIR_VALUES = pathlib.Path(__file__).with_name("node_exporter_values.txt")
# Values with which the chart renders what a component adds.
COMPONENTS = {
    "grafana-dashboards": {"grafanaDashboards": {"enabled": True}},
    "network-policy": {"networkPolicy": {"enabled": True}},
    "node-name": {"prometheus": {"nodeName": True}},
    "pod-monitor": {"prometheus": {"podMonitor": {"enabled": True}}},
    "process-groups": {"extraArgs": ["--collector.processes", "--collector.processgroups"]},
    "prometheus-rule": {"prometheus": {"rule": {"enabled": True}}},
    "refuse-exec": {"refuseExec": True},
    "root": {"root": True},
    "service-monitor": {"prometheus": {"monitor": {"enabled": True}}},
    "textfile/hostpath": {"textfile": {"enabled": True}},
    "textfile/pv": {"textfile": {"enabled": True}},
    "trial": {"prometheus": {"trial": True}},
    "udev/hostpath": {"udev": {"enabled": True}},
    "udev/pv": {"udev": {"enabled": True}},
    "web-config": {"webConfig": {"enabled": True}},
}


class Refused(Refusal):
    """What helm says of values that it does not render."""


class Chart:
    def __init__(self, helm):
        self.helm = helm

    def run(self, *arguments, values=None):
        command = [self.helm, *arguments]
        if values is not None:
            command += ["--values", "-"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60,
                              input=None if values is None else yaml.safe_dump(values))

    def render(self, values, namespace="keyhole", arguments=()):
        done = self.run("template", "keyhole", CHART, "--namespace", namespace, *arguments, values=values)
        if done.returncode != 0:
            raise Refused(done.stderr)
        return [thing for thing in yaml.safe_load_all(done.stdout) if thing]

    def lint(self, values):
        done = self.run("lint", "--strict", CHART, values=values)
        assert done.returncode == 0, done.stdout + done.stderr

    @functools.cache
    def rendered(self, text):
        """Both releases: the policies, elsewhere, and the exporter."""
        values = json.loads(text)
        policies = self.render({**values, "component": "policies"}, "kube-system")
        return policies, self.render(values)

    def both(self, values):
        policies, exporter = self.rendered(json.dumps(values, sort_keys=True))
        return copy.deepcopy(policies), copy.deepcopy(exporter)


def merged(*values):
    """Maps merged, lists appended."""
    found = {}
    for each in values:
        for key, value in each.items():
            old = found.get(key)
            if isinstance(old, dict):
                value = merged(old, value)
            elif isinstance(old, list):
                value = old + value
            found[key] = copy.deepcopy(value)
    return found


def values_of(overlay, components):
    return merged({"access": overlay}, *(COMPONENTS[name] for name in components))


def name_of(thing):
    return thing["kind"], thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


# Of Helm and of the standard: what the chart adds to an object.
ADDED_LABELS = {
    "app.kubernetes.io/managed-by", "helm.sh/chart", "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/part-of",
    "app.kubernetes.io/component", "app.kubernetes.io/version",
}


def normal(thing, reference):
    """An object without what differs on purpose: labels that Helm's users expect, in the order of arguments and mounts."""
    thing = copy.deepcopy(thing)
    known = reference["metadata"].get("labels", {})
    labels = thing["metadata"].get("labels", {})
    for label in ADDED_LABELS - set(known):
        labels.pop(label, None)
    if not labels:
        thing["metadata"].pop("labels", None)
    if thing["kind"] == "Namespace":
        thing["metadata"].pop("annotations", None)
    if thing["kind"] == "DaemonSet":
        thing["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/managed-by", None)
        spec = thing["spec"]["template"]["spec"]
        for container in spec["initContainers"] + spec["containers"]:
            container["args"].sort()
            container["args"] = [",".join(sorted(each.split(","))) if each.startswith("--queries") else each
                                 for each in container["args"]]
            container["volumeMounts"].sort(key=lambda mount: mount["name"])
        spec["volumes"].sort(key=lambda volume: volume["name"])
    return thing


def difference(mine, theirs, path=""):
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted(set(mine) | set(theirs)):
            if key not in mine or key not in theirs:
                return f"{path}.{key}: only in the {'chart' if key in mine else 'kustomization'}"
            found = difference(mine[key], theirs[key], f"{path}.{key}")
            if found:
                return found
        return None
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        return next(filter(None, (difference(*pair, f"{path}[{at}]") for at, pair in enumerate(zip(mine, theirs)))), None)
    return None if mine == theirs else f"{path}: the chart has {mine!r:.300}, the kustomization {theirs!r:.300}"


def the_chart_renders_the_kustomization(chart, kubectl, overlay, components):
    theirs = {name_of(thing): thing for thing in with_components(kubectl, overlay, components)}
    policies, exporter = chart.both(values_of(overlay, components))
    mine = {name_of(thing): thing for thing in policies + exporter if "helm.sh/hook" not in str(thing["metadata"])}
    assert len(mine) == len([each for each in policies + exporter if "helm.sh/hook" not in str(each["metadata"])])
    assert set(mine) == set(theirs), set(mine) ^ set(theirs)
    for name, thing in mine.items():
        found = difference(normal(thing, theirs[name]), normal(theirs[name], theirs[name]))
        assert not found, f"{name}: {found}"


def generated_collectors():
    """The chart's table: which flags of a collector make it ask which queries beyond the default ones."""
    rows = []
    for name, (default, asked) in sorted(queries.ALL_COLLECTORS.items()):
        beyond = asked - queries.DEFAULT
        always = sorted(beyond - set(queries.ON_DEMAND))
        if always:
            rows.append({"collector": name, "default": default, "queries": always})
        for query in sorted(beyond & set(queries.ON_DEMAND)):
            flags = [flag for flag in queries.ON_DEMAND[query] if flag.startswith(f"collector.{name}.")]
            assert flags, (name, query)
            rows.append({"collector": name, "default": default, "queries": [query], "flags": flags})
    table = (REPOSITORY / "policy/src/table.rs").read_text()
    processes = sorted(queries.named(each) for each in re.findall(r"new_row\(Query::(\w+), Processes,", table))
    source = (REPOSITORY / "exporter/src/cli/flags.rs").read_text()
    constants = dict(re.findall(r'^const (\w+): &str = "(.*)";', source, re.MULTILINE))
    body = re.search(r"UNSUPPORTED_COLLECTORS: &\[\(&str, &str\)\] = &\[\n(.*?)\n\];", source, re.DOTALL)[1]
    unsupported = {name: constants[word] if word in constants else word.strip('"')
                   for name, word in re.findall(r'\("(collector\.\w+)",\s+(.*)\),', body)}
    assert len(rows) > 20 and len(processes) > 2 and len(unsupported) > 8, (len(rows), processes, unsupported)
    text = yaml.safe_dump({"queries": rows, "processes": processes, "unsupported": unsupported}, sort_keys=False, width=120)
    return f"# Generated from the sources of the exporter and the policy: tests/deploy/charts.py --update\n{text}"


def generated_table():
    """The rows of docs/migrating.md, one a value of node_exporter's chart."""
    lines = ["| value | here | |", "|---|---|---|"]
    for row in sorted(yaml.safe_load(NODE_EXPORTER.read_text()), key=lambda row: row["value"].lower()):
        if row.get("note", "").startswith("see "):
            continue
        note = row.get("note", "")
        accepted = [each for each in row.get("unless", []) if not isinstance(each, dict)]
        if row["is"] == "unsupported" and accepted:
            note = f"{note}. Accepted: {', '.join(f'`{json.dumps(each)}`' for each in accepted)}".replace('`"', "`").replace('"`', "`")
        lines.append(f"| `{row['value']}` | {row['is']} | {note} |")
    return "\n".join(lines)


TABLE = re.compile(r"(<!-- values: tests/deploy/charts.py --update -->\n\n).*?(\n*<!-- end of the values -->)", re.DOTALL)


def update():
    COLLECTORS.write_text(generated_collectors())
    text, count = TABLE.subn(lambda found: found[1] + generated_table() + found[2], MIGRATING.read_text())
    assert count == 1, "docs/migrating.md has no place for the table"
    MIGRATING.write_text(text)


def generated_files_are_fresh():
    assert COLLECTORS.read_text() == generated_collectors(), f"{COLLECTORS} is stale: tests/deploy/charts.py --update"
    found = TABLE.search(MIGRATING.read_text())
    assert found and found[0] == found[1] + generated_table() + found[2], "docs/migrating.md is stale: tests/deploy/charts.py --update"


def every_value_of_theirs_has_a_row():
    rows = [row["value"] for row in yaml.safe_load(NODE_EXPORTER.read_text())]
    assert len(rows) == len(set(rows)), "twice"
    theirs = THEIR_VALUES.read_text().split()
    assert len(theirs) > 150, len(theirs)
    missing = [each for each in theirs if not any(each == row or each.startswith(f"{row}.") for row in rows)]
    assert not missing, missing
    unknown = [row for row in rows if not any(each == row or each.startswith(f"{row}.") for each in theirs)]
    assert not unknown, unknown


def leaf_paths(value, path=""):
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaf_paths(each, f"{path}.{key}" if path else key)
    else:
        yield path


def at(value, path):
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return None, False
        value = value[key]
    return value, True


def values_that_are_the_same_exist():
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for row in yaml.safe_load(NODE_EXPORTER.read_text()):
        exists = at(defaults, row["value"])[1]
        assert exists == (row["is"] in ("same", "similar")), f"{row['value']} is {row['is']}, and values.yaml {'has' if exists else 'lacks'} it"


def schema_has_every_value():
    """The schema describes each value of values.yaml and no other."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    def walk(part, path=""):
        for key, each in part.get("properties", {}).items():
            name = f"{path}.{key}" if path else key
            if "properties" in each:
                yield from walk(each, name)
            else:
                yield name
    free = {"resources", "broker.resources", "updateStrategy", "nodeSelector", "livenessProbe", "readinessProbe", "podLabels",
            "service.labels", "grafanaDashboards.labels", "affinity", "prometheus.monitor.additionalLabels",
            "prometheus.podMonitor.additionalLabels", "prometheus.rule.additionalLabels"}
    closed = lambda names: {next((each for each in free if name == each or name.startswith(f"{each}.")), name) for name in names}
    mine, theirs = closed(leaf_paths(yaml.safe_load((CHART / "values.yaml").read_text()))), closed(walk(schema))
    assert mine == theirs, mine ^ theirs


# Values, and the words that the refusal has: the value's name, and what to do.
REFUSED = [
    ({"hostNetwork": True}, ["hostNetwork", "remove it"]),
    ({"hostPID": True}, ["hostPID", "remove it"]),
    ({"hostIPC": True}, ["hostIPC", "remove it"]),
    ({"hostRootFsMount": {"enabled": True}}, ["hostRootFsMount.enabled", "probe directories"]),
    ({"hostRootFsMount": {"enabled": True, "mountPropagation": "HostToContainer"}}, ["hostRootFsMount.enabled"]),
    ({"hostSysFsMount": {"mountPropagation": "HostToContainer"}}, ["hostSysFsMount.mountPropagation"]),
    ({"hostNetwork": True, "hostPID": True, "hostRootFsMount": {"enabled": True}},
     ["hostNetwork", "hostPID", "hostRootFsMount.enabled"]),
    ({"kubeRBACProxy": {"enabled": True}}, ["kubeRBACProxy.enabled", "webConfig.enabled"]),
    ({"extraHostVolumeMounts": [{"name": "x", "hostPath": "/x", "mountPath": "/x"}]}, ["extraHostVolumeMounts", "textfile.path"]),
    ({"sidecars": [{"name": "x"}]}, ["sidecars", "DaemonSet of its own"]),
    ({"image": {"repository": "prometheus/node-exporter"}}, ["image.repository", "image.broker.repository"]),
    ({"image": {"digest": "sha256:00"}}, ["image.digest", "image.exporter.digest"]),
    ({"securityContext": {"runAsUser": 0}}, ["securityContext", "supplementalGroups"]),
    ({"containerSecurityContext": {"capabilities": {"add": ["SYS_TIME"]}}}, ["containerSecurityContext", "root to true"]),
    ({"releaseLabel": True}, ["releaseLabel", "additionalLabels.release"]),
    ({"service": {"type": "NodePort"}}, ["service.type", "headless"]),
    ({"service": {"nodePort": 30100}}, ["service.nodePort"]),
    ({"serviceAccount": {"automountServiceAccountToken": True}}, ["serviceAccount.automountServiceAccountToken"]),
    ({"fullnameOverride": "ne"}, ["fullnameOverride", "namespaceOverride"]),
    ({"permissionInitContainer": {"fixes": {"rapl": True}}}, ["permissionInitContainer.fixes.rapl", "root to true"]),
    ({"verticalPodAutoscaler": {"enabled": True}}, ["verticalPodAutoscaler.enabled", "broker.resources"]),
    ({"env": {"A": "b"}}, ["env: ", "extraArgs"]),
    ({"hostnetwork": True}, ["hostnetwork: there is no such value", "helm show values"]),
    ({"broker": {"resurces": {}}}, ["broker.resurces: there is no such value"]),
    ({"prometheus": {"podMonitor": {"enable": True}}}, ["prometheus.podMonitor.enable: there is no such value"]),
    ({"prometheus": {"servicemonitor": {"enabled": True}}}, ["prometheus.servicemonitor: there is no such value"]),
    ({"extraArgs": ["--path.rootfs=/host/root"]}, ["remove --path.rootfs: "]),
    ({"extraArgs": ["--web.listen-address=:9200"]}, ["--web.listen-address", "service.port"]),
    ({"extraArgs": ["--collector.textfile.directory=/x"]}, ["--collector.textfile.directory", "textfile.path"]),
    ({"extraArgs": ["--queries=all"]}, ["--queries"]),
    ({"broker": {"extraArgs": ["--allow-uid=0"]}}, ["remove --allow-uid: "]),
    ({"access": "minimal", "root": True}, ["root: with `access: minimal`"]),
    ({"access": "minimal", "udev": {"enabled": True}}, ["udev.enabled"]),
    ({"access": "minimal", "textfile": {"enabled": True}}, ["textfile.enabled"]),
    ({"hostUsers": False}, ["hostUsers: false works only with"]),
    ({"prometheus": {"monitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, ["disable one"]),
    ({"service": {"enabled": False}, "prometheus": {"monitor": {"enabled": True}}}, ["needs the service"]),
    ({"livenessProbe": {"httpGet": {"httpHeaders": [{"name": "a", "value": "b"}]}}}, ["livenessProbe.httpGet"]),
    # By the schema, which names the value.
    ({"access": "privileged"}, ["/access", "restricted-pv"]),
    ({"component": "all"}, ["/component"]),
    ({"root": "yes"}, ["/root", "boolean"]),
    ({"service": {"port": "9100"}}, ["/service/port", "integer"]),
    ({"service": {"port": 0}}, ["/service/port"]),
    ({"service": {"portName": "health"}}, ["/service/portName"]),
    ({"extraArgs": "--collector.tcpstat"}, ["/extraArgs", "array"]),
    ({"extraArgs": ["collector.tcpstat"]}, ["/extraArgs/0"]),
    ({"image": {"broker": {"digest": "latest"}}}, ["/image/broker/digest"]),
    ({"tolerations": {"operator": "Exists"}}, ["/tolerations", "array"]),
    ({"supplementalGroups": [998]}, ["/supplementalGroups"]),
    ({"textfile": {"path": "relative"}}, ["/textfile/path"]),
    ({"textfile": {"path": "/"}}, ["/textfile/path"]),
    ({"textfile": {"path": "/a', 'proc': '/"}}, ["/textfile/path"]),
    ({"namespaceOverride": "Key_hole"}, ["/namespaceOverride"]),
    # What would end the text, the expression or the object that it is put into.
    ({"priorityClassName": "x\n      hostPID: true"}, ["/priorityClassName"]),
    ({"image": {"registry": "x' || '' == '"}}, ["/image/registry"]),
    ({"global": {"imageRegistry": "x\ny"}}, ["/global/imageRegistry"]),
    ({"image": {"tag": "1' + '"}}, ["/image/tag"]),
    ({"image": {"tag": 1.2}}, ["/image/tag", "got number"]),
    ({"image": {"broker": {"repository": "x'"}}}, ["/image/broker/repository"]),
    ({"image": {"exporter": {"repository": ""}}}, ["/image/exporter/repository"]),
    ({"webConfig": {"secretName": "x\n        hostPath: {path: /}"}}, ["/webConfig/secretName"]),
    ({"textfile": {"path": "/a\\"}}, ["/textfile/path"]),
    ({"textfile": {"path": "/a\nb"}}, ["/textfile/path"]),
    ({"textfile": {"path": "/a/../proc"}}, ["/textfile/path"]),
    ({"textfile": {"path": "/proc"}}, ["/textfile/path"]),
    ({"tests": {"image": "x\ny"}}, ["/tests/image"]),
    ({"imagePullSecrets": [{"name": "a", "x": 1}]}, ["/imagePullSecrets/0"]),
    ({"podAnnotations": {"container.apparmor.security.beta.kubernetes.io/broker": "unconfined"}}, ["podAnnotations: container.apparmor"]),
    ({"podAnnotations": {"a\nb": "c"}}, ["/podAnnotations"]),
    ({"commonLabels": {"a b": "c"}}, ["/commonLabels"]),
    ({"commonLabels": {"a": "{{ printf \"b\\nkeyhole/access: minimal\" }}"}}, ["commonLabels: a: ", "no value of a label"]),
    ({"podLabels": {"a": "x" * 64}}, ["podLabels: a: ", "at most 63"]),
    ({"service": {"labels": {"a": "é"}}}, ["service.labels: a: "]),
    ({"commonLabels": {"keyhole/access": "minimal"}}, ["commonLabels: the label keyhole/access is the chart's"]),
    ({"commonLabels": {"pod-security.kubernetes.io/enforce": "privileged"}}, ["commonLabels: the label pod-security.kubernetes.io/enforce"]),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, ["podLabels: the label app.kubernetes.io/name is the chart's"]),
    ({"service": {"labels": {"app.kubernetes.io/instance": "x"}}}, ["service.labels: the label app.kubernetes.io/instance"]),
    ({"prometheus": {"podMonitor": {"additionalLabels": {"helm.sh/chart": "x"}}}}, ["prometheus.podMonitor.additionalLabels: the label helm.sh/chart"]),
    ({"grafanaDashboards": {"labels": {"app.kubernetes.io/name": "x"}}}, ["grafanaDashboards.labels: the label app.kubernetes.io/name"]),
    ({"livenessProbe": {"exec": {"command": ["x"]}}}, ["/livenessProbe", "exec"]),
    ({"resources": {"limits": {"memory": ["x"]}}}, ["/resources/limits/memory"]),
    ({"resources": {"limits": {"memory": "much"}}}, ["/resources/limits/memory"]),
    ({"resources": {"claims": [{"name": "gpu"}]}}, ["/resources/claims"]),
    ({"updateStrategy": {"type": "Recreate"}}, ["/updateStrategy/type"]),
    ({"affinity": {"nodeaffinity": {}}}, ["/affinity", "nodeaffinity"]),
    ({"service": {"portName": "123"}}, ["/service/portName"]),
    ({"supplementalGroups": [64646, 0]}, ["/supplementalGroups/1"]),
    ({"webConfig": {"enabled": True}, "service": {"port": 9101}}, ["service.port", "9101"]),
    ({"namespaceOverride": "kube-system"}, ["namespaceOverride", "Kubernetes' own"]),
    ({"extraArgs": ["-path.procfs=/x"]}, ["/extraArgs/0"]),
    ({"extraArgs": ["--collector.tcpstat\n--path.procfs=/x"]}, ["/extraArgs/0"]),
    ({"extraArgs": ["--path.procfs /x"]}, ["/extraArgs/0"]),
    ({"extraArgs": ["--path.procfs", "/x"]}, ["/extraArgs/1"]),
    ({"extraArgs": [""]}, ["/extraArgs/0"]),
    ({"extraArgs": [7]}, ["/extraArgs/0", "string"]),
    ({"extraArgs": [f"--collector.filesystem.x={number}" for number in range(10000)]}, ["/extraArgs", "want 1,000"]),
    ({"extraArgs": ["--collector.tcpstat", "--no-collector.tcpstat"]}, ["--no-collector.tcpstat contradicts or repeats --collector.tcpstat"]),
    ({"extraArgs": ["--log.level=info", "--log.level=debug"]}, ["extraArgs: --log.level contradicts or repeats"]),
    ({"extraArgs": ["--collector.tcpstat=false"]}, ["extraArgs: --collector.tcpstat takes no value", "--no-collector.tcpstat"]),
    ({"extraArgs": ["--version"]}, ["extraArgs: --version"]),
    ({"extraArgs": ["--no-web.systemd-socket"]}, ["remove --no-web.systemd-socket"]),
    ({"broker": {"extraArgs": ["--socket.group=0"]}}, ["remove --socket.group"]),
    ({"broker": {"extraArgs": ["--no-allow-processes"]}}, ["remove --no-allow-processes"]),
    ({"component": None}, ["component"]),
    ({"access": None}, ["access"]),
    ({"service": {"port": None}}, ["/service", "port"]),
    ({"prometheus": None}, ["prometheus"]),
]


def refused(chart, values, words):
    try:
        chart.render(values)
    except Refused as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"
        return
    raise AssertionError("rendered")


def nulls_take_defaults_away(chart):
    """A null is refused by the schema, which requires the value, or taken by each template that reads it."""
    schema, defaults = json.loads((CHART / "values.schema.json").read_text()), yaml.safe_load((CHART / "values.yaml").read_text())
    everything = {"webConfig": {"enabled": True}, "textfile": {"enabled": True}, "networkPolicy": {"enabled": True},
                  "grafanaDashboards": {"enabled": True}, "prometheus": {"podMonitor": {"enabled": True}, "rule": {"enabled": True}},
                  "service": {"ipDualStack": {"enabled": True}}}
    kinds, count = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}, 0

    def walk(part, default, path):
        """The values with a null each that is not refused."""
        nonlocal count
        found = {}
        for key, each in part["properties"].items():
            if key in part.get("required", []):
                # And is of the type of its default, so that nothing but a null is missing.
                assert isinstance(default[key], kinds.get(each.get("type"), object)), f"{path}{key}"
                if "properties" in each:
                    found[key] = walk(each, default[key], f"{path}{key}.")
                count += 1
            elif each.get("type") != "null":
                found[key] = None
        return found
    nulls = walk(schema, defaults, "")
    assert count > 40 and len(list(leaf_paths(nulls))) > 60, (count, nulls)
    for monitor in ("monitor", "podMonitor"):
        for base in ({}, {"access": "privileged-hostpath"}):
            values = merged(nulls, everything, base)
            values["prometheus"]["monitor"]["enabled"] = monitor == "monitor"
            values["prometheus"]["podMonitor"]["enabled"] = monitor == "podMonitor"
            _, exporter = chart.both(values)
            assert one(exporter, "DaemonSet") and one(exporter, "ConfigMap", "keyhole-dashboards") and one(exporter, "NetworkPolicy")


def labels_are_merged(chart):
    """The same label by two values, numbers and words that YAML takes for something else."""
    labels = {"jobLabel": "mine", "number": 1234567, "team": "{{ .Release.Name }}", "yes": True, "null": "null"}
    policies, exporter = chart.both({
        "commonLabels": labels, "podLabels": {"number": 8}, "grafanaDashboards": {"enabled": True, "labels": {"team": "x"}},
        "service": {"portName": "null-1", "annotations": {"a": 1}}, "nodeSelector": {"a": True}, "namespaceOverride": "123"})
    for thing in policies + exporter:
        found = thing["metadata"]["labels"]
        assert found["number"] == "1234567" and found["yes"] == "true" and found["team"] == "keyhole", (name_of(thing), found)
        assert all(isinstance(each, str) for each in found.values()), found
    assert {thing["metadata"]["namespace"] for thing in exporter if "namespace" in thing["metadata"]} == {"123"}
    assert one(policies, "Namespace", "123")
    spec = one(exporter, "DaemonSet")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "a": "true"}
    assert one(exporter, "Service")["metadata"]["annotations"] == {"a": "1"}


def a_package_is_the_directory(chart):
    """Symbolic links are followed, and the package renders what the directory does."""
    with tempfile.TemporaryDirectory() as directory:
        done = chart.run("package", CHART, "--destination", directory)
        assert done.returncode == 0, done.stderr
        (package,) = pathlib.Path(directory).iterdir()
        with tarfile.open(package) as archive:
            assert all(member.isfile() for member in archive), [member.name for member in archive if not member.isfile()]
            names = {member.name.removeprefix("keyhole/") for member in archive}
            # Helm writes Chart.yaml itself.
            for name in names - {"Chart.yaml"}:
                assert archive.extractfile(f"keyhole/{name}").read() == (CHART / name).read_bytes(), name
        theirs = {str(pathlib.Path(top, name).relative_to(CHART)) for top, _, found in os.walk(CHART, followlinks=True) for name in found}
        left_out = theirs - names
        assert not names - theirs and left_out and all(name.endswith("kustomization.yaml") for name in left_out - {".helmignore"}), \
            (names - theirs, left_out)
        for values in ({}, {"component": "policies", "refuseExec": True},
                       {"grafanaDashboards": {"enabled": True}, "prometheus": {"rule": {"enabled": True}}}):
            rendered = [chart.run("template", "keyhole", where, "--namespace", "elsewhere", "--set-json", f"component={json.dumps(values.get('component', 'exporter'))}",
                                  *(word for key, value in values.items() if key != "component" for word in ("--set-json", f"{key}={json.dumps(value)}")))
                        for where in (CHART, package)]
            assert rendered[0].returncode == rendered[1].returncode == 0, rendered[1].stderr
            assert rendered[0].stdout == rendered[1].stdout, values


def a_chart_may_depend_on_it(chart):
    """With a condition, with global values of other charts, and twice by aliases."""
    with tempfile.TemporaryDirectory() as directory:
        parent = pathlib.Path(directory, "parent")
        (parent / "charts").mkdir(parents=True)
        done = chart.run("package", CHART, "--destination", parent / "charts")
        assert done.returncode == 0, done.stderr
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
        dependency = {"name": "keyhole", "version": version, "repository": "https://example.org/keyhole"}
        (parent / "Chart.yaml").write_text(yaml.safe_dump({
            "apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [
                {**dependency, "condition": "keyhole.enabled"}, {**dependency, "alias": "policies", "condition": "policies.enabled"}]}))
        (parent / "values.yaml").write_text(yaml.safe_dump({
            "global": {"storageClass": "x", "imageRegistry": "registry.example"}, "keyhole": {"enabled": True, "namespaceOverride": "keyhole"},
            "policies": {"enabled": True, "component": "policies", "namespaceOverride": "keyhole"}}))

        def render(*arguments):
            return chart.run("template", "parent", parent, "--namespace", "monitoring", *arguments)
        done = render("--set", "policies.enabled=false")
        assert done.returncode == 0 and "registry.example/keyhole-broker" in done.stdout, done.stderr
        done = render("--set", "keyhole.enabled=false")
        assert done.returncode == 0 and "keyhole-claims" in done.stdout and "kind: DaemonSet" not in done.stdout, done.stderr
        done = render("--set", "policies.enabled=false,keyhole.hostNetwork=true")
        assert done.returncode != 0 and "hostNetwork" in done.stderr, done.stderr


def what_changes_nothing_is_accepted(chart):
    """A file with all of their defaults, as people keep it, is refused for nothing but what must be decided."""
    chart.render({
        "hostNetwork": False, "hostPID": False, "hostIPC": False, "hostUsers": None, "endpoints": [], "sidecars": [], "version": "",
        "kubeRBACProxy": {"enabled": False, "image": {"repository": "x"}, "port": 8100, "resources": {}, "tls": {"enabled": False}},
        "tlsSecret": {"enabled": False, "secretName": "x"}, "rbac": {"create": True}, "image": {"distroless": False, "tag": "", "digest": ""},
        "permissionInitContainer": {"image": {"repository": "x"}, "securityContext": {"runAsUser": 0}, "extraCommands": [],
                                    "fixes": {"rapl": False, "slabinfo": False}},
        "verticalPodAutoscaler": {"enabled": False, "controlledResources": [], "maxAllowed": {}},
        "terminationMessageParams": {"enabled": False, "terminationMessagePath": "/dev/termination-log"},
        "hostRootFsMount": {"enabled": False, "mountPropagation": "HostToContainer"}, "hostProcFsMount": {"mountPropagation": ""},
        "service": {"type": "ClusterIP", "clusterIP": "", "nodePort": None, "targetPort": 9100, "listenOnAllInterfaces": True},
        "serviceAccount": {"name": None, "automountServiceAccountToken": False}, "restartPolicy": None, "dnsPolicy": "", "dnsConfig": {},
        "livenessProbe": {"httpGet": {"httpHeaders": [], "scheme": "http"}, "initialDelaySeconds": 0, "successThreshold": 1},
        "prometheus": {"monitor": {"apiVersion": "", "selectorOverride": {}, "bearerTokenFile": None, "scheme": "http"},
                       "podMonitor": {"apiVersion": "", "enableHttp2": "", "filterRunning": "", "path": "/metrics"}},
        "containerSecurityContext": {"readOnlyRootFilesystem": True}, "terminationGracePeriodSeconds": None,
    })


def old_clusters_are_refused(chart):
    try:
        chart.render({}, arguments=["--kube-version", "1.32.0"])
    except Refused as error:
        assert "access: restricted-pv needs Kubernetes 1.33" in str(error), error
    else:
        raise AssertionError("rendered")
    chart.render({"access": "minimal"}, arguments=["--kube-version", "1.29.6"])


def policies_are_not_installed_into_the_namespace_that_they_make(chart):
    try:
        chart.render({"component": "policies"}, "keyhole")
    except Refused as error:
        assert "--namespace kube-system" in str(error), error
    else:
        raise AssertionError("rendered")
    chart.render({"component": "policies", "namespace": {"create": False}}, "keyhole")


def a_values_file_of_the_stack_moves_over(chart):
    """kube-prometheus-stack's own values of its sub-chart, less what must be removed, and what people set besides."""
    things = chart.render({
        "namespaceOverride": "metrics",
        "podLabels": {"jobLabel": "node-exporter", "team": "{{ .Release.Name }}"},
        "extraArgs": [
            "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys)($|/)",
            "--collector.filesystem.fs-types-exclude=^(autofs)$", "--collector.tcpstat", "--no-collector.wifi", "--collector.systemd"],
        "service": {"portName": "http-metrics", "port": 9200, "targetPort": 9100, "type": "ClusterIP", "annotations": {"a": "b"},
                    "labels": {"jobLabel": "node-exporter"}},
        "image": {"registry": "registry.example/mirror", "distroless": True, "tag": "1.2.3"},
        "imagePullSecrets": [{"name": "one"}], "global": {"imagePullSecrets": ["two"]},
        "prometheus": {"monitor": {
            "enabled": True, "jobLabel": "jobLabel", "interval": "30s", "scrapeTimeout": "10s", "sampleLimit": 9000,
            "additionalLabels": {"release": "mine"}, "attachMetadata": {"node": True}, "namespace": "monitoring",
            "relabelings": [{"action": "replace", "targetLabel": "a", "replacement": "b"}], "tlsConfig": {}}},
        "resources": {"limits": {"cpu": "200m"}},
        "tolerations": [{"effect": "NoSchedule", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
        "priorityClassName": "", "hostNetwork": False, "hostPID": False, "revisionHistoryLimit": 3, "hostRootFsMount": {"enabled": False},
        "rbac": {"create": True}, "serviceAccount": {"create": True, "annotations": {"a": "b"}},
        "securityContext": {"fsGroup": 65534, "runAsGroup": 65534, "runAsNonRoot": True, "runAsUser": 65534},
        "networkPolicy": {"enabled": True, "ingress": [{}]},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "extraManifests": ["apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-extra'}"],
    }, "default")
    for thing in things:
        if thing["kind"] not in ("PersistentVolume", "ServiceMonitor") and thing["metadata"]["name"] != "keyhole-extra":
            assert thing["metadata"]["namespace"] == "metrics", name_of(thing)
    for volume in objects(things, "PersistentVolume"):
        assert volume["spec"]["claimRef"]["namespace"] == "metrics"
    daemonset = one(things, "DaemonSet")
    spec = daemonset["spec"]["template"]["spec"]
    broker, exporter = spec["initContainers"][0], spec["containers"][0]
    assert daemonset["spec"]["revisionHistoryLimit"] == 3
    assert daemonset["spec"]["template"]["metadata"]["labels"]["team"] == "keyhole"
    assert broker["image"] == "registry.example/mirror/keyhole-broker:1.2.3", broker["image"]
    assert broker["args"][0] == "--queries=default,+tcp", broker["args"]
    assert sum(each.startswith("--collector.filesystem.mount-points-exclude") for each in exporter["args"]) == 1
    assert "--web.listen-address=:9200" in exporter["args"]
    assert exporter["ports"] == [{"name": "http-metrics", "containerPort": 9200, "protocol": "TCP"}]
    assert exporter["livenessProbe"]["httpGet"]["port"] == "http-metrics"
    assert exporter["resources"] == {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}
    assert "priorityClassName" not in spec and spec["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
    assert one(things, "ServiceAccount")["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    monitor = one(things, "ServiceMonitor")
    assert monitor["metadata"]["namespace"] == "monitoring" and monitor["metadata"]["labels"]["release"] == "mine"
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["metrics"]}
    assert monitor["spec"]["sampleLimit"] == 9000 and monitor["spec"]["attachMetadata"] == {"node": True}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "http-metrics", "interval": "30s", "scrapeTimeout": "10s",
                        "relabelings": [{"action": "replace", "targetLabel": "a", "replacement": "b"}]}, endpoint
    assert one(things, "NetworkPolicy")["spec"]["ingress"] == [{}]
    assert one(things, "ConfigMap", "keyhole-extra")


def the_values_for_talos_render(chart):
    values = yaml.safe_load((REPOSITORY / "deploy/talos/values.yaml").read_text())
    policies, exporter = chart.both(values)
    assert one(policies, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert one(exporter, "PersistentVolume", "keyhole-udev") and one(exporter, "PodMonitor")
    page = (REPOSITORY / "docs/talos.md").read_text()
    assert page.count("(../deploy/talos/values.yaml)") >= 2 and "below 1.33" in page
    chart.render({"access": "minimal"}, arguments=["--kube-version", "1.32.0"])


def the_values_in_documents_render(chart):
    blocks = guide.yaml_blocks("deploy/helm/keyhole/README.md")
    blocks += [block for block in guide.yaml_blocks("docs/migrating.md") if block.startswith("# values.yaml")]
    assert len(blocks) == 2, len(blocks)
    for block in blocks:
        _, exporter = chart.both(yaml.safe_load(block))
        assert one(exporter, "PodMonitor")


def the_alert_and_the_policies_follow_the_values(chart):
    values = {"access": "privileged-hostpath", "namespaceOverride": "metrics", "root": True, "supplementalGroups": [64646, 998],
              "textfile": {"enabled": True, "path": "/var/text"}, "prometheus": {"rule": {"enabled": True}},
              "image": {"registry": "registry.example", "broker": {"digest": f"sha256:{'0' * 64}"}}}
    policies, exporter = chart.both(values)
    assert one(policies, "Namespace", "metrics")["metadata"]["labels"]["keyhole/access"] == "privileged-hostpath"
    variables = {each["name"]: each["expression"] for each in one(policies, "ValidatingAdmissionPolicy", "keyhole-pod-shape")["spec"]["variables"]}
    spec = one(exporter, "DaemonSet")["spec"]["template"]["spec"]
    broker, container = spec["initContainers"][0], spec["containers"][0]
    assert broker["image"] == f"registry.example/keyhole-broker@sha256:{'0' * 64}"
    assert variables["brokerImage"] == f"'{broker['image']}'" and variables["exporterImage"] == f"'{container['image']}'"
    assert variables["brokerUid"] == "0" == str(broker["securityContext"]["runAsUser"])
    assert json.loads(variables["supplementalGroups"]) == spec["securityContext"]["supplementalGroups"] == [64646, 998]
    assert variables["exporterHostPaths"] == "{'textfile': '/var/text'}"
    assert {"name": "textfile", "hostPath": {"path": "/var/text", "type": "DirectoryOrCreate"}} in spec["volumes"]
    text = json.dumps(one(exporter, "PrometheusRule"))
    assert 'namespace=\\\\\\"metrics' in json.dumps(text) and 'namespace=\\\\\\"keyhole' not in json.dumps(text)


def every_collector_has_its_queries(chart, programs):
    """Whatever collectors are turned on, the broker answers what they ask and nothing else."""
    names = sorted(queries.ALL_COLLECTORS)
    switches = [[flag] for flags in queries.ON_DEMAND.values() for flag in flags if not flag.endswith("include")]
    # Few at a time, since a render takes a while; of queries that two of them ask, the tables are generated from one source.
    for flags in [[f"collector.{name}" for name in names[start::12]] for start in range(12)] + switches:
        things = chart.render({"extraArgs": [f"--{flag}" for flag in flags]})
        pod = pod_of(things)
        broker, exporter = pod["spec"]["initContainers"][0]["args"], pod["spec"]["containers"][0]["args"]
        asked, answered = queries.asked(exporter), queries.answered(broker)
        assert asked <= answered and answered - queries.DEFAULT <= asked, (flags, asked - answered, answered - queries.DEFAULT - asked)
        programs.take(pod)


def notes_report_what_is_next(chart):
    def notes(values, namespace="keyhole"):
        done = chart.run("install", "keyhole", CHART, "--dry-run=client", "--namespace", namespace, values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("NOTES:", 1)[1]
    text = notes({"extraArgs": ["--collector.systemd"]})
    for word in ("ImagePullBackOff", "kubectl -n keyhole get pods", "--collector.systemd has no effect", "Nothing scrapes them yet"):
        assert word in text, (word, text)
    text = notes({"image": {"registry": "registry.example"}, "prometheus": {"podMonitor": {"enabled": True}}})
    assert "ImagePullBackOff" not in text and 'job="node-exporter"' in text, text
    https = {"prometheus": {"monitor": {"enabled": True, "scheme": "https"}}}
    assert "each scrape fails" in notes(https) and "each scrape fails" not in notes({**https, "webConfig": {"enabled": True}})
    text = notes({"component": "policies"}, "kube-system")
    assert "pod-security-level" in text and "uninstall it after `keyhole`" in text, text


def the_test_of_helm_scrapes(chart, binaries):
    """The script of the pod of `helm test`: it passes beside a running exporter, and fails beside none."""
    port = launch.free_port()
    things = chart.render({"access": "minimal", "service": {"port": port}})
    pod = one(things, "Pod", "keyhole-test")
    (container,) = pod["spec"]["containers"]
    with tempfile.TemporaryDirectory() as directory:
        hosts = pathlib.Path(directory, "hosts")
        hosts.write_text("127.0.0.1 localhost keyhole.keyhole.svc\n")
        needed = pathlib.Path(directory, "needed")
        needed.mkdir()
        for name in ("sh", "wget", "grep"):
            (needed / name).symlink_to(shutil.which(name))

        def run():
            command = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && PATH={needed} exec "$@"', "sh",
                       str(needed / container["command"][0]), *container["command"][1:], *container["args"]]
            return subprocess.run(command, capture_output=True, text=True, timeout=60)
        done = run()
        assert done.returncode != 0 and "no answer" in done.stderr, (done.stdout, done.stderr)
        with launch.Keyhole(binaries, exporter_flags=[f"--web.listen-address=127.0.0.1:{port}"]):
            done = run()
            assert done.returncode == 0 and re.search(r"svc:\d+/metrics: \d{3,} samples", done.stdout), (done.stdout, done.stderr)
    # Where the pod could not reach the exporter, it is not made.
    for values in ({"webConfig": {"enabled": True}}, {"networkPolicy": {"enabled": True}}, {"access": "privileged-hostpath"}):
        assert not objects(chart.render(values), "Pod"), values
    assert one(chart.render({"access": "privileged-hostpath", "tests": {"namespace": "elsewhere"}}), "Pod", "keyhole-test")


def main():
    parser = argparse.ArgumentParser(description="tests of the Helm chart")
    parser.add_argument("--helm", default="helm")
    parser.add_argument("--kubectl", default="kubectl")
    parser.add_argument("--binaries", default="target/debug")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    if arguments.update:
        update()
        return 0
    chart, programs, results = Chart(arguments.helm), Programs(arguments.binaries), Results()
    results.check("generated files are fresh", generated_files_are_fresh)
    results.check("every value of prometheus-node-exporter has a row", every_value_of_theirs_has_a_row)
    results.check("values that are the same exist", values_that_are_the_same_exist)
    results.check("the schema has every value", schema_has_every_value)
    for values in [{}, {"component": "policies", "namespace": {"create": False}}, *map(lambda name: values_of(name, []), ("minimal", "privileged-hostpath"))]:
        results.check(f"lint with {values}", lambda: chart.lint(values))
    for title, overlay, components in combinations():
        results.check(f"{title}: the chart renders the kustomization",
                      lambda: the_chart_renders_the_kustomization(chart, arguments.kubectl, overlay, components))
    for overlay in ("minimal", "restricted-pv", "privileged-hostpath"):
        policies, exporter = chart.both(values_of(overlay, []))
        for thing in policies + exporter:
            if thing["kind"] not in OPERATOR:
                for version in VERSIONS:
                    results.check(f"{overlay}: {name_of(thing)} is valid in {version}", lambda: its_schema_takes_it(thing, version))
    for values, words in REFUSED:
        results.check(f"refused: {values}"[:200], lambda: refused(chart, values, words))
    for test in (what_changes_nothing_is_accepted, old_clusters_are_refused, policies_are_not_installed_into_the_namespace_that_they_make,
                 a_values_file_of_the_stack_moves_over, the_values_for_talos_render, nulls_take_defaults_away, labels_are_merged,
                 a_package_is_the_directory, a_chart_may_depend_on_it, the_alert_and_the_policies_follow_the_values, notes_report_what_is_next):
        results.check(test.__name__.replace("_", " "), lambda: test(chart))
    results.check("the test of helm scrapes", lambda: the_test_of_helm_scrapes(chart, arguments.binaries))
    results.check("every collector has its queries", lambda: every_collector_has_its_queries(chart, programs))
    return results.end()


if __name__ == "__main__":
    sys.exit(main())
