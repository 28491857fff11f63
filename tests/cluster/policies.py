#!/usr/bin/env python3
"""Tries deploy/kubernetes on a real API server: what is let in, what is refused, and by which rule.

usage: policies.py --kubectl PATH [--programs DIR | --kubeconfig FILE] [--only WORD] [--brief]

With --programs it starts a control plane of its own, with nodes that run nothing. With --kubeconfig it uses that cluster,
as a cluster admin who may impersonate; the namespaces keyhole and keyhole-moved there are its own. --brief applies each
overlay alone and with all of its components, and leaves out those with one component.
"""
import argparse
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "deploy"))

import admission  # noqa: E402
import helm  # noqa: E402
import kustomize  # noqa: E402
import mutations  # noqa: E402
import scrape  # noqa: E402
from api import Cluster, Refused, wait_for  # noqa: E402
from attempts import FORBIDDEN, POD_SECURITY, RESTRICTED, Try, adoption_takes_less  # noqa: E402
from control_plane import control_plane  # noqa: E402
from results import Results  # noqa: E402
from world import (  # noqa: E402
    DAEMON_SETS, NAMESPACE, PODS, Nodes, foreign_pod, grant, grant_in_the_cluster, quietly, with_claim, workload)

NODES = ["node-1", "node-2"]
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
IS_POLICY = "app.kubernetes.io/component=admission-policy"
# Kinds of the Prometheus operator that the components have: without their definitions nothing of the kind is accepted.
OPERATOR = {"podmonitors": "PodMonitor", "servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"}
# Seconds after which a policy that was applied must be in force.
IN_FORCE = 30


class Site:
    """A kustomization of one's own, applied as the README says."""

    def __init__(self, cluster, directory, overlay, components=(), **fields):
        self.cluster, self.directory = cluster, tempfile.mkdtemp(dir=directory)
        kustomize.write_site(self.directory, overlay, components, **fields)
        self.things = kustomize.kustomize(cluster.program, self.directory)

    def install(self):
        self.apply_policies()
        self.apply()

    def apply_policies(self):
        """The first step of an installation, and the wait until the policies are in force."""
        names = {thing["metadata"]["name"] for thing in kustomize.objects(self.things, "ValidatingAdmissionPolicy")}
        if names:
            self.apply("--selector", IS_POLICY)
        if "keyhole-namespace" in names:
            wait_until_in_force(self.cluster)

    def apply(self, *arguments):
        return self.cluster.kubectl("apply", "--kustomize", self.directory, *arguments)

    def remove(self, namespace=NAMESPACE):
        """As the README says: the namespace first, so that the policies outlive the claims."""
        self.cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=60s")
        self.cluster.kubectl("delete", "--kustomize", self.directory, "--ignore-not-found", "--timeout=60s")


def wait_until_in_force(cluster):
    refused = kustomize.KUBERNETES / "policies/refused.yaml"

    def denied():
        done = cluster.kubectl("create", "--dry-run=server", "--filename", refused, check=False)
        return "pod-security-level" in done.stderr
    wait_for("the policies are in force", denied, IN_FORCE)


def define_the_operators_kinds(admin):
    for plural, kind in OPERATOR.items():
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        quietly(admin.create, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
            "metadata": {"name": f"{plural}.monitoring.coreos.com"},
            "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
                     "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                     "versions": [{"name": "v1", "served": True, "storage": True,
                                   "schema": {"openAPIV3Schema": schema}}]}})
    wait_for("the operator's kinds are served", lambda: all(
        admin.exists(f"/apis/monitoring.coreos.com/v1/{plural}") for plural in OPERATOR))


def ready(admin, namespace=NAMESPACE, nodes=len(NODES)):
    """Waits until each node has its pod, of the DaemonSet's newest template."""
    path = DAEMON_SETS.replace(NAMESPACE, namespace) + "/keyhole"

    def counted():
        thing = admin.get(path)
        status = thing["status"]
        pods = admin.get(PODS.replace(NAMESPACE, namespace), labelSelector="app.kubernetes.io/name=keyhole")["items"]
        return (status.get("observedGeneration") == thing["metadata"]["generation"]
                and status.get("updatedNumberScheduled") == status.get("numberReady") == nodes == len(pods)
                and not any("deletionTimestamp" in pod["metadata"] for pod in pods))
    wait_for("each node has its pod", counted, 240)


