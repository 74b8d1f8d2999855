"""The node's own client verbs: `waymeet pub`, `sub` and `req`.

Owns their command lines. They are the only clients here that the project wrote.
"""

import asyncio

from . import PATIENCE_S, Driver, Outcome, Subscription, envelope
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
        code, _, err = await run(*self._argv("pub", headers), subject, "-", stdin=payload)
        assert code == 0, f"waymeet pub ended with {code}: {err!r}"

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        timeout = f"{int(timeout_s * 1000)}ms"
        argv = [*self._argv("req", headers), "--timeout", timeout, subject, "-"]
        code, out, err = await run(*argv, stdin=payload, patience_s=timeout_s + PATIENCE_S)
        if code == 0:
            return Outcome("reply", out)
        text = err.decode(errors="replace").lower()
        kind = "no_responders" if "no responders" in text else "timeout" if "no reply" in text else "error"
        return Outcome(kind, detail=text)

    async def subscribe(self, subject_filter, queue=None):
        options = ["--queue", queue] if queue else []
        argv = [self.binary, "sub", "--server", self.server, "--json", *options, subject_filter]
        child = await Child.start(*argv)
        self._children.append(child)
        subscription = Subscription(child.stop)
        listening, said = asyncio.get_running_loop().create_future(), []

        def on_error_line(line):
            said.append(line)
            if line.startswith(b"listening on") and not listening.done():
                listening.set_result(None)

        def on_end():
            error = AssertionError(f"waymeet sub ended: {said}")
            if not listening.done():
                listening.set_exception(error)
            subscription.failed(error)

        child.on_line(child.process.stdout, lambda line: subscription.put(envelope.parse(line)))
        child.on_line(child.process.stderr, on_error_line, on_end)
        await asyncio.wait_for(listening, PATIENCE_S)
        return subscription

    def _argv(self, verb, headers):
        options = [option for name, value in (headers or {}).items() for option in ("-H", f"{name}: {value}")]
        return [self.binary, verb, "--server", self.server, *options]
