#!/usr/bin/env python3
"""A file system in user space of one empty directory. Stopped by SIGSTOP, it is a mount that hangs.

usage: fuse_server.py TYPE MOUNTPOINT; TYPE as in /proc/filesystems (fuse.something). Prints "ready" when mounted.
The protocol: https://docs.kernel.org/filesystems/fuse/fuse.html and include/uapi/linux/fuse.h
"""

import ctypes
import os
import struct
import sys

FORGET, GETATTR, STATFS, INIT, BATCH_FORGET = 2, 3, 17, 26, 42
ENOSYS = 38


def answer(opcode: int) -> bytes | None:
    """The body of an answer; none where there is none to give."""
    if opcode == INIT:
        return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, 0)
    if opcode == GETATTR:
        times = (0, 0, 0, 0, 0, 0)
        return struct.pack("=QII6Q10I", 0, 0, 0, 1, 0, 0, *times[:3], *times[3:], 0o40755, 2, 0, 0, 0, 4096, 0)
    if opcode == STATFS:
        return struct.pack("=5Q4I24x", 1000, 600, 500, 64, 32, 4096, 255, 4096, 0)
    return None


def main() -> None:
    kind, mountpoint = sys.argv[1:]
    os.makedirs(mountpoint, exist_ok=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"server", mountpoint.encode(), kind.encode(), 0, options.encode()) != 0:
        sys.exit(f"mount {mountpoint}: {os.strerror(ctypes.get_errno())}")
    print("ready", flush=True)
    while True:
        request = os.read(device, 1 << 17)
        _length, opcode, unique = struct.unpack_from("=IIQ", request)
        if opcode in (FORGET, BATCH_FORGET):
            continue
        body = answer(opcode)
        error = 0 if body is not None else -ENOSYS
        os.write(device, struct.pack("=IiQ", 16 + len(body or b""), error, unique) + (body or b""))


main()
