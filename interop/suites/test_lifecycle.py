"""Start, refusal to start, and end, as an operator sees them (sections 5 and 9)."""

import asyncio
import signal
import socket

import pytest

from drivers.process import run
from drivers.raw import RawTcp
from waymeet_node import StartFailed, Waymeet


@pytest.fixture
async def nodes(binary):
    """Makes nodes that end with the test."""
    started = []

    def make():
        started.append(Waymeet(binary))
        return started[-1]

    yield make
    for node in started:
        if node.child:
            await node.stop()


async def refused(node, code, *words, **start):
    with pytest.raises(StartFailed) as failure:
        await node.start(**start)
    assert failure.value.exit_code == code, failure.value.log
    for word in words:
        assert word in failure.value.log


async def test_a_signal_drains_and_ends_with_0(nodes):
    for how in (signal.SIGTERM, signal.SIGINT):
        node = await nodes().start()
        assert await node.child.stop(how) == 0, node.log


async def test_drain_delivers_what_was_taken(nodes):
    """What the node took before the signal still goes out, and clients are told (lame duck)."""
    node = await nodes().start()
    subscriber, publisher = [await RawTcp.open(node.nats) for _ in range(2)]
    for client, first in ((subscriber, b"SUB a 1\r\n"), (publisher, b"")):
        await client.until(b"\r\n")
        await client.send(b'CONNECT {"verbose":false}\r\n' + first + b"PING\r\n")
        await client.until(b"PONG\r\n")
    # More than the sockets' buffers hold while the subscriber does not read.
    count, body = 100, b"x" * 100_000
    await publisher.send((b"PUB a %d\r\n%s\r\n" % (len(body), body)) * count + b"PING\r\n")
    await publisher.until(b"PONG\r\n")
    node.process.send_signal(signal.SIGTERM)
    assert b'"ldm":true' in await publisher.until(b'"ldm":true')
    said = await subscriber.rest()
    assert said.count(body) == count
    assert b'"ldm":true' in said
    assert await asyncio.wait_for(node.process.wait(), 30) == 0
    await asyncio.gather(subscriber.close(), publisher.close())


async def test_the_banner_names_every_address(nodes):
    node = await nodes().start()
    assert node.nats and node.coap and node.http
    for command in ("curl ", " sub ", f" pub demo.greeting hi --server {node.coap}"):
        await node.says(command)


@pytest.mark.parametrize("listener", ["nats", "http", "coap"])
async def test_a_taken_port_is_named_with_its_flag(nodes, listener):
    kind = socket.SOCK_DGRAM if listener == "coap" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if listener != "coap":
            taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        await refused(nodes(), 1, f"--{listener}", address, flags={f"--{listener}": address})


async def test_a_locked_data_directory_is_refused(nodes, tmp_path):
    flags = {"--data-dir": str(tmp_path)}
    await nodes().start(flags=flags)
    await refused(nodes(), 1, str(tmp_path), flags=flags)


@pytest.mark.parametrize("listener", ["nats", "http", "coap"])
async def test_an_open_address_without_auth_is_refused(nodes, listener):
    await refused(nodes(), 2, "anonymous", flags={f"--{listener}": "0.0.0.0:0"})


async def test_a_listener_can_be_off(nodes):
    node = await nodes().start(flags={"--coap": "off", "--http": "off"})
    assert node.nats and not node.coap and not node.http


@pytest.mark.parametrize(
    "config,words",
    [
        ("[listeners.nats]\nadress = '127.0.0.1:0'\n", ["adress", "address"]),
        ("[listners.nats]\n", ["listners", "listeners"]),
        ("[limits]\nmax_payload_byte = 1\n", ["max_payload_byte", "max_payload_bytes"]),
        ("[limits]\nmax_payload_bytes = 'many'\n", ["max_payload_bytes", "many"]),
        ("not toml", ["waymeet.toml"]),
    ],
)
async def test_a_configuration_error_names_key_and_remedy(nodes, config, words):
    await refused(nodes(), 2, *words, config=config)


async def test_an_unknown_environment_key_is_an_error(nodes):
    await refused(nodes(), 2, "WAYMEET_LISTENERS__NATS__ADRESS", env={"WAYMEET_LISTENERS__NATS__ADRESS": "1"})


async def test_flags_beat_environment_beats_file(nodes):
    config = '[node]\nname = "file"\n'
    node = await nodes().start(config=config, env={"WAYMEET_NODE__NAME": "environment"})
    assert "environment" in node.log
    node = await nodes().start(
        config=config, flags={"--name": "flag"}, env={"WAYMEET_NODE__NAME": "environment"}
    )
    assert "flag" in node.log and "environment" not in node.log


async def test_bad_usage_ends_with_2(binary):
    for words in (["--nonsense"], ["pub"], ["pub", "a..b", "x"], ["nonsense"]):
        code, _, err = await run(binary, *words)
        assert code == 2 and err, words


async def test_check_prints_the_effective_configuration(binary, tmp_path):
    file = tmp_path / "node.toml"
    file.write_text('[listeners.nats]\naddress = "127.0.0.1:14222"\n')
    code, out, err = await run(binary, "check", "-c", str(file))
    assert code == 0, err
    assert b"127.0.0.1:14222" in out and b"127.0.0.1:8080" in out
    file.write_text("[node]\nnam = 1\n")
    code, _, err = await run(binary, "check", "-c", str(file))
    assert code == 2 and b"nam" in err and b"name" in err


async def test_the_clients_say_that_nobody_is_there(binary):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = f"nats://127.0.0.1:{unused.getsockname()[1]}"
        code, _, err = await run(binary, "pub", "--server", server, "a", "x")
        assert code == 1 and server.removeprefix("nats://").encode() in err
