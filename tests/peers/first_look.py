#!/usr/bin/env python3
"""Runs the README's command as a newcomer would, scrapes once and stops it.

usage: first_look.py

`cargo run --release` must say where the metrics are, serve them there, and end with status 0 on Ctrl-C with nothing
left behind.
"""
import os
import re
import signal
import subprocess
import sys
import time

from launch import REPOSITORY, descendants, fail, free_port, scrape, stop

BUILD = 600  # seconds that building may take
LEAVE = 2  # seconds that a process may outlive the one that started it


def main():
    address = f"127.0.0.1:{free_port()}"
    command = ["cargo", "run", "--quiet", "--release", "--", f"--web.listen-address={address}"]
    program = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
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
    print(f"first_look: {samples} samples at the address that it printed, and nothing left after Ctrl-C")


if __name__ == "__main__":
    sys.exit(main())
