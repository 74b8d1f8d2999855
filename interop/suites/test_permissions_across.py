"""What users may do across a link: the same cases, with the limited user on one node and the world on another.

Its own node decides, in both directions: what it may publish goes no further than that node if it is denied, and what
the mesh brings is delivered to it only as far as it may receive it. The node beyond knows nothing of its rules.
"""

import asyncio
import itertools
import re

import pytest
import pytest_asyncio
from identities import PASSWORD, hash_of, nats_py
from mesh import PATIENCE_S, STEP_S
from speakers import PUBLISH, READERS, RULES, SPEAKERS, SUBSCRIBE, listeners_of
from waymeet_node import Waymeet

NUMBERS = itertools.count()
# What the suite asks with, and the inboxes in which a client is told that it was heard.
NO_CASE = re.compile(r"known\.|_INBOX\.\w{20}")
ADMIN = {"user": "admin", "password": PASSWORD}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nodes(pytestconfig):
    """The limited user's node, and one that is joined to it and has no rules for anybody."""
    here, there = Waymeet(pytestconfig.getoption("--binary")), Waymeet(pytestconfig.getoption("--binary"))
    hashed = await hash_of(here.binary, PASSWORD)
    admin = f'[[auth.users]]\nname = "admin"\npassword_hash = "{hashed}"\npublish = {{}}\nsubscribe = {{}}\n'
    psk, listeners = listeners_of(here.directory)
    limited = f'[[auth.users]]\nname = "limited"\npassword_hash = "{hashed}"\n{psk}'
    await here.start(config=f"auth.anonymous = true\n{RULES}{limited}{admin}{listeners}")
    await there.start(config=admin, flags={"--join": [here.join]})
    yield here, there
    for node in (there, here):
        assert await node.stop() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def near(nodes):
    async with nats_py(nodes[0], **ADMIN) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def far(nodes):
    # What it publishes itself is not what arrives.
    async with nats_py(nodes[1], no_echo=True, **ADMIN) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=SPEAKERS)
async def speaker(request, nodes):
    speaker = SPEAKERS[request.param]()
    await speaker.open(nodes[0])
    yield speaker
    await speaker.close()


async def known(subscriber, publisher):
    """Returns once the publisher's node knows every subscription that the subscriber's has: interest is told in order,
    so that what reaches a later one says that the earlier ones are known."""
    subject = f"known.{next(NUMBERS)}"
    later = await subscriber.subscribe(subject)
    await subscriber.flush(30)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not later.pending_msgs:
        assert asyncio.get_running_loop().time() < deadline, "the link does not bring anything"
        await publisher.publish(subject, b"")
        await publisher.flush(30)
        await asyncio.sleep(STEP_S)
    await later.unsubscribe()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def beyond(near, far):
    """What arrives on the node beyond, in order."""
    arrived = asyncio.Queue()

    async def on_message(message):
        if not NO_CASE.match(message.subject):
            arrived.put_nowait(message.subject)

    await far.subscribe(">", cb=on_message)
    await known(far, near)
    return arrived


@pytest.mark.parametrize("subject,expected", PUBLISH)
async def test_publish(beyond, speaker, subject, expected):
    await speaker.publish(subject)
    await speaker.publish("marker")
    first = await asyncio.wait_for(beyond.get(), 30)
    assert (first == subject) == expected
    if expected:
        assert await asyncio.wait_for(beyond.get(), 30) == "marker"


@pytest.mark.parametrize("speaker", READERS, indirect=True, scope="module")
@pytest.mark.parametrize("subject_filter,queue,subject,expected", SUBSCRIBE)
async def test_subscribe(near, far, speaker, subject_filter, queue, subject, expected):
    arrived = asyncio.Queue()
    if queue == "good.x":
        queue = f"good.{next(NUMBERS)}"
    taken = await speaker.subscribe(subject_filter, queue, arrived.put_nowait)
    try:
        await known(near, far)
        await far.publish(subject, b"x")
        await far.publish("marker", b"x")
        await far.flush(30)
        first = await asyncio.wait_for(arrived.get(), 30)
    finally:
        await speaker.unsubscribe(taken)
    assert (first == subject) == expected
