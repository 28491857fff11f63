#!/usr/bin/env python3
"""Tests the .deb and the .rpm: built, looked into, and the .deb installed, upgraded, removed and purged on a Debian 12 with systemd.

usage: packages.py [--programs DIRECTORY] [--arm64 DIRECTORY] [UNITTEST ARGUMENT]...

--programs has this machine's programs (target/static); --arm64 those of arm64. Without them, copies of the first with another ELF
header take their place: they are packed, not run. Needs root, mmdebstrap, rpm, util-linux and iproute2, and a network the first time.
"""
import argparse
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import machine
import programs

REPOSITORY = programs.REPOSITORY
UNITS = ["keyhole-broker.service", "keyhole-exporter.service"]
BOTH = {
    *(f"/usr/bin/{name}" for name in programs.PROGRAMS), *(f"/usr/lib/systemd/system/{name}" for name in UNITS),
    "/usr/lib/sysusers.d/keyhole.conf", "/etc/default/keyhole", "/usr/share/doc/keyhole/THIRD-PARTY.gz",
    "/usr/share/doc/keyhole/changelog.gz",
    *(path.format(name) for name in ("keyhole-broker", "keyhole-exporter") for path in (
        "/usr/share/man/man1/{}.1.gz", "/usr/share/bash-completion/completions/{}", "/usr/share/fish/vendor_completions.d/{}.fish")),
}
FILES = {
    "deb": BOTH | {"/usr/share/doc/keyhole/copyright", "/usr/share/doc/keyhole/changelog.Debian.gz"}
    | {f"/usr/share/zsh/vendor-completions/_{name}" for name in ("keyhole-broker", "keyhole-exporter")},
    "rpm": BOTH | {"/usr/share/licenses/keyhole/LICENSE"}
    | {f"/usr/share/zsh/site-functions/_{name}" for name in ("keyhole-broker", "keyhole-exporter")},
}
# What a purge leaves behind: the users, and the lists of dpkg and systemd that have every package.
LEFT = re.compile(r"/etc/((g?shadow|passwd|group)-?|\.pwd\.lock)|/var/(lib/dpkg|log|cache|tmp)/.*")
METRICS = "http://127.0.0.1:9100/metrics"

# Set by main: where everything is, the packages by architecture and format, those of the next revision, and a root file system.
directory = packages = newer = base = version = None


def output(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, **options).stdout


def build(*words, **options):
    """The packages by architecture and format, as the names of their files have them."""
    paths = map(pathlib.Path, programs.run("packages", *words, **options).splitlines())
    return {tuple(re.split(r"[_.]", path.name.replace("x86_64", "x86-64"))[-2:]): path for path in paths}


def setUpModule():
    global packages, newer, base, version
    version = programs.version()
    packages = build(directory / "first", *(f"{architecture}={where}" for architecture, where in programs.directories(directory).items()))
    newer = build("--revision", "2", directory / "newer", f"amd64={arguments.programs}",
                  env={**os.environ, "DPKG_DEB_COMPRESSOR_LEVEL": "1"})
    base = directory / "debian"
    machine.debian(base)


