"""The programs that the tests of a release pack, by architecture."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ["keyhole-broker", "keyhole-reader", "keyhole-exporter"]
MACHINES = {"amd64": 62, "arm64": 183}

_arguments = None


def add_arguments(parser):
    parser.add_argument("--programs", type=pathlib.Path, default=REPOSITORY / "target/static")
    parser.add_argument("--arm64", type=pathlib.Path, default=os.environ.get("KEYHOLE_ARM64") or REPOSITORY / "target/arm64")


def use(arguments):
    global _arguments
    _arguments = arguments
    arguments.programs, arguments.arm64 = (pathlib.Path(path).resolve() for path in (arguments.programs, arguments.arm64))
    if os.uname().machine != "x86_64":
        sys.exit("error: these tests pack programs of amd64 as this machine's own: run them on x86_64")
    for name in PROGRAMS:
        if not (arguments.programs / name).is_file():
            sys.exit(f"error: {arguments.programs / name} is missing: .ci/run static")


def directories(temporary):
    """The directory of each architecture. Where there are no programs of arm64, files with its ELF header stand in: none is run."""
    arm64 = _arguments.arm64
    if not (arm64 / PROGRAMS[0]).is_file():
        print(f"  no programs in {arm64}: copies of amd64's with another ELF header are packed as arm64's")
        arm64 = temporary / "arm64"
        shutil.copytree(_arguments.programs, arm64, dirs_exist_ok=True)
        for name in PROGRAMS:
            with open(arm64 / name, "r+b") as file:
                file.seek(18)
                file.write(MACHINES["arm64"].to_bytes(2, "little"))
    return {"amd64": _arguments.programs, "arm64": arm64}


def version():
    return re.search(r'^version = "(.+)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)[1]


def in_a_mount_namespace():
    """Runs this program again in a mount namespace of its own; returns in there."""
    if os.geteuid() != 0:
        sys.exit("error: not root: mounts need it")
    if os.environ.get("KEYHOLE_OWN_MOUNTS") != "yes":
        os.environ["KEYHOLE_OWN_MOUNTS"] = "yes"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


def run(name, *words, **options):
    """Runs a script of deploy/release; its output. An error is one with what it printed."""
    done = subprocess.run([REPOSITORY / "deploy/release" / name, *words], capture_output=True, text=True, timeout=500, **options)
    if done.returncode != 0:
        raise AssertionError(f"{name}: status {done.returncode}: {done.stderr}")
    return done.stdout
