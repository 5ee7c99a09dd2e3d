#!/usr/bin/env bash
# What storage engines make of a broker's changes: fjall, redb and RocksDB on deliveries that are put
# in one commit and removed in the next, on filling a backlog, a restart, and draining it; and how
# often this disk can sync, which bounds the commits of all of them.
#
#   scripts/store-bench.sh [--save]      print the table, and keep it under docs/perf/
#   DELIVERIES=500000 FOLDER=/var/tmp scripts/store-bench.sh
#   STORE_ENGINES=path/to/store-engines scripts/store-bench.sh    use that binary, build nothing
#
# The data goes to a folder in FOLDER, which decides what disk is measured. RocksDB is compared if the
# system has librocksdb (Debian: librocksdb-dev).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh
source scripts/lib/measure.sh

deliveries="${DELIVERIES:-500000}"
engines=(fjall redb)
features=()
if [[ -e /usr/include/rocksdb/c.h ]]; then
    engines+=(rocksdb)
    features=(--features rocksdb)
fi
binary="${STORE_ENGINES:-}"
if [[ -z "$binary" ]]; then
    cargo build --release --manifest-path benches/store/Cargo.toml "${features[@]}"
    binary="${CARGO_TARGET_DIR:-benches/store/target}/release/store-engines"
fi
begin_measurement "$@"
folder="$(mktemp -d "${FOLDER:-/var/tmp}/store-bench.XXXXXX")"
trap 'rm -rf "$folder" "$work"' EXIT

{
    print_head "DELIVERIES=$deliveries scripts/store-bench.sh"
    for engine in sync "${engines[@]}" sync; do
        timeout 300 "$binary" "$folder" "$engine" --deliveries "$deliveries" ||
            printf '%-8s failed or took more than 300 s\n' "$engine"
    done
    printf '\nload      %s (over 1, 5, 15 min, at the end)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
} >"$work/report"
keep_report store-engines.txt
