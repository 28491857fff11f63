"""Changes to good pods and sets of objects, each of which a claim of claims.py must notice: no claim is one that cannot fail."""
import copy

from claims import (
    BROKER,
    POD_CLAIMS,
    SET_CLAIMS,
    container,
    every_claim_is_held_read_only,
    every_container_has_a_read_only_root_and_the_runtimes_seccomp_profile,
    every_container_has_requests_and_a_memory_limit,
    every_container_runs_as_a_numeric_user_of_its_own,
    every_mount_has_its_volume_and_every_volume_its_mount,
    every_mount_of_the_host_is_recursively_read_only,
    every_path_that_a_flag_names_is_mounted,
    every_policy_is_bound_to_the_namespace_denies_and_audits,
    every_volume_and_its_claim_are_pinned_to_each_other,
    everything_is_in_one_namespace_and_named_once,
    it_gets_no_token_and_no_service_links,
    it_runs_on_every_linux_node_and_is_evicted_last,
    it_shares_no_namespace_with_the_host,
    no_container_has_a_capability_or_can_gain_one,
    nobody_but_the_broker_mounts_the_host,
    nobody_can_ask_for_connections_routes_or_processes,
    only_a_broker_with_allow_root_is_root,
    the_probe_directory_is_an_empty_directory_on_the_kubelets_file_system,
    the_broker_answers_what_its_collectors_ask_and_no_query_more,
    the_broker_is_a_native_sidecar_that_is_probed_by_its_own_command,
    the_daemonset_follows_what_it_needs,
    the_exporter_is_probed_over_http_on_its_own_port,
    the_exporter_knows_the_nodes_name,
    the_namespace_admits_the_pod,
    the_rules_and_dashboards_are_those_of_deploy_monitoring,
    the_selectors_find_the_pods_and_the_job_is_node_exporter,
    the_socket_is_the_brokers_and_read_only_next_door,
)
from kustomize import objects


def _exporter_mounts_proc(pod):
    container(pod, "exporter")["volumeMounts"].append(
        {"name": "proc", "mountPath": "/p", "readOnly": True, "recursiveReadOnly": "Enabled"})


def _claim(pod):
    pod["spec"]["volumes"] = [
        {"name": volume["name"], "persistentVolumeClaim": {"claimName": "x"}} if volume["name"] == "proc" else volume
        for volume in pod["spec"]["volumes"]
    ]


