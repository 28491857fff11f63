"""Podman in namespaces of its own: what it mounts, listens on and stores is gone when the test ends."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import launch

CONTAINERS_CONF = """\
[containers]
# A bare machine may lack CAP_SYS_RESOURCE, without which podman's own defaults cannot be set.
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{home}/tmp"
"""
STORAGE_CONF = """\
[storage]
driver = "vfs"
graphroot = "{home}/storage"
runroot = "{home}/run"
"""
# In a mount namespace of its own: what podman, runc and buildah leave at fixed places goes with it.
PRIVATE = "mount -t tmpfs tmpfs /run && mkdir -p /var/lib/containers && mount -t tmpfs tmpfs /var/lib/containers"
NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
# Set in there: the namespaces outside.
OUTSIDE = "KEYHOLE_CONTAINERS_OUTSIDE"


def namespaces(pid):
    """The namespaces of a process, as `kind:[number]`."""
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES}


def unshare():
    """Runs this program again in network and mount namespaces of its own; returns in there, with the namespaces outside."""
    outside = os.environ.get(OUTSIDE)
    if outside:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return set(outside.split())
    if os.geteuid() != 0:
        launch.fail("not root: podman and network namespaces need it")
    program = [sys.executable, *sys.argv]
    os.environ[OUTSIDE] = " ".join(namespaces("self"))
    os.execvp("unshare", ["unshare", "--net", "--mount", "sh", "-c", f'{PRIVATE} && exec "$@"', "sh", *program])


class Podman:
    """Podman with a storage of its own below target/; a context manager.

    The storage lies on the host's disk, as a kubelet's does: a broker may be asked for the file system of an emptyDir.
    """

    def __init__(self):
        parent = launch.REPOSITORY / "target"
        parent.mkdir(exist_ok=True)
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="containers-", dir=parent))
        for name, text in (("containers", CONTAINERS_CONF), ("storage", STORAGE_CONF)):
            (self.home / f"{name}.conf").write_text(text.format(home=self.home))
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.home / "storage.conf"),
            "TMPDIR": str(self.home),
        }
        self.pods = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.pods:
            self("pod", "rm", "--force", "--time", "5", name, check=False)
        left = self("ps", "--all", "--quiet", check=False).stdout.split()
        remove_cgroups()
        shutil.rmtree(self.home, ignore_errors=True)
        if left or self.home.exists():
            raise RuntimeError(f"left behind: {left or self.home}")

    def __call__(self, *arguments, check=True, text=None, program="podman", timeout=60):
        """Runs podman; its output. A failure is an error that shows what it said."""
        done = subprocess.run(
            [program, *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, input=text, timeout=timeout,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(map(str, arguments))}: status {done.returncode}: {done.stderr.strip()}")
        return done

    def play(self, pod):
        """Starts a Pod with a network namespace of its own and nothing in it but `lo`; emptyDirs are as the kubelet makes them."""
        name = pod["metadata"]["name"]
        for volume in pod["spec"].get("volumes", []):
            # Everyone may write to an emptyDir, and one in memory is a file system of its own.
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                memory = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=mode=0777"]
                self("volume", "create", *memory, volume["name"])
        self.pods.append(name)
        self("play", "kube", "--network", "none", "-", text=json.dumps(pod), timeout=120)

    def remove(self, pod):
        """Removes a pod and its emptyDirs."""
        name = pod["metadata"]["name"]
        self("pod", "rm", "--force", "--time", "5", name)
        self.pods.remove(name)
        for volume in pod["spec"].get("volumes", []):
            # Some are gone with the pod.
            if "emptyDir" in volume:
                self("volume", "rm", volume["name"], check=False)

    def inspect(self, container):
        """What podman knows of a container."""
        return json.loads(self("container", "inspect", container).stdout)[0]

    def pid(self, container):
        """The container's first process, or 0."""
        return self.inspect(container)["State"]["Pid"]

    def connect(self, pod, index):
        """Joins this network namespace and the pod's by a pair of interfaces; the pod's address."""
        infra = json.loads(self("pod", "inspect", pod["metadata"]["name"]).stdout)["InfraContainerID"]
        pid = self.pid(infra)
        here, there = f"10.64.{index}.1", f"10.64.{index}.2"
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        for command in (
            ["ip", "link", "add", f"pod{index}", "type", "veth", "peer", "name", "eth0", "netns", str(pid)],
            ["ip", "address", "add", f"{here}/30", "dev", f"pod{index}"],
            ["ip", "link", "set", f"pod{index}", "up"],
            [*inside, "ip", "address", "add", f"{there}/30", "dev", "eth0"],
            [*inside, "ip", "link", "set", "eth0", "up"],
        ):
            subprocess.run(command, check=True, timeout=10)
        return there


def remove_cgroups():
    """Removes podman's empty groups; a group that is not empty is somebody else's, and stays."""
    for parent in pathlib.Path("/sys/fs/cgroup").glob("**/libpod_parent"):
        for directory, _, _ in os.walk(parent, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass


def until(what, seconds, ready):
    """Asks until there is an answer, for so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.1)
    return answer
