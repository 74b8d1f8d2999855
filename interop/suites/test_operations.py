"""What an operator sees and does: sessions over every protocol, monitoring answers, metrics, signals, and
`waymeet top` on a pseudo terminal."""

import asyncio
import datetime
import fcntl
import json
import os
import pathlib
import shutil
import struct
import sys
import termios
import urllib.error
import urllib.request

import nats
import pyte
import pytest
from aiocoap import GET, Context, Message

from absent import absent
from drivers.nats_py import connected
from drivers.process import run
from identities import PASSWORD, hash_of, nats_py
from waymeet_node import NatsServer, Waymeet

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


def ask(base, path, method="GET", user=None):
    """One request; the status and the body, as JSON where it is."""
    request = urllib.request.Request(f"{base}{path}", method=method)
    if user:
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, base, user, PASSWORD, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    else:
        opener = urllib.request.build_opener()
    try:
        with opener.open(request, timeout=60) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body.decode()


async def asked(*args, **kwargs):
    return await asyncio.to_thread(ask, *args, **kwargs)


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


def kind(value):
    return (
        "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
    )


# What this node has no figure for, so that it leaves it out (docs/operations.md).
ABSENT = {
    "varz": {
        "git_commit", "go", "gomaxprocs", "stale_connections", "stalled_clients", "http_req_stats",
        "config_load_time", "config_digest", "feature_flags", "stale_connection_stats", "disk_io_wait_stats",
    },
    "connz": set(),
    "connection": {"rtt"},
    "subsz": {"num_cache", "num_inserts", "num_removes", "num_matches", "cache_hit_rate", "max_fanout",
              "avg_fanout"},
    "subscription": {"account_tag"},
    "routez": set(),
}  # fmt: skip


def same_shape(what, real, ours):
    """What nats-server has is here too, with the same type of value, but for what is known to be absent."""
    missing = {name for name in real if name not in ours}
    assert missing <= ABSENT[what], f"{what}: {missing - ABSENT[what]} are missing"
    for name in set(real) & set(ours):
        assert kind(real[name]) == kind(ours[name]), (
            f"{what}.{name}: {real[name]!r} there, {ours[name]!r} here"
        )


async def load(address):
    """The same traffic for both: a client with two subscriptions, one message received."""
    client = await connected(address, name="ada")
    received = await client.subscribe("a.*")
    await client.subscribe("b.>", queue="workers")
    await client.publish("a.x", b"hello")
    await received.next_msg(30)
    return client


async def test_monitoring_answers_have_nats_server_s_shape(world):
    # Its makers publish it on PyPI, beside the clients.
    beside = pathlib.Path(sys.executable).parent
    nats_server = shutil.which("nats-server", path=str(beside)) or absent("nats-server")
    real = NatsServer(nats_server)
    await real.start()
    try:
        base = {"real": real.monitor, "ours": world.node.http}
        clients = [await load(real.nats), await load(world.node.nats)]

        async def both(path):
            answers = [await asked(base[which], path) for which in ["real", "ours"]]
            assert [status for status, _ in answers] == [200, 200], answers
            return [answer for _, answer in answers]

        same_shape("varz", *await both("/varz"))
        for query in [
            "",
            "?sort=bytes_to&limit=1024",
            "?subs=1",
            "?subs=detail",
            "?limit=100&offset=0&auth=1",
        ]:
            there, here = await both(f"/connz{query}")
            same_shape("connz", there, here)
            mine = [c for c in here["connections"] if c.get("name") == "ada"] or here["connections"]
            same_shape(
                "connection", {k: v for k, v in there["connections"][0].items() if k != "name_tag"}, mine[0]
            )
        there, here = await both("/connz?subs=1")
        mine = next(c for c in here["connections"] if c.get("name") == "ada")
        assert sorted(mine["subscriptions_list"]) == sorted(there["connections"][0]["subscriptions_list"])
        same = [
            "kind",
            "type",
            "ip",
            "in_msgs",
            "out_msgs",
            "in_bytes",
            "subscriptions",
            "name",
            "lang",
            "version",
        ]
        assert {k: mine[k] for k in same} == {k: there["connections"][0][k] for k in same}
        there, here = await both("/subsz?subs=1")
        same_shape("subsz", there, here)
        # Neither lists them in any order.
        grouped = [
            next(one for one in answer["subscriptions_list"] if one.get("qgroup") == "workers")
            for answer in (there, here)
        ]
        same_shape("subscription", *grouped)
        there, here = await both("/subsz?test=a.x")
        assert {s["subject"] for s in here["subscriptions_list"]} >= {"a.*"}
        same_shape("routez", *await both("/routez"))
        assert await both("/healthz?js-server-only=true") == [{"status": "ok"}] * 2
        for query in ["sort=bogus", "limit=x"]:
            assert [(await asked(base[which], f"/connz?{query}"))[0] for which in base] == [400, 400]
        for client in clients:
            await client.close()
    finally:
        await real.stop()


# What nats-top asks /connz to sort by (`server.SortOpt`), the closed connections' reasons aside.
TOP_SORTS = [
    "cid", "start", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from", "last", "idle",
    "uptime", "rtt",
]  # fmt: skip
# What it decodes and shows, with Go's types: `server.Varz` and `server.ConnInfo` in nats-server's server/monitor.go.
TOP_VARZ = {
    "server_id": str, "server_name": str, "version": str, "uptime": str, "cpu": float, "mem": int,
    "slow_consumers": int, "connections": int, "subscriptions": int,
    "in_msgs": int, "out_msgs": int, "in_bytes": int, "out_bytes": int, "now": "time", "start": "time",
}  # fmt: skip
TOP_CONNECTION = {
    "cid": int, "ip": str, "port": int, "name": str, "subscriptions": int, "pending_bytes": int,
    "in_msgs": int, "out_msgs": int, "in_bytes": int, "out_bytes": int, "lang": str, "version": str,
    "uptime": str, "idle": str, "start": "time", "last_activity": "time", "subscriptions_list": list,
}  # fmt: skip


def decodes(answer, fields):
    """Whether Go's encoding/json takes the answer: an integer has no fraction, a float may be one, a time is RFC 3339."""
    for name, wanted in fields.items():
        value = answer[name]
        if wanted == "time":
            assert datetime.datetime.fromisoformat(value).tzinfo, (name, value)
        elif wanted is float:
            assert type(value) in (int, float), (name, value)
        else:
            assert type(value) is wanted, (name, value)


async def test_nats_top_finds_what_it_reads(world):
    """nats-top is to be had from none of the registries that the suites use; this is what it asks and decodes."""
    client = await load(world.node.nats)
    status, varz = await asked(world.node.http, "/varz")
    assert status == 200
    decodes(varz, TOP_VARZ)
    for sort in TOP_SORTS:
        status, connz = await asked(world.node.http, f"/connz?limit=1024&sort={sort}&subs=1")
        assert status == 200, sort
        found = next(one for one in connz["connections"] if one.get("name") == "ada")
        decodes(found, TOP_CONNECTION)
    await client.close()


async def test_the_metrics_are_as_promtool_wants_them(world, subject):
    world.needs("promtool")
    client = await connected(world.node.nats)
    await client.subscribe(subject)
    await client.publish(subject, b"x")
    await client.flush()
    _, text = await asked(world.node.http, "/metrics")
    code, out, err = await run("promtool", "check", "metrics", stdin=text.encode())
    assert (code, out, err) == (0, b"", b""), "not a word of advice"
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "waymeet_build_info"]:
        assert f"\n{name}" in text, name
    await client.close()


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
