"""Nodes at home behind routers that translate addresses, and one node with a public address."""

import asyncio

import pytest

from conftest import World

PORT = 4224
PUBLIC = "203.0.113.10"
# Both homes use the same private addresses, as homes do.
ROUTER, AT_HOME = "192.168.1.1", "192.168.1.2"
MESSAGES = 50
PATIENCE_S = 60.0


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "mesh.secret"
    path.write_text("a secret of this test\n")
    return {"--mesh-secret-file": str(path)}


class Internet:
    """One switch of public addresses."""

    def __init__(self, network, switch):
        self.network, self.switch = network, switch

    @classmethod
    async def make(cls, network):
        switch = await network.host("internet")
        await network.bridge(switch, "wan")
        return cls(network, switch)

    async def public(self, name, ip):
        host = await self.network.host(name)
        await self.network.plug(host, f"{ip}/24", self.switch, "wan")
        return host

    async def home(self, name, ip, symmetric):
        """A host behind a router with this public address."""
        outside = (self.switch, "wan", f"{ip}/24")
        router = await self.network.router(f"{name}-router", outside, symmetric)
        host = await self.network.host(name)
        await self.network.cable(router, host, (f"{ROUTER}/24", f"{AT_HOME}/24"))
        await host.ip("route", "add", "default", "via", ROUTER)
        return host


@pytest.fixture
async def internet(network):
    return await Internet.make(network)


def at(ip, transport):
    return f"/ip4/{ip}/" + (f"tcp/{PORT}" if transport == "tcp" else f"udp/{PORT}/quic-v1")


def link(every, one, other):
    """How `one` is linked to `other`; `None` when it is not."""
    linked = [p["transport"] for p in every[one.peer_id] if p["id"] == other.peer_id and p["via"] is None]
    return linked[0] if linked else None


async def exchange(mesh, one, other):
    """Messages and a request pass between two nodes, each once and in order."""
    sender, receiver = await World(one).client("nats-py"), await World(other).client("nats-py")
    subscription = await receiver.subscribe("home.news")
    await receiver.serve("home.ask", lambda received: (received.payload.upper(), None))
    await mesh.known(sender, receiver)
    for number in range(MESSAGES):
        await sender.client.publish("home.news", str(number).encode())
    outcome = await sender.request("home.ask", b"who is there")
    assert (outcome.kind, outcome.payload) == ("reply", b"WHO IS THERE")
    received = [int((await subscription.next()).payload) for _ in range(MESSAGES)]
    assert received == list(range(MESSAGES)) and subscription.deliveries.empty()
    await sender.close()
    await receiver.stop_serving()
    await receiver.close()


async def households(internet, mesh, secret, transport, symmetric):
    """A public node, and one in each of two homes that joins it."""
    hub = await internet.public("hub", PUBLIC)
    homes = [
        await internet.home(name, f"203.0.113.{number}", is_symmetric)
        for number, (name, is_symmetric) in enumerate(zip(("anna", "ben"), symmetric, strict=True), 1)
    ]
    await mesh.join(hub, flags=secret)
    return [await mesh.join(home, at(PUBLIC, transport), flags=secret) for home in homes]


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_a_relayed_link_becomes_a_direct_one(internet, mesh, secret, transport):
    anna, ben = await households(internet, mesh, secret, transport, (False, False))
    await mesh.converged()

    def are_direct(every):
        return {link(every, anna, ben), link(every, ben, anna)} <= {"tcp", "quic"}

    await mesh.until(are_direct, patience_s=PATIENCE_S)
    # It was relayed before, as neither can be dialled, and nobody was out of reach in between.
    assert any("a direct connection replaces the relayed one" in node.log for node in (anna, ben))
    assert not any('"message":"left"' in node.log for node in mesh.nodes)
    await exchange(mesh, anna, ben)


async def says_either(nodes, text):
    """Waits until one of the nodes has `text` in its log."""
    waiting = [asyncio.create_task(node.says(text, PATIENCE_S)) for node in nodes]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


@pytest.mark.parametrize("symmetric", [(True, True), (True, False)], ids=["both", "one"])
async def test_where_no_hole_can_be_punched_the_relay_stays(internet, mesh, secret, symmetric):
    anna, ben = await households(internet, mesh, secret, "tcp", symmetric)
    await mesh.converged()
    await mesh.until(
        lambda every: {link(every, anna, ben), link(every, ben, anna)} == {"relay"}, patience_s=PATIENCE_S
    )
    await exchange(mesh, anna, ben)
    await says_either((anna, ben), "no direct connection")
    every = await mesh.until(bool)
    assert {link(every, anna, ben), link(every, ben, anna)} == {"relay"}
    await exchange(mesh, ben, anna)


async def test_who_does_not_know_the_secret_is_not_relayed(internet, mesh, secret, tmp_path):
    hub_host = await internet.public("hub", PUBLIC)
    hub = await mesh.join(hub_host, flags=secret)
    home = await internet.home("anna", "203.0.113.1", symmetric=True)
    anna = await mesh.join(home, at(PUBLIC, "tcp"), flags=secret)
    ways = at(PUBLIC, "tcp"), f"{at(PUBLIC, 'tcp')}/p2p/{hub.peer_id}/p2p-circuit/p2p/{anna.peer_id}"
    await anna.says("reserved a place at a relay", PATIENCE_S)

    wrong = tmp_path / "wrong.secret"
    wrong.write_text("another\n")
    stranger = await internet.public("stranger", "203.0.113.66")
    outside = type(mesh)(mesh.binary)
    environment = {"WAYMEET_LOG__LEVEL": "debug"}
    outsider = await outside.join(
        stranger, *ways, flags={"--mesh-secret-file": str(wrong)}, environment=environment
    )
    # Whatever it tries, the relay lets it in no further than to the proof that it cannot give.
    await outsider.says("a dial failed", PATIENCE_S)
    await hub.says("did not prove the mesh secret", PATIENCE_S)
    assert outsider.peer_id not in anna.log
    await outside.stop()

    # The same dial of a member arrives.
    friend = await internet.public("friend", "203.0.113.67")
    friend = await mesh.join(friend, *ways, flags=secret)
    await mesh.until(lambda every: link(every, friend, anna) is not None, patience_s=PATIENCE_S)
    await exchange(mesh, friend, anna)
