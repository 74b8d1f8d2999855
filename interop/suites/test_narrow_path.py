"""Datagrams that are longer than the path takes.

Each test runs once more in a network of its own, whose loopback carries 1,500 bytes at a time as Ethernet does.
"""

import asyncio
import os
import socket
import sys

import pytest

from drivers import PATIENCE_S
from drivers.process import run

INSIDE = "INTEROP_NARROW_PATH"
NARROW = 'ip link set lo up mtu 1500 && exec "$@"'
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


async def is_narrow(request):
    """Whether this is inside; otherwise the test is run there, and what it says is passed on."""
    if INSIDE in os.environ:
        return True
    code, _, _ = await run("unshare", "--net", "sh", "-c", NARROW, "sh", "true")
    if code != 0:
        pytest.skip("this user may not make a network")
    options = ["--binary", request.config.getoption("--binary"), "-p", "no:cacheprovider"]
    again = [sys.executable, "-m", "pytest", *options, f"{__file__}::{request.node.name}"]
    environment = {**os.environ, INSIDE: "1"}
    inside = ["unshare", "--net", "sh", "-c", NARROW, "sh", *again]
    code, out, _ = await run(*inside, patience_s=60, env=environment)
    assert code == 0, out.decode()
    assert b"1 passed" in out, out.decode()
    return False


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
async def test_a_long_reply_arrives_in_fragments(request, world, family):
    if not await is_narrow(request):
        return
    _, link, _ = await run("ip", "link", "show", "lo")
    assert b" mtu 1500 " in link
    client = await world.client("nats-py")
    await client.serve("legacy.datagrams", lambda received: (received.payload * 3, None))
    host, port = world.node.raw_datagrams[family]
    kind = socket.AF_INET6 if family else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)
        loop, question = asyncio.get_running_loop(), bytes(range(256)) * 80
        await loop.sock_sendto(asker, question, (host.strip("[]"), int(port)))
        assert await asyncio.wait_for(loop.sock_recv(asker, 65_535), PATIENCE_S) == question * 3
