"""HTTP services and CoAP servers that know nothing of Waymeet, each in a process of its own.

Owns starting and ending them. What they answer is in `flask_service.py`, `js/express_service.mjs` and
`coap_service.py`; libcoap's server has resources of its own.
"""

import asyncio
import pathlib
import shutil
import socket
import sys
import time

from drivers.agent import JS
from drivers.process import Child

_COMMANDS = {
    "flask": [sys.executable, str(pathlib.Path(__file__).parent / "flask_service.py")],
    "express": ["node", str(JS / "express_service.mjs")],
}
UPSTREAMS = list(_COMMANDS)
_COAP_SERVERS = ("coap-server-notls", "coap-server", "coap-server-openssl")


def free_port():
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


class Services:
    """The services of one module."""

    def __init__(self):
        self._children = []

    async def start(self, name):
        """Starts a service; returns its URL, which ends in a slash."""
        child = await Child.start(*_COMMANDS[name])
        self._children.append(child)
        said, url = [], asyncio.get_running_loop().create_future()

        def on_line(line):
            if not url.done():
                url.set_result(line.decode())

        child.on_line(child.process.stdout, on_line)
        child.on_line(child.process.stderr, said.append)
        try:
            return await asyncio.wait_for(url, 30)
        except TimeoutError:
            raise AssertionError(f"{name} did not start: {said}") from None

    async def start_coap(self, name):
        """Starts a CoAP server; returns its URI, which ends in a slash, or None when it is not to be had."""
        port = free_port()
        if name == "aiocoap":
            argv = [sys.executable, str(pathlib.Path(__file__).parent / "coap_service.py"), str(port)]
        else:
            program = next((found for name in _COAP_SERVERS if (found := shutil.which(name))), None)
            if not program:
                return None
            argv = [program, "-A", "127.0.0.1", "-p", str(port)]
        child = await Child.start(*argv)
        self._children.append(child)
        said = []
        child.on_line(child.process.stdout, said.append)
        child.on_line(child.process.stderr, said.append)
        if not await asyncio.to_thread(_answers_ping, port):
            raise AssertionError(f"{name} did not start: {said}")
        return f"coap://127.0.0.1:{port}/"

    async def stop(self):
        """Ends them all."""
        await asyncio.gather(*(child.stop() for child in self._children))


def _answers_ping(port):
    """Waits until a server answers an empty Confirmable message with a Reset (RFC 7252, section 4.3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        client.connect(("127.0.0.1", port))
        for _ in range(150):
            try:
                client.send(b"\x40\x00\x12\x34")
                return client.recv(16) == b"\x70\x00\x12\x34"
            except TimeoutError:
                continue
            except ConnectionError:
                time.sleep(0.1)
    return False
