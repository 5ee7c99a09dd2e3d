#!/usr/bin/env bash
# What an idle connection costs the load generator: bytes of ringmq-load's own memory per
# connection, without and with a subscription, as the slope between 2,000 and 15,000 connections
# that `ringmq-load conn` holds to a RingMQ broker. Each stage is a run of its own; memory is read
# when all are connected. Fails above the budget of 300 B.
#
#   scripts/load-memory.sh          print the table
#   scripts/load-memory.sh --save   and keep it under docs/perf/
#   RINGMQ=path RINGMQ_LOAD=path scripts/load-memory.sh    measure these binaries, build nothing
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

budget=300
stages="${STAGES:-2000 5000 8000 11000 15000}"

begin_measurement "$@"
build_broker
build_load

# measure NAME FLAGS...: a line for each stage.
measure() {
    local name=$1 stage
    shift
    start_broker --shards 1
    for stage in $stages; do
        timeout 120 "$load_binary" conn -p "$broker_port" -c "$stage" --workers 1 --duration 0.5 \
            --quiet --json "$work/run.json" "$@"
        python3 - "$work/run.json" >>"$work/$name" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    run = json.load(file)
samples = run["samples"]
print(json.dumps({
    "connections": run["connect"]["connected"], "wanted": run["clients"],
    **{name: samples["connected"]["tool"][name] for name in ("rss_bytes", "anon_bytes")},
    "rss_before": samples["before"]["tool"]["rss_bytes"],
}))
PYTHON
    done
    stop_broker
}

measure without
measure with -t 'dev/%c/cmd'

status=0
{
    print_head 'scripts/load-memory.sh (ringmq-load conn -c N --workers 1; broker: ringmq --shards 1)'
    python3 - "$budget" "$work/without" "$work/with" <<'PYTHON' || status=1
import json, sys

budget = int(sys.argv[1])
runs = []
for path in sys.argv[2:]:
    with open(path, encoding="utf-8") as lines:
        runs.append([json.loads(line) for line in lines])


def slope(stages, what):
    low, high = stages[0], stages[-1]
    return (high[what] - low[what]) / (high["connections"] - low["connections"])


failed = any(stage["connections"] != stage["wanted"] for run in runs for stage in run)
if failed:
    print("NOT ALL WERE CONNECTED")
print(f"{'bytes per idle connection':34}{'none':>10}{'one':>10}   subscriptions")
for what, name in (("anon_bytes", "tool, its own memory (RssAnon)"),
                   ("rss_bytes", "tool, resident (VmRSS)")):
    values = [slope(run, what) for run in runs]
    print(f"{name:34}" + "".join(f"{value:10,.0f}" for value in values))
    if max(values) > budget:
        failed = True
        print("ABOVE THE BUDGET")
print(f"{'budget':34}" + f"{budget:10}" * 2)
for run, name in zip(runs, ("without a subscription", "with one subscription each")):
    print(f"\nraw data, {name}")
    for line in run:
        print(json.dumps(line))
sys.exit(failed)
PYTHON
} >"$work/report"
keep_report load-memory.txt
exit "$status"
