#!/bin/sh
# The init of a machine of another architecture, whose initramfs holds busybox and this: copies what node_exporter reads of
# /proc and /sys, and prints it on the console as a tar, gzip and base64 between BEGIN-TREE and END-TREE. So were
# trees/linux-6.1-{arm64,ppc64le,s390x} made; what is expected of them is what node_exporter has from the same files.
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs t /tmp
mkdir -p /sys/fs/cgroup; mount -t cgroup2 c /sys/fs/cgroup
ip link set lo up; ip link add dummy9 type dummy 2>/dev/null
hostname guest
cp1() { mkdir -p "/tmp/t/$(dirname $2)"; head -c 65536 "$1" > "/tmp/t/$2" 2>/dev/null || rm -f "/tmp/t/$2"; }
for f in cpuinfo stat meminfo vmstat loadavg interrupts softirqs schedstat buddyinfo zoneinfo diskstats mdstat swaps cgroups pressure/cpu pressure/io pressure/memory pressure/irq sys/fs/file-nr sys/kernel/random/entropy_avail sys/kernel/random/poolsize sys/kernel/threads-max sys/kernel/pid_max 1/mountinfo; do [ -r /proc/$f ] && cp1 /proc/$f proc/$f; done
for f in dev snmp snmp6 netstat sockstat sockstat6 softnet_stat udp udp6 tcp tcp6 arp route ipv6_route; do [ -r /proc/1/net/$f ] && cp1 /proc/1/net/$f proc/1/net/$f; done
for f in $(find -L /sys/class/net /sys/class/thermal /sys/class/hwmon /sys/class/power_supply /sys/class/watchdog /sys/class/dmi /sys/class/infiniband /sys/class/nvme /sys/class/fc_host -maxdepth 2 -type f 2>/dev/null; find -L /sys/class/net -maxdepth 3 -path '*statistics*' -type f; find /sys/devices/system/cpu /sys/devices/system/node /sys/devices/system/clocksource /sys/devices/system/edac -type f 2>/dev/null | grep -v 'cache/\|/power/\|uevent\|hugepages\|cpuidle'; find -L /sys/block -maxdepth 3 -name rotational); do [ -r $f ] && cp1 $f ${f#/}; done
cd /tmp/t; uname -a > uname.txt; tar cf - . | gzip -9 > /tmp/out.tgz
echo; echo BEGIN-TREE; base64 /tmp/out.tgz; echo END-TREE
sleep 3; echo o > /proc/sysrq-trigger; sleep 20; poweroff -f
