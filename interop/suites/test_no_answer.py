"""Requests that nobody answers: no responders at once, silence after the time-out (sections 6 and 7)."""

import asyncio
import time

import pytest

from drivers import PATIENCE_S
from drivers.coap_aiocoap import code_text
from drivers.curl import fetch

STATUS = {
    "curl": {"no_responders": "503", "timeout": "504"},
    "coap": {"no_responders": "5.03", "timeout": "5.04"},
}


def expected_status(requester, kind):
    return next((codes[kind] for name, codes in STATUS.items() if name in requester), None)


async def test_no_responders_is_told_at_once(world, requester, subject):
    client = await world.client(requester)
    started = time.monotonic()
    outcome = await client.request(subject, b"?", timeout_s=PATIENCE_S)
    assert outcome.kind == "no_responders", outcome
    assert time.monotonic() - started < PATIENCE_S, "no responders is not found out by waiting"
    if status := expected_status(requester, "no_responders"):
        assert outcome.status == status


async def test_silence_ends_with_the_time_out(world, requester, subject):
    silent = await (await world.client("nats-py")).subscribe(subject)
    outcome = await (await world.client(requester)).request(subject, b"?", timeout_s=0.4)
    assert outcome.kind == "timeout", outcome
    if status := expected_status(requester, "timeout"):
        assert outcome.status == status
    assert (await silent.next()).payload == b"?"
    await silent.close()


async def test_a_responder_that_left_is_no_responder(world, requester, subject):
    subscription = await (await world.client("nats-py")).subscribe(subject)
    await subscription.close()
    outcome = await (await world.client(requester)).request(subject, b"?", timeout_s=PATIENCE_S)
    assert outcome.kind == "no_responders", outcome


async def test_a_slow_reply_is_a_separate_response(world, subject):
    """RFC 7252, section 5.2.2: the acknowledgement comes first, or the client would retransmit."""
    subscription = await (await world.client("nats-py")).subscribe(subject)
    asking = asyncio.create_task((await world.client("aiocoap-con")).request(subject, b"?", timeout_s=PATIENCE_S))
    request = await subscription.next()
    # Longer than ACK_TIMEOUT and its random factor, after which aiocoap sends the request again.
    await asyncio.sleep(3.2)
    await (await world.client("nats-py")).publish(request.reply, b"late")
    assert (await asking).payload == b"late"
    assert subscription.deliveries.empty(), "the request came once"


async def test_get_is_a_request_too(world, subject):
    await (await world.client("nats-py")).serve(subject, lambda r: (b"pong" + r.payload, None))
    response = await fetch(f"{world.node.http}/req/{subject}")
    assert (response.status, response.body) == (200, b"pong")
    answer = await (await world.client("aiocoap-con")).send(1, f"/req/{subject}")
    assert (code_text(answer.code), answer.payload) == ("2.05", b"pong")


@pytest.mark.parametrize(
    "timeout,status", [("2", 400), ("6m", 400), ("-1s", 400), ("5m", 503), ("1500ms", 503)]
)
async def test_time_outs_have_units_and_a_limit(world, subject, timeout, status):
    response = await fetch(f"{world.node.http}/req/{subject}?timeout={timeout}")
    assert response.status == status
