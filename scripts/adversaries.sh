#!/usr/bin/env bash
# Attacks the broker in every way that a malicious or broken client has, at the size of a fleet, and
# prints what its well-behaved neighbours noticed: latencies before and during each attack, messages
# lost, the broker's CPU and memory. Fails if they lost anything, if their p99 during an attack is above
# its bound (adversaries.py, P99_BOUND), or an attack did what it should not.
#
#   scripts/adversaries.sh                     the whole run: about six minutes
#   scripts/adversaries.sh --save              and keep the tables under docs/perf/
#   scripts/adversaries.sh --scale 0.2         a fifth of the counts and times
#   scripts/adversaries.sh --only "half-open"  that attack alone; may be repeated
#   RINGMQ=path/to/ringmq RINGMQ_LOAD=path/to/ringmq-load scripts/adversaries.sh    builds nothing
#
# If it may, it runs in a network namespace of its own, and the clients whose link is cut in another
# one. The broker runs on two shards with --max-unread-bytes 32MiB, else with its default settings.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

arguments=()
command="scripts/adversaries.sh $*"
while (($#)); do
    case "$1" in
    --save) save=yes ;;
    --scale | --only)
        arguments+=("$1" "$2")
        shift
        ;;
    *)
        print_help
        exit 2
        ;;
    esac
    shift
done

if [[ -z "${IN_NAMESPACE:-}" ]] && unshare --net true 2>/dev/null; then
    build_broker
    build_load
    RINGMQ="$broker_binary" RINGMQ_LOAD="$load_binary" IN_NAMESPACE=yes exec unshare --net "$0" ${save:+--save} "${arguments[@]}"
fi

begin_measurement ${save:+--save}
far=
trap 'stop_broker || true; [[ -z "$far" ]] || kill "$far"; rm -rf "$work"' EXIT

build_broker
build_load

flags=(--shards 2 --max-unread-bytes 32MiB --sys-interval 500ms)
if [[ -n "${IN_NAMESPACE:-}" ]]; then
    ip link set lo up
    unshare --net sleep infinity &
    far=$!
    # The sleeper has left this namespace when its link shows another one.
    until [[ "$(readlink "/proc/$far/ns/net")" != "$(readlink /proc/self/ns/net)" ]]; do
        sleep 0.01
    done
    ip link add near type veth peer name far netns "$far"
    ip address add 192.0.2.1/30 dev near
    ip link set near up
    nsenter -t "$far" -n ip address add 192.0.2.2/30 dev far
    nsenter -t "$far" -n ip link set far up
    flags+=(--listen 192.0.2.1:18830 --allow-anonymous true)
    arguments+=(--namespace "$far" --far-port 18830)
fi
start_broker "${flags[@]}"

status=0
{
    print_head "$command (broker: ringmq ${flags[*]})"
    python3 scripts/adversaries.py --port "$broker_port" --pid "$broker_pid" --load "$load_binary" \
        "${arguments[@]}"
} >"$work/report" || status=1
keep_report adversaries.txt
exit "$status"
