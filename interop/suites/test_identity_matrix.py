"""Each way of proving who one is, on each listener: right, wrong, expired, missing and replayed.

The table below is the claim, with a reason in every cell that is empty; the tests carry out every other cell with
each official client of the listener. A cell says whether the client got in, which a witness on the node decides: did
what the client published arrive?
"""

import asyncio
import base64
import contextlib
import itertools
import json
import re
import shutil
import signal
import ssl
from dataclasses import dataclass, field

import nats
import pytest
import pytest_asyncio

from absent import absent
from authority import Authority
from drivers.agent import JS, TARGET, Agent
from drivers.curl import fetch
from drivers.nats_py import connected
from drivers.process import run
from drivers.raw import RawTcp
from identities import NKEY, OTHER_SEED, PASSWORD, SEED, TOKEN, hash_of, nats_py
from mesh import Mesh, peers
from recorder import TcpRecorder, UdpRecorder
from waymeet_node import Waymeet

IN, OUT = True, False
CASES = ("right", "wrong", "expired", "missing", "replayed")
WAYS = ("password", "token", "nkey", "certificate", "cookie", "psk", "mesh secret", "peer id")
LISTENERS = (
    "nats", "nats tls", "nats mtls", "websocket", "wss", "http", "https", "coap", "coaps", "lines", "datagrams", "mesh",
)  # fmt: skip


@dataclass(frozen=True)
class No:
    """Why a cell, or a row of cells, has no meaning."""

    why: str


@dataclass(frozen=True)
class Row:
    """What becomes of each case, for each of the clients."""

    clients: tuple[str, ...]
    right: bool | No = IN
    wrong: bool | No = OUT
    # What was good until a reload or its last day.
    expired: bool | No = OUT
    missing: bool | No = OUT
    replayed: bool | No = OUT


NATS = ("nats-py", "async-nats")
BROWSER = ("nats.js",)
CURL = ("curl",)
DTLS = ("coap-client-gnutls", "coap-client-openssl")
NODE = ("waymeet",)
# Whoever reads a secret on the way can say it again: only encryption helps, as SECURITY.md says.
BEARER = IN

PLAIN_TLS = No("there is no certificate without TLS")
ASKS_NOT = No("this listener does not ask for client certificates; `nats mtls` does")
NOT_NATS = No("NATS's CONNECT has a user, a token or an NKey, and no place for it")
NOT_HTTP = No("HTTP has no authentication scheme for it")
UNASKED = No("plain CoAP has no place for credentials: its clients are anonymous where that is let in")
ONLY_PSK = No("DTLS carries a pre-shared key or a certificate, and certificates over DTLS are not built")
CONFIGURED = No("a raw listener has the user that its configuration names, and no place for credentials")
MEMBERS = No("a link is between nodes: it proves the node's key, and the mesh secret")
FROM_PAGES = No("a cookie belongs to an HTTP origin; NATS over TCP has none")
ONLY_DTLS = No("the key is DTLS's, which only `coaps` speaks")
ONLY_MESH = No("this is proved between nodes, on links")

