"""Starts and ends the server under test: a fresh `waymeet`, or the real nats-server for reference.

Owns the process, its configuration, its addresses and its log. It must not know a suite.
"""

import asyncio
import os
import pathlib
import re
import shutil
import signal
import tempfile

from drivers.process import Child
from page import Page

# A debug build on a busy machine of two cores; a healthy start takes well under a second.
START_PATIENCE_S = 30.0
ADDRESSES = {
    "nats": re.compile(r"\b(?:nats|tls)://((?:127\.0\.0\.1|\[::1\]):\d+)"),
    "coap": re.compile(r"\bcoap://((?:127\.0\.0\.1|\[::1\]):\d+)"),
    "http": re.compile(r"\bhttps?://((?:127\.0\.0\.1|\[::1\]):\d+)"),
}
# `[[listeners.lines]]` and `[[listeners.datagrams]]`, in the order of the configuration.
RAW = {
    "lines": re.compile(r"^  lines +tcp://(\[[^ ]+\]|[^ :]+):(\d+) ", re.MULTILINE),
    "datagrams": re.compile(r"^  datagrams +udp://(\[[^ ]+\]|[^ :]+):(\d+) ", re.MULTILINE),
}
# Where other nodes link, over TCP and QUIC and over WebSocket, and under which name.
MESH = re.compile(r"^  mesh +([\d.]+):(\d+) \(TCP and QUIC\)", re.MULTILINE)
MESH_WEBSOCKET = re.compile(r"^  mesh +([\d.]+):(\d+) \(WebSocket\)", re.MULTILINE)
PEER_ID = re.compile(r"^  peer id +(\S+)$", re.MULTILINE)
# The line of the banner behind all addresses.
BEHIND_ADDRESSES = re.compile(r"^  data ", re.MULTILINE)


class StartFailed(Exception):
    """The server ended, or said nothing of its addresses, before it was ready."""

    def __init__(self, why, exit_code, log):
        super().__init__(f"{why}\n{log}")
        self.exit_code = exit_code
        self.log = log


