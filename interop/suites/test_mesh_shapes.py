"""Nodes as real processes in every shape and over every transport: each message as often as section 7 says."""

import pytest

from conftest import World
from mesh import SHAPES, Mesh

TRANSPORTS = {"tcp": "tcp", "quic": "quic", "ws": "websocket"}
MESSAGES = 50


@pytest.fixture
async def meshes(binary):
    """Makes meshes that end with the test."""
    started = []

    def make():
        started.append(Mesh(binary))
        return started[-1]

    yield make
    for mesh in started:
        await mesh.stop()


def expected_links(shape, number):
    joins = SHAPES[shape]
    return set(joins[number]) | {i for i, others in enumerate(joins) if number in others}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("shape", SHAPES)
async def test_every_node_reaches_every_other_once(meshes, shape, transport):
    mesh = await meshes().start(shape, transport)
    ids = [node.peer_id for node in mesh.nodes]
    answers = await mesh.until(lambda all_peers: links_are(all_peers, shape, ids))
    for number, identity in enumerate(ids):
        for peer in answers[identity]:
            # Where there are circles two nodes may find each other's TCP before one joins the other as told.
            if peer["via"] is None and shape not in ("ring5", "full5"):
                assert peer["transport"] == TRANSPORTS[transport], (number, peer)
    worlds = [World(node) for node in mesh.nodes]
    clients = [await world.client("nats-py") for world in worlds]
    plain = [await client.subscribe("all.>") for client in clients]
    # One group over all nodes but the first.
    grouped = [await client.subscribe("job", queue="workers") for client in clients[1:]]
    await mesh.wanted(0, 1)
    for number in range(1, len(clients)):
        await mesh.wanted(number, 2)
    for number, client in enumerate(clients):
        await client.publish(f"all.{number}", b"x")
    subjects = {f"all.{number}" for number in range(len(clients))}
    for subscription in plain:
        assert {(await subscription.next()).subject for _ in clients} == subjects
    for number in range(MESSAGES):
        await clients[0].publish("job", str(number).encode())
    # Ordered behind everything else on each path: when all have it, nothing is still on its way.
    await clients[0].publish("all.last", b"")
    for subscription in plain:
        assert (await subscription.next()).subject == "all.last"
        assert subscription.deliveries.empty()
    got = []
    for subscription in grouped:
        while not subscription.deliveries.empty():
            got.append((await subscription.next()).payload)
    assert sorted(got, key=int) == [str(n).encode() for n in range(MESSAGES)]
    await requests(clients)
    for world in worlds:
        await world.close()


def links_are(all_peers, shape, ids):
    """Whether each node has the links of the shape and no others."""
    for number, identity in enumerate(ids):
        linked = {p["id"] for p in all_peers[identity] if p["via"] is None}
        if linked != {ids[other] for other in expected_links(shape, number)}:
            return False
    return True


async def requests(clients):
    """Each node asks a service on the last one, and learns that nobody serves another subject."""
    await clients[-1].serve("ask", lambda received: (received.payload[::-1], None))
    for number, client in enumerate(clients):
        outcome = await client.request("ask", b"abc%d" % number)
        while outcome.kind == "no_responders":
            # The subscription is known within moments; what a node does not know yet it must not answer for.
            outcome = await client.request("ask", b"abc%d" % number)
        assert (outcome.kind, outcome.payload) == ("reply", b"%dcba" % number)
        assert (await client.request("nobody", b"")).kind == "no_responders"
