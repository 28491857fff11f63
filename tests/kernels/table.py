"""docs/kernels.md, of what boot.py brought back from each kernel."""
import datetime
import json
import re
import textwrap

import guest

HEAD = """<!-- Written by tests/kernels/boot.py --table docs/kernels.md, after it has booted every kernel. -->

# Kernels

Linux 5.10 and newer is supported. Debian's kernels are booted under QEMU with `tests/kernels/boot.py`, which starts the programs as the
systemd units do, beside node_exporter 1.12.1 with the same {collectors} collectors. Last on {date}; on a machine without KVM, so times are
those of an emulated CPU.

The machine has four CPUs on two NUMA nodes, two NVMe controllers and a subsystem, a SCSI disk, a CD drive, a USB stick, five network
interfaces of five drivers, PCIe bridges, a watchdog and a BMC.

`tests/old_kernels.rs` runs every program in CI under a filter that answers what Linux 5.10 lacks as it would; `tests/kernels/trees` holds
what these machines showed.
"""
MISSING = {
    "5.10": "no Landlock (5.13): a reader that opens files after its seal can open what file modes allow. Descriptors that a client passes are not refused (6.16) but closed",
    "6.1": "of Landlock, limits on truncating files (6.2), TCP (6.7), ioctl (6.10), signals and abstract sockets (6.12), path-based sockets (7.1). Descriptors that a client passes are not refused (6.16) but closed",
    "6.12": "of Landlock, path-based sockets (7.1). Descriptors that a client passes are not refused (6.16) but closed",
    "newest": "nothing",
}


def layers(found):
    """The layers that are in force everywhere, and those that are not, with the processes."""
    everywhere, lacking = set(), {}
    for labels, value in found["layers"]:
        process = re.search(r'process="([^"]*)"', labels)
        layer = re.search(r'layer="([^"]*)"', labels)[1]
        if value == "1":
            everywhere.add(layer)
        else:
            lacking.setdefault(layer, []).append(process[1] if process else "exporter")
    return sorted(everywhere - lacking.keys()), lacking


def landlock(folder):
    text = (folder / "logs/keyhole-broker.log").read_text(errors="replace")
    abi = re.search(r'layer=landlock detail="ABI (\d+)', text)
    return f"ABI {abi[1]}" if abi else "none"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def difference(found):
    return " / ".join(str(len(guest.undocumented(found[which]))) for which in ("only_there", "only_here", "values"))


def names(keys):
    return ", ".join(f"`{name}`" for name in sorted({re.split(r"[{]", key)[0] for key in keys}))


def render(results, kernels):
    start, sandbox, seen, hangs, remarks, collectors = [], [], [], [], [], 0
    for kernel in kernels:
        folder = results / kernel
        if not (folder / "results.json").exists():
            continue
        run = json.loads((folder / "results.json").read_text())
        collectors, steps = len(run["collectors"]), run["steps"]
        first, late, hang = steps["first"], steps.get("late", {}), steps.get("hang", {})
        start.append([f"`{run['release']}`", "yes" if first["started"] and first["probe"] and first["query"] else "no", f"{first['seconds']} s",
                      first["compare"]["samples"], difference(first["compare"])])
        everywhere, lacking = layers(first)
        sandbox.append([f"`{run['release']}`", landlock(folder), ", ".join(f"`{layer}`" for layer in everywhere),
                        "; ".join(f"`{layer}`: {'every process' if len(of) > 6 else ', '.join(of)}" for layer, of in lacking.items()) or "none"])
        if late.get("compare"):
            alone = [dict(one, missing=guest.undocumented(one["missing"])) for one in late.get("alone", []) if one["new"]]
            slow = max((one["seconds"] for one in late["alone"] if one["new"] and not one["missing"]), default=0)
            seen.append([f"`{run['release']}`", f"{sum(not one['missing'] for one in alone)} of {len(alone)}", f"{slow} s", late["compare"]["samples"],
                         difference(late["compare"])])
            for text, keys in (("only node_exporter has", late["compare"]["only_there"]), ("only Keyhole has", late["compare"]["only_here"]),
                               ("the values differ of", late["compare"]["values"])):
                keys = guest.undocumented(keys)
                if keys:
                    remarks.append(f"- `{run['release']}`: {text} {names(keys)}.")
        if hang.get("scrapes"):
            scrapes = hang["scrapes"]
            errors = {re.search(r'mountpoint="([^"]*)"', error)[1] for scrape in scrapes for error in scrape.get("errors", [])}
            hangs.append([f"`{run['release']}`", f"{sum(scrape.get('root_right', False) for scrape in scrapes)} of {len(scrapes)}",
                          ", ".join(f"`{mount}`" for mount in sorted(errors)), f"{max(scrape.get('seconds', 0) for scrape in scrapes)} s"])
    paragraphs = HEAD.format(date=datetime.date.today(), collectors=collectors).split("\n\n")
    text = "\n\n".join([paragraphs[0], *(textwrap.fill(paragraph, 100) for paragraph in paragraphs[1:])]) + "\n"
    text += "\n## Start\n\n" + fill("""The differences are series that only node_exporter has, only Keyhole has, and whose values differ in three
        rounds, without those that docs/compatibility.md lists.""")
    text += table(["kernel", "starts and answers", "first scrape after", "samples", "differences"], start)
    text += "\n## Sandbox\n\n" + table(["kernel", "Landlock", "in force in every process", "missing in"], sandbox)
    text += "\nWhat is missing:\n\n" + "".join(textwrap.fill(f"- {'the newest' if kernel == 'newest' else 'Linux ' + kernel}: {MISSING[kernel]}.", 100, subsequent_indent="  ") + "\n" for kernel in kernels)
    text += "\n## What appears after the start\n\n" + fill("""The broker runs with `--reopen-interval=5`. Then modules are loaded and devices
        made, one after the other: conntrack, synproxy, IPVS, the NFS client and server, interfaces of seven kinds, btrfs, XFS, device
        mapper, multipath, RAID 1 and 5, zram, a SCSI disk and a tape, a watchdog, hwmon, InfiniBand. Each has brought new series to
        node_exporter, and all of them to Keyhole, within the time in the third column (two machines ran
        at once on two loaded CPUs: of some the time is that of the scrapes). The routes that are missing are listed in
        docs/compatibility.md: the files of the kernel do not tell their source and protocol.""")
    text += table(["kernel", "seen", "slowest", "samples", "differences at the end"], seen)
    text += "\n" + "".join(textwrap.fill(remark, 100, subsequent_indent="  ") + "\n" for remark in remarks)
    text += "\n## File servers that stop\n\n" + fill("""An NFS server, mounted as version 3 and as 4.2, and a FUSE daemon stop. Ten scrapes
        follow; the column says in how many of them the root file system is right.""")
    return text + table(["kernel", "root right", "reported as not answering", "slowest scrape"], hangs)


def fill(text):
    return textwrap.fill(" ".join(text.split()), 100) + "\n\n"