def applied_twice(site):
    """Nothing is said but what was done, and the second time nothing is done."""
    for attempt in (1, 2):
        done = site.apply()
        # The pods of the set before may be those of a broker with uid 0, until they are replaced.
        of_former_pods = attempt == 1 and "existing pods in namespace" in done.stderr
        assert of_former_pods or not done.stderr.strip(), done.stderr
    changed = [line for line in done.stdout.splitlines() if not line.endswith(" unchanged")]
    assert not changed, changed


def server_side_after_client_side(site):
    for _ in range(2):
        done = site.apply("--server-side")
        assert not done.stderr.strip(), done.stderr


def type_checked(admin):
    """The API server found every policy's expressions to fit the types of what they look at."""
    def found():
        statuses = {each["metadata"]["name"]: each.get("status", {}) for each in admin.get(POLICIES)["items"]
                    if each["metadata"]["name"].startswith("keyhole")}
        assert statuses
        if all("typeChecking" in status for status in statuses.values()):
            return statuses
        return None
    for name, status in wait_for("the policies are type-checked", found).items():
        assert not status["typeChecking"].get("expressionWarnings"), (name, status["typeChecking"])


def no_pod_security_warning(cluster, namespace=NAMESPACE):
    """The label is set again as a dry run: the API server warns of each pod that the level would refuse."""
    level = cluster.client().get(f"/api/v1/namespaces/{namespace}")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    done = cluster.kubectl("label", "--dry-run=server", "--overwrite", "namespace", namespace,
                           f"pod-security.kubernetes.io/enforce={level}")
    assert "violate" not in done.stderr, done.stderr


def refused(cluster, row):
    """The attempt is refused by the rule that the row names; where Pod Security is as good, it says so."""
    title, user, rule, attempt = row
    groups = ("system:nodes", "system:authenticated") if user and user.startswith("system:node:") else (
        ("system:authenticated",) if user else ())
    quietly(cluster.client().delete, f"{PODS}/foreign")
    try:
        attempt(Try(cluster, user, groups))
    except Refused as error:
        marker = rule if rule in (POD_SECURITY, FORBIDDEN) else f"{rule}:"
        assert marker in error.message, f"{marker} is not in: {error}"
        return
    finally:
        quietly(cluster.client().delete, f"{PODS}/foreign")
    raise AssertionError("let through")


# The API server makes a field of the annotation before it asks the policies.
ALSO = {"AppArmor off by annotation": "privileges"}


def assert_refused_by(error, rules, title):
    """The API server names one of the rules that refuse; which of several is its choice."""
    named = re.search(r"denied request: ([a-z-]+):", error.message)
    if named:
        assert named[1] in [*rules, ALSO.get(title)], f"{title}: {named[1]} is none of {rules}"
    else:
        assert POD_SECURITY in error.message, str(error)


def mutated_pod(cluster, policy, pod, row):
    """A pod that is one change away from the good one, on the account of the DaemonSet controller."""
    title, rule, change = row
    case = mutations.create(pod)
    change(case)
    rules, errors, _ = policy.review(case["request"], case["pod"], case["old"])
    assert rule in rules and not errors, (rules, errors)
    user = case["request"]["userInfo"]["username"]
    if user == "alice":
        user = "pod-maker"
    client = cluster.client(user, ("system:serviceaccounts", "system:authenticated"))
    uid = cluster.client().get(f"{DAEMON_SETS}/keyhole")["metadata"]["uid"]
    for owner in case["pod"]["metadata"].get("ownerReferences", []):
        owner["uid"] = uid
    try:
        client.create(PODS, case["pod"], dryRun="All")
    except Refused as error:
        assert_refused_by(error, rules, title)
        return
    raise AssertionError("let through")


def mutated_template(cluster, policy, row):
    """The same change in the DaemonSet's template, by one who may change it: refused as it is applied."""
    title, rule, change = row
    thing, request = mutations.in_the_template(cluster.client().get(f"{DAEMON_SETS}/keyhole"), change)
    rules, errors, _ = policy.review(request, thing, thing)
    assert rule in rules and not errors, (rules, errors)
    try:
        cluster.client("host-granter", ("system:authenticated",)).replace(
            f"{DAEMON_SETS}/keyhole", thing, dryRun="All")
    except Refused as error:
        assert_refused_by(error, rules, title)
        return
    raise AssertionError("let through")


