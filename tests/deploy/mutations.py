"""Pods that the admission policies must refuse, each one change away from the good pod, and by which rule.

A row: what is wrong, the rule that must say so, and the change. A change takes a case, a dictionary of `pod`, `old`
(on UPDATE) and `request`, and alters it.
"""
import copy

DAEMON_SET_CONTROLLER = "system:serviceaccount:kube-system:daemon-set-controller"


def create(pod):
    """The request that makes the good pod."""
    return {
        "pod": copy.deepcopy(pod),
        "old": None,
        "request": {
            "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "keyhole",
            "userInfo": {"username": DAEMON_SET_CONTROLLER, "groups": ["system:serviceaccounts"]},
        },
    }


def in_the_template(daemon_set, change):
    """The DaemonSet with the change in its template, and the request of one who may change it."""
    thing = copy.deepcopy(daemon_set)
    template = thing["spec"]["template"]
    case = create({"metadata": template["metadata"], "spec": template["spec"]})
    change(case)
    thing["spec"]["template"] = {"metadata": case["pod"]["metadata"], "spec": case["pod"]["spec"]}
    return thing, {
        "operation": "UPDATE", "resource": {"group": "apps", "version": "v1", "resource": "daemonsets"},
        "namespace": "keyhole", "userInfo": {"username": "host-granter"},
    }


# Rules about what a template does not have: who makes a pod, who owns it, and what it was before.
OF_THE_POD_ALONE = {"daemonset-only", "no-impostors", "no-adoption", "no-image-change", "no-ephemeral-containers"}


def is_about_the_template(row):
    """Whether the row's change can be made in a DaemonSet's template."""
    title, rule, _ = row
    return rule not in OF_THE_POD_ALONE and "later" not in title


def broker(case):
    return case["pod"]["spec"]["initContainers"][0]


def exporter(case):
    return case["pod"]["spec"]["containers"][0]


def volume(case, name):
    return next(each for each in case["pod"]["spec"]["volumes"] if each["name"] == name)


def mount(container, name):
    return next(each for each in container["volumeMounts"] if each["name"] == name)


def by(user):
    return lambda case: case["request"]["userInfo"].update(username=user)


def spec(**fields):
    return lambda case: case["pod"]["spec"].update(fields)


def security(container, **fields):
    return lambda case: container(case)["securityContext"].update(fields)


def field(container, **fields):
    return lambda case: container(case).update(fields)


def add_volume(**fields):
    return lambda case: case["pod"]["spec"]["volumes"].append(fields)


def add_mount(container, **fields):
    return lambda case: container(case)["volumeMounts"].append(fields)


def host_path(name, path):
    return lambda case: volume(case, name).update(hostPath={"path": path})


def update(change):
    """The change as an UPDATE of the good pod, which the namespace's own user asks for."""
    def altered(case):
        case["old"] = copy.deepcopy(case["pod"])
        case["request"]["operation"] = "UPDATE"
        by("alice")(case)
        change(case)
    return altered


