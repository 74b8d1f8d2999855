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

LOSS, REPEATED, DELAY_S = 0.3, 0.1, 0.03
CLIENTS, REQUESTS = 4, 12


class Hasty(Reliable):
    """Retransmits ten times as fast as the RFC's defaults, so that the test is over in seconds. The server's
    view does not change: a repeated message is a duplicate however soon it comes."""

    ACK_TIMEOUT = 0.2


class Crossing(asyncio.DatagramProtocol):
    """One direction: sends what arrives on to `target`, or not, or twice, each a little later."""

    def __init__(self, dice, target):
        self.dice, self.target = dice, target
        self.lost = 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        if self.dice.random() < LOSS:
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

    def close(self):
        self.outward.close()
        self.inward.close()


async def publish_all(node, client, subject):
    """Publishes one message after the other; returns those that were acknowledged, and the network."""
    network = LossyNetwork()
    host, port = node.coap.removeprefix("coap://").rstrip("/").split(":")
    driver = AioCoap()
    driver.tuning = Hasty
    await driver.open(types.SimpleNamespace(coap=await network.open(host, int(port), seed=client)))
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
