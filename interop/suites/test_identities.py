"""Who is let in: each way of proving an identity on each listener that carries it.

Right, wrong, missing and replayed; by official clients, and where the bytes matter by curl and a socket.
"""

import asyncio
import base64
import json

import nkeys
import pytest

from absent import absent
from drivers.curl import fetch
from drivers.raw import RawTcp
from identities import (
    NKEY,
    OTHER_SEED,
    PASSWORD,
    SEED,
    TOKEN,
    AsyncNats,
    WebSocketNats,
    hash_of,
    nats_py,
    quiet,
)

BASIC = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
IDENTITIES = {
    "password": ({"user": "ada", "password": PASSWORD}, True),
    "wrong password": ({"user": "ada", "password": "wrong"}, False),
    "no password": ({"user": "ada", "password": ""}, False),
    "unknown user": ({"user": "eve", "password": PASSWORD}, False),
    "password of a user without one": ({"user": "robot", "password": TOKEN}, False),
    "token": ({"token": TOKEN}, True),
    "wrong token": ({"token": "robot:wrong"}, False),
    "somebody's password as a token": ({"token": PASSWORD}, False),
    "nkey": ({"nkey": SEED}, True),
    "unknown nkey": ({"nkey": OTHER_SEED}, False),
    "nothing": ({}, False),
}


async def users(binary):
    password, token = await hash_of(binary, PASSWORD), await hash_of(binary, TOKEN)
    return f"""
[limits.auth]
max_failures_per_minute = 100000
[[auth.users]]
name = "ada"
password_hash = "{password}"
[[auth.users]]
name = "robot"
token_hash = "{token}"
[[auth.users]]
name = "key"
nkey = "{NKEY}"
"""


@pytest.fixture(scope="module")
def node_of():
    """The suite's node. The first test that wants it starts it, as the binary makes its users' hashes."""
    return {}


@pytest.fixture
async def node(world, node_of):
    if "node" not in node_of:
        from waymeet_node import Waymeet

        node = Waymeet(world.node.binary)
        await node.start(config=await users(world.node.binary))
        node_of["node"] = node
        close = world.close

        async def close_both():
            await close()
            await node.stop()

        world.close = close_both
    return node_of["node"]


@pytest.mark.parametrize("how", IDENTITIES)
async def test_nats_py(node, how):
    identity, expected = IDENTITIES[how]
    names = {"user": "user", "password": "password", "token": "token"}
    options = {names[name]: value for name, value in identity.items() if name in names}
    if "nkey" in identity:
        options["nkeys_seed_str"] = identity["nkey"]

    async def use():
        async with nats_py(node, **options) as client:
            await client.publish("a", b"x")
            await client.flush(30)

    assert await quiet(use()) == expected


@pytest.mark.parametrize("how", IDENTITIES)
@pytest.mark.parametrize("kind", [AsyncNats, WebSocketNats])
async def test_agents(node, kind, how):
    identity, expected = IDENTITIES[how]
    client = kind(identity)
    try:
        assert await quiet(client.open(node)) == expected
        if expected:
            await client.publish("a", b"x")
    finally:
        await client.close()


@pytest.mark.parametrize(
    "options,status",
    [
        (("-u", f"ada:{PASSWORD}"), 202),
        (("-H", f"Authorization: Basic {BASIC}"), 202),
        (("-u", "ada:wrong"), 401),
        (("-u", f"eve:{PASSWORD}"), 401),
        (("-H", f"Authorization: Bearer {TOKEN}"), 202),
        (("-H", "Authorization: Bearer robot:wrong"), 401),
        (("-H", "Authorization: Digest nonsense"), 401),
        (("-H", f"Authorization: Basic {BASIC}", "-H", "Authorization: Bearer x"), 401),
        (("-H", "Cookie: waymeet_login_1=forged"), 401),
        ((), 401),
    ],
)
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl(node, options, status, version):
    response = await fetch(f"{node.http}/pub/a", version, *options, body=b"x")
    assert response.status == status, response
    if status == 401:
        assert {c.split(" ")[0] for c in response.headers["www-authenticate"]} == {"Basic", "Bearer"}
        assert response.json()["reason"] == "unauthorized"
        assert PASSWORD not in response.body.decode()


