"""What became of a message: asked as NATS clients ask (ADR-41) and over HTTP (docs/trace.md), across a link."""

import asyncio
import dataclasses
import json

import nats
import pytest

from mesh import PATIENCE_S, STEP_S, Mesh

SOON = 30


@dataclasses.dataclass
class Pair:
    """Two nodes with a NATS client on each, of which the far one takes orders."""

    mesh: Mesh
    here: nats.NATS
    there: nats.NATS
    orders: object


@pytest.fixture(scope="module")
async def pair(pytestconfig):
    mesh = Mesh(pytestconfig.getoption("--binary"))
    await mesh.start("pair")
    here, there = [await nats.connect(node.nats) for node in mesh.nodes]
    orders = await there.subscribe("orders.*", queue="workers")
    later = await there.subscribe("ready")
    await reached(here, "ready", later)
    await later.unsubscribe()
    yield Pair(mesh, here, there, orders)
    await here.close()
    await there.close()
    await mesh.stop()


async def reached(client, subject, subscription):
    """Waits until what a client publishes, here nothing, finds a subscription on another node: what was subscribed to there
    before it is known then as well."""
    async with asyncio.timeout(PATIENCE_S):
        while not subscription.pending_msgs:
            await client.publish(subject, b"")
            await asyncio.sleep(STEP_S)


async def traced(pair, only):
    """The events of one message, by the node that tells them. The far node's come back although it has not heard yet that
    anybody wants them: the message carries the way."""
    inbox = pair.here.new_inbox()
    events = await pair.here.subscribe(inbox)
    headers = {"Nats-Trace-Dest": inbox}
    if only:
        headers["Nats-Trace-Only"] = "true"
    await pair.here.publish("orders.new", b"traced" if only else b"delivered", headers=headers)
    found = {}
    while len(found) < len(pair.mesh.nodes):
        event = json.loads((await events.next_msg(timeout=SOON)).data)
        found[event["server"]["name"]] = event
    await events.unsubscribe()
    return found


@pytest.mark.parametrize("only", [False, True])
async def test_each_node_tells_its_part(pair, only):
    """The event of the node beyond is found by its hop, as `nats trace` finds it."""
    events = await traced(pair, only)
    first, second = events["n0"], events["n1"]
    entry, out = first["events"]
    assert (entry["type"], entry["kind"], entry["subj"]) == ("in", 0, "orders.new")
    assert (out["type"], out["kind"], first["hops"]) == ("eg", 1, 1)
    assert second["request"]["header"]["Nats-Trace-Hop"] == [out["hop"]]
    entry, out = second["events"]
    assert (entry["type"], entry["kind"]) == ("in", 1)
    assert (out["type"], out["kind"], out["sub"], out["queue"]) == ("eg", 0, "orders.*", "workers")
    assert out["cid"] == pair.there.client_id
    # What comes behind it comes next when it was not to be delivered.
    await pair.here.publish("orders.next", b"behind")
    expected = [b"behind"] if only else [b"delivered", b"behind"]
    assert [(await pair.orders.next_msg(timeout=SOON)).data for _ in expected] == expected
