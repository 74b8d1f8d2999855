"""Every error of the HTTP resource space, and what it looks like (section 6)."""

import json

import pytest

from drivers.curl import fetch

ANY = {"/pub/a": "POST, PUT", "/req/a": "GET, POST", "/sub/a": "GET", "/peers": "GET", "/healthz": "GET"}


async def problem(url, *options, body=None):
    response = await fetch(url, *options, body=body)
    assert response.header("Content-Type") == "application/problem+json", response
    fields = response.json()
    assert fields["status"] == response.status
    assert fields["title"]
    return response


@pytest.mark.parametrize(
    "path",
    [
        "/pub/a..b",
        "/pub/a//b",
        "/pub/a/*",
        "/pub/a/%2A",
        "/pub/%3E",
        "/pub/a%20b",
        "/pub/a%0Ab",
        "/pub/a%00b",
        "/pub/%FF",
        "/pub/a/",
    ],
)
async def test_bad_subjects(world, path):
    response = await problem(world.node.http + path, "--path-as-is", "-g", body=b"x")
    assert response.status == 400


@pytest.mark.parametrize("path", ["/req/a..b?timeout=1s", "/sub/a..b", "/sub/%3E/a", "/sub", "/sub?filter="])
async def test_bad_requests_and_filters(world, path):
    response = await problem(world.node.http + path, "-g")
    assert response.status == 400


@pytest.mark.parametrize("path", ["/nothing", "/pubs/a", "/healthz/x"])
async def test_unknown_paths(world, path):
    assert (await problem(world.node.http + path)).status == 404


@pytest.mark.parametrize("path,methods", ANY.items())
async def test_wrong_methods(world, path, methods):
    response = await problem(world.node.http + path, "-X", "DELETE")
    assert response.status == 405
    allowed = {method.strip() for method in response.header("Allow").split(",")}
    assert allowed - {"HEAD", "OPTIONS"} == set(methods.split(", "))


@pytest.mark.parametrize("options", [(), ("-H", "Transfer-Encoding: chunked")])
async def test_too_large(world, options):
    # Not over HTTP/2: curl 7.88 takes the RST_STREAM(NO_ERROR) after an early answer for a failure.
    body = b"x" * (1024 * 1024 + 1)
    response = await fetch(f"{world.node.http}/pub/a", "-H", "Expect:", *options, body=body)
    assert response.status == 413
    assert response.header("Content-Type") == "application/problem+json"


async def test_the_limit_itself_is_not_too_large(world, subject):
    subscription = await (await world.client("nats-py")).subscribe(subject)
    body = b"x" * (1024 * 1024)
    response = await fetch(f"{world.node.http}/pub/{subject}", "-H", "Content-Type:", body=body)
    assert response.status == 202
    assert (await subscription.next()).payload == body


async def test_failed_requests_are_problems_too(world, subject):
    response = await problem(f"{world.node.http}/req/{subject}", body=b"")
    assert response.status == 503
    await (await world.client("nats-py")).subscribe(subject)
    response = await problem(f"{world.node.http}/req/{subject}?timeout=100ms", body=b"")
    assert response.status == 504


async def test_the_receipt_counts(world, subject):
    web = await world.client("curl-post-sse")
    nobody = await web.publish(subject, b"")
    assert (nobody["delivered"], nobody["forwarded"], nobody["dropped"]) == (0, 0, 0)
    await (await world.client("nats-py")).subscribe(subject)
    await (await world.client("nats-py")).subscribe(subject)
    await web.subscribe(subject)
    receipt = await web.publish(subject, b"")
    assert set(receipt) == {"id", "subject", "delivered", "forwarded", "dropped"}
    assert (receipt["subject"], receipt["delivered"]) == (subject, 3)
    assert receipt["id"] and receipt["id"] != nobody["id"]


