"""deploy/monitoring/kubernetes-scrape.yaml beside the components that do the same by the operator.

tests/cluster has a real Prometheus discover pods by it. Debian's knows no Kubernetes, so its promtool is given everything
else of the file.
"""
import pathlib
import re
import subprocess
import tempfile

import yaml

from kustomize import REPOSITORY, containers, one, pod_of, with_components

CONFIGURATION = REPOSITORY / "deploy/monitoring/kubernetes-scrape.yaml"
ROLE = REPOSITORY / "deploy/monitoring/kubernetes-scrape-role.yaml"
# What the lines for the component web-config begin with.
OPTIONAL = re.compile(r"^    # (?=(?:scheme|tls_config|basic_auth): )", re.MULTILINE)


def entry(text=None):
    """The one scrape configuration of the file."""
    (found,) = yaml.safe_load(text or CONFIGURATION.read_text())["scrape_configs"]
    return found


def with_web_config():
    """The file's text with its lines for the component web-config in force."""
    text, count = OPTIONAL.subn("    ", CONFIGURATION.read_text())
    assert count == 3, f"{count} lines for web-config"
    return text


def rules(found):
    """The labels that relabeling sets: from which labels, or to what."""
    return {rule["target_label"]: rule.get("replacement") or rule["source_labels"]
            for rule in found["relabel_configs"] if "target_label" in rule}


def it_finds_what_the_pod_monitor_finds(kubectl):
    """The same pods and port, and the job that the monitor takes from a label of the pods."""
    things = with_components(kubectl, "restricted-pv", ["pod-monitor", "node-name"])
    monitor, pod = one(things, "PodMonitor"), pod_of(things)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    found = entry()
    (discovery,) = found["kubernetes_sd_configs"]
    assert discovery["role"] == "pod" and discovery["namespaces"] == {"names": [monitor["metadata"]["namespace"]]}
    (selector,) = discovery["selectors"]
    assert selector["role"] == "pod"
    assert dict(pair.split("=") for pair in selector["label"].split(",")) == monitor["spec"]["selector"]["matchLabels"]
    kept = [rule["regex"] for rule in found["relabel_configs"]
            if rule.get("action") == "keep" and rule["source_labels"] == ["__meta_kubernetes_pod_container_port_name"]]
    assert kept == [endpoint["port"]], kept
    assert endpoint["port"] in {port["name"] for each in containers(pod) for port in each.get("ports", [])}
    job = pod["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    (by_name,) = [rule["sourceLabels"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "instance"]
    # What the operator sets for every PodMonitor besides.
    assert rules(found) == {
        "job": job, "instance": by_name, "namespace": ["__meta_kubernetes_namespace"],
        "pod": ["__meta_kubernetes_pod_name"], "container": ["__meta_kubernetes_pod_container_name"],
        "endpoint": ["__meta_kubernetes_pod_container_port_name"]}, rules(found)


def the_trials_job_is_that_of_the_component(kubectl):
    """The comment names the job that the component `trial` sets."""
    things = with_components(kubectl, "restricted-pv", ["pod-monitor", "trial"])
    (endpoint,) = one(things, "PodMonitor")["spec"]["podMetricsEndpoints"]
    (trial,) = [rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"]
    assert f" write {trial}:" in CONFIGURATION.read_text(), trial


def promtool_takes_it(text):
    """All but the discovery, which Debian's Prometheus is built without."""
    configuration = yaml.safe_load(text)
    del configuration["scrape_configs"][0]["kubernetes_sd_configs"]
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "prometheus.yml"
        path.write_text(yaml.safe_dump(configuration))
        done = subprocess.run(["promtool", "check", "config", "--syntax-only", path],
                              capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def both_forms_are_valid(_):
    plain, secured = CONFIGURATION.read_text(), with_web_config()
    for text in (plain, secured):
        promtool_takes_it(text)
    found = entry(secured)
    assert found["scheme"] == "https" and found["tls_config"]["server_name"] and found["basic_auth"]["password_file"]
    try:
        promtool_takes_it(plain.replace("action: keep", "action: keeps"))
    except AssertionError:
        return
    raise AssertionError("promtool takes an action that does not exist")


def the_role_is_for_the_pods_of_the_namespace_alone(_):
    role, binding = yaml.safe_load_all(ROLE.read_text())
    (namespace,) = entry()["kubernetes_sd_configs"][0]["namespaces"]["names"]
    assert role["kind"] == "Role" and role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}], role
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]}
    assert {thing["metadata"]["namespace"] for thing in (role, binding)} == {namespace}


CHECKS = [it_finds_what_the_pod_monitor_finds, the_trials_job_is_that_of_the_component, both_forms_are_valid,
          the_role_is_for_the_pods_of_the_namespace_alone]
