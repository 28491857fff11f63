#!/usr/bin/env python3
"""Runs systemd's units for real: systemd as PID 1 of namespaces of its own, its hardening and the programs in it.

usage: units.py [--binaries DIR]

First what systemd-analyze says of them: that they are sound, and how exposed they leave the programs. Then both run,
and must show the host around them: its network, its file systems, its clock; no layer of their own sandbox may be
missing under systemd's; and a killed broker must come back to the exporter. Needs root, systemd, iproute2 and strace.

Two differences from a host: PID 2 is no kernel thread, so a flag names whose files these are (--view=host); and
where cgroups are not of version 2, systemd leaves the filters out that it attaches to them (IPAddressDeny=,
SocketBindDeny=).
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/peers"))

from launch import PROGRAMS, descendants  # noqa: E402

UNITS = REPOSITORY / "deploy/systemd"
START_TIMEOUT = 30

# systemd-analyze's figure, from 0 (best) to 10, that the units may not exceed. node_exporter's in Debian 12 has 9.2.
EXPOSURE = {"keyhole-broker": 1.4, "keyhole-exporter": 1.6}
NAMES = list(EXPOSURE)
# What systemd itself needs to boot, and nothing more.
TARGETS = ["basic.target", "sysinit.target", "shutdown.target", "network.target", "emergency.target"]

FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:9100/metrics", timeout=5).read().decode())
except (OSError, urllib.error.HTTPError) as error:
    sys.exit(str(error))
"""


def fail(message):
    print(f"units.py: error: {message}", file=sys.stderr)
    sys.exit(1)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def install(directory, binaries):
    """Lays out what boot.sh mounts."""
    for name in ("bin", "etc", "units", "default"):
        (directory / name).mkdir()
    # The two uids must reach the programs and the accounts.
    directory.chmod(0o755)
    for name in PROGRAMS:
        shutil.copy(binaries / name, directory / "bin")
    for name in NAMES:
        shutil.copy(UNITS / f"{name}.service", directory / "units")
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", directory / "etc")
    (directory / "default/keyhole").write_text("KEYHOLE_BROKER_FLAGS=--view=host\n")
    for target in TARGETS:
        (directory / "units" / target).write_text("[Unit]\nDefaultDependencies=no\n")
    wants = " ".join(f"{name}.service" for name in NAMES)
    (directory / "units/default.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wants}\n")
    if run("stat", "--file-system", "--format=%T", "/sys/fs/cgroup").stdout.strip() == "cgroup2fs":
        (directory / "unified").touch()


def the_accounts_are_made(directory):
    done = run("systemd-sysusers", f"--root={directory}", UNITS / "keyhole.sysusers")
    assert done.returncode == 0, done.stderr
    users = dict(line.split(":")[0:3:2] for line in (directory / "etc/passwd").read_text().splitlines())
    assert (users["keyhole-broker"], users["keyhole-exporter"]) == ("64646", "64647"), users


def the_units_are_sound(directory):
    """systemd-analyze finds nothing to say, once the programs are where the units look for them."""
    for name in NAMES:
        text = (UNITS / f"{name}.service").read_text()
        (directory / f"{name}.service").write_text(text.replace("/usr/bin/", f"{directory}/bin/"))
    done = run("systemd-analyze", "verify", *(directory / f"{name}.service" for name in NAMES))
    ours = [line for line in done.stderr.splitlines() if "keyhole" in line]
    assert done.returncode == 0 and not ours, done.stderr


def the_units_leave_little_exposed(_):
    for name, most in EXPOSURE.items():
        done = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / f"{name}.service")
        (figure,) = re.findall(r"exposure level for \S+: ([0-9.]+)", done.stdout)
        print(f"    systemd-analyze security: {name} {figure}")
        assert float(figure) <= most, f"{name}: {figure}, at most {most}"


def expand(name):
    """The system calls of one of systemd's sets."""
    lines = run("systemd-analyze", "--no-pager", "syscall-filter", name).stdout.splitlines()[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return set().union(*(expand(word) if word.startswith("@") else {word} for word in words))


def allowed(name):
    """The system calls that a unit's SystemCallFilter= lines leave, applied in their order."""
    calls = expand("@default")
    for line in (UNITS / f"{name}.service").read_text().splitlines():
        key, _, words = line.partition("=")
        if key == "SystemCallFilter":
            named = set().union(*(expand(word) if word[0] == "@" else {word} for word in words.lstrip("~").split()))
            calls = calls - named if words.startswith("~") else calls | named
    return calls


def pid_of(init, name):
    """The program's process, a child of that init."""
    children = pathlib.Path(f"/proc/{init}/task/{init}/children").read_text().split()
    for pid in children:
        try:
            if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == name[:15]:
                return int(pid)
        except OSError:
            pass
    return None


class Machine:
    """systemd and the two services, in namespaces of their own."""

    def __init__(self, directory):
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net", "--cgroup",
                   "--mount-proc"]
        self.log = open(directory / "log", "w+")
        self.process = subprocess.Popen([*unshare, REPOSITORY / "tests/deploy/boot.sh", directory],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)

    def init(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = children.read_text().split()
        return int(pids[0]) if pids else None

    def scrape(self):
        """The metrics, or why there are none."""
        done = run("nsenter", f"--target={self.init()}", "--net", sys.executable, "-c", FETCH)
        return (done.stdout, None) if done.returncode == 0 else (None, done.stderr.strip())

    def wait_for_metrics(self):
        deadline, error = time.monotonic() + START_TIMEOUT, "not tried"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.init():
                text, error = self.scrape()
                if text:
                    return text
            time.sleep(0.3)
        self.log.seek(0)
        raise AssertionError(f"no metrics: {error}; boot.sh says: {self.log.read()[-2000:]}")

    def stop(self):
        # --kill-child: with unshare its PID 1 goes, and with that everything in the namespace.
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)
        self.log.close()


