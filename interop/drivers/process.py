"""Child processes with line-oriented output.

Owns starting, reading and ending them. It must not know what the lines mean.
"""

import asyncio
import contextlib
import os
import signal


async def run(*argv, stdin=b"", patience_s=30.0, env=None):
    """Runs a command to its end; returns its exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), patience_s)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"{argv[0]} did not end within {patience_s} s; it said {err!r}") from None
    return process.returncode, out, err


class Child:
    """A process that stays. Its output is read line by line as long as it lives."""

    # 40 kB bodies in base64 inside JSON need more than asyncio's 64 KiB a line.
    LINE_LIMIT = 4 * 1024 * 1024

    def __init__(self, process):
        self.process = process
        self._readers = []

    @classmethod
    async def start(cls, *argv, stdin=False, pass_fds=(), env=None, cwd=None):
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
            limit=cls.LINE_LIMIT,
            env=env,
            cwd=cwd,
        )
        return cls(process)

    def on_line(self, stream, callback, on_end=None):
        """Calls `callback(line: bytes)` for each line of `stream`, and `on_end()` after the last one."""

        async def read():
            with contextlib.suppress(ConnectionError):
                while line := await stream.readline():
                    callback(line.rstrip(b"\r\n"))
            if on_end:
                on_end()

        self._readers.append(asyncio.create_task(read()))

    async def stop(self, how=signal.SIGTERM, patience_s=5.0):
        """Ends the process, harder when it does not comply; returns its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(how)
            try:
                await asyncio.wait_for(self.process.wait(), patience_s)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        for reader in self._readers:
            reader.cancel()
        return self.process.returncode


async def read_pipe(fd, limit=Child.LINE_LIMIT):
    """A stream reader for the reading end of an `os.pipe()`."""
    reader = asyncio.StreamReader(limit=limit)
    # The transport closes it.
    pipe = os.fdopen(fd, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    return reader, transport
