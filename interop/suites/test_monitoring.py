"""What monitoring programs read: nats-server's endpoints in nats-server's shapes, beside a real nats-server, and
Prometheus's metrics."""

import asyncio
import contextlib
import datetime
import pathlib
import shutil
import sys

from absent import absent
from drivers import PATIENCE_S
from drivers.nats_py import connected
from drivers.process import Child, run
from plain_http import asked
from waymeet_node import NatsServer


def kind(value):
    return (
        "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
    )


# What this node has no figure for, so that it leaves it out (docs/operations.md).
ABSENT = {
    "varz": {
        "git_commit", "go", "gomaxprocs", "stale_connections", "stalled_clients", "http_req_stats",
        "config_load_time", "config_digest", "feature_flags", "stale_connection_stats", "disk_io_wait_stats",
    },
    "connz": set(),
    "connection": {"rtt"},
    "subsz": {"num_cache", "num_inserts", "num_removes", "num_matches", "cache_hit_rate", "max_fanout",
              "avg_fanout"},
    "subscription": {"account_tag"},
    "routez": set(),
}  # fmt: skip


def same_shape(what, real, ours):
    """What nats-server has is here too, with the same type of value, but for what is known to be absent."""
    missing = {name for name in real if name not in ours}
    assert missing <= ABSENT[what], f"{what}: {missing - ABSENT[what]} are missing"
    for name in set(real) & set(ours):
        assert kind(real[name]) == kind(ours[name]), (
            f"{what}.{name}: {real[name]!r} there, {ours[name]!r} here"
        )


async def load(address):
    """The same traffic for both: a client with two subscriptions, one message received."""
    client = await connected(address, name="ada")
    received = await client.subscribe("a.*")
    await client.subscribe("b.>", queue="workers")
    await client.publish("a.x", b"hello")
    await received.next_msg(30)
    return client


@contextlib.asynccontextmanager
async def nats_server():
    """The real one. Its makers publish it on PyPI, where it is installed beside the clients."""
    beside = pathlib.Path(sys.executable).parent
    real = NatsServer(shutil.which("nats-server", path=str(beside)) or absent("nats-server"))
    await real.start()
    try:
        yield real
    finally:
        await real.stop()


async def test_monitoring_answers_have_nats_server_s_shape(world):
    async with nats_server() as real:
        base = {"real": real.monitor, "ours": world.node.http}
        clients = [await load(real.nats), await load(world.node.nats)]

        async def both(path):
            answers = [await asked(base[which], path) for which in ["real", "ours"]]
            assert [status for status, _ in answers] == [200, 200], answers
            return [answer for _, answer in answers]

        same_shape("varz", *await both("/varz"))
        for query in [
            "",
            "?sort=bytes_to&limit=1024",
            "?subs=1",
            "?subs=detail",
            "?limit=100&offset=0&auth=1",
        ]:
            there, here = await both(f"/connz{query}")
            same_shape("connz", there, here)
            mine = [c for c in here["connections"] if c.get("name") == "ada"] or here["connections"]
            same_shape(
                "connection", {k: v for k, v in there["connections"][0].items() if k != "name_tag"}, mine[0]
            )
        there, here = await both("/connz?subs=1")
        mine = next(c for c in here["connections"] if c.get("name") == "ada")
        assert sorted(mine["subscriptions_list"]) == sorted(there["connections"][0]["subscriptions_list"])
        same = [
            "kind",
            "type",
            "ip",
            "in_msgs",
            "out_msgs",
            "in_bytes",
            "subscriptions",
            "name",
            "lang",
            "version",
        ]
        assert {k: mine[k] for k in same} == {k: there["connections"][0][k] for k in same}
        there, here = await both("/subsz?subs=1")
        same_shape("subsz", there, here)
        # Neither lists them in any order.
        grouped = [
            next(one for one in answer["subscriptions_list"] if one.get("qgroup") == "workers")
            for answer in (there, here)
        ]
        same_shape("subscription", *grouped)
        there, here = await both("/subsz?test=a.x")
        assert {s["subject"] for s in here["subscriptions_list"]} >= {"a.*"}
        same_shape("routez", *await both("/routez"))
        assert await both("/healthz?js-server-only=true") == [{"status": "ok"}] * 2
        for query in ["sort=bogus", "limit=x"]:
            assert [(await asked(base[which], f"/connz?{query}"))[0] for which in base] == [400, 400]
        for client in clients:
            await client.close()


# What nats-top asks /connz to sort by (`server.SortOpt`), the closed connections' reasons aside.
TOP_SORTS = [
    "cid", "start", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from", "last", "idle",
    "uptime", "rtt",
]  # fmt: skip
# What it decodes and shows, with Go's types: `server.Varz` and `server.ConnInfo` in nats-server's server/monitor.go.
TOP_VARZ = {
    "server_id": str, "server_name": str, "version": str, "uptime": str, "cpu": float, "mem": int,
    "slow_consumers": int, "connections": int, "subscriptions": int,
    "in_msgs": int, "out_msgs": int, "in_bytes": int, "out_bytes": int, "now": "time", "start": "time",
}  # fmt: skip
TOP_CONNECTION = {
    "cid": int, "ip": str, "port": int, "name": str, "subscriptions": int, "pending_bytes": int,
    "in_msgs": int, "out_msgs": int, "in_bytes": int, "out_bytes": int, "lang": str, "version": str,
    "uptime": str, "idle": str, "start": "time", "last_activity": "time", "subscriptions_list": list,
}  # fmt: skip


def decodes(answer, fields):
    """Whether Go's encoding/json takes the answer: an integer has no fraction, a float may be one, a time is RFC 3339."""
    for name, wanted in fields.items():
        value = answer[name]
        if wanted == "time":
            assert datetime.datetime.fromisoformat(value).tzinfo, (name, value)
        elif wanted is float:
            assert type(value) in (int, float), (name, value)
        else:
            assert type(value) is wanted, (name, value)


