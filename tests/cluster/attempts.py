"""Attempts against the policies, each by a user who may do it as far as roles go, and each refused for a reason that it names.

A row: what is tried, by whom, what the refusal must say, and the attempt. An attempt takes a `Try` and makes the requests.
"""
import copy
import secrets
import time

from api import Refused, wait_for
from world import DAEMON_SETS, KEYHOLES_LABELS, NAMESPACE, PODS, foreign_pod, labelled, owned, quietly, with_claim, workload

POD_SECURITY, FORBIDDEN = "violates PodSecurity", "forbidden"
CLAIMS = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
# Seconds that a controller has for an event about a pod that it could not make, and to adopt one.
EVENT, ADOPTION = 30, 6


class Try:
    """What an attempt works with."""

    def __init__(self, cluster, user, groups=()):
        self.admin, self.client = cluster.client(), cluster.client(user, groups)

    def keyholes_pod(self):
        """One of Keyhole's real pods."""
        return next(pod for pod in self.admin.get(PODS, labelSelector="app.kubernetes.io/name=keyhole")["items"]
                    if "deletionTimestamp" not in pod["metadata"])

    def daemon_set(self):
        return self.admin.get(f"{DAEMON_SETS}/keyhole")

    def foreign(self, pod=None):
        """A foreign pod that is already there: its path."""
        pod = pod or foreign_pod()
        quietly(self.admin.delete, f"{PODS}/{pod['metadata']['name']}")
        wait_for("the pod of the last attempt is gone", lambda: not self.admin.exists(f"{PODS}/{pod['metadata']['name']}"))
        self.admin.create(PODS, pod)
        return f"{PODS}/{pod['metadata']['name']}"


def pod(make):
    return lambda it: it.client.create(PODS, make())


def claim_of_another_kind(kind):
    """A workload whose pods mount a claim: the workload is admitted, its pods are not."""
    return by_controller(kind, lambda: with_claim(foreign_pod(), "keyhole-proc"))


def impostors_of_another_kind(kind):
    return by_controller(kind, lambda: labelled(foreign_pod()))


def by_controller(kind, make):
    def attempt(it):
        name = f"foreign-{secrets.token_hex(4)}"
        path, thing = workload(kind, make(), name)
        it.client.create(path, thing)
        try:
            raise Refused(0, wait_for(f"an event of {kind}/{name}", lambda: refusal(it.admin, name), EVENT))
        finally:
            it.admin.delete(f"{path}/{name}", propagationPolicy="Background")
    return attempt


def refusal(admin, name):
    """What a controller said when it could not make a pod; a Deployment's says it of its ReplicaSet."""
    events = admin.get(f"/api/v1/namespaces/{NAMESPACE}/events", fieldSelector="reason=FailedCreate")["items"]
    return next((event["message"] for event in events if event["involvedObject"]["name"].startswith(name)), None)


def patched(path, *changes):
    """Patches of an object, of which the last is refused."""
    def attempt(it):
        target = path(it) if callable(path) else path
        for change in changes:
            it.client.patch(target, change)
    return attempt


def keyholes_path(it):
    return f"{PODS}/{it.keyholes_pod()['metadata']['name']}"


def relabelled_by_apply(it):
    target = it.foreign()
    it.client.request("PATCH", target, {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "foreign", "labels": KEYHOLES_LABELS}},
        "application/apply-patch+yaml", fieldManager="test", force="true")


def relabelled_by_strategic_merge(it):
    it.client.request("PATCH", it.foreign(), {"metadata": {"labels": KEYHOLES_LABELS}},
                      "application/strategic-merge-patch+json")


def replaced(it):
    target = it.foreign()
    for _ in range(20):
        try:
            it.client.replace(target, labelled(it.admin.get(target)))
            return
        except Refused as refused:
            # Its node reports on it meanwhile.
            if refused.status != 409:
                raise
            time.sleep(0.2)


