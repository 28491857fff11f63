#!/usr/bin/env python3
"""Holds .github/workflows against .ci/run: what a workflow runs is a step, and each step runs in some job.

usage: workflows.py

Actions must be pinned by a full commit digest with the version as a comment, and a workflow's permissions be to read alone. Where
.ci/setup could build actionlint, it checks the rest. Needs PyYAML. Exit status 1 when anything is wrong.
"""
import os
import pathlib
import re
import subprocess
import sys

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WORKFLOWS = REPOSITORY / ".github/workflows"
ACTIONLINT = REPOSITORY / "target/ci-tools/go/bin/actionlint"
# Steps that compare with what is not part of the repository.
BESIDE = {"dashboards", "faults-trees", "conformance"}
USES = re.compile(r"^\s*-?\s*uses:\s*(\S+)(.*)$")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def steps():
    """The steps of .ci/run, and those of them that run only when they are named."""
    done = subprocess.run([REPOSITORY / ".ci/run", "--list"], capture_output=True, text=True, check=True, timeout=60)
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line]
    return {name for name, _ in rows}, {name for name, title in rows if title.endswith("(by name)")}


def steps_of(job):
    """The steps of .ci/run that a job runs: named in a command, or by its matrix."""
    named = set()
    for step in job.get("steps", []):
        for line in step.get("run", "").splitlines():
            words = line.split()
            if words[:1] == [".ci/run"]:
                named |= {word for word in words[1:] if word[0] not in "-$"}
    for row in job.get("strategy", {}).get("matrix", {}).get("include", []):
        named |= set(row.get("steps", "").split())
    return named


def unpinned(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        uses = USES.match(line)
        if uses and not uses[1].startswith("./") and not (PINNED.fullmatch(uses[1]) and re.match(r"\s+# v\d+\.\d+\.\d+$", uses[2])):
            yield f"{path.relative_to(REPOSITORY)}:{number}: {uses[1]}: pin it as OWNER/NAME@DIGEST # vX.Y.Z, with 40 hexadecimal digits"


def main():
    known, by_name = steps()
    wrong, ran = [], set()
    paths = sorted(WORKFLOWS.glob("*.yml"))
    for path in paths:
        workflow = yaml.safe_load(path.read_text())
        if workflow.get("permissions") != {"contents": "read"}:
            wrong.append(f"{path.relative_to(REPOSITORY)}: permissions must be `contents: read`")
        wrong += unpinned(path)
        for name, job in workflow["jobs"].items():
            # A job that is another workflow of this repository has the limits of that one's jobs.
            if "timeout-minutes" not in job and not job.get("uses", "").startswith("./"):
                wrong.append(f"{path.relative_to(REPOSITORY)}: job {name} has no timeout-minutes")
            wrong += [f"{path.relative_to(REPOSITORY)}: job {name}: {right}: {level}: a job that writes has no steps of .ci/run and no pull request"
                      for right, level in job.get("permissions", {}).items()
                      if level != "read" and (steps_of(job) or "pull_request" in workflow[True])]
            named = steps_of(job)
            wrong += [f"{path.relative_to(REPOSITORY)}: job {name}: .ci/run has no step {step}" for step in sorted(named - known)]
            ran |= named
    wrong += [f"no job runs the step {step} of .ci/run" for step in sorted(known - by_name - ran - BESIDE)]
    if os.access(ACTIONLINT, os.X_OK):
        done = subprocess.run([ACTIONLINT, "-no-color"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        wrong += done.stdout.splitlines()
        if done.returncode not in (0, 1):
            wrong.append(f"actionlint: {done.stderr.strip()}")
    else:
        print("  actionlint is not there: .ci/setup builds it where Go is")
    for line in wrong:
        print(line)
    print(f"workflows: {len(ran)} steps of .ci/run in {len(paths)} workflows, {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
