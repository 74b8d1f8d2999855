"""What an operator sees and does: sessions over every protocol, signals, and `waymeet top` on a pseudo terminal."""

import asyncio
import fcntl
import json
import os
import pathlib
import shutil
import struct
import sys
import termios

import nats
import pyte
import pytest
from aiocoap import GET, Context, Message

from absent import absent
from drivers.nats_py import connected
from drivers.process import run
from identities import PASSWORD, hash_of, nats_py
from plain_http import asked
from waymeet_node import Waymeet

CONFIG = """
[[listeners.lines]]
address = "127.0.0.1:0"
subject = "legacy.lines"
mode = "request"
"""

USERS = """
[limits.auth]
login_timeout = "60s"
[[auth.users]]
name = "operator"
password_hash = "{hash}"
publish = {{ allow = ["$SYS.SESSION.*.DISCONNECT"] }}
subscribe = {{ allow = ["$SYS.>"] }}
[[auth.users]]
name = "watcher"
password_hash = "{hash}"
publish = {{ allow = [] }}
subscribe = {{ allow = ["$SYS.SESSION.>"] }}
[[auth.users]]
name = "ada"
password_hash = "{hash}"
publish = {{ allow = ["a.>"] }}
subscribe = {{ allow = ["a.>", "_INBOX.>"] }}
[[auth.users]]
name = "bob"
password_hash = "{hash}"
publish = {{ allow = ["a.>"] }}
subscribe = {{ allow = ["a.>", "_INBOX.>"] }}
"""


async def sessions(node, query="", **kwargs):
    status, answer = await asked(node.http, f"/sessions?limit=1000&{query}", **kwargs)
    assert status == 200, answer
    return answer["sessions"]


async def counted(node, number, query, **kwargs):
    """The sessions, once there are so many: one that ends is listed a moment longer than its client knows."""
    async with asyncio.timeout(30):
        while len(found := await sessions(node, query, **kwargs)) != number:
            await asyncio.sleep(0.02)
    return found


async def only(node, query, **kwargs):
    return (await counted(node, 1, query, **kwargs))[0]


async def closed(reader):
    """Everything that comes up to the end."""
    return await asyncio.wait_for(reader.read(), 30)


async def test_a_nats_session_is_disconnected_and_comes_back(world):
    lost, back = asyncio.Event(), asyncio.Event()

    async def on_lost():
        lost.set()

    async def on_back():
        back.set()

    client = nats.NATS()
    await client.connect(
        world.node.nats,
        name="kicked",
        reconnect_time_wait=0.05,
        disconnected_cb=on_lost,
        reconnected_cb=on_back,
    )
    await client.subscribe("a.>")
    await client.flush()
    session = await only(world.node, "filter=name:kicked")
    assert (session["listener"], session["lang"], session["subscriptions"]) == ("nats", "python3", 1)
    assert (await asked(world.node.http, f"/sessions/{session['id']}", "DELETE"))[0] == 204
    await asyncio.wait_for(lost.wait(), 30)
    await asyncio.wait_for(back.wait(), 30)
    again = await only(world.node, "filter=name:kicked")
    assert again["id"] > session["id"]
    await world.node.says("a session is disconnected")
    await client.close()


async def test_a_websocket_session_is_listed(world):
    client = await world.client("ws-node")
    assert client
    found = await sessions(world.node, "filter=listener:websocket")
    assert found and found[0]["lang"], found


async def test_a_line_session_is_told(world):
    host, port = world.node.raw_lines[0]
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"hello\n")
    assert (await reader.readline()).startswith(b"-ERR no responders")
    session = await only(world.node, "filter=listener:lines")
    assert (session["messages_in"], session["bytes_in"]) == (1, 5), session
    assert (await asked(world.node.http, f"/sessions/{session['id']}", "DELETE"))[0] == 204
    assert await closed(reader) == b"-ERR disconnected\n"
    writer.close()


