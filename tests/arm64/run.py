#!/usr/bin/env python3
"""Boots Debian's arm64 kernel under QEMU, and compares what Keyhole shows there with the same kernel on x86_64.

usage: run.py --programs DIR --node-exporter PATH [--beside DIR] [--work DIR] [--table PATH]
       run.py --again [--beside DIR] [--work DIR] [--table PATH]

  --programs DIR         the three programs for aarch64: tests/arm64/build DIR
  --node-exporter PATH   node_exporter 1.12.1 for arm64: GOARCH=arm64 CGO_ENABLED=0 go install github.com/prometheus/node_exporter@v1.12.1
  --beside DIR           results of the same kernel on x86_64: tests/kernels/boot.py --kernel 6.12 (target/kernels/results/6.12)
  --work DIR             where packages, images and results are kept (target/arm64-kernel)
  --table PATH           writes the table of this run: docs/arm64.md
  --again                judges the results of the last boot, and boots nothing

Exit status 1 when the programs do not start, a layer of the sandbox is not in force, a process outlives a system call that it may
not make, or anything differs that EXPECTED does not name. Needs Debian or a derivative, root, and the packages mmdebstrap,
qemu-system-arm, e2fsprogs, kmod and cpio.
"""
import argparse
import collections
import datetime
import json
import pathlib
import re
import sys
import textwrap

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "kernels"))
import boot  # noqa: E402
import guest  # noqa: E402
import table  # noqa: E402

NAME = "6.12"
# The machine of x86_64 as far as one of aarch64 has it. Pointers are signed by an algorithm that is cheap to emulate.
MACHINE = (" ".join(boot.MACHINE).replace("-machine q35", "-machine virt,gic-version=3").replace("-cpu max", "-cpu max,pauth-impdef=on")
           .replace("-device ipmi-bmc-sim,id=bmc -device isa-ipmi-kcs,bmc=bmc ", "")
           .replace("-device pvpanic ", "-device pvpanic-pci ")).split()
ARM64 = boot.Architecture(
    "arm64", ["qemu-system-aarch64", *MACHINE], "ttyAMA0", {NAME: ["linux-image-6.12.*+deb13-arm64"]}, [("", "trixie")],
    "trixie", True, "init.py", [HERE.parent / "kernels/guest.py", HERE / "init.py"])
# seccomp's lines in the kernel's log: EM_AARCH64, 64 bits, little endian; SIGSYS.
AUDIT_LINE = re.compile(r"type=1326 .*")
AUDIT = re.compile(r'comm="([^"]*)".* sig=31 arch=c00000b7 syscall=173 ')


class Expected(collections.namedtuple("Expected", "where pattern why")):
    """Families that only one architecture has ("amd64" or "arm64"), and why."""


EXPECTED = [
    Expected("amd64", r"node_dmi_info", "of SMBIOS, which is the firmware's. QEMU starts the arm64 kernel without firmware, with a device tree"),
    Expected("amd64", r"node_cooling_device_(cur|max)_state", "of type `Processor`: ACPI's driver makes them. Without firmware there is no ACPI"),
    Expected("amd64", r"node_memory_DirectMap\w+_bytes", "the code of the architecture writes these lines of `/proc/meminfo`; that of arm64 in this kernel writes none"),
    Expected("amd64", r"node_memory_(numa_Unaccepted|Unaccepted_bytes)", "`CONFIG_UNACCEPTED_MEMORY` is for guests of TDX and SEV-SNP"),
    Expected("amd64", r"node_watchdog_timeleft_seconds", "of `iTCO_wdt`, in the chipset of the machine `q35`. The watchdog of both machines, i6300ESB, does not show it"),
    Expected("arm64", r"node_memory_Cma(Free|Total)_bytes", "`CONFIG_CMA` is set in Debian's kernel for arm64 only"),
]


def families(path):
    return set(re.findall(r"^# TYPE (\S+) ", path.read_text(), re.MULTILINE))


