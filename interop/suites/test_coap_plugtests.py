"""The ETSI CoAP plugtest cases (CoAP#4: TD_COAP_CORE, BLOCK, OBS and LINK), each under its own name.

The plugtests name resources of a made-up server. Here they stand for these:

| plugtest | here |
|---|---|
| `/test`, `/seg1/seg2/seg3`, `/query` | `/req/{subject}`, answered by a NATS service that echoes; `/pub/{subject}` for PUT |
| `/separate` | `/req/{subject}` whose service takes longer than the acknowledgement may wait |
| `/large` | `/req/{subject}` whose service answers with 3,000 bytes |
| `/large-update`, `/large-create`, `/large-post` | PUT and POST to `/pub/{subject}`, POST to `/req/{subject}` |
| `/obs`, `/obs-non`, `/obs-large`, `/obs-pumping` | `/sub/{subject}`, on which a NATS client publishes |
| `/validate`, `/multi-format` | `/.well-known/core` and `/sub/{subject}` with Accept |
| `/link1` to `/link3`, `rt=Type1`, `if=If*` | the links of `/.well-known/core` and their own attributes |

Some cases ask for what a message broker does not have. DELETE is answered with 4.05. No resource is created, so that
no Location comes back (RFC 7252, section 5.8.2). A subject holds no representation, so that If-Match never holds and
If-None-Match always does (section 5.10.8). Lossy cases lose exactly the datagrams that the case names. Raw sockets look
at what client libraries hide; aiocoap and coap-client run the cases that they can drive.
"""

import asyncio
import itertools

import pytest
import pytest_asyncio
from aiocoap import Code

from drivers import PATIENCE_S
from drivers.coap_aiocoap import code_text
from drivers.coap_libcoap import LibCoap
from drivers.coap_raw import (
    ACCEPT,
    ACK,
    BLOCK1,
    CON,
    CONTENT_FORMAT,
    DELETE,
    EMPTY,
    ETAG,
    GET,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    MAX_AGE,
    NON,
    OBSERVE,
    POST,
    PUT,
    RST,
    Message,
    RawCoap,
    block,
    uint,
)

# Longer than a request waits for its answer before it is acknowledged on its own.
SLOW_S = 0.4
LARGE = bytes(range(250)) * 12
OBSERVE_0 = [(OBSERVE, b"")]


@pytest_asyncio.fixture(loop_scope="session")
async def raw(world):
    """An endpoint of this test's own."""
    endpoint = await RawCoap.open(world.node.coap)
    yield endpoint
    endpoint.close()


@pytest_asyncio.fixture(loop_scope="session")
async def nats(world):
    return await world.client("nats-py")


@pytest_asyncio.fixture(loop_scope="session")
async def echo(nats, subject):
    """The path of a service that answers with what it was asked."""
    await nats.serve(subject, lambda received: (received.payload or b"empty", None))
    return f"/req/{subject}"


@pytest_asyncio.fixture(loop_scope="session")
async def large(nats, subject):
    """The path of a service whose answer takes several blocks."""
    await nats.serve(subject, lambda received: (LARGE, None))
    return f"/req/{subject}"


async def slow(nats, subject):
    """The path of a service that takes its time."""
    subscription = await nats.subscribe(subject)

    async def answer():
        while True:
            received = await subscription.next(600)
            await asyncio.sleep(SLOW_S)
            # nats-py loses its connection when it is interrupted while it flushes.
            await asyncio.shield(nats.publish(received.reply, b"late"))

    task = asyncio.create_task(answer())
    return f"/req/{subject}", task


async def delivered(world, subject):
    """How many observers a message on the subject reaches now."""
    return (await (await world.client("curl-post-sse")).publish(subject, b"probe"))["delivered"]


async def until_delivered(world, subject, count):
    async with asyncio.timeout(PATIENCE_S):
        while await delivered(world, subject) != count:
            await asyncio.sleep(0.02)


def check(request, response, kind, status):
    """What every response must be (RFC 7252, sections 5.2 and 5.3)."""
    assert (response.kind, response.status, response.token) == (kind, status, request.token)
    if kind == ACK:
        assert response.message_id == request.message_id


