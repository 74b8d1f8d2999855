"""Every requester kind is answered by every responder kind with every body (issue 2, "To be shown" 2).

A responder sends the body back reversed, which proves that it had all of it.
"""

import pytest

from bodies import BODIES
from drivers import reverse
from services import UPSTREAMS


async def CONFIG(services):
    """The upstream services answer without having been changed for it."""
    blocks = []
    for name in UPSTREAMS:
        url = await services.start(name)
        blocks.append(f'[[http.upstream]]\nsubject = "matrix.{name}.>"\nurl = "{url}reverse/"\n')
    return "\n".join(blocks)


@pytest.mark.parametrize("body", BODIES)
async def test_request(world, responder, requester, body):
    if responder not in UPSTREAMS:
        serving = await world.client(responder)
        await world.once(("serving", responder), lambda: serving.serve(f"matrix.{responder}.>", reverse))
    asking = await world.client(requester)
    outcome = await asking.request(f"matrix.{responder}.{requester}.{body}", BODIES[body])
    assert (outcome.kind, outcome.status) in [("reply", None), ("reply", "200"), ("reply", "2.05")], outcome
    assert outcome.payload == BODIES[body][::-1]