def value(text, series):
    found = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert len(found) == 1, f"{series}: {found}"
    return float(found[0])


def the_host_is_seen_through_the_hardening(machine, text):
    # proc/1/net and /sys, both of which a network or a /sys of the unit's own would hide.
    value(text, 'node_network_receive_bytes_total{device="keyhole0"}')
    value(text, 'node_network_mtu_bytes{device="keyhole0"}')
    # statfs, where ProtectHome= or PrivateTmp= would put something else.
    size = re.findall(r'^node_filesystem_size_bytes{.*mountpoint="/home".*} (\S+)$', text, re.MULTILINE)
    assert [float(each) for each in size] == [12 << 20], size
    assert 'node_filesystem_size_bytes{device="' in text and 'mountpoint="/"' in text
    # The clock's discipline, which ProtectClock= would forbid.
    assert value(text, 'node_scrape_collector_success{collector="timex"}') == 1
    assert 'node_os_info{' in text


def no_layer_of_the_programs_own_sandbox_is_missing(machine, text):
    layers = re.findall(r"^(keyhole_\w*sandbox_layer)\{(.*)\} (\S+)$", text, re.MULTILINE)
    # The exporter, the broker, the zygote, and the readers of a class each: six layers of each process.
    assert len(layers) >= 6 * 8, layers
    for process in ("broker", "zygote", "reader-procfs", "reader-sysfs", "reader-devices", "reader-files", "reader-mounts"):
        assert any(f'process="{process}"' in labels for _, labels, _ in layers), (process, layers)
    missing = [layer for layer in layers if float(layer[2]) != 1]
    assert not missing, missing


def systemds_layers_hold_for_both(machine, _):
    for name, uid in (("keyhole-broker", 64646), ("keyhole-exporter", 64647)):
        first = pid_of(machine.init(), name)
        started = descendants(first)
        # A zygote and its readers, and nobody else's.
        of = {pathlib.Path(f"/proc/{pid}/exe").readlink().name for pid in started}
        assert of == ({"keyhole-reader"} if name == "keyhole-broker" else set()), (name, of)
        fewest = None
        for pid in (first, *started):
            status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                          if ":\t" in line)
            assert status["Uid"].split() == [str(uid)] * 4, status["Uid"]
            for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(status[key], 16) == 0, (status["Name"], key, status[key])
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status["Name"]
            # Its own filter is one more than systemd's. A reader is started before the broker has its own.
            filters = int(status["Seccomp_filters"])
            fewest = fewest or filters
            assert filters > 1 and filters >= fewest, f"{status['Name']}: {filters} filters, and {name} has {fewest}"
            mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text()
            root = next(line for line in mounts.splitlines() if line.split()[4] == "/")
            assert "ro" in root.split()[5].split(","), root
            assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink(f"/proc/{machine.init()}/ns/mnt")


def the_exporter_sees_its_socket_directory_and_nothing_else_of_run(machine, _):
    of_machine, of_exporter = (pathlib.Path(f"/proc/{pid}/root/run")
                               for pid in (machine.init(), pid_of(machine.init(), "keyhole-exporter")))
    (of_machine / "other-service.sock").touch()
    files = lambda run: {str(path.relative_to(run)) for path in run.rglob("*")}
    assert {"keyhole/broker.sock", "other-service.sock", "udev/data"} <= files(of_machine), files(of_machine)
    # systemd's own mount point, which is empty.
    assert files(of_exporter) - {"systemd", "systemd/incoming"} == {"keyhole", "keyhole/broker.sock"}, files(of_exporter)
    # The broker's own directory, so that a socket that it makes later is seen as well.
    assert os.path.samefile(of_exporter / "keyhole", of_machine / "keyhole")
    for directory in ("/run", "/run/keyhole"):
        mounts = (of_exporter.parent.parent / "mountinfo").read_text().splitlines()
        options = [line.split()[5].split(",") for line in mounts if line.split()[4] == directory]
        assert options and "ro" in options[-1], (directory, options)


