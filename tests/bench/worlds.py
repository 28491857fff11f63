"""The hosts that the benchmark measures on: this one, and larger ones made for it.

A world is a context manager that gives the flags for broker, exporter and node_exporter. All but `host` are made inside
namespaces that run.py enters first: what they mount, link and start goes with them.
"""
import contextlib
import dataclasses
import pathlib
import shutil
import subprocess

from launch import REPOSITORY, fail, this_host

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = REPOSITORY / "tests/golden/host/tree"


@dataclasses.dataclass
class World:
    """What is said to the three programs."""

    title: str
    broker: list = dataclasses.field(default_factory=list)
    exporter: list = dataclasses.field(default_factory=list)
    peer: list = dataclasses.field(default_factory=list)
    # How many of what were made, beyond what a smaller world has.
    count: int = 0


def compiled(name, home):
    """A program of this directory, made from its one C file."""
    program = home / name
    command = ["cc", "-O2", "-Wall", "-Werror", "-o", program, HERE / f"{name}.c"]
    if subprocess.run(command).returncode != 0:
        fail(f"{name}.c could not be compiled: apt-get install gcc libc6-dev")
    return program


@contextlib.contextmanager
def mounted(kind, at, options):
    """A file system at `at`, until the end."""
    at.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, kind, at], check=True)
    try:
        yield at
    finally:
        # Lazily: what was stopped may still be letting go of it.
        subprocess.run(["umount", "--lazy", at], check=True)


@contextlib.contextmanager
def host(home, _count):
    yield World("This host as it is", broker=this_host())


@contextlib.contextmanager
def interfaces(home, count, more=()):
    """`count` veth pairs in a network namespace of their own, and the sysfs that shows it."""
    pairs = "".join(f"link add veth{n}a type veth peer name veth{n}b\n" for n in range(count))
    subprocess.run(["ip", "-batch", "-"], input=pairs, text=True, check=True)
    with mounted("sysfs", home / "sys", "ro") as sysfs:
        paths = [f"--path.sysfs={sysfs}"]
        title = " ".join([f"{count} veth pairs", *(f"and {flag}" for flag in more)])
        yield World(title, ["--path.rootfs=/", "--view=host", *paths, *more], paths, paths, 2 * count)


def cached(home, count):
    """The same, with a cached descriptor for every attribute."""
    return interfaces(home, count, ["--descriptor-cache=16384"])


@contextlib.contextmanager
def processes(home, count):
    """`count` sleeping processes, and the collector that looks at each."""
    sleepers = subprocess.Popen([compiled("sleepers", home), str(count)], stdout=subprocess.PIPE)
    if sleepers.stdout.readline() != b"ready\n":
        fail(f"{count} processes could not be started: see pids.max and kernel.pid_max")
    # node_exporter is given the collectors that both have, and so this one.
    flags = ["--collector.processes"]
    try:
        yield World(
            f"{count} processes, with the collector processes", ["--path.rootfs=/", "--view=host", "--allow-processes"],
            flags, count=count,
        )
    finally:
        sleepers.kill()
        sleepers.wait()


