"""What the NATS listener says to bad input, in nats-server's words (section 6).

Everything here also runs against the real nats-server with `--reference`, which is where the words are
from. It needs bytes that no client library sends.
"""

import pytest

from drivers.raw import RawTcp

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
PEDANTIC = CONNECT.replace(b'"pedantic":false', b'"pedantic":true')


@pytest.fixture
async def raw(world):
    connection = await RawTcp.open(world.node.nats)
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    "line,words",
    [
        (b"NONSENSE\r\n", b"-ERR 'Unknown Protocol Operation'"),
        (b"PUB\r\n", b"-ERR 'Unknown Protocol Operation'"),
        (b"PUB a 2000000\r\n", b"-ERR 'Maximum Payload Violation'"),
        (b"HPUB a 12 2000000\r\n", b"-ERR 'Maximum Payload Violation'"),
        (b"PUB " + b"a" * 5000 + b" 1\r\n", b"-ERR 'maximum control line exceeded'"),
    ],
)
async def test_a_broken_session_is_told_and_closed(raw, line, words):
    await raw.until(b"\r\n")
    await raw.send(CONNECT + b"PING\r\n")
    await raw.until(b"PONG\r\n")
    await raw.send(line)
    said = await raw.rest()
    assert said.startswith(words), said


@pytest.mark.parametrize(
    "line,words",
    [
        (b"SUB a..b 1\r\n", b"-ERR 'Invalid Subject'\r\n"),
        (b"SUB .a 1\r\n", b"-ERR 'Invalid Subject'\r\n"),
        (b"SUB a.>.b 1\r\n", b"-ERR 'Invalid Subject'\r\n"),
    ],
)
async def test_a_bad_filter_is_told_and_the_session_goes_on(raw, line, words):
    await raw.until(b"\r\n")
    await raw.send(CONNECT + line + b"PING\r\n")
    assert await raw.until(b"PONG\r\n") == words + b"PONG\r\n"


async def test_a_pedantic_session_may_not_publish_to_a_wildcard(raw):
    await raw.until(b"\r\n")
    await raw.send(PEDANTIC + b"PUB a.* 1\r\nx\r\nPING\r\n")
    assert await raw.until(b"PONG\r\n") == b"-ERR 'Invalid Publish Subject'\r\nPONG\r\n"


async def test_verbose_sessions_get_ok(raw):
    await raw.until(b"\r\n")
    await raw.send(
        CONNECT.replace(b'"verbose":false', b'"verbose":true') + b"SUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n"
    )
    assert await raw.until(b"PONG\r\n") == b"+OK\r\n+OK\r\n+OK\r\nMSG a 1 2\r\nhi\r\nPONG\r\n"


async def test_no_responders_is_a_status_message(raw):
    await raw.until(b"\r\n")
    await raw.send(CONNECT + b"SUB inbox 9\r\nPUB nobody inbox 0\r\n\r\n")
    said = await raw.until(b"\r\n\r\n\r\n")
    block = b"NATS/1.0 503\r\nNats-Subject: nobody\r\n\r\n"
    assert said == b"HMSG inbox 9 %d %d\r\n%s\r\n" % (len(block), len(block), block)


async def test_unsub_with_a_maximum(raw):
    await raw.until(b"\r\n")
    await raw.send(CONNECT + b"SUB a 1\r\nUNSUB 1 2\r\n" + b"PUB a 1\r\nx\r\n" * 3 + b"PING\r\n")
    assert await raw.until(b"PONG\r\n") == b"MSG a 1 1\r\nx\r\n" * 2 + b"PONG\r\n"


async def test_headers_and_reply_cross_as_sent(raw):
    await raw.until(b"\r\n")
    block = b"NATS/1.0\r\nA: 1\r\nA: 2\r\nb:3\r\n\r\n"
    publish = b"HPUB a r %d %d\r\n%shi\r\n" % (len(block), len(block) + 2, block)
    await raw.send(CONNECT + b"SUB a 1\r\n" + publish + b"PING\r\n")
    expected = b"HMSG a 1 r %d %d\r\n%shi\r\n" % (len(block), len(block) + 2, block)
    assert await raw.until(b"PONG\r\n") == expected + b"PONG\r\n"


async def test_a_session_may_ask_not_to_hear_itself(raw):
    await raw.until(b"\r\n")
    await raw.send(CONNECT.replace(b"{", b'{"echo":false,') + b"SUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n")
    assert await raw.until(b"PONG\r\n") == b"PONG\r\n"


async def test_info_names_what_clients_look_at(raw):
    import json

    info = json.loads((await raw.until(b"\r\n")).removeprefix(b"INFO "))
    assert info["headers"] is True
    assert info["max_payload"] == 1_048_576
    assert info["proto"] == 1
    for field in ("server_id", "server_name", "version", "client_id", "client_ip"):
        assert info[field], field
