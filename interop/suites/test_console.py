"""The console in a real browser: what it shows agrees with what happens, and everything can be done by hand, by keyboard, on
a narrow page, in both colours and both languages.

Pictures of the page are left in `target/interop/console/`."""

import asyncio
import contextlib
import gzip
import json
import os
import pathlib
import re
import statistics
import time

import pytest_asyncio

from absent import absent
from drivers.agent import WebSocketNode
from drivers.coap_aiocoap import AioCoap
from drivers.curl import Curl, fetch
from drivers.nats_py import NatsPy
from drivers.raw import RawTcp
from drivers.visitor import Visitor
from identities import nats_py
from mesh import Mesh, known

PICTURES = pathlib.Path(os.environ.get("INTEROP_TARGET", "../target/interop")) / "console"
VIEWS = ["overview", "subjects", "messages", "sessions"]
PHONE = {"viewport": {"width": 400, "height": 800}, "deviceScaleFactor": 1}
DESK = {"viewport": {"width": 1280, "height": 860}}
# Rates on the page are means over so long.
WINDOW_S = 2.0
# How far a rate may be from the load that was given.
TOLERANCE = 0.05
MAX_PAGE_BYTES = 300_000


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nodes(pytestconfig):
    """Three nodes in a line."""
    mesh = Mesh(pytestconfig.getoption("--binary"))
    # A subscriber that stalls is there as long as the test looks.
    limits = "[limits]\nwrite_deadline = '10m'\n"
    await mesh.start("line3", config=limits)
    yield mesh.nodes
    await mesh.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(pytestconfig):
    if "ws-browser" in pytestconfig.getoption("--without"):
        absent("a browser")
    PICTURES.mkdir(parents=True, exist_ok=True)
    visitor = await Visitor().open()
    await visitor.does("begin", options=DESK)
    yield visitor
    complaints = (await visitor.does("script"))["complaints"]
    await visitor.close()
    assert [said for said in complaints if not re.search(r"a status of 40[34]\b", said)] == []


@contextlib.asynccontextmanager
async def client(driver, node):
    await driver.open(node)
    try:
        yield driver
    finally:
        await driver.close()


async def show(visitor, node, view="overview"):
    await visitor.does("open", url=f"{node.http}/#{view}")
    await visitor.does("until", expression=f"document.querySelector('main')?.dataset.view === '{view}'")
    await visitor.does("waits", selector="#state", text="live")


async def picture(visitor, name, **how):
    await visitor.does("shoot", path=str(PICTURES / f"{name}.png"), **how)


class Load:
    """Messages at a steady pace, and how many there were in the last seconds."""

    def __init__(self, publish, per_second):
        self._publish, self._pause = publish, 10 / per_second
        self._sent = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self):
        due = time.monotonic()
        while True:
            for _ in range(10):
                await self._publish()
            self._sent.append(time.monotonic())
            due += self._pause
            await asyncio.sleep(max(0, due - time.monotonic()))

    def rate(self, seconds):
        """Messages a second over the last seconds."""
        since = time.monotonic() - seconds
        return 10 * sum(1 for at in self._sent if at >= since) / seconds


async def agrees(visitor, expression, load, window_s, patience_s=90.0):
    """Waits until five looks in a row at what the page says are, in their median, what was sent meanwhile."""
    ratios = []
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        shown, sent = await visitor.evaluates(expression), load.rate(window_s)
        if shown is not None and sent > 0:
            ratios.append(float(shown) / sent)
        if len(ratios) >= 5 and abs(statistics.median(ratios[-5:]) - 1) <= TOLERANCE:
            return statistics.median(ratios[-5:])
    raise AssertionError(f"{expression} is not what was sent: {ratios}")