# Those whose requests aiocoap and libcoap's coap-client can make: method, resource, payload, code and answer.
ON_SERVICE, ON_SUBJECT = range(2)
BY_CLIENTS = {
    "get": (ON_SERVICE, b"", "2.05", b"empty"),
    "delete": (ON_SUBJECT, b"", "4.05", None),
    "put": (ON_SUBJECT, b"new", "2.04", b""),
    "post": (ON_SERVICE, b"hello", "2.05", b"hello"),
}
CASES_OF_CLIENTS = [
    pytest.param(method, confirmable, id=f"td_coap_core_{number:02}")
    for number, (confirmable, method) in enumerate(itertools.product([True, False], BY_CLIENTS), start=1)
]


async def exchange_by(world, client, confirmable, method, path, payload=b""):
    """One exchange of a client that nobody here wrote; the code of its answer, and the body."""
    if client == "aiocoap":
        driver = await world.client("aiocoap-con" if confirmable else "aiocoap-non")
        response = await driver.send(Code[method.upper()], path, payload)
        return code_text(response.code), response.payload
    world.needs("coap-client")
    driver = LibCoap(confirmable=confirmable)
    await driver.open(world.node)
    failure, body = await driver.send(method, path, payload)
    # It tells the codes of failures only.
    return failure or BY_CLIENTS[method][2], body


@pytest.mark.parametrize("client", ["aiocoap", "coap-client"])
@pytest.mark.parametrize("method,confirmable", CASES_OF_CLIENTS)
async def test_methods_by_clients(world, nats, subject, echo, client, method, confirmable):
    resource, payload, code, answer = BY_CLIENTS[method]
    subscription = await nats.subscribe(f"{subject}.new")
    path = echo if resource == ON_SERVICE else f"/pub/{subject}.new"
    found = await exchange_by(world, client, confirmable, method, path, payload)
    assert found[0] == code and answer in (None, found[1])
    if code == "2.04":
        assert (await subscription.next()).payload == payload


@pytest.mark.parametrize("client", ["aiocoap", "coap-client"])
@pytest.mark.parametrize(
    "confirmable", [pytest.param(True, id="td_coap_core_09"), pytest.param(False, id="td_coap_core_17")]
)
async def test_slow_answers_by_clients(world, nats, subject, client, confirmable):
    path, task = await slow(nats, subject)
    assert await exchange_by(world, client, confirmable, "get", path) == ("2.05", b"late")
    task.cancel()


@pytest.mark.parametrize("client", ["aiocoap", "coap-client"])
async def test_td_coap_link_01_clients(world, client):
    code, links = await exchange_by(world, client, True, "get", "/.well-known/core")
    assert code == "2.05" and {b"</pub>", b"</req>", b"</sub>"} <= set(links.replace(b";", b",").split(b","))


# CORE_01 to 04 are Confirmable, CORE_05 to 08 the same without.
@pytest.mark.parametrize(
    "kind,answered", [pytest.param(CON, ACK, id="td_coap_core_01"), pytest.param(NON, NON, id="td_coap_core_05")]
)
async def test_get(raw, echo, kind, answered):
    request, response = await raw.ask(GET, echo, kind)
    check(request, response, answered, "2.05")
    assert response.payload == b"empty"


@pytest.mark.parametrize(
    "kind,answered", [pytest.param(CON, ACK, id="td_coap_core_02"), pytest.param(NON, NON, id="td_coap_core_06")]
)
async def test_delete(raw, subject, kind, answered):
    request, response = await raw.ask(DELETE, f"/pub/{subject}", kind)
    check(request, response, answered, "4.05")


@pytest.mark.parametrize(
    "kind,answered", [pytest.param(CON, ACK, id="td_coap_core_03"), pytest.param(NON, NON, id="td_coap_core_07")]
)
async def test_put(raw, nats, subject, kind, answered):
    subscription = await nats.subscribe(subject)
    request, response = await raw.ask(PUT, f"/pub/{subject}", kind, payload=b"new")
    check(request, response, answered, "2.04")
    assert (await subscription.next()).payload == b"new"


