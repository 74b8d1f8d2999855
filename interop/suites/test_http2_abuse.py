"""What is done to servers with HTTP/2 (RFC 9113, section 10.5), with frames from hyperframe and heads from hpack.

After each attack the connection has ended with the right code, or was answered within the limits; the node has kept its
memory, and a client that was there all along is still served.
"""

import asyncio
import pathlib
import re

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from drivers.curl import fetch

CONFIG = "[limits.http]\nbody_read_timeout = '2s'\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/healthz")]
POST = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/pub/h2")]
# What an attack may leave behind in a debug build, whose allocator gives little back.
BUDGET_KIB = 32 * 1024
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 1, 3, 9, 11


class Connection:
    """A connection whose frames are written by hand."""

    @classmethod
    async def open(cls, node, settings=None):
        self = cls()
        host, port = node.http.removeprefix("http://").rsplit(":", 1)
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        self.frames, self.goaway, self.ended = [], None, asyncio.Event()
        self.reading = asyncio.create_task(self._read())
        self.encoder = Encoder()
        self.writer.write(PREFACE + SettingsFrame(0, settings=settings or {}).serialize())
        return self

    async def _read(self):
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self.reader.readexactly(9)))
                frame.parse_body(memoryview(await self.reader.readexactly(length)))
                self.frames.append(frame)
                if isinstance(frame, GoAwayFrame):
                    self.goaway = frame.error_code
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()

    async def send(self, *frames):
        """Writes until the node has had enough; whether it took everything."""
        try:
            for number, frame in enumerate(frames):
                self.writer.write(frame if isinstance(frame, bytes) else frame.serialize())
                if number % 64 == 0:
                    await self.writer.drain()
            await self.writer.drain()
        except ConnectionError:
            return False
        return not self.ended.is_set()

    def head(self, stream, fields, flags=("END_HEADERS", "END_STREAM")):
        return HeadersFrame(stream, self.encoder.encode(fields), flags=flags)

    async def until(self, is_so):
        """Waits for frames until something is so, or the connection has ended."""
        while not is_so() and not self.ended.is_set():
            await asyncio.sleep(0.01)
        return is_so()

    def of(self, kind):
        return [frame for frame in self.frames if isinstance(frame, kind)]

    def resets(self):
        return [frame.error_code for frame in self.of(RstStreamFrame)]

    async def close(self):
        self.writer.close()
        self.reading.cancel()


