"""The client kinds that the matrices are made of.

Owns the names and how each kind is built. `reference` marks those that speak NATS only and so also
run against the real nats-server.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import Driver
from .agent import AsyncNats, WebSocketBrowser, WebSocketNode
from .coap_aiocoap import AioCoap
from .coap_libcoap import LibCoap
from .curl import Curl
from .nats_py import NatsPy
from .waymeet_cli import WaymeetCli


@dataclass(frozen=True)
class Kind:
    """A client kind: what it takes part in and how it is made."""

    build: Callable[[], Driver]
    # The attribute of the server that holds the address this kind needs.
    listener: str
    publishes: bool = True
    subscribes: bool = True
    requests: bool = True
    serves: bool = True
    reference: bool = False


KINDS = {
    "nats-py": Kind(NatsPy, "nats", reference=True),
    "async-nats": Kind(AsyncNats, "nats", reference=True),
    "ws-node": Kind(WebSocketNode, "websocket", reference=True),
    "ws-browser": Kind(WebSocketBrowser, "websocket", reference=True),
    "curl-post-sse": Kind(lambda: Curl("curl-post-sse"), "http"),
    "curl-put-ndjson": Kind(lambda: Curl("curl-put-ndjson", "PUT", "ndjson"), "http"),
    "aiocoap-con": Kind(lambda: AioCoap("aiocoap-con"), "coap"),
    "aiocoap-non": Kind(lambda: AioCoap("aiocoap-non", confirmable=False), "coap"),
    "aiocoap-raw": Kind(
        lambda: AioCoap("aiocoap-raw", raw=True), "coap", publishes=False, requests=False, serves=False
    ),
    "coap-client": Kind(lambda: LibCoap("coap-client"), "coap"),
    "waymeet": Kind(WaymeetCli, "nats", serves=False),
}
