# Builds, starts and stops the broker under test. Sourced by the scripts beside this folder, after
# they have changed to the top of the repository.

broker_pid=
broker_port=
broker_log=

# build_broker: the release binary, into $broker_binary. RINGMQ names one that is there already.
build_broker() {
    broker_binary="${RINGMQ:-${CARGO_TARGET_DIR:-target}/release/ringmq}"
    if [[ -z "${RINGMQ:-}" ]]; then
        cargo build --locked --release --bin ringmq
    fi
}

# build_load: the release load generator, into $load_binary. RINGMQ_LOAD names one that is there
# already.
build_load() {
    load_binary="${RINGMQ_LOAD:-${CARGO_TARGET_DIR:-target}/release/ringmq-load}"
    if [[ -z "${RINGMQ_LOAD:-}" ]]; then
        cargo build --locked --release -p ringmq-load
    fi
}

# install_mosquitto LACK: Mosquitto from the system's package, if it is missing; MOSQUITTO names one that
# is there already. LACK says what a report is without it.
install_mosquitto() {
    local as_root=
    PATH="$PATH:/usr/sbin:/usr/local/sbin"
    export MOSQUITTO="${MOSQUITTO:-mosquitto}"
    if ! command -v "$MOSQUITTO" >/dev/null; then
        [[ "$(id -u)" == 0 ]] || as_root=sudo
        $as_root apt-get install -y --no-install-recommends mosquitto ||
            echo "warning: Mosquitto cannot be installed; $1" >&2
    fi
}

# start_broker FLAGS...: on a port that is free; sets $broker_pid and $broker_port. Returns when it
# listens, and fails after 10 s. Without a --data-dir it keeps everything in memory.
start_broker() {
    [[ " $* " == *" --data-dir"* ]] || set -- --in-memory "$@"
    broker_log="$(mktemp "${TMPDIR:-/tmp}/ringmq-log.XXXXXX")"
    "$broker_binary" --listen 127.0.0.1:0 --log-format text "$@" </dev/null 2>"$broker_log" &
    broker_pid=$!
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        broker_port="$(sed -n 's/.*listening address=127\.0\.0\.1:\([0-9]*\).*/\1/p' "$broker_log")"
        if [[ -n "$broker_port" ]]; then
            return
        fi
        if ! kill -0 "$broker_pid" 2>/dev/null; then
            break
        fi
        sleep 0.05
    done
    echo "error: the broker does not start:" >&2
    cat "$broker_log" >&2
    return 1
}

# stop_broker: returns the broker's exit status; kills it when it does not end within 15 s.
stop_broker() {
    local tries status=0
    if [[ -z "$broker_pid" ]]; then
        return
    fi
    kill -TERM "$broker_pid" 2>/dev/null || true
    for ((tries = 0; tries < 300; tries++)); do
        kill -0 "$broker_pid" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$broker_pid" 2>/dev/null || true
    wait "$broker_pid" 2>/dev/null || status=$?
    broker_pid=
    rm -f "$broker_log"
    return "$status"
}

# describe_machine: what a reader of figures has to know, a line each.
describe_machine() {
    printf 'date      %s\n' "$(date -u +%Y-%m-%dT%H:%MZ)"
    # Results and documents are no part of what is measured: the one before may not be committed yet.
    local changed=
    git diff --quiet HEAD -- . ':!docs' 2>/dev/null || changed=-dirty
    printf 'commit    %s\n' "$(git describe --always 2>/dev/null || echo unknown)$changed"
    printf 'kernel    %s\n' "$(uname -sr)"
    printf 'processor %s\n' "$(sed -n 's/^model name[^:]*: *\(..*\)/\1/p' /proc/cpuinfo | sed -n 1p | grep . || echo unknown)"
    printf 'cores     %s\n' "$(nproc)"
    printf 'memory    %s MiB\n' "$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
    printf 'load      %s (over 1, 5, 15 min, at the start)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
}

# machine_name: short, for a folder: kernel architecture, cores, memory.
machine_name() {
    local gib
    gib="$(awk '/MemTotal/ {print int($2 / 1048576 + 0.9)}' /proc/meminfo)"
    printf '%s-%score-%sgib' "$(uname -m)" "$(nproc)" "$gib"
}
