"""What a reload does to those who are there: over WebSocket, over DTLS, and to TLS sessions whose certificate changes."""

import asyncio
import json
import re
import shutil
import signal
import ssl

import pytest

from absent import absent
from authority import Authority
from drivers.curl import Curl
from drivers.nats_py import connected
from drivers.process import Child
from drivers.raw import RawTcp
from identities import PASSWORD, WebSocketNats, hash_of, nats_py
from waymeet_node import Waymeet

KEY = "0123456789abcdef"
HEAD = """
[listeners.coap.dtls]
address = "127.0.0.1:0"
[[auth.users]]
name = "admin"
password_hash = "{hash}"
"""
USER = """
[[auth.users]]
name = "{name}"
password_hash = "{hash}"
psk_file = "{psk}"
subscribe = {{ allow = [{allow}] }}
"""


@pytest.fixture
async def node(binary):
    node = Waymeet(binary)
    yield node
    assert await node.stop() == 0


async def reload(node, config):
    before = node.log.count("the configuration was reloaded")
    (node.directory / "waymeet.toml").write_text(config)
    node.process.send_signal(signal.SIGHUP)
    while node.log.count("the configuration was reloaded") == before:
        await asyncio.wait_for(node._changed.wait(), 30)
        node._changed.clear()


class Observer:
    """coap-client observing over DTLS; `lines` is what it says."""

    @classmethod
    async def start(cls, node, program, user, filter_path):
        self = cls()
        self.lines, self._changed = [], asyncio.Event()
        url = re.search(r"coaps://\S+", node.log)[0] + f"/sub/{filter_path}"
        words = ["-u", user, "-k", KEY, "-s", "60", "-B", "60", "-v", "7"]
        self.child = await Child.start(program, *words, url)

        def on_line(line):
            self.lines.append(line.decode(errors="replace"))
            self._changed.set()

        self.child.on_line(self.child.process.stdout, on_line)
        self.child.on_line(self.child.process.stderr, on_line)
        await self.says("observation relationship established")
        return self

    async def says(self, text):
        async def wait():
            while not any(text in line for line in self.lines):
                self._changed.clear()
                await self._changed.wait()

        try:
            await asyncio.wait_for(wait(), 30)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in {self.lines[-8:]}") from None


async def test_observations_over_dtls_end_with_the_reason(binary, node, tmp_path):
    program = shutil.which("coap-client-gnutls") or absent("coap-client-gnutls")
    hashed = await hash_of(binary, PASSWORD)
    psk, other = tmp_path / "key.psk", tmp_path / "other.psk"
    psk.write_text(KEY.encode().hex())
    other.write_text("00" * 16)
    head = HEAD.format(hash=hashed)

    def user(name, file, allow):
        return USER.format(name=name, hash=hashed, psk=file, allow=allow)

    await node.start(config=head + user("limited", psk, '"a.>"') + user("rekeyed", psk, '"a.>"'))
    limited = await Observer.start(node, program, "limited", "a/b")
    rekeyed = await Observer.start(node, program, "rekeyed", "a/b")
    await reload(node, head + user("limited", psk, '"c.>"') + user("rekeyed", other, '"a.>"'))
    await limited.says("4.03")
    await rekeyed.says("4.01")
    for observer in (limited, rekeyed):
        await observer.child.stop(signal.SIGINT)


async def test_websocket_sessions(binary, node):
    hashed = await hash_of(binary, PASSWORD)
    user = '[[auth.users]]\nname = "{}"\npassword_hash = "' + hashed + '"\n{}\n'
    admin = user.format("admin", "")
    stays, leaves = ({"user": name, "password": PASSWORD} for name in ("stays", "leaves"))
    await node.start(config=admin + user.format("stays", "") + user.format("leaves", ""))
    staying, leaving = WebSocketNats(stays), WebSocketNats(leaves)
    await staying.open(node)
    await leaving.open(node)
    lost, kept = await staying.subscribe("lost.a"), await staying.subscribe("kept.a")
    await leaving.publish("kept.b", b"x")
    await reload(node, admin + user.format("stays", 'subscribe = { allow = ["kept.>", "_INBOX.>"] }'))
    async with nats_py(node, user="admin", password=PASSWORD) as client:
        await client.publish("lost.a", b"x")
        await client.publish("kept.a", b"x")
        await client.flush(30)
    assert (await kept.next()).subject == "kept.a"
    assert lost.deliveries.empty()
    with pytest.raises(AssertionError):
        await leaving.publish("kept.b", b"x")
    await staying.close()
    await leaving.close()


