#!/usr/bin/env python3
"""Looks at the page at / in a headless Chromium, as a person would: by eye, on a phone, in the dark and by keyboard.

usage: page.py [--binaries DIR]

A broker that answers, one that was stopped, one that accepts and never answers, and one that lies. Nothing may reach the
console, nothing but the page itself may be asked for, and what a broker or a host says may be text and nothing else.
With UPDATE_DOCUMENTS=1 the pictures in docs/images are taken again. Needs chromium, fonts-inter and pip's grpcio and
grpcio-tools.
"""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it logs every fork

import grpc
from chromium import Chromium, Failure
from grpc_client import compile_protos
from launch import REPOSITORY, Keyhole, fail, fetch, scrape, stop

PROBE = 1.0  # seconds that kubelet gives `/` in node_exporter's chart
FRESH = 1.05  # seconds after which the page asks the broker again
LARGEST = 40 << 10
PICTURES = REPOSITORY / "docs/images"
PICTURE_BYTES = 150 << 10
SCRAPES = 64

# Every piece of text that can be seen, and the lower of its contrasts; what it stands on is the nearest opaque ground.
# https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
CONTRAST = """
(() => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = { ratio: 21, text: "" }, texts = 0;
  for (let node; node = walker.nextNode();) {
    if (!node.data.trim() || !node.parentElement.checkVisibility()) continue;
    texts += 1;
    const pair = [parse(getComputedStyle(node.parentElement).color), ground(node.parentElement)].map(light).sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: node.data.slice(0, 40) };
  }
  return { ...worst, texts, ground: getComputedStyle(document.body).backgroundColor };
})()
"""
# What would stand in the way of a reader who does not see the page.
UNNAMED = """
[
  ...[...document.querySelectorAll("section, table")].filter(e => e.matches("table") ? !e.caption?.textContent :
      !document.getElementById(e.getAttribute("aria-labelledby"))?.textContent),
  ...[...document.querySelectorAll("svg")].filter(e => !e.closest("[aria-hidden=true]") && !(e.role === "img" && e.ariaLabel)),
  ...[...document.querySelectorAll("textarea")].filter(e => !e.labels.length),
  ...["header", "nav", "main", "footer", "h1"].filter(name => document.querySelectorAll(`body ${name}`).length !== 1),
].map(e => e.outerHTML ?? e)
"""
FOCUS = """
(() => {
  const e = document.activeElement, style = getComputedStyle(e);
  return { name: e === document.body ? "" : (e.labels?.[0] ?? e).textContent.trim(), outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
})()
"""
EVIL = '"><img src="http://127.0.0.1:1/x" onerror="document.title=1"><script>document.title=1</script>\u202e\x07'


class ExporterAlone(Keyhole):
    """An exporter before whatever listens on a socket."""

    def __init__(self, directory, listener, exporter_flags=()):
        super().__init__(directory, exporter_flags=exporter_flags)
        self.listener = listener

    def start_broker(self):
        directory = self.home / "socket"
        directory.mkdir(mode=0o711)
        self.socket = directory / "broker.sock"
        self.listener(self.socket)
        self.socket.chmod(0o666)


def expect(what, got, wanted=True):
    if got != wanted:
        fail(f"{what}: {got!r}, not {wanted!r}")


def has(text, *phrases):
    for phrase in phrases:
        if phrase not in text:
            fail(f"the page does not say {phrase!r}, but: {text}")


def front(keyhole):
    return keyhole.url.removesuffix("metrics")


def text_of(browser):
    return browser.evaluate("document.body.innerText")


def answered_in(url, times=3):
    """The longest that `/` took, asked when it has to ask the broker again."""
    longest = 0
    for _ in range(times):
        time.sleep(FRESH)
        start = time.monotonic()
        status, body = fetch(url, timeout=5)
        longest = max(longest, time.monotonic() - start)
        expect("the page's status", status, 200)
    if longest >= PROBE:
        fail(f"{url} took {longest:.2f} s, and a probe waits {PROBE} s")
    return longest, len(body)


def is_quiet(browser, url):
    """Nothing on the console, nothing refused by the policy, nothing else asked for."""
    expect("messages on the console", browser.messages, [])
    expect("what the page asked for", browser.requests, [url])


def picture(browser, name):
    data = browser.screenshot(whole=False)
    expect(f"{name} is a picture", data[:8], b"\x89PNG\r\n\x1a\n")
    if len(data) > PICTURE_BYTES:
        fail(f"{name} has {len(data)} bytes, and {PICTURE_BYTES} is enough")
    if os.environ.get("UPDATE_DOCUMENTS") == "1":
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / name).write_bytes(data)
    elif not (PICTURES / name).is_file():
        fail(f"docs/images/{name} is missing: UPDATE_DOCUMENTS=1 {sys.argv[0]}")


