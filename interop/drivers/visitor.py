"""A person with a browser: real Chromium, driven through playwright-core by `js/visitor.mjs`.

Owns the conversation with that program. It must not know a page.
"""

import itertools

from .agent import JS, Agent
from .process import Child

# Longer than the program's own patience, which says what it waited for. One operation may wait two times.
PATIENCE_S = 150.0


class Visitor(Agent):
    """A person with a browser of their own."""

    name = "visitor"

    async def open(self, node=None):
        self._ids, self._waiting, self._subscriptions, self._said = itertools.count(1), {}, {}, []
        self.child = await Child.start("node", str(JS / "visitor.mjs"), stdin=True)
        self.child.on_line(self.child.process.stdout, self._on_line, self._on_end)
        self.child.on_line(self.child.process.stderr, self._said.append)
        return self

    async def does(self, op, **fields):
        """One of the program's operations."""
        return await self._call(op, patience_s=PATIENCE_S, **fields)

    async def evaluates(self, expression):
        """What an expression says in the page."""
        return (await self.does("evaluate", expression=expression))["value"]