# A change to the good pod of privileged-hostpath that its claim must notice.
BREAKS = {
    it_shares_no_namespace_with_the_host: lambda pod: pod["spec"].update(hostPID=True),
    no_container_has_a_capability_or_can_gain_one:
        lambda pod: container(pod, "broker")["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
    every_container_has_a_read_only_root_and_the_runtimes_seccomp_profile:
        lambda pod: container(pod, "exporter")["securityContext"].pop("readOnlyRootFilesystem"),
    every_container_runs_as_a_numeric_user_of_its_own:
        lambda pod: container(pod, "exporter")["securityContext"].update(runAsUser=BROKER),
    only_a_broker_with_allow_root_is_root:
        lambda pod: container(pod, "broker")["securityContext"].update(runAsUser=0),
    it_gets_no_token_and_no_service_links: lambda pod: pod["spec"].pop("automountServiceAccountToken"),
    nobody_but_the_broker_mounts_the_host: _exporter_mounts_proc,
    every_mount_of_the_host_is_recursively_read_only:
        lambda pod: container(pod, "broker")["volumeMounts"][-1].update(recursiveReadOnly="IfPossible"),
    every_claim_is_held_read_only: _claim,
    the_broker_is_a_native_sidecar_that_is_probed_by_its_own_command:
        lambda pod: container(pod, "broker").pop("restartPolicy"),
    the_exporter_is_probed_over_http_on_its_own_port:
        lambda pod: container(pod, "exporter")["livenessProbe"]["httpGet"].update(path="/"),
    the_socket_is_the_brokers_and_read_only_next_door:
        lambda pod: container(pod, "exporter")["volumeMounts"][0].pop("readOnly"),
    the_probe_directory_is_an_empty_directory_on_the_kubelets_file_system:
        lambda pod: next(each for each in pod["spec"]["volumes"] if each["name"] == "probe-directory").update(
            emptyDir={"medium": "Memory"}),
    every_mount_has_its_volume_and_every_volume_its_mount:
        lambda pod: pod["spec"]["volumes"].append({"name": "more", "emptyDir": {}}),
    every_path_that_a_flag_names_is_mounted:
        lambda pod: container(pod, "broker")["args"].append("--path.udev.data=/host/udev"),
    the_broker_answers_what_its_collectors_ask_and_no_query_more:
        lambda pod: container(pod, "exporter")["args"].append("--collector.slabinfo"),
    nobody_can_ask_for_connections_routes_or_processes:
        lambda pod: container(pod, "broker")["args"].__setitem__(0, "--queries=default,+tcp"),
    every_container_has_requests_and_a_memory_limit: lambda pod: container(pod, "broker")["resources"].pop("limits"),
    it_runs_on_every_linux_node_and_is_evicted_last: lambda pod: pod["spec"].pop("tolerations"),
    the_exporter_knows_the_nodes_name: lambda pod: container(pod, "exporter")["env"][0].pop("valueFrom"),
}


def _of(kind, change):
    """A change to the objects of a kind in a set."""
    def changed(things):
        found = objects(things, kind)
        assert found, kind
        for thing in found:
            change(thing)
    return changed


# Changes to the good set of restricted-pv with every component that its claim must notice.
BREAK_SETS = [
    (the_namespace_admits_the_pod,
     _of("DaemonSet", lambda thing: thing["spec"]["template"]["spec"].update(hostNetwork=True))),
    (the_namespace_admits_the_pod,
     _of("Namespace", lambda thing: thing["metadata"]["labels"].update(
         {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}))),
    (everything_is_in_one_namespace_and_named_once,
     _of("ValidatingAdmissionPolicy", lambda thing: thing["metadata"].update(namespace="other"))),
    (the_daemonset_follows_what_it_needs, list.reverse),
    (every_policy_is_bound_to_the_namespace_denies_and_audits,
     _of("ValidatingAdmissionPolicyBinding", lambda thing: thing["spec"].update(validationActions=["Warn"]))),
    (every_policy_is_bound_to_the_namespace_denies_and_audits,
     _of("Namespace", lambda thing: thing["metadata"]["labels"].update({"keyhole/access": "minimal"}))),
    (every_volume_and_its_claim_are_pinned_to_each_other,
     _of("PersistentVolume", lambda thing: thing["spec"]["claimRef"].update(namespace="default"))),
    (the_selectors_find_the_pods_and_the_job_is_node_exporter,
     _of("NetworkPolicy", lambda thing: thing["spec"].update(egress=[{}]))),
    (the_selectors_find_the_pods_and_the_job_is_node_exporter,
     _of("PodMonitor", lambda thing: thing["spec"].update(jobLabel="app.kubernetes.io/name"))),
    (the_rules_and_dashboards_are_those_of_deploy_monitoring,
     _of("PrometheusRule", lambda thing: thing["spec"]["groups"].pop())),
    (the_rules_and_dashboards_are_those_of_deploy_monitoring,
     _of("ConfigMap", lambda thing: thing["data"].update({"keyhole.json": "{}"}))),
]

assert set(BREAKS) == set(POD_CLAIMS) and {claim for claim, _ in BREAK_SETS} == set(SET_CLAIMS)


def notices(claim, change, thing):
    """The claim holds for a pod or a set, and no longer once it is changed."""
    claim(thing)
    changed = copy.deepcopy(thing)
    change(changed)
    try:
        claim(changed)
    except (AssertionError, KeyError):
        return
    raise AssertionError("the claim holds after a change that breaks it")
