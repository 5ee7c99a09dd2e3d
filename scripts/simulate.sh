#!/usr/bin/env bash
# Runs the deterministic simulation (src/broker/tests/simulation) over many seeds, or with --crash
# that of crashes (src/broker/tests/crash). A seed that fails is printed with a minimised history, to
# be pasted into regressions.rs.
#
#   scripts/simulate.sh [--crash] [--seeds N] [--from SEED]     10,000 seeds from 0 on by default
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seeds=10000
from=0
test=simulation::every_seed
while (($#)); do
    case $1 in
    --crash) test=crash::every_crash && shift ;;
    --seeds) seeds=${2:?a number} && shift 2 ;;
    --from) from=${2:?a seed} && shift 2 ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    esac
done
export SIMULATE_SEEDS=$seeds SIMULATE_FROM=$from CRASH_SEEDS=$seeds CRASH_FROM=$from
RUST_BACKTRACE=0 \
    cargo test --locked --lib "$test" -- --nocapture