async def test_nats_top_finds_what_it_reads(world):
    """nats-top is to be had from none of the registries that the suites use; this is what it asks and decodes."""
    client = await load(world.node.nats)
    status, varz = await asked(world.node.http, "/varz")
    assert status == 200
    decodes(varz, TOP_VARZ)
    for sort in TOP_SORTS:
        status, connz = await asked(world.node.http, f"/connz?limit=1024&sort={sort}&subs=1")
        assert status == 200, sort
        found = next(one for one in connz["connections"] if one.get("name") == "ada")
        decodes(found, TOP_CONNECTION)
    await client.close()


# How collectd is told to read a server, and to print what it read.
COLLECTD = """
Hostname "waymeet"
BaseDir "{directory}"
PIDFile "{directory}/pid"
Interval 0.1
LoadPlugin csv
<Plugin csv>
  DataDir "stdout"
  StoreRates false
</Plugin>
LoadPlugin curl_json
<Plugin curl_json>
{urls}</Plugin>
"""
# What is read of each page, with collectd's type for it.
READ = {
    "varz": {
        "connections": "gauge", "subscriptions": "gauge", "slow_consumers": "derive", "mem": "bytes", "cpu": "percent",
        "in_msgs": "derive", "out_msgs": "derive", "in_bytes": "derive", "out_bytes": "derive",
    },
    "connz?state=open&limit=1024": {
        "num_connections": "gauge", "connections/*/in_msgs": "derive", "connections/*/out_msgs": "derive",
        "connections/*/out_bytes": "derive", "connections/*/pending_bytes": "bytes",
    },
}  # fmt: skip


def read_from(base, instance):
    """The part of collectd's configuration that reads one server."""
    text = ""
    for page, keys in READ.items():
        text += f'<URL "{base}/{page}">\nInstance "{instance}-{page[:5].rstrip("?")}"\n'
        text += "".join(f'<Key "{key}">\nType "{type_}"\n</Key>\n' for key, type_ in keys.items())
        text += "</URL>\n"
    return text


def traffic(values, whose):
    """What collectd has read of the clients' doing: of all of it, and of the one connection that publishes. Bytes that
    went out are not compared, because ours are counted with their framing (docs/operations.md)."""
    known = values.get(whose, {})
    found = {name: known.get(("varz", f"derive-{name}")) for name in ["in_msgs", "out_msgs", "in_bytes", "slow_consumers"]}
    for at in range(4):
        row = f"connections-{at}"
        if known.get(("connz", f"derive-{row}-in_msgs")):
            found["connection"] = [
                known.get(("connz", name))
                for name in [f"derive-{row}-in_msgs", f"derive-{row}-out_msgs", f"bytes-{row}-pending_bytes"]
            ]
    return found


async def test_collectd_reads_the_same_of_a_node_and_of_nats_server(world, tmp_path):
    """A monitoring program that operators have, with the configuration they have, pointed from one to the other."""
    world.needs("collectd")
    async with nats_server() as real, world.another("") as node:
        config = tmp_path / "collectd.conf"
        urls = read_from(real.monitor, "theirs") + read_from(node.http, "ours")
        config.write_text(COLLECTD.format(directory=tmp_path, urls=urls))
        values, news = {}, asyncio.Event()

        def read(line):
            # PUTVAL waymeet/curl_json-ours-varz/derive-in_msgs interval=0.100 1795460124.803:1
            if line.startswith(b"PUTVAL "):
                _, name, _, value = line.decode().split(" ", 3)
                _, instance, what = name.split("/")
                _, whose, page = instance.split("-")
                values.setdefault(whose, {})[page, what] = float(value.split(":")[1])
                news.set()

        async def until(what):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while not what():
                        news.clear()
                        await news.wait()
            except TimeoutError:
                raise AssertionError(f"collectd has read {values}") from None

        collectd = await Child.start(shutil.which("collectd"), "-f", "-C", str(config))
        collectd.on_line(collectd.process.stdout, read)
        try:
            clients = {"theirs": await load(real.nats), "ours": await load(node.nats)}
            for published in range(1, 4):
                await until(lambda n=published: traffic(values, "theirs").get("in_msgs") == n)
                await until(lambda: traffic(values, "ours") == traffic(values, "theirs"))
                for client in clients.values():
                    await client.publish("a.y", b"more")
                    await client.flush()
            for whose in clients:
                known = values[whose]
                assert known["varz", "bytes-mem"] > 1_000_000, "bytes, not pages or kilobytes"
                assert {("varz", "percent-cpu"), ("varz", "gauge-subscriptions")} <= set(known)
                # collectd's own two connections are sessions of ours; nats-server's monitoring port has none.
                others = {"theirs": 0, "ours": 2}[whose]
                both = [("varz", "gauge-connections"), ("connz", "gauge-num_connections")]
                assert [known[name] for name in both] == [others + 1] * 2, known
                await clients[whose].close()
                await until(lambda w=whose, n=others: all(values[w][name] == n for name in both))
        finally:
            await collectd.stop()


async def test_the_metrics_are_as_promtool_wants_them(world, subject):
    world.needs("promtool")
    client = await connected(world.node.nats)
    await client.subscribe(subject)
    await client.publish(subject, b"x")
    await client.flush()
    _, text = await asked(world.node.http, "/metrics")
    code, out, err = await run("promtool", "check", "metrics", stdin=text.encode())
    assert (code, out, err) == (0, b"", b""), "not a word of advice"
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "waymeet_build_info"]:
        assert f"\n{name}" in text, name
    await client.close()
