"""Runs as init in the virtual machine that boot.py boots: starts Keyhole and node_exporter, and shows what each sees.

Each step has a time limit, and its findings are written to the last disk as soon as it has ended: a machine that hangs in a
later step has still reported the earlier ones.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import time
import typing
import urllib.error
import urllib.request

HOME, OUT, LOGS = pathlib.Path("/keyhole"), pathlib.Path("/out"), pathlib.Path("/out/logs")
BROKER, EXPORTER, PEER, PROCESSES = 64646, 64647, 64648, 64649
SOCKET = "/run/keyhole/broker.sock"
US, THERE, THERE_ROOT = "http://127.0.0.1:9100", "http://127.0.0.1:9101", "http://127.0.0.1:9102"
REOPEN_SECONDS = 5
SCRAPE_TIMEOUT = 10  # Prometheus' own, where file servers hang
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
# About the programs themselves.
IGNORED = re.compile(r"go_|process_|promhttp_|keyhole_|node_exporter_build_info|node_scrape_collector_duration_seconds")


class Known(typing.NamedTuple):
    """A difference that is right: where docs/compatibility.md lists it, or why the comparison itself makes it."""
    where: str  # "there": only node_exporter has it; "here": only Keyhole has it; "values": they differ
    pattern: str  # of the whole series, labels sorted by name
    row: str = ""  # words of docs/compatibility.md
    why: str = ""
    # What node_exporter gives, for "there"; node_exporter's and Keyhole's values, for "values".
    value: object = None
    ours: object = None  # Of a series that only node_exporter has, the one that Keyhole has in its place.
    before: tuple = (99,)  # on kernels before this one


def without(*labels, empty=True):
    """The series with these labels emptied or left out."""
    def change(key):
        for label in labels:
            key = re.sub(rf'([{{,]){label}="(?:[^"\\\\]|\\\\.)*",?', rf'\1{label}="",' if empty else r"\1", key)
        return re.sub(r",}$", "}", key)
    return change


MOVES = "moves between two reads"
KNOWN = [
    Known("there", r"node_pcidevice_(current|max)_link_(transfers_per_second|width)\{.*", "| `node_pcidevice_*` |", value={-1}),
    Known("there", r"node_pcidevice_sriov_(drivers_autoprobe|numvfs|totalvfs|vf_total_msix)\{.*", "| `node_pcidevice_*` |", value={0}),
    Known("there", r'node_nfsd?_requests_total\{.*proto="2"\}', "| `node_nfs_*`, `node_nfsd_*` |", value={0}),
    Known("there", r'node_nfsd_requests_total\{method="WdelegGetattr",proto="4"\}', "| `node_nfs_*`, `node_nfsd_*` |", value={0}),
    Known("there", r"node_btrfs_(commits|commit_seconds)_total\{.*|node_btrfs_(last|max)_commit_seconds\{.*",
          "| `node_btrfs_commits_total`, `node_btrfs_*commit_seconds*`", value={0}, before=(6, 0)),
    Known("there", r"node_btrfs_device_unused_bytes\{.*", "| `node_btrfs_device_unused_bytes` |"),
    Known("there", r"node_btrfs_device_errors_total\{.*", "| `node_btrfs_device_errors_total` |", value={0}, before=(5, 14)),
    Known("there", r"node_btrfs_device_errors_total\{.*", "| `node_btrfs_device_errors_total` |", ours=without("btrfs_dev_uuid")),
    Known("there", r"node_btrfs_device_size_bytes\{.*", "| `node_btrfs_device_size_bytes` |", ours=without("btrfs_dev_uuid", empty=False)),
    Known("there", r"node_network_route_info\{.*", "| `node_network_route_info` |", ours=without("proto", "src", "weight")),
    Known("here", r'node_cpu_online\{cpu="\d+"\}', "| `node_cpu_online` |"),
    Known("here", r"node_memory_(Balloon|FileHugePages|FilePmdMapped|GPU(Active|Reclaim)|Hugetlb|KReclaimable|SecPageTables|Unaccepted)_bytes",
          "| `node_memory_*` |"),
    Known("here", r"node_ksmd_general_profit_bytes", "| `node_ksmd_general_profit_bytes` |"),
    Known("here", r'node_scrape_collector_success\{collector="cgroup"\}', "- `keyhole_cgroup_*` (on by default)"),
    Known("there", r"node_mountstats_nfs_.*", "| `node_mountstats_*` at the access level `host` |"),
    Known("values", r"node_infiniband_lifespan_seconds\{.*", "| `node_infiniband_lifespan_seconds` |"),
    Known("values", r'node_scrape_collector_success\{collector="mountstats"\}', "| `node_mountstats_*` at the access level `host` |", value=(1, 0)),
    Known("here", r"node_nvme_(info|namespace_\w+)\{.*", "| `node_bcache_*`, `node_bcachefs_*`, `node_nvme_*` |", before=(6, 8)),
    Known("values", r'node_scrape_collector_success\{collector="nvme"\}', "| `node_bcache_*`, `node_bcachefs_*`, `node_nvme_*` |", value=(0, 1), before=(6, 8)),
    Known("values", r'node_tcp_connection_states\{state="[rt]x_queued_bytes"\}', "| `node_tcp_connection_states` of `rx_queued_bytes`"),
    Known("values", r"node_procs_running", why=MOVES),
    *[Known(where, r'node_processes_(state|threads_state)\{(thread_)?state="[DIRS]"\}', why=MOVES) for where in ("here", "values")],
    Known("values", r"node_sockstat_TCP_mem(_bytes)?", why="network traffic of the scrape itself"),
    Known("values", r"node_sockstat_sockets_used", why="node_exporter's own netlink sockets"),
]


def sort(compared, release):
    """The differences that nothing explains, and how many series each of KNOWN does."""
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    left = {where: dict(compared[where]) for where in ("here", "there", "values")}
    covered = [0] * len(KNOWN)
    for at, known in enumerate(KNOWN):
        if version >= known.before:
            continue
        for key, value in list(left[known.where].items()):
            if not re.fullmatch(known.pattern, key):
                continue
            if known.where == "there" and known.value and value not in known.value:
                continue
            if known.where == "values" and known.value and (value[0], value[1]) != known.value:
                continue
            if known.ours and left["here"].pop(known.ours(key), None) is None:
                continue
            del left[known.where][key]
            covered[at] += 1
    return left, covered


def expected(key, release):
    """The series that Keyhole should have where node_exporter has this one; None if it should have none."""
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    for known in KNOWN:
        if known.where == "there" and version < known.before and re.fullmatch(known.pattern, key):
            return known.ours(key) if known.ours else None
    return key


results = {"steps": {}}


def log(*words):
    print(f"[{time.monotonic():7.1f}]", *words, flush=True)


def sh(command, limit=60, **more):
    """Runs a line of shell; what it prints, or None if it failed."""
    try:
        done = subprocess.run(command, shell=True, timeout=limit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, **more)
    except subprocess.TimeoutExpired:
        log(f"took longer than {limit} s: {command}")
        return None
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        log(f"status {done.returncode}: {command}: {text.strip()[-300:]}")
        return None
    return text


def as_uid(uid, groups=(), gid=None):
    def change():
        os.setgroups(list(groups))
        os.setgid(uid if gid is None else gid)
        os.setuid(uid)
    return change


def start(name, uid, *arguments, groups=(), gid=None, program=None):
    log = open(LOGS / f"{name}.log", "ab")
    # A unit of systemd leaves root no capability either.
    without = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if uid == 0 and not program else []
    return subprocess.Popen([*without, HOME / (program or name), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                            preexec_fn=as_uid(uid, groups, gid), cwd="/")


def fetch(url, limit=60, scrape_timeout=50):
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": str(scrape_timeout)}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=limit) as answer:
        return answer.read().decode()


def wait(what, ready, limit=90):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            got = ready()
            if got:
                return got
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    log(f"gave up: {what}")
    return None


def timed(work):
    began = time.monotonic()
    return work(), round(time.monotonic() - began, 1)


def parse(text):
    """Samples by name and sorted labels, and types by name."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        match = SAMPLE.match(line)
        if match and not IGNORED.match(line):
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(LABEL.findall(match[2] or "")))
            samples[match[1] + (f"{{{labels}}}" if labels else "")] = float(match[3])
    return samples, types


