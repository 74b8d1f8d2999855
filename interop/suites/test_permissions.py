"""What users may do: the same cases through every listener, and what a reload does to those who are there.

The rules are the defaults, so that they hold for the user of each listener alike: whoever logs in by a
password or a key, the user of a raw listener, and over plain CoAP the anonymous one. An administrator without rules
watches and provokes.
"""

import asyncio
import contextlib
import itertools
import signal

import pytest
import pytest_asyncio

from drivers.curl import Curl, fetch
from drivers.raw import RawTcp
from identities import PASSWORD, AsyncNats, WebSocketNats, hash_of, nats_py
from speakers import PUBLISH, READERS, RULES, SPEAKERS, SUBSCRIBE, listeners_of
from waymeet_node import Waymeet

NUMBERS = itertools.count()


def test_there_are_forty_cases():
    assert len(PUBLISH) + len(SUBSCRIBE) >= 40


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(pytestconfig):
    """A node with the rules, and with every listener."""
    node = Waymeet(pytestconfig.getoption("--binary"))
    hashed = await hash_of(node.binary, PASSWORD)
    psk, listeners = listeners_of(node.directory)
    await node.start(
        config=f"""
auth.anonymous = true
{RULES}
[[auth.users]]
name = "limited"
password_hash = "{hashed}"
{psk}
[[auth.users]]
name = "admin"
password_hash = "{hashed}"
publish = {{}}
subscribe = {{}}
{listeners}
"""
    )
    yield node
    assert await node.stop() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def admin(node):
    async with nats_py(node, user="admin", password=PASSWORD) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=SPEAKERS)
async def speaker(request, node):
    speaker = SPEAKERS[request.param]()
    await speaker.open(node)
    yield speaker
    await speaker.close()


