#!/usr/bin/env python3
"""Boots Debian's kernels under QEMU and shows there what Keyhole does, beside node_exporter.

usage: boot.py --programs DIR --node-exporter PATH [--kernel NAME]... [--steps STEP,...] [--work DIR] [--table PATH]

  --programs DIR         the three programs, static: deploy/images/build.sh programs DIR
  --node-exporter PATH   node_exporter 1.12.1, static: CGO_ENABLED=0 go install github.com/prometheus/node_exporter@v1.12.1
  --kernel NAME          one of KERNELS, repeatable; all of them unless said
  --steps STEP,...       what guest.py shows, in this order; all of it unless said
  --work DIR             where packages, images and results are kept (target/kernels)
  --table PATH           writes the table of the last results of every kernel: docs/kernels.md

It stands alone: CI has no time for it. It needs Debian or a derivative, root, and the packages mmdebstrap,
qemu-system-x86, busybox-static, e2fsprogs, kmod and cpio. KVM is not needed: a boot takes some minutes without it.
Kernels come from the mirror that this machine's apt uses (or --mirror), by an apt configuration of their own.

The machine has four CPUs on two NUMA nodes, and disks, network interfaces, a watchdog, a BMC and bridges of several
kinds. guest.py is its init; what it finds comes back as results/KERNEL/ with results.json in it.
"""
import argparse
import json
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import typing

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

# Name, and the packages with the kernel, of which the first that the mirror has is taken; * stands for the build's number.
KERNELS = {
    "5.10": ["linux-image-5.10.0-*-amd64"],
    "6.1": ["linux-image-6.1.0-*-amd64"],
    "6.12": ["linux-image-6.12.*+deb13-amd64"],
    "newest": ["linux-image-[7-9].*-amd64"],
}
SUITES = [
    ("", "bullseye"), ("-security", "bullseye-security"), ("", "bookworm"), ("", "trixie"), ("", "sid"),
    ("", "experimental"),
]
PACKAGES = (
    "bindfs,btrfs-progs,dmsetup,e2fsprogs,fuse3,iproute2,iptables,ipvsadm,kmod,mdadm,nfs-common,nfs-kernel-server,procps,"
    "python3,rpcbind,udev,util-linux,xfsprogs"
)
# What Debian installs everywhere, and what its packages' scripts would do: of packages that are only unpacked.
BASE = "base-files,base-passwd,bash,coreutils,dash,findutils,grep,gzip,hostname,mount,sed,tar"
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "usr/bin/sh": "dash", "etc/mtab": "../proc/self/mounts"}
# What the guest never loads, to keep the image small.
UNUSED_MODULES = ["drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/staging", "sound", "drivers/iio"]
BOOT_TIMEOUT = 1500
MACHINE = """
-accel tcg,thread=multi -machine q35 -cpu max -m 2048 -smp 4,sockets=2
-object memory-backend-ram,id=memory0,size=1G -object memory-backend-ram,id=memory1,size=1G
-numa node,nodeid=0,cpus=0-1,memdev=memory0 -numa node,nodeid=1,cpus=2-3,memdev=memory1
-numa dist,src=0,dst=1,val=20
-display none -no-reboot -monitor none -vga none
-netdev hubport,id=port0,hubid=0 -device virtio-net-pci,netdev=port0
-netdev hubport,id=port1,hubid=0 -device e1000,netdev=port1
-netdev hubport,id=port2,hubid=0 -device rtl8139,netdev=port2
-netdev hubport,id=port3,hubid=0 -device vmxnet3,netdev=port3
-device pcie-root-port,id=root-port,chassis=9 -netdev hubport,id=port4,hubid=0 -device e1000e,netdev=port4,bus=root-port
-device pcie-pci-bridge,id=bridge
-device i6300esb -device ipmi-bmc-sim,id=bmc -device isa-ipmi-kcs,bmc=bmc -device intel-hda -device virtio-rng-pci
-device virtio-balloon-pci -device pvpanic -device qemu-xhci,id=usb -device usb-tablet,bus=usb.0
-drive if=none,id=nvme,file=null-co://,file.size=64M,format=raw -device nvme,drive=nvme,serial=SERIAL
-device nvme-subsys,id=subsystem,nqn=subsystem -device nvme,serial=SERIAL2,subsys=subsystem
-drive if=none,id=nvme2,file=null-co://,file.size=32M,format=raw -device nvme-ns,drive=nvme2
-device virtio-scsi-pci,id=scsi -drive if=none,id=disk,file=null-co://,file.size=64M,format=raw
-device scsi-hd,drive=disk,bus=scsi.0,serial=SERIAL3 -device scsi-cd,bus=scsi.0
-drive if=none,id=stick,file=null-co://,file.size=16M,format=raw -device usb-storage,drive=stick,bus=usb.0
-device megasas -device sdhci-pci
""".split()


