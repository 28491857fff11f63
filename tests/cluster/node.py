"""A node for control_plane.py's cluster: containerd with runc, and a kubelet, in a mount namespace of their own.

What it mounts goes with that namespace, in which /run, /var/log and /var/lib are its own. The PID and network namespaces are
the machine's, as a node's are: its processes and the counters of its interfaces are what pods are to show.
"""
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import time

import yaml

from control_plane import NODE, free_port

CGROUPS = pathlib.Path("/sys/fs/cgroup")
# Names that a registry would give them; nothing pulls them.
REGISTRY = "registry.example"
PAUSE = f"{REGISTRY}/pause:1"
# What a kubelet and a bridge set for the whole machine. It is set back.
SYSCTLS = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
           "kernel/keys/root_maxbytes", "net/ipv4/ip_forward"]
# A range for tests of networks, which nobody routes (RFC 2544).
NETWORK = "198.18.{}"
# Seconds.
START, STOP = 90, 20

# $1 is the test's directory, $2 the first process.
INIT = """
set -e
mount --make-rshared /
for directory in run var/log var/lib; do mount -t tmpfs -o mode=755 tmpfs /$directory; done
mkdir -p /run/udev/data /var/lib/kubelet /var/lib/containerd
mount --bind "$1/kubelet" /var/lib/kubelet
mount --bind "$1/containerd" /var/lib/containerd
touch "$1/made"
exec "$2"
"""

CONTAINERD = """\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
# The machine may lack CAP_SYS_RESOURCE, without which nothing is given a lower score than its parent's.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{programs}"]
conf_dir = "{directory}/cni"
"""


