"""HTTP/2 by hand, as far as an attack needs it: frames, literal headers, and what a peer answers."""

import socket
import ssl
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(*pairs: tuple[str, str]) -> bytes:
    """Literals that nobody indexes (RFC 7541, section 6.2.2)."""

    def text(word: str) -> bytes:
        raw, length = word.encode(), len(word)
        if length < 127:
            return bytes([length]) + raw
        out, rest = [127], length - 127
        while rest >= 128:
            out.append(rest % 128 + 128)
            rest //= 128
        return bytes([*out, rest]) + raw

    return b"".join(b"\x00" + text(name) + text(value) for name, value in pairs)


def call(path: str = "/vyr.control.v0.Control/GetNode", *more: tuple[str, str]) -> bytes:
    pairs = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    return headers(*pairs, ("content-type", "application/grpc"), ("te", "trailers"), *more)


class Connection:
    """One that has said hello."""

    def __init__(self, raw: socket.socket | ssl.SSLSocket, settings: bytes = b"") -> None:
        self.socket = raw
        self.buffer = b""
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def next(self, timeout: float) -> tuple[int, int, int, bytes] | None:
        """The next frame: kind, flags, stream, payload. None when the peer has closed. TimeoutError when nothing comes."""
        self.socket.settimeout(timeout)
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3]):
            try:
                came = self.socket.recv(1 << 16)
            except (ConnectionError, ssl.SSLError):
                return None
            if not came:
                return None
            self.buffer += came
        length = int.from_bytes(self.buffer[:3])
        kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9])
        payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
        return kind, flags, stream, payload

    def tend(self, timeout: float = 0.0) -> bool:
        """Answers what has to be answered. False when the peer has gone."""
        while True:
            try:
                got = self.next(timeout or 0.001)
            except TimeoutError:
                return True
            if got is None or got[0] == GOAWAY:
                return False
            kind, flags, _, payload = got
            try:
                if kind == SETTINGS and not flags & ACK:
                    self.socket.sendall(frame(SETTINGS, ACK, 0))
                elif kind == PING and not flags & ACK:
                    self.socket.sendall(frame(PING, ACK, 0, payload))
            except OSError:
                return False
