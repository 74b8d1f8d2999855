"""What a member knows of the mesh: the nodes, who is linked to whom, and who wants what.

Owns the tables that the states of others fill, and what is read from them. It must not send anything.
"""

import hashlib
import heapq
import itertools
from dataclasses import dataclass, field

from frames import varint

RECORD_LABEL = b"waymeet link 1 record"


def tag_of(peer, epoch):
    """The eight bytes that name one life of a node, as a number."""
    return int.from_bytes(hashlib.sha256(peer + epoch.to_bytes(8, "big")).digest()[:8], "big")


def interest_digest(interest):
    """The digest of `{(filter, queue): members}`."""
    hashed = hashlib.sha256()
    for (subject_filter, queue), members in sorted(interest.items(), key=_by_bytes):
        for text in (subject_filter.encode(), queue.encode()):
            hashed.update(varint(len(text)) + text)
        hashed.update(varint(members))
    return hashed.digest()


def _by_bytes(entry):
    (subject_filter, queue), _ = entry
    return subject_filter.encode(), queue.encode()


def matches(subject_filter, subject):
    """Whether a filter takes a subject."""
    wanted, tokens = subject_filter.split("."), subject.split(".")
    for want, token in itertools.zip_longest(wanted, tokens):
        if want == ">" and token is not None:
            return True
        if want is None or token is None or want not in ("*", token):
            return False
    return True


@dataclass
class Node:
    """The newest record of one node, and its interest."""

    peer: bytes
    epoch: int
    sequence: int = 0
    version: int = 0
    interest: dict = field(default_factory=dict)
    links: dict = field(default_factory=dict)


class Nodes:
    """All other nodes, by peer id."""

    def __init__(self, verify):
        # `verify(peer id, signature, bytes)` says whether that key signed these bytes.
        self.verify = verify
        self.by_peer = {}

    def take(self, state, record):
        """Takes a state over. Returns the tag to ask for when its interest cannot be derived, otherwise None."""
        known = self.by_peer.get(record.peer)
        if known and (known.epoch, known.sequence) >= (record.epoch, record.sequence):
            return None
        if not self.verify(record.peer, state.signature, RECORD_LABEL + state.record):
            raise ValueError("a state that its origin did not sign")
        node = known if known and known.epoch == record.epoch else Node(record.peer, record.epoch)
        interest = self._derive(node, state)
        if interest is None or interest_digest(interest) != record.interest_digest:
            if state.WhichOneof("change") == "snapshot":
                raise ValueError("a snapshot that is not what was signed")
            return tag_of(record.peer, record.epoch)
        node.interest, node.version, node.sequence = interest, record.interest_version, record.sequence
        node.links = {edge.node: edge.cost for edge in record.link}
        self.by_peer[record.peer] = node
        return None

    @staticmethod
    def _derive(node, state):
        change = state.WhichOneof("change")
        if change == "snapshot":
            return {(e.filter, e.queue): e.members for e in state.snapshot.entry}
        interest = dict(node.interest)
        if change == "delta":
            if state.delta.base != node.version:
                return None
            for entry in state.delta.removed:
                interest.pop((entry.filter, entry.queue), None)
            interest.update({(e.filter, e.queue): e.members for e in state.delta.set})
        return interest

    def by_tag(self):
        """The nodes by the tags of their present lives."""
        return {tag_of(node.peer, node.epoch): node for node in self.by_peer.values()}

    def distances(self, own_tag, own_links):
        """How far each node is that can be reached, by tag. A link counts when both ends announce it."""
        links = {tag: node.links for tag, node in self.by_tag().items()} | {own_tag: own_links}
        reached, near = {}, [(0, own_tag)]
        while near:
            distance, tag = heapq.heappop(near)
            if tag in reached:
                continue
            reached[tag] = distance
            for other, cost in links[tag].items():
                if tag in links.get(other, {}):
                    heapq.heappush(near, (distance + max(cost, links[other][tag]), other))
        del reached[own_tag]
        return reached

    def receivers(self, subject, own_tag, own_links):
        """Who gets a message on `subject`: the tags of nodes with plain interest, and one node for each group."""
        nodes, plain, groups = self.by_tag(), set(), {}
        for tag, distance in self.distances(own_tag, own_links).items():
            for (subject_filter, queue), members in nodes[tag].interest.items():
                if not matches(subject_filter, subject):
                    continue
                if queue:
                    groups.setdefault(queue, []).append((distance, -members, tag))
                else:
                    plain.add(tag)
        return plain, {queue: min(candidates)[2] for queue, candidates in groups.items()}
