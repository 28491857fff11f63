"""docs/kernels.md, of what boot.py brought back from each kernel.

A boot whose later steps were lost may be given the step `hang` of another one. That step then says in "boot" which boot it is of, and so
does the page.
"""
import collections
import datetime
import json
import pathlib
import re
import textwrap

import guest

HERE = pathlib.Path(__file__).resolve().parent
HEAD = """<!-- Written by tests/kernels/boot.py --table docs/kernels.md, after it has booted every kernel. -->

# Kernels

Linux 5.10 and newer is supported. Debian's kernels{candidates} are booted under QEMU with `tests/kernels/boot.py`, which starts the programs with the
uids of the systemd units, in the host's namespaces, beside node_exporter 1.12.1 with the same {collectors} collectors and under an ordinary uid too. Last on {date} with
{programs}; on a machine without KVM, so times are those of an emulated CPU.

The machine has four CPUs on two NUMA nodes, two NVMe controllers and a subsystem, a SCSI disk, a CD drive, a USB stick, five network
interfaces, PCIe bridges, a watchdog and a BMC. These drivers are bound to devices of PCI, SCSI and USB: {drivers}. SELinux is on and has
no policy.

`tests/old_kernels.rs` runs every program in CI under a filter that answers what Linux 5.10 lacks as it would; `tests/kernels/trees` holds
what these machines showed.
"""
MISSING = {
    "5.10": "no Landlock (5.13): a reader that opens files in its sandbox can open what file modes allow. Descriptors that a client passes are not refused (6.16) but closed",
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


def landlock(directory):
    text = (directory / "logs/keyhole-broker.log").read_text(errors="replace")
    abi = re.search(r'layer=landlock detail="ABI (\d+)', text)
    return f"ABI {abi[1]}" if abi else "none"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


WHERE = {"there": "only node_exporter has", "here": "only Keyhole has", "values": "the values differ of"}


class Differences:
    """What nothing explains, of every comparison, and how many series each of guest.KNOWN does on each kernel."""

    def __init__(self):
        self.remarks, self.covered = [], {}

    def of(self, release, when, compared):
        left, covered = guest.sort(compared, release)
        so_far = self.covered.setdefault(release, [0] * len(covered))
        self.covered[release] = [max(pair) for pair in zip(so_far, covered)]
        for where, keys in left.items():
            if keys:
                self.remarks.append(f"- `{release}`, {when}: {WHERE[where]} {names(keys)}.")
        return " / ".join(str(len(left[where])) for where in WHERE)

    def known(self):
        """Rows for docs/kernels.md. One that covers nothing is none."""
        compatibility = (HERE.parent.parent / "docs/compatibility.md").read_text()
        for at, known in enumerate(guest.KNOWN):
            if known.row and known.row not in compatibility:
                raise SystemExit(f"table.py: error: docs/compatibility.md no longer says {known.row}")
            counts = [covered[at] for covered in self.covered.values()]
            if any(counts):
                pattern = re.sub(r"\\([{}])", r"\1", known.pattern).replace("|", "\\|")
                kernels = "" if known.before[0] == 99 else f"; before Linux {'.'.join(map(str, known.before))}"
                labels = "; Keyhole has them with other labels" if known.ours else ""
                yield [f"`{pattern}`", WHERE[known.where], (known.row.strip("-| ") or known.why) + kernels + labels, *counts]
            else:
                print(f"boot.py: {known.where} {known.pattern}: nothing is so any more: remove it from guest.KNOWN")


def families(keys):
    """What their names begin with: node_filesystem_."""
    return {re.match(r"node_[a-z0-9]+_?", key)[0] for key in keys}


def names(keys):
    return ", ".join(f"`{name}`" for name in sorted({re.split(r"[{]", key)[0] for key in keys}))


def hung(scrapes):
    """Each mount that was not read, with what is said of it, in how many scrapes."""
    said = collections.Counter()
    for scrape in scrapes:
        for error in scrape.get("errors", []):
            said[re.search(r'mountpoint="([^"]*)"', error)[1], re.search(r'device_error="([^"]*)"', error)[1]] += 1
    return "; ".join(f"`{mount}`: {error} ({times})" for (mount, error), times in sorted(said.items()))


def render(results, kernels):
    start, sandbox, seen, hidden, whole, hangs, differences, collectors, programs = [], [], [], [], [], [], Differences(), 0, set()
    packages, elsewhere = {}, {}
    drivers = {}
    for kernel in kernels:
        directory = results / kernel
        if not (directory / "results.json").exists():
            continue
        run = json.loads((directory / "results.json").read_text())
        collectors, steps, release = len(run["collectors"]), run["steps"], f"`{run['release']}`"
        first, late, hang = steps["first"], steps.get("late", {}), steps.get("hang", {})
        packages[release] = re.search(r"Debian (\S+)", run["version"])[1]
        for driver in run["drivers"]:
            drivers.setdefault(driver, []).append(release)
        programs.add(f"{first['version'].split(chr(10))[0]} (commit {run['commit']})")
        start.append([release, packages[release], "yes" if first["started"] and first["probe"] and first["query"] else "no", f"{first['seconds']} s",
                      first["compare"]["samples"], differences.of(run["release"], "after the start", first["compare"]),
                      " / ".join(", ".join(line.split()[-1] for line in lines) or "none" for lines in first["selinux"].values())])
        everywhere, lacking = layers(first)
        sandbox.append([release, landlock(directory), ", ".join(f"`{layer}`" for layer in everywhere),
                        "; ".join(f"`{layer}`: {'every process' if len(of) > 6 else ', '.join(of)}" for layer, of in lacking.items()) or "none"])
        if late.get("compare"):
            # A state that node_exporter itself no longer has was of that moment, as an interface's before it is up.
            stayed = guest.parse((directory / "late.node_exporter.prom").read_text())[0].keys()
            stayed = {guest.expected(key, run["release"]) for key in stayed}
            alone = [dict(one, missing=[key for key in one["missing"] if key in stayed]) for one in late["alone"] if one["new"]]
            slow = max((one for one in late["alone"] if one["new"] and not one["missing"]), key=lambda one: one["seconds"])
            seen.append([release, f"{sum(not one['missing'] for one in alone)} of {len(alone)}", f"{slow['seconds']} s", len(slow["scrapes"]),
                         f"{max(slow['scrapes'])} s", late["compare"]["samples"],
                         differences.of(run["release"], "after all has appeared", late["compare"])])
            for one in alone:
                if one["missing"]:
                    differences.remarks.append(f"- {release}: not seen after `{one['command']}`: {names(one['missing'])}.")
        failing = set(re.findall(r'^node_scrape_collector_success{collector="(\w+)"} 0', (directory / "first.prom").read_text(), re.MULTILINE))
        for options, found in steps.get("hidepid", {}).items():
            left, _ = guest.sort(found["compare"], run["release"])
            of_root = first["compare_root"]["there"] if "gid" in options else {}
            gone = families(left["there"]) - families(of_root)
            hidden.append([release, f"`hidepid={options.replace('-gid', ',gid=')}`", ", ".join(sorted(set(found["view"]))), found["compare"]["samples"],
                           ", ".join(f"`{name}`" for name in found["failed"] if name not in failing) or "none",
                           ", ".join(sorted(f"`{name}*`" for name in gone)) or "none",
                           ", ".join(sorted(f"`{name}*`" for name in families(left["here"]) - families(first["compare_root"]["here"]))) or "none"])
        if hang.get("scrapes"):
            scrapes = hang["scrapes"]
            if "boot" in hang:
                elsewhere.setdefault(hang["boot"], []).append(release)
            hangs.append([release, f"{sum(scrape.get('root_right', False) for scrape in scrapes)} of {len(scrapes)}", hung(scrapes),
                          f"{max(hang['before'])} s", f"{scrapes[0].get('seconds')} s", f"{max(scrape.get('seconds', 0) for scrape in scrapes[1:])} s"])
            differences.of(run["release"], "with the file servers", hang["compare"])
        if hang.get("compare_root"):
            whole.append([release, hang["compare_root"]["samples"], differences.of(run["release"], "as root", hang["compare_root"])])
    kinds = max(map(len, drivers.values()))
    drivers = ", ".join(f"`{name}`" + ("" if len(of) == kinds else f" (only on {', '.join(of)})") for name, of in sorted(drivers.items()))
    candidates = [f"{release} is a release candidate" for release, package in packages.items() if "~rc" in package]
    candidates = f" ({', '.join(candidates)})" if candidates else ""
    paragraphs = HEAD.format(drivers=drivers, candidates=candidates, date=datetime.date.today(), collectors=collectors, programs=" and ".join(sorted(programs))).split("\n\n")
    text = "\n\n".join([paragraphs[0], *(textwrap.fill(paragraph, 100, break_on_hyphens=False) for paragraph in paragraphs[1:])]) + "\n"
    text += "\n## Start\n\n" + fill("""The differences are series that only node_exporter has, only Keyhole has, and whose values differ in three
        rounds, without those that are [known](#known-differences). The last column is what both programs say of SELinux, Keyhole first.""")
    text += table(["kernel", "Debian's package", "starts and answers", "first scrape after", "samples", "differences", "SELinux enabled"], start)
    text += "\n## Sandbox\n\n" + table(["kernel", "Landlock", "in force in every process", "missing in"], sandbox)
    text += "\nWhat is missing:\n\n" + "".join(textwrap.fill(f"- {'the newest' if kernel == 'newest' else 'Linux ' + kernel}: {MISSING[kernel]}.", 100, subsequent_indent="  ") + "\n" for kernel in kernels)
    text += "\n## What appears after the start\n\n" + fill("""The broker runs with `--reopen-interval=5`. Then modules are loaded and devices
        made, one after the other: conntrack, synproxy, IPVS, the NFS client and server, interfaces of seven kinds, btrfs, XFS, device
        mapper, multipath, RAID 1 and 5, zram, a SCSI disk and a tape, a watchdog, hwmon, InfiniBand. The second column has the number of
        steps that brought new series to node_exporter, and before it of how many of them Keyhole has all series too; then, of the step
        that took longest, the time from node_exporter's scrape, how many scrapes it needed and the longest of these.""")
    text += table(["kernel", "seen", "slowest", "in scrapes", "of up to", "samples", "differences at the end"], seen)
    text += "\n## Processes that are hidden\n\n" + fill("""Keyhole is started again with a `/proc` that hides processes; with `gid=`, the
        broker is a member of the group. The comparison is with node_exporter under an ordinary uid, and with that of root where the group is
        given. Of processes that are hidden node_exporter counts its own; with `hidepid=1` its file systems fail.""")
    text += table(["kernel", "`/proc`", "`proc_view`", "samples", "collectors that fail beside those at the start", "only node_exporter has", "only Keyhole has"], hidden)
    text += "\n## File servers that stop\n\n" + fill(f"""An NFS server, mounted as version 3 and as 4.2, and a FUSE daemon stop. Ten scrapes
        with a timeout of {guest.SCRAPE_TIMEOUT} s follow; the second column says in how many of them the root file system is right, the third
        what `device_error` says of which mount, in how many scrapes. The fourth is the longest of three scrapes before they stop.""")
    text += table(["kernel", "root right", "not answering", "before", "first scrape", "slowest of the others"], hangs)
    for boot, releases in elsewhere.items():
        rows = "rows of " + " and ".join(releases) + " are" if len(releases) > 1 else f"row of {releases[0]} is"
        text += "\n" + fill(f"The {rows} of {boot}, not of the boot that the other tables show.").rstrip("\n") + "\n"
    text += "\n## The access level `root`\n\n" + fill("""The broker runs as root, beside a node_exporter of root, with those file
        servers mounted: `mountstats`, `slabinfo` and serial numbers are compared too.""")
    text += table(["kernel", "samples", "differences"], whole)
    text += "\n## Differences that nothing explains\n\n" + ("".join(textwrap.fill(remark, 100, subsequent_indent="  ") + "\n" for remark in differences.remarks) or "None.\n")
    text += "\n## Known differences\n\n" + fill("""What the comparisons leave out, each with the row of
        [compatibility.md](compatibility.md) that lists it or the reason that lies in the comparison itself, and the most series that it
        stood for at once on each kernel.""")
    return text + table(["series", "side", "row, or reason", *(f"`{release}`" for release in differences.covered)], differences.known())


def fill(text):
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False) + "\n\n"
