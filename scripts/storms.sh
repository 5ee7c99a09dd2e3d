#!/usr/bin/env bash
# What happens when a whole fleet does the same thing at once, and what clients notice that have
# nothing to do with it. A fresh broker for each storm.
#
#   scripts/storms.sh                       all of them: about five minutes
#   scripts/storms.sh reconnect take-over   these; `scripts/storms.sh list` says which there are
#   scripts/storms.sh --scale 0.1           a tenth of the clients and messages
#   scripts/storms.sh --save                and keep the table under docs/perf/
#   scripts/storms.sh --store resume        with a store (`--durability always`) instead of --in-memory
#   RINGMQ=path RINGMQ_LOAD=path scripts/storms.sh     measure these binaries, build nothing
#
#   reconnect          200,000 connections are cut and all come back at once, twice
#   take-over          200,000 clients connect again while their old connections live
#   resume             200,000 persistent sessions with 10 queued messages each come back
#   subscribe-exact    10,000 clients subscribe to 100 topics each
#   subscribe-wildcard 10,000 clients subscribe to 100 filters with a wildcard each
#   retained           1,000,000 retained messages, and a new subscriber to #
#
# Fails if a client could not do what it was to do, a message was lost, or the neighbours' p99 was
# 100 ms or more. As many shards as the descriptor limit asks for, else the default settings.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

command="scripts/storms.sh $*"
store=
names=()
arguments=()
while (($#)); do
    case "$1" in
    --save) save=yes ;;
    --store) store=yes ;;
    --scale)
        arguments+=("$1" "${2:-1}")
        shift
        ;;
    list) exec python3 scripts/storms.py list ;;
    -*)
        print_help
        exit 2
        ;;
    *) names+=("$1") ;;
    esac
    shift
done
if ((${#names[@]} == 0)); then
    mapfile -t names < <(python3 scripts/storms.py list)
fi
begin_measurement ${save:+--save}
build_broker
build_load

status=0
{
    print_head "$command"
    for name in "${names[@]}"; do
        mapfile -t flags < <(python3 scripts/storms.py flags "$name" "${arguments[@]}")
        printf '%s (broker: ringmq %s)\n' "$name" "${flags[*]}${store:+ --data-dir FOLDER}"
        [[ -z "$store" ]] || flags+=(--data-dir "$work/$name")
        start_broker "${flags[@]}"
        python3 scripts/storms.py run "$name" --port "$broker_port" --pid "$broker_pid" \
            --load "$load_binary" --work "$work" "${arguments[@]}" || status=1
        stop_broker || true
        rm -rf "${work:?}/$name"
        echo
    done
} >"$work/report"
keep_report "storms${store:+-store}.txt"
exit "$status"
