#!/usr/bin/env bash
# Proves the simulations: plants each bug of tests/planted in a copy of the sources, and runs the
# simulation on it: that of crashes if its name begins with crash-. Fails if a bug survives or a
# patch does not apply. Writes docs/planted-bugs.md.
#
#   scripts/planted-bugs.sh [--seeds N] [NAME...]    2,000 seeds for each; by default every bug
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seeds=2000
if [[ ${1:-} == --seeds ]]; then
    seeds=${2:?a number} && shift 2
fi
patches=("${@/%/.patch}")
patches=("${patches[@]/#/tests/planted/}")
if (($# == 0)); then
    patches=(tests/planted/*.patch)
fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# Built once without optimisation: most of the time goes into building, not into the seeds.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target/planted}"
export CARGO_PROFILE_TEST_OPT_LEVEL=0 CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0
export SIMULATE_SEEDS=$seeds SIMULATE_FROM=0 CRASH_SEEDS=$seeds CRASH_FROM=0 SIMULATE_AS_IT_IS=1 RUST_BACKTRACE=0
mkdir "$copy/sources"
# As new files, for cargo takes an older run's build for that of files that are older still.
git ls-files -z --cached --others --exclude-standard |
    tar --null -T - -cf - | tar -xmf - -C "$copy/sources"
cp -r "$copy/sources" "$copy/pristine"
rows=()
bad=0

simulate() {
    local test=simulation::every_seed
    if [[ $1 == crash-* ]]; then
        test=crash::every_crash
    fi
    (cd "$copy/sources" && cargo test --locked --lib "$test" >"$copy/log" 2>&1)
}

for name in "${patches[@]##*/}"; do
    kind=all
    if [[ $name == crash-* ]]; then
        kind=crash
    fi
    [[ ${checked:-} == *" $kind "* ]] && continue
    simulate "$name" && checked+=" $kind " && continue
    cat "$copy/log"
    echo "the simulation fails without any bug" >&2
    exit 1
done
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    file=$(sed -n 's|^+++ b/||p' "$patch")
    if ! patch -d "$copy/sources" -p1 -s -F1 <"$patch"; then
        echo "$name: the patch does not apply" && bad=1
    elif simulate "$name"; then
        echo "$name: SURVIVED $seeds seeds" && bad=1
        rows+=("| $name | $(head -n 1 "$patch") | survived $seeds | |")
    elif ! found=$(grep -m1 -o '^seed [0-9]* (number [0-9]*): [^({[]*' "$copy/log"); then
        tail -n 20 "$copy/log"
        echo "$name: does not build" && bad=1
    else
        number=$(sed 's/.*(number \([0-9]*\)).*/\1/' <<<"$found")
        rows+=("| $name | $(head -n 1 "$patch") | $number | ${found#*: } |")
        echo "$name: caught by seed number $number: ${found#*: }"
    fi
    cp "$copy/pristine/$file" "$copy/sources/$file"
    rm -f "$copy/sources/$file.orig" "$copy/sources/$file.rej"
done
if (($# == 0)); then
    {
        echo "# Planted bugs"
        echo
        echo "Made by \`scripts/planted-bugs.sh\`, which plants one bug at a time and runs the simulation"
        echo "on seeds from 0 on. $(date +%F), commit $(git rev-parse --short HEAD)."
        echo
        echo "| patch | what it breaks | caught by seed number | how |"
        echo "|---|---|--:|---|"
        printf '%s\n' "${rows[@]}"
    } >docs/planted-bugs.md
fi
exit "$bad"
