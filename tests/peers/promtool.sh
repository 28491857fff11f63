#!/usr/bin/env bash
# Has promtool check a live scrape.
#
# usage: promtool.sh [DIRECTORY OF THE BINARIES]
#
# Fails on any error, and on any lint line but those that node_exporter's own names cause, which the list below names.
# Needs Debian's prometheus package and python3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Lint that comes with being a drop-in: the names are node_exporter's, and dashboards ask for them. A family and what
# is said of it, one a line.
accepted=(
    "node_(ipvs|memory|netstat|sockstat|xfrm|zfs)_[A-Za-z0-9_]+ metric names should be written in 'snake_case' not 'camelCase'"
    'node_entropy_(available|pool_size)_bits use base unit "bytes" instead of "bits"'
    # The kernel's names of sensors and batteries, which have their units in them.
    "node_(hwmon|power_supply)_[a-z0-9_]+ .*"
)

timeout 60 python3 "$here/launch.py" ${1:+--binaries "$1"} scrape >"$work/scrape"
families=$(grep -c '^# TYPE ' "$work/scrape")
samples=$(grep -vc '^#' "$work/scrape")

# Status 3 is lint alone.
status=0
timeout 60 promtool check metrics <"$work/scrape" >"$work/report" 2>&1 || status=$?
if [ "$status" != 0 ] && [ "$status" != 3 ]; then
    cat "$work/report" >&2
    echo "promtool: status $status: not a valid exposition" >&2
    exit 1
fi
printf '^%s$\n' "${accepted[@]}" >"$work/accepted"
if grep -Evf "$work/accepted" "$work/report" >"$work/left"; then
    cat "$work/left" >&2
    echo "promtool: lint that node_exporter's names do not cause" >&2
    exit 1
fi
echo "promtool: $samples samples of $families families are valid; $(wc -l <"$work/report") lint lines, all of node_exporter's names"
