#!/usr/bin/env python3
"""Besieges the exporter, and a node_exporter beside it, while a Prometheus scrapes it every second.

usage: run.py [--binaries DIR] [--seconds N] [--quick] [--short] [--only NAME]... [--alone] [--list] [--write]

Each attack of clients.py runs alone, over plain HTTP, TLS and HTTP/2 where it applies, then all of them together. Before it
a quiet time is measured, and after it everything must come back to that. Prints a table; ends with 1 when Keyhole broke
one of the LIMITS. What node_exporter does is shown, never judged.

  --binaries DIR   release binaries (target/release)
  --seconds N      how long an attack takes (20)
  --quick          HTTP/1 and 2 over TLS at once, node_exporter with plain HTTP and a usual page alone
  --short          for CI: the same, 3 s an attack
  --only NAME      attacks with this in their names alone, as --list prints them
  --alone          without node_exporter
  --write          put the table into docs/siege.md, between its marks

Needs root, iproute2, openssl, and node_exporter: what .ci/setup built, or Debian's prometheus-node-exporter package.
"""
import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from clients import ATTACKS
from stage import (
    ATTACKERS, HERE, PORT, PROMETHEUS, REPOSITORY, SERVER, USERS, Monitor, Network, NodeExporter, Ours, WebConfiguration, node_exporter,
    page, use,
)
from launch import binaries, fail  # noqa: E402  (stage knows where)

DOCUMENT = REPOSITORY / "docs/siege.md"
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]

# What must hold for Keyhole, and why.
LIMITS = {
    "answered": 0.99,        # share of Prometheus' scrapes: one lost in a hundred is a gap in a graph, two an alert
    "p99": 1.0,              # seconds: a tenth of Prometheus' default timeout
    # The same for a Prometheus that shares the attackers' address, as behind one NAT, and TLS: it stands in one queue with
    # a thousand handshakes, each of which costs the server a signature of 1 to 2 ms. Within its default timeout of 10 s.
    "p99 in the queue": 8.0,
    "rss": 32,               # MiB more than before: the manifests' limit of 128 MiB leaves so much, with room
    "descriptors": 1100,     # the cap of 1,024 connections, and what the process has open besides
    "log": 64 << 10,         # bytes an attack: a stranger must not fill a disk
    "returned": 2.0,         # p50 after the attack, in times of what it was before,
    "noise": 0.020,          # and so many seconds more: two cores are shared with the clients
    "spare": 8,              # descriptors and threads more than before, once the attack is over
    "return": 15,            # seconds that the return to all this may take
}
# Connections that the exporter keeps open.
MAX_OPEN = 1024
# The attackers are ended when the memory has grown by so many MiB: enough is proven, and the machine must live.
TOO_MUCH = 512
# Attackers are processes of their own, and step back from the CPU: on a real network they would have CPUs of their own.
PROCESSES, NICE = 2, 10
# Seconds that an attack takes in CI.
SHORT = 3
# Seconds until the last of the new users must have got in.
NEWCOMERS_TAKE = 10
# Requests while the broker is away.
LONELY_REQUESTS = 631


@dataclasses.dataclass
class Case:
    """An attack, or several, on a server of one kind."""

    name: str
    over: str
    parts: list  # of an attack's name, protocol, and connections
    page: str = "host"
    users: bool = False

    @property
    def tls(self):
        return self.over != "HTTP/1"

    @property
    def overflows(self):
        """Whether there are more connections than the exporter keeps open: it turns those of the attackers' address away."""
        return sum(connections for _, _, connections in self.parts) > MAX_OPEN

    @property
    def quick(self):
        """Whether node_exporter takes part in a quick run: a large page costs it half a minute each time."""
        return not self.tls and self.page == "host"


TITLES = {"http": "HTTP/1", "https": "TLS, HTTP/1", "h2": "TLS, HTTP/2"}
BOTH = "TLS, HTTP/1 and 2"


