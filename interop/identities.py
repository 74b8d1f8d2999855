"""Users for the suites, and the official clients that log in as them.

Owns the credentials, and how each client is told them. It must not know what a user may do.
"""

import asyncio
import contextlib

from drivers.agent import JS, TARGET, Agent
from drivers.nats_py import connected
from drivers.process import run

# Known to everybody, and good for nothing else.
PASSWORD = "correct horse: battery"
TOKEN = "robot:a-token-of-its-own"
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
NKEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
OTHER_SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"


async def hash_of(binary, secret):
    """What `waymeet auth hash` prints for a secret."""
    code, out, err = await run(binary, "auth", "hash", stdin=secret.encode() + b"\n")
    assert code == 0, err
    return out.decode().strip()


@contextlib.asynccontextmanager
async def nats_py(node, **identity):
    """nats-py, logged in. What the server says against it is in `client.said`."""
    said = []

    async def on_error(error):
        said.append(str(error))

    client = await connected(node.nats, error_cb=on_error, **identity)
    client.said = said
    try:
        yield client
    finally:
        await client.close()


class AsyncNats(Agent):
    """async-nats, as somebody."""

    def __init__(self, identity):
        self.identity = identity

    def command(self, node):
        return [str(TARGET / "async-nats-agent")]

    def url(self, node):
        return node.nats


class WebSocketNats(Agent):
    """The official JavaScript client over WebSocket, as somebody."""

    def __init__(self, identity):
        self.identity = identity

    def command(self, node):
        return ["node", str(JS / "ws_node.mjs")]

    def url(self, node):
        return node.websocket


async def quiet(awaitable):
    """Whether it succeeds."""
    try:
        await asyncio.wait_for(awaitable, 30)
    except Exception:  # noqa: BLE001 whatever a client throws when it is not let in
        return False
    return True
