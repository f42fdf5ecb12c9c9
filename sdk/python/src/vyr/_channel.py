"""Owns how a channel of gRPC's is set up, the same for both clients."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

import grpc

from ._address import Target

Option: TypeAlias = tuple[str, int | str]
Metadata: TypeAlias = tuple[tuple[str, str], ...]

# The longest answer, in bytes.
_MAX_ANSWER = 16 << 20
# How often a silent node is asked whether it is still there, in milliseconds.
_KEEP_ALIVE = 15_000

ALIVE = 40.0
"""A stream that broke after so many seconds without a message had been open: one that gets no connection, or whose other
side is silent, is given up sooner. So it got on, though there was nothing to say."""

try:
    VERSION = version("vyr")
except PackageNotFoundError:
    # Run from the sources without having been installed.
    VERSION = "0"


def options(target: Target, connect_timeout: float) -> list[Option]:
    """What gRPC's core is told."""
    said: list[Option] = [
        ("grpc.primary_user_agent", f"vyr-python/{VERSION}"),
        ("grpc.max_receive_message_length", _MAX_ANSWER),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", _KEEP_ALIVE),
        ("grpc.keepalive_timeout_ms", _KEEP_ALIVE),
        # gRPC pings for its own ends too, and doesn't ask again while the answer to that is outstanding.
        ("grpc.http2.ping_timeout_ms", _KEEP_ALIVE),
        ("grpc.http2.max_pings_without_data", 0),
        # A node that was restarted is found again soon: calls are tried again after short waits. Despite its name the
        # second is how long one attempt to connect may take.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", max(1, round(connect_timeout * 1000))),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # As the command line, which takes no proxy to a node; and else one on this machine would be asked for from there.
        ("grpc.enable_http_proxy", 0),
        # Two clients of one process may show different credentials.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if target.address.target.startswith("unix:"):
        # The path says where the node is, and would be no host that HTTP knows.
        said.append(("grpc.default_authority", "localhost"))
    return said


def credentials(target: Target) -> grpc.ChannelCredentials | None:
    """What TLS needs; None where there is no TLS."""
    if not target.address.tls:
        return None
    return grpc.ssl_channel_credentials(target.authority, target.key, target.certificate)