@pytest.mark.parametrize(
    "path", ["/pub/t/slashes/x", "/pub/t.slashes.x", "/pub/t/slashes.x", "/pub/t/%73lashes/x"]
)
async def test_slashes_and_dots_separate_tokens(world, path):
    subscription = await (await world.client("nats-py")).subscribe("t.slashes.x")
    assert (await fetch(world.node.http + path, body=b"1")).json()["subject"] == "t.slashes.x"
    assert (await subscription.next()).payload == b"1"
    await subscription.close()


async def test_several_filters_on_one_stream(world, subject):
    web = await world.client("curl-post-sse")
    stream = await web.subscribe_path(f"/sub?filter={subject}.a.*&filter={subject}.b.**")
    for last in ("a.1", "b.1.2", "a.1.2", "c", "b.3"):
        await web.publish(f"{subject}.{last}", b"")
    got = [(await stream.next()).subject for _ in range(3)]
    assert got == [f"{subject}.a.1", f"{subject}.b.1.2", f"{subject}.b.3"]


async def test_overlapping_filters_deliver_once(world, subject):
    web = await world.client("curl-post-sse")
    stream = await web.subscribe_path(f"/sub?filter={subject}.*&filter={subject}.**")
    await web.publish(f"{subject}.1", b"")
    await web.publish(f"{subject}.2", b"")
    assert [(await stream.next()).subject for _ in range(2)] == [f"{subject}.1", f"{subject}.2"]


async def test_streams_say_what_they_are(world, subject):
    sse = await (await world.client("curl-post-sse")).subscribe(subject)
    assert sse.response.header("Content-Type").split(";")[0] == "text/event-stream"
    assert "no-store" in sse.response.header("Cache-Control") or "no-cache" in sse.response.header(
        "Cache-Control"
    )
    ndjson = await (await world.client("curl-put-ndjson")).subscribe(subject)
    assert ndjson.response.header("Content-Type").split(";")[0] == "application/x-ndjson"


async def test_http_2(world, subject):
    subscription = await (await world.client("nats-py")).subscribe(subject)
    http2 = "--http2-prior-knowledge"
    response = await fetch(f"{world.node.http}/pub/{subject}", http2, body=b"2")
    assert (response.version, response.status) == ("HTTP/2", 202)
    assert (await subscription.next()).payload == b"2"
    await (await world.client("nats-py")).serve(f"{subject}.q", lambda r: (r.payload[::-1], None))
    response = await fetch(f"{world.node.http}/req/{subject}.q", http2, body=b"ab")
    assert (response.version, response.status, response.body) == ("HTTP/2", 200, b"ba")
    stream = await (await world.client("curl-post-sse")).subscribe_path(f"/sub/{subject}", http2)
    await (await world.client("nats-py")).publish(subject, b"3")
    assert (await stream.next()).payload == b"3"


async def test_pages(world):
    base = world.node.http
    assert (await fetch(f"{base}/healthz")).status == 200
    assert (await fetch(f"{base}/readyz")).status == 200
    peers = (await fetch(f"{base}/peers")).json()
    assert peers["peers"] == [] and peers["id"] and peers["name"]
    page = await fetch(f"{base}/")
    assert page.status == 200 and page.header("Content-Type").startswith("text/html")
    openapi = (await fetch(f"{base}/openapi.json")).json()
    assert openapi["openapi"].startswith("3.")
    assert {"/pub/{subject}", "/req/{subject}", "/sub/{filter}"} <= set(openapi["paths"])


async def test_metrics_count_drops_and_messages(world, subject):
    text = (await fetch(f"{world.node.http}/metrics")).body.decode()
    assert "waymeet_messages_dropped_total" in text
    for line in text.splitlines():
        # The text format: a comment, or a name with labels, and a number.
        assert line.startswith("#") or not line or float(line.rsplit(" ", 1)[1]) >= 0, line


async def test_last_event_id_is_accepted(world, subject):
    web = await world.client("curl-post-sse")
    stream = await web.subscribe_path(f"/sub/{subject}", "-H", "Last-Event-ID: 41")
    await web.publish(subject, json.dumps({"a": 1}).encode())
    assert (await stream.next()).payload == b'{"a": 1}'