class Contents(unittest.TestCase):
    def test_there_is_one_of_each_format_and_architecture(self):
        self.assertEqual(sorted(packages), [("aarch64", "rpm"), ("amd64", "deb"), ("arm64", "deb"), ("x86-64", "rpm")])

    def test_the_same_programs_make_the_same_bytes(self):
        # Other times, another directory and another umask.
        copy = directory / "copy"
        shutil.copytree(arguments.programs, copy)
        os.utime(copy / "keyhole-broker", (0, 0))
        again = build(directory / "second", f"amd64={copy}", umask=0o077, env={**os.environ, "TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8"})
        self.assertEqual(len(again), 2)
        for key, path in again.items():
            self.assertEqual(path.name, packages[key].name)
            self.assertEqual(hashlib.sha256(path.read_bytes()).digest(), hashlib.sha256(packages[key].read_bytes()).digest(), key)

    def test_a_deb_has_exactly_its_files(self):
        for architecture in ("amd64", "arm64"):
            path = packages[architecture, "deb"]
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as process:
                with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                    members = list(tar)
            self.assertEqual({member.name[1:] for member in members if member.isfile()}, FILES["deb"])
            for member in members:
                self.assertEqual((member.uid, member.gid, member.uname), (0, 0, "root"), member.name)
                executable = member.isdir() or member.name.startswith("./usr/bin/")
                self.assertEqual(member.mode, 0o755 if executable else 0o644, member.name)
            fields = output("dpkg-deb", "--field", path, "Package", "Version", "Architecture")
            self.assertEqual(fields, f"Package: keyhole\nVersion: {version}-1\nArchitecture: {architecture}\n")

    def test_an_rpm_has_exactly_its_files(self):
        for architecture in ("x86_64", "aarch64"):
            path = packages[architecture.replace("_", "-"), "rpm"]
            self.assertEqual(set(output("rpm", "-qpl", path).split()), FILES["rpm"] | {"/usr/share/doc/keyhole", "/usr/share/licenses/keyhole"})
            query = output("rpm", "-qp", "--queryformat", "%{name} %{version} %{release} %{arch} %{license}", path)
            self.assertEqual(query, f"keyhole {version} 1 {architecture} Apache-2.0")
            self.assertEqual(output("rpm", "-qp", "--configfiles", path).split(), ["/etc/default/keyhole"])
            # Static programs need no library; scripts need a shell and systemd.
            needed = {line.split()[0] for line in output("rpm", "-qp", "--requires", path).splitlines()}
            self.assertEqual({word for word in needed if not word.startswith("rpmlib(")}, {"/bin/sh", "systemd"})
            self.assertEqual({word for word in output("rpm", "-qp", "--provides", path).split() if "keyhole" not in word}, {"=", f"{version}-1"})

    def test_completions_and_manuals_are_the_programs_own(self):
        at = directory / "unpacked"
        output("dpkg-deb", "--extract", packages["amd64", "deb"], at)
        for name in ("keyhole-broker", "keyhole-exporter"):
            for shell, place in (("bash", f"bash-completion/completions/{name}"), ("zsh", f"zsh/vendor-completions/_{name}"),
                                 ("fish", f"fish/vendor_completions.d/{name}.fish")):
                self.assertEqual((at / "usr/share" / place).read_text(), output(at / "usr/bin" / name, "completions", shell))
            self.assertIn(f"{name} {version}", output("gzip", "--decompress", "--stdout", at / f"usr/share/man/man1/{name}.1.gz"))

    def test_wrong_programs_are_refused(self):
        where = directory / "wrong"
        shutil.copytree(arguments.programs, where)
        with self.assertRaisesRegex(AssertionError, "is for Advanced Micro Devices X86-64, and arm64 needs AArch64"):
            build(directory / "third", f"arm64={where}")
        (where / "keyhole-reader").unlink()
        with self.assertRaisesRegex(AssertionError, "keyhole-reader is missing"):
            build(directory / "third", f"amd64={where}")
        shutil.copy("/usr/bin/env", where / "keyhole-reader")
        with self.assertRaisesRegex(AssertionError, "keyhole-reader is not static"):
            build(directory / "third", f"amd64={where}")


