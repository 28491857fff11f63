"""The Pod Security Standards, as far as Linux pods go: why a pod does not pass a level.

<https://kubernetes.io/docs/concepts/security/pod-security-standards/>
"""
from kustomize import containers

BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def contexts(pod):
    """Security contexts, the pod's own first, each with a name."""
    yield "pod", pod["spec"].get("securityContext", {})
    for container in containers(pod):
        yield container["name"], container.get("securityContext", {})


def handlers(container):
    """Everything of a container that may name a host to be asked."""
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        yield container.get(probe, {})
    yield from container.get("lifecycle", {}).values()


def baseline(pod):
    spec = pod["spec"]
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"hostPath volume {volume['name']}"
    for name, context in contexts(pod):
        if context.get("privileged"):
            yield f"{name}: privileged"
        if context.get("procMount", "Default") != "Default":
            yield f"{name}: procMount"
        if context.get("seccompProfile", {}).get("type") == "Unconfined":
            yield f"{name}: seccomp unconfined"
        if context.get("appArmorProfile", {}).get("type") == "Unconfined":
            yield f"{name}: AppArmor unconfined"
        options = context.get("seLinuxOptions", {})
        if options.get("type", "") not in SELINUX_TYPES or "user" in options or "role" in options:
            yield f"{name}: seLinuxOptions"
        if context.get("windowsOptions", {}).get("hostProcess"):
            yield f"{name}: hostProcess"
        added = set(context.get("capabilities", {}).get("add", []))
        if added - BASELINE_CAPABILITIES:
            yield f"{name}: non-default capabilities"
        for sysctl in context.get("sysctls", []):
            if sysctl["name"] not in SAFE_SYSCTLS:
                yield f"{name}: sysctl {sysctl['name']}"
    for container in containers(pod):
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{container['name']}: hostPort"
        for handler in handlers(container):
            if any(handler.get(action, {}).get("host") for action in ("httpGet", "tcpSocket")):
                yield f"{container['name']}: a probe of another host"


def restricted(pod):
    yield from baseline(pod)
    spec = pod["spec"]
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= RESTRICTED_VOLUMES:
            yield f"volume {volume['name']}: kind"
    whole = spec.get("securityContext", {})
    if whole.get("runAsUser") == 0:
        yield "pod: runAsUser 0"
    for container in containers(pod):
        name, context = container["name"], container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if not context.get("runAsNonRoot", whole.get("runAsNonRoot", False)):
            yield f"{name}: runAsNonRoot"
        if context.get("runAsUser") == 0:
            yield f"{name}: runAsUser 0"
        profile = context.get("seccompProfile", whole.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: seccompProfile"
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            yield f"{name}: capabilities not dropped"
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name}: unrestricted capabilities"


LEVELS = {"privileged": lambda pod: (), "baseline": baseline, "restricted": restricted}


def violations(pod, level):
    """What of the pod a namespace that enforces `level` refuses."""
    return list(LEVELS[level](pod))