async def test_the_graph_shows_nodes_and_clients_of_each_protocol(nodes, visitor):
    node = nodes[0]
    async with (
        nats_py(node, name="teller") as teller,
        client(WebSocketNode(), node) as websocket,
        client(Curl(), node) as curl,
        client(AioCoap(), node) as coap,
        client(NatsPy(), nodes[2]) as far,
    ):
        heard = [await one.subscribe("flow.>") for one in (websocket, curl, coap, far)]
        await show(visitor, node)
        for listener in ("nats", "websocket", "http", "coap"):
            await visitor.does("until", expression=f"!!document.querySelector('[data-box={listener}]')")
        names = "[...document.querySelectorAll('.box.peer .title')].map((one) => one.textContent).sort().join()"
        await visitor.does("until", expression=f"{names} === 'n1,n2'")
        named = "[...document.querySelectorAll('.box.client .title')].some((one) => one.textContent === 'teller')"
        await visitor.does("until", expression=named)

        async def publish():
            await teller.publish("flow.a", b"x" * 20)

        async with Load(publish, 200) as load:
            number = "Number(document.querySelector('{}').{})"
            seen = await agrees(visitor, number.format("[data-edge=in-nats]", "dataset.forth"), load, WINDOW_S)
            total = "Number(document.querySelector('#rate-in').firstChild.data.replace(',', ''))"
            await agrees(visitor, total, load, WINDOW_S)
            # Both subscribers over HTTP and CoAP are written to, and one link carries it to the far client.
            for edge in ("in-http", "in-coap"):
                busy = number.format(f"[data-edge={edge}]", "dataset.back")
                await visitor.does("until", expression=f"{busy} > 100")
            links = "[...document.querySelectorAll('.edge.tcp')].reduce((sum, one) => sum + Number(one.dataset.forth), 0)"
            await agrees(visitor, links, load, WINDOW_S)
            await visitor.does("until", expression="document.querySelectorAll('.chart polyline').length >= 2")
            await picture(visitor, "overview", fullPage=True)
            print(f"the page's rate is {seen:.3f} times the load")
        for subscription in heard:
            await subscription.close()


async def test_the_tree_of_subjects_shows_rates_and_filters_as_one_types(nodes, visitor):
    async with nats_py(nodes[0]) as teller:

        async def publish():
            publish.turn = getattr(publish, "turn", 0) + 1
            await teller.publish(f"rooms.{publish.turn % 4}.temp", b"21")

        async with Load(publish, 200) as load:
            await show(visitor, nodes[0], "subjects")
            await visitor.does("click", selector="[data-subject=rooms]")
            await visitor.does("click", selector="[data-subject='rooms.1']")
            await visitor.does("until", expression="!!document.querySelector('[data-subject=\"rooms.1.temp\"]')")
            rate = "document.querySelector('[data-subject=\"{}\"]')?.dataset.rate"
            await agrees(visitor, rate.format("rooms"), load, 3 * 1.0)
            await agrees(visitor, f"4 * {rate.format('rooms.1.temp')}", load, 3 * 1.0)
            await picture(visitor, "subjects")
            await visitor.does("fill", selector="#subject-search", value="rooms.*.temp")
            rows = "[...document.querySelectorAll('[role=treeitem]')].map((one) => one.dataset.subject).join()"
            await visitor.does("until", expression=f"{rows} === 'rooms.0.temp,rooms.1.temp,rooms.2.temp,rooms.3.temp'")
            await visitor.does("fill", selector="#subject-search", value="S.2.")
            await visitor.does("until", expression=f"{rows} === 'rooms.2.temp'")


async def test_very_many_subjects(nodes, visitor):
    """Only what is in view is drawn, and the node sends the busiest."""
    async with nats_py(nodes[0]) as teller:
        await show(visitor, nodes[0], "subjects")
        await visitor.does("until", expression="document.querySelector('.tall [role=status]').textContent !== ''")
        for number in range(100_000):
            await teller.publish(f"many.{number % 400}.{number}", b"")
            if number % 10_000 == 0:
                await teller.flush(30)
        await teller.flush(30)
        count = "Number(document.querySelector('.tall [role=status]').textContent.replaceAll(',', '').match(/\\d+/)?.[0])"
        await visitor.does("until", expression=f"{count} >= 100000")
        await visitor.does("click", selector="[data-subject=many]")
        await visitor.does("until", expression="document.querySelectorAll('[data-subject^=\"many.\"]').length > 5")
        assert await visitor.evaluates("document.querySelectorAll('[role=treeitem]').length") < 60
        await visitor.does("fill", selector="#subject-search", value="many.7.99607")
        await visitor.does("until", expression="document.querySelectorAll('[role=treeitem]').length === 1")


