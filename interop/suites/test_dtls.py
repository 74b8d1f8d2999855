"""CoAP over DTLS with pre-shared keys, by libcoap with both of its TLS libraries, against `node/examples/coap_psk.rs`."""

import asyncio
import pathlib
import re
import shutil
import signal

import pytest
import pytest_asyncio

from absent import absent
from drivers.curl import fetch
from drivers.process import run
from waymeet_node import Server, Waymeet

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "0123456789abcdef"
CLIENTS = ["coap-client-gnutls", "coap-client-openssl"]


class Keyed(Server):
    """The example, which gives its two addresses when it has started."""

    async def start(self, binary):
        program = pathlib.Path(binary).parent / "examples" / "coap_psk"
        started = re.compile(r"coaps Some\((\S+)\) http Some\((\S+)\)")
        await self.spawn([str(program), "127.0.0.1:0", "127.0.0.1:0"], started.search)
        self.coap, self.http = (f"{s}://{a}" for s, a in zip(("coaps", "http"), started.search(self.log).groups()))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(pytestconfig):
    node = Keyed()
    await node.start(pytestconfig.getoption("--binary"))
    yield node
    await node.child.stop()


@pytest.fixture(params=CLIENTS)
def client(request):
    return shutil.which(request.param) or absent(request.param)


def ask(client, node, path, *options, key=KEY, identity="sensor-7"):
    return run(client, "-B", "5", "-u", identity, "-k", key, *options, node.coap + path)


async def handshakes(node, outcome):
    metrics = (await fetch(f"{node.http}/metrics")).body.decode()
    found = re.search(rf'waymeet_handshakes_total{{listener="coaps",outcome="{outcome}"}} (\d+)', metrics)
    return int(found[1]) if found else 0


async def test_publishes_and_reads(node, client, subject):
    before = await handshakes(node, "done")
    code, out, err = await ask(client, node, "/healthz")
    assert code == 0 and b'"ok"' in out, err
    code, _, err = await ask(client, node, f"/pub/{subject}", "-m", "post", "-e", "21.5")
    assert code == 0, err
    assert await handshakes(node, "done") == before + 2


async def test_blocks_and_observations(node, client, subject):
    body = "x" * 5_000
    observing = asyncio.create_task(ask(client, node, f"/sub/{subject}", "-s", "3"))
    metrics = ""
    while 'waymeet_sessions{listener="coaps"} 1' not in metrics:
        metrics = (await fetch(f"{node.http}/metrics")).body.decode()
    response = await fetch(f"{node.http}/pub/{subject}", body=body.encode())
    assert response.json()["delivered"] == 1
    _, out, err = await observing
    assert body.encode() in out, err


@pytest.mark.parametrize("identity, key", [("sensor-7", "wrongwrongwrong1"), ("nobody", KEY)])
async def test_another_key_gets_nothing(node, client, identity, key):
    before = await handshakes(node, "done")
    _, out, _ = await ask(client, node, "/healthz", key=key, identity=identity)
    assert b'"ok"' not in out
    assert await handshakes(node, "done") == before


USERS = """
[listeners.coap.dtls]
address = "127.0.0.1:0"
[[auth.users]]
name = "sensor-7"
psk_file = "{file}"
publish = {{ allow = ["open.>"] }}
"""


async def test_a_key_is_a_user(pytestconfig, client, subject, tmp_path):
    """The identity's permissions hold, and end with its key."""
    file = tmp_path / "sensor-7.psk"
    file.write_text(KEY.encode().hex())
    node = Waymeet(pytestconfig.getoption("--binary"))
    await node.start(config=USERS.format(file=file))
    node.coap = re.search(r"coaps://\S+", node.log)[0]
    try:
        for path, expected in [("open", b""), ("closed", b"4.03")]:
            code, out, err = await ask(client, node, f"/pub/{path}/{subject}", "-m", "post", "-e", "21.5")
            assert code == 0 and (expected in out + err if expected else b"4.0" not in out + err), out + err
        file.write_text("00" * 16)
        node.process.send_signal(signal.SIGHUP)
        await node.says("the configuration was reloaded")
        _, out, _ = await ask(client, node, "/healthz")
        assert b'"ok"' not in out, "the old key opens nothing"
    finally:
        await node.stop()
