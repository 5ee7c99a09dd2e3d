#!/usr/bin/env bash
# RingMQ against clients that others wrote: Mosquitto's command-line clients, Eclipse Paho for
# Python and MQTT.js, over 1, 2 and 7 shards, and once while its wall clock is set. Installs what is
# missing: the Debian packages mosquitto-clients and libfaketime, and the two libraries below the
# target folder. A line for each check; the last one says `N passed, M failed`, and the exit status
# is 1 if any failed.
#
#   scripts/interop.sh            everything
#   SHARDS="2" scripts/interop.sh only over 2 shards
#   RINGMQ=path/to/ringmq scripts/interop.sh    test that binary, build nothing
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source scripts/lib/broker.sh

paho_version=2.2.0
mqttjs_version=5.16.0
# The longest that one client program may take, in seconds: about ten times what it takes.
limit=300

folder="${CARGO_TARGET_DIR:-target}/interop"
mkdir -p "$folder"
results="$(mktemp "$folder/results.XXXXXX")"
trap 'stop_broker || true; rm -f "$results"*' EXIT

# install_package NAME: a Debian package.
install_package() {
    local as_root=()
    echo "installing $1"
    if ((EUID != 0)); then
        as_root=(sudo -n)
    fi
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" \
        apt-get install -qq -y --no-install-recommends "$1" >/dev/null
}

# find_clock_library: sets $clock_library, to nothing if it is not installed.
find_clock_library() {
    local path
    clock_library=
    for path in /usr/lib/*/faketime/libfaketimeMT.so.1; do
        [[ ! -e "$path" ]] || clock_library=$path
    done
}

install_clients() {
    if ! command -v mosquitto_sub >/dev/null; then
        install_package mosquitto-clients
    fi
    find_clock_library
    if [[ -z "$clock_library" ]]; then
        install_package libfaketime || true
        find_clock_library
    fi
    local stamp="$folder/paho-$paho_version"
    if [[ ! -e "$stamp" ]]; then
        echo "installing paho-mqtt $paho_version"
        rm -rf "$folder/venv"
        python3 -m venv "$folder/venv"
        timeout "$limit" "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
            "paho-mqtt==$paho_version"
        touch "$stamp"
    fi
    stamp="$folder/mqttjs-$mqttjs_version"
    if [[ ! -e "$stamp" ]]; then
        echo "installing mqtt $mqttjs_version"
        rm -rf "$folder/js"
        mkdir -p "$folder/js"
        echo '{"private": true}' >"$folder/js/package.json"
        timeout "$limit" npm install --silent --no-audit --no-fund --prefix "$folder/js" \
            "mqtt@$mqttjs_version"
        touch "$stamp"
    fi
}

# clients NAME COMMAND...: one client program; its lines go to the output and to the results.
clients() {
    local name=$1 status=0 failed_before failed_after
    shift
    failed_before="$(grep -c '^FAIL ' "$results" || true)"
    timeout --kill-after=10 "$limit" "$@" | tee -a "$results" || status=$?
    failed_after="$(grep -c '^FAIL ' "$results" || true)"
    # A program that fails without naming a check has itself failed, or run out of time.
    if ((status && failed_before == failed_after)); then
        echo "FAIL $name: it ended with status $status" | tee -a "$results"
    fi
}

# broker_check WHAT COMMAND...: a check of the broker itself.
broker_check() {
    local what=$1
    shift
    if "$@"; then
        echo "ok   broker, $what" | tee -a "$results"
    else
        echo "FAIL broker, $what" | tee -a "$results"
    fi
}

# no_complaints: the broker has not warned of anything.
no_complaints() {
    ! grep -E ' (WARN|ERROR) |panicked' "$broker_log" >&2
}

build_broker
install_clients

for shards in ${SHARDS:-1 2 7}; do
    start_broker --shards "$shards"
    clients "mosquitto, $shards shards" python3 scripts/interop/mosquitto_test.py "$broker_port" "$shards"
    clients "paho, $shards shards" "$folder/venv/bin/python" scripts/interop/paho_test.py "$broker_port" "$shards"
    MQTTJS="$folder/js" clients "mqtt.js, $shards shards" node scripts/interop/mqttjs_test.mjs "$broker_port" "$shards"
    broker_check "$shards shards: still runs" kill -0 "$broker_pid"
    broker_check "$shards shards: has logged no warning" no_complaints
    broker_check "$shards shards: stops with status 0" stop_broker
done

# Only the broker's own wall clock is set, and not the clock that it counts on.
if [[ -n "$clock_library" ]]; then
    clock="$results.clock"
    echo +0 >"$clock"
    LD_PRELOAD="$clock_library" FAKETIME_TIMESTAMP_FILE="$clock" FAKETIME_NO_CACHE=1 \
        FAKETIME_DONT_FAKE_MONOTONIC=1 start_broker --shards 2 --sys-interval 500ms
    clients "clock" "$folder/venv/bin/python" scripts/interop/clock_test.py "$broker_port" 2 "$clock"
    broker_check "clock steps: still runs" kill -0 "$broker_pid"
    broker_check "clock steps: has logged no warning" no_complaints
    broker_check "clock steps: stops with status 0" stop_broker
else
    echo "skip clock steps: the Debian package libfaketime is not installed"
fi

passed="$(grep -c '^ok ' "$results" || true)"
failed="$(grep -c '^FAIL ' "$results" || true)"
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