TABLE = {
    ("password", "nats"): Row(NATS, replayed=BEARER),
    ("password", "nats tls"): Row(NATS),
    ("password", "nats mtls"): Row(
        NATS, missing=No("the client's certificate says who it is when CONNECT says nothing: see that row")
    ),
    ("password", "websocket"): Row(BROWSER, replayed=BEARER),
    ("password", "wss"): Row(BROWSER),
    ("password", "http"): Row(CURL, replayed=BEARER),
    ("password", "https"): Row(CURL),
    ("token", "nats"): Row(NATS, replayed=BEARER),
    ("token", "nats tls"): Row(NATS),
    ("token", "nats mtls"): Row(NATS, missing=No("as for the password")),
    ("token", "websocket"): Row(BROWSER, replayed=BEARER),
    ("token", "wss"): Row(BROWSER),
    ("token", "http"): Row(CURL, replayed=BEARER),
    ("token", "https"): Row(CURL),
    # A signature is of a nonce that is used once.
    ("nkey", "nats"): Row(NATS),
    ("nkey", "nats tls"): Row(NATS),
    ("nkey", "nats mtls"): Row(NATS, missing=No("as for the password")),
    ("nkey", "websocket"): Row(BROWSER),
    ("nkey", "wss"): Row(BROWSER),
    ("nkey", "http"): NOT_HTTP,
    ("nkey", "https"): NOT_HTTP,
    ("certificate", "nats"): PLAIN_TLS,
    ("certificate", "nats tls"): ASKS_NOT,
    ("certificate", "nats mtls"): Row(NATS),
    ("certificate", "websocket"): PLAIN_TLS,
    ("certificate", "wss"): Row(BROWSER),
    ("certificate", "http"): PLAIN_TLS,
    ("certificate", "https"): Row(CURL),
    ("cookie", "nats"): FROM_PAGES,
    ("cookie", "nats tls"): FROM_PAGES,
    ("cookie", "nats mtls"): FROM_PAGES,
    ("cookie", "websocket"): Row(BROWSER, replayed=BEARER),
    ("cookie", "wss"): Row(BROWSER),
    ("cookie", "http"): Row(CURL, replayed=BEARER),
    ("cookie", "https"): Row(CURL),
    ("psk", "coaps"): Row(DTLS),
    ("mesh secret", "mesh"): Row(NODE, expired=No("a secret has no life time, and another one holds from the next start")),
    ("peer id", "mesh"): Row(
        NODE,
        expired=No("a node's key has no life time; `mesh.block` names one that is to be let in no more: see wrong"),
        missing=No("a link begins with the proof of a key: there is none without"),
    ),
    **{(way, "coap"): UNASKED for way in WAYS},
    **{(way, "coaps"): ONLY_PSK for way in WAYS if way != "psk"},
    **{(way, raw): CONFIGURED for way in WAYS for raw in ("lines", "datagrams")},
    **{(way, "mesh"): MEMBERS for way in WAYS[:6]},
    **{("psk", one): ONLY_DTLS for one in LISTENERS[:7]},
    **{(way, one): ONLY_MESH for way in WAYS[6:] for one in LISTENERS[:7]},
}  # fmt: skip

CELLS = [
    pytest.param(way, listener, client, case, id=f"{way}-{listener}-{client}-{case}".replace(" ", "_"))
    for (way, listener), row in TABLE.items()
    if isinstance(row, Row)
    for client in row.clients
    for case in CASES
    if not isinstance(getattr(row, case), No)
]


def test_no_cell_is_missing():
    assert set(TABLE) == set(itertools.product(WAYS, LISTENERS))
    for cell, row in TABLE.items():
        for reason in [row] if isinstance(row, No) else [getattr(row, case) for case in CASES]:
            assert isinstance(reason, bool) or reason.why, cell


NUMBERS = itertools.count(1)
PSK, OTHER_PSK, FORMER_PSK = "0123456789abcdef", "fedcba9876543210", "0011223344556677"
FORMER_TOKEN = "former:a-token-that-was-good"
# nkeys of this test alone.
FORMER_SEED, FORMER_NKEY = (
    "SUAAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSAIJCEMSCKJR2OM",
    "UAANAWQ5D2RFCOLNKV5PXVCYRM6G3GO35OLS73IQUMSWF2RG3TOPUNZ4",
)
PROOFS = {
    "password": {
        "right": [{"user": "ada", "password": PASSWORD}],
        "wrong": [
            {"user": "ada", "password": "wrong"},
            {"user": "ada", "password": ""},
            {"user": "nobody", "password": PASSWORD},
            {"user": "robot", "password": TOKEN},
        ],
        "expired": [{"user": "former", "password": PASSWORD}],
    },
    "token": {
        "right": [{"token": TOKEN}],
        "wrong": [{"token": "robot:wrong"}, {"token": PASSWORD}],
        "expired": [{"token": FORMER_TOKEN}],
    },
    "nkey": {"right": [{"nkey": SEED}], "wrong": [{"nkey": OTHER_SEED}], "expired": [{"nkey": FORMER_SEED}]},
    "psk": {
        "right": [{"identity": "sensor", "psk": PSK}],
        "wrong": [{"identity": "sensor", "psk": OTHER_PSK}, {"identity": "nobody", "psk": PSK}],
        "expired": [{"identity": "former", "psk": FORMER_PSK}],
    },
}


