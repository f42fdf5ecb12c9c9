"""The clients of bench/overload beyond the cable: they connect, say so, and are cut off. HOST PORT NUMBER CERTIFICATE."""

import socket
import ssl
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import overload_http2 as http2


def main() -> None:
    host, port, number, certificate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    held: list[object] = []

    def connect(protocol: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=certificate)
        context.set_alpn_protocols([protocol])
        return context.wrap_socket(socket.create_connection((host, port), timeout=20), server_hostname="localhost")

    for _ in range(number):
        # One that has had an answer and may ask again.
        idle = connect("http/1.1")
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        if not idle.recv(100).startswith(b"HTTP/1.1 200"):
            raise SystemExit("the node did not answer")
        # One in the middle of its head.
        half = connect("http/1.1")
        half.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        # One whose call goes on: it watches the node's health.
        watch = http2.Connection(connect("h2"))
        watch.socket.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call("/grpc.health.v1.Health/Watch")))
        watch.socket.sendall(http2.frame(http2.DATA, http2.END_STREAM, 1, b"\0\0\0\0\0"))
        watch.tend(0.2)
        held += [idle, half, watch]
    print("there", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
