"""OpenTelemetry: one trace over HTTP, two nodes, a NATS service in Python and a CoAP device, as a collector receives it
(docs/trace.md, "OpenTelemetry")."""

import asyncio
import contextlib
import socket

import aiocoap
import aiocoap.resource
import nats
import pytest
from aiocoap.numbers.optionnumbers import OptionNumber
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from absent import absent
from collector import Collector
from drivers.curl import fetch
from drivers.process import run
from mesh import PATIENCE_S, STEP_S, Mesh

SOON = 10
# The node's own option for a trace context (docs/coap.md).
TRACEPARENT = OptionNumber(65052)
CONTEXT = TraceContextTextMapPropagator()


async def known(near, far, marker):
    """Waits until the node of the client `near` knows what `far` has subscribed to so far: a node tells it in order, so that
    what reaches a later subscription says that the earlier ones are known."""
    later = await far.subscribe(marker)
    await far.flush()
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while later.pending_msgs == 0:
        assert asyncio.get_running_loop().time() < deadline, "it is not known what is wanted"
        await near.publish(marker, b"")
        await asyncio.sleep(STEP_S)
    await later.unsubscribe()


class Service:
    """A program that records spans with OpenTelemetry's own SDK and sends them to the collector itself."""

    def __init__(self, name, collector):
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        exporter = OTLPSpanExporter(f"{collector.url}/v1/traces")
        self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(name)

    @contextlib.contextmanager
    def span(self, name, kind, headers=None):
        """A span under the context of these headers; gives the headers for what it causes."""
        parent = CONTEXT.extract(headers or {})
        with self._tracer.start_as_current_span(name, context=parent, kind=kind):
            carried = {}
            CONTEXT.inject(carried)
            yield carried

    def stop(self):
        self._provider.shutdown()


class Pump(aiocoap.resource.Resource):
    """The device: it knows the option, and nothing else of the node."""

    def __init__(self, service):
        super().__init__()
        self._service = service

    async def render_post(self, request):
        context = [option.value.decode() for option in request.opt.get_option(TRACEPARENT)]
        headers = {"traceparent": context[0]} if context else {}
        with self._service.span("pump", trace.SpanKind.SERVER, headers) as carried:
            answer = aiocoap.Message(code=aiocoap.CONTENT, payload=b"pumped " + request.payload)
            answer.opt.add_option(TRACEPARENT.create_option(value=carried["traceparent"].encode()))
            return answer


@pytest.fixture(scope="module")
async def plant(pytestconfig):
    """A collector, two linked nodes, a service at the far one, and a device behind that."""
    async with contextlib.AsyncExitStack() as stack:
        collector = await Collector().start()
        stack.push_async_callback(collector.stop)
        service, device, shop = [Service(name, collector) for name in ("orders", "device", "shop")]
        for one in (service, device, shop):
            stack.callback(one.stop)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        site = aiocoap.resource.Site()
        site.add_resource(["pump"], Pump(device))
        server = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
        stack.push_async_callback(server.shutdown)
        # The address of the collector is none of the node's own, which are looked for in its log.
        config = f'[log]\nlevel = "warn"\n[telemetry]\notlp_endpoint = "{collector.url}"\n'
        upstream = f'[[coap.upstream]]\nsubject = "plant.*"\nuri = "coap://127.0.0.1:{port}/"\n'
        mesh = Mesh(pytestconfig.getoption("--binary"))
        stack.push_async_callback(mesh.stop)
        # Of what comes without a context, the node at the front begins a trace of every message.
        await mesh.add(config=f"{config}trace_sample = 1.0")
        await mesh.add([0], config=f"{config}{upstream}")
        await mesh.converged()
        near, far = [await nats.connect(node.nats) for node in mesh.nodes]
        stack.push_async_callback(near.close)
        stack.push_async_callback(far.close)

        async def order(message):
            with service.span("take the order", trace.SpanKind.CONSUMER, message.headers) as carried:
                pumped = await far.request("plant.pump", message.data, timeout=SOON, headers=carried)
                await message.respond(pumped.data)

        await far.subscribe("orders.new", queue="workers", cb=order)
        await far.flush()
        await known(near, far, "ready.orders")
        mesh.collector, mesh.shop, mesh.near, mesh.far = collector, shop, near, far
        yield mesh


def is_whole(spans):
    """Whether every span but one has its parent, and the answer has come all the way back."""
    ids = {span.id for span in spans}
    orphans = [span for span in spans if span.parent not in ids]
    names = [span.name for span in spans]
    # The request, the order that is passed to the device, both answers, and the ways between the nodes.
    return len(orphans) == 1 and names.count("forward orders.new") == 2 and len(spans) >= 12


def named(spans, name, service="waymeet"):
    found = [span for span in spans if span.name == name and span.service == service]
    assert len(found) == 1, f"{name}: {found} of {spans}"
    return found[0]