def owner_later(**owner):
    def attempt(it):
        target = it.foreign()
        uid = it.daemon_set()["metadata"]["uid"]
        it.client.patch(target, {"metadata": {"ownerReferences": owned(foreign_pod(), uid, **owner)["metadata"]["ownerReferences"]}})
    return attempt


def owner_first_then_labels(it):
    """The two steps that passed the first policy."""
    made = owned(foreign_pod(), api_version="evil/v1")
    it.client.create(PODS, made)
    it.client.patch(f"{PODS}/foreign", {"metadata": {"labels": KEYHOLES_LABELS}})


def debug(it):
    target = keyholes_path(it)
    it.client.patch(f"{target}/ephemeralcontainers", {"spec": {"ephemeralContainers": [{
        "name": "debugger", "image": "registry.example/shell:1", "targetContainerName": "broker",
        "securityContext": {"runAsUser": 64646, "runAsNonRoot": True, "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]}})


def pod_image(containers):
    def attempt(it):
        real = it.keyholes_pod()
        it.client.patch(keyholes_path(it), [
            {"op": "replace", "path": f"/spec/{containers}/0/image", "value": "registry.example/evil:1"}])
        return real
    return attempt


def daemon_set(change):
    """The DaemonSet changed: `change` takes its pods' spec."""
    def attempt(it):
        thing = it.daemon_set()
        change(thing["spec"]["template"]["spec"])
        it.client.replace(f"{DAEMON_SETS}/keyhole", thing, dryRun="All")
    return attempt


def broker(spec):
    return spec["initContainers"][0]


def exporter(spec):
    return spec["containers"][0]


def mount(container, name):
    return next(each for each in container["volumeMounts"] if each["name"] == name)


def another_daemon_set(make, name="foreign"):
    def attempt(it):
        path, thing = workload("DaemonSet", make(), name)
        it.client.create(path, thing)
    return attempt


def volume(name, **kind):
    return {"volumes": [{"name": name, **kind}]}


def service(name, labels, selector):
    return {"metadata": {"name": name, "labels": labels}, "spec": {"selector": selector, "ports": [{"port": 9100}]}}


def claim(name, volume_name):
    return {"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": volume_name,
        "resources": {"requests": {"storage": "1Mi"}}}}


def adopted_by(kind):
    """Keyhole's DaemonSet is deleted and its pods left; another workload with labels that select them takes none.

    The refusal is the controller's, on its own account; what is looked at is who owns the pods in the end. In a namespace
    without the policies the same workload has them within that time: `adoption_takes_less` shows it.
    """
    def attempt(it):
        original = it.daemon_set()
        it.admin.delete(f"{DAEMON_SETS}/keyhole", propagationPolicy="Orphan")
        wait_for("the DaemonSet is deleted", lambda: not it.admin.exists(f"{DAEMON_SETS}/keyhole"))
        selector = {"app.kubernetes.io/part-of": "keyhole"}
        adopter = foreign_pod()
        adopter["metadata"]["labels"] = dict(selector)
        path, thing = workload(kind, adopter, "adopter")
        it.client.create(path, thing)
        try:
            time.sleep(ADOPTION)
            owners = [owner["kind"] + "/" + owner["name"]
                      for each in it.admin.get(PODS, labelSelector="app.kubernetes.io/name=keyhole")["items"]
                      for owner in each["metadata"].get("ownerReferences", [])]
            if not owners:
                raise Refused(0, "no-adoption: the pods belong to nothing")
            raise AssertionError(f"the pods belong to {owners}")
        finally:
            it.admin.delete(f"{path}/adopter", propagationPolicy="Background")
            for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
                original["metadata"].pop(field, None)
            original.pop("status", None)
            it.admin.create(DAEMON_SETS, original)
            wait_for("the DaemonSet has adopted its pods", lambda: all(
                each["metadata"].get("ownerReferences")
                for each in it.admin.get(PODS, labelSelector="app.kubernetes.io/name=keyhole")["items"]))
    return attempt


def adoption_takes_less(admin):
    """A DaemonSet and a ReplicaSet adopt a pod that their labels select, in a namespace of nobody's."""
    for kind in ("DaemonSet", "ReplicaSet"):
        orphan = foreign_pod(f"orphan-of-{kind.lower()}")
        orphan["metadata"]["labels"] = {"orphan-of": kind}
        path, thing = workload(kind, orphan, f"adopter-{kind.lower()}")
        pods, path = "/api/v1/namespaces/default/pods", path.replace(NAMESPACE, "default")
        admin.create(pods, orphan)
        admin.create(path, thing)
        try:
            wait_for(f"the {kind} adopts the pod", lambda: admin.get(
                f"{pods}/{orphan['metadata']['name']}")["metadata"].get("ownerReferences"), ADOPTION)
        finally:
            admin.delete(f"{path}/{thing['metadata']['name']}", propagationPolicy="Background")


def without_status(thing, namespace):
    thing = copy.deepcopy(thing)
    thing["metadata"] = {"name": thing["metadata"]["name"], "labels": thing["metadata"]["labels"], "namespace": namespace}
    thing.pop("status", None)
    return thing


def bound_with_labels(it):
    """A binding's labels become the pod's."""
    it.foreign(foreign_pod("unbound", schedulerName="nobody"))
    it.client.create(f"{PODS}/unbound/binding", {
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "unbound", "labels": KEYHOLES_LABELS},
        "target": {"kind": "Node", "name": "node-1"}})


def mirror_pod(it):
    """What a node's credential may make: a pod that a static one mirrors."""
    node = it.admin.get("/api/v1/nodes/node-1")
    made = labelled(foreign_pod("foreign-node-1", nodeName="node-1"))
    made["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    made["metadata"]["ownerReferences"] = [{
        "apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": node["metadata"]["uid"], "controller": True}]
    it.client.create(PODS, made)


# On restricted-pv. `pod-maker` may do all with pods, workloads, services and claims of the namespace.
RESTRICTED = [
    ("a pod that mounts a claim", "pod-maker", "daemonset-only", pod(lambda: with_claim(foreign_pod(), "keyhole-proc"))),
    ("a pod that mounts a claim for writing", "pod-maker", "daemonset-only",
     pod(lambda: with_claim(foreign_pod(), "keyhole-sys", read_only=False))),
    ("a pod that mounts a component's claim", "pod-maker", "daemonset-only",
     pod(lambda: with_claim(foreign_pod(), "keyhole-textfile"))),
    ("a claim, with keyhole as the owner", "pod-maker", "daemonset-only",
     lambda it: it.client.create(PODS, owned(with_claim(foreign_pod(), "keyhole-proc"), it.daemon_set()["metadata"]["uid"]))),
    ("a claim, by the role edit", "editor", "daemonset-only", pod(lambda: with_claim(foreign_pod(), "keyhole-proc"))),
    ("a claim, by the role admin", "namespace-admin", "daemonset-only",
     pod(lambda: with_claim(foreign_pod(), "keyhole-proc"))),
    *[(f"a claim by a {kind}", "pod-maker", "daemonset-only", claim_of_another_kind(kind))
      for kind in ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController", "Job")],
    ("a claim by another DaemonSet", "pod-maker", "daemonset-only",
     another_daemon_set(lambda: with_claim(foreign_pod(), "keyhole-proc"))),
    ("a claim made again by a pod's ephemeral volume", "pod-maker", "no-ephemeral-volumes",
     pod(lambda: foreign_pod("keyhole", **volume("proc", ephemeral={"volumeClaimTemplate": {"spec": claim("x", "keyhole-proc")["spec"]}})))),
    ("a pod with keyhole's labels", "pod-maker", "no-impostors", pod(lambda: labelled(foreign_pod()))),
    ("a pod with keyhole's labels, by the role edit", "editor", "no-impostors", pod(lambda: labelled(foreign_pod()))),
    ("a pod that is owned by keyhole", "pod-maker", "no-impostors", pod(lambda: owned(foreign_pod()))),
    ("a pod whose owner has another API group", "pod-maker", "no-impostors",
     pod(lambda: owned(foreign_pod(), api_version="evil/v1"))),
    ("a pod whose owner does not control it", "pod-maker", "no-impostors",
     pod(lambda: owned(foreign_pod(), controller=False))),
    ("the owner first and the labels then", "pod-maker", "no-impostors", owner_first_then_labels),
    ("keyhole's labels later", "pod-maker", "no-impostors",
     patched(lambda it: it.foreign(), {"metadata": {"labels": KEYHOLES_LABELS}})),
    ("keyhole's labels later, one after the other", "pod-maker", "no-impostors", patched(
        lambda it: it.foreign(), *[{"metadata": {"labels": {key: value}}} for key, value in KEYHOLES_LABELS.items()])),
    ("keyhole's labels later, by server-side apply", "pod-maker", "no-impostors", relabelled_by_apply),
    ("keyhole's labels later, by a strategic merge", "pod-maker", "no-impostors", relabelled_by_strategic_merge),
    ("keyhole's labels later, by replacing the pod", "pod-maker", "no-impostors", replaced),
    ("keyhole's labels later, by its status", "pod-maker", "no-impostors",
     patched(lambda it: it.foreign() + "/status", {"metadata": {"labels": KEYHOLES_LABELS}})),
    ("keyhole's labels by what binds the pod to a node", "pod-maker", "no-impostors", bound_with_labels),
    ("keyhole as the owner later", "pod-maker", "no-impostors", owner_later()),
    ("another API group's keyhole as the owner later", "pod-maker", "no-impostors", owner_later(api_version="evil/v1")),
    ("keyhole as an owner that does not control it later", "pod-maker", "no-impostors", owner_later(controller=False)),
    *[(f"pods with keyhole's labels by a {kind}", "pod-maker", "no-impostors", impostors_of_another_kind(kind))
      for kind in ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController", "Job")],
    ("pods with keyhole's labels by another DaemonSet", "pod-maker", "no-impostors",
     another_daemon_set(lambda: labelled(foreign_pod()))),
    ("keyhole's pods adopted by another DaemonSet", "pod-maker", "no-adoption", adopted_by("DaemonSet")),
    ("keyhole's pods adopted by a ReplicaSet", "pod-maker", "no-adoption", adopted_by("ReplicaSet")),
    ("an ephemeral container in keyhole's pod", "pod-maker", "no-ephemeral-containers", debug),
    ("the broker's image changed in its pod", "pod-maker", "no-image-change", pod_image("initContainers")),
    ("the exporter's image changed in its pod", "pod-maker", "no-image-change", pod_image("containers")),
    ("the DaemonSet's image, by the role edit", "editor", "host-granters",
     daemon_set(lambda spec: broker(spec).update(image="registry.example/evil:1"))),
    ("the DaemonSet's image, by the role admin", "namespace-admin", "host-granters",
     daemon_set(lambda spec: broker(spec).update(image="registry.example/evil:1"))),
    ("the DaemonSet's arguments, by the role edit", "editor", "host-granters",
     daemon_set(lambda spec: broker(spec)["args"].append("--allow-processes"))),
    ("the DaemonSet's restart, by the role edit", "editor", "host-granters", patched(
        f"{DAEMON_SETS}/keyhole", {"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}})),
    ("a claim of keyhole's name, by the role edit", "editor", "host-granters",
     lambda it: it.client.create(CLAIMS, claim("keyhole-udev", "elsewhere"))),
    ("a DaemonSet that mounts /proc in the exporter", "host-granter", "broker-only",
     daemon_set(lambda spec: exporter(spec)["volumeMounts"].append(dict(mount(broker(spec), "proc"))))),
    ("a DaemonSet with a container that mounts /proc", "host-granter", "broker-only",
     daemon_set(lambda spec: spec["containers"].append({**foreign_pod()["spec"]["containers"][0], "volumeMounts": [
         dict(mount(broker(spec), "proc"))]}))),
    ("a DaemonSet that mounts /proc read-only at its top alone", "host-granter", "recursively-read-only",
     daemon_set(lambda spec: mount(broker(spec), "proc").pop("recursiveReadOnly"))),
    ("a DaemonSet that mounts /sys for writing", "host-granter", "recursively-read-only",
     daemon_set(lambda spec: (mount(broker(spec), "sys").pop("recursiveReadOnly"), mount(broker(spec), "sys").pop("readOnly")))),
    ("a DaemonSet that holds a claim for writing", "host-granter", "claims-read-only",
     daemon_set(lambda spec: next(each for each in spec["volumes"] if each["name"] == "proc")["persistentVolumeClaim"].pop("readOnly"))),
    ("a DaemonSet that starts in a directory of the host", "host-granter", "no-working-directory",
     daemon_set(lambda spec: broker(spec).update(workingDir="/host/proc/1/root"))),
    ("a DaemonSet with a claim for each pod", "host-granter", "no-ephemeral-volumes",
     daemon_set(lambda spec: spec["volumes"].append({"name": "e", "ephemeral": {
         "volumeClaimTemplate": {"spec": claim("x", "keyhole-proc")["spec"]}}}))),
    ("keyhole's service selects others", "pod-maker", "service-selector",
     patched(f"{SERVICES}/keyhole", {"spec": {"selector": {"app.kubernetes.io/name": "evil"}}})),
    ("another service with keyhole's labels", "pod-maker", "service-selector",
     lambda it: it.client.create(SERVICES, service("evil", KEYHOLES_LABELS, {"app": "foreign"}))),
    ("a service without a selector, with keyhole's labels", "editor", "service-selector",
     lambda it: it.client.create(SERVICES, service("evil", KEYHOLES_LABELS, {}))),
    ("keyhole's labels for another service later", "pod-maker", "service-selector", lambda it: (
        quietly(it.client.create, SERVICES, service("other", {}, {"app": "foreign"})),
        it.client.patch(f"{SERVICES}/other", {"metadata": {"labels": KEYHOLES_LABELS}}))),
    ("a hostPath in a pod", "pod-maker", POD_SECURITY,
     pod(lambda: foreign_pod(**volume("h", hostPath={"path": "/proc"})))),
    ("the host's network", "pod-maker", POD_SECURITY, pod(lambda: foreign_pod(hostNetwork=True))),
    ("the host's processes", "pod-maker", POD_SECURITY, pod(lambda: foreign_pod(hostPID=True))),
    ("a mirror pod of a kubelet", "system:node:node-1", "no-impostors", mirror_pod),
    ("a PersistentVolume, by the role admin", "namespace-admin", FORBIDDEN,
     lambda it: it.client.create("/api/v1/persistentvolumes", {"metadata": {"name": "evil"}, "spec": {
         "capacity": {"storage": "1Mi"}, "accessModes": ["ReadOnlyMany"], "hostPath": {"path": "/"}}})),
    ("the policy deleted, by the role admin", "namespace-admin", FORBIDDEN, lambda it: it.client.delete(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/keyhole-claims")),
    ("the namespace's label taken away, by the role admin", "namespace-admin", FORBIDDEN,
     patched(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": {"keyhole/access": None}}})),
    ("the namespace made privileged", None, "pod-security-level",
     patched(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})),
    ("a claim to keyhole's volume in a namespace without the label", None, "namespace-label",
     lambda it: it.client.create("/api/v1/namespaces/default/persistentvolumeclaims", claim("keyhole-proc", "keyhole-proc"))),
    ("keyhole's DaemonSet in a namespace without the label", None, "namespace-label",
     lambda it: it.client.create("/apis/apps/v1/namespaces/default/daemonsets", without_status(it.daemon_set(), "default"))),
]
