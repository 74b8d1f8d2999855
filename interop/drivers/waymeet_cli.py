"""The node's own client verbs: `waymeet pub`, `sub` and `req`.

Owns their command lines. They are the only clients here that the project wrote.
"""

import asyncio
import os

from . import PATIENCE_S, Driver, Outcome, Subscription
from .process import Child, run


class WaymeetCli(Driver):
    name = "waymeet"

    async def open(self, node):
        self.binary = node.binary
        self.server = node.nats
        self._children = []

    async def close(self):
        await asyncio.gather(*(child.stop() for child in self._children))

    async def publish(self, subject, payload, headers=None):
        code, _, err = await run(self.binary, "pub", "--server", self.server, subject, "-", stdin=payload)
        assert code == 0, f"waymeet pub ended with {code}: {err!r}"

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        timeout = f"{int(timeout_s * 1000)}ms"
        argv = [self.binary, "req", "--server", self.server, "--timeout", timeout, subject, "-"]
        code, out, err = await run(*argv, stdin=payload, patience_s=timeout_s + PATIENCE_S)
        if code == 0:
            return Outcome("reply", out)
        text = err.decode(errors="replace").lower()
        kind = "no_responders" if "no responders" in text else "timeout" if "tim" in text else "error"
        return Outcome(kind, detail=text)

    async def subscribe(self, subject_filter, queue=None):
        raise NotImplementedError
