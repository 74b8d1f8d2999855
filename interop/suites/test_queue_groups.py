"""A queue group may span protocols: each message reaches exactly one member."""

import asyncio

import pytest

MEMBERS = ["nats-py", "async-nats", "ws-node", "curl-post-sse", "curl-put-ndjson", "aiocoap-con", "waymeet"]
MESSAGES = 140


@pytest.mark.parametrize("sender", ["nats-py", "curl-post-sse"])
async def test_each_message_reaches_one_member(world, subject, sender):
    members = [await (await world.client(kind)).subscribe(subject, queue="workers") for kind in MEMBERS]
    witness = await (await world.client("nats-py")).subscribe(subject)
    sending = await world.client(sender)
    count = MESSAGES if sender == "nats-py" else 40
    arrived = asyncio.Queue()

    async def collect(index, subscription):
        while True:
            await arrived.put((index, (await subscription.next(30)).payload))

    collectors = [asyncio.create_task(collect(i, m)) for i, m in enumerate(members)]
    for number in range(count):
        await sending.publish(subject, str(number).encode())
    seen = [await asyncio.wait_for(arrived.get(), 30) for _ in range(count)]
    # A plain subscriber beside the group gets all of them; then nothing can still be on its way twice.
    for _ in range(count):
        await witness.next()
    await sending.publish(subject, b"last")
    seen.append(await asyncio.wait_for(arrived.get(), 30))
    for collector in collectors:
        collector.cancel()
    assert sorted(p for _, p in seen) == sorted([str(n).encode() for n in range(count)] + [b"last"])
    if sender == "nats-py":
        # With 20 messages a member on average, one that gets none is left out.
        assert {index for index, _ in seen} == set(range(len(MEMBERS)))


async def test_different_groups_each_get_the_message(world, subject):
    first = await (await world.client("nats-py")).subscribe(subject, queue="a")
    second = await (await world.client("curl-post-sse")).subscribe(subject, queue="b")
    await (await world.client("aiocoap-con")).publish(subject, b"1")
    assert (await first.next()).payload == b"1"
    assert (await second.next()).payload == b"1"


async def test_a_request_reaches_one_member(world, subject):
    nats, web = await world.client("nats-py"), await world.client("curl-post-sse")
    members = [await nats.subscribe(subject, queue="g"), await web.subscribe(subject, queue="g")]
    outcome = asyncio.create_task((await world.client("ws-node")).request(subject, b"?"))
    getting = [asyncio.create_task(member.next()) for member in members]
    done, waiting = await asyncio.wait(getting, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    await nats.publish(done.pop().result().reply, b"!")
    assert (await outcome).payload == b"!"
    for task in waiting:
        task.cancel()
    assert all(member.deliveries.empty() for member in members)
