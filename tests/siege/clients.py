#!/usr/bin/env python3
"""What a stranger may send to an exporter: the list of attacks, and the process that runs one of them.

usage: clients.py HOST PORT SOURCE SECONDS [NAME OVER CONNECTIONS]...

Opens CONNECTIONS connections from the address SOURCE for each attack NAME, and repeats what each does until the time is
over. OVER is `http`, `https` (HTTP/1.1 over TLS) or `h2` (HTTP/2 over TLS). Prints what came of it as JSON. run.py starts
it in the attackers' network namespace; the list, ATTACKS, is its table of contents.
"""
import asyncio
import base64
import collections
import contextlib
import dataclasses
import json
import os
import random
import ssl
import struct
import sys
import time
import typing

from wire import (
    ACK, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, INDEXED_STATUS_200, INITIAL_WINDOW_SIZE, LARGEST_WINDOW, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, Http2, Wire, frame, literal, request, setting, tls_context, window_update,
)

COLLECTORS = (
    "arp bonding conntrack cpu cpufreq edac entropy filefd filesystem hwmon loadavg mdadm meminfo netclass netdev netstat pressure "
    "sockstat softnet stat thermal_zone time timex udp_queues uname vmstat xfs"
).split()  # not diskstats, which makes the big page
NAMES = "node_load1 node_memory_MemTotal_bytes node_cpu_seconds_total node_boot_time_seconds node_netstat_Tcp_InSegs".split()
# A scrape timeout in seconds, far above the exporter's maximum of 120.
SCRAPE_TIMEOUT_S = "1000000"
# How long an attacker waits after a connection that failed.
PAUSE = 0.05
CONTEXTS = {"http": None, "https": tls_context("http/1.1"), "h2": tls_context("h2")}


@dataclasses.dataclass
class Attacker:
    """One connection's place in an attack."""

    server: tuple
    source: str
    over: str
    number: int
    outcomes: collections.Counter

    def __post_init__(self):
        self.random = random.Random(self.number)
        self.wire = None

    async def connect(self, window=LARGEST_WINDOW):
        context = CONTEXTS[self.over]
        if self.over == "h2":
            self.wire = Http2(self.server, self.source, context, window)
        else:
            self.wire = Wire(self.server, self.source, context)
        await self.wire.open()
        return self.wire

    async def plain(self):
        """A TCP connection to the same port, whatever that speaks."""
        self.wire = Wire(self.server, self.source)
        await self.wire.open()
        return self.wire

    def close(self):
        if self.wire and hasattr(self.wire, "socket"):
            self.wire.reset()
        self.wire = None


def get(path, *headers):
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: x", *headers, "")).encode()


def selection(random):
    """A request for another part of the metrics each time."""
    parameter, names = random.choice([("collect[]", COLLECTORS), ("exclude[]", COLLECTORS), ("name[]", NAMES)])
    chosen = random.sample(names, random.randrange(1, min(len(names), 9)))
    return "/metrics?" + "&".join(f"{parameter}={name}" for name in chosen)


def large(random):
    """A request for nearly the whole page, unlike any other."""
    left_out = random.sample(COLLECTORS, random.randrange(1, 9))
    return "/metrics?" + "&".join(f"exclude[]={name}" for name in left_out)


async def selections(attacker):
    """Asks for one selection after the other and reads each answer."""
    wire = await attacker.connect()
    stream = 1
    while True:
        path = selection(attacker.random)
        if attacker.over == "h2":
            await wire.send(request(stream, path))
            await wire.answer_of(stream)
            stream += 2
            attacker.outcomes["answered"] += 1
        else:
            await wire.send(get(path))
            attacker.outcomes[await wire.answer()] += 1
        await asyncio.sleep(0.01)


class Refused(ValueError):
    """The answer is an error, which is soon written: another try."""


async def accepted(attacker, requests):
    """Sends requests for large pages, and reads no more than the first answer's status."""
    wire = attacker.wire
    if attacker.over == "h2":
        await wire.send(b"".join(request(1 + 2 * n, large(attacker.random)) for n in range(requests)))
        kind = None
        while kind != HEADERS:
            kind, _, _, block = await wire.frame()
        # Of many streams, those that were accepted are held.
        well = requests > 1 or block[0] == INDEXED_STATUS_200
    else:
        await wire.send(b"".join(get(large(attacker.random)) for _ in range(requests)))
        well = (await wire.exactly(12)).endswith(b"200")
    if not well:
        attacker.outcomes["refused"] += 1
        raise Refused
    attacker.outcomes["accepted"] += 1


