#!/usr/bin/env python3
"""File systems in user space whose every name is an empty directory. Stopped by SIGSTOP, they are mounts that hang.

usage: fuse_server.py TYPE[=SOURCE] MOUNTPOINT...; TYPE as in /proc/filesystems (fuse.something); in SOURCE, {} is the mount
point's own name. TYPE autofs+TYPE puts each on a direct mount of autofs, as an automounter does; autofs alone mounts that
and never answers it. Prints "ready" when mounted.
The protocol: https://docs.kernel.org/filesystems/fuse/fuse.html and include/uapi/linux/fuse.h
"""

import ctypes
import os
import select
import struct
import sys

LOOKUP, FORGET, GETATTR, STATFS, INIT, BATCH_FORGET = 1, 2, 3, 17, 26, 42
ENOSYS = 38
ATTRIBUTES = struct.pack("=6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)

libc = ctypes.CDLL(None, use_errno=True)


def answer(opcode: int) -> bytes | None:
    """The body of an answer; none where there is none to give."""
    if opcode == INIT:
        return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, 0)
    if opcode == GETATTR:
        return struct.pack("=QII", 0, 0, 0) + ATTRIBUTES
    if opcode == LOOKUP:
        # One directory has every name, and is looked for each time.
        return struct.pack("=4Q2I", 2, 0, 0, 0, 0, 0) + ATTRIBUTES
    if opcode == STATFS:
        return struct.pack("=5Q4I24x", 1000, 600, 500, 64, 32, 4096, 255, 4096, 0)
    return None


def mount(source: str, place: str, kind: str, options: str) -> None:
    if libc.mount(source.encode(), place.encode(), kind.encode(), 0, options.encode()) != 0:
        sys.exit(f"mount {place}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    kind, _, source = sys.argv[1].partition("=")
    autofs, _, kind = kind.rpartition("autofs+") if kind != "autofs" else (kind, "", "")
    autofs = autofs or sys.argv[1].startswith("autofs")
    os.setpgid(0, 0)
    devices, pipes = [], []
    for place in sys.argv[2:]:
        os.makedirs(place, exist_ok=True)
        if autofs:
            pipes.append(os.pipe())
            mount("systemd-1", place, "autofs", f"fd={pipes[-1][1]},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct")
        if kind:
            device = os.open("/dev/fuse", os.O_RDWR)
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
            mount((source or "server").format(os.path.basename(place)), place, kind, options)
            devices.append(device)
    print("ready", flush=True)
    while True:
        for device in select.select(devices, [], [])[0]:
            request = os.read(device, 1 << 17)
            _length, opcode, unique = struct.unpack_from("=IIQ", request)
            if opcode in (FORGET, BATCH_FORGET):
                continue
            body = answer(opcode)
            error = 0 if body is not None else -ENOSYS
            os.write(device, struct.pack("=IiQ", 16 + len(body or b""), error, unique) + (body or b""))


main()
