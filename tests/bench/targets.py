"""What is measured: Keyhole's broker with its readers, its exporter, and node_exporter, each in a memory cgroup of its own."""
import contextlib
import dataclasses
import gzip
import http.client
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error

from launch import (
    BROKER_UID, EXPORTER_UID, PROCESS_TIMEOUT, PROMETHEUS_HEADERS, Keyhole, descendants, fail, free_port, scrape, stop, wait_for,
)

# The broker answers 20 requests a second, and a read counts as twice the time that it took.
PAUSE = 0.06
# CPU is measured over so many scrapes: a garbage collector does not run in each.
BLOCK = 10


class Group:
    """A memory cgroup (version 1, or 2 where the root has the controller); nothing where it cannot be made."""

    def __init__(self, name):
        roots = (pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup"))
        root = next((root for root in roots if (root / "cgroup.procs").is_file()), roots[1])
        self.outside = root / own_group()
        try:
            self.at = pathlib.Path(tempfile.mkdtemp(prefix=f"keyhole-bench-{name}-", dir=root))
        except OSError as error:
            print(f"no memory cgroup, and no figure of kernel memory: {error}", file=sys.stderr)
            self.at = None

    @contextlib.contextmanager
    def entered(self):
        """What is started within is charged to the group from its first page on."""
        if self.at:
            (self.at / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            if self.at:
                (self.outside / "cgroup.procs").write_text(str(os.getpid()))

    def kernel_bytes(self):
        """Kernel memory that is charged to it: descriptors, their buffers, stacks, page tables, sockets."""
        with contextlib.suppress(AttributeError, TypeError, OSError):
            return int((self.at / "memory.kmem.usage_in_bytes").read_text())
        with contextlib.suppress(AttributeError, TypeError, OSError):
            return int(re.search(r"^kernel (\d+)$", (self.at / "memory.stat").read_text(), re.MULTILINE).group(1))
        return float("nan")

    def remove(self):
        if self.at:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    return self.at.rmdir()
                time.sleep(0.02)


def own_group():
    """The path of the cgroup that this process is in, as the memory controller or version 2 has it."""
    rows = [row.split(":", 2) for row in pathlib.Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path.lstrip("/") for _, controllers, path in rows}
    return paths.get("memory", paths.get("", ""))


class Measured(Keyhole):
    """A Keyhole whose processes have memory cgroups, and that can be started again beside itself."""

    def __enter__(self):
        self.groups = {}
        return super().__enter__()

    def spawn(self, program, uid, flags):
        group = self.groups.setdefault(program, Group(program))
        with group.entered():
            return super().spawn(program, uid, [*flags, "--log.level=warn"] if program.endswith("broker") else flags)

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for group in self.groups.values():
            group.remove()

    def start_again(self):
        """Starts another pair, both at once; gives the URL and the processes."""
        sockets = self.home / "again"
        if not sockets.exists():
            sockets.mkdir(mode=0o750)
            os.chown(sockets, BROKER_UID, BROKER_UID)
        address = f"127.0.0.1:{free_port()}"
        ours = dict(cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        socket = f"{sockets}/broker.sock"
        started = []
        for program, uid, flags in (
            ("keyhole-broker", BROKER_UID, [f"--socket.path={socket}", f"--allow-uid={EXPORTER_UID}", *self.broker_flags]),
            ("keyhole-exporter", EXPORTER_UID, [f"--broker.socket={socket}", f"--web.listen-address={address}", *self.exporter_flags]),
        ):
            started.append(subprocess.Popen([self.home / program, *flags], user=uid, group=BROKER_UID, extra_groups=[], **ours))
        return f"http://{address}/metrics", started


class Peer:
    """A node_exporter; a context manager."""

    def __init__(self, name, program, flags):
        self.name, self.source, self.flags = name, program, flags

    def __enter__(self):
        self.group = Group(re.sub(r"\W+", "-", self.name))
        # A copy of its own: pages that two processes share would count half for each in PSS.
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="keyhole-bench-peer-"))
        self.program = shutil.copy(self.source, self.home / "node_exporter")
        with self.group.entered():
            self.url, (self.process,) = self.start_again()

        def ready():
            with contextlib.suppress(OSError):
                return scrape(self.url)

        wait_for("node_exporter", self.process, ready)
        return self

    def start_again(self):
        address = f"127.0.0.1:{free_port()}"
        command = [self.program, f"--web.listen-address={address}", "--log.level=error", *self.flags]
        return f"http://{address}/metrics", [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]

    def __exit__(self, *_):
        stop(self.process)
        self.group.remove()
        shutil.rmtree(self.home, ignore_errors=True)


def family(pid):
    """A process and those that it started: a broker's zygote and readers."""
    return [pid, *descendants(pid)]


def cpu_ns(pid):
    """Nanoseconds on a CPU, user and system, by thread, of a process and those that it started."""
    taken = {}
    for task in tasks(pid):
        with contextlib.suppress(OSError):
            taken[task.name] = int((task / "schedstat").read_text().split()[0])
    return taken


def since(mark, now):
    """Nanoseconds between two times of `cpu_ns`. Of a thread that has ended meanwhile, its last ones are not known."""
    return sum(ns - mark.get(thread, 0) for thread, ns in now.items())


def tasks(pid):
    """The threads of a process and of those that it started, as directories of /proc."""
    for of in family(pid):
        with contextlib.suppress(OSError):
            yield from list(pathlib.Path(f"/proc/{of}/task").iterdir())


def kib(pid, file, key):
    """KiB of a process and those that it started; a figure that the process itself does not have is not known."""
    total = 0
    for of in family(pid):
        found = None
        with contextlib.suppress(OSError):
            found = re.search(rf"^{key}:\s+(\d+) kB$", pathlib.Path(f"/proc/{of}/{file}").read_text(), re.MULTILINE)
        # Of the others, one may have ended meanwhile.
        if found or of == pid:
            total += int(found.group(1)) if found else float("nan")
    return total


@dataclasses.dataclass
class Calls:
    """What a trace of some scrapes saw, a scrape."""

    calls: dict  # by process
    written: dict  # bytes, by process
    files: list  # what was read, by path


class Target:
    """Something to scrape, with the processes that it costs: by name the first of each, which those it starts count to."""

    def __init__(self, name, url, processes, groups, start_again):
        self.name, self.start_again, self.groups = name, start_again, groups
        self.pids = {name: process.pid for name, process in processes.items()}
        self.latencies, self.sizes, self.cpu = [], [], {name: [] for name in self.pids}
        self.last, self.took = 0.0, 0.0
        # Prometheus keeps its connection, too.
        self.connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)

    def scrape(self):
        """One scrape, not sooner than the broker's limit allows; gives the body as it came."""
        time.sleep(max(0.0, self.last + max(PAUSE, 2.5 * self.took) - time.monotonic()))
        start = time.perf_counter()
        self.connection.request("GET", "/metrics", headers=PROMETHEUS_HEADERS)
        answer = self.connection.getresponse()
        body = answer.read()
        self.took, self.last = time.perf_counter() - start, time.monotonic()
        if answer.status != 200:
            fail(f"{self.name} answered {answer.status}: {body[:200]!r}")
        if answer.getheader("Content-Encoding") != "gzip":
            fail(f"{self.name} did not compress")
        return body

    def begin(self, scrapes=BLOCK):
        for _ in range(scrapes):
            body = self.scrape()
        self.text = gzip.decompress(body).decode()
        self.samples = sum(not line.startswith("#") for line in self.text.splitlines())
        self.mark = {name: cpu_ns(pid) for name, pid in self.pids.items()}

    def measure(self):
        self.sizes.append(len(self.scrape()))
        self.latencies.append(1000 * self.took)
        if len(self.latencies) % BLOCK == 0:
            for name, pid in self.pids.items():
                now = cpu_ns(pid)
                self.cpu[name].append(since(self.mark[name], now) / BLOCK / 1e6)
                self.mark[name] = now

    def memory(self):
        """MiB by process: RSS, PSS and what the kernel holds for it."""
        return {
            name: (kib(pid, "status", "VmRSS") / 1024, kib(pid, "smaps_rollup", "Pss") / 1024,
                   self.groups[name].kernel_bytes() / (1 << 20))
            for name, pid in self.pids.items()
        }

    def trace(self, scrapes, home):
        """Scrapes under strace, which slows them: nothing else is taken from these."""
        log = home / "trace"
        pids = [flag for pid in self.pids.values() for of in family(pid) for flag in ("-p", str(of))]
        strace = subprocess.Popen(["strace", "-f", "-qq", "-y", "-s", "0", "-o", log, *pids])
        names = {task.name: name for name, pid in self.pids.items() for task in tasks(pid)}

        def attached():
            return all(
                "TracerPid:\t0\n" not in (task / "status").read_text() for pid in self.pids.values() for task in tasks(pid)
            )

        wait_for("strace", strace, attached)
        whole = True
        for _ in range(scrapes):
            got = gzip.decompress(self.scrape()).decode()
            whole &= sum(not line.startswith("#") for line in got.splitlines()) >= 0.99 * self.samples
        time.sleep(PAUSE)
        strace.send_signal(signal.SIGINT)
        strace.wait(PROCESS_TIMEOUT)
        if not whole:
            print(f"{self.name} was too slow under strace to give all of its samples: no figures of calls", file=sys.stderr)
            unknown = dict.fromkeys(self.pids, float("nan"))
            return Calls(unknown, unknown, [])
        calls, written, files = dict.fromkeys(self.pids, 0), dict.fromkeys(self.pids, 0), set()
        # Which threads write to a socket, as of their last write: a pipe to a reader and an eventfd are no sockets.
        to_socket = {}
        for line in log.read_text(errors="replace").splitlines():
            task, call = line.split(maxsplit=1)
            # What is not known was started meanwhile, which only the first one does: the broker.
            name = names.get(task) or next(iter(self.pids))
            if not call.startswith(("<...", "+++", "---")):
                calls[name] += 1
            if found := re.match(r"(?:write|writev|sendto|sendmsg)\(\d+<([^>]*)", call):
                to_socket[task] = found.group(1).startswith("socket:")
            if found := re.match(r"(?:<\.\.\. )?(?:write|writev|sendto|sendmsg)\b.* = (\d+)$", call):
                written[name] += int(found.group(1)) if to_socket.get(task) else 0
            if found := re.match(r"(?:pread64|read)\(\d+<(/[^>]+)>", call):
                if name == next(iter(self.pids)):
                    files.add(found.group(1))
        log.unlink()
        per = lambda counts: {name: count / scrapes for name, count in counts.items()}
        return Calls(per(calls), per(written), sorted(files))

    def start_up(self, times):
        """Milliseconds from the first exec to the first scrape that was answered, each of `times`."""
        took = []
        for _ in range(times):
            start = time.perf_counter()
            url, started = self.start_again()
            try:
                while True:
                    with contextlib.suppress(OSError, urllib.error.HTTPError):
                        connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
                        connection.request("GET", "/metrics", headers=PROMETHEUS_HEADERS)
                        answer = connection.getresponse()
                        answer.read()
                        if answer.status == 200:
                            break
                    if time.perf_counter() - start > PROCESS_TIMEOUT or any(process.poll() is not None for process in started):
                        fail(f"{self.name} did not answer after its start")
                    time.sleep(0.0005)
                took.append(1000 * (time.perf_counter() - start))
            finally:
                for process in reversed(started):
                    stop(process)
        return took
