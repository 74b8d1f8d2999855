"""aiocoap, as a CoAP publisher, requester and observer.

Owns the mapping of the resource space onto aiocoap's messages. It must not build a datagram.
"""

import asyncio

import aiocoap
from aiocoap import Code, Message
from aiocoap.numbers.constants import Reliable, Unreliable

from . import PATIENCE_S, Driver, Outcome, Received, Subscription, envelope, filter_path

ACCEPT_ENVELOPE = 50
# RFC 7252, section 12.3: the registered numbers that the suites use.
CONTENT_FORMATS = {"text/plain": 0, "application/octet-stream": 42, "application/json": 50}


def code_text(code):
    """`2.05` and the like, as the specifications write it."""
    return f"{int(code) >> 5}.{int(code) & 31:02}"


class AioCoap(Driver):
    """`confirmable` says how it publishes and observes; `raw` observes without the envelope."""

    def __init__(self, name="aiocoap", confirmable=True, raw=False):
        self.name = name
        self.tuning = Reliable if confirmable else Unreliable
        self.raw = raw

    async def open(self, node):
        self.base = node.coap
        self.context = await aiocoap.Context.create_client_context()
        self._observations = []

    async def close(self):
        for request in self._observations:
            if not request.observation.cancelled:
                request.observation.cancel()
        await self.context.shutdown()

    async def send(self, method, path, payload=b"", patience_s=PATIENCE_S, **options):
        """One exchange on a path as it stands; returns aiocoap's response."""
        message = self._message(method, path, payload, **options)
        return await asyncio.wait_for(self.context.request(message).response, patience_s)

    async def publish(self, subject, payload, headers=None):
        response = await self.send(Code.POST, f"/pub/{subject}", payload, **_content_format(headers))
        assert response.code == Code.CHANGED, f"{response.code}: {response.payload!r}"

    async def subscribe(self, subject_filter, queue=None):
        return await self.observe(filter_path(subject_filter, queue))

    async def observe(self, path, patience_s=PATIENCE_S):
        """Observes a path as it stands."""
        options = {} if self.raw else {"accept": ACCEPT_ENVELOPE}
        request = self.context.request(self._message(Code.GET, path, observe=0, **options))
        first = await asyncio.wait_for(request.response, patience_s)
        assert first.code == Code.CONTENT, f"{path}: {first.code} {first.payload!r}"
        assert first.opt.observe is not None, "the answer to an observation carries the Observe option"

        async def stop():
            request.observation.cancel()

        subscription = Subscription(stop)
        subscription.first = first
        self._observations.append(request)

        def on_notification(message):
            if not message.code.is_successful():
                subscription.failed(AssertionError(f"{message.code} {message.payload!r}"))
            elif self.raw:
                received = Received(None, message.payload)
                received.content_format = message.opt.content_format
                subscription.put(received)
            else:
                subscription.put(envelope.parse(message.payload))

        request.observation.register_callback(on_notification)
        request.observation.register_errback(subscription.failed)
        return subscription

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        response = await self.send(
            Code.POST,
            f"/req/{subject}?timeout={int(timeout_s * 1000)}ms",
            payload,
            patience_s=timeout_s + PATIENCE_S,
            **_content_format(headers),
        )
        status = code_text(response.code)
        kind = {"2.05": "reply", "5.03": "no_responders", "5.04": "timeout"}.get(status, "error")
        content_format = response.opt.content_format
        found = {} if content_format is None else {"content-format": [str(int(content_format))]}
        return Outcome(kind, response.payload, found, status)

    def _message(self, method, path, payload=b"", **options):
        return Message(
            code=method, uri=self.base + path, payload=payload, transport_tuning=self.tuning, **options
        )


def _content_format(headers):
    for name, value in (headers or {}).items():
        if name.lower() == "content-type":
            return {"content_format": CONTENT_FORMATS[value]}
    return {}
