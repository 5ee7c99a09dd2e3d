#!/usr/bin/env bash
# What the kernel's settings have to be for N connections to one broker on this machine: each with
# its present value, what is needed and why. Only what is too low is asked for.
#
#   scripts/tune-kernel.sh 1000000               print; exit status 1 if something is too low
#   scripts/tune-kernel.sh 1000000 --apply       and set it, until the next boot (needs root)
#   scripts/tune-kernel.sh 1000000 --shards 16   the broker will run with that many shards (one for
#                                                each processor if not given)
#   scripts/tune-kernel.sh 1000000 --load 5      the load generator is on this machine, too, and has
#                                                five source addresses (--ifaddr)
#
# The descriptor limit is no setting of the kernel but of a process: --apply raises it for the shell
# that this was called from and what it starts later. A service has LimitNOFILE= instead.
set -euo pipefail

# Tests put other files here.
root="${SYSCTL_ROOT:-/proc/sys}"

connections=
shards="$(nproc)"
addresses=0
apply=
usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
}
# number TEXT LOW: TEXT, which has to be a number from LOW on.
number() {
    if ! [[ "$1" =~ ^[0-9]{1,12}$ ]] || ((10#$1 < $2)); then
        usage
    fi
    printf '%d' "$((10#$1))"
}
while (($#)); do
    case "$1" in
    --apply) apply=yes ;;
    --shards)
        shards="$(number "${2:-}" 1)"
        shift
        ;;
    --load)
        addresses="$(number "${2:-}" 1)"
        shift
        ;;
    -*) usage ;;
    *)
        [[ -z "$connections" ]] || usage
        connections="$(number "$1" 1)"
        ;;
    esac
    shift
done
[[ -n "$connections" ]] || usage

low=0
failed=0

# grouped NUMBER: with a comma before every three digits.
grouped() {
    sed -E ':again; s/^([0-9]+)([0-9]{3})/\1,\2/; t again' <<<"$1"
}

# row NAME NOW NEEDED STATE WHY
row() {
    printf '%-42s %13s %13s  %-8s %s\n' "$1" "$(grouped "$2")" "$(grouped "$3")" "$4" "$5"
}

# read_setting NAME: its words; fails if this kernel has none of that name.
read_setting() {
    cat "$root/${1//.//}" 2>/dev/null
}

# set_setting NAME VALUE: sets it if that is asked for; says what became of it.
set_setting() {
    if [[ -z "$apply" ]]; then
        printf 'too low'
    elif printf '%s\n' "$2" 2>/dev/null >"$root/${1//.//}"; then
        printf 'set'
    else
        printf 'refused'
    fi
}

# at_least NAME VALUE WHY: a setting of one number.
at_least() {
    local now state
    now="$(read_setting "$1")" || return 0
    if ((now >= $2)); then
        state=ok
    else
        state="$(set_setting "$1" "$2")"
    fi
    report "$1" "$now" "$2" "$state" "$3"
}

# report NAME NOW NEEDED STATE WHY: a row, and what it means for the exit status.
report() {
    case "$4" in
    'too low') low=1 ;;
    refused) failed=1 ;;
    esac
    row "$@"
}

descriptors() {
    # The broker's own: 32, and 4 for each shard in every table; 64 for slow clients' writers. The
    # hash deals clients out unevenly: four deviations of that, and one listener.
    local each own spread now state most=
    each=$(((connections + shards - 1) / shards))
    own=$((32 + 4 * shards + 64 + 1))
    spread="$(awk -v each="$each" 'BEGIN { print int(4 * sqrt(each) + 0.5) }')"
    ((shards > 1)) || spread=0
    need=$((each + own + spread))
    now="$(ulimit -Hn)"
    [[ "$now" != unlimited ]] || now=$((1 << 30))
    if ((now < need)); then
        at_least fs.nr_open "$need" "no descriptor limit can be above it"
    fi
    if ((now >= need)); then
        state=ok
    elif [[ -z "$apply" ]]; then
        state='too low'
    elif prlimit --pid "$PPID" --nofile="$need:$need" 2>/dev/null; then
        state='set'
    else
        state=refused
    fi
    report "descriptor limit (ulimit -Hn)" "$now" "$need" "$state" \
        "each shard has a table with its share of the connections"
    if [[ "$state" != ok && "$state" != set ]]; then
        # Fewer connections in each table do as well, up to the broker's 256 shards.
        most="$(awk -v n="$connections" -v limit="$now" 'BEGIN {
            for (s = 1; s <= 256; s++) {
                each = n / s
                if (each + 4 * sqrt(each) + 4 * s + 98 <= limit) { print s; exit }
            }
        }')"
        remedy="LimitNOFILE=$need in the service's unit, or \`ulimit -n $need\` as root"
        [[ -z "$most" ]] || remedy+="; or --shards $most under the present limit"
    fi
}