class Server:
    """What the drivers need to know of a running server."""

    binary = nats = coap = http = websocket = page = None

    def __init__(self):
        self.lines = []
        self.child = None
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="waymeet-interop-"))

    @property
    def log(self):
        """Everything that the server has written so far."""
        return "\n".join(self.lines)

    @property
    def process(self):
        return self.child.process

    async def spawn(self, argv, is_ready, env=None):
        """Starts the process and returns once `is_ready(log)`."""
        self.child = await Child.start(*argv, env=env, cwd=self.directory)
        self._changed = changed = asyncio.Event()

        def on_line(line):
            self.lines.append(line.decode(errors="replace"))
            changed.set()

        self.child.on_line(self.process.stdout, on_line, changed.set)
        self.child.on_line(self.process.stderr, on_line, changed.set)
        exited = asyncio.create_task(self.process.wait())
        deadline = asyncio.get_running_loop().time() + START_PATIENCE_S
        while not is_ready(self.log):
            if exited.done():
                # Both readers have to reach the end before the log is whole.
                await asyncio.gather(*self.child._readers)
                raise StartFailed(f"{argv[0]} ended with {exited.result()}", exited.result(), self.log)
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                await self.child.stop(signal.SIGKILL)
                raise StartFailed(f"{argv[0]} was not ready in time", None, self.log)
            changed.clear()
            waiting = asyncio.create_task(changed.wait())
            await asyncio.wait({waiting, exited}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

    async def says(self, text, patience_s=30.0):
        """Waits until the log has `text`."""

        async def wait():
            while text not in self.log:
                self._changed.clear()
                await self._changed.wait()

        try:
            await asyncio.wait_for(wait(), patience_s)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in the log:\n{self.log}") from None

    async def stop(self, keep_log_as=None):
        """Ends the server as an operator would; returns its exit code."""
        code = await self.child.stop(signal.SIGTERM, patience_s=30)
        if keep_log_as:
            keep_log_as.parent.mkdir(parents=True, exist_ok=True)
            keep_log_as.write_text(self.log + "\n")
        shutil.rmtree(self.directory, ignore_errors=True)
        return code


class Waymeet(Server):
    """The node. `config` is TOML; `flags` replace the ones that pick free ports, and `None` leaves one out.

    `within` is a `network.Host` for it to run in; clients then reach it through ports outside."""

    def __init__(self, binary, within=None):
        super().__init__()
        self.binary = str(binary)
        self.within = within

    async def start(self, config="", flags=None, env=None):
        defaults = {f"--{listener}": "127.0.0.1:0" for listener in ADDRESSES}
        # As by default, but for the port.
        defaults["--mesh"] = "127.0.0.1:0"
        flags = {**defaults, "--data-dir": str(self.directory / "data"), **(flags or {})}
        argv = [*(self.within.argv if self.within else []), self.binary, "serve"]
        for flag, values in flags.items():
            if values is None:
                continue
            # A list stands for a flag that is given several times.
            for value in values if isinstance(values, list) else [values]:
                argv += [flag, value]
        if config:
            path = self.directory / "waymeet.toml"
            path.write_text(config)
            argv += ["-c", str(path)]
        wanted = [name for name in ADDRESSES if flags[f"--{name}"] != "off"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WAYMEET_")}
        await self.spawn(
            argv,
            lambda log: BEHIND_ADDRESSES.search(log) and all(_answers(log, name) for name in wanted),
            {**environment, **(env or {})},
        )
        for name, pattern in RAW.items():
            setattr(self, f"raw_{name}", pattern.findall(self.log))
        if mesh := MESH.search(self.log):
            self.tcp = f"/ip4/{mesh[1]}/tcp/{mesh[2]}"
            self.quic = f"/ip4/{mesh[1]}/udp/{mesh[2]}/quic-v1"
            self.join = f"{mesh[1]}:{mesh[2]}"
            self.peer_id = PEER_ID.search(self.log)[1]
        if mesh := MESH_WEBSOCKET.search(self.log):
            self.ws = f"/ip4/{mesh[1]}/tcp/{mesh[2]}/ws"
        for name in wanted:
            if address := ADDRESSES[name].search(self.log):
                reached = address[1]
                if self.within and name != "coap":
                    host, _, port = reached.rpartition(":")
                    reached = await self.within.forward(host, int(port))
                setattr(self, name, f"{name}://{reached}")
        if self.http:
            self.websocket = self.http.replace("http://", "ws://")
            self.page = f"{self.http}/"
        return self


def _answers(log, name):
    """Whether the banner has come to a listener: its address, or that it is off."""
    return ADDRESSES[name].search(log) or re.search(rf"^\s*{name}\s+off", log, re.IGNORECASE | re.MULTILINE)


class NatsServer(Server):
    """The real nats-server: what the suites expect of NATS is checked against it with
    `--reference PATH`."""

    def __init__(self, binary):
        super().__init__()
        self.reference = str(binary)

    async def start(self, config=""):
        path = self.directory / "nats.conf"
        path.write_text(
            'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\n'
            'websocket { listen: "127.0.0.1:-1", no_tls: true }\n'
        )
        await self.spawn([self.reference, "-c", str(path)], lambda log: "Server is ready" in log)
        port = re.search(r"client connections on 127\.0\.0\.1:(\d+)", self.log)[1]
        self.nats = f"nats://127.0.0.1:{port}"
        port = re.search(r"websocket clients on ws://127\.0\.0\.1:(\d+)", self.log)[1]
        self.websocket = f"ws://127.0.0.1:{port}"
        port = re.search(r"http monitor on 127\.0\.0\.1:(\d+)", self.log)[1]
        self.monitor = f"http://127.0.0.1:{port}"
        self._page = await Page.start()
        self.page = self._page.url
        return self

    async def stop(self, keep_log_as=None):
        self._page.stop()
        return await super().stop(keep_log_as)
