"""Where the siege takes place: a network of Ethernet's MTU, the programs under attack, and a look at what they use."""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "peers"), str(HERE.parent / "bench")]

from launch import BROKER_UID, EXPORTER_UID, REPOSITORY, Keyhole, fail, stop, this_host, wait_for  # noqa: E402
from targets import family, kib  # noqa: E402
from worlds import World, fixture  # noqa: E402

SERVER, ATTACKERS, PROMETHEUS = "10.99.0.1", "10.99.0.2", "10.99.0.3"
PORT = 9100
# Each user's password and its hash by bcrypt, at the usual cost of 10. The first is Prometheus'; the others are new.
USERS = {
    "prometheus": ("secret", "$2b$10$zgzGTEpumuM4BOQyj/nWpeS0Vxh0I96lkzInVlWwvS7lfDDfMNH7W"),
    "first": ("first", "$2b$10$FIy4uUgPbxEveedipcDUdO30A/udHHMRTNAFpEL9v1UaF9PpLRLzy"),
    "second": ("second", "$2b$10$yjudhV0tpgTSFU/X3qDASeMj6O0D9COu8Oa/NftKXkgyX2twyTSW2"),
    "third": ("third", "$2b$10$3VI./gySWiP3jLrBssUNUeOsDqmUTtjyOqt/7t8vNJjqomyIltRHC"),
    "fourth": ("fourth", "$2b$10$IxPoich9MtVlBc4YUvRIVukZM4JSX5JQVi/0uT.vPiiCKGm7ygdmm"),
    "fifth": ("fifth", "$2b$10$m97sNbIWmtfg2wKo4x50YO/3cSqw1Iv4ZpCBPJWRcQr08eb/7/76i"),
}
# Disks of the host with the large page, which is then of 1.6 MB.
DISKS = 1300
SAMPLE_INTERVAL = 0.1


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


class Network:
    """A link of MTU 1500 to a network namespace for the clients. The servers are in this process' own namespace.

    Both namespaces have no name: they and the link end with the last process in them, however that ends.
    """

    def __enter__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        wait_for("the clients' namespace", self.holder, lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != own)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "siege0", "mtu", 1500, "type", "veth", "peer", "name", "siege1", "mtu", 1500, "netns", self.holder.pid)
        # A packet is a segment of Ethernet's size: no 64 KiB at once, as loopback has and a veth pair by itself.
        packets = ["gso_max_size", 1500, "gso_max_segs", 1]
        run("ip", "address", "add", f"{SERVER}/24", "dev", "siege0")
        run("ip", "link", "set", "siege0", *packets, "up")
        for address in (ATTACKERS, PROMETHEUS):
            run(*self.inside("ip", "address", "add", f"{address}/24", "dev", "siege1"))
        run(*self.inside("ip", "link", "set", "siege1", *packets, "up"))
        return self

    def inside(self, *command):
        """A command for the clients' side."""
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command]

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()


@contextlib.contextmanager
def page(name, home):
    """What the programs read: this host, or one with a page of 1.6 MB."""
    if name == "host":
        yield World("this host", this_host())
    else:
        with fixture(home, "a host with a large page", disks=DISKS) as world:
            yield world


class WebConfiguration:
    """A directory with a file of exporter-toolkit's shape."""

    def __init__(self, home, tls, users):
        self.flags = []
        if not tls and not users:
            return
        at = home / f"web-{'tls' if tls else 'plain'}{'-users' if users else ''}"
        if not at.exists():
            at.mkdir()
            text = ""
            if tls:
                run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2,
                    "-subj", "/CN=siege", "-keyout", at / "tls.key", "-out", at / "tls.crt")
                (at / "tls.key").chmod(0o644)
                text += "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"
            if users:
                text += "basic_auth_users:\n" + "".join(f"  {user}: {hash_}\n" for user, (_, hash_) in USERS.items())
            (at / "web.yml").write_text(text)
        self.flags = [f"--web.config.file={at}/web.yml"]


