"""Becomes a program for which the kernel has no Landlock: a filter answers its system call as a kernel does that lacks it.

usage: without_landlock.py PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2
CREATE_RULESET = 444  # landlock_create_ruleset, on every machine
ALLOW, ENOSYS = 0x7FFF0000, 0x00050000 | 38


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]


def main() -> None:
    steps = [
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 1, CREATE_RULESET),
        (0x06, 0, 0, ENOSYS),
        (0x06, 0, 0, ALLOW),
    ]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.cast(packed, ctypes.c_void_p))
    for call in [(SET_NO_NEW_PRIVS, 1, 0, 0, 0), (SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0)]:
        if LIBC.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
