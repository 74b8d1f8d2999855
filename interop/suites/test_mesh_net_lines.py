"""Nodes that reach each other over some lines and not over others: one that dies, and bad ones."""

import asyncio
import signal

import pytest

from conftest import World

PORT = 4224
# Of the issue: what a link over the air, or across an ocean, is like.
LOSS, DELAY_S = 0.05, 0.1
MESSAGES = 200
REQUESTS = 20
PATIENCE_S = 30.0


def address(ip, transport="tcp"):
    return f"/ip4/{ip}/" + (f"tcp/{PORT}" if transport == "tcp" else f"udp/{PORT}/quic-v1")


async def collect(subscription, count):
    """The payloads of the next `count` deliveries."""
    return [(await subscription.next(PATIENCE_S)).payload for _ in range(count)]


async def drain(members, count):
    """The next `count` deliveries to any of the members of a group."""
    taken = asyncio.Queue()

    async def forward(member):
        while True:
            taken.put_nowait(await member.deliveries.get())

    forwarders = [asyncio.create_task(forward(member)) for member in members]
    try:
        return [await taken.get() for _ in range(count)]
    finally:
        for forwarder in forwarders:
            forwarder.cancel()


async def test_the_middle_is_killed_and_there_is_a_way_round(network, mesh):
    """Four hosts on four cables. The outer two have no cable between them, and nobody passes packets on."""
    west, middle, east, round_ = [await network.host(name) for name in ("west", "middle", "east", "round")]
    cables = [(west, middle), (middle, east), (west, round_), (round_, east)]
    for number, (one, other) in enumerate(cables, 1):
        await network.cable(one, other, (f"10.0.{number}.1/24", f"10.0.{number}.2/24"))
    await mesh.join(middle)
    await mesh.join(round_)
    west_node = await mesh.join(west, address("10.0.1.2"), address("10.0.3.2"))
    east_node = await mesh.join(east, address("10.0.2.1"), address("10.0.4.1"))
    await mesh.converged()
    sender = await World(west_node).client("nats-py")
    receiver = await World(east_node).client("nats-py")
    subscription = await receiver.subscribe("way.>")
    await mesh.wanted(3, 1)

    async def send(kind, count):
        for number in range(count):
            await sender.client.publish(f"way.{kind}", str(number).encode())
        await sender.client.flush()

    await send("before", MESSAGES)
    assert await collect(subscription, MESSAGES) == [str(n).encode() for n in range(MESSAGES)]

    is_found = asyncio.Event()

    async def keep_sending():
        number = 0
        while not is_found.is_set():
            await sender.publish("way.meanwhile", str(number).encode())
            number += 1

    meanwhile = asyncio.create_task(keep_sending())
    await mesh.nodes[0].child.stop(signal.SIGKILL)
    await mesh.converged([1, 2, 3])
    is_found.set()
    await meanwhile
    # What was under way through the middle is lost. Everything else has come once, and in order, before what follows.
    await send("after", MESSAGES)
    seen = {"way.meanwhile": [], "way.after": []}
    while len(seen["way.after"]) < MESSAGES:
        received = await subscription.next(PATIENCE_S)
        seen[received.subject].append(int(received.payload))
    assert seen["way.after"] == list(range(MESSAGES))
    assert seen["way.meanwhile"] == sorted(set(seen["way.meanwhile"]))
    assert subscription.deliveries.empty()
    await sender.close()
    await receiver.close()


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_a_bad_line_takes_nothing_from_what_is_promised(network, mesh, transport, capsys):
    here, there = await network.host("here"), await network.host("there")
    line = await network.line(here, there, ("10.1.0.1", "10.1.0.2"), LOSS, DELAY_S, seed=5)
    near = await mesh.join(here)
    far = await mesh.join(there, address("10.1.0.1", transport))
    await mesh.converged()
    answers = await mesh.until(lambda every: all(p["rtt_ms"] for some in every.values() for p in some))
    for peers in answers.values():
        assert [peer["transport"] for peer in peers] == [transport]
        assert all(peer["rtt_ms"] >= 2_000 * DELAY_S for peer in peers)

    sender = await World(near).client("nats-py")
    plain, left, right = [await World(far).client("nats-py") for _ in range(3)]
    subscription = await plain.subscribe("bad.line")
    members = [await left.subscribe("bad.line", queue="g"), await right.subscribe("bad.line", queue="g")]
    await right.serve("bad.ask", lambda received: (received.payload.upper(), None))
    for receiver in (plain, left, right):
        await mesh.known(sender, receiver)
    sent = [f"{number:04}".encode() * 64 for number in range(MESSAGES)]
    for payload in sent:
        await sender.client.publish("bad.line", payload)
    await sender.client.flush()
    # Every one, once, in order; and each at one member of the group.
    assert await collect(subscription, MESSAGES) == sent
    shared = await asyncio.wait_for(drain(members, MESSAGES), PATIENCE_S)
    assert sorted(received.payload for received in shared) == sorted(sent)
    asked = [sender.request("bad.ask", f"q{n}".encode(), timeout_s=PATIENCE_S) for n in range(REQUESTS)]
    for number, outcome in enumerate(await asyncio.gather(*asked)):
        assert (outcome.kind, outcome.payload) == ("reply", f"Q{number}".encode())
    assert (await sender.request("bad.nobody", b"", timeout_s=PATIENCE_S)).kind == "no_responders"
    assert subscription.deliveries.empty() and all(member.deliveries.empty() for member in members)
    assert line.lost > 0
    with capsys.disabled():
        print(f"\n{transport}: {line.lost} of {line.lost + line.passed} packets were lost and no message")
    await right.stop_serving()
    for client in (sender, plain, left, right):
        await client.close()
