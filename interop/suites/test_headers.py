"""Headers cross both ways, and credentials never do (design, section 6)."""

import pytest

from drivers import Received

# A name as an HTTP client writes it, a value, and the name that a NATS service looks for.
CROSSING = [
    ("content-type", "application/json", "Content-Type"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "traceparent"),
    ("tracestate", "vendor=1", "tracestate"),
    ("ce-id", "1234", "ce-id"),
    ("nats-msg-id", "m-1", "Nats-Msg-Id"),
    ("x-trace", "abc", "X-Trace"),
    ("waymeet-test", "yes", "Waymeet-Test"),
]
STAYING = [
    ("Authorization", "Basic YTpi"),
    ("Cookie", "session=1"),
    ("X-Api-Key", "secret"),
    ("X-Auth-Token", "secret"),
    ("Proxy-Authorization", "Basic YTpi"),
    ("User-Agent", "interop"),
    ("Accept-Language", "de"),
]


async def test_http_headers_reach_nats_in_its_case(world, subject):
    subscription = await (await world.client("nats-py")).subscribe(subject)
    headers = {name: value for name, value, _ in CROSSING} | dict(STAYING)
    await (await world.client("curl-post-sse")).publish(subject, b"{}", headers)
    received = await subscription.next()
    assert received.headers == {name: [value] for _, value, name in CROSSING}


@pytest.mark.parametrize("name,value", STAYING)
async def test_a_reply_carries_no_credential_out(world, subject, name, value):
    nats = await world.client("nats-py")
    await nats.serve(subject, lambda _: (b"ok", {name: value, "X-Trace": "1"}))
    outcome = await (await world.client("curl-post-sse")).request(subject, b"")
    assert outcome.header("X-Trace") == "1"
    assert outcome.header(name) is None


async def test_nats_headers_reach_http_replies(world, subject):
    nats = await world.client("nats-py")
    await nats.serve(subject, lambda _: (b"{}", {name: value for _, value, name in CROSSING}))
    outcome = await (await world.client("curl-post-sse")).request(subject, b"")
    for name, value, _ in CROSSING:
        assert outcome.header(name) == value, name


async def test_a_reply_cannot_be_a_page_of_our_origin(world, subject):
    nats = await world.client("nats-py")
    await nats.serve(subject, lambda _: (b"<script>alert(1)</script>", {"Content-Type": "text/html"}))
    outcome = await (await world.client("curl-post-sse")).request(subject, b"")
    assert outcome.header("X-Content-Type-Options") == "nosniff"
    assert "sandbox" in outcome.header("Content-Security-Policy")


async def test_an_http_responders_headers_reach_the_requester(world, subject):
    web = await world.client("curl-post-sse")
    await web.serve(subject, lambda _: (b"{}", {"Content-Type": "application/json", "X-Trace": "7"}))
    outcome = await (await world.client("nats-py")).request(subject, b"")
    assert outcome.headers == {"Content-Type": ["application/json"], "X-Trace": ["7"]}


async def test_envelopes_group_header_values(world, subject):
    web = await world.client("curl-post-sse")
    subscription = await web.subscribe(subject)
    await web.publish(subject, b"", {"X-Trace": "1"})
    received = await subscription.next()
    assert received == Received(subject, b"", {"X-Trace": ["1"]})


@pytest.mark.parametrize(
    "content_type,number", [("text/plain", 0), ("application/octet-stream", 42), ("application/json", 50)]
)
async def test_content_format_is_content_type(world, subject, content_type, number):
    subscription = await (await world.client("nats-py")).subscribe(subject)
    coap = await world.client("aiocoap-con")
    await coap.publish(subject, b"1", {"Content-Type": content_type})
    received = await subscription.next()
    # RFC 7252, table 9: 0 is text/plain with its charset.
    assert received.header("Content-Type").split(";")[0] == content_type
    raw = await (await world.client("aiocoap-raw")).subscribe(subject)
    await (await world.client("nats-py")).publish(subject, b"1", {"Content-Type": content_type})
    assert int((await raw.next()).content_format) == number


async def test_a_reply_content_type_becomes_a_content_format(world, subject):
    await (await world.client("nats-py")).serve(
        subject, lambda _: (b"{}", {"Content-Type": "application/json"})
    )
    outcome = await (await world.client("aiocoap-con")).request(subject, b"")
    assert outcome.header("content-format") == "50"


@pytest.mark.parametrize(
    "code,http,coap",
    [
        ("404", "404", "4.04"),
        ("429", "429", "4.29"),
        ("503", "503", "5.03"),
        ("500", "500", "5.00"),
        ("200", "500", "5.00"),
        ("nonsense", "500", "5.00"),
    ],
)
async def test_service_errors_become_status_codes(world, subject, code, http, coap):
    nats = await world.client("nats-py")
    headers = {"Nats-Service-Error-Code": code, "Nats-Service-Error": "as asked"}
    await nats.serve(subject, lambda _: (b"details", headers))
    by_http = await (await world.client("curl-post-sse")).request(subject, b"")
    assert by_http.status == http
    by_coap = await (await world.client("aiocoap-con")).request(subject, b"")
    assert by_coap.status == coap
