"""CoAP over a network that loses, repeats and reorders datagrams (RFC 7252, sections 4.2 and 4.5), with aiocoap.

The simulation over core does the same in virtual time and far more often; here the datagrams are real.
"""

import asyncio
import collections
import random
import types

import aiocoap
from aiocoap import Code
from aiocoap.numbers.constants import Reliable

from drivers.coap_aiocoap import AioCoap
from drivers.curl import fetch
from drivers.nats_py import NatsPy

LOSS, REPEATED, DELAY_S = 0.3, 0.1, 0.03
CLIENTS, REQUESTS = 4, 12
# The seed of each observer's network. These lose datagrams of each kind, and let the test end within half a minute.
OBSERVERS = range(112, 118)
# RFC 7252, section 4.8.2: after so long without an acknowledgement a notification is given up.
MAX_TRANSMIT_WAIT_S = 93
# A registration whose answer was lost is tried anew after so long.
RETRY_S = 5.0


class Hasty(Reliable):
    """Retransmits ten times as fast as the RFC's defaults, so that the test is over in seconds. The server's
    view does not change: a repeated message is a duplicate however soon it comes."""

    ACK_TIMEOUT = 0.2


class Crossing(asyncio.DatagramProtocol):
    """One direction: sends what arrives on to `target`, or not, or twice, each a little later."""

    def __init__(self, dice, target):
        self.dice, self.target = dice, target
        self.loss, self.lost = LOSS, 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        if self.dice.random() < self.loss:
            self.lost += 1
            return
        for _ in range(2 if self.dice.random() < REPEATED else 1):
            delay = self.dice.uniform(0, DELAY_S)
            asyncio.get_running_loop().call_later(delay, self.target, data, source)


class LossyNetwork:
    """A UDP proxy for one client."""

    async def open(self, host, port, seed):
        loop, dice = asyncio.get_running_loop(), random.Random(seed)
        self.client = None
        self.outward, self.requests = await loop.create_datagram_endpoint(
            lambda: Crossing(dice, self._ask), local_addr=("127.0.0.1", 0)
        )
        self.inward, self.answers = await loop.create_datagram_endpoint(
            lambda: Crossing(dice, self._answer), remote_addr=(host, port)
        )
        return f"coap://127.0.0.1:{self.outward.get_extra_info('sockname')[1]}"

    def _ask(self, data, source):
        self.client = source
        self.inward.sendto(data)

    def _answer(self, data, _source):
        self.outward.sendto(data, self.client)

    def heal(self):
        """Loses nothing from now on."""
        self.requests.loss = self.answers.loss = 0

    def close(self):
        self.outward.close()
        self.inward.close()


async def behind_losses(node, seed):
    """A client, and the network between it and the node."""
    network = LossyNetwork()
    host, port = node.coap.removeprefix("coap://").rstrip("/").split(":")
    driver = AioCoap(raw=True)
    driver.tuning = Hasty
    await driver.open(types.SimpleNamespace(coap=await network.open(host, int(port), seed)))
    return driver, network


async def publish_all(node, client, subject):
    """Publishes one message after the other; returns those that were acknowledged, and the network."""
    driver, network = await behind_losses(node, seed=client)
    acknowledged = []
    for number in range(REQUESTS):
        try:
            response = await driver.send(Code.POST, f"/pub/{subject}", b"%d %d" % (client, number), 60)
            assert response.code == Code.CHANGED
            acknowledged.append((client, number))
        except aiocoap.error.NetworkError:
            # Every attempt or its answer was lost: the client has been told, which is what is promised.
            pass
    await driver.close()
    network.close()
    return acknowledged, network


async def test_no_confirmable_is_carried_out_twice(world, subject):
    heard = collections.Counter()
    subscription = await (await world.client("nats-py")).subscribe(subject)
    outcomes = await asyncio.gather(*(publish_all(world.node, client, subject) for client in range(CLIENTS)))
    acknowledged = {message for messages, _ in outcomes for message in messages}
    assert len(acknowledged) > CLIENTS * REQUESTS // 2
    lost = sum(network.requests.lost + network.answers.lost for _, network in outcomes)
    assert lost > CLIENTS * REQUESTS // 10, "a network that loses nothing shows nothing"
    # All that was published before this has been delivered before it: one subject, one subscriber.
    await (await world.client("aiocoap-con")).publish(subject, b"end")
    while (received := await subscription.next()).payload != b"end":
        heard[tuple(map(int, received.payload.split()))] += 1
    assert set(heard.values()) == {1}, "each at most once"
    assert acknowledged <= set(heard), "what was acknowledged was delivered"


class Ledger:
    """A node's account of its deliveries (design, section 8)."""

    def __init__(self, node):
        self.node = node

    async def _read(self):
        text = (await fetch(f"{self.node.http}/metrics")).body.decode()
        self.counters = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]

    def sum(self, name, label=""):
        return sum(float(n) for key, n in self.counters if key.split("{")[0] == name and label in key)

    async def balances(self, deliveries):
        """Waits until so many deliveries were asked for and each has ended, one way or the other."""
        async with asyncio.timeout(deliveries * MAX_TRANSMIT_WAIT_S):
            while True:
                await self._read()
                asked = self.sum("waymeet_deliveries_matched_total")
                dropped = self.sum("waymeet_messages_dropped_total") - self.sum("waymeet_messages_rejected_total")
                if asked >= deliveries and asked == self.sum("waymeet_messages_out_total") + dropped:
                    return
                await asyncio.sleep(0.1)


async def observe_behind_losses(node, seed, subject):
    """Registers, again and again until the network lets it; returns what it hears from then on. Where only the answers
    were lost, the node notifies of an observation that nobody knows any more, and is told so by a Reset."""
    driver, network = await behind_losses(node, seed)
    while True:
        try:
            return driver, network, await driver.observe(f"/sub/{subject}", patience_s=RETRY_S)
        except (aiocoap.error.NetworkError, TimeoutError):
            await asyncio.sleep(0)


def payloads(subscription):
    return [subscription.deliveries.get_nowait().payload for _ in range(subscription.deliveries.qsize())]


async def test_an_observation_that_lives_ends_with_the_last_value(world, subject):
    values = [b"first", b"last"]
    async with world.another("") as node:
        ledger, publisher = Ledger(node), NatsPy()
        await publisher.open(node)
        opening = [observe_behind_losses(node, seed, subject) for seed in OBSERVERS]
        observers = await asyncio.gather(*opening)
        for value in values:
            await publisher.publish(subject, value)
        await ledger.balances(len(OBSERVERS) * len(values))
        lost = sum(network.answers.lost for _, network, _ in observers)
        assert lost >= len(OBSERVERS), "a network that loses nothing shows nothing"
        living = ledger.sum("waymeet_sessions", 'listener="coap"')
        for _, network, _ in observers:
            network.heal()
        await publisher.publish(subject, b"after")
        await ledger.balances(len(OBSERVERS) * len(values) + living)
        heard = [payloads(subscription) for _, _, subscription in observers]
        alive = [each for each in heard if each[-1:] == [b"after"]]
        assert len(alive) == living > 0
        assert all(each == [*values, b"after"] for each in alive)
        # The others have ended in the middle, and what they did not hear is counted.
        ended = [each for each in heard if each not in alive]
        assert all(each == values[: len(each)] for each in ended)
        assert not ended or ledger.sum("waymeet_messages_dropped_total", "subscriber_gone") > 0
        for driver, network, _ in observers:
            await driver.close()
            network.close()
        await publisher.close()
