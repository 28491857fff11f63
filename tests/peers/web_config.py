#!/usr/bin/env python3
"""Starts the exporter with web configurations, asks it as clients do, and a node_exporter beside it.

usage: web_config.py [--binaries DIR] [--part NAME]...

Parts: tls, users, reload, prometheus; all of them by default. The first three are done by the exporter and by
Debian's node_exporter 1.5.0, with the same file and the same expectations; where they differ, a check says so.
`prometheus` has a real Prometheus scrape by TLS and a password, and by protobuf, and compares with the text.

Certificates are made by openssl. Needs Debian's curl, openssl, prometheus and prometheus-node-exporter packages.
"""
import argparse
import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from launch import BROKER_UID, EXPORTER_UID, Keyhole, fail, fetch, free_port, stop, wait_for

COLLECTORS = ["--collector.disable-defaults", "--collector.loadavg", "--collector.uname", "--collector.textfile"]
# "secret", at bcrypt's lowest cost.
HASH = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
CERTIFICATE = "tls_server_config: {cert_file: tls.crt, key_file: tls.key%s}\n"
USERS = f"basic_auth_users: {{prometheus: {HASH}}}\n"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

failures = []
checks = 0


def check(what, came, expected):
    global checks
    checks += 1
    if not (expected(came) if callable(expected) else came == expected):
        failures.append(f"{what}: {came!r}" + ("" if callable(expected) else f", not {expected!r}"))


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def certificate(home, name, san, authority=None):
    """name.crt and name.key, by an authority or its own."""
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{home}/{name}.key")
    subject = ["-new", "-key", f"{home}/{name}.key", "-subj", f"/CN={name}", "-days", "2"]
    if authority is None:
        openssl("req", "-x509", *subject, "-out", f"{home}/{name}.crt", "-addext", f"subjectAltName={san}")
        return
    openssl("req", *subject[:-2], "-out", f"{home}/{name}.csr")
    (home / "extensions").write_text(f"subjectAltName={san}\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", f"{home}/{name}.csr", "-CA", f"{home}/{authority}.crt", "-CAkey", f"{home}/{authority}.key",
            "-CAcreateserial", "-out", f"{home}/{name}.crt", "-days", "2", "-extfile", f"{home}/extensions")


class Web:
    """A program that serves with a web configuration, its directory laid out as the kubelet does: files are links to ..data."""

    def __init__(self, name, program, flags, home, uid=None):
        self.name, self.program, self.flags, self.home, self.uid = name, program, flags, home, uid
        self.config = home / "config"
        self.process = None

    def put(self, **files):
        """Swaps all files at once."""
        self.config.mkdir(exist_ok=True)
        fresh = self.config / f"..{time.monotonic_ns()}"
        fresh.mkdir()
        for name, content in files.items():
            name = name.replace("_", ".")
            (fresh / name).write_text(content)
            if not (self.config / name).is_symlink():
                (self.config / name).symlink_to(f"..data/{name}")
        link = self.config / "..new"
        link.symlink_to(fresh.name)
        link.rename(self.config / "..data")
        for path in (self.config, fresh):
            path.chmod(0o755)

    def start(self):
        """Starts it; the exit status when it does not serve."""
        self.stop()
        self.port = free_port()
        drop = dict(user=self.uid, group=BROKER_UID, extra_groups=[]) if self.uid else {}
        self.log = self.home / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [self.program, *self.flags, f"--web.config.file={self.config}/web.yml", f"--web.listen-address=127.0.0.1:{self.port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **drop,
            )
        def ready():
            if self.process.poll() is not None:
                return "ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return "serves"
        came = wait_for(self.name, self.process, ready)
        return came if came == "serves" else self.process.returncode

    def stop(self):
        if self.process:
            stop(self.process)

    def ask(self, path="/metrics", user=None, tls=None, method="GET", headers=None):
        """Status, headers and body; the name of the error when there is no answer."""
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=tls) if tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        )
        headers = dict(headers or {})
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, {}, b""
        finally:
            connection.close()

    def status(self, **how):
        return self.ask(**how)[0]