def differences(ours, theirs):
    """Rows for the table: where, the families, why. And what is wrong with EXPECTED."""
    only = {"arm64": ours - theirs, "amd64": theirs - ours}
    rows, wrong = [], []
    for where, pattern, why in EXPECTED:
        found = {name for name in only[where] if re.fullmatch(pattern, name)}
        only[where] -= found
        if found:
            rows.append([where, ", ".join(f"`{name}`" for name in sorted(found)), why])
        else:
            wrong.append(f"EXPECTED: no family that only {where} has is called {pattern}: remove the row")
    wrong += [f"only {where} has the family {name}" for where, names in only.items() for name in sorted(names)]
    return rows, wrong


def layers(directory):
    """The value of each process' layers."""
    text = (directory / "first.prom").read_text()
    return dict(re.findall(r"^(keyhole_(?:broker|exporter)_sandbox_layer\{.*) (\S+)$", text, re.MULTILINE))


def judge(ours, theirs, directory, beside):
    """Everything that is wrong, and the table's rows of differences."""
    wrong = []
    for step in ("first", "seal"):
        if step not in ours["steps"] or "exception" in ours["steps"][step]:
            return [f"the step {step} did not end: {ours['steps'].get(step) or ours.get('exception')}"], []
    first, seal = ours["steps"]["first"], ours["steps"]["seal"]
    wrong += [f"{what} failed" for what in ("started", "probe", "query") if not first[what]]
    here, there = layers(directory), layers(beside)
    if not here:
        wrong.append("no layer of the sandbox is reported")
    for layer in sorted(here.keys() | there.keys()):
        if here.get(layer) != there.get(layer):
            wrong.append(f"{layer} is {here.get(layer)} on arm64, and {there.get(layer)} on amd64")
        # The kernel has it since 6.16.
        elif here[layer] != "1" and "passed_descriptors" not in layer:
            wrong.append(f"{layer} is {here[layer]} on both")
    left, _ = guest.sort(first["compare"], ours["release"])
    wrong += [f"beside node_exporter: {table.WHERE[where]} {key}: {value}" for where, keys in left.items() for key, value in keys.items()]
    if seal["control"] != "lives":
        wrong.append(f"a process without a filter does not outlive the call: {seal['control']}")
    for name, found in seal["processes"].items():
        if found != ["lives", "SIGSYS", True]:
            wrong.append(f"{name}: interrupted: {found[0]}; in a call that is in no list: {found[1]}; served again: {found[2]}")
    logged = sum(bool(AUDIT.search(line)) for line in seal["audit"])
    # The pids were given to the classes by their order: the broker says which class died.
    log = (directory / "logs/keyhole-broker.log").read_text()
    for name in seal["processes"]:
        if name.startswith("reader-") and not re.search(f"seccomp killed the reader.* reader={name[7:]}$", log, re.MULTILINE):
            wrong.append(f"the broker did not report that seccomp killed {name}")
    if logged != len(seal["processes"]):
        wrong.append(f"the kernel logged {logged} processes that seccomp killed in getppid, of {len(seal['processes'])}")
    rows, more = differences(families(directory / "first.prom"), families(beside / "first.prom"))
    return wrong + more, rows


HEAD = """<!-- Written by tests/arm64/run.py --table docs/arm64.md, after it has booted the kernel. -->

# arm64

`tests/arm64/build` builds the programs on x86_64 with Debian's cross compiler. `tests/arm64/run.py` boots Debian's arm64 kernel under QEMU,
starts them there with the uids of the systemd units, beside node_exporter 1.12.1 with the same {collectors} collectors, and compares with
the same kernel on x86_64. Last on {date}, on emulated CPUs.
"""
SEALED = """Each process is stopped in the system call that it waits in, with ptrace(2), and continued. Then it is stopped again and made to
call `getppid`, which is in no process' list. A process without a filter outlives that. The kernel kills each of Keyhole, and logs it, the
first as: `{audit}`. A reader is replaced by the zygote, all else is started again; the next scrape has the same
collectors as before."""