async def test_a_browser_logs_in_with_a_cookie(node):
    refused = await fetch(f"{node.http}/login", body=b"user=ada&password=wrong")
    assert refused.status == 401
    form = f"user=ada&password={PASSWORD.replace(' ', '+').replace(':', '%3A')}".encode()
    taken = await fetch(f"{node.http}/login", body=form)
    assert taken.status == 204, taken
    cookie = taken.header("Set-Cookie")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    cookie = cookie.split(";")[0]
    assert (await fetch(f"{node.http}/pub/a", "-b", cookie, body=b"x")).status == 202
    assert (await fetch(f"{node.http}/metrics", "-b", cookie)).status == 200
    foreign = await fetch(f"{node.http}/pub/a", "-b", cookie, "-H", "Origin: http://evil.example", body=b"x")
    assert foreign.status == 403, "a cookie does not help a foreign page"
    assert (await fetch(f"{node.http}/logout", "-b", cookie, body=b"")).status == 204
    assert (await fetch(f"{node.http}/pub/a", "-b", cookie, body=b"x")).status == 401
    page = await fetch(f"{node.http}/login", "-H", "Accept: text/html", body=form)
    assert (page.status, page.header("Location")) == (303, "/")
    as_json = json.dumps({"token": TOKEN}).encode()
    assert (
        await fetch(f"{node.http}/login", "-H", "Content-Type: application/json", body=as_json)
    ).status == 204


@pytest.mark.parametrize(
    "path,status", [("/healthz", 200), ("/readyz", 200), ("/metrics", 401), ("/peers", 401)]
)
async def test_only_health_is_open_to_strangers(node, path, status):
    assert (await fetch(node.http + path)).status == status


async def test_the_console_asks_for_a_login(node):
    page = await fetch(f"{node.http}/")
    assert page.status == 200 and b'action="/login"' in page.body
    assert b'id="facts"' not in page.body, "nothing of the node is in it"
    page = await fetch(f"{node.http}/", "-u", f"ada:{PASSWORD}")
    assert b'id="facts"' in page.body


async def test_plain_coap_has_no_identity(node):
    import aiocoap

    context = await aiocoap.Context.create_client_context()
    try:
        for method, path in [
            (aiocoap.POST, "/pub/a"),
            (aiocoap.POST, "/req/a"),
            (aiocoap.GET, "/sub/a"),
            (aiocoap.GET, "/metrics"),
        ]:
            observe = 0 if path.startswith("/sub") else None
            message = aiocoap.Message(code=method, uri=node.coap + path, payload=b"", observe=observe)
            response = await asyncio.wait_for(context.request(message).response, 30)
            assert response.code == aiocoap.UNAUTHORIZED, f"{path}: {response.code}"
        message = aiocoap.Message(code=aiocoap.GET, uri=f"{node.coap}/healthz")
        assert (await asyncio.wait_for(context.request(message).response, 30)).code == aiocoap.CONTENT
    finally:
        await context.shutdown()


async def greeted(node):
    connection = await RawTcp.open(node.nats)
    line = await connection.until(b"\r\n")
    return connection, json.loads(line.removeprefix(b"INFO "))


def signed(nonce, seed=SEED):
    pair = nkeys.from_seed(bytearray(seed.encode()))
    signature = base64.urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=").decode()
    return json.dumps({"verbose": False, "nkey": NKEY, "sig": signature}).encode()