class Race(threading.Thread):
    """A user who makes pods that mount the host, as fast as they can."""

    def __init__(self, cluster, make):
        super().__init__(daemon=True)
        self.client = cluster.client("pod-maker", ("system:authenticated",))
        self.make = make
        self.stopped, self.refusals, self.made, self.failure = threading.Event(), 0, [], None

    def run(self):
        number = 0
        while not self.stopped.is_set():
            number += 1
            try:
                self.client.create(PODS, self.make(f"racer-{number}"))
                self.made.append(f"racer-{number}")
            except Refused:
                self.refusals += 1
            except OSError as error:
                self.failure = error
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join(60)


def host_pod(name):
    """A privileged pod with the host's root, which `privileged-hostpath` alone lets Pod Security admit."""
    return {"metadata": {"name": name}, "spec": {
        "hostPID": True, "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
        "containers": [{"name": "main", "image": "registry.example/evil:1", "securityContext": {"privileged": True},
                        "volumeMounts": [{"name": "h", "mountPath": "/h"}]}]}}


def claiming_pod(name):
    return with_claim(foreign_pod(name), "keyhole-proc")


def wins_the_race(cluster, site, make):
    """While a pod maker tries from before the namespace exists until Keyhole's pods run, none gets in."""
    admin = cluster.client()
    with Race(cluster, make) as race:
        wait_for("the race has begun", lambda: race.refusals > 3)
        site.install()
        ready(admin)
        before = race.refusals
        wait_for("the race goes on", lambda: race.refusals > before + 20)
    assert race.failure is None, race.failure
    assert not race.made, f"{len(race.made)} pods got in: {race.made[:5]}"
    foreign = [each["metadata"]["name"] for each in admin.get(PODS)["items"]
               if not each["metadata"]["name"].startswith("keyhole-")]
    assert not foreign, foreign
    return race.refusals


def foreign_pods_are_found(cluster, kubectl_line):
    """The README's check lists a foreign pod, and none of Keyhole's."""
    admin = cluster.client()
    assert kubectl_line(cluster) == ""
    admin.create(PODS, foreign_pod())
    try:
        assert kubectl_line(cluster).split() == ["foreign", "<none>"], kubectl_line(cluster)
    finally:
        admin.delete(f"{PODS}/foreign")
        wait_for("the foreign pod is gone", lambda: not admin.exists(f"{PODS}/foreign"))


# What people do with a running installation, each by one who may: it is let through.

def rollout_restart(cluster):
    cluster.kubectl("--namespace", NAMESPACE, "rollout", "restart", "daemonset/keyhole", user="host-granter")
    ready(cluster.client())


def new_image(cluster):
    """An upgrade on restricted-pv, where the policy names no image."""
    cluster.kubectl("--namespace", NAMESPACE, "set", "image", "daemonset/keyhole",
                    "exporter=registry.example/keyhole-exporter:next", user="host-granter")
    ready(cluster.client())


def rollout_undo(cluster):
    cluster.kubectl("--namespace", NAMESPACE, "rollout", "undo", "daemonset/keyhole", user="host-granter")
    ready(cluster.client())