class Node:
    """A running one, `NODE`; its processes' numbers are the machine's."""

    def __init__(self, directory, plane, programs, runtime, runc=None):
        self.directory = pathlib.Path(directory)
        self.plane, self.programs, self.runtime = plane, pathlib.Path(programs), pathlib.Path(runtime)
        self.runc = pathlib.Path(runc or self.runtime / "runc")
        self.mark = f"keyhole-{os.getpid()}"
        self.bridge = f"kh{os.getpid()}"
        self.network = NETWORK.format(os.getpid() % 256)
        self.address = f"{self.network}.1"
        self.init, self.running = None, {}
        self.sysctls = {}

    def __enter__(self):
        # What the machine has now, before anything is changed.
        self.sysctls = {name: pathlib.Path("/proc/sys", name).read_text() for name in SYSCTLS}
        try:
            self.make()
            self.start_containerd()
            self.start_kubelet()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            self.stop(name)
        if self.init:
            self.kill_all()
            self.init.kill()
            self.init.wait()
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, timeout=STOP)
        for name, value in self.sysctls.items():
            if pathlib.Path("/proc/sys", name).read_text() != value:
                pathlib.Path("/proc/sys", name).write_text(value)
        left = self.remove_cgroups()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left, f"left behind: {left}"
        assert not self.directory.exists(), f"left behind: {self.directory}"

    def kill_all(self):
        """Containers, by their control groups, and what else is in the mount namespace: the shims that hold them."""
        deadline = time.monotonic() + STOP
        while time.monotonic() < deadline:
            found = []
            for parent in self.controllers():
                for path in (parent / self.mark).glob("**/cgroup.procs"):
                    # A group goes with its last process.
                    with contextlib.suppress(OSError):
                        found += map(int, path.read_text().split())
            namespace = os.readlink(f"/proc/{self.init.pid}/ns/mnt")
            for path in pathlib.Path("/proc").glob("[0-9]*/ns/mnt"):
                with contextlib.suppress(OSError):
                    if os.readlink(path) == namespace:
                        found.append(int(path.parts[2]))
            found = set(found) - {self.init.pid}
            if not found:
                return
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    def make(self):
        for name in ("kubelet", "containerd", "cni"):
            (self.directory / name).mkdir(parents=True)
        for parent in self.controllers():
            (parent / self.mark).mkdir()
        for command in (["ip", "link", "add", self.bridge, "type", "bridge"],
                        ["ip", "address", "add", f"{self.address}/24", "dev", self.bridge],
                        ["ip", "link", "set", self.bridge, "up"]):
            subprocess.run(command, check=True, timeout=STOP)
        (self.directory / "cni/10-bridge.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "name": self.mark, "plugins": [{
                "type": "bridge", "bridge": self.bridge, "ipMasq": False,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": f"{self.network}.0/24", "rangeStart": f"{self.network}.2"}]]},
            }]}))
        self.init = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", INIT, "sh", self.directory,
             self.runtime / "pause"], stdin=subprocess.DEVNULL)
        self.wait_for("the node's mounts", (self.directory / "made").exists)

    def controllers(self):
        """Where a control group is made: on version 1 in each hierarchy."""
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS]
        return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]

    def remove_cgroups(self):
        """Those that are left, after waiting for the kernel."""
        deadline = time.monotonic() + STOP
        while True:
            left = []
            for parent in self.controllers():
                for directory, _, _ in os.walk(parent / self.mark, topdown=False):
                    try:
                        os.rmdir(directory)
                    except OSError as error:
                        left.append(f"{directory}: {error.strerror}")
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)

    def within(self, *command):
        """The command line of a program in the node, which ends with the process that starts it."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(self.init.pid), "--mount", *map(str, command)]

    def start(self, name, *command):
        with open(self.directory / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                self.within(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PATH": f"{self.runtime}:{os.environ['PATH']}:/usr/sbin:/sbin"})

    def stop(self, name):
        """Kills it. What it has started goes on."""
        process = self.running.pop(name)
        process.kill()
        process.wait(STOP)

    def tail(self, name):
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def wait_for(self, what, condition, seconds=START):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.tail(name)}"
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                if condition():
                    return
            time.sleep(0.2)
        raise AssertionError(f"{what}: not within {seconds} s\n" + "\n".join(
            f"the end of {name}'s log:\n{self.tail(name)}" for name in self.running))

    def ctr(self, *arguments, seconds=60):
        return subprocess.run(self.within(self.runtime / "ctr", "--namespace=k8s.io", *arguments), check=True,
                              capture_output=True, text=True, timeout=seconds).stdout

    def start_containerd(self):
        configuration = self.directory / "containerd.toml"
        configuration.write_text(CONTAINERD.format(
            pause=PAUSE, runc=self.runc, programs=self.runtime, directory=self.directory))
        self.start("containerd", self.runtime / "containerd", "--config", configuration)
        self.wait_for("containerd", lambda: self.ctr("version"))
        if PAUSE not in self.ctr("images", "list", "--quiet"):
            self.load(pause_image(self.directory, self.runtime / "pause"))

    def load(self, archive):
        """Makes an image known, as if it had been pulled."""
        self.ctr("images", "import", archive)

    def start_kubelet(self):
        kubeconfig = self.directory / "kubelet.kubeconfig"
        self.plane.write_kubeconfig(kubeconfig, self.plane.node_token)
        configuration = self.directory / "kubelet.yaml"
        configuration.write_text(yaml.safe_dump({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": self.address, "port": free_port(), "healthzPort": 0, "readOnlyPort": 0,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": str(self.plane.authority)}},
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.mark}", "failCgroupV1": False, "failSwapOn": False,
            "makeIPTablesUtilChains": False, "oomScoreAdj": 0, "maxOpenFiles": 4096, "resolvConf": "",
            # Nothing listens there; without one each pod has a warning.
            "clusterDNS": [self.address],
            # A machine whose disk is nearly full is no reason to evict.
            "evictionHard": {"memory.available": "64Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "2s",
        }))
        self.start("kubelet", self.programs / "kubelet", f"--config={configuration}", f"--kubeconfig={kubeconfig}",
                   "--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki", f"--hostname-override={NODE}",
                   f"--node-ip={self.address}", "--v=2")
        # The API server finds a kubelet's port in the node's status: an answer is that of this one.
        self.wait_for("the kubelet answers", lambda: self.plane.kubectl(
            "get", "--raw", f"/api/v1/nodes/{NODE}/proxy/healthz") == "ok")
        self.wait_for("the node is ready", lambda: self.plane.kubectl(
            "get", "node", NODE, "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}") == "True")

    def root(self, path="/"):
        """A path of the node, as the machine sees it."""
        return pathlib.Path(f"/proc/{self.init.pid}/root", str(path).lstrip("/"))

    def processes(self, container):
        """The numbers of a container's processes, the first one first."""
        found = sorted((CGROUPS / ("" if self.controllers() == [CGROUPS] else "memory") / self.mark).glob(f"**/{container}/cgroup.procs"))
        assert len(found) == 1, f"{container}: {len(found)} control groups"
        return sorted(map(int, found[0].read_text().split()))

    def peak_memory(self, container):
        """The most bytes that a container used, or none where the kernel does not count that."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            for path in CGROUPS.glob(f"{'' if self.controllers() == [CGROUPS] else 'memory/'}{self.mark}/**/{container}/{name}"):
                return int(path.read_text())
        return None


def pause_image(directory, program):
    """An archive with the image that holds a pod's namespaces: one program, and what describes it."""
    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}
    blobs = {}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = program.stat().st_size, 0o755
        with open(program, "rb") as file:
            files.addfile(entry, file)
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", **blob(layer.getvalue())}
    config = blob(json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}).encode())
    manifest = blob(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config}, "layers": [layer]}).encode())
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest,
        "annotations": {"io.containerd.image.name": PAUSE}}]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    archive = directory / "pause.tar"
    with tarfile.open(archive, mode="w") as files:
        for name, data in blobs.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            files.addfile(entry, io.BytesIO(data))
    return archive
