#!/usr/bin/env python3
"""Builds every overlay with every component and holds the objects against what is claimed of them.

usage: manifests.py [--kubectl PATH] [--binaries DIR] [--update]

Objects are validated against Kubernetes' own schemas, arguments by the programs that take them, and the expressions of
the admission policies are evaluated with the good pod and with pods that are one change away from it. Nothing here
talks to a cluster. Needs pip's kubernetes-validate, PyYAML and cel-expr-python; --update writes the PrometheusRule.
"""
import argparse
import copy
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

import admission
import breaks
import claims
import guide
import mutations
from kustomize import KUBERNETES, REPOSITORY, Failed, combinations, containers, kustomize, objects, one, \
    pod_of, with_components
from pod_security import violations

# Native sidecars and recursiveReadOnly are stable since the first; the second is the newest that is looked at.
VERSIONS = ["1.33", "1.37"]
# Kinds of the Prometheus operator, which Kubernetes' schemas do not have: claims.py says what they hold.
OPERATOR = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


class Results:
    """Counts checks, and says which failed."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, title, action, *arguments):
        try:
            result = action(*arguments)
        except (AssertionError, KeyError, IndexError, StopIteration, TypeError, ValueError, Failed) as error:
            self.failed += 1
            print(f"FAILED {title}: {type(error).__name__}: {error}")
            return None
        self.passed += 1
        return result


def its_schema_takes_it(thing, version):
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise AssertionError(f"{version}: {'.'.join(map(str, error.path))}: {error.message[:200]}") from error


def it_is_refused_by_the_schema(thing, version):
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError:
        return
    raise AssertionError("accepted")


class Programs:
    """The real programs, asked whether they take the arguments that a manifest gives them."""

    def __init__(self, binaries):
        self.binaries = pathlib.Path(binaries).resolve()
        self.seen = set()

    def run(self, name, arguments):
        program = self.binaries / f"keyhole-{name}"
        with tempfile.TemporaryDirectory() as tree:
            for directory in ("proc", "sys"):
                (pathlib.Path(tree) / directory).mkdir()
            # The broker looks at its flags before it says anything; the exporter at their values before a replay.
            last = ["--help"] if name == "broker" else ["replay", tree]
            return subprocess.run([program, *arguments, *last], capture_output=True, text=True, timeout=20)

    def take(self, pod):
        for each in containers(pod):
            key = (each["name"], *each["args"])
            if key not in self.seen:
                done = self.run(each["name"], each["args"])
                assert done.returncode == 0, done.stderr.strip()
                self.seen.add(key)

    def refuse(self, name, argument):
        done = self.run(name, [argument])
        assert done.returncode != 0 and argument.split("=")[0] in done.stderr, (done.returncode, done.stderr)


def good_pod(policies, pod):
    """The DaemonSet's pod passes every policy, as it is made and as the kubelet's finalizers change it."""
    for policy in policies:
        case = mutations.create(pod)
        refused, errors, _ = policy.review(case["request"], case["pod"])
        assert not refused and not errors, (policy.name, refused, errors)
        mutations.update(lambda case: case["pod"]["metadata"].update(labels={"a": "b"}))(case)
        refused, errors, _ = policy.review(case["request"], case["pod"], case["old"])
        assert not refused and not errors, (policy.name, refused, errors)


def a_foreign_pod_without_the_claims_passes(policy):
    """In the restricted namespace other pods may live, as long as they leave the claims alone."""
    pod = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    case = mutations.create(pod)
    mutations.by("alice")(case)
    assert policy.review(case["request"], case["pod"]) == ([], [], {})


def mutated(policy, pod, row, annotation):
    """The pod is refused by the rule that the row names, and the audit log says who asked."""
    title, rule, change = row
    case = mutations.create(pod)
    change(case)
    assert policy.matches(case["request"]), title
    refused, errors, annotations = policy.review(case["request"], case["pod"], case["old"])
    assert rule in refused, (refused, errors)
    assert not errors, errors
    request = case["request"]
    assert annotations == {annotation: f"{request['operation']} by {request['userInfo']['username']}"}, annotations
    return rule


def exec_is_refused(policy):
    for resource in ("exec", "attach"):
        request = {
            "operation": "CONNECT", "subResource": resource, "name": "keyhole-x", "namespace": "keyhole",
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "userInfo": {"username": "alice"},
        }
        refused, errors, annotations = policy.review(request, {"command": ["/keyhole-broker", "probe"]})
        assert refused == ["no-exec"] and not errors, (refused, errors)
        assert annotations == {"pod": f"{resource} to keyhole-x by alice"}, annotations
    assert not policy.matches({**request, "subResource": "log", "operation": "GET"})


def only_who_may_grant_the_host_changes_the_daemonset(policy, daemon_set):
    old, changed = copy.deepcopy(daemon_set), copy.deepcopy(daemon_set)
    changed["spec"]["template"]["spec"]["initContainers"][0]["image"] = "evil:1"
    marked = copy.deepcopy(daemon_set)
    marked["metadata"]["finalizers"] = ["foregroundDeletion"]
    other = {**changed, "metadata": {**changed["metadata"], "name": "other"}}
    admin = ["create /persistentvolumes"]
    for operation, thing, before, rights, expected in (
        ("CREATE", daemon_set, None, [], ["host-granters"]),
        ("CREATE", daemon_set, None, ["create apps/daemonsets", "get /persistentvolumes"], ["host-granters"]),
        ("CREATE", daemon_set, None, admin, []),
        ("UPDATE", changed, old, [], ["host-granters"]),
        ("UPDATE", changed, old, admin, []),
        ("UPDATE", marked, old, [], []),
        ("CREATE", other, None, [], []),
    ):
        request = {
            "operation": operation, "resource": {"group": "apps", "version": "v1", "resource": "daemonsets"},
            "namespace": "keyhole", "userInfo": {"username": "alice"},
        }
        assert policy.matches(request)
        refused, errors, annotations = policy.review(request, thing, before, rights)
        assert (refused, errors) == (expected, []), (operation, rights, refused, errors)
        assert annotations == {"daemonset": f"{operation} by alice"}, annotations
    assert not policy.matches({**request, "subResource": "status"}), "the controller's own"


def the_talos_audit_policies_are_one_and_well_formed():
    """Both spellings of the machine configuration hold the same policy, in the shape of audit.k8s.io/v1."""
    directory = REPOSITORY / "deploy/talos"
    (old,) = yaml.safe_load_all((directory / "audit-policy-before-1.14.yaml").read_text())
    (new,) = yaml.safe_load_all((directory / "audit-policy.yaml").read_text())
    assert (new.pop("apiVersion"), new.pop("kind")) == ("v1alpha1", "KubeAuditPolicyConfig")
    assert set(new) == {"configuration"} and set(old) == {"cluster"} and set(old["cluster"]) == {"apiServer"}
    policy = old["cluster"]["apiServer"]["auditPolicy"]
    assert policy == new["configuration"]
    assert (policy["apiVersion"], policy["kind"]) == ("audit.k8s.io/v1", "Policy")
    fields = {"level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages",
              "omitManagedFields"}
    for rule in policy["rules"]:
        assert set(rule) <= fields and rule["level"] in ("None", "Metadata", "Request", "RequestResponse"), rule
        for resource in rule.get("resources", []):
            assert set(resource) <= {"group", "resources", "resourceNames"}, resource
    # What the policy is for: the namespace's pods and shells, and who touches what grants the host.
    rules = policy["rules"]
    named = {(name, tuple(rule.get("namespaces", []))) for rule in rules for each in rule.get("resources", [])
             for name in each.get("resources", [])}
    for wanted in (("pods", ("keyhole",)), ("pods/exec", ("keyhole",)), ("pods/ephemeralcontainers", ("keyhole",)),
                   ("persistentvolumeclaims", ("keyhole",)), ("persistentvolumes", ()), ("namespaces", ()),
                   ("validatingadmissionpolicies", ())):
        assert wanted in named, wanted
    assert rules[-1] == {"level": "Metadata"}, "the default of Talos for everything else"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubectl", default=REPOSITORY / "target/ci-tools/kubectl")
    parser.add_argument("--binaries", default=REPOSITORY / "target/release")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    if arguments.update:
        claims.write_prometheus_rule()

    results, programs = Results(), Programs(arguments.binaries)
    sets, validated = {}, 0
    for title, overlay, components in combinations():
        things = results.check(f"{title}: builds", with_components, arguments.kubectl, overlay, components)
        if things is not None:
            sets[title] = things
    site = results.check("examples/site: builds", kustomize, arguments.kubectl, KUBERNETES / "examples/site")
    if site is not None:
        sets["examples/site"] = site

    # The same object in many sets is looked at once.
    known = set()
    for title, things in sets.items():
        for thing in things:
            key = yaml.safe_dump(thing)
            if key in known:
                continue
            known.add(key)
            name = f"{title}: {thing['kind']}/{thing['metadata']['name']}"
            if thing["kind"] in OPERATOR:
                assert thing["apiVersion"] == "monitoring.coreos.com/v1", name
                continue
            for version in VERSIONS:
                results.check(f"{name} is valid", its_schema_takes_it, thing, version)
            validated += 1
        pod = pod_of(things)
        for version in VERSIONS:
            results.check(f"{title}: its pod is valid", its_schema_takes_it, pod, version)
        for claim in claims.POD_CLAIMS:
            results.check(f"{title}: {claim.__name__}", claim, pod)
        for claim in claims.SET_CLAIMS:
            results.check(f"{title}: {claim.__name__}", claim, things)
        results.check(f"{title}: its programs take its arguments", programs.take, pod)
        policies = [admission.Policy(thing) for thing in objects(things, "ValidatingAdmissionPolicy")]
        pod_policies = [policy for policy in policies if policy.name != "keyhole-no-exec"]
        results.check(f"{title}: its policies admit its pod", good_pod, pod_policies, pod)
        for policy in policies:
            if policy.name == "keyhole-no-exec":
                results.check(f"{title}: nobody runs anything in it", exec_is_refused, policy)
            if policy.name == "keyhole-daemonset":
                results.check(f"{title}: its DaemonSet is guarded", only_who_may_grant_the_host_changes_the_daemonset,
                            policy, one(things, "DaemonSet"))

    # That the checks can fail.
    hostpath = pod_of(sets["privileged-hostpath"])
    for claim in claims.POD_CLAIMS:
        results.check(f"a pod is found for which not: {claim.__name__}", breaks.notices, claim, breaks.BREAKS[claim], hostpath)
    every = sets["restricted-pv + all, by pod-monitor"]
    for claim, change in breaks.BREAK_SETS:
        results.check(f"a set is found for which not: {claim.__name__}", breaks.notices, claim, change, every)
    for title, things in sets.items():
        if " + all" in title:
            results.check(f"{title}: instance is the node's name", relabels, things, "instance")
        if "on trial" in title:
            results.check(f"{title}: the job is another", relabels, things, "job")
    results.check("a field that does not exist is refused", it_is_refused_by_the_schema,
                {**hostpath, "spec": {**hostpath["spec"], "hostNetworks": True}}, VERSIONS[0])
    for name in ("broker", "exporter"):
        results.check(f"the {name} refuses a flag that it has not", programs.refuse, name, "--no-such-flag")
    results.check("the exporter refuses a bad value", programs.refuse, "exporter",
                "--collector.filesystem.mount-points-exclude=(")
    results.check("baseline refuses hostPath alone", lambda: same(violations(hostpath, "baseline"), [
        "hostPath volume proc", "hostPath volume sys"]))
    root = pod_of(sets["restricted-pv + root"])
    results.check("restricted refuses a root broker for nothing else", lambda: same(violations(root, "restricted"), [
        "broker: runAsNonRoot", "broker: runAsUser 0"]))

    # The policies.
    count = 0
    for policy_name, annotation, sources in (
        ("keyhole-claims", "holder", [("restricted-pv", mutations.CLAIMS),
                                      ("restricted-pv + textfile/pv", mutations.CLAIMS_WITH_TEXTFILE)]),
        ("keyhole-pod-shape", "pod", [("privileged-hostpath", mutations.SHAPE),
                                      ("privileged-hostpath + textfile/hostpath", mutations.SHAPE_WITH_TEXTFILE)]),
    ):
        hit = set()
        for title, rows in sources:
            thing = next(each for each in objects(sets[title], "ValidatingAdmissionPolicy")
                         if each["metadata"]["name"] == policy_name)
            policy = admission.Policy(thing)
            for row in rows:
                hit.add(results.check(f"{title}: {row[0]} is refused", mutated, policy, pod_of(sets[title]), row, annotation))
                count += 1
        unhit = {name for name, _ in policy.validations} - hit
        results.check(f"{policy_name}: every rule refuses something", lambda: same(unhit, set()))
        if policy_name == "keyhole-claims":
            results.check("a pod without the claims is nobody's business", a_foreign_pod_without_the_claims_passes, policy)
    results.check("the kustomizations of the guides build", guide.the_kustomizations_build, arguments.kubectl)
    results.check("the patch of the guide for another collector fits",
                guide.the_patch_for_another_collector_gives_the_broker_its_query, arguments.kubectl)
    results.check("the patch of the guide for a group of /proc fits",
                guide.the_patch_for_a_group_of_proc_gives_it_to_the_pod_and_the_policy, arguments.kubectl)
    results.check("the queries of docs/migrating.md find what they are for", guide.the_queries_find_what_they_are_for)
    results.check("Talos' audit policies", the_talos_audit_policies_are_one_and_well_formed)

    print(f"{len(sets)} sets built, {len(known)} different objects, {validated} against the schemas of Kubernetes "
          f"{' and '.join(VERSIONS)}; {len(claims.POD_CLAIMS) + len(claims.SET_CLAIMS)} claims of each set; "
          f"{len(programs.seen)} command lines; {count} pods refused by the rule they break")
    print(f"{results.passed} passed, {results.failed} failed")
    sys.exit(1 if results.failed else 0)


def same(left, right):
    assert left == right, f"{left} is not {right}"


def relabels(things, label):
    """The component finds whichever monitor there is; claims.py says what its relabeling holds."""
    (monitor,) = objects(things, "PodMonitor") + objects(things, "ServiceMonitor")
    (endpoint,) = monitor["spec"].get("podMetricsEndpoints", []) + monitor["spec"].get("endpoints", [])
    assert [each["targetLabel"] for each in endpoint["relabelings"]] == [label]


if __name__ == "__main__":
    main()