def memory_kib(node):
    status = pathlib.Path(f"/proc/{node.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


@pytest.fixture
async def attack(world):
    """Opens connections; looks after the node and a bystander when the test is over."""
    bystander = await Connection.open(world.node)
    await bystander.send(bystander.head(1, GET))
    assert await asyncio.wait_for(bystander.until(lambda: bystander.of(DataFrame)), 30)
    before, opened = memory_kib(world.node), []

    async def connect(settings=None):
        opened.append(await Connection.open(world.node, settings))
        return opened[-1]

    yield connect
    grown = memory_kib(world.node) - before
    served = len(bystander.of(DataFrame))
    await bystander.send(bystander.head(3, GET))
    assert await asyncio.wait_for(bystander.until(lambda: len(bystander.of(DataFrame)) > served), 30)
    for connection in [bystander, *opened]:
        await connection.close()
    assert (await fetch(f"{world.node.http}/healthz")).status == 200
    assert grown < BUDGET_KIB, f"the node's memory grew by {grown} KiB"


async def ends(connection, *codes):
    await asyncio.wait_for(connection.ended.wait(), 30)
    # A connection that is closed with unread bytes is reset, which may overtake the GOAWAY.
    assert connection.goaway in (*codes, None), connection.goaway


async def test_rapid_reset(attack):
    """CVE-2023-44487: streams that are opened and given up at once count against no limit on streams."""
    connection = await attack()
    floods = ((connection.head(s, GET), RstStreamFrame(s, error_code=8)) for s in range(1, 40_000, 2))
    await connection.send(*(frame for pair in floods for frame in pair))
    await ends(connection, ENHANCE_YOUR_CALM)


async def test_resets_that_the_node_is_made_to_send(attack):
    """CVE-2025-8671, "MadeYouReset": the client's faults make the server reset, which counts against no limit either."""
    connection = await attack()
    faults = ((connection.head(s, POST, ("END_HEADERS",)), WindowUpdateFrame(s, window_increment=0).serialize())
              for s in range(1, 20_000, 2))  # fmt: skip
    await connection.send(*(frame for pair in faults for frame in pair))
    await ends(connection, ENHANCE_YOUR_CALM, PROTOCOL_ERROR)


async def test_a_head_without_end(attack):
    """CVE-2024-27316: CONTINUATION for ever."""
    connection = await attack()
    field = b"\x00\x03x-a\x7f\x81\x01" + b"x" * 256
    first = connection.head(1, GET, ("END_STREAM",))
    await connection.send(first, *(ContinuationFrame(1, field) for _ in range(50_000)))
    await ends(connection, ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR)
    assert not connection.of(HeadersFrame)


async def test_empty_continuations(attack):
    connection = await attack()
    first = connection.head(1, GET, ("END_STREAM",))
    await connection.send(first, *(ContinuationFrame(1, b"") for _ in range(50_000)))
    await ends(connection, ENHANCE_YOUR_CALM, PROTOCOL_ERROR)


async def test_a_header_bomb(attack):
    """CVE-2016-6581: one field of 4 kB in the dynamic table, and references to it of one byte each."""
    connection = await attack()
    field = b"\x40\x01a\x7f\xe1\x1e" + b"x" * (0x7F + 0x61 + (0x1E << 7))
    head = connection.encoder.encode(GET) + field + b"\xbe" * 12_000
    for stream in range(1, 40, 2):
        if not await connection.send(HeadersFrame(stream, head, flags=["END_HEADERS", "END_STREAM"])):
            break
    # 4 kB times 12,000 is 48 MB a request: it is refused as too large (431), or the connection ends.
    await connection.until(lambda: len(connection.of(HeadersFrame)) + len(connection.resets()) >= 1)
    assert connection.ended.is_set() or connection.of(HeadersFrame) or connection.resets()
    assert not any(b"ok" in frame.data for frame in connection.of(DataFrame))


async def test_floods_of_settings(attack):
    """CVE-2019-9515: each has to be acknowledged, and INITIAL_WINDOW_SIZE to be applied to every stream."""
    connection = await attack()
    sizes = (SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1_000 + n % 2}) for n in range(20_000))
    await connection.send(*sizes)
    acknowledged = lambda: sum("ACK" in frame.flags for frame in connection.of(SettingsFrame))  # noqa: E731
    await asyncio.wait_for(connection.until(lambda: acknowledged() >= 20_000), 30)
    assert connection.goaway is not None or acknowledged() >= 20_000


async def test_floods_of_pings(attack):
    """CVE-2019-9512."""
    connection = await attack()
    await connection.send(*(PingFrame(0, n.to_bytes(8)) for n in range(20_000)))
    await asyncio.wait_for(connection.until(lambda: len(connection.of(PingFrame)) >= 20_000), 30)
    assert connection.goaway is not None or len(connection.of(PingFrame)) >= 20_000


async def test_pings_whose_answers_nobody_reads(attack, world):
    """The same, but the answers pile up: what waits for them is bounded, or the node stops reading."""
    connection = await attack()
    connection.reading.cancel()
    connection.reader._transport.pause_reading()
    pings = PingFrame(0, b"12345678").serialize() * 1_000
    try:
        async with asyncio.timeout(3):
            for _ in range(2_000):
                connection.writer.write(pings)
                await connection.writer.drain()
    except (TimeoutError, ConnectionError):
        pass


async def test_priorities_and_empty_data(attack):
    """CVE-2019-9513 and CVE-2019-9518: frames that mean nothing."""
    connection = await attack()
    await connection.send(*(PriorityFrame(2 * n + 1, depends_on=0, stream_weight=n % 255) for n in range(20_000)))
    await connection.send(connection.head(40_001, POST, ("END_HEADERS",)))
    await connection.send(*(DataFrame(40_001, b"") for _ in range(20_000)))
    await connection.send(DataFrame(40_001, b"x", flags=["END_STREAM"]))
    await asyncio.wait_for(connection.until(lambda: connection.of(HeadersFrame)), 30)
    assert connection.ended.is_set() or connection.of(HeadersFrame)