async def test_one_trace_spans_http_two_nodes_a_nats_service_and_a_coap_device(plant):
    with plant.shop.span("buy", trace.SpanKind.CLIENT) as carried:
        parent = carried["traceparent"]
        url = f"{plant.nodes[0].http}/req/orders/new"
        answer = await fetch(url, "-H", f"traceparent: {parent}", body=b"3")
    assert answer.body == b"pumped 3", answer
    spans = await plant.collector.trace(parent.split("-")[1], is_whole)
    front, back = [node.peer_id for node in plant.nodes]
    assert {span.service for span in spans} == {"shop", "waymeet", "orders", "device"}
    assert {span.instance for span in spans if span.service == "waymeet"} == {front, back}
    # Down: each the child of the one before.
    buy = named(spans, "buy", "shop")
    asked = named(spans, "request orders.new")
    forwards = {span.instance: span for span in spans if span.name == "forward orders.new"}
    taken = named(spans, "take the order", "orders")
    passed = named(spans, "request plant.pump")
    pump = named(spans, "pump", "device")
    down = [buy, asked, forwards[back], taken, passed, pump]
    for parent, child in zip(down, down[1:], strict=False):
        assert child.parent == parent.id, f"{child} is not of {parent}"
    assert [span.kind for span in down] == ["CLIENT", "SERVER", "CONSUMER", "CONSUMER", "PRODUCER", "SERVER"]
    assert [asked.instance, forwards[back].instance, passed.instance] == [front, back, back]
    # Back: the device says of which span its answer is, the service does not.
    assert named(spans, "answer plant.pump").parent == pump.id
    answered = named(spans, "answer orders.new")
    assert (answered.parent, answered.instance) == (forwards[back].id, back)
    assert forwards[front].parent == answered.id
    assert asked.start <= forwards[front].start <= asked.end, "the request lasts until its answer"
    delivery = named(spans, "deliver orders.new")
    assert delivery.parent == forwards[back].id
    assert delivery.attributes["messaging.consumer.group.name"] == "workers"
    assert asked.attributes["messaging.system"] == "waymeet"
    assert asked.attributes["network.protocol.name"] == "http"
    assert asked.attributes["messaging.destination.name"] == "orders.new"


async def test_a_request_without_a_context_begins_a_trace(plant):
    answer = await fetch(f"{plant.nodes[0].http}/req/orders/new", body=b"4")
    assert answer.body == b"pumped 4", answer
    context = answer.header("traceparent")
    spans = await plant.collector.trace(context.split("-")[1], is_whole)
    asked = named(spans, "request orders.new")
    assert (asked.parent, asked.instance) == (None, plant.nodes[0].peer_id)
    named(spans, "pump", "device")


@pytest.mark.parametrize("way", ["option", "query"])
async def test_a_device_that_publishes_continues_its_trace(plant, way):
    got = await plant.far.subscribe("readings.*")
    await plant.far.flush()
    await known(plant.near, plant.far, f"ready.{way}")
    client = await aiocoap.Context.create_client_context()
    with plant.shop.span("measure", trace.SpanKind.CLIENT) as carried:
        context = carried["traceparent"]
        uri = f"{plant.nodes[0].coap}/pub/readings/{way}"
        message = aiocoap.Message(code=aiocoap.POST, payload=b"21")
        message.set_request_uri(f"{uri}?traceparent={context}" if way == "query" else uri)
        if way == "option":
            message.opt.add_option(TRACEPARENT.create_option(value=context.encode()))
        assert (await client.request(message).response).code == aiocoap.CHANGED
    await client.shutdown()
    received = await got.next_msg(timeout=SOON)
    await got.unsubscribe()
    spans = await plant.collector.trace(context.split("-")[1], lambda spans: len(spans) >= 4)
    measured = named(spans, "measure", "shop")
    published, forwarded = named(spans, f"publish readings.{way}"), named(spans, f"forward readings.{way}")
    assert (published.parent, published.kind) == (measured.id, "SERVER")
    assert published.attributes["network.protocol.name"] == "coap"
    assert forwarded.parent == published.id
    assert received.headers["traceparent"].split("-")[2] == forwarded.id


async def test_an_observer_is_told_of_the_trace(plant):
    """The bare payload has it as an option, the envelope among its headers."""
    client = await aiocoap.Context.create_client_context()
    request = aiocoap.Message(code=aiocoap.GET, observe=0)
    request.set_request_uri(f"{plant.nodes[0].coap}/sub/alarms/fire")
    observation = client.request(request)
    await observation.response
    notification = asyncio.ensure_future(anext(aiter(observation.observation)))
    with plant.shop.span("alarm", trace.SpanKind.PRODUCER) as carried:
        await plant.near.publish("alarms.fire", b"!", headers=carried)
        context = carried["traceparent"]
    notified = await asyncio.wait_for(notification, SOON)
    told = [option.value.decode() for option in notified.opt.get_option(TRACEPARENT)]
    observation.observation.cancel()
    await client.shutdown()
    spans = await plant.collector.trace(context.split("-")[1], lambda spans: len(spans) >= 3)
    published = named(spans, "publish alarms.fire")
    assert told == [f"00-{published.trace}-{published.id}-01"]
    assert published.kind == "PRODUCER"


async def test_what_nobody_records_is_not_touched(plant):
    """At the far node chance chooses nothing: a message without headers stays one, and a context goes on as it came."""
    got = await plant.far.subscribe("plain")
    await plant.far.publish("plain", b"a")
    assert (await got.next_msg(timeout=SOON)).headers is None
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "tracestate": "a=1"}
    await plant.far.publish("plain", b"b", headers=headers)
    assert (await got.next_msg(timeout=SOON)).headers == headers


async def test_the_counter_of_spans_is_as_promtool_wants_it(plant, pytestconfig):
    if "promtool" in pytestconfig.getoption("--without"):
        absent("promtool")
    text = (await fetch(f"{plant.nodes[0].http}/metrics")).body
    for outcome in (b"exported", b"queue_full", b"refused", b"unsent"):
        assert b'\nwaymeet_spans_total{outcome="%b"} ' % outcome in text
    assert await run("promtool", "check", "metrics", stdin=text) == (0, b"", b""), "not a word of advice"
