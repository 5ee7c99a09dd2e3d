#!/usr/bin/env python3
"""Measures a broker with different numbers of shards; called by shards.sh, which explains it."""

import argparse
import collections
import json
import os
import shlex
import statistics
import sys
import time

import compare
import scale

# How long the idle broker is watched, in seconds, and how often it publishes $SYS then.
IDLE = 5
FLAGS = "--in-memory --pin false --max-inflight 1000 --sys-interval 1s --log-level warn"

Load = collections.namedtuple("Load", "title words")

LOADS = {
    "connect": Load("5,000 connects, us each", "conn -c 5000 --duration 1"),
    "nobody": Load("QoS 0 that nobody wants, 100,000/s, us each",
                   "pub -c 100 -t none/%i -q 0 --rate 100000"),
    "pairs-q0": Load("pairs, QoS 0, 50,000/s, us each", "pair -c 500 -q 0 --rate 50000"),
    "pairs-q1": Load("pairs, QoS 1, 20,000/s, us each", "pair -c 500 -q 1 --rate 20000"),
    "fan-out": Load("one publisher to 1,000, 200,000/s, us each",
                    "fan-out -c 1000 -q 0 --rate 200"),
}


def idle(pid):
    """Memory in MiB, and the part of a core that the broker uses."""
    cpu, begin = scale.cpu_seconds(pid), time.monotonic()
    time.sleep(IDLE)
    share = (scale.cpu_seconds(pid) - cpu) / (time.monotonic() - begin)
    return scale.fields(f"/proc/{pid}/status").get("VmRSS", 0) / (1 << 20), share


def cost(name, data):
    """Microseconds of the broker's processor time for each connect or message."""
    if name == "connect":
        return 1e6 * data["connect"]["cpu_seconds"] / data["connect"]["connected"]
    return data["measured"]["broker_cpu_us_per_message"]


def run(shards, options, raw):
    """All figures of one run."""
    command = f"{shlex.quote(os.environ['RINGMQ'])} --listen {compare.HOST}:{{port}} {FLAGS} --shards {shards}"
    found, missed = {}, []
    for name, load in {"idle": None, **LOADS}.items():
        broker = compare.Broker("ringmq", command)
        try:
            broker.start(options.work)
            if load is None:
                found["memory"], found["idle"] = idle(broker.process.pid)
                continue
            words = shlex.split(load.words) + ["--pid", str(broker.process.pid)]
            if name != "connect":
                words += ["--duration", "3", "--warmup", "1", "-s", "64"]
            shown, data = compare.run_load(words, broker, options.work, 60)
            found[name] = cost(name, data)
            lost = data["total"]["lost_connections"] + data["connect"]["failed_attempts"]
            lost += sum(flow["lost"] for flow in data["flows"])
            if lost:
                missed.append(f"{shards} shards, {name}: {lost} lost or failed")
            raw.write(json.dumps({"shards": shards, "row": name, "command": shown, "load": data}) + "\n")
        except compare.Failure as failure:
            missed.append(f"{shards} shards, {name}: {failure}")
        finally:
            broker.stop()
    raw.write(json.dumps({"shards": shards, "found": found}) + "\n")
    return found, missed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--raw", required=True)
    options = parser.parse_args()
    numbers = [int(number) for number in options.shards.split(",")]
    runs, missed = {number: [] for number in numbers}, []
    with open(options.raw, "w", encoding="utf-8") as raw:
        for _ in range(options.runs):
            for number in numbers:
                found, why = run(number, options, raw)
                runs[number].append(found)
                missed += why
    print("broker: ringmq " + FLAGS + f"; medians of {options.runs} runs\n")
    print(f"{'shards':48}" + "".join(f"{number:>10}" for number in numbers))
    rows = [("memory", "memory at the start, MiB", 1), ("idle", "CPU when idle, $SYS every second, % of a core", 100)]
    rows += [(name, load.title, 1) for name, load in LOADS.items()]
    for name, title, factor in rows:
        figures = [[run[name] for run in runs[number] if name in run] for number in numbers]
        cells = [f"{factor * statistics.median(f):10.2f}" if f else f"{'-':>10}" for f in figures]
        print(f"{title:48}" + "".join(cells))
    for text in missed:
        print(f"MISSED: {text}")
    sys.exit(bool(missed))


main()
