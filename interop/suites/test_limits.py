"""Limits of the node as a whole, and accidents: it refuses, says why, counts it, and serves the others."""

import asyncio
import contextlib
import json
import re
import shutil
import signal

import pytest

from drivers import PATIENCE_S
from drivers.curl import Curl, fetch
from drivers.process import Child, run
from drivers.raw import RawTcp
from identities import nats_py
from waymeet_node import Waymeet

MIB = 1 << 20
HELLO = b'CONNECT {"verbose":false}\r\nPING\r\n'


@pytest.fixture
async def started(binary):
    """Starts nodes that end with the test, in order."""
    nodes = []

    async def start(config="", **how):
        nodes.append(Waymeet(binary))
        return await nodes[-1].start(config=config, **how)

    yield start
    for node in nodes:
        if node.child:
            assert await node.stop() == 0, node.log


async def metric(node, name):
    text = (await fetch(f"{node.http}/metrics")).body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def reached(node, limit):
    """How often a limit was met, by its key in the configuration."""
    return await metric(node, f'waymeet_limit_reached_total{{limit="{limit}"}}')


async def session(node, words=b""):
    connection = await RawTcp.open(node.nats)
    await connection.until(b"\r\n")
    await connection.send(words + HELLO)
    await connection.until(b"PONG\r\n")
    return connection


BUDGET = f"[limits]\nbuffer_bytes = {16 * MIB}\nwrite_deadline = '60s'\n"


async def test_subscribers_that_stall_share_what_memory_there_is(started):
    """Each may take much alone; together they are cut, as `overloaded`, and whoever reads hears everything."""
    node = await started(BUDGET)
    stalled = [await session(node, b"SUB flood 1\r\n") for _ in range(30)]
    async with nats_py(node) as reader, nats_py(node) as publisher:
        heard = await reader.subscribe("flood", pending_bytes_limit=-1)
        await reader.flush(30)
        most = 0.0
        # More than the kernel's buffers of all who stall, and the whole budget.
        for round_number in range(60):
            for _ in range(10):
                await publisher.publish("flood", b"x" * 100_000)
            await publisher.flush(10)
            for _ in range(10):
                await heard.next_msg(10)
            if round_number % 5 == 0:
                most = max(most, await metric(node, "waymeet_buffered_bytes"))
        assert most <= 12 * MIB, "three quarters of the budget"
        assert await metric(node, 'waymeet_messages_dropped_total{listener="nats",reason="overloaded"}') > 0
        assert await reached(node, "limits.buffer_bytes") > 0
        assert await reached(node, "limits.outbox_bytes") == 0, "the budget cuts first"
        assert (await fetch(f"{node.http}/pub/flood", body=b"x")).status == 202
    for connection in stalled:
        await connection.close()
    # Everything is given back.
    async with asyncio.timeout(PATIENCE_S):
        while await metric(node, "waymeet_buffered_bytes") != 0:
            await asyncio.sleep(0.05)


async def test_large_payloads_that_never_end_are_bounded(started):
    """A quarter of the budget is for what arrives. What has no room is refused, and small messages need none."""
    node = await started(BUDGET)
    begun = []
    for _ in range(4):
        connection = await session(node)
        await connection.send(b"PUB slow 1000000\r\n" + b"x" * 300_000)
        begun.append(connection)
    async with asyncio.timeout(PATIENCE_S):
        while await metric(node, "waymeet_arriving_bytes") <= 3.9 * MIB * 0.95:
            await asyncio.sleep(0.02)
    refused = await session(node)
    await refused.send(b"PUB slow 1000000\r\n" + b"x" * 300_000)
    assert b"-ERR 'Server Overloaded'\r\n" in await refused.rest()
    assert await metric(node, 'waymeet_messages_rejected_total{listener="nats",reason="overloaded"}') == 1
    # No room in one piece: curl sends it in several.
    answer = await fetch(f"{node.http}/pub/large", "-H", "Expect:", body=b"x" * 900_000)
    assert answer.status == 503 and answer.json()["reason"] == "overloaded", answer
    assert answer.header("Retry-After") == "1"
    assert await reached(node, "limits.buffer_bytes") == 2
    async with contextlib.AsyncExitStack() as stack:
        # Whoever came before goes on.
        await begun[0].send(b"x" * 700_000 + b"\r\nPING\r\n")
        await begun[0].until(b"PONG\r\n")
        client = await stack.enter_async_context(nats_py(node))
        heard = await client.subscribe("small")
        await client.publish("small", b"x")
        await client.flush(30)
        assert (await heard.next_msg(30)).data == b"x"
    for connection in begun:
        await connection.close()