class Ours(Keyhole):
    """A broker and an exporter that listens on the link."""

    name = "Keyhole"

    def __init__(self, directory, world, web):
        super().__init__(directory, world.broker, [*world.exporter, *web.flags])
        self.command = {}

    def spawn(self, program, uid, flags):
        self.command[program] = (uid, flags)
        return super().spawn(program, uid, flags)

    def start_exporter(self):
        flags = [f"--broker.socket={self.socket}", f"--web.listen-address={SERVER}:{PORT}", *self.exporter_flags]
        self.exporter = self.spawn("keyhole-exporter", EXPORTER_UID, flags)
        log = self.home / "keyhole-exporter.log"
        wait_for("the exporter", self.exporter, lambda: "msg=listening" in log.read_text())
        self.main = self.exporter

    def replace_broker(self):
        """Starts the broker again where it was. The log goes on in a file of its own."""
        log = self.home / "keyhole-broker.log"
        log.rename(self.home / "keyhole-broker-before.log")
        self.broker = self.spawn("keyhole-broker", *self.command["keyhole-broker"])

    def logs(self):
        return list(self.home.glob("*.log"))

    def pids(self):
        """The broker stands for its readers too."""
        return [self.exporter.pid, self.broker.pid]

    def ended(self):
        return [name for name, process in (("exporter", self.exporter), ("broker", self.broker)) if process.poll() is not None]


class NodeExporter:
    """A node_exporter beside it."""

    def __init__(self, world, web):
        self.flags = [f"--web.listen-address={SERVER}:{PORT}", *world.peer, *web.flags]
        self.program, self.name = node_exporter()

    def __enter__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="keyhole-siege-peer-"))
        with open(self.home / "node_exporter.log", "w") as log:
            self.main = subprocess.Popen(
                [self.program, *self.flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                user=EXPORTER_UID, group=BROKER_UID, extra_groups=[],
            )
        wait_for("node_exporter", self.main, lambda: "istening on" in self.logs()[0].read_text())
        return self

    def logs(self):
        return list(self.home.glob("*.log"))

    def pids(self):
        return [self.main.pid]

    def ended(self):
        return ["node_exporter"] if self.main.poll() is not None else []

    def __exit__(self, *_):
        stop(self.main)
        shutil.rmtree(self.home, ignore_errors=True)


def node_exporter():
    """The newest node_exporter that is there, and its name with the version: .ci/setup builds one where there is Go."""
    built = REPOSITORY / "target/ci-tools/go/bin/node_exporter"
    if built.is_file():
        # `go install` sets no version; Go's own record in the program has it.
        found = re.search(rb"mod\tgithub.com/prometheus/node_exporter\tv([\d.]+)\t", built.read_bytes())
        if found:
            return built, f"node_exporter {found.group(1).decode()}"
    program = shutil.which("prometheus-node-exporter") or fail("prometheus-node-exporter is missing: run .ci/setup")
    text = subprocess.run([program, "--version"], capture_output=True, text=True)
    return program, f"node_exporter {re.search(r'version ([0-9.]+)', text.stdout + text.stderr).group(1)}"


def socket_memory():
    """Bytes that the kernel holds in buffers of TCP, of this machine."""
    found = re.search(r"^TCP: .* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return int(found.group(1)) * os.sysconf("SC_PAGE_SIZE")


def use(service):
    """What a service uses now: MiB, descriptors, threads, bytes of log, MiB in the kernel's buffers."""
    pids = service.pids()
    count = lambda pid, directory: len(os.listdir(f"/proc/{pid}/{directory}"))
    return {
        "rss": sum(kib(pid, "status", "VmRSS") for pid in pids) / 1024,
        "high": sum(kib(pid, "status", "VmHWM") for pid in pids) / 1024,
        "main": kib(service.main.pid, "status", "VmHWM") / 1024,
        "descriptors": count(service.main.pid, "fd"),
        "threads": sum(count(pid, "task") for pid in pids),
        "log": sum(log.stat().st_size for log in service.logs()),
        "buffers": socket_memory() / (1 << 20),
    }


class Monitor(threading.Thread):
    """Looks at a service until it is stopped, and remembers the most of everything."""

    def __init__(self, service, too_much):
        super().__init__(daemon=True)
        self.service, self.too_much = service, too_much
        for pid in [each for root in service.pids() for each in family(root)]:
            # The high-water mark of memory begins again.
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = use(service)
        self.peak = dict(self.before)
        self.done, self.overflow = threading.Event(), threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(SAMPLE_INTERVAL):
            # A process that ends meanwhile has no figures; that it ended is seen elsewhere.
            with contextlib.suppress(OSError):
                for name, value in use(self.service).items():
                    self.peak[name] = max(self.peak[name], value)
            if self.peak["high"] - self.before["rss"] > self.too_much:
                self.overflow.set()

    def stop(self):
        self.done.set()
        self.join(10)
        return self.peak
