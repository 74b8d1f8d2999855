"""A member of the mesh with one link, as docs/link-protocol.md describes it: bytes in, bytes and calls out.

Owns the handshake, this member's own state, and messages in both directions. It does no I/O: whoever drives it
gives it what was read and sends what it puts out.
"""

import hashlib
import hmac
import itertools
import os
import time

from frames import Splitter, framed, link
from views import RECORD_LABEL, Nodes, interest_digest, matches, tag_of

WINDOW = 1024 * 1024
MAX_FRAME = 2 * 1024 * 1024
LEAVING, UNREADABLE, FORGED = 1, 8, 9
# How many sequences of one origin are remembered, and how far ahead one may be.
SEEN = 65_536


class Refused(Exception):
    """The other side said good-bye, or what it sent does not hold."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")
        self.code = code


class Member:
    """One member. `key` signs, `driver.send(bytes)` puts bytes on the stream, and of what came the driver is told with
    `on_message(subscription, message, reply)`, `on_refused(sequence)` and `on_pong(number)`."""

    def __init__(self, key, peer, verify, secret, driver):
        self.key, self.peer, self.secret, self.driver = key, peer, secret, driver
        self.epoch = int(time.time() * 1000)
        self.tag = tag_of(peer, self.epoch)
        self.nodes = Nodes(verify)
        self.splitter = Splitter()
        self.phase = "hello"
        self.subscriptions = {}
        # Where replies come to. Nobody is told of them: a reply carries its way back.
        self.inboxes = set()
        self.announced, self.version, self.records = {}, 0, itertools.count(1)
        self.sequences, self.pings = itertools.count(1), itertools.count(1)
        self.seen = {}
        # By sequence, how many of those asked have not refused yet.
        self.asked = {}
        self.sent, self.limit, self.waiting = 0, 0, []
        self.received, self.granted = 0, WINDOW

    # The handshake.

    def begin(self, neighbour):
        """Says hello to the peer that was dialled."""
        self.neighbour = neighbour
        hello = link.Frame()
        hello.hello.version, hello.hello.epoch, hello.hello.attempt = 1, self.epoch, 1
        hello.hello.nonce = os.urandom(32)
        hello.hello.max_frame, hello.hello.window = MAX_FRAME, WINDOW
        self.own_hello = hello.SerializeToString()
        self.driver.send(framed(self.own_hello))

    def proof(self, prover, verifier, provers_hello, verifiers_hello):
        """What proves the secret to `verifier`."""
        text = b"waymeet link 1 proof"
        for part in (prover, verifier, provers_hello, verifiers_hello):
            text += len(part).to_bytes(4, "big") + part
        return hmac.new(self.secret, text, hashlib.sha256).digest()

    def _shake_hands(self, frame, body):
        kind = frame.WhichOneof("kind")
        if self.phase == "hello" and kind == "hello":
            self.their_hello, self.limit = body, frame.hello.window
            self.neighbour_tag = tag_of(self.neighbour, frame.hello.epoch)
            proof = link.Frame()
            proof.proof.hmac = self.proof(self.peer, self.neighbour, self.own_hello, body)
            self.own_proof = proof.SerializeToString()
            self.driver.send(framed(self.own_proof))
            self.phase = "proof"
        elif self.phase == "proof" and kind == "proof":
            right = self.proof(self.neighbour, self.peer, self.their_hello, self.own_hello)
            if not hmac.compare_digest(frame.proof.hmac, right):
                raise Refused(3, "the node does not know the secret")
            self.phase = "up"
            self.announce(snapshot=True)
            summary = link.Frame()
            summary.summary.known = b""
            self.send(summary)
        else:
            raise Refused(UNREADABLE, f"a {kind} in the handshake")

    # What comes in.

    def push(self, data):
        """Takes what was read from the stream."""
        for body in self.splitter.push(data):
            frame = link.Frame.FromString(body)
            kind = frame.WhichOneof("kind")
            if kind == "go_away":
                raise Refused(frame.go_away.code, frame.go_away.text)
            if self.phase != "up":
                self._shake_hands(frame, body)
            elif kind is not None:
                getattr(self, f"_on_{kind}", lambda *_: None)(getattr(frame, kind), body)

    def _on_state(self, state, _):
        record = link.Record.FromString(state.record)
        if record.peer == self.peer:
            if record.epoch >= self.epoch:
                self.epoch = record.epoch + 1
                self.tag = tag_of(self.peer, self.epoch)
                self.records = itertools.count(1)
                self.announce(snapshot=True)
            return
        if (unknown := self.nodes.take(state, record)) is not None:
            ask = link.Frame()
            ask.ask.node = unknown
            self.send(ask)

    def _on_ask(self, ask, _):
        if ask.node == self.tag:
            self.announce(snapshot=True)

    def _on_summary(self, *_):
        self.announce(snapshot=True)

    def _on_ping(self, ping, _):
        pong = link.Frame()
        pong.pong.number = ping.number
        self.send(pong)

    def _on_pong(self, pong, _):
        self.driver.on_pong(pong.number)

    def _on_credit(self, credit, _):
        self.limit = max(self.limit, credit.limit)
        while self.waiting and self.sent < self.limit:
            self._send_message(self.waiting.pop(0))

    def _on_refusal(self, refusal, _):
        if refusal.target == self.tag and refusal.sequence in self.asked:
            self.asked[refusal.sequence] -= 1
            if self.asked[refusal.sequence] == 0:
                del self.asked[refusal.sequence]
                self.driver.on_refused(refusal.sequence)

    def _on_message(self, message, body):
        self.received += len(framed(body))
        if self.received > self.granted - WINDOW * 3 // 4:
            self.granted = self.received + WINDOW
            credit = link.Frame()
            credit.credit.limit = self.granted
            self.send(credit)
        origin = message.origin if message.HasField("origin") else self.neighbour_tag
        node = self.nodes.by_tag().get(origin)
        if node is None or not self._is_new(origin, message.sequence):
            return
        reply = message.reply
        if reply and not reply.startswith("_PEER."):
            reply = f"_PEER.{to_text(node.peer)}.{reply}"
        taken = self._takers(message)
        for subscription in taken:
            self.driver.on_message(subscription, message, reply or None)
        if message.reply and not taken:
            refusal = link.Frame()
            refusal.refusal.target, refusal.refusal.sequence = origin, message.sequence
            refusal.refusal.reply, refusal.refusal.asked = message.reply, message.asked
            self.send(refusal)

    def _is_new(self, origin, sequence):
        newest, seen = self.seen.get(origin, (0, set()))
        if sequence in seen or sequence + SEEN <= newest or (newest and sequence >= newest + SEEN):
            return False
        newest = max(newest, sequence)
        seen.add(sequence)
        if len(seen) > 2 * SEEN:
            seen = {one for one in seen if one + SEEN > newest}
        self.seen[origin] = newest, seen
        return True

    def _takers(self, message):
        """The subscriptions that a message is for: plain ones, and one of each group that is for this member."""
        here = message.HasField("target") and message.target == self.tag
        if message.HasField("target") and not here:
            return []
        assigned = {one.queue for one in message.assignment if one.node == self.tag}
        if here and message.subject in self.inboxes:
            return [message.subject]
        taken, served = [], set()
        for name, (subject_filter, queue) in self.subscriptions.items():
            if not matches(subject_filter, message.subject) or queue in served:
                continue
            if queue and not (here or queue in assigned):
                continue
            if queue:
                served.add(queue)
            taken.append(name)
        return taken

    # What goes out.

    def send(self, frame):
        """Sends a frame that needs no credit."""
        self.driver.send(framed(frame.SerializeToString()))

    def ping(self):
        """Asks the node to answer when it has taken everything before; returns the number to look for."""
        ping = link.Frame()
        ping.ping.number = next(self.pings)
        self.send(ping)
        return ping.ping.number

    def announce(self, snapshot=False):
        """Tells what this member wants now: the change, or all of it."""
        interest = {}
        for subject_filter, queue in self.subscriptions.values():
            key = (subject_filter, queue or "")
            interest[key] = interest.get(key, 0) + 1 if queue else 0
        frame = link.Frame()
        if interest != self.announced:
            base, self.version = self.version, self.version + 1
            frame.state.delta.base = base
            removed = [key for key in self.announced if key not in interest]
            changed = {key: n for key, n in interest.items() if self.announced.get(key) != n}
            _fill(frame.state.delta.removed, dict.fromkeys(removed, 0))
            _fill(frame.state.delta.set, changed)
            self.announced = interest
        if snapshot:
            frame.state.snapshot.SetInParent()
            _fill(frame.state.snapshot.entry, interest)
        record = link.Record(peer=self.peer, epoch=self.epoch, sequence=next(self.records), name="link-client")
        record.link.add(node=self.neighbour_tag, cost=1)
        record.interest_version, record.interest_digest = self.version, interest_digest(interest)
        self.sign(frame.state, record)
        self.send(frame)

    def sign(self, state, record):
        """Puts a record with this member's signature into a state."""
        state.record = record.SerializeToString()
        state.signature = self.key.sign(RECORD_LABEL + state.record)

    def subscribe(self, name, subject_filter, queue):
        """Begins a subscription under a name of the caller's."""
        self.subscriptions[name] = (subject_filter, queue)
        self.announce()

    def unsubscribe(self, name):
        """Ends it."""
        del self.subscriptions[name]
        self.announce()

    def publish(self, subject, payload, headers=b"", reply=""):
        """Publishes. Returns the message's sequence and how many nodes are asked for a reply."""
        frame = link.Frame()
        message = frame.message
        message.sequence, message.payload, message.headers = next(self.sequences), payload, headers
        message.reply = reply
        if subject.startswith("_PEER."):
            _, peer, subject = subject.split(".", 2)
            tags = {to_text(node.peer): tag for tag, node in self.nodes.by_tag().items()}
            message.target = tags[peer]
            asked = 1
        else:
            plain, groups = self.nodes.receivers(subject, self.tag, {self.neighbour_tag: 1})
            for queue, tag in groups.items():
                message.assignment.add(queue=queue, node=tag)
            asked = len(plain | set(groups.values()))
        message.subject = subject
        if reply:
            message.asked = asked
            if asked:
                self.asked[message.sequence] = asked
        self._send_message(framed(frame.SerializeToString()))
        return message.sequence, asked

    def _send_message(self, data):
        if self.sent >= self.limit:
            self.waiting.append(data)
            return
        self.sent += len(data)
        self.driver.send(data)

    def leave(self):
        """Says good-bye."""
        frame = link.Frame()
        frame.go_away.code, frame.go_away.text = LEAVING, "the test is over"
        self.send(frame)


def _fill(entries, interest):
    for (subject_filter, queue), members in interest.items():
        entries.add(filter=subject_filter, queue=queue, members=members)


ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def to_text(peer):
    """A peer id as text: base58btc. Ed25519's begin with a zero byte, which is a leading 1."""
    number, text = int.from_bytes(peer, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(peer) - len(peer.lstrip(b"\0"))) + text
