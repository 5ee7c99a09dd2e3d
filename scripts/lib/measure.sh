# The frame of a script that measures and keeps what it found. Sourced after lib/broker.sh by the
# scripts beside this folder.

work=
save=

# print_help: the comment at the head of the calling script.
print_help() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
}

# begin_measurement [--save]: takes the script's arguments, makes $work, which goes away with the
# script as the broker does, allows as many descriptors as may be had, and notes the machine.
begin_measurement() {
    case "${1:-}" in
    "") ;;
    --save) save=yes ;;
    *)
        print_help
        exit 2
        ;;
    esac
    work="$(mktemp -d)"
    trap 'stop_broker || true; rm -rf "$work"' EXIT
    ulimit -n "$(ulimit -Hn)"
    describe_machine >"$work/machine"
}

# print_head COMMAND: what stands above every table.
print_head() {
    cat "$work/machine"
    printf 'command   %s\n\n' "$1"
}

# keep_report NAME: shows $work/report, and keeps it under docs/perf/ if --save was given.
keep_report() {
    local folder
    cat "$work/report"
    if [[ -n "$save" ]]; then
        folder="docs/perf/$(date -u +%Y-%m-%d)-$(machine_name)"
        mkdir -p "$folder"
        cp "$work/report" "$folder/$1"
        echo "kept in $folder/$1"
    fi
}
