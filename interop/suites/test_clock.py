"""The clock of the machine is set while a node runs: ten years ahead, ten years back, and right again.

What has begun goes on, what waits ends when its time is up and no sooner, and who was let in stays in: nothing but
the lives of certificates may hang on the wall clock.
"""

import asyncio
import glob
import json
import signal

import pytest_asyncio

from absent import absent
from drivers.curl import fetch
from identities import PASSWORD, hash_of, nats_py
from mesh import PATIENCE_S, Mesh, peers

# Debian's multiarch folder differs from machine to machine.
LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
STEPS = {"ahead": "+3650d", "back": "-3650d", "right": "+0"}
ASK_S = 1.5


@pytest_asyncio.fixture
async def mesh(pytestconfig, tmp_path):
    """Two linked nodes, the first of which takes its time from the file `mesh.clock`."""
    if "faketime" in pytestconfig.getoption("--without"):
        absent("faketime")
    binary = pytestconfig.getoption("--binary")
    mesh = Mesh(binary)
    mesh.clock = tmp_path / "clock"
    mesh.clock.write_text(STEPS["right"])
    users = f'[[auth.users]]\nname = "ada"\npassword_hash = "{await hash_of(binary, PASSWORD)}"\n'
    environment = {
        "LD_PRELOAD": glob.glob(LIBRARY)[0],
        "FAKETIME_TIMESTAMP_FILE": str(mesh.clock),
        "FAKETIME_NO_CACHE": "1",
        # A clock that is set does not move this one, and nothing of the file system.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    await mesh.add(config=users, environment=environment)
    await mesh.add([0])
    yield mesh
    await mesh.stop()


async def linked(node, other):
    """Waits until the node reaches the other, and says how."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        answer = json.loads((await fetch(f"{node.http}/peers", "-u", f"ada:{PASSWORD}")).body)
        if answer["peers"]:
            return answer["peers"][0]
        assert asyncio.get_running_loop().time() < deadline, node.log
        await asyncio.sleep(0.05)


async def year(node):
    """Of the node's wall clock, as it stands in its log."""
    said, already = "the configuration was reloaded", node.log.count("the configuration was reloaded")
    node.process.send_signal(signal.SIGHUP)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while node.log.count(said) == already:
        assert asyncio.get_running_loop().time() < deadline, node.log
        await asyncio.sleep(0.02)
    line = [line for line in node.lines if said in line][-1]
    return int(json.loads(line)["timestamp"][:4])


async def test_a_clock_that_is_set_ends_nothing(mesh):
    node, far = mesh.nodes
    await linked(node, far)
    credentials = {"user": "ada", "password": PASSWORD}
    body = json.dumps(credentials).encode()
    login = await fetch(f"{node.http}/login", "-H", "Content-Type: application/json", body=body)
    cookie = login.header("Set-Cookie").split(";")[0]
    this_year = await year(node)
    async with nats_py(node, **credentials) as client, nats_py(far) as beyond:
        heard, deaf = await client.subscribe("clock.*"), await client.subscribe("deaf")
        await client.flush()
        while not heard.pending_msgs:
            await beyond.publish("clock.known", b"")
            await beyond.flush()
            await asyncio.sleep(0.05)
        for step, offset in STEPS.items():
            while heard.pending_msgs:
                await heard.next_msg()
            # Nobody answers, and the clock is set while somebody waits.
            url = f"{node.http}/req/deaf?timeout={int(ASK_S * 1000)}ms"
            asked, begun = asyncio.create_task(fetch(url, "-b", cookie)), asyncio.get_running_loop().time()
            await deaf.next_msg(PATIENCE_S)
            mesh.clock.write_text(offset)
            assert round((await year(node) - this_year) / 10) == {"ahead": 1, "back": -1, "right": 0}[step]
            assert (await asked).status == 504, step
            assert asyncio.get_running_loop().time() - begun >= ASK_S, step
            await beyond.publish(f"clock.{step}", b"")
            assert (await heard.next_msg(PATIENCE_S)).subject == f"clock.{step}", "over the link and the session"
            assert (await fetch(f"{node.http}/pub/clock.{step}", "-b", cookie, body=b"x")).status == 202
            async with nats_py(node, **credentials) as newcomer:
                await newcomer.publish(f"clock.{step}", b"")
            [await heard.next_msg(PATIENCE_S) for _ in range(2)]
        assert not client.said and client.is_connected
    assert (await peers(far))["peers"], far.log
    assert far.log.count('"joined"') == 1 and '"left"' not in far.log, far.log
