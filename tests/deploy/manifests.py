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
import remote_base
import scrape_configuration
from kustomize import KUBERNETES, REPOSITORY, combinations, containers, kustomize, objects, one, \
    pod_of, with_components
from pod_security import violations
from results import Results

# Native sidecars and recursiveReadOnly are stable since the first; the second is the newest that is looked at.
VERSIONS = ["1.33", "1.37"]
# Kinds of the Prometheus operator, which Kubernetes' schemas do not have: claims.py says what they hold.
OPERATOR = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


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


def a_pod_of_a_former_policy_ends(policy, pod):
    """Its status is the kubelet's to report, whatever its image is: otherwise it stays Terminating. It may not be changed."""
    for change, expected in (
        (lambda pod: pod.update(status={"phase": "Succeeded"}), []),
        (lambda pod: pod["spec"].update(hostPID=True), ["no-host-namespaces", "images"]),
        (lambda pod: pod["metadata"].update(annotations={"a": "b"}), ["images"]),
        (lambda pod: pod["metadata"].update(ownerReferences=[]), ["images"]),
    ):
        case = mutations.create(pod)
        for each in case["pod"]["spec"]["containers"]:
            each["image"] += "-former"
        mutations.update(lambda case: change(case["pod"]))(case)
        case["request"]["subResource"] = "status"
        assert policy.matches(case["request"])
        refused, errors, _ = policy.review(case["request"], case["pod"], case["old"])
        assert (refused, errors) == (expected, []), (refused, errors)


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
    claim = {"metadata": {"name": "keyhole-proc"}, "spec": {"volumeName": "evil"}}
    bound = {"metadata": {"name": "keyhole-proc"}, "spec": {"volumeName": "evil"}, "status": {"phase": "Bound"}}
    admin = ["create /persistentvolumes"]
    daemon_sets, claims_resource = ("apps", "daemonsets"), ("", "persistentvolumeclaims")
    for (group, resource), operation, thing, before, rights, expected in (
        (daemon_sets, "CREATE", daemon_set, None, [], ["host-granters"]),
        (daemon_sets, "CREATE", daemon_set, None, ["create apps/daemonsets", "get /persistentvolumes"], ["host-granters"]),
        (daemon_sets, "CREATE", daemon_set, None, admin, []),
        (daemon_sets, "UPDATE", changed, old, [], ["host-granters"]),
        (daemon_sets, "UPDATE", changed, old, admin, []),
        (daemon_sets, "UPDATE", marked, old, [], []),
        (daemon_sets, "CREATE", other, None, [], []),
        (claims_resource, "CREATE", claim, None, [], ["host-granters"]),
        (claims_resource, "CREATE", claim, None, admin, []),
        (claims_resource, "UPDATE", bound, claim, [], []),
        (claims_resource, "CREATE", {**claim, "metadata": {"name": "mine"}}, None, [], []),
    ):
        request = {
            "operation": operation, "resource": {"group": group, "version": "v1", "resource": resource},
            "namespace": "keyhole", "userInfo": {"username": "alice"},
        }
        assert policy.matches(request)
        refused, errors, annotations = policy.review(request, thing, before, rights)
        assert (refused, errors) == (expected, []), (operation, thing["metadata"], rights, refused, errors)
        if refused:
            assert annotations == {"object": f"{operation} {resource} by alice"}, annotations
    request["resource"] = {"group": "apps", "version": "v1", "resource": "daemonsets"}
    assert not policy.matches({**request, "subResource": "status"}), "the controller's own"