def render(ours, theirs, directory, beside, rows):
    first, seal = ours["steps"]["first"], ours["steps"]["seal"]
    head, title, text = HEAD.format(collectors=len(ours["collectors"]), date=datetime.date.today()).split("\n\n")
    text = f"{head}\n\n{title}\n\n" + table.fill(text)
    both = [(run, run["steps"]["first"], path) for run, path in ((ours, directory), (theirs, beside))]

    def row(what, of):
        return [what, *(of(*one) for one in both)]

    def unexplained(run, first, _):
        left, _ = guest.sort(first["compare"], run["release"])
        return " / ".join(str(len(left[where])) for where in table.WHERE)
    text += table.table(["what", "arm64", "amd64"], [
        row("kernel", lambda run, *_: f"`{run['release']}`"),
        row("Debian's package", lambda run, *_: re.search(r"Debian (\S+)", run["version"])[1]),
        row("programs", lambda run, first, _: f"{first['version'].splitlines()[0].split()[-1]} (commit {run['commit']})"),
        row("built with", lambda run, *_: run["built"]),
        row("first scrape after", lambda _, first, __: f"{first['seconds']} s"),
        row("samples", lambda _, first, __: first["compare"]["samples"]),
        row("families", lambda _, __, path: len(families(path / "first.prom"))),
        row("Landlock", lambda _, __, path: table.landlock(path)),
        row("differences from node_exporter: only it has / only Keyhole has / other values", unexplained),
    ])
    text += "\n" + table.fill("""The differences are those that [kernels.md](kernels.md#known-differences) does not name.""").rstrip("\n") + "\n"
    everywhere, lacking = table.layers({"layers": layers(directory).items()})
    names = lambda found: ", ".join(f"`{layer}`" for layer in found) or "nothing"
    text += "\n## Sandbox\n\n" + table.fill(f"""In force in all {len(seal['processes'])} processes, as on x86_64: {names(everywhere)}. Missing
        on both, since Linux {NAME} lacks it: {names(lacking)}.""")
    text += table.fill(SEALED.format(audit=re.sub(r"\s*(auid|ses|subj|exe|ip|compat)=\S+", "", AUDIT_LINE.search(seal["audit"][0])[0])))
    text += table.table(["process", "stopped and continued", "in `getppid`", "the next scrape"], [
        [name, found[0], f"killed by {found[1]}", "as before" if found[2] else "none"] for name, found in seal["processes"].items()])
    text += "\n## Families\n\n" + table.fill("""The families of the first scrape that only one of the two machines shows. The script fails
        where one has no row here.""")
    text += table.table(["only on", "families", "why"], rows)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path)
    parser.add_argument("--node-exporter", type=pathlib.Path)
    parser.add_argument("--beside", type=pathlib.Path, default=REPOSITORY / f"target/kernels/results/{NAME}")
    parser.add_argument("--work", type=pathlib.Path, default=REPOSITORY / "target/arm64-kernel")
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--mirror", default=boot.apt_mirror())
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.beside / "results.json").exists():
        sys.exit(f"run.py: error: {arguments.beside} has no results of x86_64: tests/kernels/boot.py --kernel {NAME} --steps first")
    arguments.work.mkdir(parents=True, exist_ok=True)
    directory = arguments.work / "results" / NAME
    if not arguments.again:
        if not arguments.programs or not arguments.node_exporter:
            sys.exit("run.py: error: --programs and --node-exporter are needed")
        arguments.steps = "first,seal"
        boot.boot(arguments, boot.Packages(arguments.work, arguments.mirror or boot.fail("which mirror? --mirror"), ARM64), NAME)
    ours, theirs = (json.loads((path / "results.json").read_text()) for path in (directory, arguments.beside))
    wrong, rows = judge(ours, theirs, directory, arguments.beside)
    for line in wrong:
        print(f"run.py: error: {line}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    if arguments.table:
        arguments.table.write_text(render(ours, theirs, directory, arguments.beside, rows))
    print(f"aarch64: {ours['release']} boots and is served, {len(ours['steps']['seal']['processes'])} processes sealed, "
          f"{len(rows)} named differences from x86_64; see {directory}")


if __name__ == "__main__":
    main()