async def test_readers_of_events_are_bounded(started):
    node = await started("[limits.http]\nmax_event_streams = 1\n")
    reader = Curl()
    await reader.open(node)
    await reader.subscribe("a")
    assert await metric(node, "waymeet_event_streams") == 1
    refused = await fetch(f"{node.http}/sub/a")
    assert refused.status == 503 and refused.json()["reason"] == "overloaded"
    assert await reached(node, "limits.http.max_event_streams") == 1
    await reader.close()


async def test_requests_under_way_are_bounded(started):
    node = await started("[limits]\nmax_requests = 1\n")
    async with nats_py(node) as client:
        asked = await client.subscribe("ask")
        await client.flush(30)
        waiting = asyncio.create_task(fetch(f"{node.http}/req/ask?timeout=1m", body=b"1"))
        first = await asked.next_msg(30)
        refused = await fetch(f"{node.http}/req/ask", body=b"2")
        assert refused.status == 503 and refused.json()["reason"] == "overloaded"
        assert await reached(node, "limits.max_requests") == 1
        await first.respond(b"answer")
        assert (await waiting).body == b"answer"


async def test_file_descriptors_run_out(binary, tmp_path):
    """The node says so once, keeps those it has, and takes new ones when there is room again."""
    limited = Waymeet(binary)
    program = tmp_path / "limited"
    program.write_text(f'#!/bin/sh\nulimit -n 96\nexec "{binary}" "$@"\n')
    program.chmod(0o755)
    limited.binary = str(program)
    node = await limited.start(flags={"--mesh": "off", "--coap": "off"})
    first = await session(node)
    crowd = [await RawTcp.open(node.nats) for _ in range(150)]
    await node.says("accepting connections pauses")
    await first.send(b"PING\r\n")
    await first.until(b"PONG\r\n")
    for connection in crowd:
        await connection.close()
    late = await session(node)
    await late.send(b"PING\r\n")
    await late.until(b"PONG\r\n")
    assert node.log.count("accepting connections pauses") <= 2, "once for a listener"
    assert await metric(node, 'waymeet_accept_failures_total{listener="nats"}') >= 1
    assert await node.stop() == 0


async def test_the_log_s_disk_is_full(binary, tmp_path):
    """Standard error that takes nothing, and an output that nobody reads: the node serves and ends in order."""
    port = tmp_path / "data"
    argv = f'"{binary}" serve --data-dir {port} --nats 127.0.0.1:0 --http 127.0.0.1:0 --coap off --mesh off'
    child = await Child.start("sh", "-c", f"exec {argv} 2>/dev/full", env={"WAYMEET_LOG__LEVEL": "trace"})
    found, lines = asyncio.get_running_loop().create_future(), []

    def on_line(line):
        lines.append(line.decode())
        if (at := re.search(r"nats://(127\.0\.0\.1:\d+)", lines[-1])) and not found.done():
            found.set_result(at[1])

    child.on_line(child.process.stdout, on_line)
    address = await asyncio.wait_for(found, 30)

    class Node:
        nats = f"nats://{address}"

    async with nats_py(Node) as client:
        heard = await client.subscribe("a")
        for _ in range(100):
            await client.publish("a", b"x")
        await client.flush(30)
        for _ in range(100):
            await heard.next_msg(30)
    assert await child.stop(signal.SIGTERM, patience_s=10) == 0


SECRETS = {
    "password": "a-password-nobody-may-read",
    "token": "robot:a-token-nobody-may-read",
    "seed": "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
    "psk": "psk-nobody-reads",
    "mesh": "a-mesh-secret-nobody-may-read",
    "environment": "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$bm9ib2R5bWF5cmVhZHRoaXNoYXNo",
}