def compare(peer=THERE, rounds=3, keep=None):
    """Our samples between two scrapes of node_exporter: a sample holds that held in one of the rounds."""
    wrong = here = there = types = None
    for _ in range(rounds):
        texts = [fetch(f"{url}/metrics") for url in (peer, US, peer)]
        (before, kinds), (ours, our_kinds), (after, _) = map(parse, texts)
        only_here, only_there = ours.keys() - before.keys() - after.keys(), (before.keys() & after.keys()) - ours.keys()
        unlike = {}
        for key in ours.keys() & before.keys() & after.keys():
            low, high = sorted((before[key], after[key]))
            slack = 0.02 * max(abs(low), abs(high))
            if not low - slack <= ours[key] <= high + slack and not (low != low and ours[key] != ours[key]):
                unlike[key] = (before[key], ours[key], after[key])
        here = only_here if here is None else here & only_here
        there = only_there if there is None else there & only_there
        wrong = unlike if wrong is None else {key: unlike[key] for key in wrong.keys() & unlike.keys()}
        types = {name: (kinds[name], kind) for name, kind in our_kinds.items() if kinds.get(name, kind) != kind}
    if keep:
        (OUT / f"{keep}.prom").write_text(texts[1])
        (OUT / f"{keep}.node_exporter.prom").write_text(texts[2])
    return {
        "samples": len(ours), "peer": len(after), "here": {key: ours[key] for key in sorted(here & ours.keys())},
        "there": {key: after[key] for key in sorted(there & after.keys())}, "values": wrong, "types": types,
    }


