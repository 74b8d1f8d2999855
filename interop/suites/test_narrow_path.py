"""Datagrams that are longer than the path takes, on a loopback that carries 1,500 bytes at a time as Ethernet does."""

import asyncio
import socket

import pytest

from conftest import World
from drivers import PATIENCE_S
from waymeet_node import Waymeet

CONFIG = """
[[listeners.datagrams]]
address = "127.0.0.1:0"
subject = "legacy.datagrams"
mode = "request"
[[listeners.datagrams]]
address = "[::1]:0"
subject = "legacy.datagrams"
mode = "request"
"""


@pytest.fixture
async def narrow(network, binary):
    """A node on a host whose loopback is narrow, and that host."""
    host = await network.host("narrow")
    await host.ip("link", "set", "lo", "mtu", "1500")
    assert " mtu 1500 " in await host.ip("link", "show", "lo")
    node = Waymeet(binary, within=host)
    await node.start(config=CONFIG)
    yield node
    await node.stop()


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
async def test_a_long_reply_arrives_in_fragments(narrow, family):
    client = await World(narrow).client("nats-py")
    await client.serve("legacy.datagrams", lambda received: (received.payload * 3, None))
    host, port = narrow.raw_datagrams[family]
    kind = socket.AF_INET6 if family else socket.AF_INET
    with narrow.within.socket(kind, socket.SOCK_DGRAM) as asker:
        loop, question = asyncio.get_running_loop(), bytes(range(256)) * 80
        await loop.sock_sendto(asker, question, (host.strip("[]"), int(port)))
        assert await asyncio.wait_for(loop.sock_recv(asker, 65_535), PATIENCE_S) == question * 3
    await client.stop_serving()
    await client.close()
