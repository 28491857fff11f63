"""Installs the Helm chart on a real API server, as docs and the chart's own messages say, and the rendered files.

Its errors are followed as a user would: each that names a command is answered with that command.
"""
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import yaml

import kustomize
from api import Refused, wait_for
from world import NAMESPACE, PODS, foreign_pod, quietly, with_claim

CHART = kustomize.REPOSITORY / "deploy/helm/keyhole"
RENDER = kustomize.KUBERNETES / "render"
# Cluster-wide kinds of which the chart has objects, and those it must leave alone.
CLUSTER_WIDE = [
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "/api/v1/namespaces", "/api/v1/persistentvolumes", "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "/apis/scheduling.k8s.io/v1/priorityclasses",
]
POLICIES = "keyhole-policies"
# Seconds, as the chart has them: younger policies may not be in force.
POLICIES_AGE = 5


class Helm:
    """helm with a configuration of its own, against a cluster."""

    def __init__(self, program, cluster, directory):
        self.program, self.cluster = program, cluster
        self.home = tempfile.mkdtemp(dir=directory)

    def run(self, *arguments, check=True, values=None):
        environment = {"PATH": os.environ["PATH"], "HOME": self.home, "KUBECONFIG": self.cluster.kubeconfig}
        command = [self.program, *arguments]
        if values is not None:
            command += ["--values", "-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment,
                              input=None if values is None else yaml.safe_dump(values))
        if check and done.returncode != 0:
            raise AssertionError(f"helm {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done

    def policies(self, values, **more):
        return self.run("upgrade", "--install", POLICIES, CHART, "--namespace", "kube-system", "--set", "component=policies",
                        values=values, **more)

    def exporter(self, values, *arguments, namespace=NAMESPACE, **more):
        return self.run("upgrade", "--install", "keyhole", CHART, "--namespace", namespace, *arguments, values=values, **more)

    def exporter_once_allowed(self, values, **more):
        """Installs it, again while it is refused because the policies are young."""
        def allowed():
            done = self.exporter(values, check=False, **more)
            assert done.returncode == 0 or "takes a moment to be in force" in done.stderr, done.stderr
            return done if done.returncode == 0 else None
        return wait_for("the policies are old enough", allowed, 30)

    def uninstall(self, name, namespace):
        return self.run("uninstall", name, "--namespace", namespace, "--wait", "--timeout", "90s")

    def uninstall_both(self, namespace=NAMESPACE):
        """The exporter first, so that the policies outlive what they protect."""
        self.uninstall("keyhole", namespace)
        self.uninstall(POLICIES, "kube-system")


def delete_namespace(admin, name=NAMESPACE):
    """Deletes it with what is in it, if it is there, and waits until it is gone."""
    quietly(admin.delete, f"/api/v1/namespaces/{name}")
    wait_for("the namespace is gone", lambda: not admin.exists(f"/api/v1/namespaces/{name}"))


def cluster_wide(admin):
    return {path: {each["metadata"]["name"] for each in admin.get(path)["items"]} for path in CLUSTER_WIDE}


def left_in_the_namespace(cluster, namespace=NAMESPACE):
    done = cluster.kubectl("--namespace", namespace, "get", "daemonsets,services,serviceaccounts,persistentvolumeclaims,networkpolicies,"
                           "configmaps,secrets,podmonitors,servicemonitors,prometheusrules", "--output", "name")
    return {name for name in done.stdout.split() if name not in ("serviceaccount/default", "configmap/kube-root-ca.crt")}


def arguments_of(admin, container="containers"):
    spec = admin.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/keyhole")["spec"]["template"]["spec"]
    return spec[container][0]["args"]


def without_policies_nothing_is_installed(helm, admin):
    done = helm.exporter({}, "--create-namespace", check=False)
    try:
        assert done.returncode != 0 and "The admission policy keyhole-claims is missing" in done.stderr, done.stderr
        # What it says to do first.
        assert "helm upgrade --install keyhole-policies CHART --namespace kube-system" in done.stderr, done.stderr
        assert not admin.exists(f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/keyhole")
    finally:
        delete_namespace(admin)


def young_policies_are_refused(helm, admin):
    """Right after the policies, the exporter is refused: they may not be in force. A few seconds later it is let in, and they are."""
    begun = time.monotonic()
    helm.policies({})
    done = helm.exporter({}, check=False)
    if time.monotonic() - begun < POLICIES_AGE:
        assert done.returncode != 0 and "takes a moment to be in force" in done.stderr, done.stderr
    helm.exporter_once_allowed({})
    try:
        admin.create(PODS, with_claim(foreign_pod("evil"), "keyhole-proc"), dryRun="All")
    except Refused as error:
        assert "daemonset-only:" in error.message, error
    else:
        raise AssertionError("a foreign pod mounts the host's /proc")


def the_notes_have_the_check(helm, cluster):
    """The command of the policies' notes is refused once they are in force."""
    notes = helm.run("get", "notes", POLICIES, "--namespace", "kube-system").stdout
    (line,) = re.findall(r"^  kubectl (label --dry-run=server .*)$", notes, re.MULTILINE)
    done = cluster.kubectl(*line.split(), check=False)
    assert done.returncode != 0 and "pod-security-level" in done.stderr, (line, done.stdout, done.stderr)


def upgraded_and_rolled_back(helm, admin, ready):
    revision = helm.run("list", "--namespace", NAMESPACE, "--output", "json").stdout
    (first,) = re.findall(r'"revision":"(\d+)"', revision)
    values = {"extraArgs": ["--collector.tcpstat", "--collector.processes"], "prometheus": {"podMonitor": {"enabled": True}},
              "networkPolicy": {"enabled": True}, "podLabels": {"team": "a"}}
    helm.exporter(values)
    ready(admin)
    assert arguments_of(admin, "initContainers")[0] == "--queries=default,+process_limits,+processes,+tcp,+threads"
    assert "--allow-processes" in arguments_of(admin, "initContainers")
    assert admin.exists(f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors/keyhole")
    helm.run("rollback", "keyhole", first, "--namespace", NAMESPACE)
    ready(admin)
    assert arguments_of(admin, "initContainers")[0] == "--queries=default"
    assert not admin.exists(f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors/keyhole")


def nothing_to_change_the_second_time(helm, admin):
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/keyhole"
    before = admin.get(path)["metadata"]["generation"]
    helm.exporter({})
    assert admin.get(path)["metadata"]["generation"] == before


def the_test_pod_is_admitted(helm, admin):
    """Nothing runs on these nodes: the pod of `helm test` is made, and the kubelet's part is tests/cluster/pods.py's."""
    done = helm.run("test", "keyhole", "--namespace", NAMESPACE, "--timeout", "5s", check=False)
    assert done.returncode != 0 and "forbidden" not in done.stderr and "denied" not in done.stderr, done.stderr
    pod = admin.get(f"{PODS}/keyhole-test")
    assert pod["status"]["phase"] in ("Pending", "Running"), pod["status"]
    admin.delete(f"{PODS}/keyhole-test")


def uninstalled(helm, cluster, before, ready):
    """The exporter first: nothing of it is left, and it can be installed again. Then the policies: all but the namespace is as before."""
    admin = cluster.client()
    for _ in range(2):
        helm.uninstall("keyhole", NAMESPACE)
        assert left_in_the_namespace(cluster) == set(), left_in_the_namespace(cluster)
        assert not admin.get("/api/v1/persistentvolumes")["items"]
        helm.exporter_once_allowed({})
        ready(admin)
    helm.uninstall_both()
    after = cluster_wide(admin)
    assert after["/api/v1/namespaces"] == before["/api/v1/namespaces"] | {NAMESPACE}, after["/api/v1/namespaces"]
    delete_namespace(admin)
    assert cluster_wide(admin) == before


def policies_that_do_not_hold_are_refused(helm, cluster, ready):
    """Present, but changed by somebody so that they refuse nothing: the exporter is not installed, and the commands that it names restore them."""
    admin = cluster.client()
    helm.policies({})
    helm.exporter_once_allowed({})
    for kind, name, patch, words in (
        ("binding", "keyhole-claims", {"validationActions": ["Warn"]}, "validationActions"),
        ("binding", "keyhole-claims", {"policyName": "keyhole-service"}, "policyName"),
        ("binding", "keyhole-guard", {"matchResources": {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}},
         "matchResources"),
        ("binding", "keyhole-label", {"matchResources": {"objectSelector": {"matchLabels": {"a": "b"}}}}, "matchResources"),
        ("", "keyhole-claims", {"failurePolicy": "Ignore"}, "failurePolicy"),
        ("", "keyhole-service", {"validations": [{"expression": "true"}]}, "validations"),
        ("", "keyhole-binding", {"matchConditions": [{"name": "never", "expression": "false"}]}, "matchConditions"),
    ):
        cluster.kubectl("patch", f"validatingadmissionpolicy{kind}", name, "--type=merge", "--patch", json.dumps({"spec": patch}))
        done = helm.exporter({}, check=False)
        assert done.returncode != 0 and f"it differs in its {words}" in done.stderr and name in done.stderr, (patch, done.stderr)
        (line,) = re.findall(r"^  kubectl (delete .*)$", done.stderr, re.MULTILINE)
        cluster.kubectl(*line.split())
        (line,) = re.findall(r"^  helm (upgrade --install .*)$", done.stderr, re.MULTILINE)
        helm.run(*line.replace("CHART", str(CHART)).split())
        spec = admin.get(f"{CLUSTER_WIDE[1] if kind else CLUSTER_WIDE[0]}/{name}")["spec"]
        assert all(spec.get(key) != value for key, value in patch.items()), (patch, spec)
    cluster.kubectl("delete", "validatingadmissionpolicybindings", "keyhole-namespace")
    done = helm.exporter({}, check=False)
    assert done.returncode != 0 and "keyhole-namespace is missing" in done.stderr, done.stderr
    helm.policies({})
    # A rule more is no rule less.
    rules = admin.get(f"{CLUSTER_WIDE[0]}/keyhole-service")["spec"]["validations"]
    cluster.kubectl("patch", "validatingadmissionpolicy", "keyhole-service", "--type=merge", "--patch",
                    json.dumps({"spec": {"validations": [*rules, {"expression": "object.metadata.name != 'x'"}]}}))
    helm.exporter_once_allowed({})
    cluster.kubectl("delete", "validatingadmissionpolicy", "keyhole-service")
    helm.policies({})
    helm.exporter_once_allowed({})
    # The namespace's other label.
    done = helm.exporter({"root": True}, check=False)
    assert done.returncode != 0 and "no label pod-security.kubernetes.io/enforce=baseline" in done.stderr, done.stderr
    helm.policies({"root": True})
    helm.exporter_once_allowed({"root": True})
    helm.exporter({})
    ready(admin)


def wrong_orders_are_refused(helm, cluster, ready):
    """In the place of the test before it: an exporter and its policies are installed."""
    admin = cluster.client()

    def refused(done, *words):
        assert done.returncode != 0 and all(word in done.stderr for word in words), (words, done.stderr)
        return done.stderr
    # The policies of mounted directories are not exchanged for others.
    refused(helm.policies({"access": "minimal"}, check=False), "`access: restricted-pv`", "Upgrade the exporter to `minimal` first")
    refused(helm.policies({"access": "privileged-hostpath"}, check=False), f"helm uninstall keyhole --namespace {NAMESPACE}")
    assert admin.exists(f"{CLUSTER_WIDE[0]}/keyhole-claims")
    # A second one, whose volumes are the same.
    other = {"namespaceOverride": "keyhole-two"}
    cluster.kubectl("create", "namespace", "keyhole-two")
    cluster.kubectl("label", "namespace", "keyhole-two", "keyhole/access=restricted-pv", "pod-security.kubernetes.io/enforce=restricted")
    refused(helm.exporter(other, namespace="keyhole-two", check=False), f"keyhole-proc belongs to the namespace {NAMESPACE}")
    cluster.kubectl("delete", "namespace", "keyhole-two")
    refused(helm.exporter({}, namespace="default", check=False), "add --namespace keyhole")
    # Without policies no upgrade: the exporter runs, and its own is refused until they are back.
    helm.uninstall(POLICIES, "kube-system")
    refused(helm.exporter({}, check=False), "keyhole-claims is missing")
    # Those of the kustomization are as good.
    built = cluster.kubectl("kustomize", kustomize.KUBERNETES / "policies/restricted-pv").stdout
    file = pathlib.Path(helm.home, "policies.yaml")
    file.write_text(built)
    cluster.kubectl("apply", "--filename", file)
    helm.exporter_once_allowed({})
    # Helm does not adopt what is not its own, and says so.
    refused(helm.policies({}, check=False), "invalid ownership metadata")
    cluster.kubectl("delete", "--filename", file)
    helm.policies({})
    # From restricted-pv to minimal, the exporter first, and back.
    helm.exporter({"access": "minimal"})
    helm.policies({"access": "minimal"})
    assert not admin.exists(f"{CLUSTER_WIDE[0]}/keyhole-claims")
    helm.policies({})
    helm.exporter_once_allowed({})
    ready(admin)
    # Again right after an uninstall that did not wait.
    helm.run("uninstall", "keyhole", "--namespace", NAMESPACE)

    def installed():
        done = helm.exporter({}, check=False)
        assert done.returncode == 0 or "is being deleted" in done.stderr, done.stderr
        return done.returncode == 0
    wait_for("the former pods have ended", installed, 60)
    ready(admin)
    # The namespace is deleted before the release: the volumes are left behind, and the chart says which to delete.
    delete_namespace(admin)
    helm.policies({})
    for _ in ("keyhole-proc", "keyhole-sys"):
        text = refused(helm.exporter({}, check=False), "still belongs to a claim that was deleted")
        (line,) = re.findall(r"^  kubectl (delete .*)$", text, re.MULTILINE)
        cluster.kubectl(*line.split())
    helm.exporter_once_allowed({})
    ready(admin)
    helm.uninstall_both()
    delete_namespace(admin)


def hostpath_follows_its_images(helm, cluster, ready):
    """A new image: refused until the policies have it, and a rollback needs the policies' as well."""
    admin = cluster.client()
    old, new = ({"access": "privileged-hostpath", "image": {"registry": "registry.example", "tag": tag}} for tag in ("1", "2"))
    helm.policies(old)
    helm.exporter_once_allowed(old)
    ready(admin)

    def refused(action, words="images: the containers' images"):
        done = action(check=False)
        assert done.returncode != 0 and words in done.stderr, done.stderr

    def in_force(action):
        def done():
            return action(check=False).returncode == 0
        wait_for("the changed policy is in force", done, 30)
    refused(lambda check: helm.exporter(new, check=check), "keyhole-pod-shape is not this chart's with these values: it differs in its variables")
    helm.policies(new)
    # Changed policies take a moment as well.
    refused(lambda check: helm.exporter(new, check=check), "takes a moment to be in force")
    in_force(lambda check: helm.exporter(new, check=check))
    ready(admin)
    history = helm.run("history", "keyhole", "--namespace", NAMESPACE, "--output", "json").stdout
    first = re.findall(r'"revision":(\d+)', history)[0]
    refused(lambda check: helm.run("rollback", "keyhole", first, "--namespace", NAMESPACE, check=check))
    helm.run("rollback", POLICIES, "1", "--namespace", "kube-system")
    in_force(lambda check: helm.run("rollback", "keyhole", first, "--namespace", NAMESPACE, check=check))
    ready(admin)
    helm.uninstall_both()
    delete_namespace(admin)


def a_namespace_of_ones_own(helm, cluster, ready):
    """It lacks the labels: the chart prints a command that sets them, and then it works."""
    admin = cluster.client()
    admin.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    helm.policies({"namespace": {"create": False}})

    def refusal():
        done = helm.exporter({}, check=False)
        return done.stderr if "has no label keyhole/access" in done.stderr else None
    text = wait_for("the label is missed", refusal, 30)
    (line,) = re.findall(r"^  kubectl (label .*)$", text, re.MULTILINE)
    cluster.kubectl(*line.split())
    helm.exporter_once_allowed({})
    ready(admin)
    helm.uninstall_both()
    assert admin.exists(f"/api/v1/namespaces/{NAMESPACE}"), "the namespace was the user's"
    delete_namespace(admin)


def in_the_namespace_of_another_release(helm, cluster, ready):
    """With namespaceOverride the release's record is elsewhere, as with a chart that has this one as a dependency."""
    admin = cluster.client()
    values = {"namespaceOverride": "keyhole-moved"}
    quietly(admin.create, "/api/v1/namespaces", {"metadata": {"name": "monitoring"}})
    helm.policies(values)
    helm.exporter_once_allowed(values, namespace="monitoring")
    ready(admin, "keyhole-moved")
    assert not admin.exists(f"/api/v1/namespaces/{NAMESPACE}")
    helm.uninstall_both("monitoring")
    delete_namespace(admin, "keyhole-moved")


def minimal_needs_no_policies(helm, cluster, ready):
    admin = cluster.client()
    helm.exporter({"access": "minimal"}, "--create-namespace")
    ready(admin)
    helm.uninstall("keyhole", NAMESPACE)
    assert left_in_the_namespace(cluster) == set(), left_in_the_namespace(cluster)
    delete_namespace(admin)


def rendered_file(cluster, directory, overlay, ready):
    """The commands at the head of a rendered file, run as they are."""
    admin = cluster.client()
    environment = {**os.environ, "KUBECTL": cluster.program, "KUBECONFIG": cluster.kubeconfig}
    text = subprocess.run([RENDER, overlay, "registry.example/keyhole", "network-policy"], capture_output=True, text=True, check=True,
                          env=environment, timeout=60).stdout
    file = pathlib.Path(directory, f"{overlay}.yaml")
    file.write_text(text)
    head = "\n".join(line[4:] for line in text.splitlines() if line.startswith("#   "))
    programs = pathlib.Path(cluster.program).resolve().parent
    environment["PATH"] = f"{programs}:{environment['PATH']}"

    def run(command, check=True):
        done = subprocess.run(["bash", "-euc", command.replace("FILE", str(file))], capture_output=True, text=True, timeout=120,
                              env=environment)
        assert not check or done.returncode == 0, (command, done.stderr)
        return done
    first, rest = head.split("\n", 1)
    question, last = rest.rsplit("\n", 1)
    run(first)
    wait_for("the policies are in force", lambda: "pod-security-level" in run(question, check=False).stderr, 30)
    run(last)
    ready(admin)
    (removal,) = re.findall(r"To remove it: (.*)", text)
    run(removal)
    assert not admin.exists(f"/api/v1/namespaces/{NAMESPACE}")


# Left out of a brief run, since they take two minutes.
LONG = {"policies that do not hold are refused", "wrong orders are refused"}


def check(results, cluster, program, directory, ready, brief):
    """All of it. `ready` waits until each node has its pod."""
    helm, admin = Helm(program, cluster, directory), cluster.client()
    before = cluster_wide(admin)
    for title, action, *arguments in (
        ("without policies nothing is installed", without_policies_nothing_is_installed, admin),
        ("the exporter waits for the policies", young_policies_are_refused, admin),
        ("the notes' check shows the policies in force", the_notes_have_the_check, cluster),
        ("an upgrade is rolled back", upgraded_and_rolled_back, admin, ready),
        ("the second time nothing changes", nothing_to_change_the_second_time, admin),
        ("the pod of helm test is admitted", the_test_pod_is_admitted, admin),
        ("uninstalled, nothing else changed", uninstalled, cluster, before, ready),
        ("policies that do not hold are refused", policies_that_do_not_hold_are_refused, cluster, ready),
        ("wrong orders are refused", wrong_orders_are_refused, cluster, ready),
        ("privileged-hostpath follows its images", hostpath_follows_its_images, cluster, ready),
        ("a namespace of one's own is labelled", a_namespace_of_ones_own, cluster, ready),
        ("namespaceOverride moves everything", in_the_namespace_of_another_release, cluster, ready),
        ("minimal needs no policies", minimal_needs_no_policies, cluster, ready),
    ):
        if not (brief and title in LONG):
            results.check(f"helm: {title}", action, helm, *arguments)
    for overlay in ("restricted-pv", "privileged-hostpath"):
        results.check(f"rendered file: {overlay}", rendered_file, cluster, directory, overlay, ready)