def real_pod(cluster):
    pods = cluster.client().get(PODS, labelSelector="app.kubernetes.io/name=keyhole")["items"]
    return next(pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"])


def annotate_pod(cluster):
    cluster.kubectl("--namespace", NAMESPACE, "annotate", "--overwrite", "pod", real_pod(cluster), "a=b", user="pod-maker")


def label_pod(cluster):
    cluster.kubectl("--namespace", NAMESPACE, "label", "--overwrite", "pod", real_pod(cluster), "a=b", user="pod-maker")


def annotate_daemon_set(cluster):
    cluster.kubectl("--namespace", NAMESPACE, "annotate", "--overwrite", "daemonset", "keyhole", "a=b", user="editor")


def delete_pod(cluster):
    cluster.kubectl("--namespace", NAMESPACE, "delete", "pod", real_pod(cluster), "--timeout=60s", user="pod-maker")
    ready(cluster.client())


def drain(cluster):
    done = cluster.kubectl("drain", NODES[0], "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
    cluster.kubectl("uncordon", NODES[0])
    assert "keyhole" in done.stdout + done.stderr, "the DaemonSet's pod is not mentioned"
    ready(cluster.client())


def taint(cluster):
    cluster.kubectl("taint", "node", NODES[0], "test=x:NoExecute")
    try:
        ready(cluster.client())
    finally:
        cluster.kubectl("taint", "node", NODES[0], "test-")


def new_node(cluster):
    """A node that comes and goes."""
    with Nodes(cluster, ["node-3"]):
        ready(cluster.client(), nodes=len(NODES) + 1)
        cluster.client().delete("/api/v1/nodes/node-3")
        # The garbage collector of pods gives a node a minute to come back.
        wait_for("the node's pod is gone", lambda: all(
            each["spec"].get("nodeName") != "node-3" for each in cluster.client().get(PODS)["items"]), 180)
    ready(cluster.client())


def orphan_and_reinstall(cluster, site):
    """The DaemonSet is deleted without its pods, and applied again: it adopts them."""
    admin = cluster.client()
    # With the annotation of a restart its pods are not of the template that is applied again.
    admin.patch(f"{DAEMON_SETS}/keyhole", {"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": None}}}}})
    site.apply()
    ready(admin)
    names = {each["metadata"]["name"] for each in admin.get(PODS)["items"]}
    admin.delete(f"{DAEMON_SETS}/keyhole", propagationPolicy="Orphan")
    wait_for("the DaemonSet is deleted", lambda: not admin.exists(f"{DAEMON_SETS}/keyhole"))
    site.apply()
    ready(admin)
    left = {each["metadata"]["name"] for each in admin.get(PODS)["items"] if "deletionTimestamp" not in each["metadata"]}
    assert names & left, f"no pod was adopted: {names} before, {left} after"


def delete_in_the_foreground(cluster, site):
    admin = cluster.client()
    admin.delete(f"{DAEMON_SETS}/keyhole", propagationPolicy="Foreground")
    wait_for("the DaemonSet is deleted", lambda: not admin.exists(f"{DAEMON_SETS}/keyhole"))
    site.apply()
    ready(admin)


def a_foreign_pod(cluster):
    """On restricted-pv the namespace may hold others, which leave the claims and the labels alone."""
    client = cluster.client("editor", ("system:authenticated",))
    client.create(PODS, foreign_pod())
    client.patch(f"{PODS}/foreign", {"metadata": {"labels": {"more": "labels"}}})
    client.delete(f"{PODS}/foreign", gracePeriodSeconds=0)


def a_foreign_deployment(cluster):
    client = cluster.client("editor", ("system:authenticated",))
    path, thing = workload("Deployment", foreign_pod())
    client.create(path, thing)
    try:
        wait_for("its pod runs", lambda: client.get(f"{path}/foreign")["status"].get("readyReplicas") == 1)
    finally:
        client.delete(f"{path}/foreign", propagationPolicy="Foreground")
    wait_for("it is gone", lambda: not client.exists(f"{path}/foreign"))


def a_foreign_daemon_set(cluster):
    client = cluster.client("editor", ("system:authenticated",))
    path, thing = workload("DaemonSet", foreign_pod())
    client.create(path, thing)
    try:
        wait_for("its pods run", lambda: client.get(f"{path}/foreign")["status"].get("numberReady") == len(NODES))
    finally:
        client.delete(f"{path}/foreign", propagationPolicy="Foreground")
    wait_for("it is gone", lambda: not client.exists(f"{path}/foreign"))


def a_service_of_ones_own(cluster):
    client = cluster.client("editor", ("system:authenticated",))
    path = f"/api/v1/namespaces/{NAMESPACE}/services"
    client.create(path, {"metadata": {"name": "mine"}, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}})
    client.delete(f"{path}/mine")


def a_claim_of_ones_own(cluster):
    client = cluster.client("editor", ("system:authenticated",))
    path = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"
    client.create(path, {"metadata": {"name": "mine"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}})
    client.delete(f"{path}/mine")


