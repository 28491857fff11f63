"""What is claimed of every pod and of the objects around it. Each claim raises AssertionError where it does not hold.

Each has, in breaks.py, a change that it must notice.
"""
import yaml

import queries
from kustomize import KUBERNETES, REPOSITORY, containers, objects, one, pod_of
from pod_security import violations

BROKER, EXPORTER = 64646, 64647
ALERTS = REPOSITORY / "deploy/monitoring/alerts.yaml"
DASHBOARDS = REPOSITORY / "deploy/monitoring/dashboards"
# The only directory of the host that the exporter may see, with the component textfile.
TEXTFILE = "textfile"


def container(pod, name):
    return next(each for each in containers(pod) if each["name"] == name)


def host_volumes(pod):
    """Volumes that lead to the host: by hostPath, or by a claim."""
    volumes = pod["spec"]["volumes"]
    return {volume["name"] for volume in volumes if "hostPath" in volume or "persistentVolumeClaim" in volume}


# Of the pod.

def it_shares_no_namespace_with_the_host(pod):
    for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        assert not pod["spec"].get(name), name
    assert not any(port.get("hostPort") for each in containers(pod) for port in each.get("ports", []))


def no_container_has_a_capability_or_can_gain_one(pod):
    for each in containers(pod):
        context = each["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}, context["capabilities"]
        assert context["allowPrivilegeEscalation"] is False
        assert not context.get("privileged")


def every_container_has_a_read_only_root_and_the_runtimes_seccomp_profile(pod):
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in containers(pod):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert "seccompProfile" not in each["securityContext"], each["name"]


def every_container_runs_as_a_numeric_user_of_its_own(pod):
    users = [(each["securityContext"]["runAsUser"], each["securityContext"]["runAsGroup"]) for each in containers(pod)]
    assert all(isinstance(number, int) for user in users for number in user), users
    assert users in ([(BROKER, BROKER), (EXPORTER, EXPORTER)], [(0, BROKER), (EXPORTER, EXPORTER)]), users
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def only_a_broker_with_allow_root_is_root(pod):
    broker = container(pod, "broker")
    root = broker["securityContext"]["runAsUser"] == 0
    assert root == ("--allow-root" in broker["args"])
    assert root == (broker["securityContext"].get("runAsNonRoot") is False)


def it_gets_no_token_and_no_service_links(pod):
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False
    assert not any("projected" in volume for volume in pod["spec"]["volumes"])


def nobody_but_the_broker_mounts_the_host(pod):
    for each in containers(pod):
        mounted = {mount["name"] for mount in each.get("volumeMounts", [])} & host_volumes(pod)
        assert each["name"] == "broker" or mounted <= {TEXTFILE}, (each["name"], mounted)
        assert each["name"] != "broker" or TEXTFILE not in mounted


def every_mount_of_the_host_is_recursively_read_only(pod):
    for each in containers(pod):
        for mount in each.get("volumeMounts", []):
            if mount["name"] in host_volumes(pod):
                assert mount["readOnly"] is True and mount["recursiveReadOnly"] == "Enabled", mount
                assert "mountPropagation" not in mount and "subPath" not in mount


def every_claim_is_held_read_only(pod):
    for volume in pod["spec"]["volumes"]:
        assert volume.get("persistentVolumeClaim", {"readOnly": True}).get("readOnly") is True, volume


def the_broker_is_a_native_sidecar_that_is_probed_by_its_own_command(pod):
    (broker,) = pod["spec"]["initContainers"]
    assert broker["name"] == "broker" and broker["restartPolicy"] == "Always"
    for probe in ("startupProbe", "livenessProbe"):
        assert broker[probe]["exec"]["command"] == ["/keyhole-broker", "probe"]


def the_exporter_is_probed_over_http_on_its_own_port(pod):
    (exporter,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in exporter["ports"]}
    assert ports.pop("metrics") == 9100
    asked = "metrics"
    # The kubelet has no password, so with a web configuration it asks the address without one.
    if any(argument.startswith("--web.config.file=") for argument in exporter["args"]):
        asked = "health"
        assert f"--web.health-address=:{ports.pop(asked)}" in exporter["args"], exporter["args"]
    assert not ports, ports
    paths = {"startupProbe": "/-/healthy", "livenessProbe": "/-/healthy", "readinessProbe": "/-/ready"}
    for probe, path in paths.items():
        assert exporter[probe]["httpGet"] == {"path": path, "port": asked}


def the_socket_is_the_brokers_and_read_only_next_door(pod):
    socket = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "socket")
    assert socket["emptyDir"]["medium"] == "Memory" and socket["emptyDir"]["sizeLimit"]
    mounts = {
        each["name"]: next(mount for mount in each["volumeMounts"] if mount["name"] == "socket")
        for each in containers(pod)
    }
    assert mounts["broker"] == {"name": "socket", "mountPath": "/run/keyhole"}
    assert mounts["exporter"] == {"name": "socket", "mountPath": "/run/keyhole", "readOnly": True}
    assert f"--allow-uid={EXPORTER}" in container(pod, "broker")["args"]
    # The exporter is in the broker's group, which the socket belongs to.
    assert pod["spec"]["securityContext"]["supplementalGroups"] == [BROKER]


