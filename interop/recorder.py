"""Writes down what a client sends, so that a test can send it once more.

Owns standing between a client and a node, over TCP and over UDP. It must not understand what passes.
"""

import asyncio
import contextlib
import socket

# A node that has said nothing for so long has nothing more to say to what is sent once more.
SILENCE_S = 5.0


class TcpRecorder:
    """Passes TCP connections on; `sent` is what came from clients, one entry a connection."""

    def __init__(self, address):
        self._host, port = address.rsplit(":", 1)
        self._port = int(port)
        self.sent = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _pass_on(self, reader, writer):
        upstream = await asyncio.open_connection(self._host, self._port)
        sent = bytearray()
        self.sent.append(sent)
        await asyncio.gather(_copy(reader, upstream[1], sent), _copy(upstream[0], writer))

    async def replay(self, marker=None):
        """Sends everything once more, each on a connection of its own. Returns what the node answered: until `marker`, or
        else until the node has carried out everything and closes, because nothing more comes."""
        answers = []
        for sent in self.sent:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            answer = bytearray()
            with contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(bytes(sent))
                await writer.drain()
                if marker is None:
                    writer.write_eof()
                while (marker is None or marker not in answer) and (
                    piece := await asyncio.wait_for(reader.read(65_536), SILENCE_S)
                ):
                    answer += piece
            writer.close()
            answers.append(bytes(answer))
        return answers


async def _copy(reader, writer, note=None):
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65_536):
            if note is not None:
                note += piece
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    # What follows the end of one direction may still pass in the other.


class UdpRecorder:
    """Passes datagrams of one client on, all from one port; `sent` is what came from the client."""

    def __init__(self, address):
        self._host, port = address.rsplit(":", 1)
        self._port = int(port)
        self.sent = []

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect((self._host, self._port))
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.setblocking(False)
        self._front.bind(("127.0.0.1", 0))
        self.port = self._front.getsockname()[1]
        self._client = None

        async def onward():
            while True:
                datagram, self._client = await loop.sock_recvfrom(self._front, 65_536)
                self.sent.append(datagram)
                await loop.sock_sendall(self._socket, datagram)

        async def back():
            while True:
                datagram = await loop.sock_recv(self._socket, 65_536)
                if self._client:
                    await loop.sock_sendto(self._front, datagram, self._client)

        self._tasks = [asyncio.create_task(onward()), asyncio.create_task(back())]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        self._socket.close()
        self._front.close()

    async def replay(self):
        """Sends everything once more, from the old port and from a new one."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect((self._host, self._port))
            for datagram in list(self.sent):
                await loop.sock_sendall(self._socket, datagram)
                await loop.sock_sendall(other, datagram)
