"""TLS with the official clients: the upgrade, TLS first, client certificates, HTTPS and wss."""

import asyncio
import ssl
import subprocess

import nats
import pytest
import pytest_asyncio

from drivers.agent import AsyncNats, WebSocketNode
from drivers.curl import fetch
from drivers.nats_py import connected
from drivers.process import run
from waymeet_node import StartFailed, Waymeet

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def certs(pytestconfig, tmp_path_factory):
    """Two sets of development certificates; nobody of one believes anybody of the other."""
    directories = [tmp_path_factory.mktemp("certs") / name for name in ("ours", "others")]
    for directory in directories:
        subprocess.run([pytestconfig.getoption("--binary"), "auth", "dev-certs", directory], check=True)
    return directories


def section(listener, directory, *more):
    files = f'certificate_file = "{directory}/server.pem"\nkey_file = "{directory}/server-key.pem"\n'
    return f"[listeners.{listener}.tls]\n{files}" + "".join(f"{line}\n" for line in more)


def trust(directory, certificate_of=None):
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    if certificate_of:
        context.load_cert_chain(certificate_of / "client.pem", certificate_of / "client-key.pem")
    return context


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(pytestconfig, certs):
    node = Waymeet(pytestconfig.getoption("--binary"))
    await node.start(config=section("nats", certs[0]) + section("http", certs[0], 'mode = "optional"'))
    yield node
    await node.stop()


async def connect(node, context, scheme="nats", **options):
    url = node.nats.replace("nats://127.0.0.1", f"{scheme}://localhost")
    return await connected(url, tls=context, **options)


async def echo(client, subject):
    """One message there and back."""
    subscription = await client.subscribe(subject)
    await client.publish(subject, b"x" * 100_000)
    message = await subscription.next_msg(30)
    assert message.data == b"x" * 100_000


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_nats_py_upgrades(node, certs, subject, scheme):
    client = await connect(node, trust(certs[0]), scheme)
    await echo(client, subject)
    await client.close()


async def test_nats_py_does_not_believe_another_authority(node, certs):
    with pytest.raises((ssl.SSLError, nats.errors.Error, OSError)):
        await connect(node, trust(certs[1]))


class SecureAsyncNats(AsyncNats):
    """async-nats, which believes the authorities of the system: a file that the environment names."""

    def __init__(self, authority):
        self.authority = authority

    def command(self, node):
        return ["env", f"SSL_CERT_FILE={self.authority}", *super().command(node)]

    def url(self, node):
        return node.nats.replace("nats://127.0.0.1", "tls://localhost")


class SecureWebSocket(WebSocketNode):
    def __init__(self, authority):
        self.authority = authority

    def command(self, node):
        return ["env", f"NODE_EXTRA_CA_CERTS={self.authority}", *super().command(node)]

    def url(self, node):
        return node.http.replace("http://127.0.0.1", "wss://localhost")


@pytest.mark.parametrize("kind", [SecureAsyncNats, SecureWebSocket])
async def test_other_official_clients(world, node, certs, subject, kind):
    world.needs(kind.name)
    client = kind(certs[0] / "ca.pem")
    await client.open(node)
    try:
        subscription = await client.subscribe(subject)
        await client.publish(subject, b"hello")
        assert (await subscription.next()).payload == b"hello"
    finally:
        await client.close()


async def test_tls_first(pytestconfig, certs, subject):
    node = Waymeet(pytestconfig.getoption("--binary"))
    await node.start(config=section("nats", certs[0], 'mode = "first"'))
    try:
        client = await connect(node, trust(certs[0]), "tls", tls_handshake_first=True)
        await echo(client, subject)
        await client.close()
    finally:
        await node.stop()