def a_namespace_without_the_label_gets_nothing(policy, daemon_set):
    claim = {"metadata": {"name": "x"}, "spec": {"volumeName": "keyhole-proc"}}
    plain = copy.deepcopy(daemon_set)
    plain["spec"]["template"]["spec"]["volumes"] = []
    for (group, resource), thing, labels, expected in (
        (("", "persistentvolumeclaims"), claim, {}, ["namespace-label"]),
        (("", "persistentvolumeclaims"), claim, {"keyhole/access": "minimal"}, ["namespace-label"]),
        (("", "persistentvolumeclaims"), claim, {"keyhole/access": "restricted-pv"}, []),
        (("", "persistentvolumeclaims"), {"metadata": {"name": "x"}, "spec": {}}, {}, []),
        (("apps", "daemonsets"), daemon_set, {}, ["namespace-label"]),
        (("apps", "daemonsets"), daemon_set, {"keyhole/access": "privileged-hostpath"}, []),
        (("apps", "daemonsets"), plain, {}, []),
    ):
        request = {"operation": "CREATE", "resource": {"group": group, "version": "v1", "resource": resource},
                   "namespace": "any", "userInfo": {"username": "alice"}}
        refused, errors, _ = policy.review(request, thing, namespace_labels=labels)
        assert (refused, errors) == (expected, []), (thing["metadata"], labels, refused, errors)


def labels_lead_to_keyholes_pods_alone(policies):
    """By a service, and by a scheduler's binding."""
    labels = {"app.kubernetes.io/name": "keyhole", "app.kubernetes.io/instance": "keyhole"}
    service, binding = policies["keyhole-service"], policies["keyhole-binding"]

    def review(policy, resource, sub, thing):
        request = {"operation": "CREATE", "resource": {"group": "", "version": "v1", "resource": resource},
                   "subResource": sub, "namespace": "keyhole", "userInfo": {"username": "alice"}}
        assert policy.matches(request)
        refused, errors, _ = policy.review(request, thing)
        assert not errors, errors
        return refused

    for name, its_labels, selector, expected in (
        ("keyhole", {}, labels, []), ("keyhole", {}, {"a": "b"}, ["service-selector"]),
        ("x", labels, labels, []), ("x", labels, {"a": "b"}, ["service-selector"]), ("x", labels, None, ["service-selector"]),
        ("x", {}, {"a": "b"}, []),
    ):
        thing = {"metadata": {"name": name, "labels": its_labels}, "spec": {"selector": selector} if selector else {}}
        assert review(service, "services", "", thing) == expected, (name, its_labels, selector)
    for its_labels, expected in (({}, []), (labels, ["no-impostors"]), ({"topology.kubernetes.io/zone": "a"}, [])):
        thing = {"metadata": {"name": "x", "labels": its_labels}, "target": {"name": "n"}}
        assert review(binding, "pods", "binding", thing) == expected, its_labels


def the_level_fits_the_access(policy):
    request = {"operation": "CREATE", "resource": {"group": "", "version": "v1", "resource": "namespaces"},
               "userInfo": {"username": "alice"}}
    for access, level, expected in (
        ("restricted-pv", "restricted", []), ("restricted-pv", "baseline", []),
        ("restricted-pv", "privileged", ["pod-security-level"]), ("restricted-pv", None, ["pod-security-level"]),
        ("privileged-hostpath", "privileged", []), ("privileged-hostpath", "restricted", ["pod-security-level"]),
    ):
        labels = {"keyhole/access": access, **({"pod-security.kubernetes.io/enforce": level} if level else {})}
        refused, errors, _ = policy.review(request, {"metadata": {"name": "x", "labels": labels}})
        assert (refused, errors) == (expected, []), (access, level, refused, errors)


