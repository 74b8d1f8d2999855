"""NATS clients in other languages, each in a small agent process that speaks JSON lines.

Owns the Python end of that conversation: `{"id","op",…}` goes in, `{"id","ok",…}` comes back and
`{"sid",…}` for each delivery. The agents are `js/ws_node.mjs`, `js/browser.mjs` and `async-nats/`.
"""

import asyncio
import base64
import itertools
import json
import os
import pathlib

from . import PATIENCE_S, Driver, Outcome, Received, Subscription
from .process import Child

HERE = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("INTEROP_TARGET", HERE.parent / "target" / "interop"))
# Node.js resolves packages from the folder that xtask installed them into.
JS = TARGET / "js"


class Agent(Driver):
    """The shared end; a kind only says how to start its process and which URL it connects to."""

    # Who to be: `user` and `password`, `token`, or `nkey`, which is a seed.
    identity = {}

    def command(self, node):
        raise NotImplementedError

    def url(self, node):
        raise NotImplementedError

    async def open(self, node):
        self._ids = itertools.count(1)
        self._waiting = {}
        self._subscriptions = {}
        self._said = []
        self.child = await Child.start(*self.command(node), stdin=True)
        self.child.on_line(self.child.process.stdout, self._on_line, self._on_end)
        self.child.on_line(self.child.process.stderr, self._said.append)
        await self._call("connect", url=self.url(node), patience_s=20, **self.identity)

    async def close(self):
        await self.child.stop()

    async def publish(self, subject, payload, headers=None):
        await self._call("publish", subject=subject, payload=_encode(payload), headers=headers or {})

    async def subscribe(self, subject_filter, queue=None):
        sid = f"s{next(self._ids)}"

        async def stop():
            del self._subscriptions[sid]
            await self._call("unsubscribe", sid=sid)

        subscription = Subscription(stop)
        self._subscriptions[sid] = subscription
        await self._call("subscribe", sid=sid, subject=subject_filter, queue=queue)
        return subscription

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        answer = await self._call(
            "request",
            check=False,
            subject=subject,
            payload=_encode(payload),
            headers=headers or {},
            timeout_ms=int(timeout_s * 1000),
            patience_s=timeout_s + PATIENCE_S,
        )
        if answer["ok"]:
            return Outcome("reply", base64.b64decode(answer["payload"]), answer["headers"])
        if answer["error"] in ("no_responders", "timeout"):
            return Outcome(answer["error"])
        return Outcome("error", detail=answer["error"])

    async def _call(self, op, check=True, patience_s=PATIENCE_S, **fields):
        number = next(self._ids)
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        line = json.dumps({"id": number, "op": op, **fields}) + "\n"
        self.child.process.stdin.write(line.encode())
        try:
            answer = await asyncio.wait_for(waiting, patience_s)
        except TimeoutError:
            raise AssertionError(f"{self.name}: no answer to {op}; it said {self._said}") from None
        assert answer["ok"] or not check, f"{self.name}: {op}: {answer['error']}; it said {self._said}"
        return answer

    def _on_line(self, line):
        event = json.loads(line)
        if "sid" in event:
            if subscription := self._subscriptions.get(event["sid"]):
                payload = base64.b64decode(event["payload"])
                subscription.put(Received(event["subject"], payload, event["headers"], event["reply"]))
        elif (waiting := self._waiting.pop(event["id"], None)) and not waiting.done():
            waiting.set_result(event)

    def _on_end(self):
        ended = {"ok": False, "error": f"the agent ended; it said {self._said}"}
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(ended)


def _encode(payload):
    return base64.b64encode(payload).decode()


class AsyncNats(Agent):
    """async-nats, the official Rust client, over TCP."""

    name = "async-nats"

    def command(self, node):
        return [str(TARGET / "async-nats-agent")]

    def url(self, node):
        return node.nats


class WebSocketNode(Agent):
    """The official JavaScript client over WebSocket, in Node.js."""

    name = "ws-node"

    def command(self, node):
        return ["node", str(JS / "ws_node.mjs")]

    def url(self, node):
        return node.websocket


class WebSocketBrowser(Agent):
    """The official JavaScript client over WebSocket, in a page of a real browser."""

    name = "ws-browser"

    def command(self, node):
        return ["node", str(JS / "browser.mjs"), node.page]

    def url(self, node):
        return node.websocket