def fail(message):
    sys.exit(f"boot.py: error: {message}")


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, **more)
    if done.returncode:
        fail(f"{' '.join(map(str, command))[:200]}: status {done.returncode}")
    return done


class Architecture(typing.NamedTuple):
    """What differs between the machines that are booted: tests/arm64/run.py boots the other one."""
    name: str  # Debian's
    qemu: list
    console: str
    kernels: dict
    suites: list
    # Debian's userland; packages that this machine cannot run are only unpacked.
    release: str
    unpacked: bool
    init: str  # below /keyhole in the guest
    files: list  # that go there beside the programs


AMD64 = Architecture("amd64", ["qemu-system-x86_64", *MACHINE], "ttyS0", KERNELS, SUITES, "bookworm", False, "guest.py", [HERE / "guest.py"])


class Packages:
    """Packages of other releases than this machine's, of which nothing is installed."""

    def __init__(self, work, mirror, architecture=AMD64):
        self.architecture = architecture
        self.home = work / "apt"
        for directory in ("lists/partial", "cache/archives/partial", "state"):
            (self.home / directory).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        # A list of sid is valid for a week, and a mirror may be older.
        options = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no"
        lines = [f"deb [{options}] {mirror}{of} {suite} main" for of, suite in architecture.suites]
        (self.home / "sources.list").write_text("\n".join(lines) + "\n")
        (self.home / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self.home}/sources.list"; Dir::Etc::sourceparts "/dev/null"; Dir::Etc::main "/dev/null";\n'
            f'Dir::State "{self.home}/state"; Dir::State::lists "{self.home}/lists"; Dir::State::status "{self.home}/status";\n'
            f'Dir::Cache "{self.home}/cache"; Acquire::Languages "none"; APT::Sandbox::User "root";\n'
            f'APT::Architecture "{architecture.name}"; APT::Architectures {{ "{architecture.name}"; }};\n'
        )
        self.environment = dict(os.environ, APT_CONFIG=str(self.home / "apt.conf"))
        if not any((self.home / "lists").glob("*Packages*")):
            run("apt-get", "-qq", "update", env=self.environment)

    def newest(self, pattern):
        """The name of the newest package whose name matches."""
        names = subprocess.run(["apt-cache", "pkgnames", "linux-image-"], env=self.environment, capture_output=True, text=True)
        wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d[\d.]*").replace(r"\[7\-9\]\.\d[\d.]*", r"[7-9]\.[\d.]*\d(\+deb\d+)?") + "$")
        found = [name for name in names.stdout.split() if wanted.match(name)]
        return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name.replace(self.architecture.name, ""))], default=None)

    def download(self, name):
        """The package's file, and those of the packages that it is split into since Linux 7."""
        names = [name]
        depends = subprocess.run(["apt-cache", "depends", name], env=self.environment, capture_output=True, text=True).stdout
        names += re.findall(r"Depends: (linux-(?:binary|modules|base)-\d\S*)", depends)
        files = []
        for name in names:
            if not list(self.home.glob(f"{name}_*.deb")):
                run("apt-get", "-qq", "download", name, env=self.environment, cwd=self.home)
            files += self.home.glob(f"{name}_*.deb")
        return files


