#!/usr/bin/env bash
# Fuzzes one target for a while: scripts/fuzz.sh TARGET SECONDS [LIBFUZZER-OPTION...]
#
#   scripts/fuzz.sh --build            builds all targets and stops
#   scripts/fuzz.sh codec 60           fuzzes fuzz/targets/codec.rs for a minute
#
# Starts from the kept corpus (fuzz/corpus/TARGET), which stays as it is. What is found goes to
# $target/fuzz/work/TARGET: new inputs to corpus/, those that fail to artifacts/.
#
# Needs a C++ compiler, for libFuzzer, and no nightly toolchain: the coverage instrumentation is
# LLVM's, and is asked for with stable flags. FUZZ_SANITIZER=address adds AddressSanitizer.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
target="${CARGO_TARGET_DIR:-$root/target}/fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
sanitizer="${FUZZ_SANITIZER:-none}"

flags=(
    --cfg fuzzing
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    -Ccodegen-units=1
)
if [[ $sanitizer != none ]]; then
    # The sanitizers' runtimes come with every toolchain; only the switch is not stable.
    export RUSTC_BOOTSTRAP=1
    flags+=("-Zsanitizer=$sanitizer")
fi

build() {
    # With --target, build scripts and macros are spared the instrumentation.
    RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR="$target/$sanitizer" \
        cargo build --release --manifest-path fuzz/Cargo.toml --features libfuzzer \
        --bins --target "$host"
}

if [[ ${1:-} == --build ]]; then
    build
    exit
fi
name=${1:?a target: the name of a file in fuzz/targets}
seconds=${2:?for how many seconds}
shift 2
build
work="$target/work/$name"
dictionary=fuzz/mqtt.dict
[[ -f fuzz/$name.dict ]] && dictionary=fuzz/$name.dict
mkdir -p "$work/corpus" "$work/artifacts" "fuzz/corpus/$name"
exec "$target/$sanitizer/$host/release/$name" \
    -max_total_time="$seconds" -dict="$dictionary" -artifact_prefix="$work/artifacts/" \
    -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 "$@" "$work/corpus" "fuzz/corpus/$name"