@dataclass
class Place:
    """The nodes of the suite: one without TLS, one with, and one whose listeners ask for certificates."""

    plain: Waymeet
    tls: Waymeet
    mtls: Waymeet
    authority: Authority
    certificates: dict
    witnesses: dict = field(default_factory=dict)
    cookies: dict = field(default_factory=dict)

    def node(self, listener):
        by_listener = {"nats tls": self.tls, "nats mtls": self.mtls, "wss": self.mtls, "https": self.mtls}
        return by_listener.get(listener, self.plain)

    def address(self, listener):
        kind = {"websocket": "http", "wss": "http", "https": "http"}.get(listener, listener.split(" ")[0])
        return getattr(self.node(listener), kind).split("//")[1]

    def proofs(self, way, listener, case):
        """What the client shows; several in turn where a case has several forms."""
        if case == "missing":
            return [{}]
        case = "right" if case == "replayed" else case
        if way == "certificate":
            return [{"certificate": self.certificates[name]} for name in CERTIFICATES[case]]
        if way == "cookie":
            # Of the node that is asked; one of another node is as wrong as an invented one.
            mine, others = self.node(listener), self.plain if self.node(listener) is self.mtls else self.mtls
            name, theirs = self.cookies[mine]["ada"].split("=")[0], self.cookies[others]["ada"].split("=")[1]
            cookies = {
                "right": [self.cookies[mine]["ada"]],
                "wrong": [f"{name}=forged", f"{name}={theirs}"],
                "expired": [self.cookies[mine]["former"], self.cookies[mine]["left"]],
            }
            return [{"cookie": cookie} for cookie in cookies[case]]
        return PROOFS[way][case]

    async def arrives(self, listener, publish):
        """Whether what `publish(subject)` publishes arrives."""
        witness, subject = self.witnesses[self.node(listener)], f"matrix.{next(NUMBERS)}"
        heard = await witness.subscribe(subject)
        await witness.flush(30)
        await publish(subject)
        # What was refused will not come later: a node has carried out what it has answered.
        await witness.publish(subject, b"marker")
        await witness.flush(30)
        first = (await heard.next_msg(30)).data
        await heard.unsubscribe()
        return first == b"proof"


# The certificates of the suite by case; `ada` is a user's, `stranger` is nobody's, `other` another authority's.
CERTIFICATES = {"right": ["ada"], "wrong": ["stranger", "other"], "expired": ["old", "former"]}


def section(listener, certificate, *more):
    lines = [f'certificate_file = "{certificate.certificate}"', f'key_file = "{certificate.key}"', *more]
    return f"[listeners.{listener}.tls]\n" + "\n".join(lines) + "\n"