def trusting(*authorities, client=None, versions=None, alpn=None, ciphers=None):
    """A client's side of TLS."""
    context = ssl.create_default_context()
    for authority in authorities:
        context.load_verify_locations(f"{authority}.crt")
    if client:
        context.load_cert_chain(f"{client}.crt", f"{client}.key")
    if versions:
        context.minimum_version = context.maximum_version = versions
    if ciphers:
        context.set_ciphers(ciphers)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def negotiated(web, context):
    """The protocol, version and suite of a handshake."""
    try:
        with socket.create_connection(("127.0.0.1", web.port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
                return tls.selected_alpn_protocol(), tls.version(), tls.cipher()[0]
    except OSError as error:
        return type(error).__name__


def pem(home, name):
    return dict(tls_crt=(home / f"{name}.crt").read_text(), tls_key=(home / f"{name}.key").read_text())


def tls(web, pki, ours):
    name, one = web.name, pki / "one"
    ca = (pki / "ca.crt").read_text()
    web.put(web_yml=CERTIFICATE % "", **pem(pki, "one"))
    check(f"{name} starts with TLS", web.start(), "serves")
    check(f"{name}: a scrape by TLS", web.status(tls=trusting(one)), 200)
    check(f"{name}: a client that trusts another", web.status(tls=trusting(pki / "two")), "SSLCertVerificationError")
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as plain:
        plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := plain.recv(4096):
                answer += part
    check(f"{name}: HTTP to the TLS port", answer,
          b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
    check(f"{name}: TLS 1.2", negotiated(web, trusting(one, versions=ssl.TLSVersion.TLSv1_2))[1], "TLSv1.2")
    check(f"{name}: HTTP/2 is chosen", negotiated(web, trusting(one, alpn=["h2", "http/1.1"]))[0], "h2")
    curl = subprocess.run(
        ["curl", "--silent", "--show-error", "--http2", "--max-time", "10", "--cacert", f"{one}.crt", "-w", "\n%{http_version} %{http_code}",
         f"https://127.0.0.1:{web.port}/metrics"], capture_output=True, text=True)
    check(f"{name}: a scrape by HTTP/2", curl.stdout.rsplit("\n", 1)[-1], "2 200")
    check(f"{name}: whose body is whole", "\nnode_load1 " in curl.stdout, True)
    old = f"openssl s_client -connect 127.0.0.1:{web.port} -tls1_1 -cipher ALL:@SECLEVEL=0".split()
    came = subprocess.run(old, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    check(f"{name}: TLS 1.1 is refused", (came.returncode, "BEGIN CERTIFICATE" in came.stdout), (1, False))

    web.put(web_yml=CERTIFICATE % ", min_version: TLS13" + "http_server_config: {http2: false}\n", **pem(pki, "one"))
    check(f"{name} starts with TLS 1.3 alone", web.start(), "serves")
    check(f"{name}: TLS 1.2 is refused", negotiated(web, trusting(one, versions=ssl.TLSVersion.TLSv1_2)), "SSLError")
    check(f"{name}: no HTTP/2", negotiated(web, trusting(one, alpn=["h2", "http/1.1"]))[:2],
          lambda came: came in (("http/1.1", "TLSv1.3"), (None, "TLSv1.3")))

    suites = ", max_version: TLS12, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]"
    web.put(web_yml=CERTIFICATE % suites + "http_server_config: {http2: false}\n", **pem(pki, "one"))
    check(f"{name} starts with one suite", web.start(), "serves")
    check(f"{name}: the suite", negotiated(web, trusting(one))[1:], ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"))
    check(f"{name}: no other suite", negotiated(web, trusting(one, versions=ssl.TLSVersion.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")), "SSLError")

    required = ", client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert"
    web.put(web_yml=CERTIFICATE % required, ca_crt=ca, **pem(pki, "one"))
    check(f"{name} starts with client certificates", web.start(), "serves")
    check(f"{name}: a client with a certificate", web.status(tls=trusting(one, client=pki / "client")), 200)
    check(f"{name}: a client without", web.status(tls=trusting(one)), lambda came: came != 200)
    check(f"{name}: a client of another authority", web.status(tls=trusting(one, client=pki / "two")), lambda came: came != 200)
    web.put(web_yml=CERTIFICATE % ", client_auth_type: RequireAnyClientCert", **pem(pki, "one"))
    check(f"{name}: any certificate will do, without a restart", web.status(tls=trusting(one, client=pki / "two")), 200)
    check(f"{name}: but there must be one", web.status(tls=trusting(one)), lambda came: came != 200)
    for sans, expected in (("[prometheus.test]", 200), ("[10.9.8.7]", 200), ("['spiffe://test/prometheus']", 200),
                           ("[other.test, 10.9.8.6]", None), ("[test]", None),
                           # 1.12.1 compares these too: listed as missing.
                           ("[who@prometheus.test]", None), ("[who@prometheus.test, prometheus.test]", 200)):
        if not ours:
            break  # Debian's version does not know client_allowed_sans.
        web.put(web_yml=CERTIFICATE % f"{required}, client_allowed_sans: {sans}", ca_crt=ca, **pem(pki, "one"))
        came = web.status(tls=trusting(one, client=pki / "client"))
        check(f"{name}: a client by its names {sans}", came, lambda came: (came == 200) == (expected == 200))
    if ours:
        indented = {key: "".join(f"    {line}\n" for line in (pki / f"one.{key}").read_text().splitlines()) for key in ("crt", "key")}
        web.put(web_yml=f"tls_server_config:\n  cert: |\n{indented['crt']}  key: |\n{indented['key']}")
        check(f"{name} starts with its certificate inline", web.start(), "serves")
        check(f"{name}: a scrape with it", web.status(tls=trusting(one)), 200)


def sandboxed(pid):
    """Of each thread: the mode of seccomp, no_new_privs, and its capabilities."""
    texts = [path.read_text() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status")]
    return [tuple(re.search(rf"^{key}:\t(\S+)", text, re.MULTILINE)[1] for key in ("Seccomp", "NoNewPrivs", "CapEff")) for text in texts]


def users(web, pki, ours):
    name = web.name
    headers = "http_server_config: {headers: {X-Frame-Options: deny, Strict-Transport-Security: max-age=5}}\n"
    web.put(web_yml=USERS + headers)
    check(f"{name} starts with users", web.start(), "serves")
    for user, expected in ((None, 401), ("prometheus:secret", 200), ("prometheus:Secret", 401), ("other:secret", 401),
                           ("prometheus:", 401), (":secret", 401), ("prometheus:secret", 200), ("prometheus:" + "x" * 100, 401)):
        check(f"{name}: as {user}", web.status(user=user), expected)
    for path in ("/", "/nothing"):
        check(f"{name}: {path} without a password", web.status(path=path), 401)
    status, sent, body = web.ask()
    check(f"{name}: what 401 says", (body, sent.get("WWW-Authenticate")), (b"Unauthorized\n", "Basic"))
    for status, sent, _ in (web.ask(), web.ask(user="prometheus:secret")):
        check(f"{name}: headers of {status}", (sent.get("X-Frame-Options"), sent.get("Strict-Transport-Security")), ("deny", "max-age=5"))
    web.put(web_yml=USERS.replace(": {prometheus", ": {another"))
    check(f"{name}: a user who was taken out", web.status(user="prometheus:secret"), 401)
    check(f"{name}: and one who came", web.status(user="another:secret"), 200)
    kept = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
    kept.request("GET", "/metrics")
    kept.getresponse().read()
    web.put(web_yml="nonsense: 1\n")
    kept.request("GET", "/metrics")
    check(f"{name}: a file that broke, by plain HTTP, on a connection that stands", kept.getresponse().status, 500)
    kept.close()
    status, _, body = web.ask()
    check(f"{name}: and on a new one", (status, body), (500, b"Internal Server Error\n"))
    for broken in ("basic_auth_users: {a: plain}\n", "unknown: 1\n", "http_server_config: {headers: {X-Other: a}}\n", "a: [\n"):
        web.put(web_yml=broken)
        check(f"{name} does not start with {broken!r}", web.start(), 1)
        if ours:
            log = web.log.read_text()
            check(f"{name} logs why", log, lambda log: "--web.config.file=" in log and log.count("\n") == 1)
    if not ours:
        return  # Debian's version does not know rate_limit.
    web.put(web_yml="rate_limit: {interval: 1h, burst: 3}\n")
    check(f"{name} starts with a rate limit", web.start(), "serves")
    check(f"{name}: its three threads are all sandboxed", sandboxed(web.process.pid), [("2", "1", "0" * 16)] * 3)
    came = [web.ask(path="/-/healthy") for _ in range(4)]
    check(f"{name}: a burst and its end", [answer[0] for answer in came], [200, 200, 200, 429])
    check(f"{name}: what 429 says", came[-1][2], b"Too Many Requests\n")
    # Strangers who guess do not hold up Prometheus, nor the page.
    web.put(web_yml=USERS.replace("$04$", "$10$"))
    check(f"{name} starts with a costly hash", web.start(), "serves")
    refused = []
    guesses = [threading.Thread(target=lambda n=n: refused.append(web.status(user=f"prometheus:{n}"))) for n in range(100)]
    for guess in guesses:
        guess.start()
    time.sleep(0.3)
    start = time.monotonic()
    check(f"{name}: a probe without a password while others guess", web.status(path="/-/healthy"), 401)
    check(f"{name}: answers at once", time.monotonic() - start, lambda took: took < 1.0)
    for guess in guesses:
        guess.join(30)
    check(f"{name}: some are turned away before their guess is checked", set(refused),
          lambda came: 503 in came and 200 not in came)


def reload(web, pki, ours):
    name = web.name
    web.put(web_yml=CERTIFICATE % "", **pem(pki, "one"))
    check(f"{name} starts", web.start(), "serves")
    kept = http.client.HTTPSConnection("127.0.0.1", web.port, timeout=10, context=trusting(pki / "one"))
    kept.request("GET", "/metrics")
    check(f"{name}: the first certificate", kept.getresponse().read(1) != b"", True)
    web.put(web_yml=CERTIFICATE % "", **pem(pki, "two"))
    check(f"{name}: the second, without a restart", web.status(tls=trusting(pki / "two")), 200)
    check(f"{name}: and no longer the first", web.status(tls=trusting(pki / "one")), "SSLCertVerificationError")
    mixed = dict(tls_crt=(pki / "one.crt").read_text(), tls_key=(pki / "two.key").read_text())
    web.put(web_yml=CERTIFICATE % "", **mixed)
    check(f"{name}: a certificate with another's key", web.status(tls=trusting(pki / "one")), lambda came: came != 200)
    web.put(web_yml=CERTIFICATE % "" + USERS, **pem(pki, "two"))
    check(f"{name}: users that came", web.status(tls=trusting(pki / "two")), 401)
    check(f"{name}: are let in", web.status(tls=trusting(pki / "two"), user="prometheus:secret"), 200)
    second = http.client.HTTPSConnection("127.0.0.1", web.port, timeout=10, context=trusting(pki / "two"))
    second.connect()
    web.put(web_yml="nonsense: 1\n", **pem(pki, "two"))
    second.request("GET", "/metrics")
    check(f"{name}: a file that broke, on a connection that stands", second.getresponse().status, 500)
    check(f"{name}: and on a new one", web.status(tls=trusting(pki / "two")), lambda came: came != 200)
    if ours:
        web.put(web_yml=USERS, **pem(pki, "two"))
        check(f"{name}: TLS that is taken out serves nobody by plain text", web.status(user="prometheus:secret"), lambda came: came != 200)
        log = web.log.read_text()
        check(f"{name}: the log has each once", len(re.findall("level=ERROR", log)), lambda count: 2 <= count <= 4)
    web.put(web_yml=CERTIFICATE % "", **pem(pki, "one"))
    check(f"{name}: a file that is well again", web.status(tls=trusting(pki / "one")), 200)
    kept.close()
    second.close()
    if ours:
        web.put(web_yml=USERS)
        check(f"{name} starts without TLS", web.start(), "serves")
        check(f"{name}: a password by plain text", web.status(user="prometheus:secret"), 200)
        web.put(web_yml=CERTIFICATE % "" + USERS, **pem(pki, "one"))
        check(f"{name}: TLS that is added serves nobody by plain text", web.status(user="prometheus:secret"), lambda came: came != 200)
        check(f"{name}: nor by TLS", web.status(user="prometheus:secret", tls=trusting(pki / "one")), lambda came: came != 200)
        check(f"{name}: the log says what to do", "turning TLS on or off needs a restart" in web.log.read_text(), True)
        check(f"{name} starts with TLS again", web.start(), "serves")
        check(f"{name}: and serves by it", web.status(user="prometheus:secret", tls=trusting(pki / "one")), 200)
        lies_in_root = pathlib.Path(f"/keyhole-web-{os.getpid()}.crt")
        if os.access("/", os.W_OK):
            try:
                lies_in_root.write_text((pki / "one.crt").read_text())
                lies_in_root.chmod(0o644)
                web.put(web_yml=(CERTIFICATE % "").replace("tls.crt", str(lies_in_root)), **pem(pki, "one"))
                check(f"{name} does not start with a file in /", web.start(), 1)
                check(f"{name} logs why it does not", f"{lies_in_root} lies in /" in web.log.read_text(), True)
            finally:
                lies_in_root.unlink(missing_ok=True)
            web.put(web_yml=CERTIFICATE % "", **pem(pki, "one"))
            check(f"{name} starts again", web.start(), "serves")
        stop(web.process)
        check(f"{name}: ends", web.process.returncode, 0)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands a scrape on, and keeps the media types that were asked for and given."""

    def do_GET(self):
        headers = {name: self.headers[name] for name in ("Accept", "Accept-Encoding") if name in self.headers}
        with urllib.request.urlopen(urllib.request.Request(self.server.target, headers=headers), timeout=10) as answer:
            body = answer.read()
            self.server.types.add(answer.headers["Content-Type"])
            self.send_response(200)
            for name in ("Content-Type", "Content-Encoding"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def series(text):
    """Series of a text: name and labels, as Prometheus keeps them, to their value."""
    found = {}
    for name, labels, value in re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)
        pairs = [(key, json.loads(f'"{value}"')) for key, value in pairs]
        found[identity(name, pairs)] = float(value)
    return found


def identity(name, labels):
    # Prometheus writes the bounds of its buckets and quantiles in another way when they come by protobuf: 10.0 for 10.
    own = {key: str(float(value)) if key in ("le", "quantile") else value for key, value in labels
           if value and key not in ("instance", "job", "__name__")}
    return name, tuple(sorted(own.items()))


@contextlib.contextmanager
def plainly(web):
    """The same program without a web configuration; its URL."""
    home = web.home / "plain"
    home.mkdir(exist_ok=True)
    beside = Web(web.name, web.program, web.flags, home, web.uid)
    beside.put(web_yml="")
    try:
        check("the exporter starts with an empty file", beside.start(), "serves")
        yield f"http://127.0.0.1:{beside.port}/metrics"
    finally:
        beside.stop()


def prometheus(web, pki, home):
    """Prometheus by TLS, a password and HTTP/2 and, beside it, by protobuf."""
    web.put(web_yml=CERTIFICATE % "" + USERS, **pem(pki, "one"))
    check("the exporter starts for Prometheus", web.start(), "serves")
    with plainly(web) as plain:
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        proxy.target, proxy.types = plain, set()
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        configuration = f"""\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: secure
    scheme: https
    tls_config: {{ca_file: {pki}/one.crt}}
    basic_auth: {{username: prometheus, password: secret}}
    static_configs: [{{targets: ["127.0.0.1:{web.port}"]}}]
  - job_name: wrong
    scheme: https
    tls_config: {{ca_file: {pki}/one.crt}}
    basic_auth: {{username: prometheus, password: wrong}}
    static_configs: [{{targets: ["127.0.0.1:{web.port}"]}}]
  - job_name: protobuf
    static_configs: [{{targets: ["127.0.0.1:{proxy.server_port}"]}}]
"""
        (home / "prometheus.yml").write_text(configuration)
        base = f"127.0.0.1:{free_port()}"
        with open(home / "prometheus.log", "w") as log:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data",
                 f"--web.listen-address={base}", "--enable-feature=native-histograms"], stdout=log, stderr=log, cwd=home)
        try:
            def ask(query):
                try:
                    status, body = fetch(f"http://{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
                except OSError:
                    return []
                return json.loads(body)["data"]["result"] if status == 200 else []

            wait_for("three scrapes", process, lambda: len(ask("count_over_time(up[1m]) >= 3")) == 3)
            up = {row["metric"]["job"]: row["value"][1] for row in ask("up")}
            check("up", up, {"secure": "1", "wrong": "0", "protobuf": "1"})
            text = series(fetch(plain)[1].decode())
            for job in ("secure", "protobuf"):
                rows = ask(f'{{job="{job}",__name__!~"scrape_.*|up"}}')
                kept = {identity(row["metric"]["__name__"], row["metric"].items()): float(row["value"][1]) for row in rows}
                check(f"{job}: series that the text has too", (sorted(set(text) - set(kept)), sorted(set(kept) - set(text))), ([], []))
                fixed = {key: value for key, value in text.items() if re.match("node_uname|test_|node_exporter_build|process_max", key[0])}
                check(f"{job}: values", {key: kept.get(key) for key in fixed}, fixed)
                check(f"{job}: with histograms and summaries", sum(key[0].startswith("test_") for key in fixed), 11)
            check("Prometheus was given protobuf", proxy.types, lambda types: types == {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores"})
        finally:
            stop(process)
            proxy.shutdown()


TEXTFILE = """\
# TYPE test_seconds histogram
test_seconds_bucket{le="0.5",path="a\\\\b"} 1
test_seconds_bucket{le="10",path="a\\\\b"} 3
test_seconds_bucket{le="+Inf",path="a\\\\b"} 4
test_seconds_sum{path="a\\\\b"} 31.25
test_seconds_count{path="a\\\\b"} 4
# TYPE test_size summary
test_size{quantile="0.5"} 2
test_size{quantile="0.99"} 8
test_size_sum 100
test_size_count 40
# TYPE test_value untyped
test_value{text="\\"quoted\\"\\n"} -1.5
# TYPE test_total counter
test_total 18446744073709551615
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--part", action="append", choices=["tls", "users", "reload", "prometheus"])
    arguments = parser.parse_args()
    parts = arguments.part or ["tls", "users", "reload", "prometheus"]
    for program in ("curl", "openssl", "prometheus", "prometheus-node-exporter"):
        shutil.which(program) or fail(f"{program} is missing: apt-get install {program}")
    with Keyhole(arguments.binaries, exporter_flags=COLLECTORS) as keyhole, \
            tempfile.TemporaryDirectory(prefix="keyhole-web-") as home:
        home = pathlib.Path(home)
        home.chmod(0o755)
        pki = home / "pki"
        for directory in (pki, home / "text", home / "ours", home / "theirs"):
            directory.mkdir()
        (home / "text/test.prom").write_text(TEXTFILE)
        certificate(pki, "ca", "DNS:ca")
        certificate(pki, "client", "DNS:prometheus.test,IP:10.9.8.7,URI:spiffe://test/prometheus,email:who@prometheus.test", "ca")
        for name in ("one", "two"):
            certificate(pki, name, "IP:127.0.0.1")
        flags = [*COLLECTORS, f"--collector.textfile.directory={home}/text"]
        ours = Web("the exporter", keyhole.home / "keyhole-exporter", [*flags, f"--broker.socket={keyhole.socket}"], home / "ours",
                   EXPORTER_UID if os.geteuid() == 0 else None)
        theirs = Web("node_exporter", "prometheus-node-exporter", flags, home / "theirs")
        try:
            for part, run in (("tls", tls), ("users", users), ("reload", reload)):
                if part in parts:
                    run(theirs, pki, ours=False)
                    run(ours, pki, ours=True)
            if "prometheus" in parts:
                prometheus(ours, pki, home)
        finally:
            ours.stop()
            theirs.stop()
            if failures:
                print(ours.log.read_text() if ours.process else "")
    for failure in failures:
        print(f"  {failure}")
    print(f"web configuration: {checks - len(failures)}/{checks} checks hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
