"""What kubectl shows when the pods do not start, each cause made for real.

The table of deploy/kubernetes/README.md, "When pods do not start", quotes it: what is quoted must be what is shown.
"""
import contextlib
import json
import re
import time

import images
import kustomize
import yaml
from api import wait_for
from control_plane import NODE
from world import NAMESPACE

SECTION = "When pods do not start"
# A runtime whose features lack recursively read-only mounts, as those of runc before 1.1 do.
OLD_RUNC = """\
#!/bin/sh
[ "$1" = features ] || exec "{runc}" "$@"
"{runc}" features | sed '/"rro"/d'
"""
HOST_USERS = [{"op": "add", "path": "/spec/template/spec/hostUsers", "value": False}]


def table():
    """The table's rows: what is quoted of kubectl, by the cause."""
    text = (kustomize.KUBERNETES / "README.md").read_text()
    (section,) = re.findall(rf"^## {SECTION}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    return {cause.strip(): re.findall(r"`([^`]+)`", shown) for shown, cause, _ in lines}


def squeezed(text):
    return re.sub(r"\s+", " ", text)


def seen(run):
    """What kubectl shows of the namespace, without line breaks."""
    parts = [run.kubectl("get", kinds, check=False).stdout for kinds in ("pods", "events")]
    parts += [run.kubectl("describe", kind, check=False).stdout for kind in ("pods", "daemonsets", "persistentvolumeclaims")]
    volume = run.cluster.kubectl("get", "persistentvolume", "keyhole-proc", check=False)
    parts += [volume.stdout, volume.stderr]
    return squeezed(" ".join(parts))


def quoted(run, cause, also="", seconds=120):
    """Waits until kubectl shows all that the table quotes for a cause; … stands for anything."""
    rows = table()
    assert rows.get(cause), f"nothing is quoted for {cause}"
    deadline = time.monotonic() + seconds
    while True:
        text = seen(run) + squeezed(also)
        missing = [quote for quote in rows[cause] if not all(part.strip() in text for part in squeezed(quote).split("…"))]
        if not missing:
            return
        assert time.monotonic() < deadline, f"{missing} not in: {text}"
        time.sleep(1)


@contextlib.contextmanager
def site(run, overlay, components=(), **fields):
    """An installation that is removed again; its policies are in force."""
    it = run.site(overlay, components, **fields)
    it.apply_policies()
    try:
        yield it
    finally:
        it.remove()


def no_image(run, cause):
    with site(run, "minimal", images=[{**each, "newTag": "missing"} for each in images.IMAGES]) as it:
        it.apply()
        quoted(run, cause)


def no_volume(run, cause):
    """The claims are there, and what an admin makes is not."""
    with site(run, "restricted-pv") as it:
        it.apply("--selector", "app.kubernetes.io/component!=admission-policy")
        run.cluster.kubectl("delete", "pv", "keyhole-proc", "keyhole-sys", "--wait=false")
        run.kubectl("delete", "pvc", "--all", "--wait=false")
        run.kubectl("delete", "pods", "--all", "--timeout=60s")
        wait_for("the volumes are gone", lambda: not run.admin.exists("/api/v1/persistentvolumes/keyhole-proc"))
        for name in ("keyhole-proc", "keyhole-sys"):
            run.cluster.kubectl("apply", "--filename", "-", input=claim(it, name))
        quoted(run, cause)


def claim(it, name):
    return yaml.safe_dump(kustomize.one(it.things, "PersistentVolumeClaim", name))


def bound_volume(run, cause):
    """A claim is deleted and made again: its volume is the former one's."""
    with site(run, "restricted-pv") as it:
        it.apply()
        run.wait_until_ready()
        run.kubectl("delete", "pvc", "--all", "--wait=false")
        run.kubectl("delete", "pods", "--all", "--timeout=60s")
        wait_for("the claims are gone", lambda: not run.admin.exists(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/keyhole-proc"))
        for name in ("keyhole-proc", "keyhole-sys"):
            run.cluster.kubectl("apply", "--filename", "-", input=claim(it, name))
        quoted(run, cause)


def old_runtime(run, cause):
    """containerd and the kubelet are started again with a runtime that cannot mount recursively read-only."""
    old = run.node.directory / "old-runc"
    old.write_text(OLD_RUNC.format(runc=run.node.runtime / "runc"))
    old.chmod(0o755)
    good = run.node.runc
    restarted_with(run, old)
    try:
        handlers = run.admin.get(f"/api/v1/nodes/{NODE}")["status"]["runtimeHandlers"]
        assert not any(each["features"].get("recursiveReadOnlyMounts") for each in handlers), handlers
        with site(run, "restricted-pv") as it:
            it.apply()
            quoted(run, cause)
    finally:
        restarted_with(run, good)


def restarted_with(run, runc):
    run.node.runc = runc
    for name in ("kubelet", "containerd"):
        run.node.stop(name)
    run.node.start_containerd()
    run.node.start_kubelet()


def by_policy(run, cause):
    """The namespace's level is one that the pods do not meet."""
    with site(run, "restricted-pv", ["root"]) as it:
        it.apply()
        run.cluster.kubectl("label", "--overwrite", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        run.kubectl("delete", "pods", "--all", "--timeout=60s")
        quoted(run, cause)


def other_image(run, cause):
    """On privileged-hostpath the policy names the images, and a kustomization that sets others has to repeat that."""
    it = run.site("privileged-hostpath", replacements=[])
    it.apply_policies()
    try:
        done = run.cluster.kubectl("apply", "--kustomize", it.directory, check=False)
        assert done.returncode != 0
        quoted(run, cause, also=done.stderr)
    finally:
        it.remove()


def no_secret(run, cause):
    with site(run, "minimal", ["web-config"]) as it:
        it.apply()
        quoted(run, cause)


def user_namespaces(run, overlay):
    """On minimal the pod runs; the host's directories cannot be mounted for other users."""
    with site(run, overlay) as it:
        it.apply()
        run.wait_until_ready()
        run.kubectl("patch", "daemonset", "keyhole", "--type=json", "--patch", json.dumps(HOST_USERS))
        if overlay != "minimal":
            quoted(run, "`hostUsers: false` with the host's directories, whose file systems the kernel cannot map to other users")
            return "the broker's container cannot be made"
        run.wait_until_ready()
        run.good_scrape()
        with open(f"/proc/{run.first_process('exporter')}/uid_map") as file:
            assert file.read().split()[1] != "0", "no user namespace"
        return "2/2, and scraped"


CASES = {
    "the node cannot pull the image": no_image,
    "a PersistentVolume is missing": no_volume,
    "the PersistentVolume still belongs to a claim that was deleted": bound_volume,
    "the container runtime, or the kernel (before 5.12), has no recursively read-only mounts": old_runtime,
    "the namespace enforces a level of Pod Security that the pod does not meet": by_policy,
    "on `privileged-hostpath`, images other than the policy's": other_image,
    "with `web-config`, the Secret is missing": no_secret,
}