async def test_an_observation_is_a_session_and_is_told(world):
    context = await Context.create_client_context()
    request = context.request(Message(code=GET, uri=f"{world.node.coap}/sub/obs/**", observe=0))
    assert (await request.response).code.is_successful()
    session = await only(world.node, "filter=listener:coap")
    assert (session["subscriptions"], session["bytes_out"]) == (1, None)
    _, detail = await asked(world.node.http, f"/sessions/{session['id']}")
    assert detail["filters"] == [{"filter": "obs.>", "queue": None}]
    ended = asyncio.get_running_loop().create_future()
    request.observation.register_callback(lambda response: ended.done() or ended.set_result(response))
    request.observation.register_errback(lambda error: ended.done() or ended.set_result(error))
    assert (await asked(world.node.http, f"/sessions/{session['id']}", "DELETE"))[0] == 204
    await asyncio.wait_for(ended, 30)
    await counted(world.node, 0, "filter=listener:coap")
    await context.shutdown()


async def with_users(binary):
    """A node that knows all passwords already: a verdict is remembered, and takes long on a busy machine."""
    node = Waymeet(binary)
    await node.start(config=USERS.format(hash=await hash_of(binary, PASSWORD)))
    for user in ["operator", "watcher", "ada", "bob"]:
        assert (await asked(node.http, "/sessions", user=user))[0] == 200
    return node


async def test_who_may_see_and_end_what(binary):
    node = await with_users(binary)
    try:
        async with (
            nats_py(node, user="ada", password=PASSWORD, name="ada's") as ada,
            nats_py(node, user="bob", password=PASSWORD, name="bob's") as bob,
        ):
            everybody = {"ada's", "bob's"}

            async def names(user):
                return {s["name"] for s in await sessions(node, "filter=listener:nats", user=user)}

            assert (await asked(node.http, "/sessions"))[0] == 401
            assert await names("operator") == everybody
            assert await names("watcher") == everybody
            assert await names("ada") == {"ada's"}
            theirs = await only(node, "filter=listener:nats", user="ada")
            others = await only(node, "filter=listener:nats", user="bob")
            assert theirs["user"] == "ada"
            path = f"/sessions/{others['id']}"
            assert (await asked(node.http, path, user="ada"))[0] == 404
            assert (await asked(node.http, path, "DELETE", user="ada"))[0] == 404, (
                "it does not show that there is one"
            )
            assert (await asked(node.http, path, "DELETE", user="watcher"))[0] == 403
            assert (await asked(node.http, path, "DELETE", user="operator"))[0] == 204
            assert (await asked(node.http, f"/sessions/{theirs['id']}", "DELETE", user="ada"))[0] == 204
            await node.says("by=operator" if "by=" in node.log else '"by":"operator"')
            for name in ["varz", "connz", "subsz", "routez"]:
                assert (await asked(node.http, f"/{name}"))[0] == 401
                assert (await asked(node.http, f"/{name}", user="ada"))[0] == 403
                assert (await asked(node.http, f"/{name}", user="watcher"))[0] == 200
            for name in ["healthz", "readyz", "healthz?js-server-only=true"]:
                assert (await asked(node.http, f"/{name}"))[0] == 200, "health is outside auth"
            del ada, bob
    finally:
        assert await node.stop() == 0


async def test_drain_ends_the_node_of_a_directory(binary):
    node = Waymeet(binary)
    await node.start()
    directory = str(node.directory / "data")
    code, _, err = await run(str(binary), "drain", "--data-dir", directory)
    assert code == 0, err
    assert await asyncio.wait_for(node.process.wait(), 30) == 0, "it has ended, and in order"
    code, _, err = await run(str(binary), "drain", "--data-dir", directory)
    assert (code, b"no node runs in" in err) == (1, True), err
    code, _, err = await run(str(binary), "reload", "--data-dir", directory)
    assert (code, b"no node runs in" in err) == (1, True), err
    await node.stop()


async def test_reload_by_command(binary):
    node = Waymeet(binary)
    await node.start(config="")
    try:
        code, _, err = await run(str(binary), "reload", "--data-dir", str(node.directory / "data"))
        assert code == 0, err
        await node.says("the configuration was reloaded")
    finally:
        assert await node.stop() == 0