def users(hashes, former):
    """The users before and after the reload, which takes `former`'s proofs away or gives it others."""
    password, token, former_token, other, directory = hashes
    psk = "former.psk" if former else "sensor.psk"
    return f"""
[[auth.users]]
name = "ada"
password_hash = "{password}"
certificate = "ada.example"
[[auth.users]]
name = "robot"
token_hash = "{token}"
[[auth.users]]
name = "key"
nkey = "{NKEY}"
[[auth.users]]
name = "sensor"
psk_file = "{directory}/sensor.psk"
[[auth.users]]
name = "admin"
password_hash = "{password}"
[[auth.users]]
name = "former"
password_hash = "{password if former else other}"
token_hash = "{former_token if former else other}"
{f'nkey = "{FORMER_NKEY}"' if former else ""}
certificate = "{"former.example" if former else "another.example"}"
psk_file = "{directory}/{psk}"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(pytestconfig, tmp_path_factory):
    binary, directory = pytestconfig.getoption("--binary"), tmp_path_factory.mktemp("matrix")
    for name, key in [("sensor", PSK), ("former", FORMER_PSK)]:
        (directory / f"{name}.psk").write_text(key.encode().hex())
    authority, other = Authority(directory / "ours"), Authority(directory / "theirs")
    long_ago = ("20200101000000Z", "20200102000000Z")
    certificates = {
        "ada": authority.sign("ada.example"),
        "former": authority.sign("former.example"),
        "stranger": authority.sign("nobody.example"),
        "old": authority.sign("ada.example", life=long_ago),
        "other": other.sign("ada.example"),
    }
    server = authority.sign("localhost")
    hashes = [await hash_of(binary, secret) for secret in (PASSWORD, TOKEN, FORMER_TOKEN, "another")]
    asks = f'client_ca_file = "{authority.file}"'
    head = "[limits.auth]\nmax_failures_per_minute = 100000\n"
    sections = {
        "plain": '[listeners.coap.dtls]\naddress = "127.0.0.1:0"\n',
        "tls": section("nats", server),
        "mtls": section("nats", server, asks) + section("http", server, asks, 'mode = "optional"'),
    }
    nodes, files = {name: Waymeet(binary) for name in sections}, [*hashes, directory]
    for name, node in nodes.items():
        await node.start(config=head + sections[name] + users(files, former=True))
    nodes["plain"].coaps = re.search(r"coaps://\S+", nodes["plain"].log)[0]
    place = Place(**nodes, authority=authority, certificates=certificates)
    async with contextlib.AsyncExitStack() as stack:
        for name, node in nodes.items():
            place.cookies[node] = await browsers(node)
            await use_former(place, node)
            (node.directory / "waymeet.toml").write_text(head + sections[name] + users(files, former=False))
            node.process.send_signal(signal.SIGHUP)
            await node.says("the configuration was reloaded")
            admin = {"user": "admin", "password": PASSWORD}
            witness = await stack.enter_async_context(nats_py(node, **admin, **secured(place, node)))
            place.witnesses[node] = witness
        yield place
    for node in nodes.values():
        assert await node.stop() == 0


def secured(place, node):
    """What nats-py needs to reach the node's NATS listener."""
    if node is place.plain:
        return {}
    context = ssl.create_default_context(cafile=place.authority.file)
    if node is place.mtls:
        # Not a user's: what CONNECT says goes before it.
        context.load_cert_chain(*vars(place.certificates["stranger"]).values())
    return {"tls": context, "tls_hostname": "localhost"}


async def browsers(node):
    """Cookies of `ada`, of `former`, and of a browser that has logged out."""
    cookies = {}
    for name, user in [("ada", "ada"), ("former", "former"), ("left", "ada")]:
        body = json.dumps({"user": user, "password": PASSWORD}).encode()
        taken = await fetch(f"{node.http}/login", "-H", "Content-Type: application/json", body=body)
        assert taken.status == 204, taken
        cookies[name] = taken.header("Set-Cookie").split(";")[0]
    assert (await fetch(f"{node.http}/logout", "-b", cookies["left"], body=b"")).status == 204
    return cookies


