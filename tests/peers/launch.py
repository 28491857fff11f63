#!/usr/bin/env python3
"""Starts a broker and an exporter for a test against a peer, and stops both again.

usage: launch.py [--binaries DIR] [--broker FLAG]... [--exporter FLAG]... scrape
       launch.py [--binaries DIR] [--broker FLAG]... [--exporter FLAG]... run COMMAND [ARGUMENT]...

  scrape   prints one scrape
  run      runs a command with KEYHOLE_URL (the metrics page) and KEYHOLE_SOCKET in its environment; its exit status
           is the command's

As root the broker runs as uid 64646 and the exporter as 64647, as in a cluster; else both run as the user. Without a
--broker flag the readers read this host. DIR is target/release unless it or KEYHOLE_BINARIES says otherwise.

Other scripts in this directory import it. Python's standard library is all it needs.
"""
import argparse
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

BROKER_UID, EXPORTER_UID = 64646, 64647
# The broker starts the reader, which it looks for beside itself.
PROGRAMS = ("keyhole-broker", "keyhole-reader", "keyhole-exporter")
BESIDE = {"keyhole-broker": ["keyhole-reader"]}
PROCESS_TIMEOUT = 20  # seconds that a process may take to start, and to stop
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
# What Prometheus sends with a scrape.
PROMETHEUS_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}


def fail(message):
    """Ends the program with a line that says why."""
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: error: {message}")


def binaries(given=None):
    """The directory with the programs."""
    directory = pathlib.Path(given or os.environ.get("KEYHOLE_BINARIES") or REPOSITORY / "target/release").resolve()
    for program in PROGRAMS:
        if not (directory / program).is_file():
            fail(f"{directory / program} is missing: run cargo build --release {' '.join(f'-p {of}' for of in PROGRAMS)}")
    return directory


def fetch(url, timeout=10, headers={}):
    """Status and body of a GET; a body that comes compressed is left so."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def scrape(url):
    """A scrape's text; it must succeed."""
    status, body = fetch(url)
    if status != 200:
        fail(f"{url} answered {status}: {body.decode(errors='replace').strip()}")
    return body.decode()


def free_port():
    """A port of 127.0.0.1 that was free a moment ago, for programs that cannot choose one and report it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, process, ready):
    """Asks until there is an answer; fails when the process ends or takes too long."""
    deadline = time.monotonic() + PROCESS_TIMEOUT
    while time.monotonic() < deadline:
        answer = ready()
        if answer:
            return answer
        if process.poll() is not None:
            fail(f"{what} ended with status {process.returncode}")
        time.sleep(0.05)
    fail(f"{what} was not ready within {PROCESS_TIMEOUT} s")


def wait_for_page(what, process, url):
    """Waits until a process answers at `url` with 200."""
    def answers():
        try:
            return fetch(url)[0] == 200
        except OSError:
            return None

    wait_for(what, process, answers)


def descendants(pid):
    """The processes that a process started, and that those started, as long as they live."""
    found = [pid]
    for parent in found:
        for children in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found[1:]


def stop(process):
    """Asks a process of ours to stop, and ends it when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PROCESS_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def this_host():
    """Broker flags to read this host."""
    flags = ["--path.rootfs=/"]
    for flag, path in (("--path.os-release", "/etc/os-release"), ("--path.udev.data", "/run/udev/data")):
        if os.path.exists(path):
            flags.append(f"{flag}={path}")
    try:
        kthreadd = pathlib.Path("/proc/2/stat").read_text().startswith("2 (kthreadd) ")
    except OSError:
        kthreadd = False
    # Inside a container the "host" that a peer sees as well is the container.
    return flags if kthreadd else flags + ["--view=host"]


KUBECTL_EXEC = "kubectl -n keyhole exec -i $pod -c exporter -- /keyhole-exporter"


