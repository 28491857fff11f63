"""kubectl-keyhole with a real API server and kubelet: its commands, the rights that it needs, and what it reports."""
import json
import os
import pathlib
import re
import subprocess

import kustomize
import yaml
from api import wait_for
from control_plane import NODE
from scraped import samples

DOCUMENT = kustomize.KUBERNETES.parent.parent / "docs/kubectl-plugin.md"
# Who has the document's Role. A user that is impersonated has no group but those that are named.
VIEWER = ["--as=viewer", "--as-group=keyhole-viewers", "--as-group=system:authenticated"]
# Seconds.
RUN, IN_FORCE = 60, 30


def plugin(run, *arguments, viewer=True, text=True):
    environment = {**os.environ, "KUBECONFIG": str(run.cluster.kubeconfig), "KUBECTL": str(pathlib.Path(run.cluster.program).resolve())}
    return subprocess.run([run.plugin, *arguments, *(VIEWER if viewer else [])], capture_output=True, text=text, timeout=RUN,
                          env=environment)


def good(run, *arguments, **more):
    done = plugin(run, *arguments, **more)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def refused(run, words, *arguments):
    """Nothing is printed but one line with these words."""
    done = plugin(run, *(arguments or ["query", NODE, "loadavg"]))
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1 and words in done.stderr, done
    return f"`{done.stderr.split('(')[0].strip()}`"


def role():
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return list(yaml.safe_load_all(block))


def apply(run, *things):
    run.cluster.kubectl("apply", "--filename", "-", input=yaml.safe_dump_all(things))


def rights(run):
    """The Role of the document suffices, and less does not."""
    refused(run, "there is no right to get and list pods")
    document = role()
    for number, verb, words in ((0, "get", "get and list pods"), (0, "list", "get and list pods"), (1, "create", "no right to exec")):
        apply(run, *document)
        wait_for("the Role suffices", lambda: good(run, "query", NODE, "loadavg"), IN_FORCE)
        less = json.loads(json.dumps(document))
        less[0]["rules"][number]["verbs"].remove(verb)
        # A rule without verbs is invalid.
        less[0]["rules"] = [rule for rule in less[0]["rules"] if rule["verbs"]]
        apply(run, *less)
        wait_for(f"no right without {verb}", lambda words=words: refused(run, words), IN_FORCE)
    apply(run, *document)
    wait_for("the Role suffices", lambda: good(run, "query", NODE, "loadavg"), IN_FORCE)


def queried(run):
    assert "node_load1" in good(run, "query", NODE, "loadavg")
    (node,) = json.loads(good(run, "query", "--all-nodes", "meminfo", "--output=json"))
    (memory,) = [each["value"] for each in node["metrics"] if each["name"] == "node_memory_MemTotal_bytes"]
    assert node["node"] == NODE and memory == run.good_scrape()["node_memory_MemTotal_bytes"], node
    done = plugin(run, "query", NODE)
    assert done.returncode in (0, 3) and len(done.stdout.splitlines()) > 300, done
    lines = good(run, "query", NODE, "stat", "--watch=500ms", "--count=2", "--output=json").splitlines()
    assert [any("rate" in metric for metric in json.loads(line)["metrics"]) for line in lines] == [False, True], lines
    unknown = refused(run, "no pod of Keyhole on it", "query", f"{NODE}x")
    return f"{len(done.stdout.splitlines()):,} lines; of another node: {unknown}"


def described(run):
    assert "access level" in good(run, "describe", NODE)
    (line,) = good(run, "describe", "--all-nodes", "--no-headers").splitlines()
    assert line.startswith(NODE), line
    return f"`{' '.join(line.split())}`"


def captured(run):
    done = plugin(run, "capture", NODE, text=False)
    assert done.returncode in (0, 3), done.stderr.decode()
    replayed = subprocess.run([run.static / "keyhole-exporter", "replay", "-"], input=done.stdout, capture_output=True, timeout=RUN)
    outside = samples(replayed.stdout.decode())
    assert outside["node_memory_MemTotal_bytes"] == run.good_scrape()["node_memory_MemTotal_bytes"]
    return f"{len(done.stdout):,} bytes"


def topped(run):
    """Numbers in all columns, as far as the machine has pressure and disks."""
    done = plugin(run, "top")
    assert done.returncode == 0, done
    head, row = (re.split(r" +", line) for line in done.stdout.splitlines())
    shown = dict(zip(head, row, strict=True))
    for column in ("CPU(%)", "MEM(%)", "OF(GiB)", "DISK(%)"):
        assert float(shown[column]) >= 0, shown
    missing = [column for column, cell in shown.items() if cell == "-"]
    assert bool(missing) == bool(done.stderr), done
    return f"`{' '.join(row)}`"


def topped_without_network(run):
    """The pod's own network is not the node's: a dash and a reason, and no failure."""
    done = plugin(run, "top")
    head, row = (re.split(r" +", line) for line in done.stdout.splitlines())
    shown = dict(zip(head, row, strict=True))
    assert done.returncode == 0 and shown["RX(kB/s)"] == shown["TX(kB/s)"] == "-" and "netdev" in done.stderr, done
    assert float(shown["CPU(%)"]) >= 0 and float(shown["MEM(%)"]) > 0, shown
    return f"`{done.stderr.splitlines()[0]}`"


def without_kubelet(run):
    run.node.stop("kubelet")
    try:
        return refused(run, f"{NODE}: the API server cannot reach the node's kubelet", "query", NODE, "loadavg", "--timeout=20s")
    finally:
        run.node.start_kubelet()
        run.wait_until_ready()


def exec_refused(run, overlay):
    run.site(overlay, ["refuse-exec"]).install()
    words = "exec is refused by the policy keyhole-no-exec"
    return wait_for("exec is refused", lambda: refused(run, words), IN_FORCE)


def check(run, installed, removed):
    """On restricted-pv, and on minimal what differs there."""
    site = run.site("restricted-pv")
    run.check("plugin", "`restricted-pv` is installed", installed, run, site)
    run.check("plugin", "the documented Role, and no less, suffices", rights, run)
    run.check("plugin", "`query` of a node, of all, and with `--watch`", queried, run)
    run.check("plugin", "`describe`", described, run)
    run.check("plugin", "`capture`, replayed outside", captured, run)
    run.check("plugin", "`top`", topped, run)
    run.check("plugin", "the kubelet does not run", without_kubelet, run)
    run.check("plugin", "with `refuse-exec`", exec_refused, run, "restricted-pv")
    run.check("plugin", "removed", removed, run, site, [run.site("restricted-pv", ["refuse-exec"])])
    site = run.site("minimal")
    run.check("plugin", "`minimal` is installed", installed, run, site)
    apply(run, *role())
    wait_for("the Role suffices", lambda: good(run, "query", NODE, "loadavg"), IN_FORCE)
    run.check("plugin", "`top` on `minimal`", topped_without_network, run)
    run.check("plugin", "`minimal` is removed", removed, run, site, [])