@pytest.mark.parametrize(
    "kind,answered", [pytest.param(CON, ACK, id="td_coap_core_04"), pytest.param(NON, NON, id="td_coap_core_08")]
)
async def test_post(raw, echo, kind, answered):
    options = [(CONTENT_FORMAT, uint(0))]
    request, response = await raw.ask(POST, echo, kind, options=options, payload=b"hello")
    check(request, response, answered, "2.05")
    assert response.payload == b"hello"


async def separate(raw, path, **kwargs):
    """A Confirmable request whose answer comes later, in a message of its own (section 5.2.2)."""
    request, acknowledgement = await raw.ask(GET, path, **kwargs)
    assert (acknowledgement.kind, acknowledgement.code) == (ACK, EMPTY)
    assert (acknowledgement.message_id, acknowledgement.token) == (request.message_id, b"")
    response = await raw.receive()
    check(request, response, CON, "2.05")
    assert response.payload == b"late"
    return response


async def test_td_coap_core_09(raw, nats, subject):
    path, task = await slow(nats, subject)
    await separate(raw, path)
    task.cancel()


@pytest.mark.parametrize("token", [b"\1", b"12345678"])
async def test_td_coap_core_10(raw, echo, token):
    request, response = await raw.ask(GET, echo, token=token)
    check(request, response, ACK, "2.05")


async def test_td_coap_core_11(raw, nats, subject):
    path, task = await slow(nats, subject)
    await separate(raw, path, token=b"tok")
    task.cancel()


async def test_td_coap_core_12(raw, echo):
    request, response = await raw.ask(GET, echo, token=b"")
    check(request, response, ACK, "2.05")


async def test_td_coap_core_13(raw, nats, subject):
    await nats.serve(f"{subject}.seg1.seg2.seg3", lambda received: (received.subject.encode(), None))
    path = f"/req/{subject.replace('.', '/')}/seg1/seg2/seg3"
    request, response = await raw.ask(GET, path)
    check(request, response, ACK, "2.05")
    assert response.payload == f"{subject}.seg1.seg2.seg3".encode()


async def test_td_coap_core_14(raw, nats, subject):
    path = f"/sub/{subject}.a?filter={subject}.b&filter={subject}.c"
    request, response = await raw.ask(GET, path, options=OBSERVE_0)
    check(request, response, ACK, "2.05")
    for tail in "abc":
        await nats.publish(f"{subject}.{tail}", tail.encode())
        assert (await raw.receive()).payload == tail.encode()


@pytest.mark.parametrize("lost", ["request", "acknowledgement"])
async def test_td_coap_core_15(raw, nats, subject, lost):
    subscription = await nats.subscribe(subject)
    request = raw.request(POST, f"/pub/{subject}", payload=b"once")
    if lost == "acknowledgement":
        raw.send(request)
        await raw.receive()
    raw.send(request)
    check(request, await raw.receive(), ACK, "2.04")
    assert (await subscription.next()).payload == b"once"
    await nats.publish(subject, b"end")
    assert (await subscription.next()).payload == b"end", "the request was carried out once"


async def test_td_coap_core_16(raw, nats, subject):
    path, task = await slow(nats, subject)
    raw.acknowledges = False
    response = await separate(raw, path)
    # Its acknowledgement is lost: it comes again, the same.
    assert await raw.receive() == response
    raw.send(Message(ACK, EMPTY, response.message_id))
    task.cancel()


async def test_td_coap_core_17(raw, nats, subject):
    path, task = await slow(nats, subject)
    request, response = await raw.ask(GET, path, NON)
    check(request, response, NON, "2.05")
    assert response.payload == b"late"
    task.cancel()


async def test_td_coap_core_18(raw, subject):
    request, response = await raw.ask(POST, f"/pub/{subject}", payload=b"1")
    check(request, response, ACK, "2.04")
    assert response.option(LOCATION_PATH) is None, "nothing was created"


async def test_td_coap_core_19(raw, subject):
    request, response = await raw.ask(POST, f"/pub/{subject}?first=1&second=2", payload=b"1")
    check(request, response, ACK, "2.04")
    assert response.option(LOCATION_QUERY) is None, "nothing was created"