async def test_windows_that_stay_shut(attack):
    """CVE-2019-9511, CVE-2019-9517: answers are asked for and never taken."""
    connection = await attack({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    big = [*GET[:3], (":path", "/openapi.json")]
    await connection.send(*(connection.head(stream, big) for stream in range(1, 400, 2)))
    await asyncio.wait_for(connection.until(lambda: len(connection.of(HeadersFrame)) >= 200), 30)
    assert not connection.of(DataFrame)
    # A byte at a time is what the client asks for, and what it gets.
    await connection.send(*(WindowUpdateFrame(1, window_increment=1) for _ in range(100)))
    await asyncio.wait_for(connection.until(lambda: connection.of(DataFrame)), 30)
    assert sum(len(frame.data) for frame in connection.of(DataFrame)) <= 100


async def test_a_window_that_overflows(attack):
    connection = await attack()
    await connection.send(*(WindowUpdateFrame(0, window_increment=2**31 - 1) for _ in range(2)))
    await ends(connection, FLOW_CONTROL_ERROR)


async def test_more_than_the_window_allows(attack):
    """Section 6.9.1: a body that does not keep to the node's window."""
    connection = await attack()
    await connection.send(connection.head(1, POST, ("END_HEADERS",)))
    await connection.send(*(DataFrame(1, b"x" * 16_384) for _ in range(400)))
    await asyncio.wait_for(connection.until(lambda: connection.resets() or connection.of(HeadersFrame)), 30)
    answers = connection.of(HeadersFrame)
    assert connection.ended.is_set() or connection.resets() or answers


async def test_more_streams_than_are_allowed(attack):
    """Section 5.1.2: what exceeds the node's limit is refused, one by one or altogether."""
    connection = await attack()
    await connection.send(*(connection.head(s, POST, ("END_HEADERS",)) for s in range(1, 4_000, 2)))
    await asyncio.wait_for(connection.until(lambda: connection.resets()), 30)
    assert connection.ended.is_set() or connection.resets()


FORBIDDEN = {
    "a connection header": [*POST, ("connection", "close")],
    "a transfer coding": [*POST, ("transfer-encoding", "chunked")],
    "an upgrade": [*POST, ("upgrade", "websocket")],
    "an upper-case name": [*POST, ("X-Upper", "1")],
    "no path": [field for field in POST if field[0] != ":path"],
    "two paths": [*POST[:4], (":path", "/pub/other")],
    "a pseudo-header behind a header": [*POST[:3], ("x-a", "1"), POST[3]],
    "an unknown pseudo-header": [(":evil", "1"), *POST],
    "a line within a value": [*POST, ("x-a", "b\r\ntransfer-encoding: chunked")],
    "a line within the path": [*POST[:3], (":path", "/pub/h2 HTTP/1.1\r\nHost: evil")],
    "another host": [*POST, ("host", "evil.example")],
    "a length that is none": [*POST, ("content-length", "1, 2")],
}


@pytest.mark.parametrize("case", FORBIDDEN)
async def test_what_would_be_smuggled_into_http_1(attack, world, case):
    """Section 8.2 and 8.3: malformed, so the stream is reset, or the request refused with 400."""
    connection = await attack()
    before = await published(world.node)
    await connection.send(connection.head(1, FORBIDDEN[case], ("END_HEADERS",)), DataFrame(1, b"x", flags=["END_STREAM"]))
    await asyncio.wait_for(connection.until(lambda: connection.resets() or connection.of(HeadersFrame)), 30)
    assert await published(world.node) == before
    if not connection.ended.is_set() and not connection.resets():
        [answer] = connection.of(HeadersFrame)
        assert dict(Decoder().decode(answer.data))[":status"] == "400"


async def test_a_body_of_another_length(attack, world):
    """Section 8.1.1: the length has to be that of the DATA frames."""
    connection = await attack()
    before = await published(world.node)
    head = connection.head(1, [*POST, ("content-length", "90")], ("END_HEADERS",))
    await connection.send(head, DataFrame(1, b"x", flags=["END_STREAM"]))
    await asyncio.wait_for(connection.until(lambda: connection.resets()), 30)
    assert await published(world.node) == before


async def published(node):
    text = (await fetch(f"{node.http}/metrics")).body.decode()
    found = re.search(r'^waymeet_messages_in_total\{listener="http"\} (\d+)$', text, re.MULTILINE)
    return int(found[1]) if found else 0