async def unread(attacker, requests=1, window=LARGEST_WINDOW):
    """Asks for a large page and reads nothing of it."""
    await asyncio.sleep(attacker.random.random())
    await attacker.connect(window)
    await accepted(attacker, requests)
    await attacker.wire.while_open()


async def pipelined(attacker):
    """The same with many requests on each connection: with HTTP/2, streams."""
    await unread(attacker, 30)


async def zero_windows(attacker):
    """Streams of HTTP/2 that may send nothing."""
    await unread(attacker, 100, window=0)


async def trickling_windows(attacker):
    """Streams of HTTP/2 that may send a byte a second each."""
    await asyncio.sleep(attacker.random.random())
    wire = await attacker.connect(window=0)
    await accepted(attacker, 10)
    while True:
        await asyncio.sleep(1)
        await wire.send(b"".join(window_update(1 + 2 * n, 1) for n in range(10)))


async def slow_readers(attacker):
    """Reads a byte a second of a large page."""
    await asyncio.sleep(attacker.random.random())
    wire = await attacker.connect()
    await accepted(attacker, 1)
    while True:
        await asyncio.sleep(1)
        await wire.received(1)


# Frames of HTTP/2 that are allowed, pointless or wrong; a library may log any of them.
FRAMES = {
    "ping": frame(PING, 0, 0, b"siege..."),
    "ping answered unasked": frame(PING, ACK, 0, b"siege..."),
    "settings": frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 1) * 20),
    "settings acknowledged unasked": frame(SETTINGS, ACK, 0),
    "settings unknown": frame(SETTINGS, 0, 0, setting(0x99, 5) * 200),
    "priority": frame(PRIORITY, 0, 7, struct.pack(">IB", 0, 1)),
    "priority of itself": frame(PRIORITY, 0, 7, struct.pack(">IB", 7, 1)),
    "priority too short": frame(PRIORITY, 0, 7, b"x"),
    "reset of an idle stream": frame(RST_STREAM, 0, 9, struct.pack(">I", 1)),
    "unknown": frame(0x77, 255, 1),
    "unknown and long": frame(0x10, 255, 0, b"u" * 16000),
    "promise": frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2)),
    "goodbye": frame(GOAWAY, 0, 0, bytes(8) + b"d" * 8000),
    "window by nothing": window_update(0, 0),
    "window overflow": window_update(0, (1 << 31) - 1),
    "window of an idle stream": window_update(9, 1),
    "continuation of nothing": frame(CONTINUATION, 0, 1, literal("a", "b" * 50)),
    "data of an idle stream": frame(DATA, 0, 11, b"x" * 100),
    "headers that cannot be decoded": frame(HEADERS, END_HEADERS, 1, b"\xff" * 40),
}


def streams_with_faults(first):
    """Requests that are each wrong in another way."""
    streams = range(first, first + 16, 2)
    return b"".join([
        request(streams[0], "/metrics") + window_update(streams[0], 0),
        request(streams[1], "/metrics") + frame(DATA, 0, streams[1], b"x"),
        request(streams[2], "/metrics", end=False, more=[("content-length", "3")]) + frame(DATA, 1, streams[2], b"xxxxxx"),
        request(streams[3], "/metrics", more=[("connection", "close")]),
        request(streams[4], "/metrics", more=[("Upper", "case")]),
        request(streams[5], "/metrics", end=False) + frame(PRIORITY, 0, streams[5], struct.pack(">IB", streams[5], 1)),
        request(streams[6], "nowhere") + frame(RST_STREAM, 0, streams[6], struct.pack(">I", 8)),
        request(streams[7], "/" + "a" * 3000),
    ])


