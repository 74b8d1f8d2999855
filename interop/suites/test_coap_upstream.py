"""`[[coap.upstream]]`: CoAP servers answer requests from every protocol, and are observed (section 5)."""

import asyncio

import aiocoap
import pytest

from drivers.curl import fetch
from services import free_port

FORMS = ["nats-py", "curl-post-sse", "aiocoap-con"]


async def CONFIG(services):
    uri = await services.start_coap("aiocoap")
    libcoap = await services.start_coap("coap-server")
    table = '[[coap.upstream]]\nsubject = "{}"\nuri = "{}"\n'
    blocks = [
        table.format("plant.>", f"{uri}plant/"),
        table.format("quick.>", f"{uri}plant/") + 'timeout = "300ms"\n',
        table.format("watched.*", f"{uri}plant/") + 'always_observe = ["watched.other"]\nobserve = false\n',
        table.format("gone.>", f"coap://127.0.0.1:{free_port()}/"),
    ]
    if libcoap:
        blocks.append(table.format("libcoap.>", libcoap))
    return "\n".join(blocks)


async def put(world, subject, value):
    client = await world.client("nats-py")
    outcome = await client.request(subject, value, {"Waymeet-Method": "PUT"})
    assert outcome.kind == "reply" and not outcome.header("Nats-Service-Error-Code"), outcome


@pytest.mark.parametrize("client", FORMS)
@pytest.mark.parametrize("size", [1, 1024, 1025, 40_000])
async def test_bodies_of_any_size_cross_both_ways(world, client, size):
    body = bytes(byte % 251 for byte in range(size))
    outcome = await (await world.client(client)).request("plant.echo", body)
    assert (outcome.kind, outcome.payload) == ("reply", body), outcome.detail


async def test_formats_and_methods_cross(world):
    client = await world.client("nats-py")
    headers = {"Content-Type": "application/json"}
    outcome = await client.request("plant.echo", b"{}", headers)
    assert outcome.header("Content-Type") == "application/json"
    outcome = await client.request("plant.large", b"")
    assert outcome.payload == bytes(range(256)) * 200
    assert outcome.header("Content-Type") == "application/octet-stream"


async def test_errors_are_the_same_in_every_protocol(world):
    outcome = await (await world.client("nats-py")).request("plant.fail", b"")
    assert outcome.header("Nats-Service-Error-Code") == "404"
    assert outcome.header("Nats-Service-Error") == "no such pump"
    assert (await fetch(f"{world.node.http}/req/plant/fail")).status == 404
    by_coap = await (await world.client("aiocoap-con")).send(aiocoap.GET, "/req/plant/fail")
    assert by_coap.code == aiocoap.NOT_FOUND
    outcome = await (await world.client("nats-py")).request("plant.echo", b"")
    assert outcome.header("Nats-Service-Error-Code") == "405", "there is no GET"


async def test_a_separate_response_arrives(world):
    outcome = await (await world.client("nats-py")).request("plant.slow", b"")
    assert outcome.payload == b"at last"


async def test_a_server_that_is_away_is_said_to_be_at_once(world):
    outcome = await (await world.client("nats-py")).request("gone.pump", b"", timeout_s=1.9)
    assert outcome.header("Nats-Service-Error-Code") == "502", outcome
    assert "cannot be reached" in outcome.header("Nats-Service-Error")


async def test_a_server_that_never_answers_is_a_time_out(world):
    outcome = await (await world.client("nats-py")).request("quick.never", b"")
    assert outcome.header("Nats-Service-Error-Code") == "504", outcome


@pytest.mark.parametrize("client", ["nats-py", "curl-post-sse", "aiocoap-con"])
async def test_a_subscription_observes_the_resource(world, client):
    await put(world, "plant.value", b"before")
    subscription = await (await world.client(client)).subscribe("plant.value")
    # The state that the server has when it is observed comes first, unless the one before was the same observation.
    received = b""
    for value in (b"21", b"22", b"23"):
        await put(world, "plant.value", value)
        while received != value:
            received = (await subscription.next()).payload
    await subscription.close()


async def test_what_is_always_observed_reaches_wildcards(world):
    subscription = await (await world.client("nats-py")).subscribe("watched.*")
    for value in (b"1", b"2"):
        await put(world, "plant.other", value)
        received = await subscription.next()
        assert (received.subject, received.payload) == ("watched.other", value)
        assert received.headers["Waymeet-Observe"] is not None


async def test_libcoaps_server_answers_and_is_observed(world):
    world.needs("coap-server")
    client = await world.client("nats-py")
    body = bytes(byte % 7 + 48 for byte in range(5_000))
    await put(world, "libcoap.example_data", body)
    assert (await client.request("libcoap.example_data", b"")).payload == body
    outcome = await client.request("libcoap.nothing.here", b"")
    assert outcome.header("Nats-Service-Error-Code") == "404"
    times = await client.subscribe("libcoap.time")
    first, second = await times.next(), await times.next()
    assert first.payload != second.payload, "it ticks every second"
    await times.close()
    slow = await client.request("libcoap.async", b"", timeout_s=15)
    assert slow.kind == "reply" and not slow.header("Nats-Service-Error-Code"), slow


async def test_a_call_waits_for_its_turn(world):
    """NSTART is 1: many at once go one after the other, and all are answered."""
    client = await world.client("nats-py")
    calls = [client.request("plant.echo", b"%d" % number) for number in range(40)]
    answers = await asyncio.gather(*calls)
    assert [answer.payload for answer in answers] == [b"%d" % number for number in range(40)]
