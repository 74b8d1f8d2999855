"""Members that are written from docs/link-protocol.md alone, on py-libp2p and js-libp2p, and clients of the node that
they are linked to."""

import asyncio
import contextlib

import pytest

from absent import absent
from conftest import World
from drivers import reverse
from drivers.link import LINK_CLIENTS
from mesh import Mesh
from waymeet_node import Waymeet

BODY = b"over a link \xf0\x9f\x94\x97\x00\xff"
SECRET = b"what only members know"


@pytest.fixture(scope="module")
async def meeting(pytestconfig, tmp_path_factory):
    """Two nodes with a secret. The link clients link to the first, the second is one node on."""
    secret = tmp_path_factory.mktemp("secret") / "mesh.secret"
    secret.write_bytes(SECRET)
    mesh = Mesh(pytestconfig.getoption("--binary"))
    flags = {"--mesh-secret-file": str(secret)}
    await mesh.start("pair", config="websocket = '127.0.0.1:0'", flags=flags)
    without = pytestconfig.getoption("--without")
    mesh.here, mesh.there = World(mesh.nodes[0], without), World(mesh.nodes[1], without)
    yield mesh
    await mesh.here.close()
    await mesh.there.close()
    await mesh.stop()


@pytest.fixture(params=[("py-libp2p", "tcp"), ("js-libp2p", "tcp"), ("js-libp2p", "ws")], ids="-".join)
async def member(meeting, request, pytestconfig):
    """A link client that is up, and that both nodes reach."""
    kind, transport = request.param
    if kind in pytestconfig.getoption("--without"):
        absent(kind)
    client = LINK_CLIENTS[kind](SECRET, transport)
    async with contextlib.aclosing(opened(client, meeting.nodes[0])) as clients:
        async for one in clients:
            await reached(meeting, one)
            yield one


async def opened(client, node):
    """The client while it is open."""
    try:
        await client.open(node)
        yield client
    finally:
        await client.stop_serving()
        await client.close()


async def reached(meeting, client, interests=0):
    """Waits until both nodes reach the client, know how much it wants, and it knows both of them."""

    def know(all_peers):
        seen = [p["interests"] for peers in all_peers.values() for p in peers if p["id"] == client.peer_id]
        return seen == [interests] * 2

    await meeting.until(know)


async def learned(client, node, subject_filter, queue=""):
    """Waits until the client knows that a node wants a filter."""
    async with asyncio.timeout(30):
        while [subject_filter, queue] not in (await client.nodes()).get(node.peer_id, []):
            await asyncio.sleep(0.02)


async def test_what_it_publishes_reaches_clients_here_and_a_node_on(meeting, member, subject):
    here, there = await meeting.here.client("nats-py"), await meeting.there.client("async-nats")
    near, far = await here.subscribe(f"{subject}.*"), await there.subscribe(f"{subject}.>")
    await learned(member, meeting.nodes[1], f"{subject}.>")
    await member.publish(f"{subject}.a", BODY, {"X-Trace": "7"})
    for subscription in (near, far):
        received = await subscription.next()
        assert (received.subject, received.payload) == (f"{subject}.a", BODY)
        assert received.header("X-Trace") == "7"
    await member.publish(f"{subject}.b", b"")
    assert (await near.next()).subject == f"{subject}.b" and (await far.next()).payload == b""
    assert near.deliveries.empty() and far.deliveries.empty(), "each message comes once"
    await asyncio.gather(near.close(), far.close())


async def test_what_it_wants_comes_from_clients_here_and_a_node_on(meeting, member, subject):
    subscription = await member.subscribe(f"{subject}.>")
    await reached(meeting, member, interests=1)
    for number, world in enumerate((meeting.here, meeting.there)):
        client = await world.client("nats-py")
        await client.publish(f"{subject}.{number}", BODY, {"X-Trace": "8"})
        received = await subscription.next()
        assert (received.subject, received.payload) == (f"{subject}.{number}", BODY)
        assert received.header("X-Trace") == "8"
        await client.publish("elsewhere", b"")
    await subscription.close()
    await reached(meeting, member, interests=0)
    assert subscription.deliveries.empty()


async def test_messages_of_one_publisher_stay_in_order_beyond_the_window(meeting, member, subject):
    """Three times its window of 1 MiB in each direction, so that credit has to come back on both sides."""
    count, body = 96, bytes(32 * 1024)
    here = await meeting.here.client("nats-py")
    mine, theirs = await member.subscribe(f"{subject}.in.*"), await here.subscribe(f"{subject}.out.*")
    await reached(meeting, member, interests=1)
    await learned(member, meeting.nodes[0], f"{subject}.out.*")
    for number in range(count):
        await here.publish(f"{subject}.in.{number}", body)
        await member.publish(f"{subject}.out.{number}", body)
    for number in range(count):
        assert (await mine.next()).subject == f"{subject}.in.{number}"
        assert (await theirs.next()).subject == f"{subject}.out.{number}"
    await theirs.close()


