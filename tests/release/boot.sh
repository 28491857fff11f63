#!/usr/bin/env bash
# Boots the systemd of a Debian in a directory, as PID 1 of the namespaces it is started in. Called by machine.py:
#
#     unshare --mount --pid --fork --kill-child --ipc --uts --net --cgroup boot.sh ROOT
#
# ROOT is a mount of its own.
set -euo pipefail
root=$1
mount --make-rprivate /
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
mount -t tmpfs -o mode=755 tmpfs run
# udev's data, which the broker's unit names: a minimal Debian has no udev.
mkdir -p run/lock run/udev/data
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ip link set lo up
# What is outside of the directory is gone for all that runs inside.
pivot_root . mnt
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=keyhole-test \
    /bin/sh -c 'umount --lazy /mnt && exec /lib/systemd/systemd --system --log-target=null'
