"""Which node is spoken to, and what is shown to it."""

from __future__ import annotations

from pathlib import Path

import pytest

import vyr
from vyr import _address
from vyr._address import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/vyr.sock", Address("unix:/run/vyr.sock", "unix:/run/vyr.sock", tls=False, loopback=True)),
        ("unix:///run/vyr.sock", Address("unix:///run/vyr.sock", "unix:/run/vyr.sock", tls=False, loopback=True)),
        ("unix:a", Address("unix:a", f"unix:{Path('a').absolute()}", tls=False, loopback=True)),
        ("http://127.0.0.1:7070", Address("http://127.0.0.1:7070", "ipv4:127.0.0.1:7070", tls=False, loopback=True)),
        ("http://[::1]:7070/", Address("http://[::1]:7070", "ipv6:[::1]:7070", tls=False, loopback=True)),
        ("http://localhost:7070", Address("http://localhost:7070", "dns:localhost:7070", tls=False, loopback=True)),
        ("http://localhost", Address("http://localhost", "dns:localhost:80", tls=False, loopback=True)),
        (
            "http://127.0.0.1.example:1",
            Address("http://127.0.0.1.example:1", "dns:127.0.0.1.example:1", tls=False, loopback=False),
        ),
        ("https://node.example", Address("https://node.example", "dns:node.example:443", tls=True, loopback=False)),
        ("https://10.0.0.1:7443", Address("https://10.0.0.1:7443", "ipv4:10.0.0.1:7443", tls=True, loopback=False)),
    ],
)
def test_addresses_are_read(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "unix://", "localhost:7070", "127.0.0.1:7070", "ftp://a:1", "http://a:1/v2", "http://a:1?b", "http://a:1#b",
     "http://a:99999", "http://a:b", "http://", "http://[::1"],
)  # fmt: skip
def test_what_is_none_says_how_one_is_written(text: str) -> None:
    with pytest.raises(vyr.UsageError, match="is not a node's address") as error:
        parse(text)
    assert "unix:PATH" in str(error.value)


@pytest.mark.parametrize("text", ["http://me:s3cret@a:1", "http://me:s3cret@a:1/v2", "http://me:s3cret@a:b", "me:s3cret@a:1"])
def test_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(vyr.UsageError) as error:
        parse(text)
    assert "s3cret" not in str(error.value)


def test_a_node_that_nobody_named_is_found_as_by_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert vyr.Client().address == "http://127.0.0.1:7070"
    data = tmp_path / ".local/share/vyr"
    data.mkdir(parents=True)
    (data / "node.sock").touch()
    assert vyr.Client().address == f"unix:{data}/node.sock"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert vyr.Client().address == "http://127.0.0.1:7070"
    # The specification says that one which isn't absolute doesn't count.
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert vyr.Client().address == f"unix:{data}/node.sock"
    monkeypatch.setenv("VYR_HOME", str(tmp_path / "none"))
    assert vyr.Client().address == "http://127.0.0.1:7070"
    assert vyr.Client(home=data).address == f"unix:{data}/node.sock"
    monkeypatch.setenv("VYR_NODE", "http://localhost:1")
    assert vyr.Client().address == "http://localhost:1"
    assert vyr.Client("http://localhost:2").address == "http://localhost:2"
    monkeypatch.setenv("VYR_NODE", "nonsense")
    with pytest.raises(vyr.UsageError, match="VYR_NODE: `nonsense`"):
        vyr.Client()


def token(**given: str | Path) -> str | None:
    address = given.pop("address", "http://localhost:1")
    return _address.target(str(address), given.get("token"), given.get("token_file"), None, None, None, None).token  # type: ignore[arg-type]


def test_the_token_is_taken_from_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, other = tmp_path / "token", tmp_path / "other"
    file.write_text(" of-the-file\n")
    other.write_text("of-the-other")
    assert token() is None
    monkeypatch.setenv("VYR_TOKEN_FILE", str(other))
    assert token() == "of-the-other"
    monkeypatch.setenv("VYR_TOKEN", "of-the-variable")
    assert token() == "of-the-variable"
    assert token(token_file=file) == "of-the-file"
    assert token(token="given") == "given"
    with pytest.raises(vyr.UsageError, match="give one"):
        token(token="given", token_file=file)
    with pytest.raises(vyr.UsageError, match="can't be read"):
        token(token_file=tmp_path / "none")


@pytest.mark.parametrize("bad", ["", "  \n", "s3cret s3cret", "s3cret\u00e9", "s3cret\nx"])
def test_a_token_that_cannot_be_one_is_not_repeated(bad: str) -> None:
    with pytest.raises(vyr.UsageError, match="the token can't be used") as error:
        token(token=bad)
    assert "s3cret" not in str(error.value)


def test_a_token_is_shown_nowhere() -> None:
    target = _address.target("http://localhost:1", "s3cret", None, None, None, None, None)
    client = vyr.Client("http://localhost:1", token="s3cret")
    assert "s3cret" not in repr(target) + repr(client) + repr(vars(client))
    assert repr(client) == "Client('http://localhost:1')"


def test_a_token_is_not_sent_to_another_machine_in_the_clear() -> None:
    with pytest.raises(vyr.UsageError, match="plain http"):
        token(address="http://node.example:7070", token="t")
    for fine in ("https://node.example:7070", "http://127.0.0.1:7070", "unix:/run/vyr.sock"):
        assert token(address=fine, token="t") == "t"


def test_certificates_go_together_and_with_https(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.write_text("x")
    with pytest.raises(vyr.UsageError, match="for https; the node is http://localhost:1"):
        vyr.Client("http://localhost:1", ca_file=pem)
    for half in ({"cert_file": pem}, {"key_file": pem}):
        with pytest.raises(vyr.UsageError, match="belong together"):
            vyr.Client("https://localhost:1", **half)  # type: ignore[arg-type]
    with pytest.raises(vyr.UsageError, match=r"none\.pem can't be read"):
        vyr.Client("https://localhost:1", ca_file=tmp_path / "none.pem")


def test_other_settings_that_make_no_sense() -> None:
    with pytest.raises(vyr.UsageError, match="no W3C trace context"):
        vyr.Client(traceparent="00-1-2-3")
    with pytest.raises(vyr.UsageError, match="answer_timeout"):
        vyr.Client(answer_timeout=-1)
    with pytest.raises(vyr.UsageError, match="makes no sense"):
        vyr.Retry(tries=0)
