#!/usr/bin/env bash
# What durability costs, and what it holds: RingMQ with each --durability and without a store, and
# Mosquitto with its persistence, in turn.
#
#   scripts/durable.sh                      everything: about half an hour
#   scripts/durable.sh rates                messages per second and per CPU second, latencies, and what
#                                           a SIGKILL leaves of what was acknowledged
#   scripts/durable.sh offline              memory of 200,000 sessions that are away, 10 messages each
#   scripts/durable.sh start                a start with 1,000,000 sessions and retained messages
#   scripts/durable.sh --scale 0.1          a tenth of the sessions and retained messages
#   scripts/durable.sh --runs 3 --seconds 5 of each rate
#   scripts/durable.sh --save               and keep the tables and the raw data under docs/perf/
#   FOLDER=/var/tmp scripts/durable.sh      where the data goes, which decides what disk is measured
#   RINGMQ=, RINGMQ_LOAD=, MOSQUITTO=       paths of binaries that are there already
#
# Fails if a message that was acknowledged is missing where the broker promises to have it, or a
# client could not do what it was to do.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

command="scripts/durable.sh $*"
parts=()
arguments=()
while (($#)); do
    case "$1" in
    --save) save=yes ;;
    --scale | --runs | --seconds)
        arguments+=("$1" "${2:-1}")
        shift
        ;;
    rates | offline | start) parts+=("$1") ;;
    *)
        print_help
        exit 2
        ;;
    esac
    shift
done
if ((!${#parts[@]})); then
    parts=(rates offline start)
fi

{
    build_broker
    build_load
    install_mosquitto "its rows will be missing"
} >&2
begin_measurement ${save:+--save}
export RINGMQ="$broker_binary" RINGMQ_LOAD="$load_binary"
export FOLDER="${FOLDER:-/var/tmp}"

failed=0
for part in "${parts[@]}"; do
    status=0
    {
        print_head "$command"
        timeout 1800 python3 scripts/durable.py "$part" --work "$work" --raw "$work/raw" \
            "${arguments[@]}" || status=$?
        printf '\nload      %s (over 1, 5, 15 min, at the end)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
    } >"$work/report"
    keep_report "durable-$part.txt"
    if [[ -n "$save" ]]; then
        cp "$work/raw" "docs/perf/$(date -u +%Y-%m-%d)-$(machine_name)/durable-$part.jsonl"
    fi
    ((!status)) || failed=1
done
exit "$failed"
