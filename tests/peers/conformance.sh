#!/usr/bin/env bash
# Holds the exporter against node_exporter's own end-to-end test data.
#
# usage: conformance.sh CONFORMANCE_DIRECTORY [DIRECTORY OF THE BINARIES]
#
# CONFORMANCE_DIRECTORY holds tree.tar.gz, flags.txt, expected.prom and promdiff.py. The tree is replayed, and read by a
# broker for an exporter as well; both must give the same figure, and it may not fall below the number of samples in
# conformance.floor, which only rises. What differs must be what conformance.differs lists, no more and no less; the
# reasons stand in docs/compatibility.md. VERBOSE=1 lists every sample that differs. Needs python3.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,10s/^# \?//p' "$0" >&2; exit 2; }
directory=$(cd "$1" && pwd)
binaries=$(cd "${2:-${KEYHOLE_BINARIES:-$here/../../target/release}}" && pwd)
exporter=$binaries/keyhole-exporter
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The tree's name stands in node_exporter's own label of an energy zone's path.
tree=$work/conformance
mkdir "$tree"
tar -xzf "$directory/tree.tar.gz" -C "$tree"
# The broker's own uid reads it too.
chmod -R a+rX "$work"

# Flags that the exporter does not know are those of unsupported collectors.
known=() unknown=()
while read -r flag; do
    [ -n "$flag" ] || continue
    case $flag in
    --path.sysfs=*) flag=${flag//TREE/conformance} ;;
    *) flag=${flag//TREE/$tree} ;;
    esac
    if "$exporter" "$flag" --version >/dev/null 2>"$work/said"; then
        known+=("$flag")
    else
        grep -q 'unknown flag' "$work/said" || { cat "$work/said" >&2; exit 1; }
        unknown+=("$flag")
    fi
done <"$directory/flags.txt"
for flag in "${unknown[@]}"; do
    echo "  not known: $flag"
done

timeout 60 "$exporter" "${known[@]}" --log.level=error replay "$tree" >"$work/replayed.prom"

forwarded=()
for flag in "${known[@]}"; do forwarded+=(--exporter="$flag"); done
timeout 120 python3 "$here/launch.py" --binaries "$binaries" --broker=--view=host \
    --broker=--path.procfs="$tree/proc" --broker=--path.sysfs="$tree/sys" \
    --broker=--path.udev.data="$tree/udev/data" --broker=--path.os-release="$tree/usr/lib/os-release" \
    --broker=--allow-processes \
    "${forwarded[@]}" --exporter=--log.level=info scrape >"$work/read.prom"

names=()
[ ! -f "$directory/../reference/metrics.tsv" ] || names=(--collectors "$directory/../reference/metrics.tsv")
compare() {
    # The figure is judged below; promdiff's own verdict is on a ratio.
    python3 "$directory/promdiff.py" exact "$directory/expected.prom" "$work/$1.prom" "${names[@]}" -v --need 0 \
        >"$work/$1.report" 2>"$work/$1.complaints" || true
    [ ! -s "$work/$1.complaints" ] || { cat "$work/$1.complaints" >&2; exit 1; }
    sed -n -E 's!^matched ([0-9]+)/.*!\1!p' "$work/$1.report"
}
replayed=$(compare replayed)
read=$(compare read)
floor=$(grep -Ex '[0-9]+' "$here/conformance.floor")

differing() { sed -n -E 's/^  (missing|value|type): (.*) want .*/\2/p' "$work/$1.report" | sort; }
if [ -n "${VERBOSE:-}" ]; then
    sed 's/^/  /' "$work/replayed.report"
else
    # Collectors that fall short, and the figure.
    grep -v '^  ' "$work/replayed.report" | awk -F'[ /]' '$2 != $3' | sed 's/^/  /'
fi
if [ "$replayed" != "$read" ]; then
    echo "conformance: replay matches $replayed samples and the broker's answer $read" >&2
    host() { grep '^node_' "$1" | grep -v '^node_\(exporter\|scrape_collector_duration\|time_seconds\)' | sort; }
    diff <(host "$work/replayed.prom") <(host "$work/read.prom") | head -40 >&2 || true
    exit 1
fi
if ! diff <(sort "$here/conformance.differs") <(differing replayed) >"$work/differs"; then
    echo "conformance: what differs is not what conformance.differs lists (< listed, > found):" >&2
    cat "$work/differs" >&2
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
