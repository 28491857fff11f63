#!/usr/bin/env python3
"""Runs deploy/kubernetes on a real kubelet with containerd and runc: what becomes ready, what it shows, what it survives.

usage: pods.py --kubectl PATH --plugin PATH --programs DIR --runtime DIR --static DIR [--only PART]... [--write FILE]

DIR of --programs has a control plane and the kubelet, that of --runtime what node.py needs, that of --static Keyhole's
static programs. Needs root. --write replaces a document by what was seen.
"""
import argparse
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / directory) for directory in ("deploy", "peers", "containers")]

import grpc_client  # noqa: E402
import helm  # noqa: E402
import images  # noqa: E402
import kustomize  # noqa: E402
import launch  # noqa: E402
import mistakes  # noqa: E402
import plugin  # noqa: E402
import scrape  # noqa: E402
import scrape_configuration  # noqa: E402
from api import Cluster, wait_for  # noqa: E402
from control_plane import NODE, control_plane  # noqa: E402
from node import CGROUPS, REGISTRY, Node  # noqa: E402
from policies import Site, define_the_operators_kinds, no_pod_security_warning  # noqa: E402
from results import Results  # noqa: E402
from scraped import NETWORK, families, labelled, network, samples  # noqa: E402
from world import DAEMON_SETS, NAMESPACE, PODS  # noqa: E402

LAYERS = {"capabilities", "landlock", "limits", "no_new_privs", "not_dumpable", "seccomp"}
KEYHOLES = "app.kubernetes.io/name=keyhole"
TEXTFILES = "/var/lib/node_exporter/textfile_collector"
SERIAL = "keyhole-test-serial"
# Components that mount something or start the programs in another way, as they are applied over one another.
COMPONENTS = {
    "restricted-pv": [["udev/pv", "textfile/pv", "process-groups"], ["root"]],
    "privileged-hostpath": [["udev/hostpath", "textfile/hostpath", "process-groups"], ["root"]],
    "minimal": [],
}
# "secret", at bcrypt's lowest cost.
HASH = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
# Megabytes that the manifests allow.
LIMITS = {"broker": 64, "exporter": 128}
# Seconds.
READY = 120