def line(compared):
    left, _ = sort(compared, os.uname().release)
    return {"samples": compared["samples"], "peer": compared["peer"], **{where: list(keys)[:4] if len(keys) < 5 else len(keys) for where, keys in left.items()},
            "types": compared["types"]}


class Keyhole:
    """Broker and exporter as the systemd units start them."""

    def __init__(self, *broker, uid=BROKER, groups=()):
        sh(f"rm -rf /run/keyhole; mkdir -m 750 /run/keyhole; chown {uid}:{BROKER} /run/keyhole")
        began = time.monotonic()
        self.broker = start("keyhole-broker", uid, f"--allow-uid={EXPORTER}", "--path.rootfs=/", "--path.os-release=/etc/os-release",
                            "--path.udev.data=/run/udev/data", f"--reopen-interval={REOPEN_SECONDS}", "--allow-processes", *broker, groups=groups, gid=BROKER)
        self.exporter = start("keyhole-exporter", EXPORTER, *[f"--collector.{name}" for name in COLLECTORS], "--scrape.detail",
                              "--web.listen-address=127.0.0.1:9100", groups=(BROKER,))
        def scraped():
            text = fetch(f"{US}/metrics")
            return text if "\nnode_load1 " in text else None
        self.first = wait("the first scrape", scraped)
        self.seconds = round(time.monotonic() - began, 1)

    def command(self, words, limit=60):
        return sh(f"{HOME}/keyhole-exporter {words}", limit, preexec_fn=as_uid(EXPORTER, (BROKER,)))

    def stop(self):
        for process in (self.exporter, self.broker):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def collectors():
    """Those that both programs have."""
    ours = set(re.findall(r"--(?:\[no-\])?collector\.(\w+) ", sh(f"{HOME}/keyhole-exporter --help-long")))
    peers = set(re.findall(r"--\[no-\]collector\.(\w+) ", sh(f"{HOME}/node_exporter --help 2>&1")))
    # processgroups is process-exporter's; sysctl, textfile need arguments.
    return sorted(ours & peers)


def peer(name, uid, port):
    return start(name, uid, f"--web.listen-address=127.0.0.1:{port}", *[f"--collector.{name}" for name in COLLECTORS],
                 program="node_exporter")


# ---- the steps ----

