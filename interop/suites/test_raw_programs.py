"""Raw listeners (section 5): programs that know nothing but a socket ask a NATS service, and `nc`, syslog and
statsd publish."""

import pathlib
import shutil
import socket
import sys

import pytest

from drivers.process import run

PROGRAMS = pathlib.Path(__file__).resolve().parent.parent / "raw"
CONFIG = """
[[listeners.lines]]
address = "127.0.0.1:0"
subject = "legacy.lines"
mode = "request"
[[listeners.lines]]
address = "127.0.0.1:0"
subject = "log.{peer}"
mode = "publish"
[[listeners.datagrams]]
address = "127.0.0.1:0"
subject = "legacy.datagrams"
mode = "request"
[[listeners.datagrams]]
address = "127.0.0.1:0"
subject = "stats.{address}"
mode = "publish"
"""
REQUEST, PUBLISH = 0, 1


async def ask(world, needs, *argv):
    """Runs a program to its end; returns what it printed."""
    for kind in needs:
        world.needs(kind)
    code, out, err = await run(*map(str, argv), patience_s=60)
    assert code == 0, err
    return out.decode().splitlines()


@pytest.fixture(params=["python", "node", "java"])
def program(request):
    """How a program in that language is run: the clients that it needs, and its command."""

    def command(transport):
        if request.param == "java":
            return ["java"], ["java", PROGRAMS / f"Ask{transport.capitalize()}.java"]
        if request.param == "node":
            return [], ["node", PROGRAMS / f"ask_{transport}.mjs"]
        return [], [sys.executable, PROGRAMS / f"ask_{transport}.py"]

    return command


async def service(world, subject):
    """A NATS service that says the question backwards, with something that is not ASCII."""

    def backwards(received):
        return received.payload.decode()[::-1].encode() + " ✓".encode(), None

    client = await world.client("nats-py")
    await world.once(subject, lambda: client.serve(subject, backwards))


@pytest.mark.parametrize("transport", ["lines", "datagrams"])
async def test_a_program_of_twenty_lines_asks_a_nats_service(world, program, transport):
    await service(world, f"legacy.{transport}")
    needs, command = program(transport)
    host, port = getattr(world.node, f"raw_{transport}")[REQUEST]
    said = await ask(world, needs, *command, host, port, "who is there?", "ünd nöw", "!")
    assert said == ["?ereht si ohw ✓", "wön dnü ✓", "! ✓"]


def test_the_programs_are_as_short_as_they_should_be():
    for program in PROGRAMS.iterdir():
        lines = [line for line in program.read_text().splitlines() if line.strip()]
        assert len(lines) <= 25, f"{program.name} has {len(lines)} lines"


async def test_nc_asks_and_is_answered_before_its_connection_ends(world):
    world.needs("nc")
    await service(world, "legacy.lines")
    host, port = world.node.raw_lines[REQUEST]
    # -N closes the sending half at the end of the input; the last line has no end.
    code, out, err = await run("nc", "-N", host, port, stdin="one\r\ntwö\nlast".encode(), patience_s=15)
    assert (code, out) == (0, "eno ✓\r\nöwt ✓\ntsal ✓\n".encode()), err


async def test_nobody_answers_nc(world):
    world.needs("nc")
    async with world.another(CONFIG) as node:
        host, port = node.raw_lines[REQUEST]
        code, out, _ = await run("nc", "-N", host, port, stdin=b"anybody?\n")
        assert (code, out) == (0, b"-ERR no responders\n")


async def test_nc_publishes_lines_and_datagrams(world):
    world.needs("nc")
    log = await (await world.client("nats-py")).subscribe("log.*")
    stats = await (await world.client("nats-py")).subscribe("stats.*")
    code, out, err = await run("nc", "-N", *world.node.raw_lines[PUBLISH], stdin=b"first\nsecond")
    assert (code, out) == (0, b""), err
    first, second = await log.next(), await log.next()
    assert (first.payload, second.payload) == (b"first", b"second")
    assert first.subject == second.subject and first.subject.startswith("log.127_0_0_1_")
    await run("nc", "-u", "-w", "1", *world.node.raw_datagrams[PUBLISH], stdin=b"a datagram")
    received = await stats.next()
    assert (received.subject, received.payload) == ("stats.127_0_0_1", b"a datagram")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_syslog_publishes(world, transport):
    """util-linux's logger, as any syslog sender: RFC 5424 in lines over TCP and in datagrams over UDP."""
    world.needs("logger")
    log = await (await world.client("nats-py")).subscribe("log.*" if transport == "tcp" else "stats.*")
    host, port = (world.node.raw_lines if transport == "tcp" else world.node.raw_datagrams)[PUBLISH]
    options = ["-n", host, "-P", port, f"--{transport}", "--rfc5424", "-t", "pump", "-p", "user.warning"]
    code, _, err = await run(shutil.which("logger"), *options, "pressure is low")
    assert code == 0, err
    received = await log.next()
    assert received.payload.startswith(b"<12>1 ") and b"pressure is low" in received.payload


async def test_statsd_publishes(world):
    """The format is one datagram with a metric, or several parted by line feeds; a client only sends."""
    stats = await (await world.client("nats-py")).subscribe("stats.>")
    host, port = world.node.raw_datagrams[PUBLISH]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for metric in (b"pump.starts:1|c", b"pump.pressure:3.2|g\npump.flow:7|ms|@0.1"):
            client.sendto(metric, (host, int(port)))
            assert (await stats.next()).payload == metric