async def use_former(place, node):
    """`former` gets in by everything that the reload will take away, so that whatever is remembered of it is there."""
    for proof in [PROOFS["password"]["expired"][0], PROOFS["token"]["expired"][0], {"nkey": FORMER_SEED}]:
        async with nats_py(node, **nats_py_words(proof), **secured(place, node)) as client:
            await client.flush(30)
    if node is place.plain and shutil.which(DTLS[0]):
        publish = CoapClient(DTLS[0]).publish
        await publish(place, "coaps", node.coaps.split("//")[1], PROOFS["psk"]["expired"][0], "warm.up")


def nats_py_words(proof):
    words = {name: proof[name] for name in ("user", "password", "token") if name in proof}
    return {**words, "nkeys_seed_str": proof["nkey"]} if "nkey" in proof else words


class NatsPy:
    async def publish(self, place, listener, address, proof, subject):
        node = place.node(listener)
        options = secured(place, node)
        if options and "certificate" in proof:
            options["tls"] = ssl.create_default_context(cafile=place.authority.file)
            options["tls"].load_cert_chain(proof["certificate"].certificate, proof["certificate"].key)
        elif options and node is place.mtls and not proof:
            options["tls"] = ssl.create_default_context(cafile=place.authority.file)
        client = await connected(f"nats://{address}", **options, **nats_py_words(proof))
        try:
            await client.publish(subject, b"proof")
            await client.flush(30)
        finally:
            await client.close()


class AgentClient:
    """One of the clients behind the agents' conversation."""

    def __init__(self, kind):
        self.kind = kind

    async def publish(self, place, listener, address, proof, subject):
        agent = self.kind(place, listener, address, proof)
        try:
            await agent.open(place.node(listener))
            await agent.publish(subject, b"proof")
            # A subscription is answered, and with it everything before it is carried out.
            await agent.subscribe(f"{subject}.after")
        finally:
            await agent.close()


class AsyncNats(Agent):
    name = "async-nats"

    def __init__(self, place, listener, address, proof):
        self.address, secure = address, listener != "nats"
        words = {"authority": str(place.authority.file)} if secure else {}
        certificate = proof.get("certificate")
        if listener == "nats mtls" and proof and not certificate:
            certificate = place.certificates["stranger"]
        if certificate:
            words |= {"certificate": str(certificate.certificate), "key": str(certificate.key)}
        self.scheme = "tls" if secure else "nats"
        self.identity = {**{k: v for k, v in proof.items() if k != "certificate"}, **words}

    def command(self, node):
        return [str(TARGET / "async-nats-agent")]

    def url(self, node):
        return f"{self.scheme}://{self.address.replace('127.0.0.1', 'localhost')}"


class NatsJs(Agent):
    name = "nats.js"

    def __init__(self, place, listener, address, proof):
        self.address, self.scheme = address, "wss" if listener == "wss" else "ws"
        self.upgrade = {"ca": str(place.authority.file)} if listener == "wss" else {}
        if certificate := proof.get("certificate"):
            self.upgrade |= {"cert": str(certificate.certificate), "key": str(certificate.key)}
        if cookie := proof.get("cookie"):
            self.upgrade["headers"] = {"Cookie": cookie}
        self.identity = {k: v for k, v in proof.items() if k in ("user", "password", "token", "nkey")}

    def command(self, node):
        return ["env", f"UPGRADE={json.dumps(self.upgrade)}", "node", str(JS / "ws_node.mjs")]

    def url(self, node):
        return f"{self.scheme}://{self.address.replace('127.0.0.1', 'localhost')}"


class CurlClient:
    async def publish(self, place, listener, address, proof, subject):
        words = ["--cacert", str(place.authority.file)] if listener == "https" else []
        if "user" in proof:
            words += ["-u", f"{proof['user']}:{proof['password']}"]
        if "token" in proof:
            words += ["-H", f"Authorization: Bearer {proof['token']}"]
        if "cookie" in proof:
            words += ["-b", proof["cookie"]]
        if "certificate" in proof:
            words += ["--cert", str(proof["certificate"].certificate), "--key", str(proof["certificate"].key)]
        response = await fetch(f"{listener}://{address}/pub/{subject}", "--http1.1", *words, body=b"proof")
        assert response.status in (202, 401), response
        assert response.status == 202, "401"


