"""A cluster as its users see it: requests over `kubectl proxy`, each as the user that it names."""
import contextlib
import http.client
import json
import re
import subprocess
import threading
import time
import urllib.parse

from results import Refusal

# Seconds.
REQUEST, PROXY_START = 30, 20


class Refused(Refusal):
    """An answer of the API server that is no success."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


class Client:
    """The API as one user sees it; not for several threads. None is who the kubeconfig says."""

    def __init__(self, port, user=None, groups=()):
        self.port, self.user, self.groups = port, user, groups
        self.connection = None

    def request(self, method, path, body=None, kind="application/json", **query):
        """The decoded answer; raises Refused for a status of 400 and more."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body)
        for attempt in (0, 1):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST)
                self.connection.putrequest(method, path)
                for name, value in self.headers(kind, data):
                    self.connection.putheader(name, value)
                self.connection.endheaders(data.encode() if data else None)
                response = self.connection.getresponse()
                status, text = response.status, response.read().decode()
                break
            except (http.client.HTTPException, OSError):
                # An idle connection that the other end closed meanwhile.
                self.connection = None
                if attempt:
                    raise
        try:
            answer = json.loads(text)
        except ValueError:
            answer = text
        if status >= 400:
            raise Refused(status, answer.get("message", text) if isinstance(answer, dict) else text)
        return answer

    def headers(self, kind, data):
        yield "Accept", "application/json"
        yield "Content-Length", str(len(data.encode()) if data else 0)
        if data:
            yield "Content-Type", kind
        if self.user:
            yield "Impersonate-User", self.user
        for group in self.groups:
            yield "Impersonate-Group", group

    def get(self, path, **query):
        return self.request("GET", path, **query)

    def create(self, path, thing, **query):
        return self.request("POST", path, thing, **query)

    def replace(self, path, thing, **query):
        return self.request("PUT", path, thing, **query)

    def patch(self, path, change, **query):
        """A list is a JSON patch, a dictionary a merge patch."""
        kind = "application/json-patch+json" if isinstance(change, list) else "application/merge-patch+json"
        return self.request("PATCH", path, change, kind, **query)

    def delete(self, path, **query):
        return self.request("DELETE", path, **query)

    def exists(self, path):
        try:
            self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True


class Cluster:
    """A cluster that a kubeconfig reaches; `programs` is where those of the test's own cluster are."""

    def __init__(self, kubeconfig, kubectl, programs=None):
        self.kubeconfig, self.program, self.programs = kubeconfig, kubectl, programs
        self.port = None

    def client(self, user=None, groups=()):
        return Client(self.port, user, groups)

    def kubectl(self, *arguments, user=None, check=True, seconds=120, **more):
        """Runs kubectl; raises AssertionError with what it printed if it fails and `check` is set."""
        command = [self.program, f"--kubeconfig={self.kubeconfig}"]
        if user:
            command.append(f"--as={user}")
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=seconds, **more)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done

    @contextlib.contextmanager
    def proxied(self):
        """Runs `kubectl proxy` meanwhile."""
        proxy = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", self.program, f"--kubeconfig={self.kubeconfig}", "proxy", "--port=0",
             "--reject-paths=^$"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
        watch = threading.Timer(PROXY_START, proxy.kill)
        watch.start()
        try:
            line = proxy.stdout.readline()
            watch.cancel()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, f"kubectl proxy said: {line!r}"
            self.port = int(found[1])
            yield self
        finally:
            watch.cancel()
            proxy.kill()
            proxy.wait()


def wait_for(what, condition, seconds=60):
    """Waits until `condition` returns something that is true, and returns it."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
        except (Refused, OSError, AssertionError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s; last: {last}")
