#!/usr/bin/env python3
"""Runs the README's command as a newcomer would, scrapes once and stops it.

usage: first_look.py

`cargo run --release` must show the compiler's progress, say where the metrics are, serve them there, and end with status
0 on Ctrl-C with nothing left behind. What keeps it from that is one line, before anything is built as far as possible. As
root, it is also started as in a container: with /proc of its own, and without capabilities.
"""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from launch import REPOSITORY, descendants, fail, free_port, scrape, stop

BUILD = 600  # seconds that building may take
START = 30  # seconds that starting in a container may take
LEAVE = 2  # seconds that a process may outlive the one that started it


def refused(program, what, expected, *flags, built=False, prefix=(), **environment):
    """The program ends with status 1 and one line with the expected words, before the build unless `built`."""
    done = subprocess.run([*prefix, program, *flags], env={**os.environ, **environment}, capture_output=True, text=True, timeout=BUILD)
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    if done.returncode != 1 or len(lines) != 1 or not lines[0].startswith("keyhole: error: ") or not all(word in lines[0] for word in expected):
        fail(f"{what}: status {done.returncode}, {done.stderr!r}, and not one line with {expected}")
    if "==> broker" in done.stdout or ("==> build" in done.stdout) != built:
        fail(f"{what}: it was noticed too late: {done.stdout!r}")


def refusals(program, serving, directory):
    """What newcomers run into; `serving` is the address of one that runs."""
    free, other = f"--web.listen-address=127.0.0.1:{free_port()}", "--web.listen-address=127.0.0.1:9200"
    refused(program, "a second one", [f"a Keyhole already serves http://{serving}/metrics", other], f"--web.listen-address={serving}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        refused(program, "a port that is taken", [f"another program listens on {taken}", other], f"--web.listen-address={taken}")
    refused(program, "a command", ['"query"'], "query")
    refused(program, "no TMPDIR", ["/nonexistent", "set TMPDIR"], free, TMPDIR="/nonexistent")
    # Neither builds anything.
    refused(program, "a failed build", ["cargo build failed"], free, built=True, CARGO="false")
    refused(program, "no cargo", ["nowhere/cargo was not found"], free, built=True, CARGO="nowhere/cargo")
    refused(program, "a wrong flag", ["unknown flag --web.listen-adress (did you mean"], free, "--web.listen-adress=x", built=True, CARGO="true")
    count = 7
    if os.geteuid() == 0:
        script = f"mount -t tmpfs -o noexec none {directory} && TMPDIR={directory} exec \"$@\""
        refused(program, "TMPDIR mounted noexec", [str(directory), "noexec", "set TMPDIR"], free,
                prefix=["unshare", "--mount", "sh", "-c", script, "sh"])
        count += 1
    return count


def in_a_container(directory, uid):
    """Without capabilities, with /proc and a network of its own: it serves what such a container shows."""
    script = (f"ip link set lo up; exec setpriv --reuid={uid} --regid={uid} --clear-groups --bounding-set=-all --inh-caps=-all "
              f"{directory}/keyhole")
    command = ["unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    environment = {**os.environ, "CARGO": "true", "TMPDIR": str(directory)}
    process = subprocess.Popen(command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        os.set_blocking(process.stdout.fileno(), False)
        output, deadline = b"", time.monotonic() + START
        while b"stop with Ctrl-C" not in output:
            output += process.stdout.read() or b""
            if process.poll() is not None or time.monotonic() > deadline:
                fail(f"as uid {uid} in a container it does not serve: {output.decode()}")
            time.sleep(0.05)
        if b"/proc is a container's own" not in output:
            fail(f"as uid {uid} in a container it does not say what is missing: {output.decode()}")
    finally:
        process.kill()
        process.wait(30)


def main():
    address = f"127.0.0.1:{free_port()}"
    command = ["cargo", "run", "--quiet", "--release", "--", f"--web.listen-address={address}"]
    stack = contextlib.ExitStack()
    directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-first-look-")))
    log = stack.enter_context(open(directory / "log", "w+"))
    program = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, text=True)
    output = []
    try:
        os.set_blocking(program.stdout.fileno(), False)
        deadline = time.monotonic() + BUILD
        while "stop with Ctrl-C" not in "".join(output):
            output += program.stdout.readlines()
            if program.poll() is not None:
                fail(f"it ended with status {program.returncode}: {output}")
            if time.monotonic() > deadline:
                fail(f"it did not serve within {BUILD} s: {output}")
            time.sleep(0.1)
        url = re.search(r"http://\S+", "".join(output))
        if not url or url.group() != f"http://{address}/metrics":
            fail(f"it does not say where the metrics are: {output}")
        samples = sum(not line.startswith("#") for line in scrape(url.group()).splitlines())
        pids = [int(pid) for pid in re.findall(r"pid (\d+)", "".join(output))]
        if len(pids) != 2:
            fail(f"it does not say which processes it started: {output}")
        # The broker's readers, too.
        pids += [below for pid in pids for below in descendants(pid)]
        if len(pids) < 4:
            fail(f"a broker with readers is at least a zygote and one: {pids}")
        # The programs' cargo, not that which built this one.
        if not re.search(r"^ +Finished `release` profile", (directory / "log").read_text(), re.MULTILINE):
            fail("it does not show the compiler's progress")
        # cargo has become the program.
        binary = os.readlink(f"/proc/{program.pid}/exe")
        noexec, container = directory / "noexec", directory / "container"
        noexec.mkdir()
        container.mkdir()
        directory.chmod(0o755)
        container.chmod(0o777)
        # Where the uid reaches them, whatever the rights of the clone are.
        for name in ("keyhole", "keyhole-broker", "keyhole-reader", "keyhole-exporter"):
            shutil.copy(pathlib.Path(binary).with_name(name), container)
        count = refusals(binary, address, noexec)
        for uid in (65534, 0) if os.geteuid() == 0 else ():
            in_a_container(container, uid)
        program.send_signal(signal.SIGINT)
        if program.wait(30) != 0:
            fail(f"Ctrl-C ends it with status {program.returncode}")
        # Readers end by themselves once their broker has.
        deadline = time.monotonic() + LEAVE
        while (left := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            fail(f"still running after Ctrl-C: {left}")
    finally:
        stop(program)
        stack.close()
    print(f"first_look: {samples} samples at the address that it printed, {count} refusals of one line, and nothing left after Ctrl-C")


if __name__ == "__main__":
    sys.exit(main())