class CoapClient:
    def __init__(self, program):
        self.program = program

    async def publish(self, place, listener, address, proof, subject):
        words = ["-u", proof["identity"], "-k", proof["psk"]] if proof else []
        path = f"coaps://{address}/pub/{subject}"
        # Who is not let in hears nothing; it is given up after a second.
        await run(self.program, "-B", "1", *words, "-m", "post", "-e", "proof", path)


CLIENTS = {
    "nats-py": NatsPy(),
    "async-nats": AgentClient(AsyncNats),
    "nats.js": AgentClient(NatsJs),
    "curl": CurlClient(),
    **{name: CoapClient(name) for name in DTLS},
}


@pytest.mark.parametrize("way,listener,client,case", [cell for cell in CELLS if cell.values[1] != "mesh"])
async def test_cell(place, pytestconfig, way, listener, client, case):
    if client in pytestconfig.getoption("--without") or (client in DTLS and not shutil.which(client)):
        absent(client)
    expected = getattr(TABLE[way, listener], case)
    publish = CLIENTS[client].publish
    for proof in place.proofs(way, listener, case):
        if case == "replayed":
            assert await replayed(place, listener, publish, proof) == expected
            continue

        async def attempt(subject, proof=proof):
            # Whatever a client throws when it is not let in: what counts is what arrives.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(publish(place, listener, place.address(listener), proof, subject), 20)
            await settled(place, listener)

        assert await place.arrives(listener, attempt) == expected, proof


async def settled(place, listener):
    """Returns once the node has read what came to a UDP listener before."""
    if listener == "coaps":
        await CoapClient(DTLS[0]).publish(
            place, listener, place.address(listener), PROOFS["psk"]["right"][0], "settled"
        )


async def replayed(place, listener, publish, proof):
    """Whether what an honest client sent gets in a second time."""
    recorder = (UdpRecorder if listener == "coaps" else TcpRecorder)(place.address(listener))
    async with recorder:

        async def honestly(subject):
            await asyncio.wait_for(publish(place, listener, f"127.0.0.1:{recorder.port}", proof, subject), 30)
            nonlocal again
            again = subject

        again = None
        assert await place.arrives(listener, honestly), "the honest client gets in"
        witness = place.witnesses[place.node(listener)]
        heard = await witness.subscribe(again)
        await witness.flush(30)
        # An HTTP server may drop the request of a client that has closed its side.
        await (recorder.replay(b"\r\n\r\n") if listener == "http" else recorder.replay())
        await settled(place, listener)
        await witness.publish(again, b"marker")
        await witness.flush(30)
        first = (await heard.next_msg(30)).data
        await heard.unsubscribe()
        return first == b"proof"


@pytest.mark.parametrize("way,listener,client,case", [cell for cell in CELLS if cell.values[1] == "mesh"])
async def test_link(binary, tmp_path, way, listener, client, case):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a secret of this matrix\n")
    wrong.write_text("another one\n")
    secret = lambda path: {"--mesh-secret-file": str(path)}  # noqa: E731
    mesh = Mesh(binary)
    try:
        newcomer, config = Waymeet(binary), ""
        if way == "peer id":
            # It has its key from its first start.
            await newcomer.start()
            await newcomer.child.stop()
            allowed = (
                newcomer.peer_id
                if case in ("right", "replayed")
                else "12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS"
            )
            config = f'allow = ["{allowed}"]'
        member = await mesh.add(config=config, flags=secret(right) if way == "mesh secret" else {})
        flags = {"right": secret(right), "replayed": secret(right), "wrong": secret(wrong), "missing": {}}
        flags = flags[case] if way == "mesh secret" else {}
        async with TcpRecorder(member.join) as recorder:
            again = Waymeet(binary)
            again.directory = newcomer.directory
            mesh.nodes.append(again)
            way_in = f"/ip4/127.0.0.1/tcp/{recorder.port}"
            await again.start(config="", flags={"--join": [way_in], **flags})
            if getattr(TABLE[way, listener], case) or case == "replayed":
                await mesh.converged()
            else:
                # It has tried, and was sent away.
                while not recorder.sent or not recorder.sent[0]:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                assert (await peers(member))["peers"] == []
            if case == "replayed":
                await again.child.stop()
                await mesh.converged([0])
                # The node is away: only its words are there.
                await recorder.replay()
                assert (await peers(member))["peers"] == []
    finally:
        await mesh.stop()