def debug(case):
    """`kubectl debug` in a profile that Pod Security's restricted admits."""
    update(lambda case: None)(case)
    case["request"]["subResource"] = "ephemeralcontainers"
    case["pod"]["spec"]["ephemeralContainers"] = [{
        "name": "debugger", "image": "busybox", "targetContainerName": "broker",
        "securityContext": {"runAsUser": 64646, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }]


def swap_mounts_into_the_exporter(case):
    exporter(case)["volumeMounts"].append(dict(mount(broker(case), "proc")))


def another_init_container(case):
    mounted = [dict(mount(broker(case), "proc"))]
    case["pod"]["spec"]["initContainers"].append({"name": "first", "image": "busybox", "volumeMounts": mounted})


def of_another_daemonset(case):
    case["pod"]["metadata"]["ownerReferences"][0]["name"] = "evil"


def by_a_user_with_a_forged_owner(case):
    by("system:serviceaccount:keyhole:default")(case)


def orphan(case):
    del case["pod"]["metadata"]["ownerReferences"]


def owner_that_does_not_control(case):
    del case["pod"]["metadata"]["ownerReferences"][0]["controller"]


def by_a_replicaset(case):
    case["pod"]["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet"


def without(container, name, key):
    return lambda case: mount(container(case), name).pop(key)


def writable(container, name):
    """The API server takes no recursiveReadOnly without readOnly."""
    return lambda case: [mount(container(case), name).pop(key) for key in ("readOnly", "recursiveReadOnly")]


def changed_mount(container, name, **fields):
    return lambda case: mount(container(case), name).update(fields)


def another_image(container):
    return lambda case: container(case).update(image="evil:1")


def foreign(change=lambda case: None):
    """A pod of the namespace's own user that leaves the claims and the host alone, made or, with an `old`, changed."""
    def altered(case):
        case["pod"] = {
            "metadata": {"name": "x", "labels": {}}, "spec": {"containers": [{"name": "x", "image": "x"}]},
        }
        by("alice")(case)
        change(case)
    return altered


def labelled(case):
    case["pod"]["metadata"]["labels"].update({"app.kubernetes.io/name": "keyhole", "app.kubernetes.io/instance": "keyhole"})


def owned_by(**fields):
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "keyhole", "uid": "0", "controller": True, **fields}
    return lambda case: case["pod"]["metadata"].update(ownerReferences=[owner])


owned = owned_by()


def a_program_over(container, path):
    """Another program in the place of the image's own, from an object that anyone who makes pods can make as well."""
    return lambda case: (
        add_volume(name="evil", configMap={"name": "evil", "defaultMode": 0o555})(case),
        add_mount(container, name="evil", mountPath=path, subPath="program", readOnly=True)(case))


CLAIMS = [
    ("a volume of kind ephemeral", "no-ephemeral-volumes",
     add_volume(name="more", ephemeral={"volumeClaimTemplate": {"spec": {
         "accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Mi"}}}}})),
    ("a user makes the pod, its owner forged", "daemonset-only", by_a_user_with_a_forged_owner),
    ("another DaemonSet's pod", "daemonset-only", of_another_daemonset),
    ("a pod without an owner", "daemonset-only", orphan),
    ("an owner that is no controller", "daemonset-only", owner_that_does_not_control),
    ("a ReplicaSet of that name", "daemonset-only", by_a_replicaset),
    ("the ReplicaSet controller's account", "daemonset-only",
     by("system:serviceaccount:kube-system:replicaset-controller")),
    ("/proc's claim held for writing", "claims-read-only",
     lambda case: volume(case, "proc")["persistentVolumeClaim"].pop("readOnly")),
    ("/sys' claim held for writing", "claims-read-only",
     lambda case: volume(case, "sys")["persistentVolumeClaim"].update(readOnly=False)),
    ("the exporter mounts /proc", "broker-only", swap_mounts_into_the_exporter),
    ("another init container mounts /proc", "broker-only", another_init_container),
    ("the broker under another name", "broker-only", field(broker, name="broker2")),
    ("a claim once more, by another volume's name, in the exporter", "broker-only",
     lambda case: (add_volume(name="p", persistentVolumeClaim={"claimName": "keyhole-proc", "readOnly": True})(case),
                   add_mount(exporter, name="p", mountPath="/p", readOnly=True, recursiveReadOnly="Enabled")(case))),
    ("a mount that is not readOnly", "recursively-read-only", writable(broker, "proc")),
    ("a mount that is read-only at its top alone", "recursively-read-only", without(broker, "sys", "recursiveReadOnly")),
    ("a mount that is recursively read-only if possible", "recursively-read-only",
     changed_mount(broker, "sys", recursiveReadOnly="IfPossible")),
    ("an ephemeral container", "no-ephemeral-containers", debug),
    ("the broker's image swapped", "no-image-change", update(another_image(broker))),
    ("the exporter's image swapped", "no-image-change", update(another_image(exporter))),
    ("a pod with keyhole's labels, for Prometheus to find", "no-impostors", foreign(labelled)),
    ("a pod that says keyhole is its owner", "no-impostors", foreign(owned)),
    ("a pod that takes keyhole's labels later", "no-impostors", foreign(update(labelled))),
    ("a pod that takes keyhole for its owner later", "no-impostors", foreign(update(owned))),
    ("a pod whose owner keyhole is of another API group", "no-impostors", foreign(owned_by(apiVersion="evil/v1"))),
    ("a pod whose owner keyhole does not control it", "no-impostors", foreign(owned_by(controller=False))),
    ("a pod that takes another API group's keyhole for its owner later", "no-impostors",
     foreign(update(owned_by(apiVersion="evil/v1")))),
    ("another DaemonSet's pod with keyhole's labels", "no-impostors",
     foreign(lambda case: (by(DAEMON_SET_CONTROLLER)(case), labelled(case), owned_by(name="evil")(case)))),
    ("keyhole's pod adopted by another DaemonSet later", "no-adoption",
     lambda case: (update(of_another_daemonset)(case), by(DAEMON_SET_CONTROLLER)(case))),
    ("a pod that begins in a directory of the host", "no-working-directory",
     field(broker, workingDir="/host/proc/1/root")),
]

