#!/usr/bin/env bash
# Holds the exporter against node_exporter's own end-to-end test data.
#
# usage: conformance.sh CONFORMANCE_FOLDER [FOLDER OF THE BINARIES]
#
# CONFORMANCE_FOLDER holds tree.tar.gz, flags.txt, expected.prom and promdiff.py. The tree is replayed, and read by a
# broker for an exporter as well; both must give the same figure, and it may not fall below the number of samples in
# conformance.floor, which only rises. VERBOSE=1 lists every sample that differs. Needs python3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,9s/^# \?//p' "$0" >&2; exit 2; }
folder=$(cd "$1" && pwd)
binaries=$(cd "${2:-${KEYHOLE_BINARIES:-$here/../../target/release}}" && pwd)
exporter=$binaries/keyhole-exporter
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/tree"
tar -xzf "$folder/tree.tar.gz" -C "$work/tree"
# The broker's own uid reads it too.
chmod -R a+rX "$work"

# Flags that the exporter does not know are those of collectors that are not offered.
known=() unknown=()
while read -r flag; do
    [ -n "$flag" ] || continue
    flag=${flag//TREE/$work/tree}
    if "$exporter" "$flag" --version >/dev/null 2>"$work/said"; then
        known+=("$flag")
    else
        grep -q 'unknown flag' "$work/said" || { cat "$work/said" >&2; exit 1; }
        unknown+=("$flag")
    fi
done <"$folder/flags.txt"
for flag in "${unknown[@]}"; do
    echo "  not known: $flag"
done

timeout 60 "$exporter" "${known[@]}" --log.level=error replay "$work/tree" >"$work/replayed.prom"

forwarded=()
for flag in "${known[@]}"; do forwarded+=(--exporter="$flag"); done
timeout 120 python3 "$here/keyhole.py" --binaries "$binaries" --broker=--view=host \
    --broker=--path.procfs="$work/tree/proc" --broker=--path.sysfs="$work/tree/sys" \
    --broker=--path.udev.data="$work/tree/udev/data" --broker=--path.os-release="$work/tree/usr/lib/os-release" \
    --broker=--allow-processes \
    "${forwarded[@]}" --exporter=--log.level=info scrape >"$work/read.prom"

names=()
[ ! -f "$folder/../reference/metrics.tsv" ] || names=(--collectors "$folder/../reference/metrics.tsv")
compare() {
    # The figure is judged below; promdiff's own verdict is on a ratio.
    python3 "$folder/promdiff.py" exact "$folder/expected.prom" "$work/$1.prom" "${names[@]}" ${VERBOSE:+-v} --need 0 \
        >"$work/$1.report" 2>"$work/$1.complaints" || true
    [ ! -s "$work/$1.complaints" ] || { cat "$work/$1.complaints" >&2; exit 1; }
    sed -n -E 's!^matched ([0-9]+)/.*!\1!p' "$work/$1.report"
}
replayed=$(compare replayed)
read=$(compare read)
floor=$(grep -Ex '[0-9]+' "$here/conformance.floor")

sed 's/^/  /' "$work/replayed.report"
if [ "$replayed" != "$read" ]; then
    echo "conformance: replay matches $replayed samples and the broker's answer $read" >&2
    host() { grep '^node_' "$1" | grep -v '^node_\(exporter\|scrape_collector_duration\|time_seconds\)' | sort; }
    diff <(host "$work/replayed.prom") <(host "$work/read.prom") | head -40 >&2 || true
    exit 1
fi
if [ "$replayed" -lt "$floor" ]; then
    echo "conformance: $replayed samples match, and $floor did before" >&2
    exit 1
fi
if [ "$replayed" -gt "$floor" ]; then
    echo "  conformance.floor may rise from $floor to $replayed"
fi
echo "conformance: replayed and through the broker, $(tail -n 1 "$work/replayed.report")"
