#!/usr/bin/env python3
"""Has promtool hold the alerts against their tests, and the tests against broken alerts.

usage: alerts.py [DIRECTORY]

DIRECTORY is deploy/monitoring by default: alerts.yaml and alerts.test.yaml. promtool must find the rules valid
and the tests passed. Then, one alert after the other, a copy of the rules is broken: an alert that never fires and one
that always fires, one without its `for` and, where the expression has parts joined by `or`, one without each part. The
tests must fail for each, so that nothing about an alert is untested. Each alert must have a severity, a summary, a description and a
section of the runbook, and ask for metrics and outcomes that there are, as dashboards must. Needs Debian's prometheus package and PyYAML.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

from launch import REPOSITORY, fail

SEVERITIES = ("critical", "warning", "info")
NEVER, ALWAYS = "vector(0) > 1", "vector(1)"
# A line of its own that joins two parts, as alerts.yaml has it.
JOINED = re.compile(r"^or$", re.MULTILINE)


def promtool(*arguments, cwd):
    return subprocess.run(["promtool", *arguments], cwd=cwd, timeout=60, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def mutations(rule):
    """Broken copies of an alert, each with what was done to it."""
    yield "never fires", {**rule, "expr": NEVER}
    yield "always fires", {**rule, "expr": ALWAYS}
    if "for" in rule:
        yield "has no for", {key: value for key, value in rule.items() if key != "for"}
    parts = JOINED.split(rule["expr"])
    if len(parts) > 1:
        for left_out in range(len(parts)):
            kept = [part for at, part in enumerate(parts) if at != left_out]
            yield f"has no part {left_out + 1}", {**rule, "expr": "or".join(kept)}


def about(name, tests):
    """The tests with what concerns one alert alone, which takes promtool a tenth of the time."""
    kept = []
    for test in tests["tests"]:
        cases = [case for case in test["alert_rule_test"] if case["alertname"] == name]
        if cases:
            kept.append({**test, "alert_rule_test": cases})
    return {**tests, "tests": kept}


def survivors(alerts, tests):
    """How many copies of alerts were broken, and which of them the tests let pass."""
    count, passed = 0, []
    with tempfile.TemporaryDirectory(prefix="keyhole-alerts-") as home:
        for rule in alerts:
            pathlib.Path(home, "alerts.test.yaml").write_text(yaml.safe_dump(about(rule["alert"], tests)))

            def passes(rule):
                rules = {"groups": [{"name": "one", "rules": [rule]}]}
                pathlib.Path(home, "alerts.yaml").write_text(yaml.safe_dump(rules))
                valid = promtool("check", "rules", "alerts.yaml", cwd=home)
                if valid.returncode != 0:
                    fail(f"a copy of {rule['alert']} is no valid rule:\n{valid.stdout}")
                return promtool("test", "rules", "alerts.test.yaml", cwd=home).returncode == 0

            if not passes(rule):
                fail(f"{rule['alert']}: its tests fail without the other alerts")
            for what, broken in mutations(rule):
                count += 1
                if passes(broken):
                    passed.append(f"{rule['alert']} that {what}")
    return count, passed


def lacks(rule, sections):
    """What an alert should say and does not."""
    annotations = rule.get("annotations", {})
    if rule.get("labels", {}).get("severity") not in SEVERITIES:
        yield f"a severity of {', '.join(SEVERITIES)}"
    for annotation in ("summary", "description"):
        if not annotations.get(annotation, "").endswith("."):
            yield f"a {annotation} that is a sentence"
    if annotations.get("runbook_url") != f"docs/runbook.md#{rule['alert'].lower()}":
        yield "the runbook_url of its own section"
    if rule["alert"] not in sections:
        yield "a section of docs/runbook.md"


def untested(names, tests):
    """Alerts that are not tested firing, or not tested quiet."""
    fired, quiet = set(), set()
    for case in (case for test in tests["tests"] for case in test["alert_rule_test"]):
        (fired if case.get("exp_alerts") else quiet).add(case["alertname"])
    for kind, seen in (("firing", fired), ("quiet", quiet)):
        for name in names:
            if name not in seen:
                yield f"{name} is never tested {kind}"
        for name in sorted(seen - set(names)):
            yield f"{name} is tested {kind}, and is no alert"


def unknown(text):
    """Names of Keyhole's metrics and of outcomes in expressions that nothing gives."""
    families = set(re.findall(r"^\| `(keyhole_\w+)`", (REPOSITORY / "docs/metrics.md").read_text(), re.MULTILINE))
    outcomes = re.findall(r"^ +OUTCOME_(\w+) =", (REPOSITORY / "proto/keyhole/v1/broker.proto").read_text(), re.MULTILINE)
    for name in sorted(set(re.findall(r"\bkeyhole_\w+", text)) - families):
        yield f"{name}, which docs/metrics.md does not list"
    for values in re.findall(r'outcome(?:=~|!~|!=|=)\\?"([^"\\]*)', text):
        for value in values.split("|"):
            if value.upper() not in outcomes:
                yield f"the outcome {value}, which the API does not have"


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "deploy/monitoring").resolve()
    shutil.which("promtool") or fail("promtool is missing: apt-get install prometheus")
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        result = promtool(*arguments, cwd=directory)
        if result.returncode != 0:
            fail(f"promtool {' '.join(arguments)}:\n{result.stdout}")
    rules = yaml.safe_load((directory / "alerts.yaml").read_text())
    tests = yaml.safe_load((directory / "alerts.test.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in alerts]
    sections = re.findall(r"^## (\w+)$", (REPOSITORY / "docs/runbook.md").read_text(), re.MULTILINE)
    complaints = list(untested(names, tests))
    for rule in alerts:
        complaints += [f"{rule['alert']} lacks {what}" for what in lacks(rule, sections)]
    complaints += [f"docs/runbook.md: {name} is no alert" for name in sections if name.startswith("Keyhole") and name not in names]
    for file in (directory / "alerts.yaml", directory / "alerts.test.yaml", *sorted((directory / "dashboards").glob("*.json"))):
        complaints += [f"{file.name} has {what}" for what in unknown(file.read_text())]
    broken, passed = survivors(alerts, tests)
    complaints += [f"the tests pass with {what}" for what in passed]
    for complaint in complaints:
        print(f"  {complaint}")
    cases = sum(len(test["alert_rule_test"]) for test in tests["tests"])
    print(f"alerts: {len(names)} alerts, {cases} cases passed, {broken - len(passed)}/{broken} broken alerts found out")
    return 1 if complaints or not names else 0


if __name__ == "__main__":
    sys.exit(main())