def a_reader_sees_all(browser, keyhole):
    """Content, in both schemes and on a phone."""
    url = front(keyhole)
    grounds = set()
    for dark in (False, True):
        browser.open(url, 1100, 1180, dark)
        is_quiet(browser, url)
        contrast = browser.evaluate(CONTRAST)
        if contrast["ratio"] < 4.5 or contrast["texts"] < 100:
            fail(f"dark {dark}: contrast {contrast}")
        grounds.add(contrast["ground"])
        picture(browser, "page-dark.png" if dark else "page-light.png")
    expect("different grounds in light and dark", len(grounds), 2)

    text = text_of(browser)
    has(text, "Node Exporter", "The broker responds", "access level root", "Needs --allow-processes", "Readers", "procfs", "loadavg", "seccomp", "landlock",
        "Scrape time", "no core dump, no ptrace by the same uid")
    expect("the title", browser.evaluate("document.title"), "Node Exporter")
    expect("the access level that is marked", browser.evaluate("document.querySelector('[aria-current=true] th').firstChild.data.trim()"), "host")
    expect("what has no name", browser.evaluate(UNNAMED), [])
    plots = browser.evaluate("[...document.querySelectorAll('figure svg')].map(svg => [svg.ariaLabel, svg.querySelector('.bars').getTotalLength()])")
    expect("the number of plots", len(plots), 4)
    for label, length in plots:
        has(label, "of the last 60 scrapes: last ")
        expect(f"bars in {label!r}", length > 60)
    layers = browser.evaluate("[...document.querySelectorAll('.layers tbody tr')].map(row => row.cells.length)")
    expect("layers of every process, of which each is named once", len(layers) >= 5 and set(layers) == {2, 3})
    readers = browser.evaluate("[...document.querySelectorAll('.readers tbody tr')].map(row => row.cells[1].textContent)")
    expect("readers that can be asked", len(readers) >= 5 and set(readers) == {"available"})
    series = browser.evaluate("[...document.querySelectorAll('.collectors tbody tr')].map(row => Number(row.cells[1].textContent))")
    given = sum(int(line.split()[-1]) for line in scrape(keyhole.url).splitlines() if line.startswith("keyhole_collector_series{"))
    expect("the series of all collectors, as the metrics have them", sum(series), given)

    browser.open(url, 360, 740, scale=2)
    is_quiet(browser, url)
    picture(browser, "page-phone.png")
    browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    expect("the width on a phone", browser.evaluate("[document.documentElement.scrollWidth, innerWidth]"), [360, 360])
    wide = "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.matches('.skip, .wide, .wide *') && " \
           "e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML)"
    expect("what leaves a phone's screen", browser.evaluate(wide), [])


def a_keyboard_is_enough(browser, keyhole):
    url = front(keyhole)
    browser.open(url, 1100, 900)
    order = []
    for _ in range(12):
        browser.key("Tab", 9)
        focus = browser.evaluate(FOCUS)
        if not focus["name"]:
            break
        expect(f"a ring around {focus['name']!r}", focus["outline"])
        order.append(focus["name"].split(" ")[0])
    # The fourth is "70 available queries", of which the number depends on the host.
    expect("the order of the keyboard", [*order[:3], order[3].isdigit(), *order[4:]],
           ["Skip", "Metrics", "Readiness", True, *order[4:-1], "For"])

    browser.key("Tab", 9, modifiers=8)  # back
    textarea = "document.querySelector('textarea')"
    browser.key("a", 65, modifiers=2, commands=["selectAll"])
    config = browser.evaluate(f"{textarea}.value.slice({textarea}.selectionStart, {textarea}.selectionEnd)")
    address = url.removeprefix("http://").removesuffix("/")
    has(config, "scrape_configs:\n  - job_name: ", f'\n      - targets: ["{address}"]\n')

    browser.open(url, 1100, 900)
    browser.key("Tab", 9)
    browser.key("Enter", 13, "\r")
    expect("where the skip link leads", browser.evaluate("document.activeElement.id"), "main")
    browser.open(url, 1100, 900)
    for _ in range(2):
        browser.key("Tab", 9)
    browser.key("Enter", 13, "\r")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and "node_load1 " not in (browser.evaluate("document.body?.innerText") or ""):
        time.sleep(0.1)
    expect("where the link leads", browser.evaluate("location.href"), keyhole.url)
    return config


def silent(path):
    """A broker that accepts, and never answers."""
    silent.listener = socket.socket(socket.AF_UNIX)
    silent.listener.bind(str(path))
    silent.listener.listen(64)


def liar(pb, broker, servers):
    """A broker whose every word is an attack."""

    class Liar(broker.BrokerServicer):
        reads = 0

        def Describe(self, request, context):
            layers = [pb.Layer(process=EVIL, name=EVIL, in_force=False, detail=EVIL * 20)] * 60
            readers = [pb.ReaderClass(name=EVIL, deaths=2**64 - 1)] * 60
            reason = lambda number: f"{number}{EVIL}" * 9
            queries = [pb.QueryDescription(query=number, access_level=number, reason=reason(number), stuck=True) for number in range(300)]
            return pb.DescribeResponse(
                version=EVIL, access_level=99, start_time_ms=2**64 - 1, layers=layers, readers=readers, queries=queries
            )

        def Read(self, request, context):
            self.reads += 1
            if self.reads > 2:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, EVIL)
            ok = pb.QueryEnd(outcome=pb.OUTCOME_OK)
            files = {
                pb.QUERY_PRESSURE: [("proc/pressure/cpu", f"some {EVIL}\n")],
                pb.QUERY_NET_DEV: [("proc/1/net/dev", NET_DEV.format(name="<img/src=x>"))],
                pb.QUERY_LOADAVG: [("proc/loadavg", "0.5 1 1.5 1/2 3\n")],
            }
            for query in request.queries:
                yield pb.ReadResponse(query=query, files=[pb.File(path=path, text=text) for path, text in files.get(query, [])], end=ok)

    def listen(path):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        broker.add_BrokerServicer_to_server(Liar(), server)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        servers.append(server)

    return listen


NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
{name}: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
"""


def no_word_becomes_more(browser, keyhole):
    """Hostile text is text: on the page, and where a browser shows the metrics."""
    metrics = scrape(keyhole.url)
    has(metrics, 'node_network_receive_bytes_total{device="<img/src=x>"} 7')
    browser.open(keyhole.url + "?again")
    has(text_of(browser), 'device="<img/src=x>"', "<script>document.title=1</script>")
    expect("elements made by an interface's name", browser.evaluate("document.images.length + document.scripts.length"), 0)
    url = front(keyhole)
    expect("a scrape that is refused", fetch(keyhole.url)[0], 503)
    time.sleep(FRESH)
    for width in (1100, 360):
        browser.open(url, width, 900)
        is_quiet(browser, url)
        has(text_of(browser), '"><img src="http://127.0.0.1:1/x" onerror=', "proc/pressure/cpu: no total of `some`")
        has(text_of(browser), 'the broker refused: PermissionDenied: "><img', "<script>document.title=1</script>")
        expect("the title", browser.evaluate("document.title"), "Node Exporter")
        made = "document.querySelectorAll('img, script, iframe, object, [onerror], [style]').length"
        expect("elements made by hostile text", browser.evaluate(made), 0)
        expect("the width", browser.evaluate("document.documentElement.scrollWidth"), width)
        expect("characters that turn the text around", browser.evaluate("document.body.textContent.includes('\\u202e')"), False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    arguments = parser.parse_args()
    os.environ["NODE_NAME"] = "node-1"  # in the pictures
    took = {}
    servers = []
    with tempfile.TemporaryDirectory(prefix="keyhole-page-") as directory, Chromium() as browser:
        # The series of each collector are on the page in any case, and in the metrics with this flag.
        with Keyhole(arguments.binaries, exporter_flags=["--scrape.detail"]) as keyhole:
            url = front(keyhole)
            for _ in range(SCRAPES):
                scrape(keyhole.url)
            took["with its broker"], size = answered_in(url)
            if size > LARGEST:
                fail(f"the page has {size} bytes, and {LARGEST} is enough")
            a_reader_sees_all(browser, keyhole)
            config = a_keyboard_is_enough(browser, keyhole)

            stop(keyhole.broker)
            expect("a scrape without a broker", fetch(keyhole.url)[0], 503)
            took["broker down"], _ = answered_in(url)
            browser.open(url, 1100, 860)
            is_quiet(browser, url)
            has(text_of(browser), "The broker is down", "cannot reach the broker at ", "The following is its last response, ", "1 scrape of the last 60 failed")
            expect("a scrape that is marked", browser.evaluate("document.querySelector('.lost').getTotalLength() > 0"))
            picture(browser, "page-broker-down.png")

        with ExporterAlone(arguments.binaries, silent, ["--web.telemetry-path=/m"]) as keyhole:
            url = keyhole.url.replace("/metrics", "/")
            took["broker hung"], _ = answered_in(url)
            browser.open(url, 1100, 860, dark=True)
            is_quiet(browser, url)
            has(text_of(browser), "The broker does not respond", "It has not responded since this exporter started", "Unknown until the broker responds")
            has(browser.evaluate("document.querySelector('textarea').value"), 'metrics_path: "/m"')
            expect("the link", browser.evaluate("document.querySelector('nav a').getAttribute('href')"), "/m")
            silent.listener.close()

        pb, broker, *_ = compile_protos(pathlib.Path(directory))
        try:
            with ExporterAlone(arguments.binaries, liar(pb, broker, servers)) as keyhole:
                no_word_becomes_more(browser, keyhole)
        finally:
            for server in servers:
                server.stop(0).wait()
        promtool_agrees(config, pathlib.Path(directory))
    times = ", ".join(f"{state} {1000 * seconds:.0f} ms" for state, seconds in took.items())
    print(f"page: {size} bytes; {times}; seen in light and dark, on a phone, by keyboard, and with answers that lie")


def promtool_agrees(config, directory):
    """What is offered to be copied is a configuration."""
    promtool = shutil.which("promtool") or fail("promtool is missing")
    file = directory / "prometheus.yml"
    file.write_text(config)
    checked = subprocess.run([promtool, "check", "config", file], capture_output=True, text=True)
    expect(f"promtool about {config!r}: {checked.stderr}", checked.returncode, 0)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        fail(failure)
