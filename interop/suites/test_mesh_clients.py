"""Clients of every protocol on different nodes of one mesh, over a node between them that has none."""

import asyncio
import itertools

import pytest

from conftest import PARTS, World
from drivers.raw import RawTcp
from mesh import Mesh, known

NUMBERS = itertools.count()
BODY = b"across \xf0\x9f\x9a\xa2 nodes\x00\xff"


@pytest.fixture(scope="module")
async def line(pytestconfig):
    """Three nodes in a line; the ends with their clients."""
    mesh = await Mesh(pytestconfig.getoption("--binary")).start("line3")
    without = pytestconfig.getoption("--without")
    mesh.near, mesh.far = World(mesh.nodes[0], without), World(mesh.nodes[2], without)
    yield mesh
    await mesh.near.close()
    await mesh.far.close()
    await mesh.stop()


async def when_known(line, begin):
    """Begins something that node 2 subscribes for, and returns its result once node 0 knows."""
    result = await begin()
    near, far = await line.near.client("nats-py"), await line.far.client("nats-py")
    await known(near, far, f"known.{next(NUMBERS)}")
    return result


async def test_publish_reaches_every_kind_two_nodes_on(line, subscriber, publisher):
    receiving = await line.far.client(subscriber)

    async def subscribe():
        return await when_known(line, lambda: receiving.subscribe(f"mesh.{subscriber}.>"))

    subscription = await line.far.once(("subscription", subscriber), subscribe)
    subject = f"mesh.{subscriber}.{publisher}"
    await (await line.near.client(publisher)).publish(subject, BODY)
    received = await subscription.next_on(subject, BODY)
    assert received.payload == BODY
    assert subscription.deliveries.empty()


async def test_a_request_finds_its_service_two_nodes_on(line, requester, responder):
    service = await line.far.client(responder)
    subject = f"ask.{responder}"

    async def serve():
        answer = lambda received: (received.payload[::-1], None)  # noqa: E731
        await when_known(line, lambda: service.serve(subject, answer))

    await line.far.once(("service", responder), serve)
    outcome = await (await line.near.client(requester)).request(subject, BODY)
    assert (outcome.kind, outcome.payload) == ("reply", BODY[::-1]), outcome


async def test_a_client_without_headers_is_not_told_that_nobody_answers(line):
    """As nats-server has it: what tells it has a header and no body, and without the header would look like an answer."""
    options = {
        "none": b'{"verbose":false}',
        "headers": b'{"verbose":false,"headers":true}',
        "both": b'{"verbose":false,"headers":true,"no_responders":true}',
    }
    clients = {}
    for name, option in options.items():
        clients[name] = client = await RawTcp.open(line.nodes[0].nats)
        await client.until(b"\r\n")
        await client.send(b"CONNECT %s\r\nSUB inbox.%s.* 1\r\nPING\r\n" % (option, name.encode()))
        await client.until(b"PONG\r\n")
    # One after the other, and the last one is told: by then the others would have been.
    far = line.nodes[2].peer_id.encode()
    for name, client in clients.items():
        await client.send(b"PUB _PEER.%s.nobody inbox.%s.1 0\r\n\r\nPING\r\n" % (far, name.encode()))
        if name != "both":
            assert await client.until(b"PONG\r\n") == b"PONG\r\n"
    await clients["both"].until(b"HMSG inbox.both.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n")
    for name in ("none", "headers"):
        await clients[name].send(b"PING\r\n")
        assert await clients[name].until(b"PONG\r\n") == b"PONG\r\n"
    await asyncio.gather(*(client.close() for client in clients.values()))


async def test_one_node_is_addressed_by_its_id(line):
    near, far = await line.near.client("nats-py"), await line.far.client("nats-py")
    here, there = await near.subscribe("config.set"), await far.subscribe("config.set")
    everything = await near.subscribe(">")
    await near.publish(f"_PEER.{line.nodes[2].peer_id}.config.set", b"there")
    assert (await there.next()).payload == b"there"
    await near.publish(f"_PEER.{line.nodes[0].peer_id}.config.set", b"here")
    assert (await here.next()).payload == b"here"
    assert (await everything.next()).subject == "config.set"
    assert there.deliveries.empty() and here.deliveries.empty() and everything.deliveries.empty()
    for subscription in (here, there, everything):
        await subscription.close()


async def test_a_receipt_says_how_many_links_took_the_message(line):
    far = await line.far.client("nats-py")
    subscription = await when_known(line, lambda: far.subscribe("receipts"))
    web = await RawTcp.open(line.nodes[0].http)
    await web.send(b"POST /pub/receipts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\nx")
    answer = await web.until(b"}")
    assert b'"delivered":0,"forwarded":1,"dropped":0' in answer, answer
    assert (await subscription.next()).payload == b"x"
    await asyncio.gather(web.close(), subscription.close())


async def test_clients_may_not_publish_what_the_node_says_of_peers(line):
    near = await line.near.client("nats-py")
    events = await near.subscribe("$SYS.PEER.*")
    newcomer = await line.add([1])
    joined = await events.next(30)
    assert joined.subject == "$SYS.PEER.JOINED" and newcomer.peer_id.encode() in joined.payload
    await newcomer.stop()
    newcomer.child = None
    left = await events.next(30)
    assert left.subject == "$SYS.PEER.LEFT" and newcomer.peer_id.encode() in left.payload
    line.nodes.pop()
    await events.close()


def test_every_part_is_crossed():
    assert set(PARTS) == {"publisher", "subscriber", "requester", "responder"}