class Screen:
    """A program on a pseudo terminal, and what a person would see of it."""

    SIZE = (120, 40)

    def __init__(self, *argv):
        self.argv = argv
        self.screen = pyte.Screen(*self.SIZE)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._changed = asyncio.Event()

    async def __aenter__(self):
        self.master, slave = os.openpty()
        columns, lines = self.SIZE
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        self.process = await asyncio.create_subprocess_exec(
            *self.argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        asyncio.get_running_loop().add_reader(self.master, self._read)
        return self

    def _read(self):
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self.master)
        self.raw += data
        self.stream.feed(data)
        self._changed.set()

    async def shows(self, *texts):
        async def wait():
            while not all(text in "\n".join(self.screen.display) for text in texts):
                self._changed.clear()
                await self._changed.wait()

        try:
            await asyncio.wait_for(wait(), 30)
        except TimeoutError:
            raise AssertionError(f"{texts} are not in\n" + "\n".join(self.screen.display)) from None

    def press(self, keys):
        os.write(self.master, keys.encode())

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self.master)


async def test_top_in_a_terminal(binary):
    node = Waymeet(binary)
    await node.start()
    lost = asyncio.Event()

    async def on_lost():
        lost.set()

    try:
        ada = await connected(node.nats, name="ada", disconnected_cb=on_lost)
        await ada.subscribe("a.>")
        await ada.flush()
        async with Screen(str(binary), "top", "--server", node.http, "--interval", "200ms") as top:
            await top.shows("ada", "by messages_out, largest first", "lost nothing", "q quit")
            top.press("s")
            await top.shows("by messages_in, largest first")
            top.press("r")
            await top.shows("by messages_in, smallest first")
            top.press("/name:nobody")
            await top.shows("filter: name:nobody", " 0 sessions")
            top.press("\x1b")
            await top.shows("q quit", "ada")
            top.press("/name:ada\r")
            await top.shows(" 1 sessions")
            top.press("\t")
            await top.shows("0 other nodes")
            top.press("\t")
            await top.shows(" 1 sessions")
            top.press("x")
            await top.shows("disconnect session", "y/n")
            top.press("y")
            await top.shows("is disconnected", " 0 sessions")
            await asyncio.wait_for(lost.wait(), 30)
            top.press("q")
            assert await asyncio.wait_for(top.process.wait(), 30) == 0
            while b"\x1b[?1049l" not in top.raw:
                top._changed.clear()
                await asyncio.wait_for(top._changed.wait(), 30)
    finally:
        assert await node.stop() == 0
    code, _, err = await run(str(binary), "top", "--once", "--server", node.http)
    address = node.http.removeprefix("http://")
    assert (code, err.decode()) == (
        1,
        f"error: nothing listens on {address}: start a node with `waymeet`, or name another one with "
        "--server\n",
    )


async def test_top_says_who_it_is(binary):
    node = await with_users(binary)
    try:
        once = [str(binary), "top", "--once", "--interval", "100ms", "--server", node.http]
        code, _, err = await run(*once)
        assert code == 1 and b"wants to know who you are: say so with --user or --token" in err
        code, out, err = await run(*once, "--user", f"operator:{PASSWORD}")
        assert (code, err) == (0, b"") and b"sessions, by messages_out" in out, out
        code, out, _ = await run(*once, "--user", f"watcher:{PASSWORD}")
        assert code == 0 and b"waymeet top" in out, "it sees itself"
    finally:
        assert await node.stop() == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completions_are_scripts(binary, shell):
    code, out, err = await run(str(binary), "completions", shell)
    assert (code, err) == (0, b"") and b"waymeet" in out and b"drain" in out
    if program := shutil.which(shell):
        code, _, err = await run(program, "-n", stdin=out)
        assert (code, err) == (0, b"")


async def test_the_unit_exposes_little():
    program = shutil.which("systemd-analyze") or absent("systemd-analyze")
    unit = pathlib.Path(__file__).resolve().parents[2] / "packaging" / "waymeet.service"
    # In tenths: 0 is nothing exposed, 100 everything.
    code, out, err = await run(
        program, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)
    )
    assert code == 0, (out, err)
