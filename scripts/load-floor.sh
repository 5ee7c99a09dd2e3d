#!/usr/bin/env bash
# What a load generator has to take at least: the processor time for a message of
# loadtest/examples/source.rs, which does nothing but write what is due and read, of ringmq-load with
# one thread, to which as many messages are due at a time, and with one for each core, and of the RingMQ
# broker, in the rows of scripts/compare.sh with fixed rates. In turn, and repeated; medians.
#
#   scripts/load-floor.sh           print the table
#   scripts/load-floor.sh --save    and keep it under docs/perf/
#   ROUNDS=5 RINGMQ=path RINGMQ_LOAD=path SOURCE=path scripts/load-floor.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

rounds="${ROUNDS:-5}"
begin_measurement "$@"
build_broker
build_load
source_binary="${SOURCE:-${CARGO_TARGET_DIR:-target}/release/examples/source}"
if [[ -z "${SOURCE:-}" ]]; then
    cargo build --locked --release -p ringmq-load --example source
fi

measure() {
    python3 - "$@" <<'PYTHON'
import json, os, subprocess, sys

sys.path.insert(0, "scripts")
from scale import cpu_seconds

by, broker, port, row, seconds, binary, work = sys.argv[1:]
flow, qos, rate = row.split()
line = {"row": row, "by": by}
# Sixteen messages, in microseconds.
grain = str(16_000_000 // int(rate))
if by == "source":
    command = [binary, port, flow, qos, rate, seconds]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as source:
        source.stdout.readline()
        before = cpu_seconds(broker)
        words = source.stdout.readline().split()
        spent = cpu_seconds(broker) - before
    if source.returncode or len(words) != 3:
        sys.exit(f"error: {' '.join(command[1:])} has failed")
    messages, micros, reached = map(float, words)
    line |= {"tool_us": micros, "broker_us": spent * 1e6 / messages, "per_second": reached}
else:
    result = os.path.join(work, "run.json")
    verb = {"pairs": "pair"}.get(flow, flow)
    command = [binary, verb, "-c", "1000", "-q", qos, "--rate", rate, "-p", port, "-s", "64",
               "--duration", seconds, "--drain", "1", "--quiet", "--pid", broker, "--json", result]
    command += ["--workers", "1", "--grain", grain] if by == "one thread" else []
    subprocess.run(command, check=True)
    with open(result, encoding="utf-8") as file:
        measured = json.load(file)["measured"]
    messages = measured["counts"]["received"]
    line |= {"tool_us": measured["tool_cpu_seconds"] * 1e6 / messages,
             "broker_us": measured["broker_cpu_seconds"] * 1e6 / messages,
             "per_second": measured["received_per_second"]}
print(json.dumps(line))
PYTHON
}

for ((round = 0; round < rounds; round++)); do
    for row in 'fan-in 0 150000' 'pairs 1 50000' 'pairs 1 20000'; do
        for by in source 'one thread' 'ringmq-load'; do
            binary="$load_binary"
            [[ $by != source ]] || binary="$source_binary"
            start_broker --shards 1
            measure "$by" "$broker_pid" "$broker_port" "$row" 4 "$binary" "$work" >>"$work/runs"
            stop_broker
        done
    done
done

{
    print_head "scripts/load-floor.sh (broker: ringmq --shards 1; 1,000 publishers, 64 B; $rounds rounds)"
    python3 - "$work/runs" <<'PYTHON'
import json, statistics, sys

with open(sys.argv[1], encoding="utf-8") as lines:
    runs = [json.loads(line) for line in lines]
print("CPU for a message, us: medians, and the least and the most of the runs\n")
print(f"{'':18}{'':14}{'messages/s':>12}{'generator':>24}{'broker':>24}{'ratio':>8}")
for row in dict.fromkeys(run["row"] for run in runs):
    for by in ("source", "one thread", "ringmq-load"):
        these = [run for run in runs if run["row"] == row and run["by"] == by]

        def of(what):
            values = [run[what] for run in these]
            return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

        ratio = statistics.median(run["tool_us"] / run["broker_us"] for run in these)
        reached = statistics.median(run["per_second"] for run in these)
        print(f"{row:18}{by:14}{reached:12,.0f}{of('tool_us'):>24}{of('broker_us'):>24}{ratio:8.2f}")
print("\nruns:")
for run in runs:
    print(json.dumps(run))
PYTHON
} >"$work/report"
keep_report load-floor.txt
