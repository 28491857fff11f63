"""A real Prometheus on a loopback port, with a storage of its own, for the scripts in this directory.

Needs Debian's prometheus package.
"""
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import urllib.parse

from launch import fail, fetch, free_port, stop, wait_for

COMPLAINTS = re.compile(r"duplicate|out.of.order|out of bounds|append failed|level=error", re.IGNORECASE)


class Prometheus:
    """A Prometheus with `configuration`, the text of prometheus.yml; a context manager.

    `files` are further files beside it, by name; `program` is another than Debian's. After the end `complaints` has
    the lines of its log about a sample it did not take, or of any error.
    """

    def __init__(self, configuration, files={}, program=None):
        self.program = program or shutil.which("prometheus") or fail("prometheus is missing: apt-get install prometheus")
        self.files = {"prometheus.yml": configuration, **files}
        self.complaints = []

    def __enter__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="keyhole-prometheus-"))
        for name, text in self.files.items():
            (self.home / name).write_text(text)
        address = f"127.0.0.1:{free_port()}"
        self.base = f"http://{address}"
        with open(self.home / "log", "w") as log:
            self.process = subprocess.Popen(
                [self.program, f"--config.file={self.home}/prometheus.yml", f"--storage.tsdb.path={self.home}/data",
                 f"--web.listen-address={address}"],
                stdout=log, stderr=log, cwd=self.home,
            )
        self.connection = http.client.HTTPConnection(address, timeout=10)
        try:
            wait_for("prometheus", self.process, self.ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.connection.close()
        stop(self.process)
        self.complaints = [line for line in self.log().splitlines() if COMPLAINTS.search(line)]
        shutil.rmtree(self.home, ignore_errors=True)

    def log(self):
        return (self.home / "log").read_text()

    def ready(self):
        try:
            return fetch(f"{self.base}/-/ready", timeout=2)[0] == 200
        except OSError:
            return False

    def get(self, path, parameters={}):
        """The data of an answer of the HTTP API; it must succeed."""
        self.connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}")
        answer = json.loads(self.connection.getresponse().read())
        if answer["status"] != "success":
            fail(f"{path} {parameters}: {answer.get('error', answer['status'])}")
        return answer["data"]

    def ask(self, query):
        """The series in a query's answer; a scalar is one series without labels."""
        data = self.get("query", {"query": query})
        if data["resultType"] == "vector":
            return data["result"]
        return [{"metric": {}, "value": data["result"]}]

    def number(self, query):
        """The value of a query's first series; none when there is no series."""
        result = self.ask(query)
        return float(result[0]["value"][1]) if result else None
