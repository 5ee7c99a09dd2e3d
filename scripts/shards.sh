#!/usr/bin/env bash
# What more shards cost, on a machine that has not as many cores: the memory and the idle CPU of a
# broker, its connects, and its messages at fixed rates, with 1, 2, 8 and 64 shards.
#
#   scripts/shards.sh                print the table: about seven minutes
#   scripts/shards.sh --save         and keep it, with the raw data, under docs/perf/
#   SHARDS=1,16 scripts/shards.sh    these
#   RINGMQ=path RINGMQ_LOAD=path scripts/shards.sh     measure these binaries, build nothing
#
# Each figure is the median of three runs (RUNS), the numbers of shards in turn. Fails if a client
# could not do what it was to do or a message was lost.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

command="scripts/shards.sh $*"
begin_measurement "$@"
{
    build_broker
    build_load
} >&2
export RINGMQ="$broker_binary" RINGMQ_LOAD="$load_binary"
status=0
{
    print_head "$command"
    python3 scripts/shards.py --shards "${SHARDS:-1,2,8,64}" --runs "${RUNS:-3}" --work "$work" \
        --raw "$work/raw" || status=$?
} >"$work/report"
keep_report shards.txt
if [[ -n "$save" ]]; then
    cp "$work/raw" "docs/perf/$(date -u +%Y-%m-%d)-$(machine_name)/shards.jsonl"
fi
exit "$status"