async def test_nats_py_takes_tls_only_where_it_is_required(place, tmp_path, binary):
    """Why nats-py cannot show a certificate where TLS is optional: it asks INFO for `tls_required` and nothing else, so
    that it goes on in the clear. nats-server's `allow_non_tls` says `tls_available` in the same words; a client that
    is told to insist, as async-nats is, gets in."""
    server, ada = place.authority.sign("localhost"), place.certificates["ada"]
    node = Waymeet(binary)
    asks = f'client_ca_file = "{place.authority.file}"'
    user = '[[auth.users]]\nname = "ada"\ncertificate = "ada.example"\n'
    await node.start(config=section("nats", server, asks, 'mode = "optional"') + user)
    try:
        connection = await RawTcp.open(node.nats)
        info = json.loads((await connection.until(b"\r\n")).removeprefix(b"INFO "))
        assert info.get("tls_available") and not info.get("tls_required")
        await connection.close()
        context = ssl.create_default_context(cafile=place.authority.file)
        context.load_cert_chain(ada.certificate, ada.key)
        with pytest.raises(nats.errors.Error, match="Authorization Violation"):
            await nats.connect(node.nats, tls=context, tls_hostname="localhost", allow_reconnect=False)
        agent = AsyncNats(place, "nats mtls", node.nats.split("//")[1], {"certificate": ada})
        try:
            await agent.open(node)
        finally:
            await agent.close()
        await the_real_server_says(server, place.authority, context, tmp_path)
    finally:
        await node.stop()


async def the_real_server_says(server, authority, context, tmp_path):
    """nats-server, of the release whose words are ours."""
    from pathlib import Path
    from sys import executable

    from waymeet_node import Server

    program = Path(executable).parent / "nats-server"
    if not program.exists():
        return
    path = tmp_path / "nats.conf"
    path.write_text(
        f'listen: "127.0.0.1:-1"\nallow_non_tls: true\n'
        f'tls {{ cert_file: "{server.certificate}", key_file: "{server.key}", ca_file: "{authority.file}", '
        f'verify_and_map: true }}\nauthorization {{ users: [{{ user: "ada.example" }}] }}\n'
    )
    reference = Server()
    await reference.spawn([str(program), "-c", str(path)], lambda log: "Server is ready" in log)
    try:
        address = re.search(r"client connections on (127\.0\.0\.1:\d+)", reference.log)[1]
        connection = await RawTcp.open(f"nats://{address}")
        info = json.loads((await connection.until(b"\r\n")).removeprefix(b"INFO "))
        assert info.get("tls_available") and not info.get("tls_required"), info
        await connection.close()
        with pytest.raises(nats.errors.Error, match="Authorization Violation"):
            await nats.connect(
                f"nats://{address}", tls=context, tls_hostname="localhost", allow_reconnect=False
            )
    finally:
        await reference.stop()


def test_the_seeds_are_what_they_are_said_to_be():
    import nkeys

    assert nkeys.from_seed(bytearray(FORMER_SEED.encode())).public_key.decode() == FORMER_NKEY
    assert nkeys.from_seed(bytearray(SEED.encode())).public_key.decode() == NKEY
    assert len(base64.b32decode(FORMER_NKEY)) == 35
