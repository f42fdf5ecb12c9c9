"""Owns which node is spoken to and what is shown to it, found in the same places as by the `vyr` command."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from ._errors import UsageError

AnyPath: TypeAlias = str | os.PathLike[str]

DEFAULT = "http://127.0.0.1:7070"
_FORMS = "write http://HOST:PORT, https://HOST:PORT or unix:PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens.

    Attributes:
        text: As it is shown to people.
        target: As gRPC has it.
        tls: Whether it speaks TLS.
        loopback: Whether what is sent stays on this machine.
    """

    text: str
    target: str
    tls: bool
    loopback: bool

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Address:
    """An address as it is written.

    Raises:
        UsageError: It is none.
    """
    if text.startswith("unix:"):
        # Also as a URL with an empty host, as gRPC writes it.
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise _bad(text, "it has no path")
        return Address(text, f"unix:{Path(path).absolute()}", tls=False, loopback=True)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise _bad(text, str(error)) from None
    if url.username is not None or url.password is not None:
        raise UsageError("a node's address carries no user name or password", next="give the token, or the file that it is in")
    if url.scheme not in {"http", "https"}:
        raise _bad(text, "it doesn't begin with http://, https:// or unix:")
    if url.path not in {"", "/"} or url.query or url.fragment or text.endswith(("?", "#")):
        raise _bad(text, "something follows the port")
    if not url.hostname:
        raise _bad(text, "it has no host")
    return _tcp(url, url.hostname, port)


def _tcp(url: SplitResult, host: str, port: int | None) -> Address:
    tls = url.scheme == "https"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    loopback = ip.is_loopback if ip else host == "localhost"
    written = f"[{host}]" if ip and ip.version == 6 else host
    text = f"{url.scheme}://{written}" + (f":{port}" if port is not None else "")
    target = f"{written}:{port if port is not None else 443 if tls else 80}"
    return Address(text, f"ipv{ip.version}:{target}" if ip else f"dns:{target}", tls, loopback)


def _bad(text: str, why: str) -> UsageError:
    # What stands before an @ may be a password.
    return UsageError(f"`{text.rpartition('@')[2]}` is not a node's address: {why}", next=_FORMS)


def home() -> Path:
    """The data folder: `VYR_HOME`, else `vyr` in the XDG data folder."""
    if named := os.environ.get("VYR_HOME"):
        return Path(named).absolute()
    data = os.environ.get("XDG_DATA_HOME", "")
    # The specification says that one which isn't absolute doesn't count.
    folder = Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share"
    return folder / "vyr"


def found(folder: AnyPath | None) -> Address:
    """The node that nobody named: `VYR_NODE`, else the socket in the data folder, else the default.

    Raises:
        UsageError: `VYR_NODE` is no address.
    """
    if named := os.environ.get("VYR_NODE"):
        try:
            return parse(named)
        except UsageError as error:
            raise UsageError(f"VYR_NODE: {error.message}", next=error.next) from None
    try:
        socket = (home() if folder is None else Path(folder).absolute()) / "node.sock"
    except RuntimeError:
        # No home folder is known.
        return parse(DEFAULT)
    return parse(f"unix:{socket}") if socket.exists() else parse(DEFAULT)


@dataclass(frozen=True, slots=True)
class Target:
    """A node, and what is shown to it. The secrets are in no `repr`.

    Attributes:
        address: Where it listens.
        token: The bearer token.
        authority: Whom to trust for its certificate, as PEM; None: whom gRPC trusts.
        certificate: What to show it, as PEM.
        key: The private key of that, as PEM.
    """

    address: Address
    token: str | None = field(repr=False)
    authority: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


def target(
    address: str | None,
    token: str | None,
    token_file: AnyPath | None,
    ca_file: AnyPath | None,
    cert_file: AnyPath | None,
    key_file: AnyPath | None,
    folder: AnyPath | None,
) -> Target:
    """All of it, out of what the caller gave and the environment.

    Raises:
        UsageError: Something of it can't be used, or doesn't go together.
    """
    where = found(folder) if address is None else parse(address)
    shown = _token(token, token_file)
    if shown is not None and not where.tls and not where.loopback:
        raise UsageError(
            f"the token isn't sent to {where}: over plain http everybody on the way could read it",
            next="use https:// (with ca_file for a private authority), or leave the token out",
        )
    if (cert_file is None) != (key_file is None):
        raise UsageError("cert_file and key_file belong together", next="give both, or neither")
    if not where.tls:
        if ca_file is not None or cert_file is not None:
            raise UsageError(f"ca_file and cert_file are for https; the node is {where}")
        return Target(where, shown)
    return Target(
        where,
        shown,
        _system_authorities() if ca_file is None else _read(ca_file),
        None if cert_file is None else _read(cert_file),
        None if key_file is None else _read(key_file),
    )


def _token(token: str | None, token_file: AnyPath | None) -> str | None:
    if token is None and token_file is None:
        token = os.environ.get("VYR_TOKEN") or None
        token_file = None if token else os.environ.get("VYR_TOKEN_FILE") or None
    elif token is not None and token_file is not None:
        raise UsageError("a token and the file of one were given", next="give one of them")
    if token_file is not None:
        token = _read(token_file).decode("utf-8", errors="replace")
    if token is None:
        return None
    # It must not stand in the errors.
    token = token.strip()
    if not token:
        raise UsageError("the token can't be used: it is empty")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("the token can't be used: it holds what isn't a printable ASCII character")
    return token


def _read(path: AnyPath) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{os.fspath(path)} can't be read: {error.strerror}") from error


# Where distributions keep the authorities that the machine trusts, in one file.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


def _system_authorities() -> bytes | None:
    """Whom the machine trusts: gRPC by itself knows its own list alone, without an authority that was added here."""
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    for path in (ssl.get_default_verify_paths().cafile, *_BUNDLES):
        if path and Path(path).is_file():
            return _read(path)
    return None
