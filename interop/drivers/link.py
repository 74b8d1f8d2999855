"""Members of the mesh that are no nodes: clients of the link protocol, written from docs/link-protocol.md.

Owns how each is started. They speak JSON lines as the agents do; `link/` is the one on py-libp2p, `js/link*.mjs` the
one on js-libp2p.
"""

import asyncio
import base64
import json

from . import PATIENCE_S
from .agent import HERE, JS, TARGET, Agent

PAGE = HERE.parent / "docs" / "link-protocol.md"
# libp2p takes seconds to load on a busy machine.
START_PATIENCE_S = 60


class LinkClient(Agent):
    """The shared end. `secret` is the mesh secret's bytes, as they stand in its file."""

    def __init__(self, secret=b"", transport="tcp"):
        self.identity = {"secret": base64.b64encode(secret).decode()}
        self.transport = transport
        # Why the link ended, once it has.
        self.ended = asyncio.get_running_loop().create_future()

    def url(self, node):
        return f"{getattr(node, self.transport)}/p2p/{node.peer_id}"

    async def open(self, node):
        """Links to `node`. When the node refuses, the error says with which words."""
        await super().open(node)

    async def _call(self, op, check=True, patience_s=PATIENCE_S, **fields):
        if op == "connect":
            patience_s = START_PATIENCE_S
        answer = await super()._call(op, check, patience_s, **fields)
        if op == "connect":
            self.peer_id = answer["peer_id"]
        return answer

    def _on_line(self, line):
        event = json.loads(line)
        if "ended" in event:
            if not self.ended.done():
                self.ended.set_result(event["ended"])
        else:
            super()._on_line(line)

    async def leave(self):
        """Says good-bye, and returns when the node has ended the link."""
        await self._call("leave")

    async def nodes(self):
        """What the client has learned: the interest of each node, by its id."""
        return (await self._call("nodes"))["nodes"]


class PyLink(LinkClient):
    """On py-libp2p, in a process of its own, because py-libp2p wants trio. It can also attack."""

    name = "py-libp2p"

    def command(self, node):
        return [str(TARGET / "venv-link" / "bin" / "python"), str(HERE / "link" / "agent.py")]

    async def attack(self, how, patience_s=START_PATIENCE_S, **fields):
        """Does something that no honest member does; returns what the agent says of it."""
        return await self._call(how, check=False, patience_s=patience_s, **fields)


class JsLink(LinkClient):
    """On js-libp2p, in Node.js."""

    name = "js-libp2p"

    def command(self, node):
        return ["node", str(JS / "link.mjs"), str(PAGE)]


LINK_CLIENTS = {client.name: client for client in (PyLink, JsLink)}