async def test_publishing_asking_and_subscribing_by_hand(nodes, visitor):
    node = nodes[0]
    async with nats_py(node) as neighbour:
        heard = await neighbour.subscribe("by.hand")
        answered = await neighbour.subscribe("what.time")
        await neighbour.flush(30)
        await show(visitor, node, "messages")
        await visitor.does("fill", selector="#publish [name=subject]", value="by.hand")
        await visitor.does("fill", selector="#publish [name=payload]", value="hello, ä")
        await visitor.does("click", selector="#publish .primary")
        assert (await heard.next_msg(30)).data == "hello, ä".encode()
        await visitor.does("waits", selector="#publish .done", text="202")
        await visitor.does("click", selector="[data-verb=request]")
        await visitor.does("fill", selector="#request [name=subject]", value="what.time")
        await visitor.does("click", selector="#request .primary")
        await (await answered.next_msg(30)).respond(b'{"time":"noon"}')
        await visitor.does("waits", selector="#request .result", text='"time": "noon"')
        await visitor.does("fill", selector="#subscribe [name=filter]", value="news.*")
        await visitor.does("click", selector="#subscribe .primary")
        await visitor.does("waits", selector="#received-state", text="subscribed to news.*")
        await neighbour.publish("news.local", b'{"headline":"rain"}', headers={"X-Paper": "Times"})
        await visitor.does("waits", selector="#messages", text="news.local")
        await visitor.does("click", selector="#messages .message")
        await visitor.does("waits", selector=".detail", text='"headline": "rain"')
        await visitor.does("waits", selector=".detail .headers", text="Times")


async def test_a_message_s_path_over_two_nodes(nodes, visitor):
    async with client(NatsPy(), nodes[1]) as far, client(NatsPy(), nodes[0]) as teller:
        await far.subscribe("paths.>")
        await known(teller, far, "known.paths")
        await show(visitor, nodes[0], "messages")
        await visitor.does("fill", selector="#subscribe [name=filter]", value="paths.>")
        await visitor.does("click", selector="#subscribe .primary")
        await visitor.does("waits", selector="#received-state", text="subscribed to")
        for number in range(3):
            await teller.publish("paths.a", b"%d" % number)
        await visitor.does("until", expression="document.querySelectorAll('#messages .traced.yes').length === 3")
        await visitor.does("click", selector="#messages li:last-child .message")
        label = "document.querySelector('.detail .path svg')?.getAttribute('aria-label')"
        await visitor.does("until", expression=f"/ → n0 .*→ n1 /.test({label})")
        for step in ("accepted", "matched", "delivered", "forwarded"):
            await visitor.does("waits", selector=".detail .steps", text=step)
        # It was delivered here, to this page, and there.
        ends = "document.querySelectorAll('.detail .place.delivered').length"
        await visitor.does("until", expression=f"{ends} === 2")
        await picture(visitor, "path")
        # What is sent from the page says at once what became of it.
        await visitor.does("fill", selector="#publish [name=subject]", value="paths.by.hand")
        await visitor.does("click", selector="#publish .primary")
        await visitor.does("until", expression="!!document.querySelector('#sent .path .place.node')")


async def test_one_subject_is_followed_from_the_tree(nodes, visitor):
    async with nats_py(nodes[0]) as teller:
        await show(visitor, nodes[0], "subjects")
        await visitor.does("until", expression="document.querySelector('.tall [role=status]').textContent !== ''")
        await teller.publish("followed.one", b"1")
        await visitor.does("fill", selector="#subject-search", value="followed")
        await visitor.does("click", selector="[data-subject='followed.one'] a")
        await visitor.does("waits", selector="#received-state", text="subscribed to followed.one")
        await teller.publish("followed.one", b"second")
        await visitor.does("waits", selector="#messages", text="second")


async def test_a_slow_subscriber_is_named_and_can_be_disconnected(nodes, visitor):
    node = nodes[0]
    sloth = await RawTcp.open(node.nats)
    await sloth.until(b"\r\n")
    await sloth.send(b'CONNECT {"verbose":false,"name":"sloth"}\r\nSUB flood 1\r\nPING\r\n')
    await sloth.until(b"PONG\r\n")
    async with nats_py(node) as teller:
        # More than the sockets hold, and less than the outbox does.
        for _ in range(24):
            await teller.publish("flood", b"x" * (1 << 20))
            await teller.flush(30)
        await show(visitor, node)
        await visitor.does("waits", selector="#slow", text="sloth")
        await picture(visitor, "slow")
        await visitor.does("click", selector="#slow a")
        await visitor.does("waits", selector="#sessions", text="sloth")
        await visitor.does("click", selector="#sessions tbody .danger")
        await visitor.does("click", selector="#disconnect-now")
        await visitor.does("waits", selector="#session-notice", text="sloth")
        await visitor.does("until", expression="!document.querySelector('#sessions tbody').textContent.includes('sloth')")
        await asyncio.wait_for(sloth.rest(), 30)
    await sloth.close()


