"""What the limited user may do, and the clients that try it: one for every listener.

Owns the rules, the cases and the clients' common shape: `publish(subject)` returns once the node has decided, and
`subscribe(filter, queue, put)` puts the subject of what arrives. It must not judge what arrives.
"""

import asyncio
import contextlib
import re
import shutil
import socket

from absent import absent
from drivers import PATIENCE_S
from drivers.coap_aiocoap import AioCoap
from drivers.coap_libcoap import LibCoap
from drivers.curl import Curl, fetch
from drivers.raw import RawTcp
from identities import PASSWORD, AsyncNats, WebSocketNats, nats_py

RULES = """
[auth.defaults.publish]
allow = ["a.>", "b.*", "c.{{user}}.x", "marker", "_INBOX.>"]
deny = ["a.secret", "a.*.no", "b.b"]
[auth.defaults.subscribe]
allow = ["a.>", "b.*", "q.>", "q.> good.*", "marker", "marker good.*", "marker bad", "_INBOX.>"]
deny = ["a.secret.>", "a.*.no", "b.b", "q.no"]
"""

# Subject, and whether it may be published to.
PUBLISH = [
    ("a.b", True),
    ("a.b.c.d", True),
    ("a", False),
    ("a.secret", False),
    ("a.secret.x", True),
    ("a.x.no", False),
    ("a.x.no.y", True),
    ("a.x.yes", True),
    ("b.a", True),
    ("b.b", False),
    ("b.a.c", False),
    ("b", False),
    ("x.y", False),
    ("c.nobody.x", False),
    ("$SYS.x", False),
    ("_INBOX.x", True),
    ("ab.c", False),
    ("A.b", False),
]

RAW_SUBJECTS = ["marker", *(subject for subject, _ in PUBLISH)]

# Filter, queue group, a subject that matches, and whether it arrives.
SUBSCRIBE = [
    ("a.b", None, "a.b", True),
    ("a.>", None, "a.b", True),
    ("a.>", None, "a.x.yes", True),
    ("a.>", None, "a.x.no", False),
    ("a.>", None, "a.secret.x", False),
    ("a.>", None, "a.secret", True),
    ("a.*.no", None, "a.y.no", False),
    ("a.*.*", None, "a.y.no", False),
    ("a.*.*", None, "a.y.yes", True),
    ("a.secret.>", None, "a.secret.x", False),
    ("a.secret.x", None, "a.secret.x", False),
    ("a", None, "a", False),
    (">", None, "a.b", False),
    ("*.b", None, "a.b", False),
    ("b.*", None, "b.a", True),
    ("b.*", None, "b.b", False),
    ("b.b", None, "b.b", False),
    ("b.>", None, "b.a", False),
    ("x.>", None, "x.y", False),
    ("$SYS.x", None, "$SYS.x", False),
    ("q.a", None, "q.a", True),
    ("q.a", "good.x", "q.a", True),
    ("q.>", "good.x", "q.a", True),
    ("q.>", "good.x", "q.no", False),
    ("q.a", "bad", "q.a", False),
    ("b.a", "bad", "b.a", True),
]

# What the limited user shows over DTLS.
KEY = "0123456789abcdef"


def listeners_of(directory):
    """A listener for CoAP over DTLS and the limited user's key; and raw listeners, which have one subject each."""
    key = directory / "limited.psk"
    key.write_text(KEY.encode().hex())
    raw = "".join(
        f'[[listeners.{kind}]]\naddress = "127.0.0.1:0"\nsubject = "{subject}"\nmode = "publish"\nuser = "limited"\n'
        for kind in ("lines", "datagrams")
        for subject in RAW_SUBJECTS
    )
    return f'psk_file = "{key}"\n', f'[listeners.coap.dtls]\naddress = "127.0.0.1:0"\n{raw}'


class Nats:
    """nats-py, as the limited user."""

    async def open(self, node):
        self.stack = contextlib.AsyncExitStack()
        self.client = await self.stack.enter_async_context(nats_py(node, user="limited", password=PASSWORD))

    async def publish(self, subject):
        await self.client.publish(subject, b"x")
        await self.client.flush(30)

    async def subscribe(self, subject_filter, queue, put):
        # Without callbacks: the client runs those of two subscriptions in any order.
        one = await self.client.subscribe(subject_filter, queue=queue or "")
        marker = await self.client.subscribe("marker", queue=queue or "")
        await self.client.flush(30)

        async def read():
            await marker.next_msg(30)
            # What came before the marker is there.
            put((await one.next_msg(1)).subject if one.pending_msgs else "marker")

        return [one, marker, asyncio.create_task(read())]

    async def unsubscribe(self, taken):
        for one in taken[:-1]:
            await one.unsubscribe()

    async def close(self):
        await self.stack.aclose()