class Tree:
    """A fixture tree on tmpfs: the host of the golden test, enlarged."""

    def __init__(self, at):
        self.at = at
        for part in ("proc", "sys"):
            shutil.copytree(GOLDEN / part, self.at / part, symlinks=True)
        # What node_exporter reads through its own process.
        (self.at / "proc/net").symlink_to("1/net")
        (self.at / "proc/self").symlink_to("1")
        mounts = [line.split(" - ") for line in self.text("proc/1/mountinfo").splitlines()]
        self.write("proc/1/mounts", "".join(
            f"{kind.split()[1]} {of.split()[4]} {kind.split()[0]} {of.split()[5]} 0 0\n" for of, kind in mounts
        ))
        self.root = self.at / "root"
        self.root.mkdir()

    def text(self, path):
        return (self.at / path).read_text()

    def write(self, path, text):
        path = self.at / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def append(self, path, text):
        self.write(path, self.text(path) + text)

    def cpus(self, count):
        """CPUs as a server shows them: times, topology, frequencies, throttling, queues of packets."""
        total, *lines = self.text("proc/stat").splitlines()
        own, rest = [line for line in lines if line.startswith("cpu")], [line for line in lines if not line.startswith("cpu")]
        times = own[0].split(" ", 1)[1]
        self.write("proc/stat", "\n".join([total, *(f"cpu{n} {times}" for n in range(count)), *rest]) + "\n")
        processor = self.text("proc/cpuinfo").split("\n\n")[0].split("\n", 1)[1]
        self.write("proc/cpuinfo", "".join(f"processor\t: {n}\n{processor}\n\n" for n in range(count)))
        queue = self.text("proc/1/net/softnet_stat").splitlines()[0].rsplit(" ", 3)[0]
        self.write("proc/1/net/softnet_stat", "".join(f"{queue} {n:08x} 00000000 00000000\n" for n in range(count)))
        schedstat = "version 15\ntimestamp 4300000000\n"
        self.write("proc/schedstat", schedstat + "".join(f"cpu{n} 0 0 0 0 0 0 123456789 23456789 3456{n}\n" for n in range(count)))
        for n in range(count):
            cpu = f"sys/devices/system/cpu/cpu{n}"
            self.write(f"{cpu}/online", "1\n")
            for name, value in (("physical_package_id", n // 64), ("core_id", n % 64)):
                self.write(f"{cpu}/topology/{name}", f"{value}\n")
            for name in ("core_throttle_count", "package_throttle_count"):
                self.write(f"{cpu}/thermal_throttle/{name}", "0\n")
            for name in ("cpuinfo", "scaling"):
                for of, value in (("cur", 2600000), ("min", 800000), ("max", 3600000)):
                    self.write(f"{cpu}/cpufreq/{name}_{of}_freq", f"{value}\n")
            self.write(f"{cpu}/cpufreq/scaling_governor", "performance\n")
            self.write(f"{cpu}/cpufreq/scaling_available_governors", "performance powersave\n")
            # node_exporter finds the CPUs of the bus here.
            link = self.at / f"sys/bus/cpu/devices/cpu{n}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(f"../../../devices/system/cpu/cpu{n}")

    def disks(self, count):
        """Disks with counters and a queue each."""
        names = [f"sd{chr(97 + n // 676)}{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}" for n in range(count)]
        rows = (
            f"{65 + n // 16:4} {n % 16 * 16:7} {name} {1000 + n} 20 300000 400 5000 60 700000 800 0 900 1000 0 0 0 0 11 12\n"
            for n, name in enumerate(names)
        )
        self.append("proc/diskstats", "".join(rows))
        for name in names:
            self.write(f"sys/block/{name}/queue/rotational", "0\n")

    def mounts(self, count):
        """Mount points of disks, each a directory that statfs answers for."""
        points = [f"/var/lib/volumes/volume-{n:04}" for n in range(count)]
        of_self = enumerate(points, 1000)
        self.append("proc/1/mountinfo", "".join(
            f"{n} 1 259:{n} / {point} rw,relatime shared:{n} - ext4 /dev/nvme{n}n1 rw\n" for n, point in of_self
        ))
        self.append("proc/1/mounts", "".join(
            f"/dev/nvme{n}n1 {point} ext4 rw,relatime 0 0\n" for n, point in enumerate(points, 1000)
        ))
        for point in points:
            (self.root / point[1:]).mkdir(parents=True)

    def links(self, count):
        """Interfaces of pods, as the host's end of a veth pair shows them."""
        names = [f"veth{n:08x}" for n in range(count)]
        row = "  123456     789    0    0    0     0          0         0   234567     890    0    0    0     0       0          0"
        self.append("proc/1/net/dev", "".join(f"{name}: {row}\n" for name in names))
        for number, name in enumerate(names, 10):
            shutil.copytree(self.at / "sys/class/net/eth0", self.at / "sys/class/net" / name, symlinks=True)
            self.write(f"sys/class/net/{name}/ifindex", f"{number}\n")


@contextlib.contextmanager
def fixture(home, title, count=0, **parts):
    """A tree with so many of each part."""
    with mounted("tmpfs", home / "tree", "mode=755") as at:
        tree = Tree(at)
        for part, of in parts.items():
            getattr(tree, part)(of)
        paths = [f"--path.procfs={at}/proc", f"--path.sysfs={at}/sys", f"--path.rootfs={at}/root"]
        # node_exporter would ask netlink, which knows of no tree.
        yield World(title, ["--view=host", *paths], [], [*paths, "--no-collector.netdev.netlink"], count)


def tree(home, _count):
    return fixture(home, "The fixture tree that others enlarge")


def cpus(home, count):
    return fixture(home, f"{count} CPUs", count, cpus=count)


def disks(home, count):
    return fixture(home, f"{count} disks", count, disks=count)


def mounts(home, count):
    return fixture(home, f"{count} mounts", count, mounts=count)


def node(home, _count):
    return fixture(home, "A node of a cluster: 64 CPUs, 4 disks, 30 mounts, 60 interfaces of pods", cpus=64, disks=4, mounts=30, links=60)


# name: (its context manager, how many by default, what its growth is measured from)
WORLDS = {
    "host": (host, 0, None),
    "interfaces": (interfaces, 200, "host"),
    "cached": (cached, 200, "host"),
    "processes": (processes, 5000, "host"),
    "tree": (tree, 0, None),
    "cpus": (cpus, 128, "tree"),
    "disks": (disks, 1000, "tree"),
    "mounts": (mounts, 2000, "tree"),
    "node": (node, 0, None),
}