def kernel(packages, work, name):
    """The kernel's release, its image, an initramfs that finds the disks, and a disk with its modules."""
    package = next(filter(None, map(packages.newest, packages.architecture.kernels[name])), None) or fail(f"the mirror has no kernel {name}")
    home = work / "kernel" / package
    tree = home / "tree"
    if not (home / "modules.img").exists():
        shutil.rmtree(home, ignore_errors=True)
        tree.mkdir(parents=True)
        for file in packages.download(package):
            excluded = [f"--exclude=*/kernel/{module}" for module in UNUSED_MODULES]
            package_ = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE)
            run_tar = subprocess.run(["tar", "-x", "-C", tree, *excluded, "--exclude=./usr/share"], stdin=package_.stdout)
            if package_.wait() or run_tar.returncode:
                fail(f"{file} could not be unpacked")
        (modules,) = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
        image = next(iter([*tree.glob("boot/vmlinuz*"), *modules.glob("vmlinuz")]))
        shutil.move(image, home / "vmlinuz")
        (tree / "lib/modules").mkdir(parents=True, exist_ok=True)
        if "usr" in modules.relative_to(tree).parts:
            modules = shutil.move(modules, tree / "lib/modules")
        modules = pathlib.Path(modules)
        run("depmod", "-b", tree, modules.name)
        initramfs(packages, home, tree, modules)
        (home / "release").write_text(modules.name)
        disk(home / "modules.img", tree / "lib/modules")
        shutil.rmtree(tree)
    return (home / "release").read_text(), home


def busybox(packages, home):
    """A busybox of the guest's architecture."""
    if not packages.architecture.unpacked:
        return shutil.which("busybox") or fail("busybox is missing: apt-get install busybox-static")
    for file in packages.download("busybox-static"):
        run("dpkg-deb", "--extract", file, home / "busybox")
    return next(iter(home.glob("busybox/**/bin/busybox")))


def initramfs(packages, home, tree, modules):
    """busybox, and what is needed to find and mount the disks."""
    root = home / "initramfs"
    for directory in ("bin", "modules", "dev", "proc", "sys", "new"):
        (root / directory).mkdir(parents=True)
    shutil.copy(busybox(packages, home), root / "bin/busybox")
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, depends = line.partition(":")
        needs[re.sub(r"\.ko.*", "", path.split("/")[-1]).replace("-", "_")] = [path, *depends.split()]
    ordered = []
    for name in ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "crc32c_intel"):
        for path in reversed(needs.get(name, [])):
            if path not in ordered:
                ordered.append(path)
    for at, path in enumerate(ordered):
        data = (modules / path).read_bytes()
        (root / f"modules/{at:02}.ko").write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    (root / "init").write_text(
        "#!/bin/busybox sh\n"
        "b=/bin/busybox\n"
        "$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev\n"
        "for module in /modules/*; do $b insmod $module; done\n"
        "n=0; until [ -e /dev/vdd ] || [ $n -gt 300 ]; do $b sleep 0.1; n=$((n + 1)); done\n"
        "$b mount -t ext4 /dev/vda /new && $b mkdir -p /new/lib/modules /new/keyhole\n"
        "$b mount -t ext4 -o ro /dev/vdb /new/lib/modules; $b mount -t tmpfs -o mode=755 keyhole /new/keyhole && $b tar -x -C /new/keyhole -f /dev/vdc\n"
        "$b umount /proc; $b umount /sys; $b mount --move /dev /new/dev\n"
        f"exec $b switch_root /new /usr/bin/python3 /keyhole/{packages.architecture.init}\n"
    )
    (root / "init").chmod(0o755)
    with open(home / "initramfs.img", "wb") as out:
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=out, cwd=root, check=True)
    shutil.rmtree(root)


def disk(path, directory):
    """A disk with the directory's files."""
    size = int(subprocess.run(["du", "-sm", directory], capture_output=True, text=True, check=True).stdout.split()[0])
    path.unlink(missing_ok=True)
    run("truncate", "-s", f"{size * 13 // 10 + 32}M", path)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-N", "40000", "-d", directory, path)


def system(work, mirror, architecture=AMD64):
    """A disk with Debian's userland."""
    image = work / "rootfs.img"
    if not image.exists():
        root = work / "rootfs"
        shutil.rmtree(root, ignore_errors=True)
        variant, packages = ("extract", f"{PACKAGES},{BASE}") if architecture.unpacked else ("apt", PACKAGES)
        run("mmdebstrap", "--quiet", f"--variant={variant}", f"--architectures={architecture.name}", f"--include={packages}",
            "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", architecture.release, root, mirror)
        if architecture.unpacked:
            for link, path in LINKS.items():
                if not (root / link).is_symlink():
                    (root / link).symlink_to(path)
            for directory in ("dev", "mnt", "proc", "run", "sys", "tmp"):
                (root / directory).mkdir(exist_ok=True)
            for name in ("passwd", "group"):
                shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
        for directory in ("var/lib/apt/lists", "var/cache/apt"):
            shutil.rmtree(root / directory, ignore_errors=True)
        disk(image.with_suffix(".new"), root)
        shutil.rmtree(root)
        image.with_suffix(".new").rename(image)
    return image