def cases(quick):
    """Every attack over every protocol. For a quick run, HTTP/1 and 2 over TLS share a case, with half of the connections each."""
    for row in ATTACKS:
        protocols = row.over.split()
        groups = [[over] for over in protocols]
        if quick and protocols[-2:] == ["https", "h2"]:
            groups[-2:] = [["https", "h2"]]
        for group in groups:
            title = TITLES[group[0]] if len(group) == 1 else BOTH
            yield Case(row.name, title, [(row.name, over, row.connections // len(group)) for over in group], row.page, row.users)
    yield Case("broker away", "HTTP/1", [])
    # A sixteenth of each attack is not quite as many connections as the exporter keeps open, a sixth is far more.
    for name, part in (("all together", 16), ("too many", 6)):
        for title, protocols in (("HTTP/1", ["http"]), (BOTH, ["https", "h2"])):
            parts = [
                (row.name, over, max(8, row.connections // part))
                for row in ATTACKS for over in row.over.split() if over in protocols and not row.users
            ]
            yield Case(name, title, parts, "large")


@dataclasses.dataclass
class Figures:
    """What came of a case for one of the programs."""

    tls: bool
    overflows: bool
    before: list
    during: list  # from Prometheus' own address
    queued: list  # from the attackers' address
    errors: list
    own_errors: list  # those of scrapes from Prometheus' own address
    growth: float  # MiB of RSS
    before_main: float
    peak: dict
    log: int
    newcomers: list
    ended: list
    back: str  # what has not come back, or nothing
    stopped: bool = False

    @property
    def answered(self):
        return len(self.during) + len(self.queued)

    @property
    def scrapes(self):
        return self.answered + len(self.errors)

    def faults(self):
        """Which limits are broken."""
        if self.ended:
            yield f"{' and '.join(self.ended)} ended"
        # Without a broker none can be. Who shares the address of too many is turned away with them.
        answered, errors = (len(self.during), self.own_errors) if self.overflows else (self.answered, self.errors)
        scrapes = answered + len(errors)
        if scrapes and answered / scrapes < LIMITS["answered"]:
            yield f"{answered / scrapes:.0%} of the scrapes answered, the others: {', '.join(sorted(set(errors)))}"
        if self.during and percentile_99(self.during) >= LIMITS["p99"]:
            yield f"p99 of {percentile_99(self.during):.2f} s"
        if self.queued and percentile_99(self.queued) >= LIMITS["p99 in the queue" if self.tls else "p99"]:
            yield f"p99 of {percentile_99(self.queued):.2f} s from the attackers' address"
        if self.growth > LIMITS["rss"]:
            own = self.peak["main"] - self.before_main
            yield f"{self.growth:.0f} MiB more of RSS, {own:.0f} of them the exporter's" + (", and the attack was stopped" if self.stopped else "")
        if self.peak["descriptors"] > LIMITS["descriptors"]:
            yield f"{self.peak['descriptors']} descriptors"
        if self.log > LIMITS["log"]:
            yield f"{self.log >> 10} KiB of log"
        if None in self.newcomers:
            yield f"{self.newcomers.count(None)} of {len(self.newcomers)} new passwords kept out"
        if self.back:
            yield f"after {LIMITS['return']} s still {self.back}"


def percentile_99(values):
    return sorted(values)[-1 - int(0.01 * len(values))]


class Siege:
    def __init__(self, network, directory, home, seconds, stack):
        self.network, self.directory, self.home, self.seconds, self.stack = network, directory, home, seconds, stack
        self.worlds = {}

    def world(self, name):
        """What the programs read; made once, for it takes a while."""
        if name not in self.worlds:
            self.worlds[name] = self.stack.enter_context(page(name, self.home))
        return self.worlds[name]

    def scraper(self, case, count, interval, newcomers=()):
        user = f"prometheus:{USERS['prometheus'][0]}" if case.users else None
        what = dict(server=(SERVER, PORT), addresses=(PROMETHEUS, ATTACKERS), count=count, interval=interval, tls=case.tls, user=user,
                    newcomers=[f"{name}:{USERS[name][0]}" for name in newcomers])
        return subprocess.Popen(self.network.inside(sys.executable, HERE / "scraper.py", json.dumps(what)), stdout=subprocess.PIPE)

    def quiet(self, case, count):
        """Durations of scrapes while nothing else happens, one after the other, and the errors."""
        own, others, errors, _ = split(finished(self.scraper(case, count, 0)))
        return own + others, errors

    def attackers(self, case):
        shares = [[] for _ in range(PROCESSES)]
        for name, over, connections in case.parts:
            for n, share in enumerate(shares):
                share += [name, over, str((connections + n) // PROCESSES)]
        # They begin before the first scrape that counts, and end after the last.
        seconds = max(self.seconds + 2, NEWCOMERS_TAKE if case.users else 0)
        command = ["nice", "-n", str(NICE), sys.executable, HERE / "clients.py", SERVER, str(PORT), ATTACKERS, str(seconds)]
        return [subprocess.Popen(self.network.inside(*command, *share), stdout=subprocess.PIPE) for share in shares]

    def case(self, case, program):
        """Starts a program afresh and does to it what the case says."""
        web, world = WebConfiguration(self.home, case.tls, case.users), self.world(case.page)
        with Ours(self.directory, world, web) if program is Ours else NodeExporter(world, web) as service:
            finished(self.scraper(case, 3, 0))
            before, errors = self.quiet(case, 15)
            if errors:
                fail(f"{service.name} does not answer before the attack: {errors[0]}")
            monitor = Monitor(service, TOO_MUCH)
            result = self.attack(case, monitor) if case.parts else self.without_broker(case, service)
            # A peer whose memory was running away is not waited for.
            wait = program is Ours or not monitor.overflow.is_set()
            back = self.back(case, service, monitor.before, statistics.median(before)) if wait else "not waited for"
            peak = monitor.stop()
            return Figures(
                case.tls, case.overflows, before, *split(result), max(0, peak["high"] - monitor.before["rss"]), monitor.before["main"], peak, peak["log"] - monitor.before["log"],
                result["newcomers"], service.ended(), back, monitor.overflow.is_set(),
            )

    def attack(self, case, monitor):
        attackers = self.attackers(case)
        time.sleep(1)
        # Each address scrapes every second.
        scraper = self.scraper(case, 2 * self.seconds, 1 / 2, list(USERS)[1:] if case.users else ())
        try:
            while scraper.poll() is None and not monitor.overflow.is_set():
                time.sleep(0.05)
        finally:
            if monitor.overflow.is_set():
                for attacker in attackers:
                    attacker.kill()
            for attacker in attackers:
                self.over(case, attacker, monitor)
        return finished(scraper)

    def over(self, case, attacker, monitor):
        """Waits for an attacker's end. One that fails would make a siege that nobody notices."""
        try:
            said, _ = attacker.communicate(timeout=self.seconds + 20)
        except subprocess.TimeoutExpired:
            attacker.kill()
            said, _ = attacker.communicate()
        if attacker.returncode != 0 and not monitor.overflow.is_set():
            fail(f"{case.name}, {case.over}: the attackers failed")
        if os.environ.get("SIEGE_VERBOSE"):
            print(said.decode().strip(), file=sys.stderr)

    def without_broker(self, case, service):
        """One scrape after the other while there is no broker, each of which fails; then there is one again."""
        service.broker.terminate()
        service.broker.wait(20)
        result = finished(self.scraper(case, LONELY_REQUESTS, 0))
        service.replace_broker()
        errors = {scrape["error"] for scrape in result["scrapes"]}
        if errors != {"status 503"}:
            fail(f"without a broker, scrapes ended with {errors}, not with status 503")
        return {"scrapes": [], "newcomers": []}

    def back(self, case, service, before, p50):
        """Waits until the service is what it was before; what it still is not when that takes too long."""
        deadline = time.monotonic() + LIMITS["return"]
        while not service.ended():
            now = use(service)
            over = [
                f"{now[name] - before[name]:.0f} {unit} more"
                for name, unit, spare in (
                    ("descriptors", "descriptors", LIMITS["spare"]), ("threads", "threads", LIMITS["spare"]), ("rss", "MiB", LIMITS["rss"]),
                )
                if now[name] > before[name] + spare
            ]
            if not over:
                durations, errors = self.quiet(case, 7)
                if errors:
                    over = [f"answering with {errors[0]}"]
                elif statistics.median(durations) > p50 * LIMITS["returned"] + LIMITS["noise"]:
                    over = [f"at a p50 of {1000 * statistics.median(durations):.0f} ms"]
                else:
                    return ""
            if time.monotonic() > deadline:
                return ", ".join(over)
            time.sleep(0.2)
        return ""


def finished(scraper):
    out, _ = scraper.communicate(timeout=300)
    if scraper.returncode != 0:
        fail("the scraper failed")
    return json.loads(out)


def split(result):
    """Durations of the scrapes that were answered, by address; the errors of the others, and of those from Prometheus' own."""
    scrapes = result["scrapes"]
    answered = [each for each in scrapes if not each["error"]]
    own = [each["seconds"] for each in answered if each["address"] != ATTACKERS]
    queued = [each["seconds"] for each in answered if each["address"] == ATTACKERS]
    failed = [each for each in scrapes if each["error"]]
    return own, queued, [each["error"] for each in failed], [each["error"] for each in failed if each["address"] != ATTACKERS]


HEAD = """\
| attack | over | program | before: p50, p99 | answered | p50 | p99 | p99, attackers' address | RSS | kernel's buffers | log | descriptors | after |
|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"""


def row(case, name, figures):
    ms = lambda value: f"{1000 * value:.0f}"
    after = "ended: " + ", ".join(figures.ended) if figures.ended else figures.back or "as before"
    if figures.newcomers:
        after = f"{len(figures.newcomers) - figures.newcomers.count(None)} of {len(figures.newcomers)} new passwords let in; {after}"
    cells = [
        case.name, case.over, name,
        f"{ms(statistics.median(figures.before))}, {ms(percentile_99(figures.before))} ms",
        f"{figures.answered} of {figures.scrapes}" if figures.scrapes else "",
        f"{ms(statistics.median(figures.during))} ms" if figures.during else "",
        f"{ms(percentile_99(figures.during))} ms" if figures.during else "",
        f"{ms(percentile_99(figures.queued))} ms" if figures.queued else "",
        f"+{figures.growth:.1f} MiB" + (", stopped" if figures.stopped else ""),
        f"{figures.peak['buffers']:.0f} MiB",
        f"{figures.log / 1024:.1f} KiB",
        f"{figures.peak['descriptors']:.0f}",
        after,
    ]
    return "| " + " | ".join(cells) + " |"


def besiege(arguments):
    """The siege itself, in its namespaces: the table, and what is wrong."""
    if os.environ.get("SIEGE_INSIDE") is None:
        os.execvpe(NAMESPACES[0], [*NAMESPACES, sys.executable, *sys.argv], {**os.environ, "SIEGE_INSIDE": "1"})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 4096:
        fail(f"RLIMIT_NOFILE is {most}: 4,096 are needed for the attackers' connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    chosen = [case for case in cases(arguments.quick) if not arguments.only or any(word in case.name for word in arguments.only)]
    if not chosen:
        fail("there is no such attack: see --list")
    directory = binaries(arguments.binaries)
    peer = node_exporter()[1]
    table, faults = [HEAD], []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="keyhole-siege-") as home, Network() as network, contextlib.ExitStack() as stack:
        home = pathlib.Path(home)
        home.chmod(0o755)
        siege = Siege(network, directory, home, arguments.seconds, stack)
        for case in chosen:
            for program, name in ((Ours, Ours.name), (NodeExporter, peer)):
                if program is NodeExporter and (not case.parts or arguments.alone or (arguments.quick and not case.quick)):
                    continue
                figures = siege.case(case, program)
                table.append(row(case, name, figures))
                print(table[-1], flush=True)
                if program is Ours:
                    faults += [f"{case.name}, {case.over}: {fault}" for fault in figures.faults()]
    return table, faults


def write(table, seconds):
    marks = re.compile(r"(<!-- siege: written by tests/siege/run.py -->\n).*?(<!-- end -->)", re.DOTALL)
    text = DOCUMENT.read_text()
    date = datetime.date.today().isoformat()
    written = f"{date}, {seconds} s an attack, {os.cpu_count()} CPUs, Linux {os.uname().release.split('-')[0]}.\n\n" + "\n".join(table) + "\n"
    text, count = marks.subn(lambda found: found.group(1) + "\n" + written + "\n" + found.group(2), text)
    if count != 1:
        fail(f"{DOCUMENT} has no marks")
    DOCUMENT.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.seconds = min(arguments.seconds, SHORT)
        arguments.quick = True
    if arguments.list:
        for case in cases(arguments.quick):
            print(f"{case.name} ({case.over})")
        return 0
    if os.geteuid() != 0:
        fail("not root: namespaces are made, and the programs run as uids of their own")
    table, faults = besiege(arguments)
    if arguments.write:
        write(table, arguments.seconds)
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
