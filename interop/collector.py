"""An OpenTelemetry collector: Rotel, a program of its own, and what it passes on.

Owns the process and the place that it exports to, where its spans are decoded with the published .proto. It must not know a
suite.
"""

import asyncio
import gzip
import http.server
import importlib.util
import pathlib
import socket
import threading

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from absent import absent
from drivers.process import Child

# The package brings the program.
PACKAGE = importlib.util.find_spec("rotel")
PATIENCE_S = 20.0
STEP_S = 0.05


class Span:
    """A span as it came out of the collector, with the resource that it is of."""

    def __init__(self, resource, span):
        self.resource = _attributes(resource.attributes)
        self.trace = span.trace_id.hex()
        self.id = span.span_id.hex()
        self.parent = span.parent_span_id.hex() or None
        self.name = span.name
        self.kind = span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.attributes = _attributes(span.attributes)
        self.state = span.trace_state
        self.status = span.status

    @property
    def service(self):
        return self.resource["service.name"]

    @property
    def instance(self):
        return self.resource.get("service.instance.id")

    def __repr__(self):
        return f"{self.service}: {self.kind} {self.name!r} {self.id} of {self.parent}"


class Collector:
    """Runs until it is stopped. `url` is for exporters, with OTLP over HTTP."""

    def __init__(self):
        self.spans = []

    async def start(self):
        if PACKAGE is None:
            absent("rotel")
        program = pathlib.Path(PACKAGE.origin).parent / "rotel-agent"
        self._sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._sink.serve_forever, daemon=True).start()
        port, other = _free_ports(2)
        argv = [program, "start", "--otlp-http-endpoint", f"127.0.0.1:{port}"]
        argv += ["--otlp-grpc-endpoint", f"127.0.0.1:{other}", "--batch-timeout", "50ms"]
        argv += ["--exporter", "otlp", "--otlp-exporter-protocol", "http"]
        argv += ["--otlp-exporter-endpoint", f"http://127.0.0.1:{self._sink.server_address[1]}"]
        self._child = await Child.start(*map(str, argv))
        self.log = []
        for stream in (self._child.process.stdout, self._child.process.stderr):
            self._child.on_line(stream, self.log.append)
        await self._reachable(port)
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def stop(self):
        await self._child.stop()
        self._sink.shutdown()
        self._sink.server_close()

    async def trace(self, trace, is_whole):
        """The spans of a trace, once `is_whole(spans)`."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            spans = [span for span in list(self.spans) if span.trace == trace]
            if is_whole(spans):
                return spans
            assert asyncio.get_running_loop().time() < deadline, f"{spans}\n{self.spans}\n{self.log}"
            await asyncio.sleep(STEP_S)

    def _handler(self):
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for of_scope in of_resource.scope_spans:
                        collector.spans += [Span(of_resource.resource, span) for span in of_scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    async def _reachable(self, port):
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                return writer.close()
            except OSError:
                assert asyncio.get_running_loop().time() < deadline, self.log
                await asyncio.sleep(STEP_S)


def _attributes(pairs):
    """The value of each key, without the wrapping that protobuf needs."""
    return {pair.key: next(iter(MessageToDict(pair.value).values()), None) for pair in pairs}


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
