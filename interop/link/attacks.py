"""What a peer that means harm does with a link: the attacks of suites/test_mesh_abuse.py.

Owns the attacks. It must not know what the node should do about them.
"""

import os

import trio
from frames import framed, link, varint
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from member import Member
from views import RECORD_LABEL, interest_digest

CHUNK = 64 * 1024
# Milliseconds since 1970, some thousand years from now.
LATER = 2**45


class Attacks:
    """The commands that the agent has beside those of an honest client."""

    async def op_open(self, id, protocol):
        """Asks the node for another protocol on the connection; fails when it is not served."""
        stream = await self.host.new_stream(self.stream.muxed_conn.peer_id, [protocol])
        await stream.write(b"\x00")
        with trio.fail_after(5):
            data = await stream.read(1)
        if not data:
            raise ConnectionError("the stream was closed")

    async def op_replay(self, id, url):
        """Dials again under the same key, and says word for word what it said the first time."""
        former = self.member
        await self.host.disconnect(ID(former.neighbour))
        await self.ended.wait()

        class Replayed(Member):
            def begin(self, neighbour):
                self.neighbour, self.own_hello = neighbour, former.own_hello
                self.driver.send(framed(former.own_hello))

            def proof(self, *_):
                return link.Frame.FromString(former.own_proof).proof.hmac

        await self._link(self.pair, url, "", Replayed)
        await self._until(self.up)

    async def op_forge(self, id, victim=None):
        """Speaks of another node, under this member's own signature."""
        peer = self.member.neighbour if victim else create_peer()[1]
        # Of a later life than the victim's, because what is older is passed over before its signature is looked at.
        self._send_state(peer, self.member.key, ["forged.>"], epoch=LATER)
        await self.ended.wait()
        return {"why": self.why}

    async def op_want(self, id, filters, length):
        """Announces an interest of so many filters of this length, under its own name."""
        self.member.subscriptions = {i: (filter_of(i, length), None) for i in range(filters)}
        self.member.announce(snapshot=True)
        await self.ended.wait()
        return {"why": self.why}

    async def op_invent(self, id, nodes, filters, length):
        """Speaks for nodes that do not exist, each rightly signed and within the bounds of one node."""
        wanted = [filter_of(i, length) for i in range(filters)]
        for number in range(nodes):
            key, peer = create_peer()
            self._send_state(peer, key, [f"{number}.{one}" for one in wanted])
            # Not more at once than the node takes, so that this process stays small itself.
            await self._passed()

    async def op_oversize(self, id, length):
        """Sends a frame that is longer than the node takes; returns how much of it could be written."""
        await self.stream.write(varint(length))
        written = 0
        try:
            while written < length and not self.ended.is_set():
                await self.stream.write(bytes(CHUNK))
                written += CHUNK
        except StreamError:
            pass
        await self.ended.wait()
        return {"why": self.why, "written": written}

    async def op_stall(self, id):
        """Reads nothing more."""
        self.stall = trio.Event()

    def _send_state(self, peer, key, filters, epoch=1):
        interest = {(one, ""): 0 for one in filters}
        record = link.Record(peer=peer, epoch=epoch, sequence=1, interest_version=1, name="invented")
        record.interest_digest = interest_digest(interest)
        frame = link.Frame()
        frame.state.record = record.SerializeToString()
        frame.state.signature = key.sign(RECORD_LABEL + frame.state.record)
        frame.state.snapshot.SetInParent()
        for subject_filter, _ in interest:
            frame.state.snapshot.entry.add(filter=subject_filter)
        self.member.send(frame)


def create_peer():
    """A key that nobody had before, and its peer id."""
    pair = create_new_key_pair(os.urandom(32))
    return pair.private_key, ID.from_pubkey(pair.public_key).to_bytes()


def filter_of(number, length):
    """The filter of a number, filled up to a length."""
    text = f"f.{number}."
    return text + "x" * max(1, length - len(text))
