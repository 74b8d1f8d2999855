"""What every client kind can do, whoever wrote it.

Owns the small interface that the suites speak and the bookkeeping that the kinds share. It must not
know a protocol: each module beside this one drives one real client.
"""

import asyncio
from dataclasses import dataclass, field

# How long an event that must happen may take before a test calls it missing, on a busy machine of two cores. Only a test
# that fails waits for all of it.
PATIENCE_S = 30.0


@dataclass
class Received:
    """One delivery. `subject` is None where the client cannot see it (a raw CoAP payload)."""

    subject: str | None
    payload: bytes
    headers: dict[str, list[str]] = field(default_factory=dict)
    reply: str | None = None

    def header(self, name):
        """The first value of a header, by its name in any case, or None."""
        for key, values in self.headers.items():
            if key.lower() == name.lower():
                return values[0]
        return None


@dataclass
class Outcome:
    """How a request or a publish ended, in one vocabulary for every protocol.

    `kind` is `reply`, `no_responders`, `timeout` or `error`; `status` is the protocol's own code where
    it has one (`200`, `2.05`), as text.
    """

    kind: str
    payload: bytes = b""
    headers: dict[str, list[str]] = field(default_factory=dict)
    status: str | None = None
    detail: str = ""

    header = Received.header


class Subscription:
    """Deliveries in the order of their arrival. It exists only once the server has taken it."""

    def __init__(self, stop=None):
        self.deliveries = asyncio.Queue()
        self._stop = stop

    def put(self, received):
        """Called by the driver for each delivery."""
        self.deliveries.put_nowait(received)

    def failed(self, error):
        """Called by the driver when no more can come: whoever waits is told why."""
        self.deliveries.put_nowait(error)

    async def next(self, patience_s=PATIENCE_S):
        """The next delivery, or an error that says that none came."""
        try:
            received = await asyncio.wait_for(self.deliveries.get(), patience_s)
        except TimeoutError:
            raise AssertionError(f"no delivery within {patience_s} s") from None
        if isinstance(received, Exception):
            raise AssertionError(f"the subscription ended: {received}") from received
        return received

    async def next_on(self, subject, payload, patience_s=PATIENCE_S):
        """The delivery on `subject`; earlier ones on other subjects are left-overs of a failed test.
        A client that sees no subject is asked for the payload instead."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            received = await self.next(max(0.01, deadline - asyncio.get_running_loop().time()))
            if received.subject == subject or (received.subject is None and received.payload == payload):
                return received

    async def close(self):
        """Ends the subscription at the server."""
        if self._stop:
            await self._stop()


class Driver:
    """One real client, connected to one node."""

    name = "?"

    async def open(self, node):
        """Connects to `node`."""
        raise NotImplementedError

    async def close(self):
        """Disconnects and ends every process that was started."""

    async def publish(self, subject, payload, headers=None):
        """Publishes and returns once the server has taken it."""
        raise NotImplementedError

    async def subscribe(self, subject_filter, queue=None):
        """Returns a [Subscription] once it is active."""
        raise NotImplementedError

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        """Sends a request and returns its [Outcome]."""
        raise NotImplementedError

    async def serve(self, subject_filter, handler):
        """Answers requests with `handler(received) -> (payload, headers)` until the driver closes, by
        means of the client's own subscribe and publish."""
        subscription = await self.subscribe(subject_filter)

        async def answer():
            while True:
                received = await subscription.deliveries.get()
                if isinstance(received, Exception):
                    return
                payload, headers = handler(received)
                await self.publish(received.reply, payload, headers)

        self._answering = getattr(self, "_answering", [])
        self._answering.append(asyncio.create_task(answer()))

    async def stop_serving(self):
        """Ends what [serve] started."""
        for task in getattr(self, "_answering", []):
            task.cancel()
        self._answering = []


def filter_path(subject_filter, queue=None):
    """The path that subscribes to a filter in the resource space that HTTP and CoAP share."""
    tokens = ["**" if token == ">" else token for token in subject_filter.split(".")]
    return "/sub/" + "/".join(tokens) + (f"?queue={queue}" if queue else "")


def reverse(received):
    """The handler of the request matrix: the reply proves that the responder had all of the bytes."""
    return received.payload[::-1], None
