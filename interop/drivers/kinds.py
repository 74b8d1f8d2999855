"""The client kinds that the matrices are made of.

Owns the names and how each kind is built. `reference` marks those that speak NATS only and so also
run against the real nats-server.
"""

from dataclasses import dataclass
from typing import Callable

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
    publishes: bool = True
    subscribes: bool = True
    requests: bool = True
    serves: bool = True
    reference: bool = False


KINDS = {
    "nats-py": Kind(NatsPy, reference=True),
    "async-nats": Kind(AsyncNats, reference=True),
    "ws-node": Kind(WebSocketNode, reference=True),
    "ws-browser": Kind(WebSocketBrowser, reference=True),
    "curl-post-sse": Kind(lambda: Curl("curl-post-sse")),
    "curl-put-ndjson": Kind(lambda: Curl("curl-put-ndjson", "PUT", "ndjson")),
    "aiocoap-con": Kind(lambda: AioCoap("aiocoap-con")),
    "aiocoap-non": Kind(lambda: AioCoap("aiocoap-non", confirmable=False)),
    "aiocoap-raw": Kind(lambda: AioCoap("aiocoap-raw", raw=True), publishes=False, requests=False, serves=False),
    "coap-client": Kind(lambda: LibCoap("coap-client")),
    "waymeet": Kind(WaymeetCli, serves=False),
}