@pytest.mark.parametrize("accept,found", [(50, b'"payload":"1"'), (42, b"1")])
async def test_td_coap_core_20(raw, nats, subject, accept, found):
    options = [*OBSERVE_0, (ACCEPT, uint(accept))]
    request, response = await raw.ask(GET, f"/sub/{subject}", options=options)
    check(request, response, ACK, "2.05")
    await nats.publish(subject, b"1")
    notification = await raw.receive()
    assert notification.number(CONTENT_FORMAT) == accept and found in notification.payload
    options = [*OBSERVE_0, (ACCEPT, uint(41))]
    check(*await raw.ask(GET, f"/sub/{subject}", options=options), ACK, "4.06")


async def test_td_coap_core_21(raw):
    request, first = await raw.ask(GET, "/.well-known/core")
    check(request, first, ACK, "2.05")
    etag = first.option(ETAG)
    assert etag
    request, same = await raw.ask(GET, "/.well-known/core", options=[(ETAG, etag)])
    check(request, same, ACK, "2.03")
    assert (same.option(ETAG), same.payload) == (etag, b"")
    request, other = await raw.ask(GET, "/.well-known/core", options=[(ETAG, b"other")])
    check(request, other, ACK, "2.05")
    assert other.payload == first.payload


async def test_td_coap_core_22(raw, nats, subject):
    subscription = await nats.subscribe(subject)
    options = [(IF_MATCH, b"whatever")]
    check(*await raw.ask(PUT, f"/pub/{subject}", options=options, payload=b"not this"), ACK, "4.12")
    check(*await raw.ask(PUT, f"/pub/{subject}", payload=b"this"), ACK, "2.04")
    assert (await subscription.next()).payload == b"this"


async def test_td_coap_core_23(raw, nats, subject):
    subscription = await nats.subscribe(subject)
    options = [(IF_NONE_MATCH, b"")]
    check(*await raw.ask(PUT, f"/pub/{subject}", options=options, payload=b"this"), ACK, "2.04")
    assert (await subscription.next()).payload == b"this"
    check(*await raw.ask(PUT, "/healthz", options=options, payload=b"not this"), ACK, "4.12")


async def test_td_coap_core_31(raw):
    raw.send(Message(CON, EMPTY, 0x1234))
    assert await raw.receive() == Message(RST, EMPTY, 0x1234)


async def fetch(raw, path, first, szx):
    """The body whose first block is here, block by block in the server's size. Each request has its own token."""
    assert first.block2 == (0, True, szx) and len(first.payload) == 16 << szx
    body, number, response = first.payload, 0, first
    while response.block2[1]:
        number += 1
        request, response = await raw.ask(POST, path, options=[(23, block(number, szx=szx))])
        check(request, response, ACK, "2.05")
        assert response.block2[0] == number and response.option(ETAG) == first.option(ETAG)
        body += response.payload
    return body


@pytest.mark.parametrize(
    "szx", [pytest.param(2, id="td_coap_block_01"), pytest.param(0, id="td_coap_block_06")]
)
async def test_block2_early_negotiation(raw, large, szx):
    _, first = await raw.ask(POST, large, options=[(23, block(0, szx=szx))])
    assert await fetch(raw, large, first, szx) == LARGE


async def test_td_coap_block_02(raw, large):
    _, first = await raw.ask(POST, large)
    assert await fetch(raw, large, first, 6) == LARGE


@pytest.mark.parametrize("client", ["aiocoap-con", "coap-client"])
async def test_td_coap_block_02_clients(world, large, client):
    outcome = await (await world.client(client)).request(large.removeprefix("/req/"), b"?")
    assert (outcome.kind, outcome.payload) == ("reply", LARGE)


async def upload(raw, code, path, szx=6):
    """Sends LARGE in blocks, each with a token of its own. Returns the last response."""
    size = 16 << szx
    pieces = [LARGE[at : at + size] for at in range(0, len(LARGE), size)]
    for number, piece in enumerate(pieces):
        more = number + 1 < len(pieces)
        request, response = await raw.ask(
            code, path, options=[(BLOCK1, block(number, more, szx))], payload=piece
        )
        assert response.option(BLOCK1) == block(number, more, szx)
        if more:
            check(request, response, ACK, "2.31")
    return request, response