async def test_who_goes_on_at_once_is_not_brought_back(nodes, visitor):
    """A link to follow a subject changes the address once more; another view chosen before the first paint stays."""
    await show(visitor, nodes[0])
    view = await visitor.evaluates("""new Promise((done) => {
        const shown = () => done(document.querySelector("main").dataset.view + location.hash);
        // What is put off until after a paint is done when the next one is.
        const painted = () => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(shown)));
        const goOn = () => {
            addEventListener("hashchange", painted, { once: true });
            setTimeout(() => (location.hash = "#sessions"));
        };
        addEventListener("hashchange", goOn, { once: true });
        location.hash = "#messages?follow=hasty";
    })""")
    assert view == "sessions#sessions"
    await show(visitor, nodes[0], "messages")
    await visitor.does("waits", selector="#received-state", text="subscribed to hasty")


async def down_to(visitor, subject):
    """Arrow by arrow to a row of the tree, each pressed once the one before has moved the focus."""
    here = "document.activeElement.dataset.subject"
    while (before := await visitor.evaluates(here)) != subject:
        await visitor.does("press", keys=["ArrowDown"])
        await visitor.does("until", expression=f"{here} !== {json.dumps(before)}")


async def test_everything_by_keyboard_alone(nodes, visitor):
    node = nodes[0]
    async with nats_py(node) as neighbour:
        heard = await neighbour.subscribe("typed.>")
        await neighbour.flush(30)
        await show(visitor, node)
        await visitor.does("tabsTo", selector="nav a[href='#messages']")
        await visitor.does("press", keys=["Enter"])
        await visitor.does("until", expression="document.querySelector('main').dataset.view === 'messages'")
        await visitor.does("tabsTo", selector="#subscribe [name=filter]")
        await visitor.does("press", keys=["Control+a"])
        await visitor.does("types", text="typed.back")
        await visitor.does("press", keys=["Enter"])
        await visitor.does("waits", selector="#received-state", text="subscribed to typed.back")
        await visitor.does("tabsTo", selector="#publish [name=subject]")
        await visitor.does("press", keys=["Control+a"])
        await visitor.does("types", text="typed.out")
        await visitor.does("press", keys=["Enter"])
        assert (await heard.next_msg(30)).subject == "typed.out"
        await neighbour.publish("typed.back", b"for the keyboard")
        await visitor.does("waits", selector="#messages", text="for the keyboard")
        await visitor.does("tabsTo", selector="#messages .message")
        await visitor.does("press", keys=["Enter"])
        await visitor.does("waits", selector=".detail", text="for the keyboard")
        await visitor.does("press", keys=["Escape"])
        await visitor.does("until", expression="!document.querySelector('.detail')")
        # The tree, with its own keys.
        await show(visitor, node, "subjects")
        await visitor.does("until", expression="document.querySelector('.tall [role=status]').textContent !== ''")
        await neighbour.publish("typed.tree", b"")
        await visitor.does("until", expression="!!document.querySelector('[data-subject=typed]')")
        await visitor.does("tabsTo", selector="[role=treeitem]")
        await down_to(visitor, "typed")
        await visitor.does("press", keys=["ArrowRight"])
        await visitor.does("until", expression="!!document.querySelector('[data-subject=\"typed.tree\"]')")
        await visitor.does("press", keys=["ArrowRight"])
        followed = "document.activeElement.dataset.subject?.startsWith('typed.')"
        await visitor.does("until", expression=followed)
        await visitor.does("press", keys=["Enter"])
        await visitor.does("waits", selector="#received-state", text="subscribed to typed.")
        # A session, and the way back out of the question whether to end it.
        await show(visitor, node, "sessions")
        await visitor.does("until", expression="!!document.querySelector('#sessions tbody .danger')")
        await visitor.does("tabsTo", selector="#sessions tbody .danger")
        await visitor.does("press", keys=["Enter"])
        await visitor.does("until", expression="!!document.querySelector('dialog[open]')")
        await visitor.does("press", keys=["Escape"])
        await visitor.does("until", expression="!document.querySelector('dialog')")


