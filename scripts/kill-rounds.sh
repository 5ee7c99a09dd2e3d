#!/usr/bin/env bash
# Kills the broker with SIGKILL at random moments under load from several clients, starts it again with
# another number of shards, and compares the clients' books in the end (tests/kill.rs).
#
#   scripts/kill-rounds.sh                 100 rounds
#   scripts/kill-rounds.sh --rounds 1000 --seed 7
#   scripts/kill-rounds.sh --save          and keep the result under docs/perf/
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh

rounds=100
seed=$RANDOM
save=
while (($#)); do
    case "$1" in
    --rounds) rounds="${2:?a number}" && shift 2 ;;
    --seed) seed="${2:?a number}" && shift 2 ;;
    --save) save=yes && shift ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2 && exit 2 ;;
    esac
done

report="$(mktemp)"
trap 'rm -f "$report"' EXIT
{
    describe_machine
    printf 'command   scripts/kill-rounds.sh --rounds %s --seed %s\n\n' "$rounds" "$seed"
    KILL_ROUNDS=$rounds KILL_SEED=$seed RUST_BACKTRACE=0 \
        cargo test --locked --test kill -- --nocapture 2>&1 | grep -vE '^ +(Compiling|Running)'
} | tee "$report"
if [[ -n "$save" ]]; then
    folder="docs/perf/$(date -u +%Y-%m-%d)-$(machine_name)"
    mkdir -p "$folder"
    cp "$report" "$folder/kill-rounds.txt"
    echo "kept in $folder/kill-rounds.txt"
fi
