"""libcoap's coap-client, as a CoAP publisher, requester and observer.

Owns its command line. Bodies go through files, because it reads at most 20,000 bytes from standard
input, and come back through a pipe of their own, because its log goes to standard output.
"""

import asyncio
import os
import re
import shutil
import signal
import tempfile

from . import PATIENCE_S, Driver, Outcome, Subscription, envelope, filter_path
from .process import Child, read_pipe, run

COAP_CLIENT = next(
    (
        found
        for name in ("coap-client-notls", "coap-client", "coap-client-openssl")
        if (found := shutil.which(name))
    ),
    "coap-client",
)
_FAILURE = re.compile(rb"^([45]\.\d\d)(?: (.*))?$", re.MULTILINE)


class LibCoap(Driver):
    name = "coap-client"
    program = COAP_CLIENT
    # Options that say who it is.
    credentials = ()

    def __init__(self, name="coap-client", confirmable=True):
        self.name = name
        self._type = [] if confirmable else ["-N"]

    async def open(self, node):
        self.base = node.coap
        self._children = []
        self._transports = []

    async def close(self):
        # SIGINT lets it send its deregistration.
        await asyncio.gather(*(child.stop(signal.SIGINT) for child in self._children))
        for transport in self._transports:
            transport.close()

    async def send(self, method, path, payload=b"", options=(), patience_s=PATIENCE_S):
        """One exchange on a path as it stands; returns the failure code or None, and the body."""
        with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile() as reply:
            body.write(payload)
            body.flush()
            file = ["-f", body.name] if payload else []
            code, out, err = await run(
                self.program,
                *self.credentials,
                "-m",
                method,
                *self._type,
                *file,
                *options,
                "-o",
                reply.name,
                "-B",
                str(int(patience_s) + 1),
                self.base + path,
                patience_s=patience_s + PATIENCE_S,
            )
            answer = reply.read()
        assert code == 0, f"coap-client ended with {code}: {err!r}"
        if failure := _FAILURE.search(err + out):
            return failure[1].decode(), failure[2] or b""
        return None, answer

    async def publish(self, subject, payload, headers=None):
        failure, body = await self.send("post", f"/pub/{subject}", payload, _format_options(headers))
        assert failure is None, f"{failure} {body!r}"

    async def subscribe(self, subject_filter, queue=None):
        return await self.observe(filter_path(subject_filter, queue))

    async def observe(self, path):
        """Observes a path as it stands, with the envelope."""
        reading, writing = os.pipe()
        payloads, transport = await read_pipe(reading)
        self._transports.append(transport)
        options = ["-s", "600", "-B", "600", "-A", "50", "-w", "-v", "7", "-o", f"/dev/fd/{writing}"]
        words = [*self.credentials, *self._type, *options]
        child = await Child.start(self.program, *words, self.base + path, pass_fds=(writing,))
        os.close(writing)
        self._children.append(child)

        async def stop():
            await child.stop(signal.SIGINT)

        subscription = Subscription(stop)
        established = asyncio.get_running_loop().create_future()
        log = []

        def on_log(line):
            log.append(line)
            if b"observation relationship established" in line and not established.done():
                established.set_result(None)

        def on_end():
            error = AssertionError(f"coap-client ended: {log[-5:]}")
            if not established.done():
                established.set_exception(error)
            subscription.failed(error)

        def on_payload(line):
            if line:
                subscription.put(envelope.parse(line))

        child.on_line(child.process.stdout, on_log, on_end)
        child.on_line(child.process.stderr, log.append)
        child.on_line(payloads, on_payload)
        try:
            await asyncio.wait_for(established, PATIENCE_S)
        except TimeoutError:
            raise AssertionError(f"{path}: no observation; coap-client said {log[-8:]}") from None
        return subscription

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        failure, body = await self.send(
            "post",
            f"/req/{subject}?timeout={int(timeout_s * 1000)}ms",
            payload,
            _format_options(headers),
            patience_s=timeout_s + PATIENCE_S,
        )
        kind = {None: "reply", "5.03": "no_responders", "5.04": "timeout"}.get(failure, "error")
        return Outcome(kind, body, status=failure or "2.05")


def _format_options(headers):
    for name, value in (headers or {}).items():
        if name.lower() == "content-type":
            return ["-t", value]
    return []