def first(keyhole):
    """Start, layers, a scrape and a capture."""
    found = {"seconds": keyhole.seconds, "started": bool(keyhole.first)}
    describe = wait("describe", lambda: keyhole.command("describe"))
    (OUT / "describe.txt").write_text(describe or "")
    print(describe, flush=True)
    found["layers"] = re.findall(r"^(keyhole_(?:broker|exporter)_sandbox_layer\{.*) (\S+)$", keyhole.first or "", re.MULTILINE)
    found["version"] = keyhole.command("--version")
    found["selinux"] = {url: re.findall(r"^node_selinux_.*", fetch(f"{url}/metrics"), re.MULTILINE) for url in (US, THERE)}
    found["probe"] = sh(f"{HOME}/keyhole-broker probe", preexec_fn=as_uid(BROKER)) is not None
    found["query"] = keyhole.command("query loadavg") is not None
    found["compare"] = compare(keep="first")
    found["compare_root"] = compare(THERE_ROOT, rounds=1, keep="root")
    capture("capture-first", keyhole)
    return found


def capture(name, keyhole):
    sh(f"mkdir -p /tmp/{name}; chown 64647 /tmp/{name}")
    flags = " ".join(f"--collector.{collector}" for collector in COLLECTORS)
    # 3: a part could not be read, as the capture says.
    keyhole.command(f"{flags} capture /tmp/{name}/tree || [ $? -eq 3 ]")
    sh(f"tar -C /tmp/{name} -czf /out/{name}.tar.gz tree", 120)
    replayed = keyhole.command(f"{flags} replay /tmp/{name}/tree 2>/tmp/{name}/log")
    (OUT / f"{name}.prom").write_text(replayed or "")


# What appears after the start, in groups: each line is run for itself, and may fail where the kernel lacks it.
LATE = """
modprobe nf_conntrack; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
modprobe nf_synproxy_core; modprobe xt_SYNPROXY; modprobe ipt_SYNPROXY
modprobe ip_vs; modprobe ip_vs_rr; ipvsadm -A -t 10.9.0.1:80 -s rr; ipvsadm -a -t 10.9.0.1:80 -r 10.9.0.2:80 -m; ipvsadm -A -f 7 -s rr; ipvsadm -a -f 7 -r 10.9.0.3 -m
modprobe sunrpc; modprobe nfs; modprobe nfsv3; modprobe nfsv4
modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd
modprobe dummy; ip link add dummy9 type dummy; ip link set dummy9 up; ip link set dummy9 alias 'an alias'
modprobe bonding; ip link add bond9 type bond; ip link add slave9 type dummy; ip link set slave9 master bond9; ip link set bond9 up
ip link add veth9 type veth peer name veth8; ip link set veth9 up
ip link add vlan9 link dummy9 type vlan id 9
ip link add vx9 type vxlan id 9 dstport 4789 dev dummy9
ip link add br9 type bridge; ip link set veth8 master br9; ip link set br9 up
ip addr add 10.9.0.5/24 dev dummy9; ip neigh add 10.9.0.77 lladdr 02:00:00:00:00:01 dev dummy9
ip route add blackhole 10.77.0.0/16; ip route add unreachable 10.78.0.0/16; ip -6 route add blackhole fd77::/64
ip xfrm state add src 10.9.0.5 dst 10.9.0.6 proto esp spi 9 mode transport enc 'cipher_null' ''
modprobe loop; truncate -s 200M /tmp/b1; truncate -s 200M /tmp/b2; mkfs.btrfs -q -L 'a label' /tmp/b1 && mkdir -p /mnt/btrfs && mount -o loop /tmp/b1 /mnt/btrfs
truncate -s 400M /tmp/x; mkfs.xfs -q /tmp/x && mkdir -p /mnt/xfs && mount -o loop /tmp/x /mnt/xfs && cp /bin/ls /mnt/xfs
modprobe dm_mod; modprobe null_blk nr_devices=3 gb=1; dmsetup create plain --table '0 8192 linear /dev/nullb0 0'
modprobe dm_multipath; dmsetup create many --table '0 8192 multipath 0 0 1 1 round-robin 0 1 1 /dev/nullb1 1'
modprobe raid1; truncate -s 40M /tmp/m1 /tmp/m2; losetup /dev/loop6 /tmp/m1; losetup /dev/loop7 /tmp/m2; mdadm --create /dev/md9 --run --metadata=1.2 --level=1 --raid-devices=2 --assume-clean /dev/loop6 /dev/loop7 && mdadm /dev/md9 --fail /dev/loop7
modprobe raid456; truncate -s 40M /tmp/m3 /tmp/m4 /tmp/m5; for n in 3 4 5; do losetup /dev/loop1$n /tmp/m$n; done; mdadm --create /dev/md8 --run --level=5 --raid-devices=3 /dev/loop13 /dev/loop14 /dev/loop15
modprobe zram; echo 32M >/sys/block/zram0/disksize; mkswap /dev/zram0 && swapon /dev/zram0
modprobe scsi_debug dev_size_mb=8 num_tgts=1
modprobe st; echo 1 > /sys/bus/pseudo/drivers/scsi_debug/ptype; echo 1 >/sys/bus/pseudo/drivers/scsi_debug/add_host
modprobe softdog
modprobe i2c-stub chip_addr=0x48,0x4c; modprobe lm75; modprobe lm90; for bus in /sys/bus/i2c/devices/i2c-*; do grep -q stub $bus/name && echo lm75 0x48 >$bus/new_device; done
modprobe rdma_rxe; rdma link add rxe9 type rxe netdev dummy9
modprobe tun; ip tuntap add tap9 mode tap
modprobe sctp; modprobe dccp; modprobe udplite
modprobe drivetemp; modprobe ipmi_si; modprobe ipmi_watchdog; modprobe pmt_telemetry; modprobe acpi_power_meter; modprobe ipmi_devintf
modprobe edac_core; modprobe skx_edac; modprobe i7core_edac
modprobe cxgb4; modprobe fcoe; modprobe libfcoe
modprobe xt_hashlimit; modprobe nft_ct; modprobe tls
modprobe bcache
echo 100 >/sys/kernel/mm/ksm/pages_to_scan; echo 1 >/sys/kernel/mm/ksm/run
echo 1 >/sys/devices/system/cpu/cpu3/online; echo 0 >/sys/devices/system/cpu/cpu3/online
"""