@pytest.mark.parametrize(
    "code", [pytest.param(PUT, id="td_coap_block_03"), pytest.param(POST, id="td_coap_block_04")]
)
@pytest.mark.parametrize("szx", [6, 3])
async def test_block1(raw, nats, subject, code, szx):
    subscription = await nats.subscribe(subject)
    check(*await upload(raw, code, f"/pub/{subject}", szx), ACK, "2.04")
    assert (await subscription.next()).payload == LARGE


async def test_td_coap_block_05(raw, echo):
    request, first = await upload(raw, POST, echo)
    check(request, first, ACK, "2.05")
    assert await fetch(raw, echo, first, 6) == LARGE


@pytest.mark.parametrize("client", ["aiocoap-con", "coap-client"])
async def test_td_coap_block_05_clients(world, echo, client):
    outcome = await (await world.client(client)).request(echo.removeprefix("/req/"), LARGE)
    assert (outcome.kind, outcome.payload) == ("reply", LARGE)


async def register(raw, subject, kind=CON, token=b"obs", accept=None):
    options = OBSERVE_0 + ([] if accept is None else [(ACCEPT, uint(accept))])
    request, response = await raw.ask(GET, f"/sub/{subject}", kind, token=token, options=options)
    check(request, response, ACK if kind == CON else NON, "2.05")
    assert response.number(OBSERVE) is not None
    return response


@pytest.mark.parametrize(
    "kind", [pytest.param(CON, id="td_coap_obs_01"), pytest.param(NON, id="td_coap_obs_02")]
)
async def test_observe(raw, nats, subject, kind):
    last = (await register(raw, subject, kind)).number(OBSERVE)
    for payload in (b"1", b"2", b"3"):
        await nats.publish(subject, payload)
        notification = await raw.receive()
        assert (notification.kind, notification.status, notification.token) == (kind, "2.05", b"obs")
        assert notification.payload == payload
        # Serial number arithmetic (RFC 7641, section 3.4).
        assert 0 < (notification.number(OBSERVE) - last) % (1 << 24) < 1 << 23
        last = notification.number(OBSERVE)


@pytest.mark.parametrize("client", ["aiocoap-con", "aiocoap-non", "coap-client"])
async def test_td_coap_obs_01_02_clients(world, nats, subject, client):
    subscription = await (await world.client(client)).subscribe(subject)
    for payload in (b"1", b"2"):
        await nats.publish(subject, payload)
        assert (await subscription.next()).payload == payload


async def test_td_coap_obs_04(raw, nats, subject):
    # A client that hears nothing for Max-Age, 60 s where it is not said, registers again; the observation goes on.
    first = await register(raw, subject)
    assert first.number(MAX_AGE) is None
    again = await register(raw, subject)
    assert again.number(OBSERVE) > first.number(OBSERVE)
    await nats.publish(subject, b"1")
    assert (await raw.receive()).payload == b"1"
    await nats.publish(subject, b"2")
    assert (await raw.receive()).payload == b"2", "one observation, not two"


async def test_td_coap_obs_05(world, subject):
    # The client is switched off. Here the network says so; where it does not, retransmissions end after 93 s, which
    # core's simulations cover in virtual time.
    endpoint = await RawCoap.open(world.node.coap)
    await register(endpoint, subject)
    endpoint.close()
    await delivered(world, subject)
    await until_delivered(world, subject, 0)


@pytest.mark.parametrize("kind", [CON, NON])
async def test_td_coap_obs_06(world, raw, subject, kind):
    raw.acknowledges = False
    await register(raw, subject, kind)
    assert await delivered(world, subject) == 1
    raw.send(Message(RST, EMPTY, (await raw.receive()).message_id))
    await until_delivered(world, subject, 0)


async def test_td_coap_obs_07(raw, nats, subject):
    # A filter cannot be deleted, and whoever tries does not end what others observe.
    await register(raw, subject)
    check(*await raw.ask(DELETE, f"/sub/{subject}"), ACK, "4.05")
    await nats.publish(subject, b"1")
    assert (await raw.receive()).payload == b"1"


async def test_td_coap_obs_08(raw, nats, subject):
    # An observation keeps the Content-Format that was asked for, whatever the messages' own.
    await register(raw, subject, accept=50)
    for content_type in ("text/plain", "application/json"):
        await nats.publish(subject, b"1", {"Content-Type": content_type})
        assert (await raw.receive()).number(CONTENT_FORMAT) == 50


