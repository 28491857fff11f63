"""What a scrape says, what the kernel says of the same, and what a Prometheus makes of it."""
import pathlib
import re

import launch
from podman import until
from prometheus import CONFIGURATION, QUERIES
from prometheus_server import Prometheus

# The families of what `network` returns.
NETWORK = [f"node_network_{way}_{what}_total" for way in ("receive", "transmit") for what in ("bytes", "packets")]


def samples(text):
    """A scrape as {series: value}."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, value in lines}


def families(text):
    """The names of the families of a scrape."""
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in text.splitlines() if line and not line.startswith("#")}


def labelled(found, family, label):
    """The values of one label of a family."""
    matches = (re.match(rf'{family}{{(?:.*,)?{label}="([^"]*)"', series) for series in found)
    return {match.group(1) for match in matches if match}


def fields(text):
    """The lines `key: value` of a status file."""
    return {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}


def network(pid):
    """{device: (received bytes, packets, transmitted bytes, packets)} as process `pid` sees it."""
    lines = pathlib.Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    rows = ((name.strip(), numbers.split()) for name, numbers in (line.rsplit(":", 1) for line in lines))
    return {name: tuple(int(numbers[index]) for index in (0, 1, 8, 9)) for name, numbers in rows}


def by_prometheus(address, scrapes=12):
    """Lets a Prometheus of this network namespace scrape `address`; asks it the queries of tests/peers/prometheus.py.

    The queries that were answered, and what was not as it should be: those without an answer although there are data for
    them, and what Prometheus complained of.
    """
    with Prometheus(CONFIGURATION.format(address=address)) as server:
        enough = lambda: (server.number("count_over_time(up[1h])") or 0) >= scrapes
        until(f"{scrapes} scrapes", 3 * scrapes + launch.PROCESS_TIMEOUT, enough)
        asked = [query for query, needs in QUERIES if not needs or server.ask(f"count({needs})")]
        answered = [query for query in asked if server.ask(query)]
    return answered, [query for query in asked if query not in answered] + server.complaints
