"""A web page of somebody else's on loopback: the origin that browsers name in `Origin`.

Owns a server of one empty page. The clients in it come from `js/page.mjs`.
"""

import asyncio

_BODY = b"<!doctype html><title>interop</title>"
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
    % (
        len(_BODY),
        _BODY,
    )
)


class Page:
    """A running page server; `url` is the page's, `origin` what a browser calls it."""

    @classmethod
    async def start(cls):
        self = cls()
        self._server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"{self.origin}/"
        return self

    def stop(self):
        self._server.close()


async def _answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_RESPONSE)
    await writer.drain()
    writer.close()
