"""Nodes on one local network, with no configuration and no way to anywhere else; and a network that splits."""

import asyncio
import json
import time

from conftest import World

# How long a part of the mesh is cut off. The silence of a peer is noticed after 10 s.
PARTITION_S = 30.0
# The hosts are told nothing of each other.
LAN = {"--lan": "on"}


async def lan(network, sides):
    """Hosts on one LAN of two switches, which a cable joins; returns the hosts, the switch and the cable's end."""
    switch = await network.host("switch")
    for bridge in ("left", "right"):
        await network.bridge(switch, bridge)
    await switch.ip("link", "add", "uplink", "type", "veth", "peer", "name", "downlink")
    for bridge, end in (("left", "uplink"), ("right", "downlink")):
        await switch.ip("link", "set", end, "master", bridge, "up")
    hosts = []
    for number, bridge in enumerate(sides, 1):
        host = await network.host(f"host{number}")
        await network.plug(host, f"192.168.77.{number}/24", switch, bridge)
        hosts.append(host)
    return hosts, switch


async def events(node):
    """What the node tells its clients of who comes and goes, as `(subject, name)`."""
    client = await World(node).client("nats-py")
    return client, await client.subscribe("$SYS.PEER.*")


async def expect_events(subscription, kind, names):
    """Waits until each of `names` has come or gone; nothing else happens meanwhile."""
    seen = set()
    while seen != set(names):
        event = await subscription.next(patience_s=30)
        assert event.subject == f"$SYS.PEER.{kind}", event
        seen.add(json.loads(event.payload)["name"])
        assert seen <= set(names)


async def test_three_nodes_find_each_other_with_no_way_to_anywhere_else(network, mesh, capsys):
    hosts, _ = await lan(network, ["left", "left", "left"])
    for host in hosts:
        assert "default" not in await host.ip("route")
        await mesh.join(host, flags=LAN, mesh=None)
    started = time.monotonic()
    await mesh.converged()
    with capsys.disabled():
        print(f"\nLAN: everybody found everybody {time.monotonic() - started:.2f} s after the last start")
    answers = await mesh.until(lambda peers: all(p["via"] is None for some in peers.values() for p in some))
    for peers in answers.values():
        assert {peer["transport"] for peer in peers} <= {"tcp", "quic"}
        assert all(a.startswith("/ip4/192.168.77.") for peer in peers for a in peer["addresses"]), peers
    receiver = await World(mesh.nodes[0]).client("nats-py")
    subscription = await receiver.subscribe("lan.>")
    await mesh.wanted(0, 1)
    for number in (1, 2):
        sender = await World(mesh.nodes[number]).client("nats-py")
        await sender.publish(f"lan.{number}", b"hello")
        assert (await subscription.next()).subject == f"lan.{number}"
        await sender.close()
    assert subscription.deliveries.empty()
    await receiver.close()


async def test_a_network_that_splits_becomes_two_meshes_and_then_one_again(network, mesh, capsys):
    hosts, switch = await lan(network, ["left", "left", "right", "right"])
    for host in hosts:
        await mesh.join(host, flags=LAN, mesh=None)
    await mesh.converged()
    near, far = mesh.nodes[0], mesh.nodes[2]
    watcher, happened = await events(near)
    clients = [await World(node).client("nats-py") for node in (near, far)]
    stays = await clients[0].subscribe("split.stays")
    goes = await clients[0].subscribe("split.goes")
    await mesh.wanted(0, 2)
    await clients[1].publish("split.stays", b"before")
    assert (await stays.next()).payload == b"before"

    await switch.ip("link", "set", "uplink", "down")
    cut = time.monotonic()
    await expect_events(happened, "LEFT", ["host3", "host4"])
    await mesh.converged([0, 1])
    await mesh.converged([2, 3])
    noticed = time.monotonic() - cut
    # Each part is a mesh, and does not wait for the other.
    other = await World(mesh.nodes[1]).client("nats-py")
    await other.publish("split.stays", b"meanwhile here")
    assert (await stays.next()).payload == b"meanwhile here"
    await clients[1].publish("split.stays", b"meanwhile there")
    # What the near part wants changes while the far one cannot hear of it.
    await goes.close()
    comes = [await clients[0].subscribe(f"split.comes.{number}") for number in range(3)]
    await asyncio.sleep(max(0.0, cut + PARTITION_S - time.monotonic()))

    await switch.ip("link", "set", "uplink", "up")
    healed = time.monotonic()
    await expect_events(happened, "JOINED", ["host3", "host4"])
    await mesh.converged(patience_s=60)
    await mesh.wanted(0, 4)
    with capsys.disabled():
        took = time.monotonic() - healed
        print(f"\nLAN: a partition noticed after {noticed:.1f} s, healed {took:.1f} s after its end")
    for number, subscription in enumerate(comes):
        await clients[1].publish(f"split.comes.{number}", b"")
        assert (await subscription.next()).subject == f"split.comes.{number}"
    await clients[1].publish("split.stays", b"after")
    assert (await stays.next()).payload == b"after"
    assert all(subscription.deliveries.empty() for subscription in [stays, *comes])
    for client in [*clients, watcher, other]:
        await client.close()
