"""Lines near those that are given: `mutate.py SEED LINES <events.ndjson`. What both programs make of them has to be the same; nobody says what."""

import random
import sys

PIECES = [piece.encode("utf-8", "surrogatepass") for piece in (
    *'{}[],:"\\/-0+.eE \t\r\v\0\x7f\x85é\u2028\ufeff\ud800',
    "\\u", "\\ud800", "\\udc00", "\\u0061", "null", "true", "NaN", "-Infinity", "-0", "9" * 18, "9" * 19, "[" * 31, '{"a":' * 31,
    "}" * 31, '"value":1', '"data":{}', '"id":"x"', '"type":"heartbeat"', '"type":"a.heartbeat"', '"time":"2026-02-28T23:59:59-00:59"',
)] + [b"\xff", b"\xc3", b"\xa9", b"\xc0\x80"]  # fmt: skip


def mutated(chance, lines):
    line = bytearray(chance.choice(lines))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(line) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            line[at:at] = chance.choice(PIECES)
        elif kind == 1:
            del line[at : at + chance.choice((1, 1, 2, 5, 20))]
        elif kind == 2:
            line[at : at + 1] = chance.choice((bytes([chance.randrange(256)]), chance.choice(PIECES)))
        elif kind == 3:
            line[at:at] = line[at : at + chance.randrange(60)]
        else:
            other = chance.choice(lines)
            line[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(line)


def main():
    chance, count = random.Random(int(sys.argv[1])), int(sys.argv[2])
    lines = [line for line in sys.stdin.buffer.read().split(b"\n") if len(line) < 3000]
    # Without a newline at its end, which is a case of its own.
    sys.stdout.buffer.write(b"\n".join(mutated(chance, lines) for _ in range(count)))


main()
