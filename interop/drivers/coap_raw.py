"""CoAP over a plain socket (RFC 7252, section 3): what no client library lets a test say or see.

Owns the message format, once more and by itself. It must not decide what an answer means.
"""

import asyncio
import itertools
import random
from dataclasses import dataclass, field

from . import PATIENCE_S

CON, NON, ACK, RST = range(4)
EMPTY, GET, POST, PUT, DELETE = range(5)
IF_MATCH, ETAG, IF_NONE_MATCH, OBSERVE, LOCATION_PATH, URI_PATH = 1, 4, 5, 6, 8, 11
CONTENT_FORMAT, MAX_AGE, URI_QUERY, ACCEPT, LOCATION_QUERY = 12, 14, 15, 17, 20
BLOCK2, BLOCK1, SIZE2, SIZE1 = 23, 27, 28, 60


def uint(number):
    """The shortest form of a uint (section 3.2)."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def block(number, more=False, szx=6):
    """The value of a Block option (RFC 7959, section 2.2)."""
    return uint(number << 4 | more << 3 | szx)


@dataclass
class Message:
    """One message, with its options as pairs in ascending order."""

    kind: int
    code: int
    message_id: int
    token: bytes = b""
    options: list[tuple[int, bytes]] = field(default_factory=list)
    payload: bytes = b""

    @property
    def status(self):
        return f"{self.code >> 5}.{self.code & 31:02}"

    def option(self, number):
        """The first value of an option, or None."""
        return next((value for found, value in self.options if found == number), None)

    def number(self, number):
        """The same, as a uint."""
        value = self.option(number)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def block2(self):
        """Number, whether more follow, and the size exponent."""
        value = self.number(BLOCK2)
        return None if value is None else (value >> 4, bool(value & 8), value & 7)

    def encode(self):
        out = bytearray([1 << 6 | self.kind << 4 | len(self.token), self.code])
        out += self.message_id.to_bytes(2, "big") + self.token
        before = 0
        for number, value in sorted(self.options, key=lambda option: option[0]):
            (delta, more_delta), (length, more_length) = _nibble(number - before), _nibble(len(value))
            out += bytes([delta << 4 | length]) + more_delta + more_length + value
            before = number
        return bytes(out) + (b"\xff" + self.payload if self.payload else b"")

    @classmethod
    def parse(cls, data):
        assert data[0] >> 6 == 1, data
        end = 4 + (data[0] & 15)
        message = cls(data[0] >> 4 & 3, data[1], int.from_bytes(data[2:4], "big"), data[4:end])
        number, rest = 0, data[end:]
        while rest and rest[0] != 0xFF:
            first, rest = rest[0], rest[1:]
            delta, rest = _extended(first >> 4, rest)
            length, rest = _extended(first & 15, rest)
            number += delta
            message.options.append((number, rest[:length]))
            rest = rest[length:]
        message.payload = rest[1:]
        return message


def _nibble(value):
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes([value - 13])
    return 14, (value - 269).to_bytes(2, "big")


def _extended(nibble, rest):
    size = {13: 1, 14: 2}.get(nibble, 0)
    base = {13: 13, 14: 269}.get(nibble, nibble)
    return base + int.from_bytes(rest[:size], "big"), rest[size:]


class RawCoap(asyncio.DatagramProtocol):
    """One endpoint. It acknowledges what wants that, unless `acknowledges` is false."""

    def __init__(self):
        self.received = asyncio.Queue()
        self.acknowledges = True
        # A port may have been somebody else's a moment ago, whose messages the node still remembers.
        self._ids = itertools.count(random.randrange(1 << 15))
        self._prefix = random.randbytes(3)

    @classmethod
    async def open(cls, url):
        host, port = url.removeprefix("coap://").rsplit(":", 1)
        loop = asyncio.get_running_loop()
        _, self = await loop.create_datagram_endpoint(cls, remote_addr=(host.strip("[]"), int(port)))
        return self

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        message = Message.parse(data)
        if message.kind == CON and self.acknowledges:
            self.send(Message(ACK, EMPTY, message.message_id))
        self.received.put_nowait(message)

    def request(self, code, uri, kind=CON, token=None, options=(), payload=b""):
        """A request on a path and query; its token is its own unless it is given."""
        message_id = next(self._ids)
        path, _, query = uri.partition("?")
        found = [(URI_PATH, segment.encode()) for segment in path.split("/")[1:] if segment]
        found += [(URI_QUERY, part.encode()) for part in query.split("&") if part]
        token = self._prefix + message_id.to_bytes(2, "big") if token is None else token
        return Message(kind, code, message_id, token, found + list(options), payload)

    def send(self, message):
        self.transport.sendto(message.encode())

    async def receive(self, patience_s=PATIENCE_S):
        try:
            return await asyncio.wait_for(self.received.get(), patience_s)
        except TimeoutError:
            raise AssertionError(f"no message within {patience_s} s") from None

    async def ask(self, *args, **kwargs):
        """Sends a request and returns it with the next message that comes."""
        request = self.request(*args, **kwargs)
        self.send(request)
        return request, await self.receive()

    def close(self):
        self.transport.close()