class Run:
    """A cluster with one node, and what was seen of it."""

    def __init__(self, cluster, node, directory, static, plugin):
        self.cluster, self.node, self.directory, self.static, self.plugin = cluster, node, directory, static, plugin
        self.results, self.rows = Results(), []
        self.admin = cluster.client()

    def check(self, overlay, title, action, *arguments):
        """What the action returns is its figure in the document."""
        begun = time.monotonic()
        failed = self.results.failed
        figure = self.results.check(f"{overlay}: {title}", action, *arguments)
        if self.results.failed != failed:
            figure = "failed"
        self.rows.append((overlay, title, figure or "yes"))
        print(f"{overlay}: {title}: {figure or 'yes'} ({time.monotonic() - begun:.1f} s)", flush=True)

    def site(self, overlay, components=(), **fields):
        """An overlay with the images of this run, as examples/ has it."""
        example = kustomize.KUBERNETES / "examples/privileged-hostpath/kustomization.yaml"
        if overlay == "privileged-hostpath":
            fields.setdefault("replacements", yaml.safe_load(example.read_text())["replacements"])
        fields.setdefault("images", images.IMAGES)
        return Site(self.cluster, self.directory, overlay, components, **fields)

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("--namespace", NAMESPACE, *arguments, **more)

    def pod(self):
        """Keyhole's pod, when there is one."""
        pods = self.admin.get(PODS, labelSelector=KEYHOLES)["items"]
        assert len(pods) == 1 and "deletionTimestamp" not in pods[0]["metadata"], f"{len(pods)} pods, or one that is being deleted"
        return pods[0]

    def container(self, name):
        status = self.pod()["status"]
        return next(each for each in status.get("initContainerStatuses", []) + status["containerStatuses"] if each["name"] == name)

    def identifier(self, name):
        return self.container(name)["containerID"].removeprefix("containerd://")

    def first_process(self, name):
        """The number of a container's first process on the node."""
        for pid in self.node.processes(self.identifier(name)):
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE):
                return pid
        raise AssertionError(f"{name} has no first process")

    def scrape(self):
        address = self.pod()["status"].get("podIP")
        assert address, "the pod has no address"
        status, body = launch.fetch(f"http://{address}:9100/metrics")
        assert status == 200, (status, body[:500])
        return body.decode()

    def good_scrape(self):
        found = samples(self.scrape())
        assert found["keyhole_broker_up"] == 1
        return found

    def wait_until_ready(self, seconds=READY):
        """Waits until kubectl shows the pod of the DaemonSet's newest template as 2/2, and alone."""
        def shown():
            thing = self.admin.get(f"{DAEMON_SETS}/keyhole")
            assert thing["status"].get("observedGeneration") == thing["metadata"]["generation"], "not seen yet"
            assert thing["status"].get("updatedNumberScheduled") == 1, "not updated yet"
            lines = self.kubectl("get", "pods", "--no-headers").stdout.splitlines()
            assert len(lines) == 1 and lines[0].split()[1:3] == ["2/2", "Running"], lines
            return True
        wait_for("2/2", shown, seconds)

    def warnings(self):
        """Events that are no ordinary ones: reason, object and message.

        Those of former pods are left out: a probe that is under way when a pod ends is cancelled, and reported.
        """
        pod = self.pod()["metadata"]["name"]
        events = self.admin.get(f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
        return [(each["reason"], each["involvedObject"]["name"], each.get("message", "")) for each in events
                if each["type"] != "Normal" and (each["involvedObject"]["kind"] != "Pod" or each["involvedObject"]["name"] == pod)]


def installed(run, site):
    site.apply_policies()
    begun = time.monotonic()
    said = site.apply().stderr
    assert not said.strip(), said
    wait_for("the first scrape", run.good_scrape, READY)
    scraped = time.monotonic() - begun
    run.wait_until_ready()
    return f"first scrape {scraped:.1f} s after `kubectl apply`, 2/2 after {time.monotonic() - begun:.1f} s"


def no_warning(run):
    no_pod_security_warning(run.cluster)
    # Claims are bound, and the namespace's account made, while the pod is being scheduled already.
    left = [each for each in run.warnings() if each[0] != "FailedScheduling" or "PersistentVolumeClaims" not in each[2]]
    assert not left, left


def in_the_endpoint_slice(run):
    slices = run.admin.get(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")["items"]
    ready = [address for each in slices for endpoint in each["endpoints"] or [] if endpoint["conditions"]["ready"]
             for address in endpoint["addresses"]]
    assert ready == [run.pod()["status"]["podIP"]], ready


def layers_in_force(run):
    found = run.good_scrape()
    counted = 0
    for program in LIMITS:
        family = f"keyhole_{program}_sandbox_layer"
        assert LAYERS <= labelled(found, family, "layer"), family
        values = {series: value for series, value in found.items() if series.startswith(f"{family}{{") and "passed_descriptors" not in series}
        assert set(values.values()) == {1.0}, values
        counted += len(values)
    return f"{counted} layers of {len(labelled(found, 'keyhole_broker_sandbox_layer', 'process')) + 1} processes"


def host_mounts_read_only(run):
    """Everything below the host's directories in the broker's container, and nothing of them in the exporter's."""
    def below(name):
        lines = pathlib.Path(f"/proc/{run.first_process(name)}/mountinfo").read_text().splitlines()
        return {line.split()[4]: line.split()[5].split(",") for line in lines if line.split()[4].startswith("/host/")}
    mounts = below("broker")
    assert {"/host/proc", "/host/sys"} <= mounts.keys(), mounts
    writable = [point for point, options in mounts.items() if "ro" not in options]
    assert not writable, writable
    assert not below("exporter")
    return f"{len(mounts)} mounts"


def network_is_the_nodes(run):
    before = network(1)
    found = run.good_scrape()
    after = network(1)
    devices = labelled(found, NETWORK[0], "device")
    assert before.keys() & after.keys() <= devices <= before.keys() | after.keys(), devices
    own = network(run.first_process("exporter"))
    others = 0
    for device in before.keys() & after.keys():
        for column, family in enumerate(NETWORK):
            value = found[f'{family}{{device="{device}"}}']
            assert before[device][column] <= value <= after[device][column], (family, device, value)
            others += device not in own
    assert others, "the pod's own interfaces are the node's: this shows nothing"
    (name, numbers), = [(name, numbers) for name, numbers in after.items() if name == run.node.bridge]
    return f"{len(devices)} interfaces, such as {numbers[0]:,} bytes received by the pods' bridge"


def network_is_unknown(run):
    text = run.scrape()
    prefixes = ("node_network_", "node_netstat_", "node_sockstat_")
    assert not [family for family in families(text) if family.startswith(prefixes)]
    for collector in ("netdev", "netstat", "sockstat"):
        assert samples(text)[f'node_scrape_collector_success{{collector="{collector}"}}'] == 0


def sizes_are_the_nodes(run):
    """Of each file system that is shown; that of the kubelet's directory is among them."""
    shown = {point: value for series, value in samples(run.scrape()).items() if series.startswith("node_filesystem_size_bytes{")
             for point in re.findall(r'mountpoint="([^"]*)"', series)}
    kubelets = size_of(run.node.directory)
    for point, value in shown.items():
        assert value == (kubelets if point == "/probe/kubelet" else size_of(point)), (point, value)
    assert kubelets in shown.values(), shown
    return ", ".join(f"`{point}` {value:,.0f} bytes" for point, value in shown.items())


def size_of(path):
    numbers = os.statvfs(path)
    return numbers.f_blocks * numbers.f_frsize


def the_machine_is_the_nodes(run):
    found = run.good_scrape()
    (memory,) = re.findall(r"^MemTotal: +(\d+) kB$", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found["node_memory_MemTotal_bytes"] == int(memory) * 1024
    assert len(labelled(found, "node_cpu_seconds_total", "cpu")) == os.cpu_count()
    assert labelled(found, "node_uname_info", "nodename") == {NODE}


def executed(run):
    done = run.kubectl("exec", "ds/keyhole", "-c", "exporter", "--", "/keyhole-exporter", "query", "loadavg")
    assert "node_load1" in done.stdout, done
    done = run.kubectl("exec", "ds/keyhole", "-c", "exporter", "--", "/keyhole-exporter", "describe")
    assert "loadavg" in done.stdout, done


def logged(run):
    """Both containers' logs come through the API server."""
    for name in LIMITS:
        assert run.kubectl("logs", "ds/keyhole", "-c", name).stdout.strip(), name


def captured(run):
    """The host's files leave the pod as an archive, and give the same metrics outside."""
    done = subprocess.run(
        [run.cluster.program, f"--kubeconfig={run.cluster.kubeconfig}", "--namespace", NAMESPACE, "exec", "ds/keyhole", "-c",
         "exporter", "--", "/keyhole-exporter", "capture", "-"], capture_output=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr.decode()[-500:])
    replayed = subprocess.run([run.static / "keyhole-exporter", "replay", "-"], input=done.stdout, capture_output=True, timeout=60)
    assert replayed.returncode == 0, replayed.stderr.decode()[-500:]
    inside, outside = samples(run.scrape()), samples(replayed.stdout.decode())
    assert outside["node_memory_MemTotal_bytes"] == inside["node_memory_MemTotal_bytes"]
    known = {series for series in inside if series.startswith("node_cpu_seconds_total")}
    assert known and known <= outside.keys()
    return f"{len(done.stdout):,} bytes, {len(outside)} series"


def connected(run):
    """Python's gRPC clients reach the broker from outside by the socat of docs/queries.md."""
    directory = pathlib.Path(tempfile.mkdtemp(dir=run.directory))
    pb, broker, *_ = grpc_client.compile_protos(directory)
    words = launch.KUBECTL_EXEC.replace("$pod", f"pod/{run.pod()['metadata']['name']}").split()
    exporter = " ".join([str(run.cluster.program), f"--kubeconfig={run.cluster.kubeconfig}", *words[1:]])
    process = launch.start_tunnel(directory / "broker.sock", exporter)
    try:
        grpc_client.check_tunnel(directory / "broker.sock", pb, broker)
    finally:
        launch.stop(process)
    return "two clients at once"


def discovered(run):
    """A Prometheus with the documented configuration and role scrapes the pod."""
    token = scrape.account(run.cluster)
    run.cluster.kubectl("apply", "--filename", scrape_configuration.ROLE)
    with scrape.server(run.cluster, token) as prometheus:
        scrape.each_pod_is_a_target(prometheus, [run.pod()], ["up == 1"])
        (cores,) = prometheus.ask('count(node_cpu_seconds_total{job="node-exporter", mode="idle"})')
    assert int(cores["value"][1]) == os.cpu_count(), cores
    return "up, with the labels of `pod-monitor` and `node-name`"


def second_broker(run):
    before = len(run.node.processes(run.identifier("broker")))
    done = run.kubectl("exec", "ds/keyhole", "-c", "broker", "--", "/keyhole-broker", "--queries=default", "--allow-uid=64647",
                       "--socket.path=/run/keyhole/second.sock", check=False)
    assert done.returncode != 0 and "put into a running container" in done.stderr, done
    assert len(run.node.processes(run.identifier("broker"))) == before


def killed(run, name):
    """The process is killed on the node; the kubelet starts the container again and the pod is scraped again."""
    start = {"broker": "keyhole_broker_start_time_seconds", "exporter": "process_start_time_seconds"}[name]
    former, restarts, pod = run.good_scrape()[start], run.container(name)["restartCount"], run.pod()["metadata"]["name"]
    other = next(each for each in LIMITS if each != name)
    untouched = run.identifier(other)
    os.kill(run.first_process(name), signal.SIGKILL)
    begun = time.monotonic()
    wait_for("a scrape of a later start", lambda: run.good_scrape()[start] > former, READY)
    scraped = time.monotonic() - begun
    wait_for("the restart is counted", lambda: run.container(name)["restartCount"] == restarts + 1, READY)
    run.wait_until_ready()
    assert run.pod()["metadata"]["name"] == pod, "another pod"
    assert run.identifier(other) == untouched, f"{other} was started again too"
    return f"scraped again after {scraped:.1f} s, 2/2 after {time.monotonic() - begun:.1f} s"


def rolled_out(run):
    pod = run.pod()["metadata"]["name"]
    begun = time.monotonic()
    run.kubectl("rollout", "restart", "daemonset/keyhole")
    run.kubectl("rollout", "status", "daemonset/keyhole", "--timeout=90s")
    run.wait_until_ready()
    run.good_scrape()
    assert run.pod()["metadata"]["name"] != pod
    return f"{time.monotonic() - begun:.1f} s"


def runtime_restarted(run, name):
    """The pod goes on while containerd or the kubelet is killed and started again."""
    identifiers = [run.identifier(each) for each in LIMITS]
    run.node.stop(name)
    run.good_scrape()
    {"containerd": run.node.start_containerd, "kubelet": run.node.start_kubelet}[name]()
    wait_for("exec works again", lambda: executed(run) is None, READY)
    run.wait_until_ready()
    run.good_scrape()
    assert [run.identifier(each) for each in LIMITS] == identifiers, "a container was started again"


def within_limits(run):
    peaks = {name: run.node.peak_memory(run.identifier(name)) for name in LIMITS}
    assert all(peaks[name] is None or 0 < peaks[name] < LIMITS[name] << 20 for name in LIMITS), peaks
    return ", ".join(f"{name} {peak / 1e6:.1f} MB of {LIMITS[name]} MiB" for name, peak in peaks.items() if peak)


def a_disk():
    """A disk of the machine, and its number."""
    for path in sorted(pathlib.Path("/sys/block").iterdir()):
        if (path / "device").exists():
            return path.name, (path / "dev").read_text().strip()
    return None, None


def with_components(run, overlay, components):
    disk, number = a_disk()
    if disk:
        (run.node.root("/run/udev/data") / f"b{number}").write_text(f"E:ID_SERIAL_SHORT={SERIAL}\n")
    site = run.site(overlay, components)
    site.install()
    run.wait_until_ready()
    seen = []
    for component in components:
        seen.append(AFTERWARDS[component.split("/")[0]](run))
    no_warning(run)
    # The next component is applied to the overlay alone.
    return "; ".join(seen)


def udev_labels(run):
    disk, _ = a_disk()
    assert disk, "the machine has no disk"
    wait_for("the serial number", lambda: SERIAL in labelled(run.good_scrape(), "node_disk_info", "serial"))
    return f"`{disk}` has the serial number of the node's udev"


def textfiles(run):
    path = run.node.root(TEXTFILES) / "test.prom"
    path.write_text("test_of_pods 17\n")
    path.chmod(0o644)
    found = run.good_scrape()
    assert found.get("test_of_pods") == 17, {each: value for each, value in found.items() if "textfile" in each}
    return "a file of the node is scraped"


def process_groups(run):
    found = run.good_scrape()
    groups = labelled(found, "namedprocess_namegroup_num_procs", "groupname")
    # The test itself is one of the node's processes.
    assert {"containerd", "kubelet", "keyhole-broker"} <= groups, groups
    assert found["node_processes_pids"] > 10
    return f"{found['node_processes_pids']:.0f} processes in {len(groups)} groups"


def as_root(run):
    found = run.good_scrape()
    assert labelled(found, "keyhole_broker_info", "uid") == {"0"}
    caches = labelled(found, "node_slabinfo_active_objects", "slab")
    assert caches
    return f"{len(caches)} slab caches"


def web_config(run, overlay):
    """TLS and users by a Secret: Prometheus must authenticate, and the kubelet's probes need not."""
    directory = pathlib.Path(tempfile.mkdtemp(dir=run.directory))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=keyhole",
                    "-addext", "subjectAltName=DNS:keyhole", "-keyout", directory / "tls.key", "-out", directory / "tls.crt"],
                   check=True, capture_output=True, timeout=60)
    (directory / "web-config.yml").write_text(
        f"tls_server_config: {{cert_file: tls.crt, key_file: tls.key}}\nbasic_auth_users: {{prometheus: {HASH}}}\n")
    run.kubectl("create", "secret", "generic", "keyhole-web-config",
                *(f"--from-file={directory / name}" for name in ("web-config.yml", "tls.crt", "tls.key")))
    run.site(overlay, ["web-config"]).install()
    run.wait_until_ready()
    address = run.pod()["status"]["podIP"]

    def answer(*arguments):
        done = subprocess.run(["curl", "--silent", "--cacert", directory / "tls.crt", "--connect-to", f"keyhole:9100:{address}:9100",
                               "--max-time", "10", "--write-out", "%{http_code}", "--output", directory / "answer", *arguments,
                               "https://keyhole:9100/metrics"], capture_output=True, text=True, timeout=30)
        return done.stdout
    assert answer() == "401", answer()
    assert answer("--user", "prometheus:wrong") == "401"
    assert answer("--user", "prometheus:secret") == "200"
    assert samples((directory / "answer").read_text())["keyhole_broker_up"] == 1
    assert launch.fetch(f"http://{address}:9101/-/ready")[0] == 200
    assert launch.fetch(f"http://{address}:9101/metrics")[0] == 404
    no_warning(run)
    return "401 without a password, 200 with it over TLS; the health port has no metrics"


AFTERWARDS = {"udev": udev_labels, "textfile": textfiles, "process-groups": process_groups, "root": as_root}


def an_overlay(run, overlay):
    site = run.site(overlay)
    host = overlay != "minimal"
    run.check(overlay, "installed, without a word from kubectl", installed, run, site)
    if not run.admin.exists(f"{DAEMON_SETS}/keyhole"):
        return
    run.check(overlay, "no Pod Security warning, no event of a failure", no_warning, run)
    run.check(overlay, "in the service's EndpointSlice", in_the_endpoint_slice, run)
    run.check(overlay, "every sandbox layer is in force", layers_in_force, run)
    if host:
        run.check(overlay, "everything below the host's mounts is read-only", host_mounts_read_only, run)
        run.check(overlay, "network counters are the node's", network_is_the_nodes, run)
    else:
        run.check(overlay, "the network is reported as unknown", network_is_unknown, run)
    run.check(overlay, "sizes of file systems are the node's", sizes_are_the_nodes, run)
    run.check(overlay, "memory and CPUs are the node's", the_machine_is_the_nodes, run)
    run.check(overlay, "`kubectl logs` of both containers", logged, run)
    run.check(overlay, "`kubectl exec` of `query` and `describe`", executed, run)
    run.check(overlay, "`kubectl exec` of `capture -`, replayed outside", captured, run)
    if overlay == "restricted-pv":
        run.check(overlay, "gRPC by `kubectl exec` of `connect`", connected, run)
        run.check(overlay, "Prometheus without the operator", discovered, run)
    run.check(overlay, "a second broker by `kubectl exec` refuses to serve", second_broker, run)
    run.check(overlay, "the broker is killed", killed, run, "broker")
    run.check(overlay, "the exporter is killed", killed, run, "exporter")
    if overlay == "restricted-pv":
        run.check(overlay, "containerd is killed and started", runtime_restarted, run, "containerd")
        run.check(overlay, "the kubelet is killed and started", runtime_restarted, run, "kubelet")
    run.check(overlay, "peak memory", within_limits, run)
    run.check(overlay, "`kubectl rollout restart`", rolled_out, run)
    for components in COMPONENTS[overlay]:
        run.check(overlay, f"with {', '.join(f'`{name}`' for name in components)}", with_components, run, overlay, components)
    run.check(overlay, "with `web-config`: TLS and users by a Secret", web_config, run, overlay)
    if overlay == "privileged-hostpath":
        run.check(overlay, "other images, which the policy names", upgraded, run, overlay)
    run.check(overlay, "removed", removed, run, site, [run.site(overlay, components) for components in COMPONENTS[overlay]])


def upgraded(run, overlay):
    """The policy names the new images before the pod with the former ones has ended."""
    former = run.pod()["metadata"]["name"]
    begun = time.monotonic()
    for name in images.NAMES:
        run.node.ctr("images", "tag", "--force", f"{REGISTRY}/{name}:{images.VERSION}", f"{REGISTRY}/{name}:next")
    run.site(overlay, images=[{**each, "newTag": "next"} for each in images.IMAGES]).install()
    run.wait_until_ready()
    run.good_scrape()
    assert run.pod()["metadata"]["name"] != former
    return f"2/2 after {time.monotonic() - begun:.1f} s"


def switched(run):
    """As the README says; the pod of the former overlay ends under the other's policy."""
    sites = [run.site(overlay) for overlay in ("restricted-pv", "privileged-hostpath", "minimal", "restricted-pv")]
    begun = time.monotonic()
    for site in sites:
        site.install()
        run.kubectl("delete", "pods", "--all", "--timeout=60s")
        run.wait_until_ready()
        run.good_scrape()
    seconds = time.monotonic() - begun
    removed(run, sites[0], sites[1:3])
    return f"{len(sites)} times in {seconds:.0f} s"


def removed(run, site, others):
    for each in [*others, site]:
        each.remove()
    left = [thing["metadata"]["name"] for path in ("/api/v1/persistentvolumes", "/api/v1/namespaces")
            for thing in run.admin.get(path)["items"] if thing["metadata"]["name"].startswith("keyhole")]
    assert not left, left
    wait_for("the node has ended the containers", lambda: not run.node.ctr("containers", "list", "--quiet").split())


def restricted(run):
    an_overlay(run, "restricted-pv")


def hostpath(run):
    an_overlay(run, "privileged-hostpath")


def minimal(run):
    an_overlay(run, "minimal")


def user_namespaces(run):
    for overlay in ("minimal", "restricted-pv"):
        run.check(overlay, "with `hostUsers: false`", mistakes.user_namespaces, run, overlay)


def troubles(run):
    for cause, case in mistakes.CASES.items():
        run.check("mistakes", cause, case, run, cause)


def switches(run):
    run.check("all overlays", "one is installed over another", switched, run)


def chart(run):
    """The Helm chart, beside what the overlays show."""
    client = helm.Helm(pathlib.Path(run.cluster.program).resolve().with_name("helm"), run.cluster, run.directory)
    for access in kustomize.OVERLAYS:
        values = {"access": access, "image": {"registry": REGISTRY, "tag": images.VERSION}}
        run.check("Helm", f"{access}: installed", by_helm, run, client, values)
        run.check("Helm", f"{access}: upgraded, with the queries of a collector that is turned on", upgraded_by_helm, run, client, values)
        run.check("Helm", f"{access}: removed", removed_by_helm, run, client)


def by_helm(run, client, values):
    begun = time.monotonic()
    if values["access"] == "minimal":
        client.exporter(values, "--create-namespace")
    else:
        client.policies(values)
        client.exporter_once_allowed(values)
    run.wait_until_ready()
    run.good_scrape()
    return f"2/2 after {time.monotonic() - begun:.1f} s"


def upgraded_by_helm(run, client, values):
    former = run.pod()["metadata"]["name"]
    client.exporter({**values, "extraArgs": ["--collector.buddyinfo"]})
    wait_for("the pod is another one", lambda: run.pod()["metadata"]["name"] != former)
    run.wait_until_ready()
    found = [name for name in run.good_scrape() if name.startswith("node_buddyinfo_blocks")]
    assert found, "no sample of the collector"
    return f"{len(found)} samples of it"


def removed_by_helm(run, client):
    client.uninstall("keyhole", NAMESPACE)
    client.run("uninstall", helm.POLICIES, "--namespace", "kube-system", "--ignore-not-found")
    run.cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
    assert not run.admin.get("/api/v1/persistentvolumes")["items"]
    wait_for("the node has ended the containers", lambda: not run.node.ctr("containers", "list", "--quiet").split())


def kubectl_plugin(run):
    plugin.check(run, installed, removed)


PARTS = {"restricted": restricted, "hostpath": hostpath, "minimal": minimal, "helm": chart, "switches": switches,
         "user-namespaces": user_namespaces, "mistakes": troubles, "plugin": kubectl_plugin}


def document(run, arguments):
    """What was seen, for people."""
    info = run.admin.get(f"/api/v1/nodes/{NODE}")["status"]["nodeInfo"]
    runc = subprocess.run([run.node.runtime / "runc", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    version = 2 if (CGROUPS / "cgroup.controllers").exists() else 1
    introduction = (
        "`tests/cluster/run-pods` installs the overlays of [deploy/kubernetes](../deploy/kubernetes/README.md) on a node with a "
        f"real kubelet, and compares what their pods show with the node. Last on {time.strftime('%Y-%m-%d', time.gmtime())} with "
        f"commit {git}: Kubernetes {info['kubeletVersion'].lstrip('v')}, {info['containerRuntimeVersion'].replace('://', ' ')}, "
        f"runc {runc}, Linux {re.match(r'[0-9.]+', info['kernelVersion'])[0]}, {info['osImage']}, control groups of version {version}, "
        f"{os.cpu_count()} CPUs. {run.results.passed} checks passed, {run.results.failed} failed.")
    text = "<!-- Written by tests/cluster/run-pods --write docs/cluster.md. -->\n\n# Pods on a kubelet\n\n" + textwrap.fill(
        introduction, 100, break_long_words=False, break_on_hyphens=False) + "\n"
    for overlay in dict.fromkeys(row[0] for row in run.rows):
        title = f"`{overlay}`" if overlay in kustomize.OVERLAYS else overlay.capitalize()
        text += f"\n## {title}\n\n"
        if overlay == "mistakes":
            text += ("kubectl showed what the table [When pods do not\n"
                     "start](../deploy/kubernetes/README.md#when-pods-do-not-start) quotes.\n\n")
        text += "| check | seen |\n|---|---|\n"
        text += "".join(f"| {title} | {figure} |\n" for of, title, figure in run.rows if of == overlay)
    arguments.write.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kubectl", "plugin", "programs", "runtime", "static"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--only", choices=PARTS, action="append")
    arguments = parser.parse_args()
    assert os.geteuid() == 0, "not root: containers need it"
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-pods-"))
        archives = images.build(directory, arguments.static)
        plane = stack.enter_context(control_plane(directory, arguments.programs, arguments.kubectl))
        # The node is taken down before the test ends.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        cluster = stack.enter_context(Cluster(plane.kubeconfig, arguments.kubectl, arguments.programs).proxied())
        node = stack.enter_context(Node(pathlib.Path(directory, "node"), plane, arguments.programs, arguments.runtime))
        for archive in archives:
            node.load(archive)
        run = Run(cluster, node, directory, pathlib.Path(arguments.static).resolve(), pathlib.Path(arguments.plugin).resolve())
        define_the_operators_kinds(run.admin)
        for name in arguments.only or PARTS:
            begun = time.monotonic()
            PARTS[name](run)
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        if arguments.write:
            document(run, arguments)
    return run.results.end()


if __name__ == "__main__":
    sys.exit(main())