async def test_client_certificates(pytestconfig, certs, subject):
    ca = f'client_ca_file = "{certs[0]}/ca.pem"'
    node = Waymeet(pytestconfig.getoption("--binary"))
    await node.start(config=section("nats", certs[0], ca) + section("http", certs[0], ca))
    try:
        client = await connect(node, trust(certs[0], certs[0]))
        await echo(client, subject)
        await client.close()
        for wrong in (None, certs[1]):
            with pytest.raises((ssl.SSLError, nats.errors.Error, OSError, asyncio.TimeoutError)):
                await connect(node, trust(certs[0], wrong))
        url = node.http.replace("http://127.0.0.1", "https://localhost") + "/healthz"
        known = ["--cacert", str(certs[0] / "ca.pem")]
        mine = ["--cert", str(certs[0] / "client.pem"), "--key", str(certs[0] / "client-key.pem")]
        assert (await fetch(url, *known, *mine)).status == 200
        code, _, _ = await run("curl", "-sS", "--max-time", "5", *known, url)
        assert code != 0, "without a certificate"
    finally:
        await node.stop()


USER = """
[[auth.users]]
name = "sensor-7"
certificate = "client"
publish = { allow = ["open.>"] }
subscribe = { allow = ["open.>"] }
"""


async def test_a_certificate_is_a_user(pytestconfig, certs, subject):
    """nats-py and curl say nothing of themselves: their certificate does, and its user's permissions hold."""
    ca = f'client_ca_file = "{certs[0]}/ca.pem"'
    node = Waymeet(pytestconfig.getoption("--binary"))
    await node.start(config=section("nats", certs[0], ca) + section("http", certs[0], ca, 'mode = "optional"') + USER)
    said = asyncio.Queue()
    try:
        client = await connect(node, trust(certs[0], certs[0]), "tls", error_cb=said.put)
        await echo(client, f"open.{subject}")
        await client.publish(f"closed.{subject}", b"1")
        assert "permissions violation" in str(await asyncio.wait_for(said.get(), 30)).lower()
        await client.close()

        url = node.http.replace("http://127.0.0.1", "https://localhost")
        known = ["--cacert", str(certs[0] / "ca.pem")]
        mine = [*known, "--cert", str(certs[0] / "client.pem"), "--key", str(certs[0] / "client-key.pem")]
        for path, options, status in [("open", mine, 202), ("closed", mine, 403), ("open", known, 401)]:
            response = await fetch(f"{url}/pub/{path}/{subject}", *options, body=b"1")
            assert response.status == status, response
        named = [*mine, "-u", "sensor-7:wrong"]
        response = await fetch(f"{url}/pub/open/{subject}", *named, body=b"1")
        assert response.status == 401, "what a client says itself goes before its certificate"
    finally:
        await node.stop()


@pytest.mark.parametrize("version", ["2", "1.1"])
async def test_curl(node, certs, subject, version):
    url = node.http.replace("http://127.0.0.1", "https://localhost")
    known = ["--cacert", str(certs[0] / "ca.pem"), f"--http{version}"]
    response = await fetch(f"{url}/pub/{subject}", *known, body=b"1")
    assert (response.status, response.version) == (202, f"HTTP/{version}")
    assert (await fetch(f"{node.http}/healthz")).status == 200, "optional takes requests in the clear"
    code, _, err = await run("curl", "-sS", "--cacert", str(certs[1] / "ca.pem"), url)
    assert code == 60, err


async def test_the_command_line_and_reload(node, certs, binary, subject):
    import signal

    server = ["--server", node.nats.replace("nats://127.0.0.1", "tls://localhost")]
    known = ["--tls-ca", str(certs[0] / "ca.pem")]
    code, _, err = await run(binary, "pub", subject, "1", *server, *known)
    assert code == 0, err
    code, _, err = await run(binary, "pub", subject, "1", *server)
    assert code == 1 and b"--tls-ca" in err, err
    node.process.send_signal(signal.SIGHUP)
    await node.says("the certificate was read again")
    code, _, err = await run(binary, "pub", subject, "1", *server, *known)
    assert code == 0, err


async def test_files_that_cannot_be_used(pytestconfig, certs):
    node = Waymeet(pytestconfig.getoption("--binary"))
    config = section("nats", certs[0]).replace("server-key.pem", "client-key.pem")
    with pytest.raises(StartFailed) as failure:
        await node.start(config=config)
    assert failure.value.exit_code == 2
    assert "listeners.nats.tls.key_file" in failure.value.log