class MaintainerScripts(unittest.TestCase):
    """They run with programs that all fail, but for systemd-sysusers: no failure of systemd's is one of the package."""

    def setUp(self):
        self.bin = pathlib.Path(tempfile.mkdtemp(dir=directory))
        for name in ("deb-systemd-helper", "deb-systemd-invoke", "systemctl", "systemd-sysusers"):
            self.put(name, "exit 1" if name != "systemd-sysusers" else "exit 0")

    def put(self, name, text):
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def script(self, name, *words, root=""):
        return subprocess.run(["sh", REPOSITORY / "deploy/release/debian" / name, *words], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "DPKG_ROOT": root})

    def test_another_uid_of_the_exporter_is_a_warning(self):
        for uid, expected in (("64647", 0), ("1500", 1)):
            self.put("id", f"echo {uid}")
            # Twice: the second time as an upgrade.
            for words in (["configure"], ["configure", "0.1.0"]):
                done = self.script("postinst", *words)
                self.assertEqual((done.returncode, done.stderr.count(f"--allow-uid={uid}")), (0, expected), done.stderr)
        self.put("id", "exit 1")
        self.assertEqual(self.script("postinst", "configure").stderr, "")

    def test_failing_programs_and_a_missing_directory_are_no_failure(self):
        root = str(self.bin / "root")
        for name, word in (("postinst", "abort-upgrade"), ("prerm", "remove"), ("prerm", "upgrade"), ("postrm", "remove"), ("postrm", "purge"),
                           ("postrm", "purge"), ("postrm", "abort-install")):
            done = self.script(name, word, root=root)
            self.assertEqual((done.returncode, done.stderr), (0, ""), f"{name} {word}")

    def test_users_that_cannot_be_made_are_a_failure(self):
        self.put("systemd-sysusers", "exit 1")
        self.assertEqual(self.script("postinst", "configure").returncode, 1)


def listing(root):
    """Each file with its mode and content."""
    found = {}
    for parent in ("etc", "usr", "var"):
        for path in (root / parent).rglob("*"):
            name, status = "/" + str(path.relative_to(root)), path.lstat()
            if not LEFT.fullmatch(name):
                content = os.readlink(path) if path.is_symlink() else path.stat().st_size if path.is_file() else None
                found[name] = (stat.filemode(status.st_mode), content)
    return found


