"""Builds the kustomizations below deploy/kubernetes, alone and in combination, as `kubectl kustomize` does."""
import os
import pathlib
import subprocess
import tempfile

import yaml

from results import Refusal

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "deploy/kubernetes"

# Components that make sense on every overlay, and those that some overlays have besides.
EVERYWHERE = [
    "grafana-dashboards",
    "network-policy",
    "pod-monitor",
    "process-groups",
    "prometheus-rule",
    "refuse-exec",
    "service-monitor",
    "web-config",
]
OVERLAYS = {
    "minimal": [],
    "restricted-pv": ["root", "udev/pv", "textfile/pv"],
    "privileged-hostpath": ["root", "udev/hostpath", "textfile/hostpath"],
}


class Failed(Refusal):
    """A build that kubectl refuses."""


def kustomize(kubectl, directory):
    """The objects of a kustomization."""
    built = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, timeout=60)
    if built.returncode != 0:
        raise Failed(f"{directory}: {built.stderr.strip()}")
    return [thing for thing in yaml.safe_load_all(built.stdout) if thing]


def write_site(directory, overlay, components=(), **fields):
    """Writes a kustomization of one's own to a directory: an overlay with components, and further fields."""
    # kustomize takes no absolute path, and resolves links before it goes up.
    here = pathlib.Path(directory).resolve()
    relative = lambda path: os.path.relpath(KUBERNETES / path, here)
    (here / "kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [relative(f"overlays/{overlay}")],
        "components": [relative(f"components/{name}") for name in components],
        **fields,
    }))
    return here


def with_components(kubectl, overlay, components):
    """The objects of an overlay with components."""
    with tempfile.TemporaryDirectory() as directory:
        return kustomize(kubectl, write_site(directory, overlay, components))


def combinations():
    """Every set that is built, as (title, overlay, components): each overlay alone, with each component, with all."""
    for overlay, own in OVERLAYS.items():
        components = sorted(EVERYWHERE + own)
        yield overlay, overlay, []
        for name in components:
            yield f"{overlay} + {name}", overlay, [name]
        # The two monitors exclude each other.
        for monitor in ("pod-monitor", "service-monitor"):
            other = {"pod-monitor", "service-monitor"} - {monitor}
            every = [name for name in components if name not in other] + ["node-name"]
            yield f"{overlay} + all, by {monitor}", overlay, every
            yield f"{overlay} + {monitor} on trial", overlay, [monitor, "trial", "node-name"]


def objects(things, kind):
    return [thing for thing in things if thing["kind"] == kind]


def one(things, kind, name="keyhole"):
    found = [thing for thing in objects(things, kind) if thing["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def pod_of(things):
    """The pod that the DaemonSet controller makes of its template."""
    template = one(things, "DaemonSet")["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "generateName": "keyhole-",
            "namespace": "keyhole",
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "keyhole", "uid": "0", "controller": True,
                "blockOwnerDeletion": True,
            }],
        },
        "spec": template["spec"],
    }


def containers(pod):
    """All containers of a pod, of every kind."""
    spec = pod["spec"]
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in spec.get(kind, [])]
