"""Several nodes as one mesh: starting them in a shape, and waiting until they agree.

Owns the shapes and the waiting. It must not know a suite.
"""

import asyncio
import json
import urllib.request

from waymeet_node import Waymeet

# How long a mesh may take to agree on a busy machine of two cores. Only a test that fails waits for all of it.
PATIENCE_S = 30.0
STEP_S = 0.05

# For each node the earlier ones that it joins.
SHAPES = {
    "pair": [[], [0]],
    "line3": [[], [0], [1]],
    "line5": [[], [0], [1], [2], [3]],
    "star5": [[], [0], [0], [0], [0]],
    "ring5": [[], [0], [1], [2], [3, 0]],
    "full5": [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]],
}


async def known(near, far, marker):
    """Waits until the node of the client `near` knows what the client `far` has subscribed to so far. A node tells what it
    wants in order: when a message reaches a later subscription, here to `marker`, the earlier ones are known."""
    later = await far.subscribe(marker)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while later.deliveries.empty():
        assert asyncio.get_running_loop().time() < deadline, "it is not known what is wanted"
        await near.publish(marker, b"")
        await asyncio.sleep(STEP_S)
    await later.close()


class Mesh:
    """Nodes in one of the shapes. Every two nodes that the shape does not link block each other, so that it stays."""

    def __init__(self, binary):
        self.binary = binary
        self.nodes = []
        self._markers = 0

    async def start(self, shape, transport="tcp", config=None, flags=None):
        """Starts the nodes one after the other and waits until all know all."""
        self.edges = {(i, j) for i, joins in enumerate(SHAPES[shape]) for j in joins}
        for number, joins in enumerate(SHAPES[shape]):
            await self.add(joins, transport, config=config, flags=flags)
        await self.converged()
        return self

    async def add(self, joins=(), transport="tcp", block=None, config=None, flags=None, environment=None):
        """Starts one more node that joins earlier ones, and returns it."""
        node = Waymeet(self.binary)
        if block is None:
            strangers = [other for j, other in enumerate(self.nodes) if j not in joins]
            block = [other.peer_id for other in strangers]
        lines = ["[mesh]", f"block = {json.dumps(block)}"]
        if transport == "ws":
            lines.append("websocket = '127.0.0.1:0'")
        flags = {"--name": f"n{len(self.nodes)}", **(flags or {})}
        if joins:
            flags["--join"] = [getattr(self.nodes[j], transport) for j in joins]
        self.nodes.append(node)
        await node.start(config="\n".join([*lines, config or ""]), flags=flags, env=environment)
        return node

    async def join(self, host, *addresses, flags=None, mesh="0.0.0.0:4224", environment=None):
        """Starts one more node, on a host of a network, that joins these addresses."""
        node = Waymeet(self.binary, within=host)
        flags = {"--name": host.name, "--mesh": mesh, "--join": list(addresses), **(flags or {})}
        self.nodes.append(node)
        await node.start(flags=flags, env=environment)
        return node

    async def converged(self, alive=None, patience_s=PATIENCE_S):
        """Waits until each of the nodes (by number; all of them by default) reaches exactly the others."""
        alive = range(len(self.nodes)) if alive is None else alive
        ids = {self.nodes[i].peer_id for i in alive}

        def agree(all_peers):
            return all({p["id"] for p in peers} == ids - {node} for node, peers in all_peers.items())

        await self.until(agree, alive, patience_s)

    async def wanted(self, number, interests, alive=None):
        """Waits until every other node knows that node `number` wants so many filters and groups."""
        wanting = self.nodes[number].peer_id

        def know(all_peers):
            seen = [p["interests"] for peers in all_peers.values() for p in peers if p["id"] == wanting]
            return len(seen) == len(all_peers) - 1 and all(count == interests for count in seen)

        await self.until(know, alive)

    async def known(self, near, far):
        """As `known`, with a subject of its own."""
        self._markers += 1
        await known(near, far, f"known.{self._markers}")

    async def until(self, holds, alive=None, patience_s=PATIENCE_S):
        """Polls `/peers` of the nodes until `holds({id: peers})`."""
        alive = list(range(len(self.nodes)) if alive is None else alive)
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            answers = await asyncio.gather(*(peers(self.nodes[i]) for i in alive))
            all_peers = {answer["id"]: answer["peers"] for answer in answers}
            if holds(all_peers):
                return all_peers
            if asyncio.get_running_loop().time() > deadline:
                logs = "\n\n".join(self.nodes[i].log for i in alive)
                raise AssertionError(f"the nodes do not agree:\n{json.dumps(all_peers, indent=1)}\n{logs}")
            await asyncio.sleep(STEP_S)

    async def stop(self):
        """Ends every node."""
        await asyncio.gather(*(node.stop() for node in self.nodes if node.child))


async def peers(node):
    """What the node answers at `/peers`."""
    return await asyncio.to_thread(_get, f"{node.http}/peers")


def _get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
        return json.load(response)
