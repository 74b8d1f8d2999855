"""A web page elsewhere must not reach a loopback node (section 9)."""

import pytest

from absent import absent
from drivers.agent import WebSocketBrowser, WebSocketNode
from drivers.curl import fetch
from drivers.visitor import Visitor
from identities import nats_py
from page import Page

CONFIG = '[listeners.http]\nallowed_origins = ["https://app.example"]\n'
UPGRADE = (
    "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13",
    "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
REFUSED = {
    "origin": ("Origin: https://evil.example",),
    "null origin": ("Origin: null",),
    "other port": ("Origin: http://127.0.0.1:1",),
    "suffix": ("Origin: https://app.example.evil.example",),
    "scheme": ("Origin: http://app.example",),
    "cross-site": ("Sec-Fetch-Site: cross-site",),
    "rebound host": ("Host: evil.example",),
    "rebound host with a port": ("Host: evil.example:8080",),
}


def options(headers):
    return [word for header in headers for word in ("-H", header)]


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("path", ["/pub/a", "/req/a", "/sub/a", "/peers", "/metrics", "/", "/healthz"])
async def test_refused(world, headers, path):
    method = ["-X", "POST"] if path in ("/pub/a", "/req/a") else []
    response = await fetch(world.node.http + path, *method, *options(headers))
    assert response.status == 403, response
    assert response.header("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
async def test_refused_on_websocket(world, headers):
    response = await fetch(world.node.http + "/any", *UPGRADE, *options(headers))
    assert response.status == 403


@pytest.mark.parametrize("origin", ["https://app.example", None])
async def test_allowed(world, origin, subject):
    headers = [f"Origin: {origin or world.node.http}"]
    response = await fetch(f"{world.node.http}/pub/{subject}", *options(headers), body=b"1")
    assert response.status == 202
    assert response.header("Access-Control-Allow-Origin") == origin


async def test_preflight(world):
    asked = (
        "Origin: https://app.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: content-type",
    )
    response = await fetch(f"{world.node.http}/pub/a", "-X", "OPTIONS", *options(asked))
    assert response.status in (200, 204)
    assert response.header("Access-Control-Allow-Origin") == "https://app.example"
    assert "POST" in response.header("Access-Control-Allow-Methods")
    refused = ("Origin: https://evil.example", *asked[1:])
    response = await fetch(f"{world.node.http}/pub/a", "-X", "OPTIONS", *options(refused))
    assert response.header("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_loopback_hosts_are_expected(world, host):
    port = world.node.http.rsplit(":", 1)[1]
    response = await fetch(f"{world.node.http}/healthz", "-H", f"Host: {host}:{port}")
    assert response.status == 200


async def test_a_strangers_page_cannot_connect(world):
    if "ws-browser" in world._without:
        absent("a browser")
    page = await Page.start()

    class Strangers(WebSocketBrowser):
        def command(self, node):
            return [*super().command(node)[:-1], page.url]

    browser = Strangers()
    with pytest.raises(AssertionError, match="connect"):
        await browser.open(world.node)
    await browser.close()
    page.stop()


async def test_a_browser_lets_only_the_named_page_in(world):
    """On a node without users, where nothing but the origin keeps a stranger's page out. `.example` names are this machine."""
    if "ws-browser" in world._without:
        absent("a browser")
    page = await Page.start()
    port = page.origin.rsplit(":", 1)[1]
    visitor = await Visitor().open()
    config = f'[listeners.http]\nallowed_origins = ["http://named.example:{port}"]\n'
    json = {"method": "POST", "body": "[]", "headers": {"Content-Type": "application/json"}}
    async with world.another(config) as node, nats_py(node) as witness:
        heard = await witness.subscribe(">")
        await witness.flush(30)

        async def tries(options, path):
            return await visitor.does("fetch", url=node.http + path, options={"credentials": "omit", **options})

        for stranger in (f"http://stranger.example:{port}", page.origin):
            await visitor.does("open", url=stranger)
            # Asked before (JSON), not asked (plain), and blind.
            for options in (json, {"method": "POST", "body": "x"}, {"method": "POST", "body": "x", "mode": "no-cors"}):
                answer = await tries(options, "/pub/stolen")
                assert answer.get("blocked") or (answer["status"], answer["text"]) == (0, ""), answer
            for path in ("/sub/**", "/peers", "/metrics", "/healthz"):
                assert (await tries({}, path)).get("blocked"), path
        await visitor.does("open", url=f"http://rebound.example:{node.http.rsplit(':', 1)[1]}/")
        for options in (json, {"method": "POST", "body": "x"}):
            refused = await visitor.does("fetch", url="/pub/stolen", options=options)
            assert refused["status"] == 403, refused
        await visitor.does("open", url=f"http://named.example:{port}")
        assert (await tries(json, "/pub/welcome"))["status"] == 202
        assert (await heard.next_msg(30)).subject == "welcome", "and nothing before it"
    await visitor.close()
    page.stop()


@pytest.mark.parametrize("path", ["", "/", "/nats", "/any/path"])
async def test_any_path_upgrades(world, path, subject):
    class Elsewhere(WebSocketNode):
        def url(self, node):
            return node.websocket + path

    client = Elsewhere()
    await client.open(world.node)
    subscription = await client.subscribe(subject)
    await client.publish(subject, b"1")
    assert (await subscription.next()).payload == b"1"
    await client.close()
