"""`[[http.upstream]]`: plain HTTP services answer requests from every protocol (section 5)."""

import json
import socket

import pytest

from drivers.curl import fetch
from services import UPSTREAMS


def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


async def CONFIG(services):
    blocks = [f'[[http.upstream]]\nsubject = "gone.>"\nurl = "http://127.0.0.1:{closed_port()}/"\n']
    for name in UPSTREAMS:
        url = await services.start(name)
        blocks.append(f'[[http.upstream]]\nsubject = "{name}.>"\nurl = "{url}"\n')
    return "\n".join(blocks)


@pytest.mark.parametrize("service", UPSTREAMS)
async def test_the_rest_of_the_subject_is_the_path(world, service):
    outcome = await (await world.client("nats-py")).request(f"{service}.about.a.b", b"12345")
    about = json.loads(outcome.payload)
    assert (about["path"], about["method"], about["length"]) == ("/about/a/b", "POST", 5)


@pytest.mark.parametrize("service", UPSTREAMS)
async def test_headers_cross_both_ways(world, service):
    headers = {"X-Trace": "42", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    outcome = await (await world.client("nats-py")).request(f"{service}.about.a", b"{}", headers)
    sent = json.loads(outcome.payload)["headers"]
    assert sent["x-trace"] == "42" and sent["traceparent"] == headers["traceparent"]
    assert outcome.header("X-Trace") == "42"
    assert outcome.header("Content-Type").startswith("application/json")


@pytest.mark.parametrize("service", UPSTREAMS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_method_of_an_http_request_stays(world, service, method):
    response = await fetch(f"{world.node.http}/req/{service}/about/x", "-X", method)
    assert response.json()["method"] == method


@pytest.mark.parametrize("service", UPSTREAMS)
@pytest.mark.parametrize("code,coap", [(404, "4.04"), (500, "5.00"), (503, "5.03")])
async def test_a_failure_is_the_same_in_every_protocol(world, service, code, coap):
    subject = f"{service}.fail.{code}"
    by_http = await (await world.client("curl-post-sse")).request(subject, b"")
    assert (by_http.status, by_http.payload) == (str(code), b"failed as asked")
    assert (await (await world.client("aiocoap-con")).request(subject, b"")).status == coap
    by_nats = await (await world.client("nats-py")).request(subject, b"")
    assert by_nats.header("Nats-Service-Error-Code") == str(code)


async def test_a_slow_service_is_a_time_out(world):
    outcome = await (await world.client("curl-post-sse")).request("flask.slow.x", b"", timeout_s=0.4)
    assert outcome.status == "504"


async def test_a_service_that_is_gone_is_an_error_at_once(world):
    outcome = await (await world.client("nats-py")).request("gone.x", b"")
    assert outcome.header("Nats-Service-Error-Code") in ("502", "503"), outcome
    by_http = await (await world.client("curl-post-sse")).request("gone.x", b"")
    assert by_http.status in ("502", "503")


@pytest.mark.parametrize("token", ["%2E%2E%2Fsecret", "%3Fquery", "a%2Fb", "%23fragment"])
async def test_a_token_cannot_leave_its_path_segment(world, token):
    """A token may hold any of `/ ? # %`; in the upstream's path it stays one segment."""
    outcome = await (await world.client("curl-post-sse")).request(f"flask.about.{token}", b"")
    if outcome.status != "400":
        about = json.loads(outcome.payload)
        assert about["path"].startswith("/about/"), about
