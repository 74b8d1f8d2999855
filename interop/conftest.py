"""The fixtures that all suites share: one node a module, its clients, and the closing line."""

import asyncio
import contextlib
import os
import pathlib
import re

import pytest
import pytest_asyncio

from absent import absent
from drivers.kinds import KINDS
from mesh import Mesh
from network import NEEDED, Network
from services import UPSTREAMS, Services
from waymeet_node import NatsServer, StartFailed, Waymeet

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = pathlib.Path(os.environ.get("INTEROP_TARGET", ROOT / "target" / "interop")) / "logs"


def pytest_addoption(parser):
    parser.addoption("--binary", default=str(ROOT / "target" / "debug" / "waymeet"), help="the node to test")
    parser.addoption("--without", action="append", default=[], help="a client kind that is not to be had")
    parser.addoption("--reference", help="a nats-server to run the suites' NATS part against instead")


PARTS = {
    "publisher": "publishes",
    "subscriber": "subscribes",
    "requester": "requests",
    "responder": "serves",
}


def pytest_generate_tests(metafunc):
    """`publisher`, `subscriber`, `requester` and `responder` stand for every kind that can take that part."""
    reference = metafunc.config.getoption("--reference")
    for part, ability in PARTS.items():
        if part in metafunc.fixturenames:
            able = [n for n, k in KINDS.items() if getattr(k, ability) and (k.reference or not reference)]
            # Where the node is configured for services, they answer as well.
            if part == "responder" and not reference and callable(getattr(metafunc.module, "CONFIG", None)):
                able += UPSTREAMS
            metafunc.parametrize(part, able)


class World:
    """A running node and the clients that were opened to it, each once."""

    def __init__(self, node, without=()):
        self.node = node
        self._without = without
        self._opening = {}

    async def client(self, kind):
        """The client of a kind. When it cannot be opened, every test that wants it is told so at once."""
        if kind in self._without:
            absent(kind)
        return await self.once(kind, lambda: self._open(kind))

    def needs(self, program):
        """Skips the test when a program is not to be had here."""
        if program in self._without:
            absent(program)

    @contextlib.asynccontextmanager
    async def another(self, config):
        """A node with this configuration for one test, beside the module's."""
        node = Waymeet(self.node.binary)
        await node.start(config=config)
        try:
            yield node
        finally:
            await node.stop()

    async def once(self, key, make):
        """The result of `make()`, made at most once; its failure is kept as well."""
        if key not in self._opening:
            self._opening[key] = asyncio.create_task(make())
        return await asyncio.shield(self._opening[key])

    async def _open(self, kind):
        listener = KINDS[kind].listener
        assert getattr(self.node, listener), f"{kind}: the node has no {listener} address"
        driver = KINDS[kind].build()
        await driver.open(self.node)
        return driver

    async def close(self):
        for task in self._opening.values():
            if task.done() and not task.cancelled() and not task.exception():
                client = task.result()
                if hasattr(client, "stop_serving"):
                    await client.stop_serving()
                    await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(request, pytestconfig):
    """The module's node and its clients. The module's `CONFIG` is TOML, or a function of the HTTP services
    that makes it."""
    if failure := getattr(request.module, "start_failure", None):
        raise failure
    if pytestconfig.getoption("--reference"):
        node = NatsServer(pytestconfig.getoption("--reference"))
    else:
        node = Waymeet(pytestconfig.getoption("--binary"))
    services = Services()
    config = getattr(request.module, "CONFIG", "")
    if callable(config):
        config = "" if pytestconfig.getoption("--reference") else await config(services)
    try:
        await node.start(config=config)
    except (OSError, StartFailed) as error:
        # Kept, because pytest would start it again for every test of the module.
        request.module.start_failure = error
        await services.stop()
        raise
    world = World(node, pytestconfig.getoption("--without"))
    failed_before = request.session.testsfailed
    yield world
    await world.close()
    failed = request.session.testsfailed > failed_before
    await node.stop(keep_log_as=LOGS / f"{request.module.__name__}.log" if failed else None)
    await services.stop()


@pytest.fixture
def binary(pytestconfig):
    """The node's program, for tests that start it themselves."""
    return pytestconfig.getoption("--binary")


@pytest.fixture
async def network(pytestconfig):
    """An empty network of namespaces, which ends with the test."""
    if NEEDED in pytestconfig.getoption("--without"):
        absent(NEEDED)
    async with Network() as network:
        yield network


@pytest.fixture
async def mesh(binary, network):
    """A mesh whose nodes run on hosts of the network; it ends before the network does."""
    mesh = Mesh(binary)
    yield mesh
    await mesh.stop()


@pytest.fixture
def subject(request):
    """A subject prefix of this test's own."""
    return "t." + re.sub(r"[^a-z0-9_]+", "-", request.node.name.lower())


def pytest_unconfigure(config):
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter and not config.option.collectonly:
        counts = {key: len(reporter.stats.get(key, [])) for key in ("passed", "failed", "error", "skipped")}
        print(f"interop: {counts['passed']} passed, {counts['failed'] + counts['error']} failed")
