#!/usr/bin/env bash
# What an idle connection costs: bytes of the broker's own memory per connection, without and with
# a subscription, as the slope between 5,000 and 19,000 connections. Fails above the budget of
# docs/ARCHITECTURE.md: 700 B without and 832 B with a subscription.
#
#   scripts/idle-memory.sh          print the table
#   scripts/idle-memory.sh --save   and keep it under docs/perf/
#   RINGMQ=path/to/ringmq scripts/idle-memory.sh    measure that binary, build nothing
#
# The clients have ids of 24 bytes and a keep-alive of 300 s, and say nothing. One shard, else the
# default settings. Client and broker are on the same machine, so the kernel's figures, which are
# for the whole machine, count both ends of each connection, and whatever else runs there.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

without_budget=700
with_budget=832
stages="${STAGES:-5000,8000,11000,14000,17000,19000}"
begin_measurement "$@"
build_broker

# measure NAME FLAGS...: the raw data of one run.
measure() {
    local name=$1
    shift
    start_broker --shards 1
    timeout 300 python3 scripts/idle_clients.py --port "$broker_port" --pid "$broker_pid" \
        --stages "$stages" --keep-alive 300 "$@" >"$work/$name.json"
    stop_broker
}

measure without
measure with --subscribe

status=0
{
    print_head 'scripts/idle-memory.sh (broker: ringmq --shards 1)'
    python3 - "$work/without.json" "$without_budget" "$work/with.json" "$with_budget" <<'PYTHON'
import json, sys


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def slope(stages, what):
    low, high = stages[1], stages[-1]
    if what not in low:
        return None
    return (high[what] - low[what]) / (high["connections"] - low["connections"])


def cell(value):
    return f"{value:10,.0f}" if value is not None else f"{'-':>10}"


failed = False
print(f"{'bytes per idle connection':34}{'none':>10}{'one':>10}   subscriptions")
runs = [(read(sys.argv[1]), int(sys.argv[2])), (read(sys.argv[3]), int(sys.argv[4]))]
rows = [("anon", "broker, its own memory (RssAnon)"), ("rss", "broker, resident (VmRSS)"),
        ("slab", "machine, slab, both ends"),
        ("sunreclaim", "... of it not reclaimable"), ("tcp_mem", "machine, socket buffers, both ends")]
for what, name in rows:
    print(f"{name:34}" + "".join(cell(slope(run, what)) for run, _ in runs))
print(f"{'budget for VmRSS':34}" + "".join(cell(budget) for _, budget in runs))
for (run, budget), name in zip(runs, ("without", "with one")):
    if max(slope(run, "rss"), slope(run, "anon")) > budget:
        failed = True
        print(f"ABOVE THE BUDGET {name} subscription")
for (run, _), name in zip(runs, ("without a subscription", "with one subscription each")):
    print(f"\nraw data, {name}")
    for line in run:
        print(json.dumps(line))
sys.exit(failed)
PYTHON
} >"$work/report" || status=1
keep_report idle-memory.txt
exit "$status"
