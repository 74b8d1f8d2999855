"""Nodes that die, come back, and do not belong: what the mesh does then."""

import asyncio
import json
import signal

import pytest

from conftest import World
from drivers.process import run
from mesh import Mesh, peers
from waymeet_node import StartFailed, Waymeet


@pytest.fixture
async def mesh(binary):
    """A mesh that ends with the test."""
    mesh = Mesh(binary)
    yield mesh
    await mesh.stop()


async def linked(node):
    return {peer["id"] for peer in (await peers(node))["peers"] if peer["via"] is None}


async def test_a_way_round_is_found_when_the_middle_dies(mesh):
    """A ring of five: what went over one side goes over the other."""
    await mesh.start("ring5")
    near, far = World(mesh.nodes[0]), World(mesh.nodes[2])
    subscription = await (await far.client("nats-py")).subscribe("news.*")
    publisher = await near.client("nats-py")
    await mesh.wanted(2, 1)
    await publisher.publish("news.before", b"")
    assert (await subscription.next()).subject == "news.before"
    await mesh.nodes[1].child.stop(signal.SIGKILL)
    alive = [0, 2, 3, 4]
    await mesh.converged(alive)
    await publisher.publish("news.after", b"")
    assert (await subscription.next()).subject == "news.after"
    assert subscription.deliveries.empty()
    await near.close()
    await far.close()


async def test_a_node_that_comes_back_is_the_same_node(mesh):
    await mesh.start("pair")
    second = mesh.nodes[1]
    before = second.peer_id
    await second.child.stop(signal.SIGKILL)
    await mesh.converged([0])
    # Without --join: where the others are was written down.
    again = Waymeet(mesh.binary)
    again.directory = second.directory
    mesh.nodes[1] = again
    await again.start()
    assert again.peer_id == before
    await mesh.converged()


async def test_who_does_not_know_the_secret_gets_nowhere(mesh, tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a secret of this test\n")
    wrong.write_text("another\n")
    member = await mesh.add(flags={"--mesh-secret-file": str(right)})
    friend = await mesh.add([0], flags={"--mesh-secret-file": str(right)})
    await mesh.converged()
    for number, flags in enumerate([{"--mesh-secret-file": str(wrong)}, {}]):
        stranger = Mesh(mesh.binary)
        stranger.nodes = list(mesh.nodes)
        node = await stranger.add([0], block=[], flags=flags)
        await member.says("did not prove the mesh secret" if number == 0 else node.peer_id)
        assert await linked(node) == set()
        assert await linked(member) == {friend.peer_id}
        await node.stop()


async def test_a_blocked_peer_gets_nowhere(mesh):
    await mesh.start("pair")
    blocked = Mesh(mesh.binary)
    other = await blocked.add()
    identity = other.peer_id
    await other.child.stop()
    fresh = Waymeet(mesh.binary)
    mesh.nodes.append(fresh)
    await fresh.start(config=f"[mesh]\nblock = ['{identity}']", flags={"--join": [mesh.nodes[0].join]})
    await mesh.converged()
    again = Waymeet(mesh.binary)
    again.directory = other.directory
    await again.start(flags={"--join": [fresh.join]})
    # It reaches the mesh over nobody: its one way in is closed.
    await again.says("listening")
    await asyncio.sleep(1)
    assert await linked(again) == set()
    await mesh.converged()
    await again.stop()


async def test_a_taken_port_is_named_with_its_flag(mesh):
    node = await mesh.add()
    second = Waymeet(mesh.binary)
    with pytest.raises(StartFailed) as failure:
        await second.start(flags={"--mesh": node.join})
    assert failure.value.exit_code == 1
    assert "--mesh" in failure.value.log and node.join in failure.value.log


async def test_peers_is_shown_by_the_command_line(mesh):
    await mesh.start("line3")
    node = mesh.nodes[0]
    _, shown, _ = await run(mesh.binary, "peers", "--server", node.nats)
    assert b"n1" in shown and b"n2" in shown and mesh.nodes[2].peer_id.encode() in shown
    _, shown, _ = await run(mesh.binary, "peers", "--json", "--server", node.nats)
    answer, shown = await peers(node), json.loads(shown)
    assert shown["id"] == answer["id"]
    assert {peer["id"] for peer in shown["peers"]} == {peer["id"] for peer in answer["peers"]}
