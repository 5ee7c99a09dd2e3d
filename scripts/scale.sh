#!/usr/bin/env bash
# Holds N connections to one broker on this machine, each with a keep-alive and a subscription of its
# own, while one in a hundred publishes and receives; twice, with everything released in between.
# Prints what it took, and fails if anything was missed: a connection, a keep-alive, a message, or
# memory that did not come back.
#
#   scripts/scale.sh 100000                print the table
#   scripts/scale.sh 2000000 --save        and keep it, with the raw data, under docs/perf/
#
#   --shards S         of the broker; as many as the descriptor limit asks for if not given
#   --hold SECONDS     that all are held for (60)
#   --keepalive SECONDS (180); three quarters of it without a word are a ping
#   --interval SECONDS between two messages of a client of the sample (10)
#   --sample PERCENT   of the clients that publish (1)
#   --qos QOS          of the sample's messages and of all subscriptions (1)
#   --rounds ROUNDS    (2)
#   --no-subscription  connections alone: no subscription, no sample
#   --memory GIB       stop when less than this is available (1.5)
#   RINGMQ=path RINGMQ_LOAD=path scripts/scale.sh N     measure these binaries, build nothing
#
# If it may, it runs in a network namespace of its own, with a hash table of sockets that is large
# enough and somaxconn at --backlog. What holds for the whole machine is left alone:
# `scripts/tune-kernel.sh N --load 200` says which settings are in the way.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

connections="${1:-}"
if ! [[ "$connections" =~ ^[0-9]+$ ]]; then
    print_help
    exit 2
fi
command="scripts/scale.sh $*"
# Its size is taken from the namespace that a new one is made from.
table=net.ipv4.tcp_child_ehash_entries
if [[ -z "${IN_NAMESPACE:-}" ]] && old="$(sysctl -n $table 2>/dev/null)" && unshare --net true 2>/dev/null; then
    sysctl -qw $table=$((4 * connections < 16777216 ? 4 * connections : 16777216)) || true
    trap 'sysctl -qw $table="$old"' EXIT
    IN_NAMESPACE=yes unshare --net "$0" "$@"
    exit
fi
if [[ -n "${IN_NAMESPACE:-}" ]]; then
    ip link set lo up
    sysctl -qw net.core.somaxconn=65535
fi
shift
arguments=()
shards=
while (($#)); do
    case "$1" in
    --save) save=yes ;;
    --no-subscription) arguments+=("$1") ;;
    --shards) shards="${2:-}" && shift ;;
    --hold | --keepalive | --interval | --sample | --qos | --rounds | --memory)
        arguments+=("$1" "${2:-}")
        shift
        ;;
    *)
        print_help
        exit 2
        ;;
    esac
    shift
done
begin_measurement ${save:+--save}
build_broker
build_load
if [[ -z "$shards" ]]; then
    shards="$(python3 scripts/scale.py shards "$connections")"
fi

flags=(--shards "$shards")
start_broker "${flags[@]}"
status=0
{
    print_head "$command (broker: ringmq ${flags[*]})"
    python3 scripts/scale.py hold "$connections" --port "$broker_port" --pid "$broker_pid" \
        --load "$load_binary" --work "$work" "${arguments[@]}"
} >"$work/report" || status=1
keep_report "scale-$connections.txt"
if [[ -n "$save" ]]; then
    cp "$work/raw.json" "docs/perf/$(date -u +%Y-%m-%d)-$(machine_name)/scale-$connections.json"
fi
exit "$status"