def start_tunnel(socket_path, exporter):
    """Starts the socat of docs/queries.md, for clients outside of a pod: a socket that leads to the broker.

    `exporter` takes the place of the documented `kubectl exec` of the exporter.
    """
    text = (REPOSITORY / "docs/queries.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("$ socat ")]
    program, listen, execute = shlex.split(line[2:])
    if not execute.startswith(f"EXEC:{KUBECTL_EXEC} ") or not listen.startswith("UNIX-LISTEN:broker.sock,"):
        fail(f"docs/queries.md has another command: {line}")
    listen, execute = listen.replace("broker.sock", str(socket_path)), execute.replace(KUBECTL_EXEC, exporter)
    process = subprocess.Popen([program, listen, execute], stdin=subprocess.DEVNULL)
    wait_for("socat", process, pathlib.Path(socket_path).exists)
    return process


# On SIGTERM, everything that was started is stopped.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Keyhole:
    """A broker and an exporter with a private socket and a port of their own; a context manager."""

    def __init__(self, directory=None, broker_flags=None, exporter_flags=()):
        self.binaries = binaries(directory)
        self.broker_flags = this_host() if broker_flags is None else list(broker_flags)
        self.exporter_flags = list(exporter_flags)
        self.processes = []

    def __enter__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="keyhole-peers-"))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.home.chmod(0o711)
        self.start_broker()
        self.start_exporter()

    def start_broker(self):
        root = os.geteuid() == 0
        sockets = self.home / "socket"
        sockets.mkdir(mode=0o750)
        if root:
            os.chown(sockets, BROKER_UID, BROKER_UID)
        self.socket = sockets / "broker.sock"
        # The user of this script may ask as well: Python's gRPC client does.
        allowed = [f"--allow-uid={EXPORTER_UID}", "--allow-uid=0"] if root else []
        self.broker = self.spawn("keyhole-broker", BROKER_UID, [f"--socket.path={self.socket}", *allowed, *self.broker_flags])
        probe = [self.home / "keyhole-broker", "probe", f"--socket.path={self.socket}"]
        wait_for("the broker", self.broker, lambda: subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0)

    def start_exporter(self):
        flags = [f"--broker.socket={self.socket}", "--web.listen-address=127.0.0.1:0", *self.exporter_flags]
        self.exporter = self.spawn("keyhole-exporter", EXPORTER_UID, flags)
        # It chose the port itself, and its log has it.
        log = self.home / "keyhole-exporter.log"
        found = wait_for("the exporter", self.exporter, lambda: re.search(r"msg=listening address=(\S+)", log.read_text()))
        self.url = f"http://{found.group(1)}/metrics"

    def spawn(self, program, uid, flags):
        drop = dict(user=uid, group=BROKER_UID, extra_groups=[]) if os.geteuid() == 0 else {}
        environment = {"NODE_NAME": os.uname().nodename, **os.environ}
        for each in (program, *BESIDE.get(program, ())):
            shutil.copy(self.binaries / each, self.home / each)
        with open(self.home / f"{program}.log", "w") as log:
            process = subprocess.Popen(
                [self.home / program, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd="/", env=environment, **drop,
            )
        self.processes.append(process)
        return process

    def start_tunnel(self):
        """The socket of a tunnel to the broker, without kubectl."""
        drop = f"setpriv --reuid={EXPORTER_UID} --regid={BROKER_UID} --clear-groups " if os.geteuid() == 0 else ""
        tunnel = self.home / "tunnel.sock"
        program = f"{drop}{self.home}/keyhole-exporter --broker.socket={self.socket}"
        self.processes.append(start_tunnel(tunnel, program))
        return tunnel

    def __exit__(self, kind=None, *_):
        for process in reversed(self.processes):
            stop(process)
        if kind not in (None, KeyboardInterrupt):
            for log in sorted(self.home.glob("*.log")):
                for line in log.read_text().splitlines():
                    if not re.search(r"^\S+ +(INFO|level=INFO) ", line):
                        print(f"{log.stem}: {line}", file=sys.stderr)
        shutil.rmtree(self.home, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--broker", action="append")
    parser.add_argument("--exporter", action="append", default=[])
    parser.add_argument("action", choices=["scrape", "run"])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    with Keyhole(arguments.binaries, arguments.broker, arguments.exporter) as keyhole:
        if arguments.action == "scrape":
            sys.stdout.write(scrape(keyhole.url))
            return 0
        environment = {**os.environ, "KEYHOLE_URL": keyhole.url, "KEYHOLE_SOCKET": str(keyhole.socket)}
        return subprocess.run(arguments.command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
