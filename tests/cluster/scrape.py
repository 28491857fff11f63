"""A real Prometheus discovers Keyhole's pods by deploy/monitoring/kubernetes-scrape.yaml, with the role beside it and no other right.

Nothing runs in the pods of the test's nodes: each is given an address of loopback, where this process answers in place of
the exporter.
"""
import base64
import contextlib
import http.server
import pathlib
import sys
import threading

import yaml

from api import Refused, wait_for
from world import KEYHOLES_LABELS, PODS, foreign_pod, quietly

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

import scrape_configuration  # noqa: E402
from prometheus_server import Prometheus  # noqa: E402

PORT = 9100
ADDRESS = "127.77.0.{}"
# Who Prometheus is: the subject of the role's binding.
ACCOUNT_NAMESPACE, ACCOUNT = "monitoring", "prometheus"
EXPOSITION = b"# TYPE keyhole_build_info gauge\nkeyhole_build_info 1\n"
# Seconds. Prometheus uses what it has discovered every five seconds, and asks again after a refusal ever more slowly.
DISCOVERY = 40


class Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(EXPOSITION)

    def log_message(self, *_):
        pass


class Pods:
    """The namespace's pods, each with an address at which something answers."""

    def __init__(self, admin, stack):
        self.admin, self.stack, self.servers = admin, stack, 0

    def serve(self):
        """A new address at which an exporter answers."""
        self.servers += 1
        address = ADDRESS.format(self.servers)
        server = self.stack.enter_context(http.server.ThreadingHTTPServer((address, PORT), Exporter))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.stack.callback(server.shutdown)
        return address

    def set_address(self, pod):
        """What a kubelet reports of a pod that runs."""
        address = self.serve()
        self.admin.patch(f"{PODS}/{pod['metadata']['name']}/status", {"status": {
            "podIP": address, "podIPs": [{"ip": address}]}})

    def create(self, name, labels):
        """A foreign pod that looks like the exporter's but for its labels."""
        pod = foreign_pod(name)
        pod["metadata"]["labels"] = labels
        pod["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": PORT}]
        self.admin.create(PODS, pod)
        wait_for(f"{name} runs", lambda: self.admin.get(f"{PODS}/{name}")["status"].get("phase") == "Running")
        self.set_address(pod)

    def keyholes(self):
        selector = ",".join(f"{name}={value}" for name, value in KEYHOLES_LABELS.items())
        return [pod for pod in self.admin.get(PODS, labelSelector=selector)["items"]
                if "deletionTimestamp" not in pod["metadata"]]


def account(cluster):
    """Makes Prometheus' account; returns its token."""
    admin = cluster.client()
    quietly(admin.create, "/api/v1/namespaces", {"metadata": {"name": ACCOUNT_NAMESPACE}})
    quietly(admin.create, f"/api/v1/namespaces/{ACCOUNT_NAMESPACE}/serviceaccounts", {"metadata": {"name": ACCOUNT}})
    return cluster.kubectl("--namespace", ACCOUNT_NAMESPACE, "create", "token", ACCOUNT).stdout


def server(cluster, token):
    """A Prometheus with the shipped file, which reaches the cluster from outside."""
    kubeconfig = yaml.safe_load(pathlib.Path(cluster.kubeconfig).read_text())
    (its,) = [each["cluster"] for each in kubeconfig["clusters"]]
    configuration = yaml.safe_load(scrape_configuration.CONFIGURATION.read_text())
    (discovery,) = configuration["scrape_configs"][0]["kubernetes_sd_configs"]
    discovery.update(api_server=its["server"], authorization={"credentials_file": "token"},
                     tls_config={"ca_file": "kubeconfig-ca.crt"})
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    authority = base64.b64decode(its["certificate-authority-data"]).decode()
    return Prometheus(yaml.safe_dump(configuration), {"token": token, "kubeconfig-ca.crt": authority},
                      program=pathlib.Path(cluster.programs) / "prometheus")


def nothing_without_the_role(prometheus):
    """Prometheus asks for the namespace's pods, is refused, and has no target."""
    refusal = 'cannot list resource "pods" in API group "" in the namespace "keyhole"'
    # Quoted once or twice in the log.
    wait_for("the API server refuses", lambda: refusal in prometheus.log().replace("\\", ""), DISCOVERY)
    targets = prometheus.get("targets")
    assert not targets["activeTargets"] and not targets["droppedTargets"], targets


