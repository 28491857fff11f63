#!/usr/bin/env bash
# Builds the fuzz targets on the stable toolchain and runs each for a while.
#
# usage: fuzz/run.sh [SECONDS [TARGET...]]        10 s each by default; all of them without a target
#        fuzz/run.sh fixed [TARGET...]             the same inputs each time: a fixed seed and number of inputs
#
# CI runs `fixed`, so that the same code has the same result; what is new is found by a run of hours with another seed.
# First comes what once fell (fuzz/regressions), then inputs made from fixture trees, then mutations of them. The
# trees are tests/golden/host and, where it lies beside the clone, node_exporter's own (../shared/conformance). What falls
# is kept in fuzz/artifacts/TARGET: fix it, add a test that says what was wrong, and move the input to fuzz/regressions.
# PROFILE=fuzz builds everything again, optimised, which pays for runs of more than some minutes; the default takes what
# the tests have built. JOBS targets run at once (2). Needs a C++ compiler.
set -euo pipefail
: "${PROFILE:=dev}"
cd "$(dirname "$0")/.."
seconds=${1:-10}
shift || true
# Inputs of a fixed run, seeds included: about two seconds of each target, as it is built by default.
declare -A inputs=([answer]=800 [archive]=2000 [broker_flags]=8000 [capture]=120 [collector]=6000 [exporter_flags]=400 [exposition]=500 [frames]=16000
    [go_regex]=2000 [mountinfo]=2000 [names]=5000 [pattern]=3000 [process_groups]=600 [query]=20000 [reader_arguments]=50000
    [text]=4000 [textfile]=800 [web_config]=4000)
all=(answer archive broker_flags capture collector exporter_flags exposition frames go_regex mountinfo names pattern process_groups query reader_arguments text textfile web_config)
targets=("$@")
[ $# -gt 0 ] || targets=("${all[@]}")
# The generic targets have most to find.
declare -A share=([collector]=4 [answer]=2)

built=target/${PROFILE/#dev/debug}
RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/instrument cargo build --locked --quiet --profile "$PROFILE" -p keyhole-fuzz --features libfuzzer --bins

corpus=target/fuzz/corpus
if [ "$seconds" = fixed ]; then
    # What earlier runs found is another beginning.
    corpus=target/fuzz/fixed
    rm -rf "$corpus"
fi
trees=(tests/golden/host/tree)
texts=(tests/golden/host/expected.prom)
if [ -f ../shared/conformance/tree.tar.gz ]; then
    mkdir -p target/fuzz/conformance
    tar -xzf ../shared/conformance/tree.tar.gz -C target/fuzz/conformance
    trees+=(target/fuzz/conformance)
    texts+=(../shared/conformance/expected.prom)
fi
"$built/seeds" "$corpus" "${trees[@]}" -- "${texts[@]}"

# one TARGET: what once fell, and then SECONDS of mutations.
one() {
    local target=$1 status=0 log time start amount words=()
    if [ "$seconds" = fixed ]; then
        time=300 amount=(-seed=1 -runs="${inputs[$target]:-1000}")
    else
        time=$((seconds * ${share[$target]:-1})) amount=(-max_total_time="$time")
    fi
    log=target/fuzz/$target.log
    start=$(date +%s)
    mkdir -p "fuzz/artifacts/$target" "$corpus/$target"
    case $target in collector | answer) words=(-dict="$corpus/paths.dict") ;; esac
    local common=(-timeout=10 -rss_limit_mb=2048 -artifact_prefix="fuzz/artifacts/$target/")
    {
        if compgen -G "fuzz/regressions/$target/*" >/dev/null; then
            timeout 60 "$built/$target" "${common[@]}" fuzz/regressions/"$target"/* || status=$?
        fi
        if [ "$status" = 0 ]; then
            # Longer than its limit is a hang of the fuzzer itself.
            timeout --kill-after=10 $((time + 120)) "$built/$target" "${common[@]}" "${words[@]}" -max_len=32768 \
                "${amount[@]}" -print_final_stats=1 "$corpus/$target" || status=$?
        fi
    } >"$log" 2>&1 </dev/null
    if [ "$status" != 0 ]; then
        echo "fuzz/run.sh: $target fell (status $status); the end of $log:" >&2
        tail -n 25 "$log" >&2
        return 1
    fi
    local runs
    time=$(($(date +%s) - start))
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    # A target that runs nothing finds nothing.
    [ "${runs:-0}" -gt 5 ] || { echo "fuzz/run.sh: $target ran ${runs:-0} inputs in $time s" >&2; return 1; }
    printf '  %-16s %9d inputs in %d s\n' "$target" "$runs" "$time"
}

failed=0 running=0
for target in "${targets[@]}"; do
    [ -x "$built/$target" ] || { echo "fuzz/run.sh: no target $target" >&2; exit 2; }
    if [ "$running" -ge "${JOBS:-2}" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    one "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
