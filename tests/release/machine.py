"""Machines with Debian 12 for tests of packages: a root file system, and systemd in namespaces on a copy of it."""
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "keyhole-ci"
# The packages that Debian cannot do without, and systemd.
PACKAGES = "systemd,systemd-sysv,init-system-helpers"
BOOT_TIMEOUT = 60


def debian(directory):
    """Unpacks a minimal Debian 12; it is downloaded once, and then kept in the cache of CI's tools."""
    archive = CACHE / "debian-12-systemd.tar"
    if not archive.exists():
        print("  downloading a minimal Debian 12", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(f".{os.getpid()}")
        try:
            subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=essential", f"--include={PACKAGES}", "--format=tar",
                            "bookworm", part], check=True, timeout=300)
            part.rename(archive)
        finally:
            part.unlink(missing_ok=True)
    directory.mkdir()
    # Devices are those of the machine that boots it.
    subprocess.run(["tar", "--extract", f"--file={archive}", f"--directory={directory}", "--exclude=./dev/*"], check=True, timeout=120)


def unmount(directory):
    """Unmounts everything below a directory, the latest first."""
    points = [line.split()[1] for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(points):
        if pathlib.Path(point).is_relative_to(directory):
            subprocess.run(["umount", "--lazy", point], check=True)


class Machine:
    """A writable copy of a root file system. Its commands run in a chroot, or in systemd's namespaces once it is booted."""

    def __init__(self, base, directory):
        self.root, self.process = directory / "root", None
        for name in ("root", "layers"):
            (directory / name).mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory / "layers"], check=True)
        for name in ("changes", "work"):
            (directory / "layers" / name).mkdir()
        layers = f"lowerdir={base},upperdir={directory}/layers/changes,workdir={directory}/layers/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", self.root], check=True)
        # Scripts of packages write there.
        (self.root / "dev/null").touch()
        subprocess.run(["mount", "--bind", "/dev/null", self.root / "dev/null"], check=True)

    def boot(self):
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net", "--cgroup", HERE / "boot.sh", self.root],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline, state = time.monotonic() + BOOT_TIMEOUT, None
        while state not in ("running", "degraded"):
            if self.process.poll() is not None:
                raise AssertionError(f"systemd ended: {self.process.stdout.read()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"systemd is not up within {BOOT_TIMEOUT} s, but {state}: {self.run('systemctl', 'list-jobs').stdout}")
            time.sleep(0.2)
            if self.init():
                state = self.run("systemctl", "is-system-running").stdout.strip()

    def init(self):
        """The pid of the machine's PID 1."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def inside(self, *command):
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]
        if self.process is None:
            return ["chroot", self.root, *environment, *command]
        return ["nsenter", f"--target={self.init()}", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--root", "--wd",
                *environment, *command]

    def run(self, *command):
        """Runs a command in the machine; its status and output."""
        return subprocess.run(self.inside(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def __call__(self, *command):
        """Runs a command in the machine; its output. It must succeed."""
        done = self.run(*command)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def fetch(self, url):
        """An HTTP answer, asked for in the machine's network."""
        program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
        done = subprocess.run(["nsenter", f"--target={self.init()}", "--net", sys.executable, "-c", program, url],
                              capture_output=True, text=True, timeout=20)
        if done.returncode != 0:
            raise AssertionError(f"{url}: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout

    def stop(self):
        if self.process and self.process.poll() is None:
            # --kill-child: its PID 1 ends with unshare, and so does everything in there.
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=10)
        if self.process:
            self.process.stdout.close()
