"""curl, as an HTTP publisher, requester and subscriber (SSE and NDJSON).

Owns the command lines and the reading of responses. Nothing here speaks HTTP by itself.
"""

import asyncio
import json
from dataclasses import dataclass, field

from . import PATIENCE_S, Driver, Outcome, Received, Subscription, envelope, filter_path
from .process import Child, run

# curl's own: the operation timed out.
_EXIT_TIMEOUT = 28


@dataclass
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    version: str = ""

    def json(self):
        return json.loads(self.body)

    header = Received.header


def parse_head(head):
    """Status and headers of the last response head in `head` (an interim 100 may precede it)."""
    last = [h for h in head.replace(b"\r\n", b"\n").split(b"\n\n") if h.startswith(b"HTTP/")][-1]
    status_line, *lines = last.decode("latin-1").split("\n")
    version, status = status_line.split(" ")[:2]
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), []).append(value.strip())
    return Response(int(status), headers, version=version)


async def fetch(url, *options, body=None, patience_s=PATIENCE_S):
    """Runs curl once. `options` are curl's own; `body` is sent as it is."""
    argv = ["curl", "-sS", "--max-time", str(patience_s), "-D", "/dev/stderr", *options]
    if body is not None:
        argv += ["--data-binary", "@-"]
    code, out, err = await run(*argv, url, stdin=body or b"", patience_s=patience_s + 5)
    assert code == 0, f"curl ended with {code} for {url}: {err.decode(errors='replace')}"
    response = parse_head(err)
    response.body = out
    return response


class Curl(Driver):
    """HTTP by curl. `method` is how it publishes, `stream` how it subscribes."""

    def __init__(self, name="curl", method="POST", stream="sse"):
        self.name = name
        self.method = method
        self.stream = stream

    async def open(self, node):
        self.base = node.http
        self._children = []

    async def close(self):
        await asyncio.gather(*(child.stop() for child in self._children))

    async def publish(self, subject, payload, headers=None):
        options = ["-X", self.method, *_header_options(headers)]
        response = await fetch(f"{self.base}/pub/{subject}", *options, body=payload)
        assert response.status == 202, f"{response.status}: {response.body!r}"
        return response.json()

    async def subscribe(self, subject_filter, queue=None):
        return await self.subscribe_path(filter_path(subject_filter, queue))

    async def subscribe_path(self, path, *options):
        """Subscribes by a path as it stands, and returns once the response headers are there."""
        accept = "text/event-stream" if self.stream == "sse" else "application/x-ndjson"
        # The head is read from the -v log: with -i curl keeps it until the first byte of the body.
        child = await Child.start("curl", "-vsSNg", "-H", f"Accept: {accept}", *options, f"{self.base}{path}")
        self._children.append(child)
        subscription = Subscription(child.stop)
        reader = _StreamReader(subscription, self.stream)
        child.on_line(child.process.stderr, reader.log_line)
        child.on_line(child.process.stdout, reader.line, reader.ended)
        response = await asyncio.wait_for(reader.head, PATIENCE_S)
        assert response.status == 200, f"{path}: {response.status}"
        subscription.response = response
        return subscription

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        url = f"{self.base}/req/{subject}?timeout={int(timeout_s * 1000)}ms"
        options = ["-X", "POST", *_header_options(headers)]
        response = await fetch(url, *options, body=payload, patience_s=timeout_s + PATIENCE_S)
        kind = {200: "reply", 503: "no_responders", 504: "timeout"}.get(response.status, "error")
        return Outcome(kind, response.body, response.headers, str(response.status))


def _header_options(headers):
    """curl adds a form's Content-Type by itself; no message should carry that by accident."""
    options = []
    if not any(name.lower() == "content-type" for name in headers or {}):
        options += ["-H", "Content-Type:"]
    for name, value in (headers or {}).items():
        options += ["-H", f"{name}: {value}"]
    return options


class _StreamReader:
    """Splits a response into its head and deliveries, by the rules of SSE or NDJSON."""

    def __init__(self, subscription, stream):
        self.head = asyncio.get_running_loop().create_future()
        self._subscription = subscription
        self._stream = stream
        self._lines = []
        self._log = []
        self._event = {}

    def log_line(self, line):
        """A line of curl's log: those of the response head start with `< `."""
        if not line.startswith(b"< "):
            self._log.append(line)
        elif not self.head.done():
            self._lines.append(line.removeprefix(b"< "))
            if self._lines[-1] == b"":
                self.head.set_result(parse_head(b"\n".join(self._lines) + b"\n"))

    def line(self, line):
        """A line of the body."""
        if self._stream == "sse":
            self._sse_line(line.decode())
        elif line.startswith(b'{"end":'):
            # What an SSE stream says as an event of that name.
            self._subscription.put(Received("event:end", json.dumps(json.loads(line)["end"]).encode()))
        elif line:
            self._deliver(line)

    def ended(self):
        """The end of the body."""
        error = AssertionError(f"curl ended: {self._log[-3:]}")
        if not self.head.done():
            self.head.set_exception(error)
        self._subscription.failed(error)

    def _sse_line(self, line):
        """The event stream's interpretation rules of the HTML standard, section 9.2.6."""
        if line == "":
            event, self._event = self._event, {}
            if "data" not in event:
                return
            if "event" in event:
                self._subscription.put(Received(f"event:{event['event']}", event["data"].encode()))
            else:
                self._deliver(event["data"])
            return
        name, _, value = line.partition(":")
        if name:
            value = value.removeprefix(" ")
            known = self._event.get(name)
            self._event[name] = value if name != "data" or known is None else f"{known}\n{value}"

    def _deliver(self, text):
        try:
            self._subscription.put(envelope.parse(text))
        except (AssertionError, ValueError, KeyError) as error:
            self._subscription.failed(error)
