"""Does in a node's own threads what native code would that broke out of Wasm: system calls, made by the node itself.

Each thread is stopped by ptrace(2), its registers are set for a call, it is stepped over the instruction that makes it, and set
back. So the calls are those of the very process and threads that serve, under whatever they hold themselves to; nothing of the
node takes part. Prints a JSON object: thread, name of the attempt, and its errno or 0.

usage: escape.py PID ATTEMPTS.json

Each attempt: name, call, arguments. An argument is a number; a text, which becomes a pointer to it; {"hex": bytes}, the same for
bytes; or {"of": name}, what an earlier attempt of this thread returned.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.restype = ctypes.c_long
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

SEIZE, INTERRUPT, STEP, DETACH, GETREGSET, SETREGSET = 0x4206, 0x4207, 9, 17, 0x4204, 0x4205
PRSTATUS = 1
ALL_THREADS = 0x40000000
SYSCALL = b"\x0f\x05"
# user_regs_struct of x86-64, in its order.
NAMES = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
).split()
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
Registers = dict[str, int]
Argument = int | str | dict[str, str]

MMAP, MUNMAP, CLOSE = 9, 11, 3
ROOM = 1 << 16


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if LIBC.ptrace(request, thread, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace {request:#x} of {thread}: {os.strerror(error)}")


def registers(thread: int, new: Registers | None = None) -> Registers:
    """Reads a thread's registers, or sets them."""
    size = 8 * len(NAMES)
    values = [new[name] & 0xFFFFFFFFFFFFFFFF for name in NAMES] if new else [0] * len(NAMES)
    buffer = ctypes.create_string_buffer(struct.pack(f"{len(NAMES)}Q", *values), size)
    vector = Vector(ctypes.cast(buffer, ctypes.c_void_p), size)
    ptrace(SETREGSET if new else GETREGSET, thread, PRSTATUS, ctypes.addressof(vector))
    return dict(zip(NAMES, struct.unpack(f"{len(NAMES)}Q", buffer.raw), strict=True))


def stopped(thread: int) -> None:
    _, status = os.waitpid(thread, ALL_THREADS)
    if not os.WIFSTOPPED(status):
        raise SystemExit(f"the thread {thread} has ended: {status:#x}")


class Stopped:
    """A thread that stands still, and does what it is told."""

    def __init__(self, process: int, thread: int) -> None:
        self.thread = thread
        ptrace(SEIZE, thread)
        ptrace(INTERRUPT, thread)
        stopped(thread)
        self.before = registers(thread)
        self.memory = os.open(f"/proc/{process}/mem", os.O_RDWR)
        self.instruction = find_instruction(process, self.memory)
        self.returned: dict[str, int] = {}
        self.room = 0
        # For texts: readable, writable, private, anonymous.
        self.room = self.call(MMAP, [0, ROOM, 3, 0x22, -1, 0])

    def call(self, number: int, arguments: list[Argument]) -> int:
        """Makes a system call; its result, negative for an errno."""
        place = self.room
        values: list[int] = []
        for argument in arguments:
            if isinstance(argument, int):
                values.append(argument)
                continue
            if isinstance(argument, dict) and "of" in argument:
                values.append(self.returned[argument["of"]])
                continue
            text = bytes.fromhex(argument["hex"]) if isinstance(argument, dict) else argument.encode() + b"\0"
            os.pwrite(self.memory, text, place)
            values.append(place)
            place += (len(text) + 15) & ~15
        new = self.before | {"rip": self.instruction, "rax": number, "orig_rax": -1}
        new |= dict(zip(ARGUMENTS, values, strict=False))
        registers(self.thread, new)
        ptrace(STEP, self.thread)
        stopped(self.thread)
        result: int = struct.unpack("q", struct.pack("Q", registers(self.thread)["rax"]))[0]
        return result

    def go(self) -> None:
        self.call(MUNMAP, [self.room, ROOM])
        registers(self.thread, self.before)
        ptrace(DETACH, self.thread)
        os.close(self.memory)


def find_instruction(process: int, memory: int) -> int:
    """Where there is an instruction for system calls."""
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        span, access, *rest = line.split()
        if "x" not in access or not rest or "libc.so" not in line:
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        found = os.pread(memory, end - start, start).find(SYSCALL)
        if found >= 0:
            return start + found
    raise SystemExit("no instruction for system calls was found in the C library")


def main() -> int:
    process, plan = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    if platform.machine() != "x86_64":
        raise SystemExit("the registers of this machine aren't known here")
    for entry in sorted(Path(f"/proc/{process}/task").iterdir()):
        thread = int(entry.name)
        name = (entry / "comm").read_text().strip()
        there = Stopped(process, thread)
        try:
            results = {}
            opened = []
            for attempt in plan:
                result = there.call(attempt["call"], attempt["arguments"])
                results[attempt["name"]] = -result if result < 0 else 0
                there.returned[attempt["name"]] = result
                if result > 2 and attempt.get("opens"):
                    opened.append(result)
            # Nothing is left behind.
            for descriptor in opened:
                there.call(CLOSE, [descriptor])
        finally:
            there.go()
        print(json.dumps({"thread": name, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