class Installed(unittest.TestCase):
    def setUp(self):
        self.machine = machine.Machine(base, pathlib.Path(tempfile.mkdtemp(dir=directory)))
        self.addCleanup(self.machine.stop)
        self.deb = self.put(packages["amd64", "deb"])

    def put(self, path):
        shutil.copy(path, self.machine.root / "srv")
        return f"/srv/{path.name}"

    def state(self, verb):
        return [self.machine.run("systemctl", verb, unit).stdout.strip() for unit in UNITS]

    def are_active(self):
        deadline = time.monotonic() + 20
        while self.state("is-active") != ["active"] * 2:
            if time.monotonic() > deadline:
                self.fail(self.machine.run("systemctl", "status", "--full", *UNITS).stdout)
            time.sleep(0.2)

    def pids(self):
        return [int(self.machine("systemctl", "show", "--property=MainPID", "--value", unit)) for unit in UNITS]

    def metrics(self):
        deadline = time.monotonic() + 20
        while True:
            try:
                return self.machine.fetch(METRICS)
            except AssertionError as error:
                if time.monotonic() > deadline:
                    log = self.machine.run("systemctl", "status", *UNITS)
                    raise AssertionError(f"{error}; {log.stdout}")
            time.sleep(0.2)

    def test_on_a_machine_with_systemd(self):
        self.machine.boot()
        before = listing(self.machine.root)

        # Installed: enabled and started.
        self.machine("dpkg", "--install", self.deb)
        self.assertEqual(self.state("is-enabled"), ["enabled"] * 2)
        self.are_active()
        self.assertEqual(self.machine("getent", "passwd", "keyhole-broker", "keyhole-exporter"),
                         "keyhole-broker:x:64646:64646:Keyhole's broker:/:/usr/sbin/nologin\n"
                         "keyhole-exporter:x:64647:64647:Keyhole's exporter:/:/usr/sbin/nologin\n")
        self.assertIn("keyhole-exporter", self.machine("getent", "group", "keyhole-broker"))
        text = self.metrics()
        self.assertRegex(text, r"(?m)^node_memory_MemTotal_bytes \S+$")
        self.assertRegex(text, rf'(?m)^keyhole_broker_info{{.*version="{re.escape(version)}".*}} 1$')
        self.assertEqual(self.machine("dpkg", "--verify", "keyhole"), "")
        # It runs in the namespaces of a container, so the broker sees a container's files.
        self.assertNotIn('proc_view="host"', text)

        # The conffile is what the units read, and an upgrade keeps it and the units' states.
        (self.machine.root / "etc/default/keyhole").write_text("KEYHOLE_BROKER_FLAGS=--view=host\n")
        self.machine("systemctl", "restart", *UNITS)
        self.assertIn('proc_view="host"', self.metrics())
        pids = self.pids()
        self.machine("dpkg", "--install", self.put(newer["amd64", "deb"]))
        self.are_active()
        self.assertFalse(set(pids) & set(self.pids()), "not restarted")
        self.assertIn('proc_view="host"', self.metrics())
        self.machine("systemctl", "disable", UNITS[1])
        self.machine("dpkg", "--install", self.put(newer["amd64", "deb"]))
        self.assertEqual(self.state("is-enabled"), ["enabled", "disabled"])

        # Removed: stopped, and only the conffile is left.
        self.machine("dpkg", "--remove", "keyhole")
        self.assertEqual(self.state("is-active"), ["inactive"] * 2)
        self.assertEqual(self.machine.run("pidof", *programs.PROGRAMS).stdout, "")
        left = {name for name in FILES["deb"] if (self.machine.root / name[1:]).exists()}
        self.assertEqual(left, {"/etc/default/keyhole"})
        self.machine("dpkg", "--purge", "keyhole")
        self.assertEqual(self.machine.run("test", "-e", "/run/keyhole").returncode, 1)
        after = listing(self.machine.root)
        self.assertEqual({name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}, set())
        # The users stay.
        self.machine("getent", "passwd", "keyhole-broker")

        # Where policy-rc.d forbids it, nothing is started.
        policy = self.machine.root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        self.machine("dpkg", "--install", self.deb)
        self.assertEqual(self.state("is-active"), ["inactive"] * 2)
        self.assertEqual(self.state("is-enabled"), ["enabled"] * 2)

    def test_where_systemd_does_not_run(self):
        before = listing(self.machine.root)
        self.machine("dpkg", "--install", self.deb)
        self.machine("getent", "passwd", "keyhole-broker", "keyhole-exporter")
        self.assertEqual(self.state("is-enabled"), ["enabled"] * 2)
        self.assertIn(version, self.machine("keyhole-broker", "--version"))
        self.machine("dpkg", "--purge", "keyhole")
        after = listing(self.machine.root)
        self.assertEqual({name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}, set())

    def rpm(self, *words):
        return output("rpm", "--root", self.machine.root, *words)

    def test_the_rpm_installs_and_removes_with_its_scripts(self):
        before = listing(self.machine.root)
        # rpm knows nothing of the packages that dpkg installed.
        self.rpm("--install", "--nodeps", packages["x86-64", "rpm"])
        self.machine("getent", "passwd", "keyhole-broker", "keyhole-exporter")
        self.assertEqual(self.state("is-enabled"), ["enabled"] * 2)
        self.assertEqual(self.rpm("--verify", "--nodeps", "keyhole"), "")
        (self.machine.root / "etc/default/keyhole").write_text("KEYHOLE_BROKER_FLAGS=--view=host\n")
        self.rpm("--upgrade", "--nodeps", newer["x86-64", "rpm"])
        self.assertEqual((self.machine.root / "etc/default/keyhole").read_text(), "KEYHOLE_BROKER_FLAGS=--view=host\n")
        self.assertEqual(self.rpm("--query", "keyhole").strip(), f"keyhole-{version}-2.x86_64")
        self.rpm("--erase", "keyhole")
        after = listing(self.machine.root)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        # The file that was edited, rpm's own list, and directories that a Fedora has.
        shared = {f"/usr/share/{name}" for name in ("fish", "fish/vendor_completions.d", "licenses", "zsh/site-functions")}
        self.assertEqual({name for name in changed if not name.startswith("/var/lib/rpm")} - shared, {"/etc/default/keyhole.rpmsave"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs.add_arguments(parser)
    arguments, others = parser.parse_known_args()
    programs.use(arguments)
    # Mounts go away with this process.
    programs.in_a_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="packages-", dir=REPOSITORY / "target") as temporary:
        directory = pathlib.Path(temporary)
        try:
            result = unittest.main(argv=[sys.argv[0], *others], exit=False).result
        finally:
            machine.unmount(directory)
    sys.exit(not result.wasSuccessful())
