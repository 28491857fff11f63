"""Tries what deploy/monitoring has in a Prometheus that scrapes a live Keyhole, for dashboards.py."""
import json
import os
import subprocess
import time

from launch import BROKER_UID, REPOSITORY, fail, stop
from promql import fill, label_values

# Seconds within which a Prometheus that scrapes and evaluates each second must have noticed.
NOTICED = 15
# A uid that no broker serves.
STRANGER = 64999
# A row whose title names it has panels that only an exporter with this flag can fill.
DETAIL = "--scrape.detail"
# Of the kubelet and kube-state-metrics; here a stand-in gives them.
OF_THE_CLUSTER = ("container_", "kube_")


def panels_of(dashboard):
    """All panels, those in collapsed rows too, each with the title of its collapsed row."""
    for panel in dashboard["panels"]:
        yield panel, ""
        for folded in panel.get("panels", []):
            yield folded, panel["title"]


def hard_coded(node, path="dashboard"):
    """Where a data source is named instead of chosen."""
    if isinstance(node, dict):
        source = node.get("datasource")
        if source is not None and (source.get("uid") if isinstance(source, dict) else source) != "${datasource}":
            yield f"{path}: data source {source}"
        for key, value in node.items():
            yield from hard_coded(value, f"{path}.{key}")
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from hard_coded(value, f"{path}[{at}]")


def try_dashboard(prometheus, values, plain, detailed):
    """Asks for every panel and variable of every dashboard: prints how many have data; what is wrong.

    `plain` and `detailed` are instances without and with --scrape.detail: what does not say that it needs the flag is asked of
    the one without it.
    """
    wrong = []
    files = sorted((REPOSITORY / "deploy/monitoring/dashboards").glob("*.json"))
    if not files:
        wrong.append("deploy/monitoring/dashboards is empty")
    for file in files:
        dashboard = json.loads(file.read_text())
        wrong += [f"{file.name}: {where}" for where in hard_coded(dashboard)]
        panels = [(panel, row) for panel, row in panels_of(dashboard) if panel["type"] != "row"]
        numbers = [panel["id"] for panel, _ in panels_of(dashboard)]
        if len(set(numbers)) != len(numbers):
            wrong.append(f"{file.name}: two panels have the same id")
        expressions, of_the_cluster, in_detail = 0, 0, 0
        for panel, row in panels:
            here = {**values, "instance": detailed if DETAIL in row else plain}
            in_detail += DETAIL in row
            if not panel.get("targets"):
                wrong.append(f"{file.name}: {panel['title']} asks nothing")
            for target in panel.get("targets", []):
                expressions += 1
                of_the_cluster += any(prefix in target["expr"] for prefix in OF_THE_CLUSTER)
                if not prometheus.ask(fill(target["expr"], here)):
                    wrong.append(f"{file.name}: {panel['title']}: no data: {target['expr']}")
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = label_values(fill(variable["query"]["query"], {**values, "instance": plain}))
                if not prometheus.get(f"label/{label}/values", {"match[]": selector}):
                    wrong.append(f"{file.name}: variable {variable['name']} has no values")
        print(
            f"{file.name}: {len(panels)} panels, {in_detail} of them for {DETAIL}; {expressions} expressions asked, "
            f"{of_the_cluster} of them of a stand-in for kubelet and kube-state-metrics"
        )
    return wrong


def alerts_of(prometheus):
    """Pending and firing alerts: name, instance and state."""
    return {
        (alert["labels"]["alertname"], alert["labels"].get("instance", ""), alert["state"])
        for alert in prometheus.get("alerts")["alerts"]
    }


def noticed(prometheus, alert):
    deadline = time.monotonic() + NOTICED
    while time.monotonic() < deadline:
        if alert in alerts_of(prometheus):
            return []
        time.sleep(0.3)
    return [f"{alert[0]} of {alert[1]} was not {alert[2]} within {NOTICED} s"]


def try_alerts(prometheus, keyhole, instance):
    """The alerts with a live Keyhole: quiet while all is well, then two that its faults must raise; what is wrong."""
    deadline = time.monotonic() + NOTICED
    # A scrape that a busy machine let time out makes one pending until the next.
    while (found := alerts_of(prometheus)) and time.monotonic() < deadline:
        time.sleep(0.3)
    wrong = [f"{name} of {where} is {state} while all is well" for name, where, state in sorted(found)]
    tried = []
    if os.geteuid() == 0:
        # The group lets it reach the socket; its uid is what the broker refuses.
        probe = [keyhole.home / "keyhole-broker", "probe", f"--socket.path={keyhole.socket}"]
        result = subprocess.run(probe, user=STRANGER, group=BROKER_UID, extra_groups=[], timeout=20, cwd="/", capture_output=True)
        if result.returncode == 0:
            wrong.append("the broker answered a stranger")
        tried.append(("KeyholePeerRefused", instance, "firing"))
        wrong += noticed(prometheus, tried[-1])
    elif os.environ.get("KEYHOLE_REQUIRE_ROOT") == "1":
        fail("not root: a stranger cannot connect, and KEYHOLE_REQUIRE_ROOT=1")
    else:
        print("not root: KeyholePeerRefused was not tried")
    # The exporter answers 503 from now on. Five minutes must pass before it fires.
    stop(keyhole.broker)
    tried.append(("KeyholeDown", instance, "pending"))
    wrong += noticed(prometheus, tried[-1])
    extra = alerts_of(prometheus) - set(tried)
    wrong += [f"{name} of {where} is {state}, and nothing gave it cause" for name, where, state in sorted(extra)]
    print(f"alerts: {'not ' if found else ''}quiet while all was well, then " + ", ".join(f"{name} {state}" for name, _, state in tried))
    return wrong
