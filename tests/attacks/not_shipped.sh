#!/usr/bin/env bash
# Asserts that no binary that ships holds hostile code, and that no build without debug assertions compiles with it.
# Usage: tests/attacks/not_shipped.sh DIRECTORY-OF-RELEASE-BINARIES, after the tests of keyhole-attacks were built.
set -euo pipefail
cd "$(dirname "$0")/../.."

die() {
    echo "not_shipped.sh: error: $*" >&2
    exit 1
}

marker='HOSTILE CODE FOR TESTS'
has_marker() { grep --quiet --binary-files=text --fixed-strings "$marker" "$1"; }

# What finds nothing anywhere would prove nothing.
for program in hostile-broker hostile-exporter hostile-reader; do
    has_marker "target/debug/$program" || die "target/debug/$program does not hold '$marker': this check is blind"
done
for program in keyhole-broker keyhole-reader keyhole-exporter; do
    [ -f "$1/$program" ] || die "$1/$program is missing: cargo build --release -p $program"
    ! has_marker "$1/$program" || die "$1/$program holds '$marker': it was built with hostile-code-for-tests"
done

for package in keyhole-broker keyhole-reader keyhole-exporter; do
    said=$(cargo check --locked --quiet --workspace --lib --features "$package/hostile-code-for-tests" \
        --config "profile.dev.package.keyhole-os.debug-assertions=false" 2>&1) &&
        die "$package: hostile-code-for-tests compiles without debug assertions"
    grep --quiet 'hostile code must never ship' <<<"$said" || die "$package: the build failed for another reason: $said"
done