def the_probe_directory_is_an_empty_directory_on_the_kubelets_file_system(pod):
    (probe_directory,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "probe-directory")
    # In memory it would be a file system of its own; under a limit it may have a quota's numbers.
    assert probe_directory["emptyDir"] == {}, probe_directory
    (mount,) = (mount for each in containers(pod) for mount in each["volumeMounts"] if mount["name"] == "probe-directory")
    assert mount in container(pod, "broker")["volumeMounts"] and mount["readOnly"] is True
    assert f"--filesystem.probe-directory={mount['mountPath']}" in container(pod, "broker")["args"]


def every_mount_has_its_volume_and_every_volume_its_mount(pod):
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    mounts = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", [])}
    assert sorted(volumes) == sorted(mounts), (volumes, mounts)


def every_path_that_a_flag_names_is_mounted(pod):
    for each in containers(pod):
        mounted = {mount["mountPath"] for mount in each["volumeMounts"]}
        for argument in each["args"]:
            flag, _, path = argument.partition("=")
            if flag.startswith(("--path.", "--filesystem.probe-directory", "--collector.textfile.directory")):
                assert path in mounted, argument


def the_broker_answers_what_its_collectors_ask_and_no_query_more(pod):
    broker, exporter = (container(pod, name)["args"] for name in ("broker", "exporter"))
    answered, asked = queries.answered(broker), queries.asked(exporter)
    assert asked <= answered, f"asked and not answered: {sorted(asked - answered)}"
    # `default` is one word: it stays whole where a collector that is on by default is off.
    assert answered - queries.DEFAULT <= asked, f"answered and not asked: {sorted(answered - queries.DEFAULT - asked)}"


def nobody_can_ask_for_connections_routes_or_processes(pod):
    withheld = {"tcp", "routes", "mount_stats"}
    # The component process-groups is there to give them.
    if "--allow-processes" not in container(pod, "broker")["args"]:
        withheld |= {"processes", "process_details", "threads"}
    found = queries.answered(container(pod, "broker")["args"]) & withheld
    assert not found, found


def every_container_has_requests_and_a_memory_limit(pod):
    for each in containers(pod):
        assert set(each["resources"]["requests"]) == {"cpu", "memory"}
        assert set(each["resources"]["limits"]) == {"memory"}