def was_refused(error):
    """As its protocol has it: 403 of HTTP, 4.03 of CoAP, which aiocoap calls Forbidden."""
    return any(word in str(error) for word in ("403", "4.03", "Forbidden"))


class Driven:
    """A driver of the other suites, as the limited user."""

    def __init__(self, driver, one_request=False):
        self.driver = driver
        self.one_request = one_request

    async def open(self, node):
        await self.driver.open(node)

    async def publish(self, subject):
        try:
            await self.driver.publish(subject, b"x")
        except AssertionError as error:
            assert was_refused(error), error

    async def subscribe(self, subject_filter, queue, put):
        # Both in one, so that what comes keeps its order. Where one is refused, the other stands alone.
        both = "/sub?" + "&".join(f"filter={one.replace('>', '**')}" for one in (subject_filter, "marker"))
        tries = [both, "/sub?filter=marker"] if self.one_request else [(subject_filter, "marker")]
        for attempt in tries:
            try:
                taken = await self._take(attempt, queue)
            except AssertionError as error:
                assert was_refused(error), error
                continue
            break
        readers = [asyncio.create_task(self._read(one, put)) for one in taken]
        return taken, readers

    async def _take(self, attempt, queue):
        if not self.one_request:
            return [await self.driver.subscribe(one, queue) for one in attempt]
        path = attempt + (f"&queue={queue}" if queue else "")
        if isinstance(self.driver, Curl):
            return [await self.driver.subscribe_path(path, "-u", f"limited:{PASSWORD}")]
        return [await self.driver.observe(path)]

    async def _read(self, subscription, put):
        while True:
            received = await subscription.deliveries.get()
            if isinstance(received, Exception):
                return
            put(received.subject)

    async def unsubscribe(self, taken):
        subscriptions, readers = taken
        for reader in readers:
            reader.cancel()
        for one in subscriptions:
            await one.close()

    async def close(self):
        await self.driver.close()


class LimitedCurl(Curl):
    async def publish(self, subject, payload, headers=None):
        response = await fetch(f"{self.base}/pub/{subject}", "-u", f"limited:{PASSWORD}", body=payload)
        assert response.status in (202, 403), response
        assert response.status == 202 or response.json()["reason"] == "no_permission"


class Lines:
    """A program on a raw listener; there is one for each subject."""

    async def open(self, node):
        self.addresses = dict(zip(RAW_SUBJECTS, node.raw_lines, strict=True))

    async def publish(self, subject):
        host, port = self.addresses[subject]
        connection = await RawTcp.open(f"tcp://{host}:{port}")
        await connection.send(b"x\n")
        connection._writer.write_eof()
        # The node has read it once it closes.
        await connection.rest()
        await connection.close()

    async def close(self):
        pass


class Datagrams:
    """A program that sends datagrams to raw listeners; there is one for each subject."""

    async def open(self, node):
        self.addresses = dict(zip(RAW_SUBJECTS, node.raw_datagrams, strict=True))
        self.metrics = f"{node.http}/metrics"
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def publish(self, subject):
        before = await self._decided()
        host, port = self.addresses[subject]
        self.socket.sendto(b"x", (host, int(port)))
        # Nothing comes back, and the next one goes to another socket: it may not overtake this one.
        async with asyncio.timeout(PATIENCE_S):
            while await self._decided() == before:
                await asyncio.sleep(0.01)

    async def _decided(self):
        """How many datagrams the node has taken or refused."""
        page = (await fetch(self.metrics, "-u", f"admin:{PASSWORD}")).body.decode()
        pattern = r'^waymeet_messages_(?:in|rejected)_total{listener="datagrams".*} (\d+)$'
        counted = re.findall(pattern, page, re.MULTILINE)
        assert counted, page
        return sum(map(int, counted))

    async def close(self):
        self.socket.close()


class Dtls(LibCoap):
    """coap-client with the limited user's key."""

    async def open(self, node):
        await super().open(node)
        self.base = re.search(r"coaps://\S+", node.log)[0]
        self.program = shutil.which("coap-client-gnutls") or absent("coap-client-gnutls")
        self.credentials = ["-u", "limited", "-k", KEY]


LIMITED = {"user": "limited", "password": PASSWORD}
SPEAKERS = {
    "nats": Nats,
    "async-nats": lambda: Driven(AsyncNats(LIMITED)),
    "websocket": lambda: Driven(WebSocketNats(LIMITED)),
    "http-sse": lambda: Driven(LimitedCurl(), one_request=True),
    "http-ndjson": lambda: Driven(LimitedCurl(stream="ndjson"), one_request=True),
    "coap": lambda: Driven(AioCoap(), one_request=True),
    "coaps": lambda: Driven(Dtls(), one_request=True),
    "lines": Lines,
    "datagrams": Datagrams,
}
# A raw listener has one subject, and nobody subscribes over it.
READERS = [name for name in SPEAKERS if name not in ("lines", "datagrams")]
