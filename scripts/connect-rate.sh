#!/usr/bin/env bash
# What a descriptor table for each shard costs or saves when many clients connect: connects per
# second and the broker's CPU seconds per 10,000 connects, with and without
# --separate-descriptor-tables, over 2 shards; runs in turn, medians.
#
#   scripts/connect-rate.sh [--save]       print the table, and keep it under docs/perf/
#   RUNS=7 CONNECTIONS=15000 SHARDS=2 PROCESSES=2 WINDOW=200 scripts/connect-rate.sh
#   RINGMQ=path/to/ringmq scripts/connect-rate.sh     measure that binary, build nothing
#
# Over S shards, (S - 1) / S of all connections are handed to their home shard. The clients are on
# the same machine and take more CPU than the broker, so the rate is no more than a lower bound: the
# broker's CPU seconds say more. Without separate tables all shards share one descriptor limit, so
# CONNECTIONS has to fit into it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

runs="${RUNS:-7}"
connections="${CONNECTIONS:-15000}"
shards="${SHARDS:-2}"
processes="${PROCESSES:-2}"
window="${WINDOW:-200}"
begin_measurement "$@"
build_broker

for ((run = 0; run < runs; run++)); do
    # The order changes with each round, so that what the machine does meanwhile hits both.
    order=(true false)
    if ((run % 2)); then
        order=(false true)
    fi
    for separate in "${order[@]}"; do
        start_broker --shards "$shards" --separate-descriptor-tables "$separate"
        timeout 120 python3 scripts/idle_clients.py --port "$broker_port" --pid "$broker_pid" \
            --processes "$processes" --window "$window" --stages "$connections" |
            sed -n '$p' >>"$work/$separate.json"
        stop_broker
    done
done

{
    print_head "RUNS=$runs CONNECTIONS=$connections SHARDS=$shards PROCESSES=$processes WINDOW=$window scripts/connect-rate.sh"
    python3 - "$work/true.json" "$work/false.json" <<'PYTHON'
import json, statistics, sys


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


runs = {"separate": read(sys.argv[1]), "shared": read(sys.argv[2])}
columns = {
    "connects/s": lambda run: run["connections"] / run["seconds"],
    "CPU s/10,000": lambda run: run["cpu_seconds"] / run["connections"] * 10_000,
    "p50 ms": lambda run: run["p50_ms"],
    "p99 ms": lambda run: run["p99_ms"],
}
print(f"{'descriptor tables':20}" + "".join(f"{name:>16}" for name in columns) + "   medians")
for name, of_name in runs.items():
    medians = [statistics.median(map(column, of_name)) for column in columns.values()]
    print(f"{name:20}" + "".join(f"{m:16,.0f}" if m >= 100 else f"{m:16.3f}" for m in medians))
cost = [statistics.median(map(columns["CPU s/10,000"], of_name)) for of_name in runs.values()]
rate = [statistics.median(map(columns["connects/s"], of_name)) for of_name in runs.values()]
print(f"\nseparate against shared: CPU {cost[0] / cost[1] - 1:+.1%}, "
      f"connects per second {rate[0] / rate[1] - 1:+.1%}")
for name, of_name in runs.items():
    print(f"\nraw data, {name}")
    for run in of_name:
        print(json.dumps(run))
PYTHON
} >"$work/report"
keep_report connect-rate.txt
