#!/usr/bin/env bash
# Captures this host for the golden test, with its names and addresses replaced.
#
#   cargo build && tests/golden/capture.sh [target/debug]
#
# Replaces tests/golden/host/tree and then the expected exposition. Read the difference before you commit it: what is
# private on one host is another's interface name.
set -euo pipefail
cd "$(dirname "$0")/../.."
binaries=$(realpath "${1:-target/debug}")
tree=tests/golden/host/tree

work=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true; rm -rf "$work"' EXIT
chmod 711 "$work"
cp "$binaries/keyhole-broker" "$binaries/keyhole-reader" "$work/"
mkdir "$work/socket"
as=()
if [ "$(id -u)" = 0 ]; then
    chown 64646:64646 "$work/socket"
    as=(setpriv --reuid 64646 --regid 64646 --clear-groups)
fi
udev=()
[ ! -d /run/udev/data ] || udev=(--path.udev.data=/run/udev/data)
"${as[@]}" "$work/keyhole-broker" --socket.path="$work/socket/b" --path.rootfs=/ --path.os-release=/etc/os-release \
    "${udev[@]}" --allow-uid="$(id -u)" --log.level=warn &
broker=$!
for _ in $(seq 100); do
    [ ! -S "$work/socket/b" ] || break
    sleep 0.1
done
NODE_NAME=node-1 timeout 60 "$binaries/keyhole-exporter" --broker.socket="$work/socket/b" capture "$work/tree" >/dev/null

# Mounts that say where this host runs, hardware addresses, serial numbers, a kernel's builder.
cd "$work/tree"
private='/mnt/|/home|/root|/media/|/var/lib/(docker|containers|kubelet)'
sed -i -E "\\#^([^ ]+ ){4}($private)#d" proc/1/mountinfo self/mountinfo
sed -i -E "\\#^[A-Z_]+\s($private)#d" keyhole/file-systems
sed -i -E 's/^([0-9]+\.[0-9]+\.[0-9]+).*/\1/' proc/sys/kernel/osrelease
echo '#1 SMP PREEMPT_DYNAMIC' >proc/sys/kernel/version
number=0
for address in sys/class/net/*/address; do
    number=$((number + 1))
    grep -q '^00:00:00:00:00:00$' "$address" || printf '02:00:00:00:00:%02x\n' "$number" >"$address"
done
sed -i -E 's/([0-9a-f]{2}:){5}[0-9a-f]{2}/02:00:00:00:00:ff/; s/^[0-9]+(\.[0-9]+){3} /192.0.2.1 /' proc/1/net/arp
sed -i -E 's/^f[de8-b][0-9a-f]{6}/fd000000/; s/^(.{8}).{24} /\1000000000000000000000001 /' proc/1/net/if_inet6
find . \( -name '*serial*' -o -name '*uuid*' -o -name '*asset_tag*' \) -type f -exec sh -c 'echo 0 >"$1"' _ {} \;
find . -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
cd - >/dev/null

rm -rf "$tree"
mkdir -p "$(dirname "$tree")"
cp -r "$work/tree" "$tree"
UPDATE_GOLDEN=1 cargo test -q --test golden a_real_host
git --no-pager diff --stat -- tests/golden
