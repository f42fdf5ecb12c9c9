"""Sockets, tokens, TLS and certificates, with both clients."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeClient, MakeHome, MakeNode
from support import Node

import vyr


def test_a_socket_needs_no_credential(
    node: Node, make_client: MakeClient, pushed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is found by itself.
    monkeypatch.setenv("VYR_HOME", str(node.home.data))
    client = make_client()
    assert client.address == f"unix:{node.home.data}/node.sock"
    task = client.run(pushed["hello"]).check().task
    assert task.submitter.startswith("uid:")
    monkeypatch.chdir(node.home.data)
    assert make_client("unix:node.sock").get_node().version


def test_a_proxy_of_the_machine_s_is_not_asked(node: Node, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert make_client(node.address, retry=None).get_node().version


def test_a_token_lets_in_and_its_absence_does_not(
    make_node: MakeNode, make_home: MakeHome, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, file = make_home(), tmp_path / "tokens"
    token = home.vyr("token", "add", "ci", "--file", file).strip()
    node = make_node("--token-file", file, home=home)
    # A connection is no call: it needs none.
    stranger = make_client(node.address)
    stranger.connect()
    for client in (stranger, make_client(node.address, token="vyr_other")):
        with pytest.raises(vyr.UnauthorizedError) as error:
            client.get_node()
        assert token not in str(error.value)
    assert make_client(node.address, token=token).get_node().version
    kept = tmp_path / "kept"
    kept.write_text(f"{token}\n")
    assert make_client(node.address, token_file=kept).get_node().version
    monkeypatch.setenv("VYR_TOKEN", token)
    assert make_client(node.address).get_node().version
    with pytest.raises(vyr.NotFoundError):
        list(make_client(node.address).logs("01a213e3-fbed-734d-8c3f-ce8ad56a33c0"))
    # One for the registry alone.
    limited = home.vyr("token", "add", "pusher", "--file", file, "--write", "team").strip()
    with pytest.raises(vyr.ForbiddenError):
        make_client(node.address, token=limited).get_node()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a certificate for a node and one for a client, as docs/node.md makes them."""
    if not shutil.which("openssl"):
        pytest.fail("openssl is missing; run: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=fleet", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=other", "-keyout", "other.key", "-out", "other.pem")
    for name, extensions in {
        "node": ["subjectAltName=DNS:localhost,IP:127.0.0.1", "extendedKeyUsage=serverAuth"],
        "alice": ["extendedKeyUsage=clientAuth"],
    }.items():
        more = [word for extension in extensions for word in ("-addext", extension)]
        openssl(*new, "-subj", f"/CN={name}", *more, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-copy_extensions", "copy", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


def test_tls_with_a_token(
    make_node: MakeNode, make_home: MakeHome, make_client: MakeClient, certificates: Path, tmp_path: Path
) -> None:
    home, file = make_home(), tmp_path / "tokens"
    token = home.vyr("token", "add", "ci", "--file", file).strip()
    node = make_node(
        "--tls-cert", certificates / "node.pem", "--tls-key", certificates / "node.key", "--token-file", file, home=home
    )
    address = f"https://localhost:{node.port}"
    client = make_client(address, ca_file=certificates / "ca.pem", token=token)
    client.connect()
    assert client.get_node().version
    assert make_client(f"https://127.0.0.1:{node.port}", ca_file=certificates / "ca.pem", token=token).get_node()
    # Not trusted, and not tried again: that would take seconds.
    for untrusted in ({"ca_file": certificates / "other.pem"}, {}):
        with pytest.raises(vyr.UnavailableError) as error:
            make_client(address, token=token, **untrusted).get_node()
        assert "ca_file" in (error.value.next or ""), error.value
    with pytest.raises(vyr.UnavailableError):
        make_client(f"http://localhost:{node.port}", retry=None).get_node()


def test_mutual_tls(make_node: MakeNode, make_client: MakeClient, certificates: Path, guests: dict[str, Path]) -> None:
    in_folder: Callable[[str], Path] = certificates.joinpath
    node = make_node(
        "--tls-cert", in_folder("node.pem"), "--tls-key", in_folder("node.key"), "--client-ca", in_folder("ca.pem")
    )
    address = f"https://localhost:{node.port}"
    shown: dict[str, Any] = {"cert_file": in_folder("alice.pem"), "key_file": in_folder("alice.key")}
    client = make_client(address, ca_file=in_folder("ca.pem"), **shown)
    assert client.get_node().version
    missing = client.run(vyr.TaskSpec("localhost:1/none:v1", pull="never")).task
    assert missing.submitter.startswith("certificate:")
    with pytest.raises(vyr.UnavailableError) as error:
        make_client(address, ca_file=in_folder("ca.pem"), retry=None).get_node()
    assert error.value.next
