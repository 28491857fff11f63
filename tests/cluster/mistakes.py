"""What kubectl shows when the pods do not start, each cause made for real.

The table of deploy/kubernetes/README.md, "When pods do not start", quotes it: what is quoted must be what is shown.
"""
import contextlib
import re
import time

import yaml

import images
import kustomize
from api import wait_for
from node import REGISTRY
from world import DAEMON_SETS, NAMESPACE, PODS, quietly

SECTION = "When pods do not start"
# A runtime that knows nothing of recursively read-only mounts, as runc before 1.1 does not.
OLD_RUNC = """\
#!/bin/sh
[ "$1" != features ] || exec "{runc}" features | sed 's/"rro",//'
exec "{runc}" "$@"
"""


def rows():
    """The table's rows: the cause, and what is quoted of kubectl."""
    text = (kustomize.KUBERNETES / "README.md").read_text()
    (section,) = re.findall(rf"^## {SECTION}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return {cause: re.findall(r"`([^`]+)`", shown) for shown, cause, _ in cells[2:]}


def shown(run, *kinds):
    """What kubectl shows of the namespace's pods and of these kinds, without line breaks."""
    text = run.kubectl("get", "pods", check=False).stdout
    for kind in ("pods", *kinds):
        text += run.kubectl("describe", kind, check=False).stdout
    return re.sub(r"\s+", " ", text)


def quoted(run, cause, *kinds, seconds=90, also=""):
    """Waits until kubectl shows all that the table quotes for a cause."""
    quotes = [re.sub(r"\s+", " ", quote).split("…") for quote in rows()[cause]]
    assert quotes, f"nothing is quoted for {cause}"
    deadline = time.monotonic() + seconds
    while True:
        text = shown(run, *kinds) + also
        missing = [part for parts in quotes for part in parts if part.strip() not in text]
        if not missing:
            return
        assert time.monotonic() < deadline, f"{missing} not in: {text}"
        time.sleep(1)


@contextlib.contextmanager
def site(run, overlay, **fields):
    """An installation that is removed again."""
    it = run.site(overlay, **fields)
    it.apply_policies()
    try:
        yield it
    finally:
        it.remove()
