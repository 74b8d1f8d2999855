"""The CoAP side of the resource space with real clients: errors, observations, discovery (section 6)."""

import asyncio

import pytest
from aiocoap import Code

from drivers import PATIENCE_S
from drivers.coap_aiocoap import code_text
from drivers.coap_libcoap import LibCoap


async def status(world, method, path, payload=b"", **options):
    response = await (await world.client("aiocoap-con")).send(method, path, payload, **options)
    return code_text(response.code), response


@pytest.mark.parametrize(
    "path", ["/pub/a..b", "/pub/a/*", "/pub/a%20b", "/pub/a/", "/pub/a/%3E", "/req/a..b", "/req/a/*"]
)
async def test_bad_subjects(world, path):
    code, response = await status(world, Code.POST, path, b"x")
    assert code == "4.00"
    assert response.payload.decode(), "a diagnostic payload says why (RFC 7252, section 5.5.2)"


@pytest.mark.parametrize("path", ["/nothing", "/pubs/a"])
async def test_unknown_paths(world, path):
    assert (await status(world, Code.GET, path))[0] == "4.04"


@pytest.mark.parametrize(
    "method,path",
    [(Code.GET, "/pub/a"), (Code.DELETE, "/pub/a"), (Code.PUT, "/req/a"), (Code.POST, "/sub/a")],
)
async def test_wrong_methods(world, method, path):
    assert (await status(world, method, path))[0] == "4.05"


async def test_a_get_without_observe_is_not_a_subscription(world, subject):
    assert (await status(world, Code.GET, f"/sub/{subject}"))[0] == "4.05"


@pytest.mark.parametrize("filter_path", ["/sub/a..b", "/sub/%3E/a"])
async def test_bad_filters(world, filter_path):
    code, response = await status(world, Code.GET, filter_path, observe=0)
    assert (code, response.opt.observe) == ("4.00", None)


async def test_too_large(world, subject):
    code, response = await status(
        world, Code.POST, f"/pub/{subject}", b"x" * (1024 * 1024 + 1), patience_s=60
    )
    assert code == "4.13"


@pytest.mark.parametrize("method", ["post", "put"])
async def test_publish_is_changed(world, subject, method):
    subscription = await (await world.client("nats-py")).subscribe(subject)
    failure, _ = await (await world.client("coap-client")).send(method, f"/pub/{subject}", b"1")
    assert failure is None
    assert (await subscription.next()).payload == b"1"


async def test_the_first_answer_is_empty(world, subject):
    subscription = await (await world.client("aiocoap-con")).subscribe(subject)
    assert subscription.first.payload == b""


async def test_the_envelope_says_its_format(world, subject):
    raw = await world.client("aiocoap-raw")
    subscription = await raw.subscribe(subject)
    enveloped = await (await world.client("aiocoap-con")).subscribe(subject)
    await (await world.client("nats-py")).publish(subject, b"\xff\x00", {"X-Trace": "1"})
    assert (await subscription.next()).payload == b"\xff\x00"
    received = await enveloped.next()
    assert (received.payload, received.headers, received.subject) == (
        b"\xff\x00",
        {"X-Trace": ["1"]},
        subject,
    )


async def test_an_observation_ends_when_its_client_says_so(world, subject):
    client = LibCoap()
    await client.open(world.node)
    await client.subscribe(subject)
    # The receipt tells how many were there; coap-client deregisters with Observe 1 when it ends.
    web = await world.client("curl-post-sse")
    assert (await web.publish(subject, b"1"))["delivered"] == 1
    await client.close()
    async with asyncio.timeout(PATIENCE_S):
        while (await web.publish(subject, b"2"))["delivered"] != 0:
            await asyncio.sleep(0.02)


async def test_many_notifications_in_order(world, subject):
    subscription = await (await world.client("coap-client")).subscribe(subject)
    nats = await world.client("nats-py")
    for number in range(50):
        await nats.publish(subject, str(number).encode())
    got = [(await subscription.next()).payload for _ in range(50)]
    assert got == [str(number).encode() for number in range(50)]


async def test_discovery(world):
    code, response = await status(world, Code.GET, "/.well-known/core")
    assert code == "2.05"
    assert response.opt.content_format == 40
    links = response.payload.decode()
    for path in ("/pub", "/req", "/sub"):
        assert f"<{path}" in links
    failure, same = await (await world.client("coap-client")).send("get", "/.well-known/core")
    assert (failure, same) == (None, response.payload)


async def test_a_ping_is_answered(world):
    """An empty Confirmable is answered by a Reset (RFC 7252, section 4.3)."""
    answered = asyncio.get_running_loop().create_future()

    class Datagrams(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            answered.set_result(data)

    host, port = world.node.coap.split("//")[1].split(":")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Datagrams, remote_addr=(host, int(port))
    )
    transport.sendto(b"\x40\x00\x12\x34")
    assert await asyncio.wait_for(answered, 30) == b"\x70\x00\x12\x34"
    transport.close()