def built(program):
    """The compilers and the C library of a static program, as it names them itself."""
    data = program.read_bytes()
    names = {"rustc": rb"rustc version ([\d.]+)", "gcc": rb"GCC: \([^)]+\) ([\d.]+)", "glibc": rb"GNU C Library \(\D+([^)]+)\)"}
    found = {name: re.search(pattern, data) for name, pattern in names.items()}
    return ", ".join(f"{name} {match[1].decode() if match else fail(f'{program} does not name its {name}')}" for name, match in found.items())


def boot(arguments, packages, name):
    work, architecture = arguments.work, packages.architecture
    release, home = kernel(packages, work, name)
    results = work / "results" / name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    sources = ["broker", "reader", "exporter", "os", "policy", "proto", "rate", "log", "Cargo.lock"]
    programs = built(arguments.programs / "keyhole-exporter")
    commit = subprocess.run(["git", "log", "-1", "--format=%h", "--", *sources], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    with tarfile.open(results / "programs.tar", "w") as tar:
        for program in ("keyhole-broker", "keyhole-reader", "keyhole-exporter"):
            tar.add(arguments.programs / program, program)
        tar.add(arguments.node_exporter, "node_exporter")
        for file in architecture.files:
            tar.add(file, file.name)
    run("truncate", "-s", "64M", results / "out.tar")
    drives = [(system(work, arguments.mirror, architecture), "on"), (home / "modules.img", "on"), (results / "programs.tar", "on"), (results / "out.tar", "off")]
    command = [*architecture.qemu, "-kernel", home / "vmlinuz", "-initrd", home / "initramfs.img"]
    command += ["-append", f"console={architecture.console} panic=-1 quiet loglevel=4 mitigations=off selinux=1 security=selinux steps={arguments.steps}"]
    for path, snapshot in drives:
        command += ["-drive", f"if=virtio,format=raw,snapshot={snapshot},file={path}"]
    command += ["-serial", f"file:{results / 'console.log'}"]
    print(f"{name}: Linux {release}; see {results / 'console.log'}", flush=True)
    try:
        subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, timeout=BOOT_TIMEOUT, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"{name}: {error}"[-300:])
    try:
        with tarfile.open(results / "out.tar") as tar:
            tar.extractall(results)
        (results / "results.json").stat()
    except (tarfile.TarError, FileNotFoundError) as error:
        fail(f"{name}: the guest left nothing ({error}): see {results / 'console.log'}")
    (results / "out.tar").unlink()
    (results / "programs.tar").unlink()
    found = json.loads((results / "results.json").read_text())
    found["commit"], found["built"] = commit, programs
    (results / "results.json").write_text(json.dumps(found, indent=1))
    return found


def apt_mirror():
    """The mirror of this machine's own packages."""
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True).stdout
    return next((line.rstrip("/") for line in listed.split() if line.rstrip("/").endswith("/debian")), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, default=REPOSITORY / "target/static")
    parser.add_argument("--node-exporter", type=pathlib.Path)
    parser.add_argument("--kernel", action="append", choices=KERNELS)
    parser.add_argument("--steps", default="all")
    parser.add_argument("--work", type=pathlib.Path, default=REPOSITORY / "target/kernels")
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--mirror", default=apt_mirror())
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.node_exporter:
        packages = Packages(arguments.work, arguments.mirror or fail("which mirror? --mirror"))
        for name in arguments.kernel or KERNELS:
            steps = boot(arguments, packages, name)["steps"]
            print(f"{name}: steps {', '.join(steps)}; see {arguments.work / 'results' / name}", flush=True)
    if arguments.table:
        import table
        arguments.table.write_text(table.render(arguments.work / "results", list(KERNELS)))


if __name__ == "__main__":
    main()
