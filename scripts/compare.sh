#!/usr/bin/env bash
# RingMQ beside other brokers on this machine: idle memory, connects, messages per CPU second of the
# broker, latencies and a reconnect storm; then RingMQ with two shards against one. Brokers take
# turns in each row, medians of all runs count. docs/performance.md says what the rows mean.
#
#   scripts/compare.sh                      everything, about 15 minutes on two cores
#   scripts/compare.sh --save               and keep it under docs/perf/
#   scripts/compare.sh --rows fan-in-q0,pairs-q1 --runs 5 --seconds 10
#   scripts/compare.sh --brokers ringmq,mosquitto
#   scripts/compare.sh --broker 'nanomq=nanomq start --url nmq-tcp://127.0.0.1:{port}'
#   scripts/compare.sh --broker 'other@1999=other-broker --config other.conf'
#
#   --rows ROWS        some rows, by comma; `--rows list` names them
#   --runs N           runs of each row and broker (RUNS, 3)
#   --seconds N        of each measurement, after 1 s that does not count (5)
#   --clients N        publishers, subscribers or pairs of the message rows (1000); less for a trial
#   --connections N    of the idle, connect and storm rows (10000); less for a trial
#   --brokers NAMES    of ringmq, mosquitto and rumqttd, by comma: those three if not given
#   --broker NAME=COMMAND or NAME@PORT=COMMAND
#                      another broker, in the foreground; {port} in the command is a free port.
#                      May be repeated
#   --save             keep the table and the raw data
#
# RINGMQ=, RINGMQ_LOAD=, MOSQUITTO=, RUMQTTD= are paths of binaries that are there already. Else the
# first two are built, Mosquitto comes from the system's package if it is missing (its service need
# not run), and rumqttd 0.20 from crates.io into target/tools, which takes some minutes once.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh

brokers=ringmq,mosquitto,rumqttd
rows=
arguments=("$@")
while (($#)); do
    case "$1" in
    --brokers) brokers="${2:-}" && shift ;;
    --brokers=*) brokers="${1#*=}" ;;
    --rows) rows="${2:-}" && shift ;;
    --rows=*) rows="${1#*=}" ;;
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit
        ;;
    esac
    shift
done
if [[ "$rows" == list ]]; then
    exec python3 scripts/compare.py --rows list
fi

needs() {
    [[ ",$brokers," == *",$1,"* ]]
}

# The tools' output must not get into the report.
{
    build_broker
    build_load
    if needs mosquitto; then
        install_mosquitto "its column will be empty"
    fi
    if needs rumqttd && [[ -z "${RUMQTTD:-}" && ! -x target/tools/bin/rumqttd ]]; then
        cargo install rumqttd --version '0.20.*' --root target/tools ||
            echo "warning: rumqttd cannot be installed; its column will be empty" >&2
    fi
} >&2

export RINGMQ="$broker_binary" RINGMQ_LOAD="$load_binary"
export MOSQUITTO="${MOSQUITTO:-mosquitto}"
export RUMQTTD="${RUMQTTD:-target/tools/bin/rumqttd}"
MACHINE="$(describe_machine)"
FOLDER="docs/perf/$(date -u +%Y-%m-%d)-$(machine_name)"
export MACHINE FOLDER
exec python3 scripts/compare.py "${arguments[@]}"
