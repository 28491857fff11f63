#!/usr/bin/env bash
# Boots systemd as PID 1 of the namespaces it is started in, with keyhole's units and no others. Called by units.py:
#
#     unshare --mount --pid --fork --kill-child --ipc --uts --net --cgroup --mount-proc boot.sh DIRECTORY
#
# DIRECTORY holds the programs (bin), accounts (etc), units (units) and what /etc/default is to hold (default).
set -euo pipefail
directory=$1
mount --make-rprivate /
# A /sys of this network, with the cgroups that systemd wants: version 2, or its own hierarchy beside it.
mount -t sysfs sysfs /sys
if [ -e "$directory/unified" ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/unified /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/udev/data
# File systems that differ in their sizes: one where ProtectHome= would hide it.
mount -t tmpfs -o size=12m tmpfs /home
mount -t overlay -o "lowerdir=$directory/bin:/usr/bin" overlay /usr/bin
mount --bind "$directory/etc/passwd" /etc/passwd
mount --bind "$directory/etc/group" /etc/group
mount -t overlay -o "lowerdir=$directory/default:/etc/default" overlay /etc/default
ip link set lo up
ip link add keyhole0 type veth peer name keyhole1
export SYSTEMD_UNIT_PATH=$directory/units container=keyhole-test
exec /lib/systemd/systemd --system --log-target=null
