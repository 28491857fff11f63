"""The pod that an overlay's DaemonSet makes, as a Pod that podman 4.3 can play.

What the kubelet does and `podman play kube` does not is done here, and nothing else: `changes` says by path what differs,
so that a test can hold the list against ALLOWED.
"""
import copy
import re

from kustomize import one, with_components

# Every way in which the played pod may differ from the DaemonSet's template, and why. `C` is a container's name.
ALLOWED = {
    r"containers\.C\.image": "the images of this run",
    r"containers\.C\.imagePullPolicy": "never pulled: they are in podman's storage",
    r"containers\.C\.env\.NODE_NAME\..*": "filled in as the kubelet does: podman knows no spec.nodeName",
    r"containers\.broker\.restartPolicy": "podman 4.3 has no native sidecars: an ordinary container, the first to start",
    r"containers\.C\.ports": "podman would publish them on the host; in a cluster they are names alone",
    r"containers\.C\.(startup|liveness|readiness)Probe": "podman has no kubelet's probes: the test asks what they would",
}


def template(kubectl, overlay, components=()):
    """The pod template of the overlay's DaemonSet with components, as kustomize builds it."""
    return one(with_components(kubectl, overlay, components), "DaemonSet")["spec"]["template"]


def render(pod_template, name, images, node):
    """The Pod named `name` on the node `node`; `images` has an image for each container's name."""
    spec = copy.deepcopy(pod_template["spec"])
    # Order counts: podman starts containers as they are listed, and the kubelet sidecars before the others.
    containers = spec.pop("initContainers", []) + spec["containers"]
    for container in containers:
        if container.pop("restartPolicy", None) == "Always":
            spec.setdefault("restartPolicy", "Always")
        container.update(image=images[container["name"]], imagePullPolicy="Never")
        container.pop("ports", None)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(probe, None)
        for variable in container.get("env", []):
            if variable.get("valueFrom") == {
                "fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}:
                del variable["valueFrom"]
                variable["value"] = node
    spec["containers"] = containers
    labels = pod_template["metadata"].get("labels", {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def attacker(pod, image, victim):
    """The same pod with `image` in place of its programs: what containers of this shape may do, also to process `victim`.

    It can run beside `pod`: podman names the volume of an emptyDir as the pod does, so these have names of their own.
    """
    pod = copy.deepcopy(pod)
    pod["metadata"]["name"] += "-attack"
    pod["spec"]["restartPolicy"] = "Never"
    for container in pod["spec"]["containers"]:
        container.update(image=image, args=[container["name"], str(victim)])
    named = [*pod["spec"]["volumes"], *(mount for container in pod["spec"]["containers"] for mount in container["volumeMounts"])]
    for item in named:
        item["name"] += "-attack"
    return pod


def changes(pod_template, pod):
    """The paths below `spec` at which the pod differs from the template; lists of named things go by name."""
    return sorted(_differences(_flat(pod_template["spec"]), _flat(pod["spec"])))


def _differences(before, after):
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _flat(spec):
    spec = dict(spec)
    spec["containers"] = spec.pop("initContainers", []) + spec["containers"]
    # A Pod's defaults.
    spec.setdefault("restartPolicy", "Always")
    leaves = {}

    def walk(path, value):
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{path}.{key}", inner)
        elif isinstance(value, list) and value:
            for index, inner in enumerate(value):
                named = isinstance(inner, dict) and inner.get("name")
                walk(f"{path}.{named or index}", inner)
        else:
            leaves[path.removeprefix(".")] = value

    walk("", spec)
    return leaves


def unallowed(paths):
    """Those of `paths` that nothing in ALLOWED allows."""
    patterns = [re.compile(pattern.replace(r"\.C\.", r"\.\w+\.") + r"(\..*)?") for pattern in ALLOWED]
    return [path for path in paths if not any(pattern.fullmatch(path) for pattern in patterns)]