# Of these, how many lines are run alone, each followed by a look whether all that it brought is seen.
ALONE = 26


def late(keyhole):
    """What appears after the broker's start is seen soon after, each thing alone and then the rest."""
    release = os.uname().release
    found = {"failed": [], "before": line(compare(rounds=1)), "alone": [], "missing": []}
    lines = LATE.strip().split("\n")
    fetched = parse(fetch(f"{THERE}/metrics"))[0].keys()
    for command in lines[:ALONE]:
        if sh(command, 60) is None:
            found["failed"].append(command)
        sh("udevadm settle --timeout=10", 20)
        before, fetched = fetched, parse(fetch(f"{THERE}/metrics"))[0].keys()
        new, began, scrapes = {expected(key, release) for key in fetched - before} - {None}, time.monotonic(), []
        missing = new
        while missing and time.monotonic() < began + 4 * REOPEN_SECONDS:
            asked = time.monotonic()
            missing = new - parse(fetch(f"{US}/metrics"))[0].keys()
            scrapes.append(round(time.monotonic() - asked, 1))
            if missing:  # and node_exporter still has it: an interface's state before it is up is gone soon
                missing &= {expected(key, release) for key in parse(fetch(f"{THERE}/metrics"))[0]}
                time.sleep(1)
        took = round(time.monotonic() - began, 1)
        found["alone"].append({"command": command, "new": len(new), "missing": sorted(missing), "seconds": took, "scrapes": scrapes})
        log("late:", len(new), "new,", len(missing), "missing after", took, "s, scrapes of", scrapes, "s:", command[:80], sorted(missing)[:3])
    for command in lines[ALONE:]:
        if sh(command, 60) is None:
            found["failed"].append(command)
    sh("udevadm settle --timeout=30", 40)
    sh("ip link set br9 up; ip link set bond9 up; ip link set tap9 up")
    began = time.monotonic()
    for _ in range(10):
        now, _ = sort(compare(rounds=1), release)
        found["missing"].append((round(time.monotonic() - began, 1), len(now["there"]), len(now["here"])))
        log("late: seconds, only there, only here:", found["missing"][-1])
        if not now["there"] or len(found["missing"]) > 2 and found["missing"][-3][1] == found["missing"][-1][1]:
            break
        time.sleep(REOPEN_SECONDS)
    found["compare"] = compare(keep="late")
    found["compare_root"] = compare(THERE_ROOT, rounds=1, keep="late-root")
    (OUT / "late-describe.txt").write_text(keyhole.command("describe") or "")
    capture("capture-late", keyhole)
    return found


