#!/usr/bin/env bash
# Runs the microbenchmarks (benches/core.rs): decode, encode, filter match and routes among a
# million filters, fan-out, mailbox, timer wheel.
#
#   scripts/bench.sh                  print the table
#   scripts/bench.sh --save           and keep it under docs/perf/: the baseline
#   FILTER=fan_out scripts/bench.sh   only benchmarks whose name contains that
#
# Nothing else should run meanwhile: the load of the machine before and after stands in the report.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

filter="${FILTER:-}"

# Built first, so that the load average is that of the machine and not of the compiler.
command=(cargo bench --locked --bench core)
"${command[@]}" --no-run
begin_measurement "$@"
{
    print_head "FILTER=$filter scripts/bench.sh (${command[*]})"
    "${command[@]}" -- ${filter:+"$filter"} 2>"$work/errors" ||
        { cat "$work/errors" >&2 && exit 1; }
    printf '\nload      %s (over 1, 5, 15 min, at the end)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
} >"$work/report"
keep_report bench.txt
