"""Plain HTTP services that know nothing of Waymeet, each in a process of its own.

Owns starting and ending them. What they answer is in `flask_service.py` and `js/express_service.mjs`.
"""

import asyncio
import pathlib
import sys

from drivers.agent import JS
from drivers.process import Child

_COMMANDS = {
    "flask": [sys.executable, str(pathlib.Path(__file__).parent / "flask_service.py")],
    "express": ["node", str(JS / "express_service.mjs")],
}
UPSTREAMS = list(_COMMANDS)


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
            return await asyncio.wait_for(url, 15)
        except TimeoutError:
            raise AssertionError(f"{name} did not start: {said}") from None

    async def stop(self):
        """Ends them all."""
        await asyncio.gather(*(child.stop() for child in self._children))