async def test_a_phone_s_width(nodes, visitor):
    await visitor.does("begin", options=PHONE)
    for view in VIEWS:
        await show(visitor, nodes[0], view)
        wide = await visitor.evaluates("document.documentElement.scrollWidth")
        assert wide <= 400, f"{view} is {wide} pixels wide"
        await picture(visitor, f"phone-{view}", fullPage=True)


async def test_dark_and_light(nodes, visitor):
    ground = "getComputedStyle(document.body).backgroundColor"
    grounds = {}
    for scheme in ("light", "dark"):
        await visitor.does("begin", options={**DESK, "colorScheme": scheme})
        await show(visitor, nodes[0])
        grounds[scheme] = await visitor.evaluates(ground)
        await picture(visitor, scheme)
    assert grounds["light"] != grounds["dark"]
    await visitor.does("select", selector="#theme", value="light")
    assert await visitor.evaluates(ground) == grounds["light"]
    await visitor.does("open", url=f"{nodes[0].http}/")
    assert await visitor.evaluates(ground) == grounds["light"], "the choice is remembered"


async def test_chinese(nodes, visitor):
    await visitor.does("begin", options={**DESK, "locale": "zh-CN"})
    await show_in_chinese(visitor, nodes[0])
    assert await visitor.evaluates("document.documentElement.lang") == "zh-CN"
    await picture(visitor, "chinese")
    await visitor.does("click", selector="#language")
    await visitor.does("waits", selector="nav", text="Overview")
    await visitor.does("click", selector="#language")
    await visitor.does("waits", selector="nav", text="概览")


async def show_in_chinese(visitor, node):
    await visitor.does("open", url=f"{node.http}/")
    await visitor.does("waits", selector="nav", text="概览")
    await visitor.does("waits", selector="#state", text="实时")


async def test_nothing_serious_for_those_who_see_or_move_differently(nodes, visitor):
    """axe-core over every view in both colours, with something to show."""
    async with nats_py(nodes[0], name="teller") as teller:
        await teller.subscribe("axe.>")
        for scheme in ("light", "dark"):
            await visitor.does("begin", options={**DESK, "colorScheme": scheme})
            for view in VIEWS:
                await show(visitor, nodes[0], view)
                if view == "messages":
                    await visitor.does("fill", selector="#subscribe [name=filter]", value="axe.>")
                    await visitor.does("click", selector="#subscribe .primary")
                    await visitor.does("waits", selector="#received-state", text="subscribed to")
                    await teller.publish("axe.one", b"{}")
                    await visitor.does("click", selector="#messages .message")
                    await visitor.does("until", expression="!!document.querySelector('.detail')")
                if view == "subjects":
                    await visitor.does("until", expression="document.querySelector('.tall [role=status]').textContent !== ''")
                    await teller.publish("axe.two", b"{}")
                    await visitor.does("until", expression="!!document.querySelector('[data-subject=axe]')")
                findings = (await visitor.does("axe"))["findings"]
                assert findings == [], f"{view} in {scheme}: {json.dumps(findings, indent=1)}"


async def test_the_page_is_small_and_comes_from_the_node_alone(nodes, visitor):
    node = nodes[0]
    size = 0
    for path in ("/", "/console.js", "/console.css"):
        size += len(gzip.compress((await fetch(node.http + path)).body))
    assert size < MAX_PAGE_BYTES
    for view in VIEWS:
        await show(visitor, node, view)
    urls = (await visitor.does("asked"))["urls"]
    assert [url for url in urls if not url.startswith((node.http, "data:"))] == []
    # Once more from nothing: a browser that has seen the page keeps its parts.
    await visitor.does("begin", options=DESK)
    await show(visitor, node)
    painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    await visitor.does("until", expression=f"{painted} > 0")
    paint = await visitor.evaluates(painted)
    print(f"the page is {size} bytes compressed, and was first painted after {paint:.0f} ms")
