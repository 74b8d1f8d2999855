"""Every publisher kind reaches every subscriber kind with every body (issue 2, "To be shown" 2)."""

import pytest

from bodies import BODIES


@pytest.mark.parametrize("body", BODIES)
async def test_publish(world, subscriber, publisher, body):
    receiving = await world.client(subscriber)
    subscription = await world.once(
        ("subscription", subscriber), lambda: receiving.subscribe(f"matrix.{subscriber}.>")
    )
    sending = await world.client(publisher)
    subject = f"matrix.{subscriber}.{publisher}.{body}"
    await sending.publish(subject, BODIES[body])
    received = await subscription.next_on(subject, BODIES[body])
    assert received.payload == BODIES[body]
    assert received.reply is None