def hidepid(keyhole):
    """hidepid: the same host, and no processes to see; then with a group that is exempt."""
    found = {}
    for value, group in (("2", 0), ("1", 0), ("2", PROCESSES)):
        keyhole.stop()
        if sh(f"mount -o remount,hidepid={value},gid={group} /proc") is None:
            continue
        keyhole.__init__(groups=[group] if group else ())
        name = f"{value}-gid" if group else value
        found[name] = {
            "started": bool(keyhole.first), "compare": compare(THERE_ROOT if group else THERE, keep=f"hidepid-{name}"),
            "view": re.findall(r'proc_view="(\w+)"', keyhole.first or ""),
            "failed": re.findall(r'^node_scrape_collector_success{collector="(\w+)"} 0', keyhole.first or "", re.MULTILINE),
        }
        (OUT / f"hidepid-{name}.describe.txt").write_text(keyhole.command("describe") or "")
        log("hidepid:", name, found[name]["view"], found[name]["failed"], line(found[name]["compare"]))
    keyhole.stop()
    sh("mount -o remount,hidepid=0,gid=0 /proc")
    keyhole.__init__()
    return found


def hang(keyhole):
    """An NFS server and a FUSE daemon stop; the root file system is right in each of ten scrapes."""
    found = {"scrapes": []}
    sh("mkdir -p /srv/data /mnt/nfs3 /mnt/nfs4 /mnt/fuse /run/rpcbind /var/lib/nfs; mount -t tmpfs -o size=16M data /srv/data")
    sh("echo '/srv/data 127.0.0.1(rw,fsid=9,no_subtree_check,no_root_squash,insecure)' >/etc/exports; modprobe nfsd; mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd")
    sh("rpcbind -w; rpc.statd --no-notify; exportfs -ra; rpc.nfsd 4; rpc.mountd", 60)
    sh("mount -t nfs -o vers=3,nolock,tcp 127.0.0.1:/srv/data /mnt/nfs3", 40)
    sh("mount -t nfs -o vers=4.2 127.0.0.1:/srv/data /mnt/nfs4", 40)
    sh("ls /mnt/nfs3 /mnt/nfs4; echo hello >/mnt/nfs3/a; cat /mnt/nfs4/a; nfsstat -m", 30)
    sh("modprobe fuse")
    fuse = subprocess.Popen(["bindfs", "-f", "-o", "allow_other", "/srv/data", "/mnt/fuse"])
    wait("FUSE", lambda: os.path.ismount("/mnt/fuse"), 20)
    wait("mounts are seen", lambda: 'mountpoint="/mnt/nfs4"' in fetch(f"{US}/metrics"), 90)
    found["compare"] = compare(keep="mounts")
    capture("capture-mounts", keyhole)
    keyhole.stop()
    keyhole.__init__("--allow-root", uid=0)  # the access level root, which has mountstats too
    if keyhole.first:
        found["compare_root"] = compare(THERE_ROOT, keep="mounts-root")
        (OUT / "mounts-root.describe.txt").write_text(keyhole.command("describe") or "")
    keyhole.stop()
    keyhole.__init__()
    found["before"] = [timed(lambda: fetch(f"{US}/metrics"))[1] for _ in range(3)]
    fuse.send_signal(signal.SIGSTOP)
    sh("iptables -I INPUT -i lo -p tcp --dport 2049 -j DROP; iptables -I INPUT -i lo -p tcp --sport 2049 -j DROP; rpc.nfsd 0", 30)
    if os.fork() == 0:  # what holds the client's caches stale, so that statfs asks the server
        os.execvp("stat", ["stat", "-f", "/mnt/nfs3"])
    for at in range(10):
        began = time.monotonic()
        try:
            samples, _ = parse(fetch(f"{US}/metrics", scrape_timeout=SCRAPE_TIMEOUT))
            seconds = round(time.monotonic() - began, 1)
        except (OSError, urllib.error.URLError) as error:
            found["scrapes"].append({"error": str(error)})
            continue
        sizes = {key: value for key, value in samples.items() if key.startswith("node_filesystem_avail_bytes")}
        errors = [key for key, value in samples.items() if key.startswith("node_filesystem_device_error") and value]
        root = [value for key, value in sizes.items() if 'mountpoint="/"' in key]
        statfs = os.statvfs("/")
        true = statfs.f_bavail * statfs.f_frsize
        found["scrapes"].append({
            "seconds": seconds, "samples": len(samples), "mounts": len(sizes),
            "root_right": bool(root) and abs(root[0] - true) < 0.02 * true, "errors": errors,
            "failed": [key for key, value in samples.items() if key.startswith("node_scrape_collector_success") and not value],
        })
        log("hang:", json.dumps(found["scrapes"][-1])[:600])
        time.sleep(2)
    (OUT / "hang-describe.txt").write_text(keyhole.command("describe") or "")
    try:
        (OUT / "hang.prom").write_text(fetch(f"{US}/metrics"))
    except OSError as error:
        log(error)
    fuse.send_signal(signal.SIGCONT)
    return found


