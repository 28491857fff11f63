"""What the tests of a cluster work with: nodes without a kubelet, users with roles, and objects to try things with."""
import threading
import time

from api import Refused

NAMESPACE = "keyhole"
DAEMON_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
KEYHOLES_LABELS = {"app.kubernetes.io/name": "keyhole", "app.kubernetes.io/instance": "keyhole"}
# Seconds.
POLL = 0.2

# Each has the role after it in the namespace.
USERS = {"editor": "edit", "namespace-admin": "admin", "host-granter": "edit"}
# These have a role of ROLES in the whole cluster: a pod maker from the first moment of a namespace, before anyone could
# bind a role in it.
ROLES = [
    ("keyhole-test-pod-maker", [
        {"kind": "User", "name": "pod-maker"},
        {"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE},
        {"kind": "ServiceAccount", "name": "replicaset-controller", "namespace": "kube-system"},
    ], [
        ("", ["pods", "pods/binding", "pods/ephemeralcontainers", "pods/resize", "pods/status", "services", "persistentvolumeclaims",
              "replicationcontrollers", "configmaps", "events"]),
        ("apps", ["daemonsets", "deployments", "replicasets", "statefulsets"]),
        ("batch", ["jobs", "cronjobs"]),
    ]),
    ("keyhole-test-host-granter", [{"kind": "User", "name": "host-granter"}], [("", ["persistentvolumes"])]),
]


def quietly(refusable, *arguments, statuses=(404, 409)):
    """Calls it; a refusal with one of the statuses is as good as success."""
    try:
        return refusable(*arguments)
    except Refused as refused:
        if refused.status not in statuses:
            raise
        return None


RBAC = "/apis/rbac.authorization.k8s.io/v1"


def bind(admin, path, name, role, subjects):
    quietly(admin.create, f"{RBAC}/{path}", {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subjects})


def grant_in_the_cluster(admin):
    for name, subjects, rules in ROLES:
        quietly(admin.create, f"{RBAC}/clusterroles", {
            "metadata": {"name": name},
            "rules": [{"apiGroups": [group], "resources": resources, "verbs": ["*"]} for group, resources in rules],
        })
        bind(admin, "clusterrolebindings", name, name, subjects)


def grant(admin):
    """Makes the users what USERS says in the namespace."""
    for user, role in USERS.items():
        bind(admin, f"namespaces/{NAMESPACE}/rolebindings", user, role, [{"kind": "User", "name": user}])


class Nodes(threading.Thread):
    """Nodes without a kubelet: pods that are bound to one are reported as ready, and end at once when they are deleted.

    Nothing runs in them. A failure is kept for `check`.
    """

    def __init__(self, cluster, names):
        super().__init__(daemon=True)
        self.client, self.names = cluster.client(), names
        self.stopped, self.failure = threading.Event(), None

    def register(self):
        condition = {"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": now(),
                     "lastTransitionTime": now()}
        for name in self.names:
            quietly(self.client.create, "/api/v1/nodes", {
                "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}}})
            self.client.patch(f"/api/v1/nodes/{name}/status", {"status": {
                "conditions": [condition], "capacity": {"pods": "110", "cpu": "4", "memory": "8Gi"},
                "allocatable": {"pods": "110", "cpu": "4", "memory": "8Gi"}}})
            quietly(self.client.patch, f"/api/v1/nodes/{name}", {"spec": {"taints": None}})

    def run(self):
        while not self.stopped.wait(POLL):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 The thread's failure is the test's.
                self.failure = error
                return

    def look(self):
        for pod in self.client.get("/api/v1/pods")["items"]:
            metadata = pod["metadata"]
            if pod["spec"].get("nodeName") not in self.names:
                continue
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            if "deletionTimestamp" in metadata:
                quietly(lambda: self.client.delete(path, gracePeriodSeconds=0))
            elif pod["status"].get("phase") == "Pending":
                true = [{"type": kind, "status": "True", "lastTransitionTime": now()}
                        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")]
                quietly(self.client.patch, f"{path}/status", {"status": {"phase": "Running", "conditions": true}})

    def check(self):
        if self.failure:
            raise self.failure

    def __enter__(self):
        self.register()
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join(30)


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def foreign_pod(name="foreign", **changes):
    """A pod that Pod Security's restricted admits, with the fields of its spec changed."""
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "foreign"}},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main", "image": "registry.example/foreign:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
            **changes,
        },
    }


def with_claim(pod, claim, read_only=True):
    """The pod, mounting a claim."""
    pod["spec"]["volumes"] = [{"name": "c", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "c", "mountPath": "/c", "readOnly": read_only, **({"recursiveReadOnly": "Enabled"} if read_only else {})}]
    return pod


def labelled(pod):
    pod["metadata"]["labels"].update(KEYHOLES_LABELS)
    return pod


def owned(pod, uid="0", api_version="apps/v1", kind="DaemonSet", name="keyhole", controller=True):
    pod["metadata"]["ownerReferences"] = [
        {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": controller}]
    return pod


def workload(kind, pod, name="foreign"):
    """A workload whose pods are that pod: its path below the namespace's, and itself."""
    labels = pod["metadata"]["labels"]
    template = {"metadata": {"labels": labels}, "spec": pod["spec"]}
    selector = {"matchLabels": labels}
    job = {"spec": {"template": {**template, "spec": {**pod["spec"], "restartPolicy": "Never"}}}}
    group, version, plural, spec = {
        "Deployment": ("apps", "v1", "deployments", {"selector": selector, "template": template}),
        "ReplicaSet": ("apps", "v1", "replicasets", {"selector": selector, "template": template}),
        "StatefulSet": ("apps", "v1", "statefulsets", {"selector": selector, "template": template, "serviceName": name}),
        # Otherwise it replaces a pod that it adopts.
        "DaemonSet": ("apps", "v1", "daemonsets", {
            "selector": selector, "template": template, "updateStrategy": {"type": "OnDelete"}}),
        "ReplicationController": ("", "v1", "replicationcontrollers", {"selector": labels, "template": template}),
        "Job": ("batch", "v1", "jobs", job["spec"]),
        "CronJob": ("batch", "v1", "cronjobs", {"schedule": "* * * * *", "jobTemplate": job}),
    }[kind]
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    return f"{root}/namespaces/{NAMESPACE}/{plural}", {
        "apiVersion": f"{group}/{version}".lstrip("/"), "kind": kind, "metadata": {"name": name, "labels": labels},
        "spec": spec}
