#!/usr/bin/env python3
"""Init of the aarch64 machine that run.py boots: tests/kernels/guest.py with one more step, `seal`.

The step makes each process of Keyhole do a system call that is in no list: it stops the process in the call that it waits in,
with ptrace(2), and changes the call's number. A filter that is in force kills it with SIGSYS.
"""
import ctypes
import os
import pathlib
import re
import signal
import struct
import subprocess
import time

import guest

GETPPID = 173  # harmless, and in no list
SVC = 0xD4000001  # the instruction of a system call
PTRACE_CONT, PTRACE_DETACH, PTRACE_GETREGSET, PTRACE_SETREGSET, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 17, 0x4204, 0x4205, 0x4206, 0x4207
NT_PRSTATUS, WALL = 1, 0x40000000
X8, PC = 8, 32  # of user_pt_regs: x0 to x30, sp, pc, pstate
LIMIT = 20  # seconds
# The zygote's first children, in the order of policy::Class::ALL.
CLASSES = ["reader-procfs", "reader-sysfs", "reader-devices", "reader-files", "reader-processes", "reader-mounts"]

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_ulong] * 2 + [ctypes.c_void_p] * 2
libc.ptrace.restype = ctypes.c_long


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def ptrace(request, pid, address=None, data=None):
    if libc.ptrace(request, pid, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace({request:#x}, {pid}): {os.strerror(error)}")


def stopped(pid):
    """Waits for a stop of the process."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        got, status = os.waitpid(pid, WALL | os.WNOHANG)
        if got:
            if os.WIFSTOPPED(status):
                return
            raise ChildProcessError(f"{pid} ended with {status:#x}")
        time.sleep(0.05)
    raise TimeoutError(f"{pid} does not stop")


def interrupted(pid, number=None):
    """What becomes of the process when its call is interrupted, and replaced by another if there is a number."""
    ptrace(PTRACE_SEIZE, pid)
    ptrace(PTRACE_INTERRUPT, pid)
    stopped(pid)
    if number is not None:
        registers = ctypes.create_string_buffer(34 * 8)
        vector = Vector(ctypes.addressof(registers), len(registers))
        ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, ctypes.addressof(vector))
        words = list(struct.unpack("34Q", registers.raw))
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(words[PC] - 4)
            before, at = struct.unpack("2I", memory.read(8))
        # A call that is to be restarted is at the instruction already, one that ended with EINTR is behind it.
        if at != SVC:
            if before != SVC:
                raise ValueError(f"{pid} is in no system call: {before:#x} {at:#x}")
            words[PC] -= 4
        words[X8] = number
        registers[:] = struct.pack("34Q", *words)
        ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, ctypes.addressof(vector))
    ptrace(PTRACE_CONT, pid)
    until = time.monotonic() + (LIMIT if number is not None else 2)
    while time.monotonic() < until:
        got, status = os.waitpid(pid, WALL | os.WNOHANG)
        if got and os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status)).name
        if got and os.WIFEXITED(status):
            return f"status {os.WEXITSTATUS(status)}"
        if got:  # a signal of its own, which the process is to have
            ptrace(PTRACE_CONT, pid, None, os.WSTOPSIG(status) if status >> 16 == 0 else None)
        time.sleep(0.05)
    ptrace(PTRACE_INTERRUPT, pid)
    stopped(pid)
    ptrace(PTRACE_DETACH, pid)
    return "lives"


def children(pid):
    """The processes whose parent this is, oldest first."""
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes(keyhole):
    """The pid of each process."""
    [zygote] = children(keyhole.broker.pid)
    readers = children(zygote)
    if len(readers) != len(CLASSES):
        raise ValueError(f"{len(readers)} readers, and {len(CLASSES)} classes")
    return {**dict(zip(CLASSES, readers)), "zygote": zygote, "broker": keyhole.broker.pid, "exporter": keyhole.exporter.pid}


def restart(keyhole):
    keyhole.stop()
    keyhole.__init__()


def failing():
    """The collectors that fail in a scrape."""
    text = guest.fetch(f"{guest.US}/metrics")
    return set(re.findall(r'^node_scrape_collector_success{collector="(\w+)"} 0', text, re.MULTILINE))


def killed(keyhole, name, usual):
    """A process lives after it was interrupted; what becomes of it in the call that no list has; do the usual collectors fail then?"""
    # The broker ends after some deaths of readers within a minute.
    restart(keyhole)
    pid = processes(keyhole)[name]
    found = [interrupted(pid), interrupted(pid, GETPPID)]
    guest.log("seal:", name, pid, *found)
    # The zygote replaces a reader. Of all else the programs' supervisor takes care, which is this program here.
    if name not in CLASSES:
        restart(keyhole)
    return [*found, bool(guest.wait("a whole scrape", lambda: failing() == usual))]


def seal(keyhole):
    """Each process is interrupted, and lives; then it does the call that no list has. The next scrape is served again."""
    found, usual = {"processes": {}}, failing()
    # What a process without a filter does: it reads again.
    with subprocess.Popen("cat", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as control:
        time.sleep(1)
        found["control"] = interrupted(control.pid, GETPPID)
        control.stdin.close()
    for name in (*CLASSES, "zygote", "broker", "exporter"):
        found["processes"][name] = killed(keyhole, name, usual)
    found["audit"] = re.findall(r"type=1326 .*", guest.sh("dmesg") or "")
    return found


guest.STEPS["seal"] = seal

if __name__ == "__main__":
    guest.run()
