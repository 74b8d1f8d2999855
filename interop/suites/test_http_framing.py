"""Requests and responses that two servers might cut apart differently (RFC 9112, section 11.2), over raw sockets.

Each is refused, or means one thing; what is hidden behind it is never carried out. `node/tests/http_smuggling.rs` has more
spellings of the same faults; here the whole program is asked, and a service behind `[[http.upstream]]` answers.
"""

import asyncio
import re

import pytest

from drivers.curl import fetch

# The answers of the service, by the last token of the subject, and what it was asked.
ANSWERS, ASKED = {}, []
HIDDEN = "POST /pub/hidden HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
POST = "POST /pub/seen HTTP/1.1\r\nHost: localhost\r\n"
GET = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"


async def CONFIG(_services):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    return f"""
[limits.http]
idle_timeout = "300ms"
header_read_timeout = "300ms"
body_read_timeout = "300ms"
[[http.upstream]]
subject = "service.>"
url = "http://127.0.0.1:{port}/"
"""


async def serve(reader, writer):
    """Answers each request with the bytes that its path names, and keeps the connection."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"(?i)^content-length: *(\d+)\r", head, re.MULTILINE)
            body = await reader.readexactly(int(length[1])) if length else b""
            ASKED.append((head, body))
            writer.write(ANSWERS[head.split()[1].decode().strip("/").rsplit("/", 1)[-1]])
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def counted(node):
    """How many publications the HTTP listener has accepted."""
    text = (await fetch(f"{node.http}/metrics")).body.decode()
    return int(re.search(r'^waymeet_messages_in_total\{listener="http"\} (\d+)$', text, re.MULTILINE)[1])


async def ask(node, request):
    """Sends the bytes; the statuses that come until the node closes, and how many publications it was."""
    before = await counted(node)
    host, port = node.http.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]
    return statuses, await counted(node) - before


REFUSED = {
    "a space before the colon": POST + "Content-Length : 1\r\n\r\nx",
    "a folded line": POST + "X: a\r\n b\r\nContent-Length: 1\r\n\r\nx",
    "a first line that is folded": "POST /pub/seen HTTP/1.1\r\n Host: localhost\r\nContent-Length: 1\r\n\r\nx",
    "two lengths": POST + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a list of lengths": POST + "Content-Length: 1, 2\r\n\r\nx",
    "a length with a sign": POST + "Content-Length: +1\r\n\r\nx",
    "chunked twice": POST + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": POST + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a coding that only looks like chunked": POST + "Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace("1.1", "1.0") + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare CR in a value": POST + "X: a\rContent-Length: 1\r\n\r\nx",
    "a NUL in a value": POST + "X: a\0\r\nContent-Length: 1\r\n\r\nx",
    "chunked in two lines": POST + "Transfer-Encoding: chunked\r\n" * 2 + "\r\n0\r\n\r\n",
    "a chunk size in another form": CHUNKED + "0x1\r\nx\r\n0\r\n\r\n",
    "a chunk size that overflows": CHUNKED + "fffffffffffffffff\r\nx\r\n0\r\n\r\n",
    "a bare LF in a chunk extension": CHUNKED + "1;a\nb\r\nx\r\n0\r\n\r\n",
    "a bare LF behind a chunk": CHUNKED + "1\r\nx\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + "1\r\nxy\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_ambiguous_is_refused_and_ends_the_connection(world, case):
    assert await ask(world.node, REFUSED[case] + HIDDEN) == ([400], 0)


# The statuses, and how many publications are carried out. Where the framing is sound the connection may go on, and what
# follows is a request of its own.
DEFINED = {
    "both lengths: the chunks count, and the end": (
        POST + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN, [202], 1),
    "the same by another order": (
        POST + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + HIDDEN, [202], 1),
    "no host": (
        "POST /pub/seen HTTP/1.1\r\nContent-Length: 1\r\n\r\nx" + HIDDEN, [400, 202], 1),
    "two hosts": (
        POST + "Host: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", [400], 0),
    "a foreign host": (
        "GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", [403], 0),
    "an absolute target with another host": (
        "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [400], 0),
    "another host than the absolute target's": (
        "GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", [400], 0),
    "an absolute target": (
        "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [200], 0),
    "chunk extensions say nothing": (
        CHUNKED + '1;a=b;c="d"\r\nx\r\n0\r\n\r\n' + HIDDEN, [202, 202], 2),
    "trailers are no headers": (
        CHUNKED + "1\r\nx\r\n0\r\nContent-Length: 90\r\n\r\n" + HIDDEN, [202, 202], 2),
    "a refused subject does not end the connection": (
        POST.replace("seen", "a..b") + "Content-Length: 1\r\n\r\nx" + HIDDEN, [400, 202], 1),
    "a body where none is read is no request": (
        GET + f"Content-Length: {len(HIDDEN)}\r\n\r\n" + HIDDEN, [200], 0),
    "what follows the end is not read": (GET + "Connection: close\r\n\r\n" + HIDDEN, [200], 0),
    "HTTP/1.0 ends": (GET.replace("1.1", "1.0") + "\r\n" + HIDDEN, [200], 0),
    "HTTP/1.0 that wants to go on": (
        GET.replace("1.1", "1.0") + "Connection: keep-alive\r\n\r\n" + HIDDEN, [200, 202], 1),
    "an upgrade to HTTP/2 is not taken": (
        GET + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", [200], 0),
    "a chunk that is larger than any payload": (CHUNKED + "7fffffffffffffff\r\nx" + HIDDEN, [408], 0),
    "a length that is larger than any payload": (POST + "Content-Length: 9999999999\r\n\r\n" + HIDDEN, [413], 0),
    "a head that is too long": (GET + "X: " + "x" * 40_000 + "\r\n\r\n" + HIDDEN, [431], 0),
    "too many lines": (GET + "X: x\r\n" * 200 + "\r\n" + HIDDEN, [431], 0),
    "a tunnel": ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", [404, 405, 400], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFINED)
async def test_what_is_defined_is_read_in_one_way(world, case):
    request, statuses, publications = DEFINED[case]
    found, carried_out = await ask(world.node, request)
    assert carried_out == publications, found
    # A tunnel may be refused in several words.
    assert found == statuses or (case == "a tunnel" and len(found) == 1 and found[0] in statuses)


async def test_bare_line_feeds_mean_the_same_or_nothing(world):
    """RFC 9112, section 2.2: a recipient MAY take a single LF for the end of a line."""
    statuses, publications = await ask(world.node, POST.replace("\r\n", "\n") + "Content-Length: 1\n\nx" + HIDDEN)
    assert (statuses, publications) in (([400], 0), ([202, 202], 2))


@pytest.mark.parametrize(
    "headers",
    [
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "90"},
        {"Connection": "X-Trace", "X-Trace": "1"},
        {"Upgrade": "h2c"},
        {"Host": "evil.example"},
        {"TE": "trailers", "Trailer": "X-Trace"},
        {"Keep-Alive": "1", "Proxy-Connection": "keep-alive"},
    ],
    ids=lambda headers: "+".join(headers),
)
async def test_a_message_cannot_change_how_a_service_reads_it(world, headers):
    """Headers of NATS messages are whatever their publisher writes."""
    ANSWERS["framed"] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ASKED.clear()
    outcome = await (await world.client("nats-py")).request("service.framed", b"hello", headers)
    assert outcome.payload == b"ok"
    [(head, body)] = ASKED
    assert body == b"hello"
    lines = head.decode().lower().split("\r\n")
    assert lines.count("content-length: 5") == 1
    for name in ("transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "proxy-connection"):
        assert not [line for line in lines if line.startswith(f"{name}:")], head
    assert [line for line in lines if line.startswith("host:")] == [f"host: 127.0.0.1:{head_port(lines)}"]


def head_port(lines):
    return next(line for line in lines if line.startswith("host:")).rsplit(":", 1)[1]


@pytest.mark.parametrize("path", ["a%0d%0aX-Evil:1", "a%20HTTP/1.1%0d%0aHost:evil", "a%00"])
async def test_a_subject_cannot_become_a_line(world, path):
    ASKED.clear()
    response = await fetch(f"{world.node.http}/req/service/{path}", "--path-as-is", "-g")
    assert response.status == 400 and not ASKED


BROKEN = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nok",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length : 2\r\n\r\nok",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok",
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "a broken chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk size that overflows": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 1_000_000,
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_answer_is_a_bad_gateway(world, case):
    ANSWERS["broken"] = BROKEN[case]
    response = await fetch(f"{world.node.http}/req/service/broken?timeout=2s")
    assert response.status in (502, 504), response


async def test_an_answer_too_many_reaches_nobody(world):
    """Response splitting: a second answer behind the first must not be taken for the next request's."""
    ANSWERS["two"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
    ANSWERS["two"] += b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    ANSWERS["one"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
    for _ in range(5):
        assert (await fetch(f"{world.node.http}/req/service/two")).body == b"first"
        assert (await fetch(f"{world.node.http}/req/service/one")).body == b"right"
