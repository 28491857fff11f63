"""A Kubernetes control plane on loopback: etcd, API server, controller manager and scheduler, each a process of this one.

Nothing of it outlives the `with` block that starts it, and it keeps its files in a directory of its own.
"""
import base64
import contextlib
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import time

import yaml

# Seconds to wait for a server, and for a request.
START, REQUEST = 180, 30
# The node of which a kubelet may be started, with `node_token`; a kubelet believes a client certificate of `authority`.
NODE = "node-1"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ControlPlane:
    """A running one: `kubeconfig` reaches it as cluster admin."""

    def __init__(self, directory, programs, kubectl):
        self.directory, self.programs = pathlib.Path(directory), pathlib.Path(programs)
        self.kubectl_program = kubectl
        self.kubeconfig = self.directory / "kubeconfig"
        self.certificates = self.directory / "certificates"
        self.authority, self.authority_key = self.certificates / "kubelets.crt", self.certificates / "kubelets.key"
        self.processes = {}
        self.token, self.node_token = secrets.token_hex(16), secrets.token_hex(16)
        self.port = free_port()

    def start(self, name, *arguments):
        with open(self.directory / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                # They end with this process, however it ends.
                ["setpriv", "--pdeathsig", "KILL", self.programs / name, *arguments], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)

    def stop(self):
        # The store last, so that the others end cleanly.
        for name in reversed(list(self.processes)):
            process = self.processes.pop(name)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def tail(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]

    def wait_for(self, what, condition, seconds=START):
        """Waits until `condition` returns something that is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended with {process.returncode}:\n{self.tail(name)}")
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                if condition():
                    return
            time.sleep(0.2)
        raise AssertionError(f"{what}: not within {seconds} s\n" + "\n".join(
            f"the end of {name}'s log:\n{self.tail(name)}" for name in self.processes))

    def run(self):
        self.certificates.mkdir()
        store, peer = free_port(), free_port()
        self.start("etcd", f"--data-dir={self.directory}/etcd", f"--listen-client-urls=http://127.0.0.1:{store}",
                   f"--advertise-client-urls=http://127.0.0.1:{store}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
                   f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                   f"--initial-cluster=default=http://127.0.0.1:{peer}", "--unsafe-no-fsync", "--log-level=warn")
        key = self.certificates / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True, timeout=60)
        # The API server shows it to kubelets, for logs and exec: it is its own authority.
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                        "-subj", "/O=system:masters/CN=kube-apiserver", "-keyout", self.authority_key,
                        "-out", self.authority], check=True, capture_output=True, timeout=60)
        tokens = self.directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.token},cluster-admin,cluster-admin,"system:masters"\n'
                          f'{self.node_token},system:node:{NODE},kubelet,"system:nodes"\n')
        self.start("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{store}", f"--cert-dir={self.certificates}",
                   "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self.port}",
                   f"--token-auth-file={tokens}", "--authorization-mode=Node,RBAC",
                   "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                   f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24",
                   "--allow-privileged=true", "--enable-admission-plugins=NodeRestriction",
                   f"--kubelet-client-certificate={self.authority}", f"--kubelet-client-key={self.authority_key}",
                   "--kubelet-preferred-address-types=InternalIP", "--v=1")
        certificate = self.certificates / "apiserver.crt"
        self.wait_for("the API server's certificate", certificate.exists)
        self.write_kubeconfig(self.kubeconfig, self.token)
        self.wait_for("the API server", lambda: self.kubectl("get", "--raw=/readyz") == "ok")
        # The account of each controller is its own, as on a real cluster: the policies go by one of them.
        self.start("kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--use-service-account-credentials=true",
                   f"--service-account-private-key-file={key}", "--leader-elect=false", "--secure-port=0",
                   "--node-monitor-grace-period=10m", f"--root-ca-file={certificate}", "--v=1")
        self.start("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0", "--v=1")
        self.wait_for("the service account of the namespace default", lambda: self.kubectl(
            "--namespace=default", "get", "serviceaccount", "default"))
        self.wait_for("system-node-critical", lambda: self.kubectl("get", "priorityclass", "system-node-critical"))

    def kubectl(self, *arguments):
        """The output, or nothing if the command failed."""
        done = subprocess.run([self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *arguments],
                              capture_output=True, text=True, timeout=REQUEST)
        return done.stdout if done.returncode == 0 else ""

    def write_kubeconfig(self, path, token):
        certificate = (self.certificates / "apiserver.crt").read_bytes()
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": f"https://127.0.0.1:{self.port}",
                "certificate-authority-data": base64.b64encode(certificate).decode()}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }))


@contextlib.contextmanager
def control_plane(directory, programs, kubectl):
    plane = ControlPlane(directory, programs, kubectl)
    # A test that is ended by a signal ends its processes too.
    previous = signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    try:
        plane.run()
        yield plane
    finally:
        plane.stop()
        signal.signal(signal.SIGTERM, previous)