def the_template_is_held_to_the_pods_rules(policy, daemon_set, row):
    """What would refuse the pod later refuses the DaemonSet that would make it."""
    title, rule, change = row
    thing, request = mutations.in_the_template(daemon_set, change)
    assert policy.matches(request)
    assert policy.review(request, daemon_set, daemon_set)[:2] == ([], []), "the good one"
    refused, errors, _ = policy.review(request, thing, daemon_set)
    assert rule in refused and not errors, (refused, errors)


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
    for name in ("site", "privileged-hostpath"):
        example = results.check(f"examples/{name}: builds", kustomize, arguments.kubectl, KUBERNETES / "examples" / name)
        if example is not None:
            sets[f"examples/{name}"] = example
        results.check(f"examples/{name}: builds alike from a repository", remote_base.it_builds_alike_from_a_repository,
                      arguments.kubectl, name)

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
        pod_policies = [policy for policy in policies if policy.name in ("keyhole-claims", "keyhole-pod-shape")]
        results.check(f"{title}: its policies admit its pod", good_pod, pod_policies, pod)
        for policy in policies:
            if policy.name == "keyhole-no-exec":
                results.check(f"{title}: nobody runs anything in it", exec_is_refused, policy)
            if policy.name == "keyhole-guard":
                results.check(f"{title}: its DaemonSet is guarded", only_who_may_grant_the_host_changes_the_daemonset,
                            policy, one(things, "DaemonSet"))
            if policy.name == "keyhole-label":
                results.check(f"{title}: the label is asked for", a_namespace_without_the_label_gets_nothing,
                            policy, one(things, "DaemonSet"))
            if policy.name == "keyhole-namespace":
                results.check(f"{title}: the level fits", the_level_fits_the_access, policy)
            if policy.name == "keyhole-service":
                results.check(f"{title}: labels lead to keyhole's pods", labels_lead_to_keyholes_pods_alone,
                            {each.name: each for each in policies})

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
                if mutations.is_about_the_template(row):
                    results.check(f"{title}: {row[0]} is refused in the template", the_template_is_held_to_the_pods_rules,
                                  policy, one(sets[title], "DaemonSet"), row)
                    count += 1
        unhit = {name for name, _ in policy.validations} - hit
        results.check(f"{policy_name}: every rule refuses something", lambda: same(unhit, set()))
        if policy_name == "keyhole-pod-shape":
            results.check("a pod of a former policy ends", a_pod_of_a_former_policy_ends, policy, pod_of(sets[title]))
        if policy_name == "keyhole-claims":
            results.check("a pod without the claims is nobody's business", a_foreign_pod_without_the_claims_passes, policy)
    results.check("the kustomizations of the guides build", guide.the_kustomizations_build, arguments.kubectl)
    results.check("the patch of the guide for another collector fits",
                guide.the_patch_for_another_collector_adds_its_query_to_the_broker, arguments.kubectl)
    results.check("the patch of the guide for a group of /proc fits",
                guide.the_patch_for_a_group_of_proc_adds_it_to_the_pod_and_the_policy, arguments.kubectl)
    for check in scrape_configuration.CHECKS:
        results.check(f"scraping without the operator: {check.__name__}", check, arguments.kubectl)
    for thing in yaml.safe_load_all(scrape_configuration.ROLE.read_text()):
        for version in VERSIONS:
            results.check(f"Prometheus' {thing['kind']} is valid", its_schema_takes_it, thing, version)
    results.check("the queries of docs/migrating.md find what they are for", guide.the_queries_find_what_they_are_for)
    results.check("Talos' audit policies", the_talos_audit_policies_are_one_and_well_formed)

    print(f"{len(sets)} sets built, {len(known)} different objects, {validated} against the schemas of Kubernetes "
          f"{' and '.join(VERSIONS)}; {len(claims.POD_CLAIMS) + len(claims.SET_CLAIMS)} claims of each set; "
          f"{len(programs.seen)} command lines; {count} pods refused by the rule they break")
    sys.exit(results.end())


def same(left, right):
    assert left == right, f"{left} is not {right}"


def relabels(things, label):
    """The component finds whichever monitor there is; claims.py says what its relabeling holds."""
    (monitor,) = objects(things, "PodMonitor") + objects(things, "ServiceMonitor")
    (endpoint,) = monitor["spec"].get("podMetricsEndpoints", []) + monitor["spec"].get("endpoints", [])
    assert label in [each["targetLabel"] for each in endpoint["relabelings"]]


if __name__ == "__main__":
    main()