async def test_td_coap_obs_09(raw, nats, subject):
    # The resource changes faster than the network delivers: everything arrives, in order.
    await register(raw, subject)
    for number in range(20):
        await nats.publish(subject, str(number).encode())
    got = [(await raw.receive()).payload for _ in range(20)]
    assert got == [str(number).encode() for number in range(20)]


async def test_td_coap_obs_10(raw, nats, subject):
    await register(raw, subject)
    check(*await raw.ask(GET, f"/sub/{subject}"), ACK, "4.05")
    await nats.publish(subject, b"1")
    assert (await raw.receive()).payload == b"1"


async def test_td_coap_obs_11(raw, nats, subject):
    # Acknowledgements are lost: the notification comes again, the same, and the next one waits for it.
    await register(raw, subject)
    raw.acknowledges = False
    for payload in (b"1", b"2"):
        await nats.publish(subject, payload)
    first = await raw.receive()
    assert await raw.receive() == first
    raw.send(Message(ACK, EMPTY, first.message_id))
    assert (await raw.receive()).payload == b"2"


async def test_td_coap_obs_12(world, raw, subject):
    await register(raw, subject)
    assert await delivered(world, subject) == 1
    await raw.receive()
    options = [(OBSERVE, uint(1))]
    request, response = await raw.ask(GET, f"/sub/{subject}", token=b"obs", options=options)
    check(request, response, ACK, "2.05")
    assert response.option(OBSERVE) is None
    assert await delivered(world, subject) == 0


@pytest.mark.parametrize(
    "sizes",
    [pytest.param([3_000, 3_000], id="td_coap_obs_13"), pytest.param([3_000, 700, 5_000], id="td_coap_obs_14")],
)
async def test_observe_large(raw, nats, subject, sizes):
    await register(raw, subject)
    for size in sizes:
        body = (LARGE * 2)[:size]
        await nats.publish(subject, body)
        notification = await raw.receive()
        whole, number = notification.payload, 0
        while len(whole) < size:
            number += 1
            _, response = await raw.ask(GET, f"/sub/{subject}", options=[(23, block(number))])
            assert response.option(ETAG) == notification.option(ETAG) is not None
            whole += response.payload
        assert whole == body


# What each query of LINK_01 to 08 leaves of the list.
@pytest.mark.parametrize(
    "query,found",
    [
        pytest.param("", ["/pub", "/req", "/sub", "/healthz"], id="td_coap_link_01"),
        pytest.param("?rt=waymeet.publish", ["/pub"], id="td_coap_link_02"),
        pytest.param("?rt=*", ["/pub", "/req", "/sub", "/healthz"], id="td_coap_link_03"),
        pytest.param("?rt=waymeet.request", ["/req"], id="td_coap_link_04"),
        pytest.param("?if=waymeet.sub*", ["/pub", "/req"], id="td_coap_link_05"),
        pytest.param("?sz=*", [], id="td_coap_link_06"),
        pytest.param("?href=/pub", ["/pub"], id="td_coap_link_07"),
        pytest.param("?href=/p*", ["/pub", "/peers"], id="td_coap_link_08"),
    ],
)
async def test_links(world, raw, query, found):
    request, response = await raw.ask(GET, f"/.well-known/core{query}")
    check(request, response, ACK, "2.05")
    assert response.number(CONTENT_FORMAT) == 40
    links = [link.split(">")[0].lstrip("<") for link in response.payload.decode().split(",") if link]
    assert set(found) <= set(links)
    if query not in ("", "?rt=*"):
        assert sorted(links) == sorted(found)
    same = await (await world.client("aiocoap-con")).send(Code.GET, f"/.well-known/core{query}")
    assert (code_text(same.code), same.payload) == ("2.05", response.payload)


async def test_td_coap_link_09(raw):
    """What the list names can be asked for."""
    _, links = await raw.ask(GET, "/.well-known/core?ct=50")
    paths = [link.split(">")[0].lstrip("<") for link in links.payload.decode().split(",")]
    assert "/healthz" in paths
    for path in set(paths) - {"/sub"}:
        request, response = await raw.ask(GET, path)
        check(request, response, ACK, "2.05")
        assert response.number(CONTENT_FORMAT) == 50
