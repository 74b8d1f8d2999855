"""The link client on py-libp2p: commands as lines of JSON on standard input, events on standard output, as
drivers/agent.py has it.

Owns the connection and the commands. What a member says is member.py's, what an attacker says attacks.py's.
"""

import base64
import itertools
import json
import math
import re
import sys
from dataclasses import dataclass

import multiaddr
import trio
from attacks import Attacks
from libp2p import new_host
from libp2p.crypto.ed25519 import Ed25519PrivateKey, Ed25519PublicKey, create_new_key_pair
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from member import Member, Refused, to_text

PROTOCOL = "/waymeet/link/1"
READ_SIZE = 64 * 1024
STATUS = re.compile(rb"NATS/1\.0[^\r\n]*\r\n")


class Unanswered(Exception):
    """Nobody answered a request: `no_responders` or `timeout`."""


@dataclass
class Waiting:
    """A request that waits for its reply, or for all who were asked to refuse it."""

    event: trio.Event
    sequence: int = 0
    message: object = None


def verify(peer, signature, signed):
    """Whether the key that an Ed25519 peer id holds made the signature. The id is an identity multihash: two bytes,
    then libp2p's public key message."""
    key = deserialize_public_key(peer[2:])
    return isinstance(key, Ed25519PublicKey) and key.verify(signed, signature)


def to_block(headers):
    """Headers as a NATS header block."""
    if not headers:
        return b""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def from_block(block):
    """A NATS header block as names with lists of values."""
    headers = {}
    for line in STATUS.sub(b"", block, count=1).decode().split("\r\n"):
        if line:
            name, value = line.split(":", 1)
            headers.setdefault(name, []).append(value.strip())
    return headers


class Agent(Attacks):
    """The client and its commands."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.member = None
        self.inboxes = {}
        self.numbers = itertools.count(1)
        self.stall = trio.Event()
        self.stall.set()

    def emit(self, event):
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    async def handle(self, command):
        """Carries one command out and answers it."""
        try:
            answer = await getattr(self, "op_" + command.pop("op"))(**command) or {}
            self.emit({"id": command["id"], "ok": True, **answer})
        except Unanswered as error:
            self.emit({"id": command["id"], "ok": False, "error": str(error)})
        except Exception as error:  # Whatever it was, the suite is to read it.
            self.emit({"id": command["id"], "ok": False, "error": f"{type(error).__name__}: {error}"})

    async def op_connect(self, id, url, secret="", **_):
        """Dials a node and returns once the link is up; the failure says why the node refused."""
        pair = create_new_key_pair()
        ready = trio.Event()
        self.pair = pair
        self.nursery.start_soon(self._host, pair, ready)
        await ready.wait()
        await self._link(pair, url, secret)
        await self._until(self.up)
        return {"peer_id": to_text(self.member.peer)}

    async def _host(self, pair, ready):
        self.host = new_host(key_pair=pair, enable_tcp=True)
        async with self.host.run(listen_addrs=[]):
            ready.set()
            await trio.sleep_forever()

    async def _link(self, pair, url, secret, kind=Member):
        info = info_from_p2p_addr(multiaddr.Multiaddr(url))
        await self.host.connect(info)
        self.stream = await self.host.new_stream(info.peer_id, [PROTOCOL])
        self.out, queue = trio.open_memory_channel(math.inf)
        self.up, self.ended, self.why = trio.Event(), trio.Event(), None
        self.passed = {}
        member = self.member = kind(
            pair.private_key,
            self.host.get_id().to_bytes(),
            verify,
            base64.b64decode(secret),
            self,
        )
        self.nursery.start_soon(self._write, self.stream, queue)
        self.nursery.start_soon(self._read, self.stream)
        member.begin(info.peer_id.to_bytes())

    async def _write(self, stream, queue):
        async for data in queue:
            try:
                await stream.write(data)
            except StreamError:
                return

    async def _read(self, stream):
        """Reads until the link ends, and notes why it did."""
        try:
            while True:
                await self.stall.wait()
                data = await stream.read(READ_SIZE)
                if not data:
                    break
                self.member.push(data)
                if self.member.phase == "up":
                    self.up.set()
        except Refused as refused:
            self.why = str(refused)
        except (StreamError, EOFError) as error:
            self.why = f"the stream ended: {type(error).__name__}"
        except ValueError as error:
            self.why = f"this side ends it: {error}"
        self.ended.set()
        self.emit({"ended": self.why})

    def send(self, data):
        """Has the member's bytes written."""
        self.out.send_nowait(data)

    async def _until(self, event):
        """Waits for an event, or for the end of the link, which is an error."""
        async with trio.open_nursery() as both:

            async def ended():
                await self.ended.wait()
                both.cancel_scope.cancel()

            both.start_soon(ended)
            await event.wait()
            both.cancel_scope.cancel()
        if not event.is_set():
            raise ConnectionError(self.why)

    async def _passed(self):
        """Returns when the node has taken all that was said before."""
        event = self.passed[self.member.ping()] = trio.Event()
        await self._until(event)

    def on_pong(self, number):
        if number in self.passed:
            self.passed.pop(number).set()

    async def op_publish(self, id, subject, payload, headers):
        self.member.publish(subject, base64.b64decode(payload), to_block(headers))
        await self._passed()

    async def op_subscribe(self, id, sid, subject, queue=None):
        self.member.subscribe(sid, subject, queue)
        await self._passed()

    async def op_unsubscribe(self, id, sid):
        self.member.unsubscribe(sid)
        await self._passed()

    async def op_request(self, id, subject, payload, headers, timeout_ms):
        """A reply comes to a subject that nobody was told of: it carries the way back."""
        reply = f"_INBOX.link.{next(self.numbers)}"
        waiting = self.inboxes[reply] = Waiting(trio.Event())
        self.member.inboxes.add(reply)
        body = base64.b64decode(payload)
        waiting.sequence, asked = self.member.publish(subject, body, to_block(headers), reply)
        if asked:
            with trio.move_on_after(timeout_ms / 1000):
                await self._until(waiting.event)
        del self.inboxes[reply]
        self.member.inboxes.remove(reply)
        if asked and not waiting.event.is_set():
            raise Unanswered("timeout")
        if waiting.message is None:
            raise Unanswered("no_responders")
        payload = base64.b64encode(waiting.message.payload).decode()
        return {"payload": payload, "headers": from_block(waiting.message.headers)}

    async def op_leave(self, id):
        """Says good-bye and waits until the node has ended the link."""
        self.member.leave()
        await self.ended.wait()
        return {"why": self.why}

    async def op_nodes(self, id):
        """What this member knows: the nodes and what they want."""
        nodes = self.member.nodes.by_peer.values()
        return {"nodes": {to_text(n.peer): sorted(list(key) for key in n.interest) for n in nodes}}

    def on_message(self, name, message, reply):
        if name in self.inboxes:
            self.inboxes[name].message = message
            self.inboxes[name].event.set()
            return
        self.emit(
            {
                "sid": name,
                "subject": message.subject,
                "payload": base64.b64encode(message.payload).decode(),
                "headers": from_block(message.headers),
                "reply": reply,
            }
        )

    def on_refused(self, sequence):
        for waiting in self.inboxes.values():
            if waiting.sequence == sequence:
                waiting.event.set()


async def main():
    async with trio.open_nursery() as nursery:
        agent = Agent(nursery)
        lines = trio.wrap_file(sys.stdin)
        async for line in lines:
            nursery.start_soon(agent.handle, json.loads(line))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
