"""The project's images, built by deploy/images and written as archives that containerd imports."""
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / directory) for directory in ("peers", "containers")]

from node import REGISTRY  # noqa: E402
from podman import CONTAINERS_CONF, PRIVATE, STORAGE_CONF  # noqa: E402

REPOSITORY = HERE.parents[1]
NAMES = ["keyhole-broker", "keyhole-exporter"]
VERSION = re.search(r'^version = "(.+)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE).group(1)
# What a site's kustomization says of the registry.
IMAGES = [{"name": name, "newName": f"{REGISTRY}/{name}", "newTag": VERSION} for name in NAMES]


def build(directory, programs):
    """Archives of the two images with these static programs, under the names of REGISTRY."""
    home = pathlib.Path(directory, "images")
    home.mkdir()
    for name, text in (("containers", CONTAINERS_CONF), ("storage", STORAGE_CONF)):
        (home / f"{name}.conf").write_text(text.format(home=home))
    environment = {**os.environ, "CONTAINERS_CONF": str(home / "containers.conf"), "TMPDIR": str(home),
                   "CONTAINERS_STORAGE_CONF": str(home / "storage.conf")}

    def privately(*command):
        # What buildah leaves at fixed places goes with the mount namespace.
        done = subprocess.run(["unshare", "--mount", "sh", "-c", f'{PRIVATE} && exec "$@"', "sh", *map(str, command)],
                              env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    privately(REPOSITORY / "deploy/images/build.sh", "images", pathlib.Path(programs).resolve())
    archives = []
    for name in NAMES:
        archives.append(home / f"{name}.tar")
        privately("buildah", "push", "--quiet", f"localhost/{name}:{VERSION}",
                  f"oci-archive:{archives[-1]}:{REGISTRY}/{name}:{VERSION}")
    return archives