def status_by_a_kubelet(cluster):
    """A node reports on its pod, and evicts it."""
    pod = cluster.client().get(f"{PODS}/{real_pod(cluster)}")
    node = pod["spec"]["nodeName"]
    client = cluster.client(f"system:node:{node}", ("system:nodes", "system:authenticated"))
    path = f"{PODS}/{pod['metadata']['name']}"
    client.patch(f"{path}/status", {"status": {"message": "by the node"}})
    client.delete(path)
    ready(cluster.client())


def detach_a_pod(cluster):
    """Labels taken from a pod take it from the DaemonSet, which makes another: a way to look at a broken one."""
    name = real_pod(cluster)
    cluster.kubectl("--namespace", NAMESPACE, "label", "pod", name, "app.kubernetes.io/instance-", user="pod-maker")
    admin = cluster.client()
    wait_for("the pod belongs to nothing", lambda: not admin.get(f"{PODS}/{name}")["metadata"].get("ownerReferences"))
    cluster.kubectl("--namespace", NAMESPACE, "delete", "pod", name, "--timeout=60s", user="pod-maker")
    ready(admin)


LEGITIMATE = [
    rollout_restart, new_image, rollout_undo, annotate_pod, label_pod, annotate_daemon_set, delete_pod, drain, taint,
    new_node, a_foreign_pod, a_foreign_deployment, a_foreign_daemon_set, a_service_of_ones_own, a_claim_of_ones_own,
    status_by_a_kubelet, detach_a_pod,
]
LEGITIMATE_WITH_SITE = [orphan_and_reinstall, delete_in_the_foreground]
# On privileged-hostpath, where no other pod lives.
LEGITIMATE_OF_THE_SHAPE = [
    rollout_restart, annotate_pod, label_pod, annotate_daemon_set, delete_pod, drain, taint, status_by_a_kubelet,
]


def foreign_pods(cluster):
    """What the README has people run after an installation: the pods of the namespace that are not Keyhole's."""
    text = (kustomize.KUBERNETES / "README.md").read_text()
    lines = re.findall(r"^ *\$ (uid=.*)\n *\$ (kubectl .*ownerReferences.*)$", text, re.MULTILINE)
    ((uid, pods),) = lines
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig),
                   "PATH": f"{pathlib.Path(cluster.program).resolve().parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{uid} && {pods}"], env=environment, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.stdout


def moved(namespace):
    """The fields of a kustomization that set another namespace, as examples/site has them."""
    site = yaml.safe_load((kustomize.KUBERNETES / "examples/site/kustomization.yaml").read_text())
    return {"namespace": namespace, "replacements": [
        each for each in site["replacements"] if each["source"]["kind"] == "Namespace"]}


def in_another_namespace(cluster, directory, overlay):
    """`namespace:` moves everything, and the policies hold there."""
    admin, namespace = cluster.client(), "keyhole-moved"
    site = Site(cluster, directory, overlay, **moved(namespace))
    site.install()
    try:
        ready(admin, namespace)
        assert not admin.exists(f"/api/v1/namespaces/{NAMESPACE}"), "something made the usual namespace"
        path = PODS.replace(NAMESPACE, namespace)
        make, rule = (host_pod, "containers") if overlay == "privileged-hostpath" else (claiming_pod, "daemonset-only")
        try:
            admin.create(path, make("evil"))
        except Refused as error:
            assert f"{rule}:" in error.message, error
        else:
            raise AssertionError(f"a pod got into {namespace}")
    finally:
        site.remove(namespace)


def moved_by_one_field_alone(cluster, directory):
    """With `namespace:` and without the replacements the volumes stay keyhole's: the claims stay unbound, and nothing runs."""
    admin, namespace = cluster.client(), "keyhole-moved"
    site = Site(cluster, directory, "restricted-pv", namespace=namespace)
    site.install()
    try:
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/keyhole-proc"
        wait_for("the claim is looked at", lambda: any(
            event["involvedObject"]["name"] == "keyhole-proc"
            for event in admin.get(f"/api/v1/namespaces/{namespace}/events")["items"]))
        assert admin.get(path)["status"]["phase"] == "Pending"
    finally:
        site.remove(namespace)