@pytest.mark.parametrize("subject,expected", PUBLISH)
async def test_publish(admin, speaker, subject, expected):
    arrived = asyncio.Queue()

    async def on_message(message):
        arrived.put_nowait(message.subject)

    # One subscription, so that the client hands out what comes in the order in which it came.
    watching = await admin.subscribe(">", cb=on_message)
    await admin.flush(30)
    await speaker.publish(subject)
    # What is published after it arrives, so that nothing has to be waited for that does not come.
    await speaker.publish("marker")
    got = [await asyncio.wait_for(arrived.get(), 30)]
    # To its end, because a client may say that it has published what the node has not read yet: the next test would see it.
    while got[-1] != "marker":
        got.append(await asyncio.wait_for(arrived.get(), 30))
    await watching.unsubscribe()
    assert got == ([subject, "marker"] if expected else ["marker"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def beyond(node, pytestconfig):
    """Another node of the mesh, which has no rules, and somebody who receives there."""
    other = Waymeet(pytestconfig.getoption("--binary"))
    await other.start(flags={"--join": node.join})
    async with nats_py(other) as client:
        arrived = asyncio.Queue()

        async def on_message(message):
            # Not what the node says of who joins.
            if not message.subject.startswith("$SYS.PEER."):
                arrived.put_nowait(message.subject)

        await client.subscribe(">", cb=on_message)
        await client.flush(30)
        async with nats_py(node, user="admin", password=PASSWORD) as admin:
            while (await admin.request("$SYS.REQ.PEERS", b"")).data.find(other.peer_id.encode()) < 0:
                await asyncio.sleep(0.05)
        yield other.peer_id, arrived
    await other.stop()


@pytest.mark.parametrize("speaker", READERS, indirect=True, scope="module")
async def test_publish_to_one_node(admin, beyond, speaker):
    """`_PEER.<id>.<subject>` counts as the subject that it is delivered as, here and on another node."""
    peer, arrived = beyond
    # What other tests have published crosses too.
    barrier = f"barrier.{next(NUMBERS)}"
    await admin.publish(barrier, b"")
    while await asyncio.wait_for(arrived.get(), 30) != barrier:
        pass
    expected = []
    for subject, is_allowed in PUBLISH:
        await speaker.publish(f"_PEER.{peer}.{subject}")
        expected += [subject] if is_allowed else []
    await speaker.publish(f"_PEER.{peer}.marker")
    got = [await asyncio.wait_for(arrived.get(), 30)]
    while got[-1] != "marker":
        got.append(await asyncio.wait_for(arrived.get(), 30))
    assert got == [*expected, "marker"]


@pytest.mark.parametrize("speaker", READERS, indirect=True, scope="module")
@pytest.mark.parametrize("subject_filter,queue,subject,expected", SUBSCRIBE)
async def test_subscribe(admin, speaker, subject_filter, queue, subject, expected):
    arrived = asyncio.Queue()
    if queue == "good.x":
        # A member that has left may be in its group for a moment more.
        queue = f"good.{next(NUMBERS)}"
    taken = await speaker.subscribe(subject_filter, queue, arrived.put_nowait)
    try:
        await admin.publish(subject, b"x")
        await admin.publish("marker", b"x")
        await admin.flush(30)
        first = await asyncio.wait_for(arrived.get(), 30)
    finally:
        await speaker.unsubscribe(taken)
    assert (first == subject) == expected


async def test_nats_is_told_in_nats_servers_words(node):
    async with nats_py(node, user="limited", password=PASSWORD) as client:
        await client.publish("x.y", b"x")
        await client.subscribe("x.>")
        await client.subscribe("q.a", queue="bad")
        await client.flush(30)
        assert [word.removeprefix("nats: ").strip("'").lower() for word in client.said] == [
            'permissions violation for publish to "x.y"',
            'permissions violation for subscription to "x.>"',
            'permissions violation for subscription to "q.a" using queue "bad"',
        ]
        assert client.is_connected, "a violation does not end a session"


async def test_who_shows_nothing_is_anonymous(node, admin):
    """Although INFO says that credentials are asked for, or clients would keep theirs to themselves."""
    watching = await admin.subscribe("a.>")
    await admin.flush(30)
    async with nats_py(node) as client:
        await client.publish("a.secret", b"no")
        await client.publish("a.b", b"nats-py")
        await client.flush(30)
    for kind in (AsyncNats, WebSocketNats):
        client = kind({})
        await client.open(node)
        await client.publish("a.secret", b"no")
        await client.publish("a.b", kind.__name__.encode())
        await client.close()
    assert (await fetch(f"{node.http}/pub/a.b", body=b"curl")).status == 202
    assert (await fetch(f"{node.http}/pub/a.secret", body=b"no")).status == 403
    assert (await fetch(f"{node.http}/pub/a.b", "-u", "limited:wrong", body=b"no")).status == 401
    got = [(await watching.next_msg(30)).data for _ in range(4)]
    await watching.unsubscribe()
    assert got == [b"nats-py", b"AsyncNats", b"WebSocketNats", b"curl"]


async def test_denied_publishes_are_counted(node):
    async def count():
        metrics = (await fetch(f"{node.http}/metrics", "-u", f"admin:{PASSWORD}")).body.decode()
        line = 'waymeet_messages_rejected_total{listener="http",reason="no_permission"} '
        return int(metrics.split(line)[1].split("\n")[0])

    before = await count()
    refused = await fetch(f"{node.http}/pub/x.y", "-u", f"limited:{PASSWORD}", body=b"x")
    assert refused.status == 403
    assert await count() == before + 1
    page = await fetch(f"{node.http}/metrics", "-u", f"limited:{PASSWORD}")
    assert page.status == 403, "to see the node's metrics is to subscribe to $SYS.METRICS"


RESPONDER = """
[[auth.users]]
name = "responder"
password_hash = "{hash}"
publish = {{ allow = [], deny = ["forbidden.>"] }}
subscribe = {{ allow = ["work.*"] }}
allow_responses = {{ count = 2, expires = "1m" }}
[[auth.users]]
name = "admin"
password_hash = "{hash}"
"""


async def test_replies_are_permitted_so_often(binary, world):
    async with world.another(RESPONDER.format(hash=await hash_of(binary, PASSWORD))) as node:
        admin = nats_py(node, user="admin", password=PASSWORD)
        responder = nats_py(node, user="responder", password=PASSWORD)
        async with admin as admin, responder as responder:
            asked = await responder.subscribe("work.a")
            await responder.flush(30)
            heard = await admin.subscribe("reply.>")
            await admin.publish("work.a", b"x", reply="reply.1")
            await admin.publish("work.a", b"x", reply="forbidden.1")
            await admin.flush(30)
            for _ in range(2):
                await asked.next_msg(30)
            for number in range(3):
                await responder.publish("reply.1", str(number).encode())
            await responder.publish("reply.2", b"nobody asked")
            await responder.publish("forbidden.1", b"deny wins")
            await responder.flush(30)
            await admin.publish("reply.end", b"end")
            got = [(await heard.next_msg(30)).data for _ in range(3)]
            assert got == [b"0", b"1", b"end"]
            assert len(responder.said) == 3
            # A reader of events answers with another request, as the same user.
            events = Curl()
            await events.open(node)
            stream = await events.subscribe_path("/sub/work.b", "-u", f"responder:{PASSWORD}")
            request = asyncio.create_task(admin.request("work.b", b"?", timeout=30))
            asked = await stream.next()
            answer = await fetch(f"{node.http}/pub/{asked.reply}", "-u", f"responder:{PASSWORD}", body=b"!")
            assert answer.status == 202
            assert (await request).data == b"!"
            await events.close()


BEFORE = """
[[auth.users]]
name = "stays"
password_hash = "{hash}"
[[auth.users]]
name = "leaves"
password_hash = "{hash}"
[[auth.users]]
name = "admin"
password_hash = "{hash}"
"""
AFTER = """
[listeners.http]
allowed_origins = ["http://page.example"]
[[auth.users]]
name = "stays"
password_hash = "{hash}"
publish = {{ allow = ["kept.>"] }}
subscribe = {{ allow = ["kept.>"] }}
[[auth.users]]
name = "admin"
password_hash = "{hash}"
"""


@pytest.mark.parametrize("how", ["signal", "command"])
async def test_a_reload_reaches_those_who_are_there(binary, world, how):
    from drivers.process import run

    hashed = await hash_of(binary, PASSWORD)
    async with world.another(BEFORE.format(hash=hashed)) as node:
        stack = contextlib.AsyncExitStack()
        async with stack:
            enter = stack.enter_async_context
            stays = await enter(nats_py(node, user="stays", password=PASSWORD))
            leaves = await RawTcp.open(node.nats)
            await leaves.until(b"\r\n")
            await leaves.send(
                f'CONNECT {{"user":"leaves","pass":"{PASSWORD}","verbose":false}}\r\nPING\r\n'.encode()
            )
            await leaves.until(b"PONG\r\n")
            admin = await enter(nats_py(node, user="admin", password=PASSWORD))
            kept, lost = await stays.subscribe("kept.a"), await stays.subscribe("lost.a")
            await stays.flush(30)
            events = Curl()
            await events.open(node)
            stack.push_async_callback(events.close)
            stream = await events.subscribe_path("/sub/lost.a", "-u", f"stays:{PASSWORD}")
            (node.directory / "waymeet.toml").write_text(AFTER.format(hash=hashed))
            if how == "signal":
                node.process.send_signal(signal.SIGHUP)
            else:
                code, _, err = await run(binary, "reload", "--data-dir", str(node.directory / "data"))
                assert code == 0, err
            await node.says("the configuration was reloaded")
            ended = await stream.next()
            assert (ended.subject, ended.payload) == ("event:end", b'{"reason":"no_permission"}')
            await admin.publish("lost.a", b"x")
            await admin.publish("kept.a", b"x")
            await admin.flush(30)
            assert (await kept.next_msg(30)).data == b"x"
            assert lost.pending_msgs == 0
            await stays.publish("lost.b", b"x")
            await stays.flush(30)
            said = [word.lower() for word in stays.said]
            assert any('permissions violation for subscription to "lost.a"' in word for word in said), said
            assert any('permissions violation for publish to "lost.b"' in word for word in said), said
            assert await leaves.rest() == b"-ERR 'Authorization Violation'\r\n"
            allowed = await fetch(
                f"{node.http}/pub/kept.b",
                "-u",
                f"stays:{PASSWORD}",
                "-H",
                "Origin: http://page.example",
                body=b"x",
            )
            assert allowed.status == 202
            assert (await fetch(f"{node.http}/pub/a", "-u", f"leaves:{PASSWORD}", body=b"x")).status == 401


LIMITS = """
[limits.auth]
max_failures_per_minute = 3
[[auth.users]]
name = "busy"
password_hash = "{hash}"
limits = {{ messages_per_second = 5, max_connections = 2 }}
[[auth.users]]
name = "admin"
password_hash = "{hash}"
"""


async def test_users_have_limits(binary, world):
    async with world.another(LIMITS.format(hash=await hash_of(binary, PASSWORD))) as node:
        statuses = [
            (await fetch(f"{node.http}/pub/a", *["-u", f"busy:{PASSWORD}"], body=b"x")) for _ in range(3)
        ]
        assert [one.status for one in statuses] == [202] * 3
        async with nats_py(node, user="busy", password=PASSWORD) as client:
            for _ in range(200):
                await client.publish("a", b"x")
            await client.flush(30)
            assert any(word.strip("'").endswith(": rate_limited") for word in client.said), client.said
            assert client.is_connected
            refused = await fetch(f"{node.http}/pub/a", "-u", f"busy:{PASSWORD}", body=b"x")
            assert refused.status in (202, 429)
            if refused.status == 429:
                assert refused.json()["reason"] == "rate_limited" and refused.header("Retry-After") == "1"
            async with nats_py(node, user="busy", password=PASSWORD):
                connection = await RawTcp.open(node.nats)
                await connection.until(b"\r\n")
                login = f'CONNECT {{"user":"busy","pass":"{PASSWORD}","verbose":false}}\r\n'
                await connection.send(login.encode())
                assert await connection.rest() == b"-ERR 'maximum connections exceeded'\r\n"
                stream = await fetch(f"{node.http}/sub/a", "-u", f"busy:{PASSWORD}")
                assert stream.status == 429
        for number in range(3):
            assert (await fetch(f"{node.http}/pub/a", "-u", f"admin:{number}", body=b"x")).status == 401
        locked = await fetch(f"{node.http}/pub/a", "-u", "admin:wrong", body=b"x")
        assert locked.status == 429 and locked.header("Retry-After") == "60"
        assert (await fetch(f"{node.http}/pub/a", "-u", f"busy:{PASSWORD}", body=b"x")).status in (202, 429)