async def test_it_asks_and_is_answered(meeting, member, subject):
    for number, world in enumerate((meeting.here, meeting.there)):
        service = await world.client("nats-py")
        endpoint = await service.serve(f"{subject}.{number}", reverse)
        # NATS services answer as members of the queue group `q`.
        await learned(member, meeting.nodes[number], f"{subject}.{number}", "q")
        outcome = await member.request(f"{subject}.{number}", BODY)
        assert (outcome.kind, outcome.payload) == ("reply", BODY[::-1]), outcome
        await endpoint.stop()


async def test_it_answers_those_who_ask(meeting, member, subject):
    await member.serve(subject, lambda received: (received.payload[::-1], {"X-Served": "here"}))
    await reached(meeting, member, interests=1)
    for world, kind in [(meeting.here, "nats-py"), (meeting.there, "async-nats"), (meeting.there, "aiocoap-con")]:
        outcome = await (await world.client(kind)).request(subject, BODY)
        assert (outcome.kind, outcome.payload) == ("reply", BODY[::-1]), outcome
        if kind != "aiocoap-con":
            assert outcome.header("X-Served") == "here"


async def test_who_asks_for_what_nobody_serves_is_told_at_once(meeting, member, subject):
    assert (await member.request(subject, b"")).kind == "no_responders"
    client = await meeting.there.client("nats-py")
    assert (await client.request(subject, b"")).kind == "no_responders"
    # A responder that has left a moment ago: the node that the request came to says so.
    subscription = await member.subscribe(subject)
    await reached(meeting, member, interests=1)
    await subscription.close()
    await reached(meeting, member, interests=0)
    assert (await client.request(subject, b"")).kind == "no_responders"


async def test_a_queue_group_has_one_receiver_wherever_its_members_are(meeting, member, subject):
    mine = await member.subscribe(subject, queue="g")
    await reached(meeting, member, interests=1)
    here = await meeting.here.client("nats-py")
    # Nobody here is in the group: the nearest node with members serves it.
    await here.publish(subject, b"1")
    assert (await mine.next()).payload == b"1"
    theirs = await (await meeting.there.client("nats-py")).subscribe(subject, queue="g")
    await learned(member, meeting.nodes[1], subject, "g")
    # The client has nobody of its own for its own messages, and names the other node.
    await member.publish(subject, b"2")
    assert (await theirs.next()).payload == b"2"
    count = 20
    for number in range(count):
        await here.publish(subject, b"%d" % number)
    received = set()
    async with asyncio.timeout(30):
        while len(received) < count:
            for subscription in (mine, theirs):
                while not subscription.deliveries.empty():
                    payload = subscription.deliveries.get_nowait().payload
                    assert payload not in received
                    received.add(payload)
            await asyncio.sleep(0.01)
    assert mine.deliveries.empty() and theirs.deliveries.empty()
    await theirs.close()


async def test_it_is_addressed_by_its_id(meeting, member, subject):
    mine, others = await member.subscribe(subject), await (await meeting.here.client("nats-py")).subscribe(subject)
    await reached(meeting, member, interests=1)
    there = await meeting.there.client("nats-py")
    await there.publish(f"_PEER.{member.peer_id}.{subject}", b"yours")
    assert (await mine.next()).payload == b"yours"
    await member.publish(f"_PEER.{meeting.nodes[1].peer_id}.{subject}", b"not here")
    assert others.deliveries.empty()
    await others.close()


async def test_it_says_good_bye(meeting, member):
    await member.leave()
    await meeting.converged()


@pytest.mark.parametrize("kind", LINK_CLIENTS)
async def test_without_the_secret_it_is_refused_with_the_reason(meeting, kind, pytestconfig):
    if kind in pytestconfig.getoption("--without"):
        absent(kind)
    for secret in (b"guessed", b""):
        stranger = LINK_CLIENTS[kind](secret)
        with pytest.raises(AssertionError, match="3 .*secret"):
            async for _ in opened(stranger, meeting.nodes[0]):
                pass
    await meeting.converged()


async def test_a_node_that_leaves_says_good_bye_to_it(binary, pytestconfig):
    for kind in LINK_CLIENTS:
        if kind in pytestconfig.getoption("--without"):
            continue
        node = await Waymeet(binary).start()
        async for client in opened(LINK_CLIENTS[kind](), node):
            await node.stop()
            async with asyncio.timeout(30):
                assert (await client.ended).startswith("1 "), kind