def without_the_label(cluster, directory):
    """A namespace that someone else makes, without the label: no claim and no DaemonSet gets into it."""
    site = Site(cluster, directory, "restricted-pv")
    site.apply_policies()
    cluster.client().create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": {
        "pod-security.kubernetes.io/enforce": "restricted"}}})
    try:
        for kind, name in (("PersistentVolumeClaim", "keyhole-proc"), ("DaemonSet", "keyhole")):
            thing = kustomize.one(site.things, kind, name)
            done = cluster.kubectl("apply", "--filename", "-", check=False, input=yaml.safe_dump(thing))
            assert done.returncode != 0 and "namespace-label:" in done.stderr, (kind, done.stdout, done.stderr)
    finally:
        site.remove()


def switched(cluster, directory, first, second):
    """One overlay is applied over the other and removed as the README says, and back again."""
    admin = cluster.client()
    sites = {name: Site(cluster, directory, name) for name in (first, second)}
    for name in (first, second, first):
        sites[name].install()
        cluster.kubectl("--namespace", NAMESPACE, "delete", "pods", "--all", "--timeout=60s")
        ready(admin)
    for name in (first, second):
        sites[name].remove()


def uninstalled(cluster, site):
    """Nothing is left, and a second installation works."""
    admin = cluster.client()
    for _ in range(2):
        site.install()
        ready(admin)
        site.remove()
        for path in (POLICIES, POLICIES.replace("policies", "policybindings"), "/api/v1/persistentvolumes", "/api/v1/namespaces"):
            left = [each["metadata"]["name"] for each in admin.get(path)["items"]
                    if each["metadata"]["name"].startswith("keyhole")]
            assert not left, (path, left)


def everything_applied(results, cluster, directory, brief):
    """Each overlay with each of its components, over one another in one namespace."""
    admin = cluster.client()
    for overlay in kustomize.OVERLAYS:
        sets = [(title, components) for title, name, components in kustomize.combinations()
                if name == overlay and not (brief and len(components) == 1)]
        base = Site(cluster, directory, overlay)
        results.check(f"{overlay}: is installed", base.install)
        for title, components in sets:
            site = Site(cluster, directory, overlay, components)
            results.check(f"{title}: the policies are applied", site.apply_policies)
            results.check(f"{title}: applied twice, without a word but what was done", applied_twice, site)
            results.check(f"{title}: its pods are made", ready, admin)
        results.check(f"{overlay}: server-side after client-side", server_side_after_client_side, base)
        results.check(f"{overlay}: Pod Security has no objection", no_pod_security_warning, cluster)
        if overlay != "minimal":
            results.check(f"{overlay}: its policies are type-checked", type_checked, admin)
        every = Site(cluster, directory, overlay, sets[-2][1])
        results.check(f"{overlay}: is removed", every.remove)
        results.check(f"{overlay}: the rest is removed", base.remove)


def policy_of(site, name):
    return admission.Policy(kustomize.one(site.things, "ValidatingAdmissionPolicy", name))


def restricted(results, cluster, directory, _):
    admin = cluster.client()
    site = Site(cluster, directory, "restricted-pv")
    grant_in_the_cluster(cluster.client())
    refusals = results.check("restricted-pv: nobody wins the race at installation", wins_the_race, cluster, site, claiming_pod)
    print(f"{refusals} attempts of the race were refused", flush=True)
    grant(admin)
    results.check("adoption takes less time than it is given", adoption_takes_less, admin)
    results.check("restricted-pv: the check for foreign pods finds one", foreign_pods_are_found, cluster, foreign_pods)
    for row in RESTRICTED:
        results.check(f"restricted-pv: {row[0]} is refused", refused, cluster, row)
    pod, policy = kustomize.pod_of(site.things), policy_of(site, "keyhole-claims")
    for row in mutations.CLAIMS:
        if row[1] != "no-image-change" and "later" not in row[0] and row[1] != "no-ephemeral-containers":
            results.check(f"restricted-pv: {row[0]} is refused", mutated_pod, cluster, policy, pod, row)
    for action in LEGITIMATE:
        results.check(f"restricted-pv: {action.__name__} is let through", action, cluster)
    for action in LEGITIMATE_WITH_SITE:
        results.check(f"restricted-pv: {action.__name__} is let through", action, cluster, site)
    results.check("restricted-pv: is removed", site.remove)
    results.check("restricted-pv: is installed and removed twice", uninstalled, cluster, site)


