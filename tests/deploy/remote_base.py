"""The examples outside a checkout: their paths written as URLs of a git repository, as examples/site says."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from kustomize import KUBERNETES, REPOSITORY, kustomize

EXAMPLES = KUBERNETES / "examples"
# Nobody's configuration decides what git does here.
GIT = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def documented_url():
    """What examples/site has people write: the host, the rest up to deploy/kubernetes/, and the tag."""
    text = (EXAMPLES / "site/kustomization.yaml").read_text()
    ((host, middle, tag),) = re.findall(
        r"^#\s+(https://[^/]+/)(\S+//deploy/kubernetes/)overlays/restricted-pv\?ref=(\S+)$", text, re.MULTILINE)
    return host, middle, tag


def publish(directory, tag):
    """Makes a git repository with this tree's deploy/, changes that are not committed included, and tags it."""
    shutil.copytree(REPOSITORY / "deploy", directory / "deploy")
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"],
                    ["-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message=test"],
                    ["tag", tag]):
        subprocess.run(["git", "-C", directory, *command], check=True, capture_output=True, timeout=60, env=GIT)


def it_builds_alike_from_a_repository(kubectl, name):
    """The example with URLs for paths, in a directory outside the checkout, builds the objects that it builds inside."""
    host, middle, tag = documented_url()
    with tempfile.TemporaryDirectory() as directory:
        here = pathlib.Path(directory).resolve()
        # The URL's path begins with the repository's name.
        publish(here / middle.split("//")[0], tag)
        text = (EXAMPLES / name / "kustomization.yaml").read_text()
        text = text.replace("- ../../", f"- {host}{middle}").replace(host, f"file://{here}/")
        text, count = re.subn(r"^(  - file://\S+)$", rf"\1?ref={tag}", text, flags=re.MULTILINE)
        assert count > 1 and "../" not in text, text
        site = here / "site"
        site.mkdir()
        (site / "kustomization.yaml").write_text(text)
        there, inside = kustomize(kubectl, site), kustomize(kubectl, EXAMPLES / name)
    differing = [thing["metadata"]["name"] for thing in there + inside if thing not in there or thing not in inside]
    assert inside and not differing, f"not the same there as inside: {differing}"