def expected(pods):
    """The labels of each target, by the pod's name."""
    return {pod["metadata"]["name"]: {
        "job": "node-exporter", "instance": pod["spec"]["nodeName"], "namespace": pod["metadata"]["namespace"],
        "pod": pod["metadata"]["name"], "container": "exporter", "endpoint": "metrics"} for pod in pods}


def each_pod_is_a_target(prometheus, pods, series=("up == 1", "keyhole_build_info")):
    """Keyhole's pods are scraped, with the labels that the operator's monitors set, and no other pod is heard of.

    `series` are queries whose results have no other labels.
    """
    wanted = expected(pods)

    def scraped():
        targets = prometheus.get("targets", {"state": "active"})["activeTargets"]
        found = {target["labels"].get("pod"): target["labels"] for target in targets}
        assert found == wanted and len(targets) == len(wanted), f"{found} are not {wanted}"
        return all(target["health"] == "up" for target in targets)
    wait_for("each pod is scraped", scraped, DISCOVERY)
    for query in series:
        wait_for(f"{query} is there", lambda: {
            each["metric"]["pod"]: {name: value for name, value in each["metric"].items() if name != "__name__"}
            for each in prometheus.ask(query) if each["metric"]["pod"] in wanted} == wanted, DISCOVERY)
    dropped = {(target["discoveredLabels"]["__meta_kubernetes_pod_name"],
                target["discoveredLabels"]["__meta_kubernetes_pod_container_name"])
               for target in prometheus.get("targets")["droppedTargets"]}
    # The broker's container listens on no port.
    assert dropped == {(name, "broker") for name in wanted}, dropped


def the_role_permits_nothing_else(cluster):
    client = cluster.client(f"system:serviceaccount:{ACCOUNT_NAMESPACE}:{ACCOUNT}", ("system:authenticated",))
    client.get(PODS)
    for method, path in (("GET", "/api/v1/pods"), ("GET", "/api/v1/namespaces/default/pods"), ("DELETE", f"{PODS}/x"),
                         ("GET", PODS.replace("pods", "secrets")), ("GET", PODS.replace("pods", "services"))):
        try:
            client.request(method, path)
        except Refused as refused:
            assert refused.status == 403, refused
        else:
            raise AssertionError(f"{method} {path} is let through")


def a_new_pod_takes_the_place(prometheus, pods):
    """A pod that a node lost is no target any more, and its successor is."""
    gone = pods.keyholes()[0]
    pods.admin.delete(f"{PODS}/{gone['metadata']['name']}")
    (successor,) = wait_for("the DaemonSet makes another", lambda: [
        pod for pod in pods.keyholes() if not pod["status"].get("podIP") and pod["status"].get("phase") == "Running"])
    pods.set_address(successor)
    each_pod_is_a_target(prometheus, pods.keyholes())
    # Without that right it asks for the whole list again and again.
    assert "cannot watch" not in prometheus.log(), "Prometheus may not watch"


def check(results, cluster):
    """All of it, in a namespace where Keyhole is installed."""
    with contextlib.ExitStack() as stack:
        pods = Pods(cluster.client(), stack)
        pods.create("foreign", {"app": "foreign"})
        pods.create("half", {"app.kubernetes.io/name": KEYHOLES_LABELS["app.kubernetes.io/name"]})
        for pod in pods.keyholes():
            pods.set_address(pod)
        prometheus = stack.enter_context(server(cluster, account(cluster)))
        results.check("Prometheus discovers nothing without the role", nothing_without_the_role, prometheus)
        results.check("the role is applied", cluster.kubectl, "apply", "--filename", scrape_configuration.ROLE)
        results.check("Prometheus scrapes each pod of Keyhole's, and no other", each_pod_is_a_target, prometheus, pods.keyholes())
        results.check("the role permits nothing else", the_role_permits_nothing_else, cluster)
        results.check("Prometheus goes on to a pod's successor", a_new_pod_takes_the_place, prometheus, pods)
