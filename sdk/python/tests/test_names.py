"""The names that the SDKs share, and that the two clients here are one."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from typing import Any

import grpc
import pytest
from support import REPOSITORY

import vyr
from vyr import _channel, _methods
from vyr._errors import ERRORS, kind_of
from vyr._proto import control_pb2
from vyr._task import _exit_code

NAMES: dict[str, Any] = json.loads((REPOSITORY / "sdk/names.json").read_text())
PYTHON = REPOSITORY / "sdk/python"


def methods(cls: type) -> dict[str, Any]:
    return {name: member for name, member in vars(cls).items() if inspect.isfunction(member) and name[0] != "_"}


@pytest.mark.parametrize("cls", [vyr.Client, vyr.AsyncClient])
def test_the_clients_have_the_methods_that_every_sdk_has(cls: type) -> None:
    assert list(methods(cls)) == NAMES["methods"] or sorted(methods(cls)) == sorted(NAMES["methods"])


def test_the_two_clients_differ_by_asyncio_alone() -> None:
    plain = methods(vyr.Client)
    for name, waits in methods(vyr.AsyncClient).items():
        assert inspect.signature(waits).parameters == inspect.signature(plain[name]).parameters, name
        assert inspect.getdoc(waits) == inspect.getdoc(plain[name]), name
        assert inspect.iscoroutinefunction(waits) == (name not in {"watch", "logs"}), name
    made = subprocess.run([sys.executable, PYTHON / "make_sync.py", "--check"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_every_kind_of_error_has_its_class() -> None:
    assert [str(kind) for kind in vyr.ErrorKind] == NAMES["error_kinds"]
    for kind in vyr.ErrorKind:
        words = "".join(word.capitalize() for word in kind.split("_"))
        cls = getattr(vyr, f"{words}Error")
        assert cls is ERRORS[kind]
        assert issubclass(cls, vyr.Error)
        assert cls.kind is kind


def test_where_only_the_code_is_known_the_kind_goes_by_it() -> None:
    wanted = NAMES["kind_of_code"]
    assert {code.name: str(kind_of(code)) for code in grpc.StatusCode if code is not grpc.StatusCode.OK} == wanted


@pytest.mark.parametrize(
    ("cls", "key"),
    [
        (vyr.TaskStatus, "statuses"),
        (vyr.EndReason, "end_reasons"),
        (vyr.StartTier, "tiers"),
        (vyr.ExecutionPath, "paths"),
        (vyr.StateClass, "state_classes"),
        (vyr.StateKind, "state_kinds"),
        (vyr.LogStream, "log_streams"),
        (vyr.OnInterrupt, "on_interrupt"),
        (vyr.PullPolicy, "pull"),
        (vyr.RetryOn, "retry_on"),
        (vyr.OnBusy, "on_busy"),
    ],
)
def test_the_words_are_those_of_every_sdk(cls: Any, key: str) -> None:
    assert [str(word) for word in cls if word != "unknown"] == NAMES[key]


def test_the_ends_and_their_exit_codes() -> None:
    assert [str(status) for status in vyr.TaskStatus if status.is_end] == NAMES["ends"]
    for reason, code in NAMES["exit_codes"].items():
        end = vyr.TaskEnd(vyr.EndReason(reason), exit_code=-1)
        match code:
            case int():
                assert _exit_code(end) == code, reason
            case str():
                assert _exit_code(end) == 255, reason
                for own, shown in ((0, 0), (257, 1), (256, 1), (-(2**31), 1)):
                    end = vyr.TaskEnd(vyr.EndReason(reason), exit_code=own)
                    assert _exit_code(end) == shown, (reason, own)
            case dict():
                for kind, wanted in code.items():
                    end = vyr.TaskEnd(vyr.EndReason(reason), error_kind=kind)
                    assert _exit_code(end) == wanted, kind


def test_the_bounds_are_those_of_every_sdk() -> None:
    assert vyr.Retry() == vyr.Retry(
        tries=NAMES["retry_policy"]["tries"],
        initial_backoff=NAMES["retry_policy"]["initial_backoff_ms"] / 1000,
        factor=NAMES["retry_policy"]["factor"],
        max_backoff=NAMES["retry_policy"]["max_backoff_ms"] / 1000,
        deadline=NAMES["retry_policy"]["deadline_ms"] / 1000,
    )
    defaults = {name: parameter.default for name, parameter in inspect.signature(vyr.Client).parameters.items()}
    assert defaults["connect_timeout"] * 1000 == NAMES["limits"]["connect_timeout_ms"]
    assert defaults["answer_timeout"] * 1000 == NAMES["limits"]["answer_timeout_ms"]
    from vyr._async import client

    assert NAMES["limits"]["one_wait_ms"] == client._ONE_WAIT * 1000
    assert NAMES["limits"]["max_answer_bytes"] == _channel._MAX_ANSWER


def test_every_call_of_the_interface_is_in_the_table() -> None:
    service = control_pb2.DESCRIPTOR.services_by_name["Control"]
    table = {made.path: made for made in vars(_methods).values() if isinstance(made, _methods.Method)}
    del table[_methods.HEALTH.path]
    assert set(table) == {f"/{service.full_name}/{method.name}" for method in service.methods}
    for method in service.methods:
        made: Any = table[f"/{service.full_name}/{method.name}"]
        assert made.from_bytes(b"").DESCRIPTOR is method.output_type
        message = {
            cls.DESCRIPTOR.name: cls
            for cls in vars(_messages(method.input_type)).values()
            if hasattr(cls, "DESCRIPTOR") and hasattr(cls, "FromString")
        }
        assert made.to_bytes(message[method.input_type.name]()) == b""


def _messages(descriptor: Any) -> Any:
    from vyr._proto import artifact_pb2, node_pb2, state_pb2, task_pb2

    modules = (artifact_pb2, node_pb2, state_pb2, task_pb2)
    return next(module for module in modules if module.DESCRIPTOR is descriptor.file)


def test_one_version_and_one_licence_for_all_of_the_project() -> None:
    cargo = re.search(r'^version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    assert cargo is not None
    assert vyr.__version__ == cargo[1]
    assert (PYTHON / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()