def it_runs_on_every_linux_node_and_is_evicted_last(pod):
    spec = pod["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["priorityClassName"] == "system-node-critical"


def the_exporter_knows_the_nodes_name(pod):
    (variable,) = container(pod, "exporter")["env"]
    assert variable == {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}


POD_CLAIMS = [
    it_shares_no_namespace_with_the_host,
    no_container_has_a_capability_or_can_gain_one,
    every_container_has_a_read_only_root_and_the_runtimes_seccomp_profile,
    every_container_runs_as_a_numeric_user_of_its_own,
    only_a_broker_with_allow_root_is_root,
    it_gets_no_token_and_no_service_links,
    nobody_but_the_broker_mounts_the_host,
    every_mount_of_the_host_is_recursively_read_only,
    every_claim_is_held_read_only,
    the_broker_is_a_native_sidecar_that_is_probed_by_its_own_command,
    the_exporter_is_probed_over_http_on_its_own_port,
    the_socket_is_the_brokers_and_read_only_next_door,
    the_probe_directory_is_an_empty_directory_on_the_kubelets_file_system,
    every_mount_has_its_volume_and_every_volume_its_mount,
    every_path_that_a_flag_names_is_mounted,
    the_broker_answers_what_its_collectors_ask_and_no_query_more,
    nobody_can_ask_for_connections_routes_or_processes,
    every_container_has_requests_and_a_memory_limit,
    it_runs_on_every_linux_node_and_is_evicted_last,
    the_exporter_knows_the_nodes_name,
]


# Of all objects of a set.

def the_namespace_admits_the_pod(things):
    labels = one(things, "Namespace")["metadata"]["labels"]
    levels = {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")}
    assert len(levels) == 1, levels
    (level,) = levels
    found = violations(pod_of(things), level)
    assert not found, (level, found)
    host_paths = any("hostPath" in volume for volume in pod_of(things)["spec"]["volumes"])
    root = container(pod_of(things), "broker")["securityContext"]["runAsUser"] == 0
    needed = "privileged" if host_paths else "baseline" if root else "restricted"
    assert level == needed, f"{needed} would do, it is {level}"


CLUSTER_WIDE = {
    "Namespace", "PersistentVolume", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}


def everything_is_in_one_namespace_and_named_once(things):
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in things]
    assert len(names) == len(set(names)), names
    for thing in things:
        # kustomize's `namespace:` sets one on policies too, and the API server drops it.
        expected = (None, "keyhole") if "Policy" in thing["kind"] and thing["kind"] in CLUSTER_WIDE else (
            None,) if thing["kind"] in CLUSTER_WIDE else ("keyhole",)
        assert thing["metadata"].get("namespace") in expected, (thing["kind"], thing["metadata"])
    one(things, "Namespace")


def the_daemonset_follows_what_it_needs(things):
    """The order of kubectl. The policies are applied before, by their label."""
    order = ["Namespace", "PersistentVolume", "PersistentVolumeClaim", "ValidatingAdmissionPolicy",
             "ValidatingAdmissionPolicyBinding", "DaemonSet"]
    places = [order.index(thing["kind"]) for thing in things if thing["kind"] in order]
    assert places == sorted(places), [thing["kind"] for thing in things]


# Policies that both overlays with the host have, and the one of them that is there for namespaces without the label.
GUARD = {"keyhole-guard", "keyhole-label", "keyhole-binding", "keyhole-service", "keyhole-namespace"}
UNBOUND = {"keyhole-label"}


def binds(selector, access):
    """Whether a namespace with this label is selected; by this label alone."""
    expressions = selector.get("matchExpressions", [])
    assert all(each["key"] == "keyhole/access" for each in expressions), selector
    assert set(selector.get("matchLabels", {})) <= {"keyhole/access"} and (expressions or selector["matchLabels"])
    return selector.get("matchLabels", {}).get("keyhole/access", access) == access and all(
        each["operator"] == "Exists" or (each["operator"] == "In" and access in each["values"]) for each in expressions)


def every_policy_is_bound_to_the_namespace_denies_and_audits(things):
    policies = objects(things, "ValidatingAdmissionPolicy")
    bindings = {binding["spec"]["policyName"]: binding for binding in objects(things, "ValidatingAdmissionPolicyBinding")}
    assert set(bindings) == {policy["metadata"]["name"] for policy in policies}
    access = one(things, "Namespace")["metadata"]["labels"]["keyhole/access"]
    for policy in policies:
        name = policy["metadata"]["name"]
        spec = bindings[name]["spec"]
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert policy["spec"]["matchConstraints"]["namespaceSelector"] == {}, "the binding selects"
        assert spec["validationActions"] == ["Deny", "Audit"]
        for thing in (policy, bindings[name]):
            assert thing["metadata"]["labels"]["app.kubernetes.io/component"] == "admission-policy", name
        if name in UNBOUND:
            assert "matchResources" not in spec
        else:
            assert binds(spec["matchResources"]["namespaceSelector"], access), (name, access)
    expected = {"restricted-pv": "keyhole-claims", "privileged-hostpath": "keyhole-pod-shape"}
    if host_volumes(pod_of(things)):
        assert {expected[access], *GUARD} <= set(bindings), "host mounts without a policy"
    assert set(bindings) & set(expected.values()) <= {expected.get(access)}, "a policy of another overlay"


def every_volume_and_its_claim_are_pinned_to_each_other(things):
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in objects(things, "PersistentVolumeClaim")}
    volumes = {volume["metadata"]["name"]: volume["spec"] for volume in objects(things, "PersistentVolume")}
    assert {spec["volumeName"] for spec in claims.values()} == set(volumes)
    for name, spec in claims.items():
        volume = volumes[spec["volumeName"]]
        reference = volume["claimRef"]
        assert (reference["namespace"], reference["name"], reference["kind"]) == (
            "keyhole", name, "PersistentVolumeClaim")
        assert spec["accessModes"] == volume["accessModes"] == ["ReadOnlyMany"]
        # The server drops an empty one of a volume, so that each apply would change it.
        assert spec["storageClassName"] == "" and "storageClassName" not in volume
        assert volume["persistentVolumeReclaimPolicy"] == "Retain" and "nodeAffinity" not in volume
        # mountOptions are refused for hostPath.
        assert "mountOptions" not in volume and set(volume["hostPath"]) == {"path", "type"}
    used = {volume["persistentVolumeClaim"]["claimName"] for volume in pod_of(things)["spec"]["volumes"]
            if "persistentVolumeClaim" in volume}
    assert used == set(claims), (used, set(claims))


