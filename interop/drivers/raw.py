"""A socket that sends bytes as they are, for what no client library lets a test say.

Owns nothing but reading and writing with a limit on the wait.
"""

import asyncio
import contextlib

from . import PATIENCE_S


class RawTcp:
    """A TCP connection to a URL such as `nats://127.0.0.1:4222`."""

    @classmethod
    async def open(cls, url):
        self = cls()
        host, port = url.split("//")[1].rsplit(":", 1)
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        return self

    async def send(self, data):
        self._writer.write(data)
        await self._writer.drain()

    async def until(self, marker):
        """Reads up to and with `marker`; what came instead is in the assertion error."""
        try:
            return await asyncio.wait_for(self._reader.readuntil(marker), PATIENCE_S)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            partial = getattr(error, "partial", b"")
            raise AssertionError(f"{marker!r} did not come; the end was {partial!r}") from None

    async def exactly(self, size):
        """Reads so many bytes; fewer when the server closes or says no more."""
        data = b""
        with contextlib.suppress(TimeoutError):
            while len(data) < size:
                piece = await asyncio.wait_for(self._reader.read(size - len(data)), PATIENCE_S)
                if not piece:
                    break
                data += piece
        return data

    async def rest(self):
        """Reads until the server closes."""
        return await asyncio.wait_for(self._reader.read(), PATIENCE_S)

    async def close(self):
        self._writer.close()
        # The server may have reset it already, which is as good.
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