port_range() {
    # A connection is told from others by both addresses and ports: each address of the clients'
    # has as many ports as the range.
    local words low_port high_port now need state
    need=$(((connections + addresses - 1) / addresses))
    # Some are taken by others, and the last ones take long to be found.
    need=$((need + need / 10))
    words="$(read_setting net.ipv4.ip_local_port_range)" || return 0
    read -r low_port high_port <<<"$words"
    now=$((high_port - low_port + 1))
    if ((now >= need)); then
        state=ok
    elif ((need > 64512)); then
        state='too low'
        remedy_ports="give the load generator $(((connections + 57999) / 58000)) source addresses: --load and --ifaddr"
    else
        state="$(set_setting net.ipv4.ip_local_port_range "$((65536 - need)) 65535")"
    fi
    report "net.ipv4.ip_local_port_range (ports)" "$now" "$need" "$state" \
        "the load generator's: ports of each of its $addresses addresses"
}

socket_memory() {
    # Idle connections have nothing in their buffers. When all of them say something at once, a
    # small packet takes a page at the most until it is read; count one in eight.
    local words now need state
    words="$(read_setting net.ipv4.tcp_mem)" || return 0
    read -r _ _ now <<<"$words"
    need=$((connections * ends / 8))
    if ((now >= need)); then
        state=ok
    else
        state="$(set_setting net.ipv4.tcp_mem "$((need / 2)) $((need * 2 / 3)) $need")"
    fi
    report "net.ipv4.tcp_mem (pages, the third)" "$now" "$need" "$state" \
        "buffers of one in eight connections, a page each; beyond it packets are dropped"
}

ends=$((addresses > 0 ? 2 : 1))
need=0
remedy=
remedy_ports=
printf 'for %s connections on %s shards%s\n\n' "$(grouped "$connections")" "$shards" \
    "$( ((addresses == 0)) || printf ', with the load generator on this machine')"
printf '%-42s %13s %13s  %-8s %s\n' setting now needed '' why
descriptors
at_least fs.file-max "$((connections * ends + 10000))" \
    "each connection is an open file$( ((ends == 1)) || printf ', and so is its other end'); root may exceed it"
backlog=$((connections < 65535 ? connections : 65535))
at_least net.core.somaxconn "$backlog" \
    "cuts --backlog: who finds it full comes back after 1, 3 and 7 s"
if [[ "$(read_setting net.ipv4.tcp_syncookies)" == 0 ]]; then
    at_least net.ipv4.tcp_max_syn_backlog "$backlog" "SYNs beyond it are dropped without SYN cookies"
fi
socket_memory
if ((addresses > 0)); then
    port_range
    # Loopback has no card whose queue would hold them.
    at_least net.core.netdev_max_backlog 10000 \
        "packets waiting on loopback; what is dropped is sent again after 0.2 to 1 s"
fi
# It may be there and track nothing, for no rule of the firewall needs it.
tracked="$(read_setting net.netfilter.nf_conntrack_count || echo 0)"
if ((tracked > 0)); then
    at_least net.netfilter.nf_conntrack_max "$((connections + connections / 10))" \
        "connection tracking is in use and drops what it cannot track; better not to track this port at all"
fi
if [[ "$(read_setting kernel.io_uring_disabled)" =~ ^[12]$ ]]; then
    now="$(read_setting kernel.io_uring_disabled)"
    state='too high'
    if [[ -n "$apply" ]]; then
        state="$(set_setting kernel.io_uring_disabled 0)"
    fi
    [[ "$state" != refused ]] || failed=1
    [[ "$state" != 'too high' ]] || low=1
    row kernel.io_uring_disabled "$now" 0 "$state" "the broker falls back to epoll, which is slower"
fi
for line in "$remedy" "$remedy_ports"; do
    [[ -z "$line" ]] || printf '\n%s\n' "$line"
done
if ((failed)); then
    printf '\nsome settings were refused: run it as root, outside of a container\n' >&2
fi
if [[ -n "$apply" ]]; then
    exit "$failed"
fi
exit "$((low || failed))"