async def test_a_signature_is_good_for_one_session(node):
    first, info = await greeted(node)
    assert info["auth_required"] and len(info["nonce"]) >= 15
    connect = b"CONNECT " + signed(info["nonce"]) + b"\r\nPING\r\n"
    await first.send(connect)
    assert await first.until(b"PONG\r\n") == b"PONG\r\n"
    second, other = await greeted(node)
    assert other["nonce"] != info["nonce"]
    await second.send(connect)
    assert await second.rest() == b"-ERR 'Authorization Violation'\r\n"
    await first.close()


@pytest.mark.parametrize("words", [b"PING\r\n", b"SUB a 1\r\n", b"PUB a 1\r\nx\r\n", b"CONNECT {}\r\n"])
async def test_a_stranger_is_told_in_nats_servers_words(node, words):
    connection, _ = await greeted(node)
    await connection.send(words)
    assert await connection.rest() == b"-ERR 'Authorization Violation'\r\n"


async def test_who_says_nothing_is_not_waited_for(world):
    config = f"[limits.auth]\nlogin_timeout = '100ms'\n[[auth.users]]\nname = 'key'\nnkey = '{NKEY}'"
    async with world.another(config) as node:
        connection, _ = await greeted(node)
        await connection.send(b"CONN")
        assert await connection.rest() == b"-ERR 'Authentication Timeout'\r\n"


async def test_our_own_commands_log_in(node, binary, tmp_path):
    from drivers.process import run

    seed = tmp_path / "seed.nk"
    seed.write_text(SEED)
    for options, expected in [
        (["--user", f"ada:{PASSWORD}"], 0),
        (["--user", "ada:wrong"], 1),
        (["--token", TOKEN], 0),
        (["--nkey", str(seed)], 0),
        ([], 1),
    ]:
        code, _, err = await run(binary, "pub", "a", "x", "--server", node.nats, *options)
        assert code == expected, err
        assert PASSWORD.encode() not in err
    code, _, err = await run(
        binary, "pub", "a", "x", "--server", node.nats, "--user", "ada", stdin=f"{PASSWORD}\n".encode()
    )
    assert code == 0, err
    code, out, err = await run(binary, "bench", "pub", "--help")
    assert code == 0, err


async def test_no_secret_is_in_the_log_or_the_metrics(node):
    metrics = (await fetch(f"{node.http}/metrics", "-u", f"ada:{PASSWORD}")).body.decode()
    assert 'waymeet_logins_total{outcome="accepted"}' in metrics
    for secret in (PASSWORD, TOKEN, SEED, BASIC, "argon2id"):
        assert secret not in node.log and secret not in metrics


async def test_the_real_server_says_the_same(world, tmp_path):
    """The words above are nats-server's, of the same release."""
    import pathlib
    import sys

    program = pathlib.Path(sys.executable).parent / "nats-server"
    if not program.exists():
        absent("nats-server")
    from drivers.process import Child

    path = tmp_path / "nats.conf"
    path.write_text(f'listen: "127.0.0.1:-1"\nauthorization {{ timeout: 1, users: [{{ nkey: {NKEY} }}] }}\n')
    lines, ready = [], asyncio.Event()
    child = await Child.start(str(program), "-c", str(path))

    def on_line(line):
        lines.append(line.decode())
        if "Server is ready" in lines[-1]:
            ready.set()

    child.on_line(child.process.stderr, on_line)
    try:
        await asyncio.wait_for(ready.wait(), 30)
        import re

        address = re.search(r"client connections on (127\.0\.0\.1:\d+)", "\n".join(lines))[1]

        class Reference:
            nats = f"nats://{address}"

        connection, info = await greeted(Reference)
        assert info["auth_required"] and len(info["nonce"]) == 15
        await connection.send(b"PING\r\n")
        assert await connection.rest() == b"-ERR 'Authorization Violation'\r\n"
        connection, info = await greeted(Reference)
        assert await connection.rest() == b"-ERR 'Authentication Timeout'\r\n"
    finally:
        await child.stop()
