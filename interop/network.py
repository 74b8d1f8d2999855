"""Networks of network namespaces: hosts, switches, address translation, bad lines.

Owns making and ending them, and the ways into them: a process inside, a socket inside, a port outside that leads inside.
It must not know a suite, nor the node.

Root makes the namespaces as they are; anybody else makes them within a user namespace, where the kernel allows that.
Nothing of the machine's own network is touched, and everything is gone when the holders of the namespaces end.
"""

import asyncio
import contextlib
import heapq
import json
import os
import pathlib
import random
import select
import socket
import sys
import threading
import time

from drivers.process import run

HOLDER = pathlib.Path(__file__).parent / "namespace_holder.py"
PATIENCE_S = 15.0
CHUNK_BYTES = 1 << 16
# What a suite needs, as `--without` names it.
NEEDED = "namespaces"


class NetworkFailed(Exception):
    """A part of the network cannot be made."""


class Network:
    """Some namespaces that belong together. To be used with `async with`."""

    def __init__(self):
        self.hosts = {}
        self._user = []
        self._lines = []
        self._forwarders = []
        self._links = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for line in self._lines:
            line.stop()
        for forwarder in self._forwarders:
            forwarder.cancel()
        await asyncio.gather(*self._forwarders, return_exceptions=True)
        await asyncio.gather(*(host.stop() for host in self.hosts.values()))

    async def host(self, name):
        """A namespace with nothing but its loopback."""
        if self._user:
            unshare = [*self._user, "unshare", "--net"]
        elif os.geteuid() == 0:
            unshare = ["unshare", "--net"]
        else:
            unshare = ["unshare", "--user", "--map-root-user", "--net"]
        host = await Host.start(self, name, unshare)
        if os.geteuid() != 0 and not self._user:
            self._user = ["nsenter", f"--target={host.process.pid}", "--user", "--preserve-credentials", "--"]
        self.hosts[name] = host
        await host.ip("link", "set", "lo", "up")
        return host

    async def cable(self, one, other, addresses=(None, None), names=(None, None)):
        """Joins two hosts with an Ethernet cable; returns the names of its ends."""
        self._links += 1
        names = [name or f"e{self._links}{side}" for name, side in zip(names, "ab", strict=True)]
        peer = ["peer", "name", names[1], "netns", str(other.process.pid)]
        await one.ip("link", "add", names[0], "type", "veth", *peer)
        for host, name, address in zip((one, other), names, addresses, strict=True):
            if address:
                await host.ip("address", "add", address, "dev", name)
            await host.ip("link", "set", name, "up")
        return names

    async def bridge(self, host, name):
        """A switch inside `host`."""
        await host.ip("link", "add", name, "type", "bridge")
        await host.ip("link", "set", name, "up")

    async def plug(self, host, address, switch, bridge):
        """Joins a host to a bridge of `switch`."""
        inner, outer = await self.cable(host, switch, (address, None))
        await switch.ip("link", "set", outer, "master", bridge)
        return inner

    async def line(self, one, other, addresses, loss, delay_s, seed):
        """Joins two hosts with a bad line: each packet is lost with the probability `loss`, or comes late."""
        self._links += 1
        name = f"t{self._links}"
        tuns = []
        for host, address in zip((one, other), addresses, strict=True):
            tuns.append(host.open("tun", name))
            await host.ip("address", "add", f"{address}/24", "dev", name)
            await host.ip("link", "set", name, "up")
        line = BadLine(tuns, loss, delay_s, seed)
        self._lines.append(line)
        return line

    async def router(self, name, outside, symmetric):
        """A host that translates the addresses of whoever is behind it into its own outer one, as routers at homes
        do (RFC 4787): a mapping that does not depend on the destination, or a new port for each destination
        (`symmetric`), and in either case only answers come in. `outside` is `(switch, bridge, address)`."""
        router = await self.host(name)
        switch, bridge, address = outside
        wan = await self.plug(router, address, switch, bridge)
        rules = ROUTER.format(wan=wan, how="fully-random" if symmetric else "")
        await router.do("nft", "-f", "-", stdin=rules.encode())
        await router.do("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        return router

    def forwarding(self, task):
        """Keeps a task until the network ends."""
        self._forwarders.append(asyncio.create_task(task))


# Unasked packets are dropped before they are tracked as a connection, as by the firewall of a home router: otherwise
# one from the far end would take the very mapping that the near end is about to need.
ROUTER = """
table ip home {{
  chain out {{
    type nat hook postrouting priority srcnat
    oifname "{wan}" masquerade {how}
  }}
  chain to_router {{
    type filter hook input priority filter
    iifname "{wan}" ct state != established drop
  }}
  chain to_home {{
    type filter hook forward priority filter
    iifname "{wan}" ct state != established drop
  }}
}}
"""


class Host:
    """One namespace."""

    def __init__(self, network, name, process, control):
        self.network = network
        self.name = name
        self.process = process
        self._control = control

    @classmethod
    async def start(cls, network, name, unshare):
        control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inner:
            argv = [*unshare, sys.executable, str(HOLDER), str(inner.fileno())]
            process = await asyncio.create_subprocess_exec(
                *argv, pass_fds=[inner.fileno()], stdin=asyncio.subprocess.DEVNULL
            )
        control.setblocking(False)
        ready = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(control, 1), PATIENCE_S)
        control.settimeout(PATIENCE_S)
        if not ready:
            raise NetworkFailed(f"{' '.join(unshare)} ended with {await process.wait()}")
        return cls(network, name, process, control)

    @property
    def argv(self):
        """What a command is to begin with to run inside. It takes the place of the process that it began as."""
        enter = ["nsenter", f"--target={self.process.pid}", "--net"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return [*enter, "--"]

    async def do(self, *argv, stdin=b""):
        """Runs a command inside, which must succeed."""
        code, out, err = await run(*self.argv, *argv, stdin=stdin)
        if code != 0:
            raise NetworkFailed(f"{self.name}: {' '.join(argv)}: {err.decode()}{out.decode()}")
        return out.decode()

    async def ip(self, *arguments):
        return await self.do("ip", *arguments)

    def open(self, *request):
        """A file descriptor that was opened inside."""
        self._control.send(json.dumps(request).encode())
        answer, descriptors, _, _ = socket.recv_fds(self._control, 256, 1)
        if not descriptors:
            raise NetworkFailed(f"{self.name}: {request}: {answer.decode()}")
        return descriptors[0]

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        """A socket of the namespace, not yet bound nor connected."""
        opened = socket.socket(fileno=self.open("socket", int(family), int(kind)))
        opened.setblocking(False)
        return opened

    async def forward(self, host, port):
        """A TCP address outside that leads to one inside."""

        async def serve(reader, writer):
            inner = self.socket()
            try:
                await asyncio.get_running_loop().sock_connect(inner, (host, port))
                far_reader, far_writer = await asyncio.open_connection(sock=inner)
            except OSError:
                inner.close()
                writer.close()
                return
            await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.network.forwarding(_until_cancelled(server))
        return "{}:{}".format(*server.sockets[0].getsockname())

    async def stop(self):
        self._control.close()
        try:
            await asyncio.wait_for(self.process.wait(), PATIENCE_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def _until_cancelled(server):
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


async def _pipe(reader, writer):
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()


class BadLine:
    """Carries packets between two TUN devices. A thread of its own, so that no test holds it up."""

    def __init__(self, tuns, loss, delay_s, seed):
        self.loss, self.delay_s = loss, delay_s
        self.passed = self.lost = 0
        self._tuns = tuns
        self._random = random.Random(seed)
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        """Ends it; both devices vanish."""
        os.close(self._woken)
        self._thread.join()
        for descriptor in [*self._tuns, self._wake]:
            os.close(descriptor)

    def _run(self):
        under_way = []
        far = dict(zip(self._tuns, reversed(self._tuns), strict=True))
        while True:
            patience = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            ready, _, _ = select.select([*self._tuns, self._wake], [], [], patience)
            if self._wake in ready:
                return
            for tun in ready:
                packet = os.read(tun, CHUNK_BYTES)
                if self._random.random() < self.loss:
                    self.lost += 1
                    continue
                self.passed += 1
                # The number keeps the order of packets that are due at once.
                heapq.heappush(under_way, (time.monotonic() + self.delay_s, self.passed, far[tun], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, tun, packet = heapq.heappop(under_way)
                with contextlib.suppress(OSError):
                    os.write(tun, packet)
