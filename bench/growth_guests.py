"""Wasm modules written byte by byte, so that measuring needs no tool that makes them: a sleeper, and modules of any size."""

import random

CONST, LOCAL_GET, LOCAL_SET, CALL, DROP, END = b"\x41", b"\x20", b"\x21", b"\x10", b"\x1a", b"\x0b"
UNITS_IN_FUNCTION = 110
LEAVES = 4


def unsigned(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def signed(value: int) -> bytes:
    out = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        done = value == (-1 if low & 0x40 else 0)
        out.append(low | (0 if done else 0x80))
        if done:
            return bytes(out)


def sized(content: bytes) -> bytes:
    return unsigned(len(content)) + content


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + sized(content)


def vector(items: list[bytes]) -> bytes:
    return unsigned(len(items)) + b"".join(items)


def function(parameters: int, results: int) -> bytes:
    """The type of a function over i32."""
    return b"\x60" + sized(b"\x7f" * parameters) + sized(b"\x7f" * results)


def exports(start: int) -> bytes:
    return section(7, vector([sized(b"memory") + b"\x02\x00", sized(b"_start") + b"\x00" + unsigned(start)]))


def variant(module: bytes, word: str) -> bytes:
    """The same code under another digest, by a custom section at the end."""
    return module + section(0, sized(b"variant") + word.encode())


def sleeper(seconds: float) -> bytes:
    """Writes to all of its one page of memory, so that all of it is resident, then waits once in `poll_oneoff`."""
    i32 = lambda value: CONST + signed(value)
    store = lambda place, value: i32(place) + b"\x42" + signed(value) + b"\x37\x03\x00"
    body = [
        i32(0) + i32(1) + i32(65536) + b"\xfc\x0b\x00",  # memory.fill
        # A subscription: a number of its own, the kind (a clock), the clock (monotonic), how long, how exactly, relative.
        store(0, 0) + store(8, 0) + store(16, 1) + store(24, int(seconds * 1e9)) + store(32, 0) + store(40, 0),
        i32(0) + i32(64) + i32(1) + i32(128) + CALL + b"\x00" + DROP + END,
    ]
    imported = sized(b"wasi_snapshot_preview1") + sized(b"poll_oneoff") + b"\x00\x00"
    return b"".join(
        [
            b"\0asm\x01\0\0\0",
            section(1, vector([function(4, 1), function(0, 0)])),
            section(2, vector([imported])),
            section(3, vector([b"\x01"])),
            section(5, vector([b"\x01\x01\x01"])),
            exports(1),
            section(10, vector([sized(b"\x00" + b"".join(body))])),
        ]
    )


def units(drawn: random.Random) -> list[bytes]:
    """Pieces that take the two locals as they are and leave them changed: arithmetic, loads, stores, branches, calls."""

    def number() -> bytes:
        return CONST + signed(drawn.getrandbits(32) - (1 << 31))

    def local() -> bytes:
        return bytes([drawn.randrange(2)])

    def place() -> bytes:
        return LOCAL_GET + local() + CONST + signed(0xFFF0) + b"\x71"  # i32.and: within the one page

    pieces = []
    for _ in range(4096):
        kind, to = drawn.random(), LOCAL_SET + local()
        operation = bytes([drawn.choice(b"\x6a\x6b\x6c\x71\x72\x73\x74\x77")])  # add … rotl
        if kind < 0.65:
            pieces.append(LOCAL_GET + local() + number() + operation + LOCAL_GET + local() + operation + to)
        elif kind < 0.75:
            pieces.append(place() + b"\x28\x02" + unsigned(drawn.randrange(4) * 4) + to)
        elif kind < 0.85:
            pieces.append(place() + LOCAL_GET + local() + b"\x36\x02" + unsigned(drawn.randrange(4) * 4))
        elif kind < 0.95:
            arm = LOCAL_GET + local() + number() + operation + to
            pieces.append(LOCAL_GET + local() + number() + b"\x48\x04\x40" + arm + b"\x05" + arm + END)  # lt_s, if, else
        else:
            called = CALL + unsigned(drawn.randrange(LEAVES))
            pieces.append(LOCAL_GET + b"\x00" + LOCAL_GET + b"\x01" + called + to)
    return pieces


def module(code_bytes: int, seed: int = 1) -> bytes:
    """A module whose code section has about that many bytes, in functions of some 1.2 KiB each of which is another."""
    drawn = random.Random(seed)
    pieces = units(drawn)
    leaf = [piece for piece in pieces if CALL not in piece]
    result = LOCAL_GET + b"\x00" + LOCAL_GET + b"\x01" + b"\x73" + END
    bodies: list[bytes] = []
    total = 0
    while total < code_bytes:
        chosen = drawn.choices(leaf if len(bodies) < LEAVES else pieces, k=UNITS_IN_FUNCTION)
        bodies.append(sized(b"\x00" + b"".join(chosen) + result))
        total += len(bodies[-1])
    start = CONST + b"\x01" + CONST + b"\x02" + CALL + unsigned(len(bodies) - 1) + DROP + END
    bodies.append(sized(b"\x00" + start))
    return b"".join(
        [
            b"\0asm\x01\0\0\0",
            section(1, vector([function(2, 1), function(0, 0)])),
            section(3, vector([b"\x00"] * (len(bodies) - 1) + [b"\x01"])),
            section(5, vector([b"\x01\x01\x01"])),
            exports(len(bodies) - 1),
            section(10, vector(bodies)),
        ]
    )
