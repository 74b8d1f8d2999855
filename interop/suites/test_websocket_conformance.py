"""The Autobahn cases against the listener's WebSocket with an echo behind it (`node/examples/websocket_echo.rs`).

kosoku drives Autobahn's own case files. NATS over WebSocket is a byte stream and echoes nothing, so the example puts the
handshake, the decoder and the writer of the listener behind an echo.
"""

import asyncio
import pathlib

import kosoku
import pytest
import pytest_asyncio

from drivers.process import Child

# Compression is not negotiated: the node declines permessage-deflate by leaving it out of its answer.
COMPRESSION = ["12.*", "13.*"]
# Those are about limits and speed, with messages of up to 16 MiB; the others take some seconds.
PATIENCE_S = 300


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def echo(pytestconfig):
    """The address of the echo."""
    program = pathlib.Path(pytestconfig.getoption("--binary")).parent / "examples" / "websocket_echo"
    address = asyncio.get_running_loop().create_future()
    child = await Child.start(str(program), "127.0.0.1:0")
    child.on_line(child.process.stdout, lambda line: address.done() or address.set_result(line.decode().strip()))
    yield f"ws://{await asyncio.wait_for(address, 30)}"
    await child.stop()


async def run(url, **which):
    """The results of the cases, whatever they are."""
    try:
        return await asyncio.wait_for(kosoku.run_fuzzingclient(url, concurrency=4, **which), PATIENCE_S)
    except kosoku.FailureError as error:
        return error.results


async def test_every_case_passes(echo):
    results = await run(echo, exclude_cases=COMPRESSION)
    failed = [
        f"{r.case_id} {r.behavior.value}, close {r.behavior_close.value}: {r.description} {r.result} {r.result_close}"
        for r in results
        if not r.passed
    ]
    assert not failed, "\n".join(failed)
    assert len(results) > 290, f"only {len(results)} cases were run"


async def test_compression_is_declined(echo):
    results = await run(echo, cases=["12.1.1", "13.1.1"])
    assert [r.behavior.value for r in results] == ["UNIMPLEMENTED"] * 2
    for result in results:
        assert "permessage-deflate" in result.http_request
        assert "sec-websocket-extensions" not in result.http_response.lower()
