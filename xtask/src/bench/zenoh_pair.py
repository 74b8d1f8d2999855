"""zenoh for `cargo xtask bench`: a router, or the load on two routers that are linked.

    zenoh_pair.py router LISTEN [CONNECT]
    zenoh_pair.py load NEAR FAR --size BYTES --seconds S --warmup S --server-pid PID ...

Publisher and subscriber are processes of their own, each with one session. What they reach is Python's limit before
it is the routers'; the routers' CPU time is told beside it.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time

import zenoh

KEY = "bench/pubsub"


def session(mode, listen=(), connect=()):
    config = zenoh.Config()
    config.insert_json5("mode", json.dumps(mode))
    config.insert_json5("listen/endpoints", json.dumps([f"tcp/{address}" for address in listen]))
    config.insert_json5("connect/endpoints", json.dumps([f"tcp/{address}" for address in connect]))
    config.insert_json5("scouting/multicast/enabled", "false")
    return zenoh.open(config)


def route(listen, connect):
    running = session("router", [listen], [connect] if connect else [])
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    running.close()


def publish(near, size, stop):
    running = session("client", connect=[near])
    publisher = running.declare_publisher(
        KEY,
        congestion_control=zenoh.CongestionControl.BLOCK,
        reliability=zenoh.Reliability.RELIABLE,
    )
    payload = zenoh.ZBytes(b"x" * size)
    put = publisher.put
    while not stop.is_set():
        for _ in range(256):
            put(payload)
    running.close()


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(options):
    count = 0

    def received(_sample):
        nonlocal count
        count += 1

    running = session("client", connect=[options.far])
    subscriber = running.declare_subscriber(KEY, received)
    stop = multiprocessing.Event()
    publisher = multiprocessing.Process(target=publish, args=(options.near, options.size, stop))
    publisher.start()
    begun = time.monotonic()
    while count == 0:
        if time.monotonic() - begun > 30:
            sys.exit("nothing arrives at the far router")
        time.sleep(0.01)
    time.sleep(options.warmup)
    before, cpu, at = count, cpu_seconds(options.server_pid), time.monotonic()
    time.sleep(options.seconds)
    received_in_all = count - before
    seconds, cpu = time.monotonic() - at, cpu_seconds(options.server_pid) - cpu
    stop.set()
    publisher.join(10)
    publisher.kill()
    subscriber.undeclare()
    running.close()
    outcome = {
        "count": received_in_all,
        "seconds": seconds,
        "per_second": received_in_all / seconds,
        "server_cpu_seconds_per_million": cpu / max(received_in_all, 1) * 1e6,
    }
    print(json.dumps(outcome))


def main():
    if sys.argv[1:2] == ["router"]:
        route(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["load"])
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warmup", type=float, required=True)
    parser.add_argument("--server-pid", type=int, action="append", default=[])
    load(parser.parse_args())


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
