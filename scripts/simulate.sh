#!/usr/bin/env bash
# Runs the deterministic simulation (src/broker/tests/simulation) over many seeds. A seed that fails
# is printed with a minimised history, to be pasted into regressions.rs.
#
#   scripts/simulate.sh [--seeds N] [--from SEED]     10,000 seeds from 0 on by default
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
seeds=10000
from=0
while (($#)); do
    case $1 in
    --seeds) seeds=${2:?a number} && shift 2 ;;
    --from) from=${2:?a seed} && shift 2 ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    esac
done
SIMULATE_SEEDS=$seeds SIMULATE_FROM=$from RUST_BACKTRACE=0 \
    cargo test --locked --lib simulation::every_seed -- --nocapture
