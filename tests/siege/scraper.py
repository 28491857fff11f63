#!/usr/bin/env python3
"""Scrapes as Prometheus does, from the addresses given, and prints what came of each scrape as JSON.

usage: scraper.py JSON

JSON has `server` (host and port), `addresses` (the scrapes alternate between them), `count`, `interval` (seconds between
the beginnings of two scrapes, however long they take; 0: one after the other), and where needed `tls`, `user` (name:password)
and `newcomers`: users that have never been here, each of which asks every half second until it gets in.
"""
import asyncio
import base64
import json
import pathlib
import sys
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers"))
from launch import PROMETHEUS_HEADERS  # noqa: E402
from wire import tls_context  # noqa: E402

TIMEOUT = 10  # Prometheus' own
# How long someone new may wait for admission.
NEWCOMER_TIMEOUT = 5
METRIC = b"\nnode_memory_MemTotal_bytes "


def body_of(head, rest):
    """The whole body, or an error."""
    head = head.lower()
    if b"transfer-encoding: chunked" in head:
        body = b""
        while True:
            size, rest = rest.split(b"\r\n", 1)
            size = int(size, 16)
            if size == 0:
                break
            assert rest[size:size + 2] == b"\r\n", "the body is cut off"
            body, rest = body + rest[:size], rest[size + 2:]
    else:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        assert len(rest) == length, "the body is cut off"
        body = rest
    if b"content-encoding: gzip" in head:
        inflated = zlib.decompressobj(31)
        body = inflated.decompress(body)
        assert inflated.eof, "the gzip stream is cut off"
    return body


class Prometheus:
    def __init__(self, server, addresses=(), count=0, interval=0, tls=False, user=None, newcomers=()):
        self.server, self.addresses, self.count, self.interval = server, addresses, count, interval
        self.user, self.newcomers = user, newcomers
        self.context = tls_context("http/1.1") if tls else None

    async def ask(self, address, user):
        """The answer's head and the rest, from a connection of its own."""
        reader, writer = await asyncio.open_connection(
            *self.server, ssl=self.context, local_addr=(address, 0), limit=1 << 24,
        )
        try:
            headers = {"Host": "siege", "Connection": "close", **PROMETHEUS_HEADERS}
            if user:
                headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
            writer.write(("GET /metrics HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode())
            return (await reader.read(-1)).split(b"\r\n\r\n", 1)
        finally:
            writer.transport.abort()

    async def scrape(self, address, user):
        began = time.monotonic()
        result = {"address": address, "error": None}
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self.ask(address, user)
            result["seconds"] = time.monotonic() - began
            assert len(answer) == 2, "the connection was closed"
            status = answer[0][9:12].decode()
            assert status == "200", f"status {status}"
            assert METRIC in body_of(*answer), "the metrics are not all there"
        except Exception as error:  # whatever it is, the scrape has failed
            result.setdefault("seconds", time.monotonic() - began)
            result["error"] = str(error) or type(error).__name__
        return result

    async def scrapes(self):
        if self.interval == 0:
            return [await self.scrape(self.addresses[n % len(self.addresses)], self.user) for n in range(self.count)]
        began, tasks = time.monotonic(), []
        for n in range(self.count):
            await asyncio.sleep(max(0, began + n * self.interval - time.monotonic()))
            tasks.append(asyncio.create_task(self.scrape(self.addresses[n % len(self.addresses)], self.user)))
        return await asyncio.gather(*tasks)

    async def admitted(self, user, delay):
        """How long a new user waited; None when it was too long."""
        await asyncio.sleep(delay)
        began = time.monotonic()
        try:
            async with asyncio.timeout(NEWCOMER_TIMEOUT):
                while (await self.scrape(self.addresses[0], user))["error"]:
                    await asyncio.sleep(0.5)
        except TimeoutError:
            return None
        return time.monotonic() - began

    async def run(self):
        admitted = [self.admitted(user, 1 + n / 2) for n, user in enumerate(self.newcomers)]
        results = await asyncio.gather(self.scrapes(), *admitted)
        return {"scrapes": results[0], "newcomers": results[1:]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Prometheus(**json.loads(sys.argv[1])).run())))
