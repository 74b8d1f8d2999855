"""The console with users, in a real browser: logging in, what a user with few permissions sees, and what pages elsewhere
can do to somebody who is logged in."""

import pytest_asyncio

from absent import absent
from drivers.visitor import Visitor
from identities import PASSWORD, hash_of, nats_py
from page import Page
from waymeet_node import Waymeet

USERS = """
auth.anonymous = false
[[auth.users]]
name = "ada"
password_hash = "{hash}"
[[auth.users]]
name = "viewer"
password_hash = "{hash}"
publish = {{ allow = ["demo.>"] }}
subscribe = {{ allow = ["demo.>", "$SYS.CONSOLE"] }}
[[auth.users]]
name = "sensor"
password_hash = "{hash}"
publish = {{ allow = ["demo.>"] }}
subscribe = {{ allow = [] }}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(pytestconfig):
    node = Waymeet(pytestconfig.getoption("--binary"))
    await node.start(config=USERS.format(hash=await hash_of(node.binary, PASSWORD)))
    yield node
    assert await node.stop() == 0


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(node, pytestconfig):
    if "ws-browser" in pytestconfig.getoption("--without"):
        absent("a browser")
    visitor = await Visitor().open()
    yield visitor
    await visitor.close()


async def log_in(visitor, node, user):
    await visitor.does("open", url=f"{node.http}/")
    return await visitor.does("login", user=user, password=PASSWORD)


async def test_a_person_logs_in(node, visitor):
    page = await visitor.does("open", url=f"{node.http}/")
    assert page["status"] == 200 and "Log in" in page["text"]
    assert node.peer_id not in page["text"], "nothing of the node is shown to strangers"
    refused = await visitor.does("login", user="ada", password="wrong")
    assert refused["status"] == 401 and "not those of a user" in refused["text"]
    shown = await visitor.does("login", user="ada", password=PASSWORD)
    assert shown["url"] == f"{node.http}/" and node.peer_id in shown["text"]
    # Its script has run, with the cookie, under the page's policy.
    await visitor.does("waits", selector="#listeners", text="NATS")
    script = await visitor.does("script")
    assert script["cookie"] == "", "no script sees the login"
    assert [one for one in script["complaints"] if "a status of 401 " not in one] == []
    [cookie] = (await visitor.does("cookies"))["cookies"]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    again = await visitor.does("open", url=f"{node.http}/")
    assert node.peer_id in again["text"]
    out = await visitor.does("fetch", url="/logout", options={"method": "POST"})
    assert out["status"] == 204
    assert "Log in" in (await visitor.does("open", url=f"{node.http}/"))["text"]


async def test_a_user_with_few_permissions(node, visitor):
    shown = await log_in(visitor, node, "viewer")
    assert node.peer_id in shown["text"]
    post = {"method": "POST", "body": "x"}
    for url, options, status in [
        ("/pub/demo.a", post, 202),
        ("/pub/other.a", post, 403),
        ("/sub/other.>", {}, 403),
        ("/sub/**", {}, 403),
        ("/metrics", {}, 403),
        ("/peers", {}, 403),
        ("/overview", {"method": "HEAD"}, 200),
        ("/healthz", {}, 200),
    ]:
        answer = await visitor.does("fetch", url=url, options=options)
        assert answer["status"] == status, (url, answer)


async def test_a_user_sees_in_the_console_what_it_may(node, visitor):
    """Its own subjects and sessions; no figures, no listeners, nothing of others."""
    async with nats_py(node, user="ada", password=PASSWORD, name="ada-s-own") as ada:
        await log_in(visitor, node, "viewer")
        await visitor.does("waits", selector="#state", text="live")
        shown = (await visitor.does("text", selector="body"))["text"]
        assert "Not shown to you" in shown and node.nats.split("//")[1] not in shown
        assert not await visitor.evaluates("!!document.querySelector('.figures, #graph, .chart, #listeners')")
        await visitor.does("open", url=f"{node.http}/#subjects")
        await visitor.does("waits", selector=".tall [role=status]", text="subjects")
        for subject in ("other.a", "demo.a"):
            await ada.publish(subject, b"")
        await ada.flush(30)
        await visitor.does("until", expression="!!document.querySelector('[data-subject=demo]')")
        assert not await visitor.evaluates("!!document.querySelector('[data-subject=other]')")
        await visitor.does("open", url=f"{node.http}/#sessions")
        await visitor.does("waits", selector="#sessions tbody", text="viewer")
        assert "ada-s-own" not in (await visitor.does("text", selector="#sessions"))["text"]
        await visitor.does("click", selector="#log-out")
        await visitor.does("waits", selector="body", text="Log in")


async def test_a_user_without_the_console(node, visitor):
    shown = await log_in(visitor, node, "sensor")
    assert shown["status"] == 403 and node.peer_id not in shown["text"]
    assert (await visitor.does("fetch", url="/pub/demo.a", options={"method": "POST", "body": "x"}))[
        "status"
    ] == 202


async def test_pages_elsewhere_can_do_nothing_with_the_login(node, visitor):
    """Of a neighbour on this machine, which browsers send the cookie to as well; and of another site."""
    await log_in(visitor, node, "ada")
    page = await Page.start()
    port = page.url.rsplit(":", 1)[1]
    async with nats_py(node, user="ada", password=PASSWORD) as witness:
        heard = await witness.subscribe(">")
        await witness.flush(30)
        for origin in (page.url, f"http://evil.example:{port}"):
            await visitor.does("open", url=origin)
            for options in (
                {"method": "POST", "body": "stolen", "headers": {"Content-Type": "text/plain"}},
                {"method": "POST", "body": "stolen", "mode": "no-cors"},
                {"method": "PUT", "body": "stolen"},
                {},
            ):
                path = "/pub/stolen" if options else "/metrics"
                answer = await visitor.does("fetch", url=node.http + path, options=options)
                # An opaque answer says nothing to the script, and the node has refused it.
                assert answer.get("blocked") or (answer["status"], answer["text"]) == (0, ""), answer
            assert (await visitor.does("post", url=f"{node.http}/pub/stolen", fields={"a": "b"}))[
                "status"
            ] == 403
            await visitor.does("open", url=origin)
            forged = {"user": "ada", "password": PASSWORD}
            assert (await visitor.does("post", url=f"{node.http}/login", fields=forged))["status"] == 403
        await witness.publish("end", b"")
        assert (await heard.next_msg(30)).subject == "end", "nothing was published"
    page.stop()


async def test_a_name_that_is_bound_to_this_machine_opens_nothing(node, visitor):
    """DNS rebinding: to the browser the node is then the page's own origin."""
    port = node.http.rsplit(":", 1)[1]
    page = await visitor.does("open", url=f"http://rebound.example:{port}/")
    assert page["status"] == 403 and "Log in" not in page["text"]
    answer = await visitor.does("fetch", url="/healthz")
    assert answer["status"] == 403