# By the components node-name and trial.
RELABELINGS = [
    {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"},
    {"action": "replace", "targetLabel": "job", "replacement": "keyhole-trial"},
]


def selects(selector, labels):
    return selector.items() <= labels.items()


def the_selectors_find_the_pods_and_the_job_is_node_exporter(things):
    daemon_set, service = one(things, "DaemonSet"), one(things, "Service")
    labels = pod_of(things)["metadata"]["labels"]
    assert selects(daemon_set["spec"]["selector"]["matchLabels"], labels)
    # They cannot be changed later, so they are few.
    assert set(daemon_set["spec"]["selector"]["matchLabels"]) == {
        "app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert selects(service["spec"]["selector"], labels)
    assert service["spec"]["clusterIP"] == "None"
    (port,) = service["spec"]["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("metrics", 9100, "metrics")
    assert daemon_set["spec"]["updateStrategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    for policy in objects(things, "NetworkPolicy"):
        spec = policy["spec"]
        assert selects(spec["podSelector"]["matchLabels"], labels)
        assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"] and not spec.get("egress")
        (rule,) = spec["ingress"]
        (peer,) = rule["from"]
        # Both selectors in one peer: in two, either alone would let a pod in.
        assert set(peer) == {"namespaceSelector", "podSelector"} and all(each["matchLabels"] for each in peer.values())
        assert [each["port"] for each in rule["ports"]] == ["metrics"]
    for kind, endpoints, target in (("PodMonitor", "podMetricsEndpoints", labels),
                                    ("ServiceMonitor", "endpoints", service["metadata"]["labels"])):
        for monitor in objects(things, kind):
            assert set(monitor["spec"]) == {"jobLabel", "selector", endpoints}
            assert selects(monitor["spec"]["selector"]["matchLabels"], target)
            assert target[monitor["spec"]["jobLabel"]] == "node-exporter"
            assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
            (endpoint,) = monitor["spec"][endpoints]
            assert endpoint["port"] == "metrics" and set(endpoint) <= {"port", "relabelings"}
            for relabeling in endpoint.get("relabelings", []):
                assert relabeling in RELABELINGS, relabeling


def the_rules_and_dashboards_are_those_of_deploy_monitoring(things):
    for rule in objects(things, "PrometheusRule"):
        assert rule["spec"] == yaml.safe_load(ALERTS.read_text()), "stale: run tests/deploy/manifests.py --update"
        assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    maps = [thing for thing in objects(things, "ConfigMap") if "dashboard" in thing["metadata"]["name"]]
    for dashboards in maps:
        assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
        files = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
        assert files and dashboards["data"] == files


SET_CLAIMS = [
    the_namespace_admits_the_pod,
    everything_is_in_one_namespace_and_named_once,
    the_daemonset_follows_what_it_needs,
    every_policy_is_bound_to_the_namespace_denies_and_audits,
    every_volume_and_its_claim_are_pinned_to_each_other,
    the_selectors_find_the_pods_and_the_job_is_node_exporter,
    the_rules_and_dashboards_are_those_of_deploy_monitoring,
]


def write_prometheus_rule():
    """Writes the PrometheusRule from the plain rule file."""
    path = KUBERNETES / "components/prometheus-rule/prometheus-rule.yaml"
    head = """\
# Generated from deploy/monitoring/alerts.yaml: tests/deploy/manifests.py --update
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: keyhole
  namespace: keyhole
  labels:
    app.kubernetes.io/name: keyhole
    # kube-prometheus-stack selects monitors and rules by its release's name.
    release: kube-prometheus-stack
spec:
"""
    body = "".join(f"  {line}\n" if line else "\n" for line in ALERTS.read_text().splitlines() if line.strip() != "---")
    path.write_text(head + body)