STEPS = {"first": first, "late": late, "hidepid": hidepid, "hang": hang}


def save():
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    sh("dmesg >/out/dmesg.txt")
    with open("/dev/vdd", "wb") as device, tarfile.open(fileobj=device, mode="w") as tar:
        tar.add(OUT, ".")
    os.sync()


def set_up():
    for command in """
        mount -t proc proc /proc
        mount -t sysfs sysfs /sys
        mount -t tmpfs tmpfs /run
        mount -t tmpfs tmpfs /tmp
        mkdir -p /dev/pts /dev/shm /out/logs /run/udev; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mount -t securityfs securityfs /sys/kernel/security
        mount -t selinuxfs selinuxfs /sys/fs/selinux
        mount -t tracefs tracefs /sys/kernel/tracing
        hostname guest; ip link set lo up
        chmod 755 /keyhole/*
        /lib/systemd/systemd-udevd --daemon; udevadm trigger --action=add --type=subsystems; udevadm trigger --action=add --type=devices; udevadm settle --timeout=300
        for link in $(ls /sys/class/net); do ip link set $link up; done
        echo '+cpu +memory +io +pids' >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p /sys/fs/cgroup/system.slice/one.service
    """.strip().split("\n"):
        sh(command.strip(), 330)


def main():
    global COLLECTORS
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    OUT.mkdir(exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    set_up()
    results["release"], results["version"] = os.uname().release, os.uname().version
    # Without these the machine has no hardware to show, whatever boot.py gives it.
    results["drivers"] = sorted({link.resolve().name for bus in ("pci", "scsi", "usb") for link in pathlib.Path("/sys/bus", bus).glob("devices/*/driver")})
    results["lsm"] = sh("cat /sys/kernel/security/lsm")
    log("up:", results["release"], results["lsm"], results["drivers"])
    COLLECTORS = collectors()
    results["collectors"] = COLLECTORS
    peer("peer", PEER, 9101)
    peer("peer-root", 0, 9102)
    keyhole = Keyhole()
    log("first scrape after", keyhole.seconds)
    for url in (THERE, THERE_ROOT):
        wait("node_exporter", lambda: fetch(f"{url}/metrics"))
    steps = re.search(r"steps=(\S+)", pathlib.Path("/proc/cmdline").read_text())[1]
    for name in STEPS if steps == "all" else steps.split(","):
        log("step", name)
        try:
            results["steps"][name] = STEPS[name](keyhole)
        except Exception as error:
            results["steps"][name] = {"exception": repr(error)}
            log(name, "ended with", repr(error))
        for compared in ("compare", "compare_root"):
            if compared in results["steps"][name]:
                log(name, compared, line(results["steps"][name][compared]))
        save()


def run():
    """What init does: everything, and then the machine is off."""
    try:
        main()
    except BaseException as error:
        log("ended with", repr(error))
        results["exception"] = repr(error)
    save()
    log("done")
    pathlib.Path("/proc/sysrq-trigger").write_text("o")
    time.sleep(60)
    sys.exit(1)


if __name__ == "__main__":
    run()