CLAIMS_WITH_TEXTFILE = [
    ("the broker mounts the textfiles", "exporter-only",
     lambda case: broker(case)["volumeMounts"].append(dict(mount(exporter(case), "textfile")))),
    ("another container mounts the textfiles", "exporter-only",
     lambda case: case["pod"]["spec"]["containers"].append(
         {"name": "more", "image": "busybox", "volumeMounts": [dict(mount(exporter(case), "textfile"))]})),
    ("textfiles mounted for writing", "recursively-read-only", writable(exporter, "textfile")),
    ("textfiles' claim held for writing", "claims-read-only",
     lambda case: volume(case, "textfile")["persistentVolumeClaim"].pop("readOnly")),
    ("a user makes a pod with the textfiles alone", "daemonset-only",
     lambda case: (by("alice")(case), case["pod"]["spec"].update(
         initContainers=[], volumes=[volume(case, "textfile")]))),
]

SHAPE = [
    ("another container", "containers",
     lambda case: case["pod"]["spec"]["containers"].append({"name": "more", "image": "busybox"})),
    ("another init container", "containers", another_init_container),
    ("no broker", "containers", lambda case: case["pod"]["spec"].pop("initContainers")),
    ("a user makes the pod, its owner forged", "daemonset-only", by_a_user_with_a_forged_owner),
    ("another DaemonSet's pod", "daemonset-only", of_another_daemonset),
    ("a pod without an owner", "daemonset-only", orphan),
    ("an ephemeral container", "no-ephemeral-containers", debug),
    ("the host's network", "no-host-namespaces", spec(hostNetwork=True)),
    ("the host's PIDs", "no-host-namespaces", spec(hostPID=True)),
    ("the host's IPC", "no-host-namespaces", spec(hostIPC=True)),
    ("PIDs shared by the containers", "no-host-namespaces", spec(shareProcessNamespace=True)),
    ("a port of the node's", "no-host-ports", lambda case: exporter(case)["ports"][0].update(hostPort=9100)),
    ("a probe of another host", "no-host-ports",
     lambda case: exporter(case)["livenessProbe"]["httpGet"].update(host="169.254.169.254")),
    ("a probe of another host's port", "no-host-ports",
     field(broker, startupProbe={"tcpSocket": {"host": "10.0.0.1", "port": 22}})),
    ("another broker", "images", another_image(broker)),
    ("another exporter", "images", another_image(exporter)),
    ("the broker's image in the exporter", "images", lambda case: exporter(case).update(image=broker(case)["image"])),
    ("the broker's image swapped later", "images", update(another_image(broker))),
    ("keyhole's pod adopted by another DaemonSet later", "no-adoption",
     lambda case: (update(of_another_daemonset)(case), by(DAEMON_SET_CONTROLLER)(case))),
    ("a directory of the host to begin in", "commands", field(broker, workingDir="/host/proc/1/root")),
    ("a command of one's own", "commands", field(broker, command=["/bin/sh"])),
    ("a hook after the start", "commands", field(exporter, lifecycle={"postStart": {"exec": {"command": ["/x"]}}})),
    ("a secret in the environment", "commands",
     field(exporter, env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])),
    ("a probe that runs something else", "commands",
     lambda case: broker(case)["livenessProbe"]["exec"].update(command=["/host/proc/1/root/bin/sh"])),
    ("a start that something else probes", "commands",
     field(exporter, startupProbe={"exec": {"command": ["/keyhole-exporter", "capture", "/x"]}})),
    ("the broker with an environment", "commands", field(broker, env=[{"name": "LD_PRELOAD", "value": "/x"}])),
    ("a broker that is root", "users", security(broker, runAsUser=0)),
    ("a broker of group root", "users", security(broker, runAsGroup=0)),
    ("an exporter with the broker's uid", "users", security(exporter, runAsUser=64646)),
    ("a broker without a uid", "users", lambda case: broker(case)["securityContext"].pop("runAsUser")),
    ("one more group", "users",
     lambda case: case["pod"]["spec"]["securityContext"].update(supplementalGroups=[64646, 0])),
    ("a group for volumes", "users", lambda case: case["pod"]["spec"]["securityContext"].update(fsGroup=0)),
    # The API server takes no privileged container that may not gain privileges, and procMount with hostUsers alone.
    ("a privileged broker", "privileges", security(broker, privileged=True, allowPrivilegeEscalation=True)),
    ("a privileged exporter", "privileges", security(exporter, privileged=True, allowPrivilegeEscalation=True)),
    ("a capability", "privileges", security(broker, capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]})),
    ("capabilities kept", "privileges", security(exporter, capabilities={})),
    ("privilege escalation", "privileges", security(broker, allowPrivilegeEscalation=True)),
    ("privilege escalation by default", "privileges",
     lambda case: exporter(case)["securityContext"].pop("allowPrivilegeEscalation")),
    ("a root that can be written", "privileges", security(exporter, readOnlyRootFilesystem=False)),
    ("an unmasked /proc", "privileges",
     lambda case: (spec(hostUsers=False)(case), security(broker, procMount="Unmasked")(case))),
    ("a container without seccomp", "privileges", security(broker, seccompProfile={"type": "Unconfined"})),
    ("a container without AppArmor", "privileges", security(broker, appArmorProfile={"type": "Unconfined"})),
    ("another SELinux type", "privileges", security(broker, seLinuxOptions={"type": "spc_t"})),
    ("a container without a security context", "privileges", lambda case: exporter(case).pop("securityContext")),
    ("a pod without seccomp", "profiles",
     lambda case: case["pod"]["spec"]["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("a pod without a security context", "profiles", lambda case: case["pod"]["spec"].pop("securityContext")),
    ("AppArmor off by annotation", "profiles",
     lambda case: case["pod"]["metadata"]["annotations"].update(
         {"container.apparmor.security.beta.kubernetes.io/broker": "unconfined"})),
    ("a sysctl", "profiles",
     lambda case: case["pod"]["spec"]["securityContext"].update(sysctls=[{"name": "kernel.x", "value": "1"}])),
    ("a token", "no-token", spec(automountServiceAccountToken=True)),
    ("a token by default", "no-token", lambda case: case["pod"]["spec"].pop("automountServiceAccountToken")),
    ("a projected token", "volume-kinds", add_volume(name="t", projected={"sources": [{"serviceAccountToken": {"path": "token"}}]})),
    ("a claim", "volume-kinds", add_volume(name="c", persistentVolumeClaim={"claimName": "c"})),
    ("a CSI volume", "volume-kinds", add_volume(name="c", csi={"driver": "c"})),
    ("an image's files", "volume-kinds", add_volume(name="i", image={"reference": "evil:1"})),
    ("a secret", "volume-kinds", add_volume(name="s", secret={"secretName": "s"})),
    ("the web configuration's secret in the broker", "mounts",
     lambda case: (add_volume(name="web-config", secret={"secretName": "keyhole-web-config"})(case),
                   add_mount(broker, name="web-config", mountPath="/host/x", readOnly=True)(case))),
    ("a program over the broker's, of a ConfigMap", "volume-kinds", a_program_over(broker, "/keyhole-broker")),
    ("a program over the broker's", "mounts", a_program_over(broker, "/keyhole-broker")),
    ("a program over the reader's, which the broker starts", "mounts", a_program_over(broker, "/keyhole-reader")),
    ("a program over the exporter's", "mounts", a_program_over(exporter, "/keyhole-exporter")),
    ("a mount that leads back to the root", "mounts", changed_mount(broker, "probe-directory", mountPath="/probe/..")),
    ("a mount elsewhere", "mounts", changed_mount(broker, "proc", mountPath="/proc")),
    ("a probe directory that can be written", "mounts", without(broker, "probe-directory", "readOnly")),
    ("the socket's directory for the exporter to write", "mounts", without(exporter, "socket", "readOnly")),
    ("a directory of its own for the exporter", "mounts",
     lambda case: (add_volume(name="e", emptyDir={})(case),
                   add_mount(exporter, name="e", mountPath="/e", readOnly=True)(case))),
    ("the host's root", "host-paths", add_volume(name="root", hostPath={"path": "/"})),
    ("the root behind /proc", "host-paths", host_path("proc", "/proc/1/root")),
    ("the host's /etc by the name sys", "host-paths", host_path("sys", "/etc")),
    ("/proc by a name of its own", "host-paths", add_volume(name="p", hostPath={"path": "/proc"})),
    ("the exporter mounts /proc", "broker-only", swap_mounts_into_the_exporter),
    ("a /proc that can be written", "recursively-read-only", writable(broker, "proc")),
    ("a /sys whose cgroups can be written", "recursively-read-only", without(broker, "sys", "recursiveReadOnly")),
    ("a part of /proc", "mounts", changed_mount(broker, "proc", subPath="1/root")),
    ("a part of /proc by an expression", "mounts", changed_mount(broker, "proc", subPathExpr="1/root")),
    ("a mount that propagates", "recursively-read-only",
     lambda case: (changed_mount(broker, "sys", mountPropagation="HostToContainer")(case),
                   without(broker, "sys", "recursiveReadOnly")(case))),
    ("a device", "devices", field(broker, resources={"limits": {"vendor.example/device": "1"}})),
    ("a block device", "devices",
     lambda case: (add_volume(name="b", persistentVolumeClaim={"claimName": "b"})(case),
                   field(broker, volumeDevices=[{"name": "b", "devicePath": "/dev/x"}])(case))),
    ("a resource claim", "devices", spec(resourceClaims=[{"name": "r", "resourceClaimName": "r"}])),
    ("another runtime", "devices", spec(runtimeClassName="loose")),
]

SHAPE_WITH_TEXTFILE = [
    ("the broker mounts the textfiles", "broker-only",
     lambda case: broker(case)["volumeMounts"].append(dict(mount(exporter(case), "textfile")))),
    ("textfiles from elsewhere", "host-paths", host_path("textfile", "/var/lib")),
    ("textfiles mounted for writing", "recursively-read-only", writable(exporter, "textfile")),
]
