#!/usr/bin/env python3
"""Sends the same requests to the exporter and to a node_exporter, and compares what they answer.

usage: web_parity.py [--binaries DIR] [-v]

Both run the same few collectors on loopback ports. Of each answer the status, the headers that matter and what the
body holds are compared. A request in DIFFERS must be answered by each as it says there: a difference that goes away,
or changes, fails as well. Then each is started with the addresses that node_exporter takes, and stopped.

Debian's node_exporter is 1.5.0; what later versions do otherwise is in NEWER.
Needs Debian's prometheus-node-exporter package.
"""
import argparse
import gzip
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from launch import Keyhole, fail, free_port, stop, wait_for

COLLECTORS = ["--collector.disable-defaults", "--collector.loadavg", "--collector.time", "--collector.uname"]
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

# Method, path, headers.
REQUESTS = [
    ("GET", "/metrics", {}),
    ("HEAD", "/metrics", {}),
    ("GET", "/metrics?collect[]=loadavg", {}),
    ("GET", "/metrics?collect%5B%5D=loadavg&collect[]=time", {}),
    ("GET", "/metrics?collect[]=loadavg&collect[]=loadavg", {}),
    ("GET", "/metrics?collect=loadavg", {}),
    ("GET", "/metrics?other[]=loadavg&x", {}),
    ("GET", "/metrics?collect[]=nope", {}),
    ("GET", "/metrics?collect[]=stat", {}),
    ("GET", "/metrics?collect[]=load%61vg", {}),
    ("GET", "/metrics?collect[]=%ff", {}),
    ("GET", "/metrics?collect[]=", {}),
    ("GET", "/metrics", {"Accept-Encoding": "gzip"}),
    ("HEAD", "/metrics", {"Accept-Encoding": "gzip"}),
    ("GET", "/metrics", {"Accept-Encoding": "zstd, gzip;q=0.5"}),
    ("GET", "/metrics", {"Accept-Encoding": "deflate, br"}),
    ("GET", "/metrics", {"Accept-Encoding": "identity;q=0"}),
    ("GET", "/metrics", {"Accept": PROMETHEUS}),
    ("GET", "/metrics", {"Accept": "application/openmetrics-text;version=1.0.0"}),
    ("GET", "/metrics", {"Accept": "text/plain;version=1.0.0"}),
    ("GET", "/metrics", {"Accept": "application/json"}),
    ("GET", "/metrics", {"Accept": PROTOBUF}),
    ("GET", "/metrics", {"Accept": f"{PROTOBUF},{PROMETHEUS.replace('1.0.0', '1.0.0;q=0.8')}"}),
    ("GET", "/metrics", {"Accept": f"{PROTOBUF};q=0.2,{PROMETHEUS}"}),
    ("GET", "/metrics", {"Accept": PROTOBUF, "Accept-Encoding": "gzip"}),
    ("GET", "/metrics", {"X-Prometheus-Scrape-Timeout-Seconds": "nonsense"}),
    ("GET", "/", {}),
    ("HEAD", "/", {}),
    ("GET", "/?collect[]=loadavg", {}),
    ("GET", "/metrics/", {}),
    ("GET", "/health", {}),
    ("GET", "/favicon.ico", {}),
    ("POST", "/nothing", {}),
    ("POST", "/metrics", {}),
    ("DELETE", "/", {}),
    ("GET", "/metrics?collect[]=systemd", {}),
    ("GET", "/metrics?collect[]=%zz", {}),
    ("GET", "/metrics", {"Accept": PROTOBUF.replace("delimited", "text")}),
    ("GET", "/debug/pprof/", {}),
    ("GET", "/-/healthy", {}),
    ("GET", "/-/ready", {}),
    ("GET", "/metrics?name[]=node_load1", {}),
    ("GET", "/metrics?exclude[]=loadavg", {}),
    ("GET", "/metrics?exclude[]=loadavg&exclude[]=time&exclude[]=uname", {}),
    ("GET", "/metrics?exclude[]=nope", {}),
    ("GET", "/metrics?collect[]=time&exclude[]=loadavg", {}),
    ("GET", "/%6detrics", {}),
    ("GET", "/metric%73?collect[]=time", {}),
    ("GET", "/metrics?a;b&collect[]=time", {}),
    ("GET", "/metrics?collect[]=time&;", {}),
    ("GET", "/metrics?collect[]=time%3bx", {}),
    ("GET", "/metrics?collect[]=time;x", {}),
    ("GET", "/metrics?x=%zz&collect[]=time", {}),
    ("GET", "//metrics", {}),
    ("HEAD", "//metrics", {}),
    ("POST", "//metrics", {}),
    ("GET", "/./metrics?collect[]=time&x=%zz", {}),
    ("GET", "/x/../nothing?a;b", {}),
    ("GET", "/metrics/..", {}),
    ("GET", "//%6detrics", {}),
]
# Requests as bytes, and the status that both answer.
RAW = [
    (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
    (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
    (b"GET /nothing HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.0\r\nHost: a<b\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", 200),
    (b"GET /metrics HTTP/1.1\r\nHost: [::1]:9100\r\nConnection: close\r\n\r\n", 200),
    (b"GET http://y/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
    (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
    (b"GET /metrics%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /metrics% HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400),
]

# What differs: request, node_exporter's answer and the exporter's as regular expressions over `summary`, the reason.
TEXT = "200 text/plain; version=0.0.4; charset=utf-8"
LANDING = "200 text/html; .*title=True"
NOT_FOUND = "404 text/plain; charset=utf-8 404 page not found$"
DIFFERS = [
    ("POST /metrics", TEXT, "405 .*only GET and HEAD", "a scrape changes nothing, and is a GET"),
    ("DELETE /", "200 text/html", "405 .*only GET and HEAD", "the same"),
    ("GET /metrics?collect[]=systemd", r"400 .*disabled collector: systemd$",
     r"400 .*disabled collector: systemd \(not supported: it needs the host's D-Bus\)$", "says why"),
    ("GET /metrics?collect[]=%zz", TEXT, "400 .*invalid escape", "a filter that cannot be read is not given everything"),
    ("GET /metrics?collect[]=time;x", TEXT, "400 .*semicolon", "the same"),
    ("GET /metrics?x=%zz&collect[]=time", TEXT, "400 .*invalid escape", "the same: its name may be a filter's"),
    (f"GET /metrics Accept: {PROTOBUF.replace('delimited', 'text')}", "200 application/vnd.google.protobuf", TEXT,
     "a form for people, and no Prometheus asks for it; the text is one"),
    ("GET /debug/pprof/", "200 ", "404 ", "a profiler on the metrics port is a way in"),
]
# The same where Debian's 1.5.0 is older: the exporter does as 1.12.1 but where the reason says otherwise.
EVERYTHING = r".* loadavg,time,uname own"
NEWER = [
    ("GET /metrics/", LANDING, NOT_FOUND, "the landing page is / alone"),
    ("GET /health", LANDING, NOT_FOUND, "the same"),
    ("GET /favicon.ico", LANDING, NOT_FOUND, "the same"),
    ("POST /nothing", LANDING, NOT_FOUND, "the same"),
    ("GET /-/healthy", LANDING, "200 .*the exporter is up", "for probes; 404 in 1.12.1"),
    ("GET /-/ready", LANDING, "200 .*the broker answers", "for probes; 404 in 1.12.1"),
    ("GET /metrics?name[]=node_load1", EVERYTHING, TEXT + r" +node_load1$", "families by name"),
    ("GET /metrics?exclude[]=loadavg", EVERYTHING, r".* time,uname own$", "collectors but these"),
    ("GET /metrics?exclude[]=loadavg&exclude[]=time&exclude[]=uname", EVERYTHING, TEXT + r"  own$",
     "1.12.1 runs all collectors when all are excluded; here none runs"),
    ("GET /metrics?collect[]=time&exclude[]=loadavg", r".* time own$",
     r"400 .*Combined collect and exclude queries are not allowed\.$", "both at once"),
    ("GET //metrics", "30[17] /metrics$", "307 /metrics$", "1.5.0's server redirects by 301"),
    ("HEAD //metrics", "30[17] /metrics$", "307 /metrics$", "the same"),
    ("POST //metrics", "30[17] /metrics$", "307 /metrics$", "the same"),
    ("GET /./metrics?collect[]=time&x=%zz", r"30[17] /metrics\?collect\[\]=time&x=%zz$",
     r"307 /metrics\?collect\[\]=time&x=%zz$", "the same"),
    ("GET /x/../nothing?a;b", r"30[17] /nothing\?a;b$", r"307 /nothing\?a;b$", "the same"),
    ("GET /metrics/..", "30[17] /$", "307 /$", "the same"),
    ("GET //%6detrics", "30[17] /(metrics|%256detrics)$", "307 /%6detrics$",
     "1.5.0 undoes escapes first; 1.12.1 escapes them again, and what it redirects to is nowhere"),
]


def ask(address, method, path, headers):
    """One request; status, headers and body."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def families(body):
    """Names in a delimited protobuf exposition, by the wire format alone."""
    def varint(at):
        value = shift = 0
        while True:
            byte = body[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value, at

    names, at = [], 0
    while at < len(body):
        length, at = varint(at)
        assert body[at] == 10, "a family begins with its name"
        size, start = varint(at + 1)
        names.append(body[start:start + size].decode())
        at += length
    return names


def summary(answer):
    """An answer in a line: status, media type, other headers that matter, what the body holds."""
    status, headers, body = answer
    if 300 <= status < 400:
        return f"{status} {headers.get('Location', '-')}"
    media = re.sub(r"; escaping=underscores$", "", headers.get("Content-Type", "-"))
    parts = [str(status), media.lower()]
    if headers.get("Content-Encoding") == "gzip":
        parts.append("gzip")
        body = gzip.decompress(body) if body else body
    if "protobuf" in media and "delimited" in media:
        names = families(body)
        ran = [name for name in ("node_load1", "node_time_seconds", "node_uname_info") if name in names]
        parts.append(f"sorted={names == sorted(names)} {','.join(ran)}")
    elif status == 200 and media.startswith("text/plain; version"):
        text = body.decode()
        ran = re.findall(r'^node_scrape_collector_success\{collector="(\w+)"\}', text, re.MULTILINE)
        parts.append(",".join(sorted(ran)) + (" own" if "\nprocess_open_fds " in text else ""))
        if not ran:
            # Some families alone; the exporter's series of itself and of the broker is no difference.
            rest = {name for name in re.findall(r"^(node_\w+)", text, re.MULTILINE) if "build_info" not in name}
            parts.append(",".join(sorted(rest)))
    elif status == 200 and media.startswith("text/html"):
        parts.append(f"title={b'<title>Node Exporter</title>' in body} metrics={b'/metrics' in body}" if body else "")
    elif media.startswith("text/plain"):
        parts.append(body.decode(errors="replace").rstrip("\n"))
    return " ".join(parts).rstrip()


def compare_requests(ours, theirs, verbose):
    """Failures, one a line."""
    different = {row[0]: row[1:] for row in DIFFERS + NEWER}
    failures, same = [], 0
    for method, path, headers in REQUESTS:
        request = " ".join([method, path, *(f"{name}: {value}" for name, value in headers.items())])
        one, other = (summary(ask(address, method, path, headers)) for address in (theirs, ours))
        known = different.pop(request, None)
        if verbose:
            print(f"  {request}\n    {one}\n    {other}")
        if known is None:
            same += one == other
            if one != other:
                failures.append(f"{request}\n    node_exporter {one}\n    exporter      {other}")
            continue
        for name, answer, expected in (("node_exporter", one, known[0]), ("exporter", other, known[1])):
            if not re.match(expected, answer):
                failures.append(f"{request}\n    {name} {answer}\n    is not {expected}")
    failures += [f"{request} is listed and not asked" for request in different]
    print(f"requests: {same} answered alike, {len(DIFFERS)} otherwise on purpose, {len(NEWER)} as later versions do")
    return failures


def compare_raw(ours, theirs):
    """Failures, one a line. What is refused is the last of its connection: that ends by itself."""
    failures = []
    for request, status in RAW:
        for name, address in (("node_exporter", theirs), ("exporter", ours)):
            with socket.create_connection(address, timeout=10) as client:
                client.sendall(request)
                answer = b""
                while part := client.recv(1 << 16):
                    answer += part
            if not re.match(rb"HTTP/1\.[01] %d " % status, answer):
                failures.append(f"{request}\n    {name} {answer[:80]}\n    is not {status}")
    print(f"requests as bytes: {len(RAW)} with the same status")
    return failures


def keeps_alive(address):
    """Whether three requests go over one connection, one of them for no page."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.connect()
        port = connection.sock.getsockname()
        statuses = []
        for path in ("/metrics", "/nothing", "/metrics?collect[]=time"):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            if connection.sock is None or connection.sock.getsockname() != port:
                return False
        return statuses in ([200, 404, 200], [200, 200, 200])
    finally:
        connection.close()


def answers_http_1_0(address):
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
    return bool(re.match(rb"HTTP/1\.[01] 200 OK\r\n", answer))


def starts(program, flags, addresses, log):
    """Whether it serves on every address; else its exit status."""
    with open(log, "w") as sink:
        process = subprocess.Popen([program, *COLLECTORS, *flags], stdout=sink, stderr=sink)
    try:
        def ready():
            if process.poll() is not None:
                return str(process.returncode)
            try:
                return all(ask(address, "GET", "/", {})[0] == 200 for address in addresses) and "serves"
            except OSError:
                return None
        return wait_for(program, process, ready) if addresses else str(process.wait(20))
    finally:
        stop(process)


def compare_inherited(ours, theirs, flags, home):
    """Serving on a socket that systemd passes, and the end without one."""
    failures = []
    command = ["sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh"]
    for name, family, expected in (("TCP", socket.AF_INET, "serves"), ("Unix", socket.AF_UNIX, "1"), (None, None, "1")):
        for program, more in ((theirs, []), (ours, flags)):
            if program == theirs and name == "Unix":
                continue  # It serves there, and is listed as missing here.
            inherit, listener = {}, None
            if family is not None:
                listener = socket.socket(family)
                listener.bind(("127.0.0.1", 0) if name == "TCP" else str(home / "socket"))
                listener.listen()
                number = listener.fileno()
                inherit = dict(pass_fds=(3,), preexec_fn=lambda: os.dup2(number, 3), env={**os.environ, "LISTEN_FDS": "1"})
            with open(home / "log", "w") as sink:
                process = subprocess.Popen([*command, program, *COLLECTORS, *more, "--web.systemd-socket"],
                                           stdout=sink, stderr=sink, **inherit)
            try:
                # The listener is ours too: it takes connections before the program does.
                came = str(ask(listener.getsockname(), "GET", "/", {})[0] == 200 and "serves") if name == "TCP" else str(process.wait(20))
            except OSError as error:
                came = str(error)
            finally:
                stop(process)
                if listener:
                    listener.close()
            if came != expected:
                failures.append(f"{pathlib.Path(program).name} with a {name} socket from systemd: {came}, not {expected}")
    print("sockets from systemd: taken alike")
    return failures


def compare_starts(ours, theirs, flags, home):
    """Addresses that both take, and command lines that both refuse; a mistake is status 2 of the exporter's."""
    failures = []
    held = socket.create_server(("127.0.0.1", 0))
    taken = held.getsockname()[1]
    ports = [free_port() for _ in range(2)]
    both = [f"--web.listen-address=127.0.0.1:{ports[0]}", f"--web.listen-address=[127.0.0.1]:{ports[1]}"]
    rows = [
        ([f"--web.listen-address=:{ports[0]}"], [("127.0.0.1", ports[0])], "serves"),
        ([f"--web.listen-address=[0.0.0.0]:{ports[0]}"], [("127.0.0.1", ports[0])], "serves"),
        (both, [("127.0.0.1", port) for port in ports], "serves"),
        ([f"--web.listen-address=localhost:{ports[0]}"], [("localhost", ports[0])], "serves"),
        ([f"--web.listen-address=127.0.0.1:{taken}"], [], "1"),
        (["--web.listen-address=nonsense"], [], "1", "2"),
        (["--web.nonsense"], [], "1", "2"),
        (["--web.config.file=/nonexistent.yml", f"--web.listen-address=127.0.0.1:{ports[0]}"], [], "1"),
        (["--web.telemetry-path=/a", "--web.telemetry-path=/b"], [], "1", "2"),
    ]
    if socket.has_ipv6 and pathlib.Path("/proc/net/if_inet6").exists():
        rows.append(([f"--web.listen-address=[::1]:{ports[0]}"], [("::1", ports[0])], "serves"))
    for arguments, addresses, *statuses in rows:
        for program, more, expected in ((theirs, [], statuses[0]), (ours, flags, statuses[-1])):
            came = starts(program, more + arguments, addresses, home / "log")
            if came != expected:
                failures.append(f"{pathlib.Path(program).name} {' '.join(arguments)}: {came}, not {expected}")
    held.close()
    print(f"command lines: {len(rows)} taken or refused alike")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()
    program = shutil.which("prometheus-node-exporter") or fail("prometheus-node-exporter is missing: apt-get install it")
    failures = []
    with Keyhole(arguments.binaries, exporter_flags=COLLECTORS) as keyhole, \
            tempfile.TemporaryDirectory(prefix="keyhole-web-") as home:
        home = pathlib.Path(home)
        theirs = ("127.0.0.1", free_port())
        with open(home / "log", "w") as log:
            peer = subprocess.Popen(
                [program, *COLLECTORS, f"--web.listen-address={theirs[0]}:{theirs[1]}"], stdout=log, stderr=log
            )
        try:
            def ready():
                try:
                    return ask(theirs, "GET", "/", {})[0] == 200
                except OSError:
                    return False
            wait_for("node_exporter", peer, ready)
            host, port = keyhole.url.split("/")[2].rsplit(":", 1)
            ours = (host, int(port))
            failures += compare_requests(ours, theirs, arguments.verbose)
            failures += compare_raw(ours, theirs)
            for name, address in (("exporter", ours), ("node_exporter", theirs)):
                if not keeps_alive(address):
                    failures.append(f"{name}: a connection does not serve three requests")
                if not answers_http_1_0(address):
                    failures.append(f"{name}: HTTP/1.0 is not answered")
        finally:
            stop(peer)
        if peer.returncode != -signal.SIGTERM:
            failures.append(f"node_exporter ends by SIGTERM with {peer.returncode}: it drains now?")
        stop(keyhole.exporter)
        if keyhole.exporter.returncode != 0:
            failures.append(f"the exporter ends by SIGTERM with {keyhole.exporter.returncode}, not 0")
        flags = [f"--broker.socket={keyhole.socket}"]
        failures += compare_inherited(str(keyhole.home / "keyhole-exporter"), program, flags, home)
        failures += compare_starts(str(keyhole.home / "keyhole-exporter"), program, flags, home)
    for failure in failures:
        print(f"  {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