def a_killed_broker_restarts_and_serves_the_exporter(machine, _):
    before = pid_of(machine.init(), "keyhole-broker")
    readers = descendants(before)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + START_TIMEOUT
    while pid_of(machine.init(), "keyhole-broker") in (None, before):
        assert time.monotonic() < deadline, "systemd did not start it again"
        time.sleep(0.1)
    left = [pid for pid in readers if os.path.exists(f"/proc/{pid}")]
    assert not left, f"readers of the killed broker: {left}"
    text = machine.wait_for_metrics()
    value(text, 'node_network_receive_bytes_total{device="keyhole0"}')


def the_filters_allow_what_the_programs_call(directory):
    """From their first instruction to their end, the broker's readers among them, under strace and without systemd."""
    socket = directory / "socket"
    socket.mkdir()
    os.chown(socket, 64646, 64646)
    commands = {
        "keyhole-broker": [f"--socket.path={socket}/broker.sock", "--allow-uid=64647", "--path.rootfs=/"],
        "keyhole-exporter": [f"--broker.socket={socket}/broker.sock", "--web.listen-address=127.0.0.1:0"],
    }
    started = []
    try:
        for name, arguments in commands.items():
            uid = 64646 if name == "keyhole-broker" else 64647
            trace = directory / f"{name}.trace"
            trace.touch()
            os.chown(trace, uid, uid)
            # -D: the program is this one's child, and is stopped by its pid.
            started.append(subprocess.Popen(
                ["strace", "-D", "-f", "-q", "-o", trace, directory / "bin" / name, *arguments], user=uid, group=uid,
                extra_groups=[64646], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True))
            deadline = time.monotonic() + START_TIMEOUT
            last = "procfs" if name == "keyhole-broker" else "listening"
            for line in started[-1].stderr:
                assert time.monotonic() < deadline, f"{name}: not up"
                if last in line:
                    port = re.findall(r"listening address=\S*:(\d+)", line)
                    break
            else:
                raise AssertionError(f"{name} ended by itself")
        text = run(sys.executable, "-c", FETCH.replace(":9100", f":{port[0]}"))
        assert text.returncode == 0, text.stderr
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=10)
    for name, process in zip(NAMES, started):
        # strace writes its last lines after the program's end, and a broker's readers end after it.
        deadline = time.monotonic() + START_TIMEOUT
        # Pids stand in columns.
        ends = lambda trace: dict(re.findall(r"^(\d+) +\+\+\+ (.+) \+\+\+$", trace, re.MULTILINE))
        seen = lambda trace: set(re.findall(r"^(\d+) ", trace, re.MULTILINE))
        while seen(trace := (directory / f"{name}.trace").read_text()) != set(ends(trace)):
            assert time.monotonic() < deadline, f"{name}: its trace has no end: {trace[-300:]}"
            time.sleep(0.1)
        assert ends(trace)[str(process.pid)] == "exited with 0", f"{name}: {ends(trace)}"
        # Nor did a filter of its own end a reader.
        assert not any("SIGSYS" in end for end in ends(trace).values()), f"{name}: {ends(trace)}"
        called = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z_0-9]+)", trace, re.MULTILINE))
        assert len(called) > 30, (name, called)
        assert called <= allowed(name), f"{name}: {sorted(called - allowed(name))}"
        # The filter is no open door.
        assert not {"mount", "ptrace", "bpf", "init_module", "reboot"} & allowed(name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, default=REPOSITORY / "target/release")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        fail("not root: systemd is booted in namespaces of its own")
    for program in ("systemd-analyze", "systemd-sysusers", "unshare", "nsenter", "ip", "strace"):
        if not shutil.which(program):
            fail(f"{program} is missing: .ci/setup installs it")

    passed = failed = 0

    def check(claim, *given):
        nonlocal passed, failed
        try:
            claim(*given)
        except (AssertionError, OSError, KeyError, ValueError, StopIteration, subprocess.TimeoutExpired) as error:
            print(f"FAILED {claim.__name__}: {type(error).__name__}: {error}")
            failed += 1
        else:
            passed += 1

    with tempfile.TemporaryDirectory(prefix="keyhole-units-") as directory:
        directory = pathlib.Path(directory)
        install(directory, arguments.binaries)
        check(the_accounts_are_made, directory)
        check(the_units_are_sound, directory)
        check(the_units_leave_little_exposed, directory)
        check(the_filters_allow_what_the_programs_call, directory)
        machine = Machine(directory)
        try:
            text = machine.wait_for_metrics()
            check(the_host_is_seen_through_the_hardening, machine, text)
            check(no_layer_of_the_programs_own_sandbox_is_missing, machine, text)
            check(systemds_layers_hold_for_both, machine, text)
            check(the_exporter_sees_its_socket_directory_and_nothing_else_of_run, machine, text)
            check(a_killed_broker_restarts_and_serves_the_exporter, machine, text)
        except AssertionError as error:
            print(f"FAILED the units run: {error}")
            failed += 1
        finally:
            machine.stop()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
