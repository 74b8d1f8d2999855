"""Peers that mean harm, against a live node: what they get, and what they cost.

The attacker is the link client on py-libp2p (`link/attacks.py`), which knows the protocol and does not keep to it.
Memory is the node's own resident set, before and at its height. Bounds are the page's and core's limits with room for
what an allocator keeps.
"""

import asyncio
import pathlib
import re

import pytest

from absent import absent
from conftest import World
from drivers.link import PyLink
from drivers.process import run
from mesh import Mesh, peers
from test_mesh_link_clients import opened

SECRET = b"what only members know"
MIB = 1024 * 1024
# The window and the backlog of one link (docs/mesh.md, "A slow link"), and what is under way below them.
WINDOW, BACKLOG = 1 * MIB, 64 * MIB
SLACK = 48 * MIB


@pytest.fixture(scope="module")
def needs_py_libp2p(pytestconfig):
    if "py-libp2p" in pytestconfig.getoption("--without"):
        absent("py-libp2p")


@pytest.fixture
async def victim(binary, tmp_path, needs_py_libp2p):
    """A node with a secret and an honest client, which must be served whatever happens."""
    secret = tmp_path / "mesh.secret"
    secret.write_bytes(SECRET)
    mesh = Mesh(binary)
    node = await mesh.add(flags={"--mesh-secret-file": str(secret)})
    node.world = World(node)
    yield node
    await still_serves(node)
    await node.world.close()
    await mesh.stop()


async def still_serves(node):
    """A request between two honest clients is answered, and nobody else is in the mesh."""
    client = await node.world.client("nats-py")
    subscription = await client.subscribe("still.there")
    await client.publish("still.there", b"yes")
    assert (await subscription.next()).payload == b"yes"
    await subscription.close()


def resident(node):
    """The node's resident memory now, in bytes."""
    status = pathlib.Path(f"/proc/{node.process.pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def report(what, cost):
    print(f"abuse: {what}: {cost / MIB:.1f} MiB")


async def metrics(node):
    """What the node answers at `/metrics`."""
    _, text, _ = await run("curl", "-s", f"{node.http}/metrics")
    return text.decode()


async def nobody_is_linked(node):
    """Waits until the node has no peer."""
    async with asyncio.timeout(30):
        while (await peers(node))["peers"]:
            await asyncio.sleep(0.05)


async def test_without_the_secret_nothing_is_served(victim):
    before = resident(victim)
    for guess in (b"", b"guess", SECRET + b"\n\n"):
        stranger = PyLink(guess)
        with pytest.raises(AssertionError, match="3 .*secret"):
            async for _ in opened(stranger, victim):
                pass
    await nobody_is_linked(victim)
    cost = resident(victim) - before
    report("three strangers", cost)
    assert cost < SLACK


async def test_a_replayed_proof_is_none(victim):
    async for attacker in opened(PyLink(SECRET), victim):
        again = await attacker.attack("replay", url=attacker.url(victim))
        assert not again["ok"] and re.search(r"3 .*secret", again["error"]), again
    await nobody_is_linked(victim)


@pytest.mark.parametrize("of", ["a stranger", "the node itself"])
async def test_a_forged_state_ends_the_link_and_changes_nothing(victim, of):
    async for attacker in opened(PyLink(SECRET), victim):
        end = await attacker.attack("forge", victim=of == "the node itself")
        assert end["ok"] and end["why"].startswith("9 "), end
    await nobody_is_linked(victim)
    # The forged interest was in `forged.>`: nobody has it.
    outcome = await (await victim.world.client("nats-py")).request("forged.service", b"")
    assert outcome.kind == "no_responders"


async def test_too_much_interest_of_one_node_ends_its_link(victim):
    before = resident(victim)
    for filters, length in [(16_384, 40), (20_000, 8)]:
        async for attacker in opened(PyLink(SECRET), victim):
            end = await attacker.attack("want", filters=filters, length=length)
            assert end["ok"] and re.match("[89] ", end["why"]), end
    await nobody_is_linked(victim)
    cost = resident(victim) - before
    report("interest beyond what one node may have", cost)
    assert cost < SLACK


async def test_invented_nodes_cost_what_their_interest_may(victim):
    """Forty nodes that do not exist, each with nearly all that one node may want: 480 KiB of filters."""
    nodes, filters, length = 40, 4_000, 120
    before = resident(victim)
    async for attacker in opened(PyLink(SECRET), victim):
        flood = await attacker.attack("invent", nodes=nodes, filters=filters, length=length, patience_s=120)
        assert flood["ok"], flood
        cost = resident(victim) - before
        report(f"{nodes} invented nodes of {filters} filters", cost)
        # Some 450 bytes a filter beside its text.
        assert cost < nodes * filters * (length + 450) + SLACK
        # None of them can be reached, so nothing is sent towards them.
        assert [peer["id"] for peer in (await peers(victim))["peers"]] == [attacker.peer_id]


@pytest.mark.parametrize("length", [4 * MIB, 2**40])
async def test_an_oversized_frame_is_not_waited_for(victim, length):
    before = resident(victim)
    async for attacker in opened(PyLink(SECRET), victim):
        end = await attacker.attack("oversize", length=length)
        assert end["ok"] and end["why"], end
        assert end["written"] <= 4 * MIB
    await nobody_is_linked(victim)
    cost = resident(victim) - before
    report(f"a frame of {length} bytes", cost)
    assert cost < SLACK


async def test_who_does_not_read_costs_a_window_and_a_backlog(victim):
    publisher = await victim.world.client("nats-py")
    body = bytes(512 * 1024)
    count = 400
    async for attacker in opened(PyLink(SECRET), victim):
        await attacker.subscribe("flood.>")
        await attacker.attack("stall")
        before = height = resident(victim)
        for number in range(count):
            await publisher.publish(f"flood.{number}", body)
            height = max(height, resident(victim))
        report(f"{count * len(body) / MIB:.0f} MiB for one who does not read", height - before)
        assert height - before < WINDOW + BACKLOG + SLACK
        text = await metrics(victim)
        dropped = re.findall(r"^waymeet_link_messages_dropped_total\{.*\} (\d+)", text, re.MULTILINE)
        assert sum(map(int, dropped)) > count // 2, text
        reached = r'^waymeet_limit_reached_total{limit="fixed\.mesh\.backlog_bytes"} (\d+)'
        assert sum(map(int, re.findall(reached, text, re.MULTILINE))) > count // 2, text
        # It answers no ping either.
        await nobody_is_linked(victim)