@contextlib.asynccontextmanager
async def thrown_away(wire):
    """Reads and throws away all that comes, in a task."""

    async def throw_away():
        while True:
            await wire.some()

    reading = asyncio.create_task(throw_away())
    try:
        yield reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def frames(attacker):
    """Frames of one kind in masses, on each connection another; what comes back is thrown away."""
    wire = await attacker.connect()
    kinds = list(FRAMES.values())
    kind = attacker.number % (len(kinds) + 1)
    try:
        async with thrown_away(wire) as reading:
            stream = 1
            while not reading.done():
                if kind < len(kinds):
                    await wire.send(kinds[kind] * max(1, 8000 // len(kinds[kind])))
                else:
                    await wire.send(streams_with_faults(stream))
                    stream += 16
                attacker.outcomes["batches"] += 1
                await asyncio.sleep(0.001)
    finally:
        attacker.number += 1  # the next connection sends the next kind


def client_hello(context):
    """A ClientHello, as recorded from a client that went no further."""
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="siege")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()


HELLO = client_hello(tls_context("h2", "http/1.1"))


async def handshakes(attacker):
    """Replays a ClientHello, waits for the server's costly answer, and leaves."""
    wire = await attacker.plain()
    await wire.send(HELLO)
    await wire.some()
    attacker.outcomes["begun"] += 1
    # A connection that is reset at once would be no wait for the next.
    attacker.close()


async def garbage(attacker):
    """What is no TLS, or is wrong at another place each time."""
    wire = await attacker.plain()
    choice = attacker.random
    broken = bytearray(HELLO)
    broken[choice.randrange(5, len(broken))] ^= 1 << choice.randrange(8)
    await wire.send(choice.choice([
        choice.randbytes(600),
        bytes([22, 3, 1]) + (600).to_bytes(2, "big") + choice.randbytes(600),
        bytes(broken),
        HELLO + choice.randbytes(100),
        bytes([21, 3, 3, 0, 2, 2, 40]) * 50,
        get("/metrics"),
    ]))
    attacker.outcomes["sent"] += 1
    await wire.some()
    attacker.close()


async def garbage_after_handshake(attacker):
    """Records that cannot be decrypted, and HTTP that is none."""
    wire = await attacker.connect()
    if attacker.random.random() < 0.5:
        await attacker.wire.loop.sock_sendall(wire.socket, bytes([23, 3, 3, 0, 200]) + attacker.random.randbytes(200))
    else:
        await wire.send(attacker.random.randbytes(200) + b"\r\n\r\n")
    attacker.outcomes["sent"] += 1
    await wire.some()
    attacker.close()


async def wrong_passwords(attacker):
    """A wrong password after the other, of users that exist and of others."""
    wire = await attacker.connect()
    while True:
        user = "prometheus" if attacker.random.random() < 0.5 else f"stranger{attacker.random.random()}"
        given = base64.b64encode(f"{user}:{attacker.random.random()}".encode()).decode()
        await wire.send(get("/metrics", f"Authorization: Basic {given}"))
        attacker.outcomes[await wire.answer()] += 1
        await asyncio.sleep(0.01)


async def slow_heads(attacker):
    """A request's head, a byte a second."""
    await asyncio.sleep(attacker.random.random())
    wire = await attacker.connect()
    attacker.outcomes["open"] += 1
    for byte in get("/metrics", "X-Slow: " + "x" * 1000):
        await wire.send(bytes([byte]))
        await asyncio.sleep(1)


async def idle(attacker):
    """Nothing at all; every other connection has asked once."""
    wire = await attacker.connect()
    attacker.outcomes["open"] += 1
    if attacker.number % 2 and attacker.over != "h2":
        await wire.send(get("/"))
        await wire.answer()
    await wire.while_open()


async def churn(attacker):
    """Asks, and resets the connection at once or a little later."""
    wire = await attacker.connect()
    await wire.send(request(1, selection(attacker.random)) if attacker.over == "h2" else get(selection(attacker.random)))
    attacker.outcomes["reset"] += 1
    await asyncio.sleep(attacker.random.choice([0, 0.001, 0.03]))
    attacker.close()


async def abandoned(attacker):
    """Asks for large selections with all the time there is, and takes each back at once."""
    wire = await attacker.connect()
    if attacker.over != "h2":
        await wire.send(get(large(attacker.random), f"X-Prometheus-Scrape-Timeout-Seconds: {SCRAPE_TIMEOUT_S}"))
        await asyncio.sleep(0.01)
        attacker.outcomes["taken back"] += 1
        attacker.close()
        return
    more = [("x-prometheus-scrape-timeout-seconds", SCRAPE_TIMEOUT_S)]
    async with thrown_away(wire) as reading:
        stream = 1
        while not reading.done():
            streams = range(stream, stream + 8, 2)
            stream += 8
            await wire.send(b"".join(request(each, large(attacker.random), more=more) for each in streams))
            await asyncio.sleep(0.01)
            await wire.send(b"".join(frame(RST_STREAM, 0, each, struct.pack(">I", 8)) for each in streams))
            attacker.outcomes["taken back"] += len(streams)
            await asyncio.sleep(0.005)


async def wrong_selections(attacker):
    """Requests as long as they may be, many in one breath, whose last parameter is wrong."""
    wire = await attacker.connect()
    path = "/metrics?" + "collect[]=arp&" * (560 if attacker.over == "h2" else 1100) + "collect[]=none"
    async with thrown_away(wire) as reading:
        stream = 1
        while not reading.done():
            if attacker.over == "h2":
                await wire.send(b"".join(request(each, path) for each in range(stream, stream + 8, 2)))
                stream += 8
            else:
                await wire.send(get(path) * 8)
            attacker.outcomes["batches"] += 1
            await asyncio.sleep(0.001)


async def endless_bodies(attacker):
    """A POST whose body never ends."""
    await asyncio.sleep(attacker.random.random())
    wire = await attacker.connect()
    attacker.outcomes["posted"] += 1
    if attacker.over == "h2":
        await wire.send(request(1, "/metrics", "POST", end=False))
        piece = frame(DATA, 0, 1, b"x" * 1000)
    else:
        await wire.send(b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    while True:
        await wire.send(piece)
        await asyncio.sleep(0.1)


class Attack(typing.NamedTuple):
    """A row of the list."""

    name: str
    what: typing.Callable
    over: str  # the protocols that it is made over
    connections: int
    page: str = "host"  # what the server under attack reads: this host, or one with a large page
    users: bool = False  # whether the server asks for passwords


ATTACKS = [
    # what                     who                       over which      how many  page   users
    Attack("selections",        selections,              "http https h2", 1000),
    Attack("few selections",    selections,              "http",            48),
    Attack("abandoned",         abandoned,               "http https h2",   60, "large"),
    Attack("wrong selections",  wrong_selections,        "http https h2",  256),
    Attack("unread answers",    unread,                  "http https h2", 1000, "large"),
    Attack("few unread",        unread,                  "http https h2",  100, "large"),
    Attack("unread, pipelined", pipelined,               "http https h2",  100, "large"),
    Attack("zero windows",      zero_windows,            "h2",            1000, "large"),
    Attack("few zero windows",  zero_windows,            "h2",             100, "large"),
    Attack("trickling windows", trickling_windows,       "h2",             100, "large"),
    Attack("slow readers",      slow_readers,            "http https h2", 1000, "large"),
    Attack("frames",            frames,                  "h2",              40),
    Attack("garbage",           garbage,                 "https",           32),
    Attack("garbage inside",    garbage_after_handshake, "https",           32),
    Attack("few handshakes",    handshakes,              "https",           64),
    Attack("handshakes",        handshakes,              "https",         1000),
    Attack("wrong passwords",   wrong_passwords,         "http https",      60, users=True),
    Attack("slow heads",        slow_heads,              "http https",    1000),
    Attack("idle",              idle,                    "http https h2", 1000),
    Attack("churn",             churn,                   "http https h2",  200),
    Attack("endless bodies",    endless_bodies,          "http https h2",  200),
]


async def attack(row, attacker):
    """Does what the row says again and again; a connection that failed is opened again."""
    while True:
        try:
            await row.what(attacker)
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as error:
            attacker.outcomes[type(error).__name__] += 1
            attacker.close()
            await asyncio.sleep(random.uniform(PAUSE, 10 * PAUSE) if isinstance(error, Refused) else PAUSE)
        else:
            attacker.close()


async def main(host, port, source, seconds, *wanted):
    rows = {row.name: row for row in ATTACKS}
    outcomes = collections.defaultdict(collections.Counter)
    tasks = []
    for name, over, connections in zip(wanted[::3], wanted[1::3], wanted[2::3]):
        for number in range(int(connections)):
            # Processes that share an attack do not send the same.
            attacker = Attacker((host, int(port)), source, over, number + 10007 * (os.getpid() % 997), outcomes[f"{name}, {over}"])
            tasks.append(asyncio.create_task(attack(rows[name], attacker)))
    began = time.monotonic()
    done, _ = await asyncio.wait(tasks, timeout=float(seconds), return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()  # an attack ends by a fault of its own only
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "outcomes": outcomes}), flush=True)
    # The kernel closes what is open.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