def hostpath(results, cluster, directory, _):
    site = Site(cluster, directory, "privileged-hostpath")
    grant_in_the_cluster(cluster.client())
    refusals = results.check("privileged-hostpath: nobody wins the race at installation", wins_the_race, cluster, site, host_pod)
    print(f"{refusals} attempts of the race were refused", flush=True)
    grant(cluster.client())
    # One that a row asks for must exist, or its absence would be the reason.
    quietly(cluster.client().create, "/apis/node.k8s.io/v1/runtimeclasses", {
        "metadata": {"name": "loose"}, "handler": "loose"})
    pod, policy = kustomize.pod_of(site.things), policy_of(site, "keyhole-pod-shape")
    for row in mutations.SHAPE:
        if "later" not in row[0] and row[1] != "no-ephemeral-containers":
            results.check(f"privileged-hostpath: {row[0]} is refused", mutated_pod, cluster, policy, pod, row)
        if mutations.is_about_the_template(row):
            results.check(f"privileged-hostpath: {row[0]} is refused in the template", mutated_template, cluster, policy, row)
    for action in LEGITIMATE_OF_THE_SHAPE:
        results.check(f"privileged-hostpath: {action.__name__} is let through", action, cluster)
    results.check("privileged-hostpath: is removed", site.remove)
    results.check("privileged-hostpath: is installed and removed twice", uninstalled, cluster, site)


def places(results, cluster, directory, _):
    results.check("restricted-pv holds in another namespace", in_another_namespace, cluster, directory, "restricted-pv")
    results.check("privileged-hostpath holds in another namespace", in_another_namespace, cluster, directory, "privileged-hostpath")
    results.check("a namespace that is set alone leads nowhere", moved_by_one_field_alone, cluster, directory)
    results.check("a namespace without the label gets nothing", without_the_label, cluster, directory)
    results.check("overlays are switched", switched, cluster, directory, "restricted-pv", "privileged-hostpath")


def scraped(results, cluster, directory, _):
    """What Prometheus discovers without the operator."""
    assert cluster.programs, "the pods of another cluster cannot be given addresses of this machine"
    site = Site(cluster, directory, "minimal")
    site.install()
    ready(cluster.client())
    scrape.check(results, cluster)
    site.remove()


def chart(results, cluster, directory, brief):
    """The Helm chart; helm lies beside kubectl."""
    helm.check(results, cluster, pathlib.Path(cluster.program).resolve().with_name("helm"), directory, ready, brief)


PARTS = {
    "restricted": restricted, "hostpath": hostpath, "places": places, "scrape": scraped,
    "everything": everything_applied, "helm": chart,
}


def parts(arguments):
    """What is done when nothing is named."""
    prometheus = arguments.programs and pathlib.Path(arguments.programs, "prometheus").exists()
    if not prometheus:
        print("left out: scrape, which needs `tests/cluster/build prometheus` and pods with addresses of this machine", flush=True)
    return [name for name in PARTS if name != "scrape" or prometheus]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubectl", required=True)
    parser.add_argument("--programs")
    parser.add_argument("--kubeconfig")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append")
    arguments = parser.parse_args()
    assert bool(arguments.programs) != bool(arguments.kubeconfig), "give --programs or --kubeconfig"
    results = Results()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        if arguments.programs:
            plane = stack.enter_context(control_plane(directory, arguments.programs, arguments.kubectl))
            kubeconfig = plane.kubeconfig
        else:
            kubeconfig = arguments.kubeconfig
        cluster = stack.enter_context(Cluster(kubeconfig, arguments.kubectl, arguments.programs).proxied())
        nodes = stack.enter_context(Nodes(cluster, NODES)) if arguments.programs else None
        define_the_operators_kinds(cluster.client())
        for name in arguments.only or parts(arguments):
            begun = time.monotonic()
            PARTS[name](results, cluster, directory, arguments.brief)
            if nodes:
                nodes.check()
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return results.end()


if __name__ == "__main__":
    sys.exit(main())