async def test_readers_of_events_and_lines_are_told_why(binary, node):
    """Whoever may do nothing more hears so: an SSE and an NDJSON stream end, a line is answered; both users are still there."""
    hashed = await hash_of(binary, PASSWORD)
    user = '[[auth.users]]\nname = "{}"\npassword_hash = "' + hashed + '"\n{}\n'
    lines = '[[listeners.lines]]\naddress = "127.0.0.1:0"\nsubject = "work"\nmode = "request"\nuser = "machine"\n'
    head = lines + user.format("admin", "") + user.format("reader", "{0}") + user.format("machine", "{1}")
    await node.start(config=head.replace("{0}", "").replace("{1}", ""))
    machine = await RawTcp.open("tcp://{}:{}".format(*node.raw_lines[0]))
    readers = [Curl(), Curl(stream="ndjson")]
    async with nats_py(node, user="admin", password=PASSWORD) as admin:
        asked = await admin.subscribe("work")
        await admin.flush(30)
        await machine.send(b"before\n")
        await (await asked.next_msg(30)).respond(b"done")
        assert await machine.until(b"\n") == b"done\n"
        streams = []
        for reader in readers:
            await reader.open(node)
            streams.append(await reader.subscribe_path("/sub/lost.a", "-u", f"reader:{PASSWORD}"))
        after = head.replace("{0}", 'subscribe = { allow = ["kept.>"] }').replace("{1}", 'publish = { deny = ["work"] }')
        await reload(node, after)
        for stream in streams:
            ended = await stream.next()
            assert (ended.subject, json.loads(ended.payload)) == ("event:end", {"reason": "no_permission"})
        await machine.send(b"after\n")
        assert await machine.until(b"\n") == b"-ERR not permitted\n"
        assert asked.pending_msgs == 0
        # The connection is the listener's, not the user's: it serves again as soon as the rules do.
        await reload(node, head.replace("{0}", "").replace("{1}", ""))
        await machine.send(b"again\n")
        await (await asked.next_msg(30)).respond(b"done")
        assert await machine.until(b"\n") == b"done\n"
    await machine.close()
    for reader in readers:
        await reader.close()


async def test_a_new_certificate_ends_no_session(node, tmp_path):
    authority = Authority(tmp_path / "ca")
    old, new = authority.sign("localhost"), authority.sign("localhost")
    names = {"certificate": tmp_path / "server.pem", "key": tmp_path / "server-key.pem"}

    def install(certificate):
        for part, path in names.items():
            shutil.copy(getattr(certificate, part), path)

    install(old)
    files = f'certificate_file = "{names["certificate"]}"\nkey_file = "{names["key"]}"\n'
    config = f"[listeners.nats.tls]\n{files}[listeners.http.tls]\nmode = 'optional'\n{files}"
    await node.start(config=config)

    async def connect():
        context = ssl.create_default_context(cafile=authority.file)
        return await connected(node.nats, tls=context, tls_hostname="localhost")

    def serial(client):
        return client._transport._io_writer.get_extra_info("peercert")["serialNumber"]

    before = await connect()
    install(new)
    await reload(node, config)
    after = await connect()
    assert serial(before) != serial(after)
    heard = await before.subscribe("a")
    await before.flush(30)
    await after.publish("a", b"x")
    await after.flush(10)
    assert (await heard.next_msg(30)).data == b"x", "who was there is still there"
    # A file that cannot be used changes nothing.
    names["key"].write_text("no key")
    node.process.send_signal(signal.SIGHUP)
    await node.says("the configuration was not reloaded")
    again = await connect()
    assert serial(again) == serial(after)
    for client in (before, after, again):
        await client.close()