async def test_no_secret_comes_out(binary, started, tmp_path):
    """A node that has one of every kind, used and misused, at its most talkative; then everything that it has said."""
    from identities import NKEY, hash_of

    (tmp_path / "sensor.psk").write_text(SECRETS["psk"].encode().hex())
    (tmp_path / "mesh.secret").write_text(SECRETS["mesh"] + "\n")
    await run(binary, "auth", "dev-certs", str(tmp_path / "certs"))
    key = (tmp_path / "certs" / "server-key.pem").read_text().splitlines()[1]
    hashes = [await hash_of(binary, SECRETS[name]) for name in ("password", "token")]
    tls = f'certificate_file = "{tmp_path}/certs/server.pem"\nkey_file = "{tmp_path}/certs/server-key.pem"\n'
    config = f"""
[log]
level = "trace"
[mesh]
secret_file = "{tmp_path}/mesh.secret"
[listeners.coap.dtls]
address = "127.0.0.1:0"
[listeners.http.tls]
mode = "optional"
{tls}
[[auth.users]]
name = "ada"
password_hash = "{hashes[0]}"
[[auth.users]]
name = "robot"
token_hash = "{hashes[1]}"
[[auth.users]]
name = "key"
nkey = "{NKEY}"
[[auth.users]]
name = "sensor"
psk_file = "{tmp_path}/sensor.psk"
"""
    node = await started(config)
    said = []
    ada = {"user": "ada", "password": SECRETS["password"]}
    for who in (ada, {"token": SECRETS["token"]}, {"nkeys_seed_str": SECRETS["seed"]}):
        async with nats_py(node, **who) as client:
            await client.publish("a", b"x")
            await client.flush(30)
    # Where they do not belong.
    basic = ["-u", f"ada:{SECRETS['password']}"]
    cookie = None
    for path, *options in [
        ["/pub/a", *basic],
        ["/pub/a", "-u", f"eve:{SECRETS['password']}"],
        ["/pub/a", "-H", f"Authorization: Bearer {SECRETS['token']}"],
        ["/pub/a", "-H", f"Authorization: Digest {SECRETS['password']}"],
        [f"/pub/a?token={SECRETS['password']}", *basic],
        ["/login", "-H", "Content-Type: application/json"],
        ["/metrics", "-X", "GET", *basic],
        ["/peers", "-X", "GET", *basic],
        ["/", "-X", "GET", *basic],
        ["/healthz", "-X", "GET"],
    ]:
        answer = await fetch(
            node.http + path, *options, body=json.dumps(ada).encode() if path == "/login" else b""
        )
        cookie = (answer.header("Set-Cookie") or "").split(";")[0].partition("=")[2] or cookie
        said.append(answer.body.decode())
    misused = await RawTcp.open(node.nats)
    await misused.until(b"\r\n")
    await misused.send(
        b'CONNECT {"user":"ada","pass":"%s","auth_token":5}\r\n' % SECRETS["password"].encode()
    )
    said.append((await misused.rest()).decode())
    client = shutil.which("coap-client-gnutls")
    if client:
        coaps = re.search(r"coaps://\S+", node.log)[0]
        for pressed in (SECRETS["psk"], "another-key-here"):
            _, out, err = await run(client, "-B", "1", "-u", "sensor", "-k", pressed, f"{coaps}/healthz")
            said += [out.decode(errors="replace")]
    node.process.send_signal(signal.SIGHUP)
    await node.says("the configuration was reloaded")
    code, out, err = await run(
        binary, "check", "-c", str(node.directory / "waymeet.toml"),
        env={"PATH": "/usr/bin:/bin", "WAYMEET_AUTH__TOKEN": SECRETS["environment"]},
    )  # fmt: skip
    said += [out.decode(), err.decode()]
    code, out, err = await run(binary, "check", "-c", str(node.directory / "waymeet.toml"))
    assert code == 0
    said += [out.decode(), err.decode(), node.log]
    everything = "\n".join(said)
    hidden = [*SECRETS.values(), *hashes, key, cookie, SECRETS["psk"].encode().hex(), "$argon2id$"]
    for secret in hidden:
        assert secret and secret not in everything, secret
    assert "sensor" in everything, "names are no secrets, so that the test reads what it should"
