"""Owns what is submitted: a task's specification, and how it becomes a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ._errors import UsageError, building
from ._proto import task_pb2 as pb
from ._values import Duration, to_duration, to_proto_duration, to_time, to_timestamp
from ._words import ExecutionPath, OnBusy, OnInterrupt, PullPolicy, RetryOn, number, word


@dataclass(frozen=True, slots=True)
class Limits:
    """What a task may use.

    Attributes:
        memory_bytes: All its memory together, in bytes. None: 1 GiB.
        timeout: Wall-clock time of one attempt, as a `timedelta` or in seconds. None: no limit.
        cpu: CPU time of one attempt, likewise.
        log_bytes: How many bytes of output are kept, of all attempts together; the rest is dropped and counted.
            None: 4 MiB. At most 64 MiB.
    """

    memory_bytes: int | None = None
    timeout: Duration | None = None
    cpu: Duration | None = None
    log_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When the node makes another attempt at a task. Not to be confused with `Retry`, which is about calls.

    Attributes:
        max_attempts: All attempts together, the first included. At most 100.
        on: What another attempt is made for. At least one.
        initial_backoff: The wait before the second attempt, as a `timedelta` or in seconds; doubled for each further one.
            None: 1 s.
        max_backoff: The longest wait. None: 1 min.
    """

    max_attempts: int
    on: Sequence[RetryOn | str] = (RetryOn.FAILURE,)
    initial_backoff: Duration | None = None
    max_backoff: Duration | None = None


@dataclass(frozen=True, slots=True)
class StateBinding:
    """A state that a task sees as the folder `/state/<alias>`.

    Attributes:
        state: The state's name or id.
        alias: The name of the folder under `/state`.
        read_only: The guest may only read it.
        on_busy: For one that writes: what becomes of the task if there is another writer.
    """

    state: str
    alias: str
    read_only: bool = False
    on_busy: OnBusy | str = OnBusy.WAIT


@dataclass(frozen=True, slots=True)
class Deterministic:
    """What a guest's time and chance are made from.

    Attributes:
        seed: Chance.
        start: The wall clock at the guest's start. None: the beginning of the year 2000.
    """

    seed: int = 0
    start: datetime | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """How a task's container is run, where that is the way. What is left open, the image says.

    Attributes:
        entrypoint: In place of the image's.
        user: `name`, `uid`, `name:group` or `uid:gid`.
        working_dir: The folder that it starts in, an absolute path.
        writable_root: It may write to its root. What it writes is gone afterwards.
        pids: Processes and threads at most. None: 1024.
        disk_bytes: All that it writes, in bytes; held in memory. None: half of the memory limit, at most 1 GiB.
        cpus: How many processors it may keep busy, to a thousandth. None: all.
        stop_grace: How long it has between the stop signal and being killed, as a `timedelta` or in seconds. None: 10 s.
    """

    entrypoint: Sequence[str] = ()
    user: str | None = None
    working_dir: str | None = None
    writable_root: bool = False
    pids: int | None = None
    disk_bytes: int | None = None
    cpus: float | None = None
    stop_grace: Duration | None = None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What is to be executed, and how.

    In a `Task` it is what was submitted, without the values of variables and without standard input.

    Attributes:
        reference: The artifact: `host[:port]/repository[:tag][@digest]`, or a bare digest for what the node's store holds.
        args: Arguments after the program's name.
        env: The whole environment of the guest; nothing is inherited.
        stdin: The guest's standard input. At most 1 MiB.
        limits: What it may use.
        on_interrupt: What becomes of it if the node dies while it runs.
        retry: When the node tries it again. None: never.
        pull: When the registry is asked.
        allow_unsigned: Go on where the trust policy refuses; recorded. The node must have been started to accept it.
        allow_net: Whom the guest may reach over the network, each `host:port`. Empty: nobody.
        states: States that it sees.
        labels: Free words for finding it again.
        traceparent: The W3C trace context that its trace goes on from. None: the call's own.
        receipt_values: Its receipt has the values of arguments and variables, not their hashes alone.
        deterministic: Time and chance are made from this, so that the output is the same each time. None: they are the
            machine's.
        path: Which way it is executed. None: as Wasm, and as the container beside it where the Wasm can't be started.
        container: How its container is run.
    """

    reference: str
    args: Sequence[str] = ()
    # Not in the repr: both may hold secrets.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    stdin: bytes = field(default=b"", repr=False)
    limits: Limits = field(default_factory=Limits)
    on_interrupt: OnInterrupt | str = OnInterrupt.LOSE
    retry: RetryPolicy | None = None
    pull: PullPolicy | str = PullPolicy.MISSING
    allow_unsigned: bool = False
    allow_net: Sequence[str] = ()
    states: Sequence[StateBinding] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None
    receipt_values: bool = False
    deterministic: Deterministic | None = None
    path: ExecutionPath | str | None = None
    container: Container | None = None


def words(values: Sequence[str], name: str) -> list[str]:
    """A list of words; a lone string, which Python takes for a list of its letters, is a mistake."""
    if isinstance(values, str):
        raise UsageError(f"{name}: a list of words, not one: write [{values!r}]")
    return list(values)


def to_proto(spec: TaskSpec) -> pb.TaskSpec:
    """The message.

    Raises:
        UsageError: A value that it can't hold, by its field.
    """
    with building("the specification"):
        return pb.TaskSpec(
            reference=spec.reference,
            args=words(spec.args, "args"),
            env=dict(spec.env),
            stdin=spec.stdin,
            limits=pb.Limits(
                memory_bytes=spec.limits.memory_bytes or 0,
                timeout=to_proto_duration(spec.limits.timeout, "limits.timeout"),
                cpu=to_proto_duration(spec.limits.cpu, "limits.cpu"),
                log_bytes=spec.limits.log_bytes or 0,
            ),
            on_interrupt=number(OnInterrupt, pb.OnInterrupt, spec.on_interrupt, "on_interrupt"),  # type: ignore[arg-type]
            retry=_retry(spec.retry),
            pull=number(PullPolicy, pb.PullPolicy, spec.pull, "pull"),  # type: ignore[arg-type]
            allow_unsigned=spec.allow_unsigned,
            allow_net=words(spec.allow_net, "allow_net"),
            states=[_binding(binding) for binding in spec.states],
            labels=dict(spec.labels),
            traceparent=spec.traceparent or "",
            receipt_values=spec.receipt_values,
            deterministic=_deterministic(spec.deterministic),
            path=number(ExecutionPath, pb.ExecutionPath, spec.path, "path") if spec.path else 0,  # type: ignore[arg-type]
            container=_container(spec.container),
        )


def _retry(retry: RetryPolicy | None) -> pb.RetryPolicy | None:
    if retry is None:
        return None
    return pb.RetryPolicy(
        max_attempts=retry.max_attempts,
        on=[number(RetryOn, pb.RetryOn, on, "retry.on") for on in words(retry.on, "retry.on")],  # type: ignore[misc]
        initial_backoff=to_proto_duration(retry.initial_backoff, "retry.initial_backoff"),
        max_backoff=to_proto_duration(retry.max_backoff, "retry.max_backoff"),
    )


def _binding(binding: StateBinding) -> pb.StateBinding:
    return pb.StateBinding(
        state=binding.state,
        alias=binding.alias,
        read_only=binding.read_only,
        on_busy=number(OnBusy, pb.OnBusy, binding.on_busy, "states.on_busy"),  # type: ignore[arg-type]
    )


def _deterministic(made: Deterministic | None) -> pb.Deterministic | None:
    if made is None:
        return None
    start = None if made.start is None else to_timestamp(made.start, "deterministic.start")
    return pb.Deterministic(seed=made.seed, start=start)


def _container(container: Container | None) -> pb.Container | None:
    if container is None:
        return None
    return pb.Container(
        entrypoint=words(container.entrypoint, "container.entrypoint"),
        user=container.user or "",
        working_dir=container.working_dir or "",
        writable_root=container.writable_root,
        pids=container.pids or 0,
        disk_bytes=container.disk_bytes or 0,
        cpus_milli=round((container.cpus or 0) * 1000),
        stop_grace=to_proto_duration(container.stop_grace, "container.stop_grace"),
    )


def from_proto(spec: pb.TaskSpec) -> TaskSpec:
    """What a node says was submitted."""
    limits = spec.limits
    return TaskSpec(
        reference=spec.reference,
        args=tuple(spec.args),
        env=dict(spec.env),
        stdin=spec.stdin,
        limits=Limits(
            memory_bytes=limits.memory_bytes or None,
            timeout=to_duration(limits.timeout) if limits.HasField("timeout") else None,
            cpu=to_duration(limits.cpu) if limits.HasField("cpu") else None,
            log_bytes=limits.log_bytes or None,
        ),
        on_interrupt=word(OnInterrupt, pb.OnInterrupt, spec.on_interrupt, unset=OnInterrupt.LOSE),
        retry=_retry_from(spec.retry) if spec.HasField("retry") else None,
        pull=word(PullPolicy, pb.PullPolicy, spec.pull, unset=PullPolicy.MISSING),
        allow_unsigned=spec.allow_unsigned,
        allow_net=tuple(spec.allow_net),
        states=tuple(
            StateBinding(
                state=bound.state,
                alias=bound.alias,
                read_only=bound.read_only,
                on_busy=word(OnBusy, pb.OnBusy, bound.on_busy, unset=OnBusy.WAIT),
            )
            for bound in spec.states
        ),
        labels=dict(spec.labels),
        traceparent=spec.traceparent or None,
        receipt_values=spec.receipt_values,
        deterministic=_deterministic_from(spec.deterministic) if spec.HasField("deterministic") else None,
        path=word(ExecutionPath, pb.ExecutionPath, spec.path, unset=ExecutionPath.UNKNOWN) if spec.path else None,
        container=_container_from(spec.container) if spec.HasField("container") else None,
    )


def _retry_from(retry: pb.RetryPolicy) -> RetryPolicy:
    # A reason that this version has no word for is left out: it has no way to say it.
    on = (word(RetryOn, pb.RetryOn, reason, unset=RetryOn.FAILURE) for reason in retry.on if reason in (1, 2, 3))
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        on=tuple(on),
        initial_backoff=to_duration(retry.initial_backoff) if retry.HasField("initial_backoff") else None,
        max_backoff=to_duration(retry.max_backoff) if retry.HasField("max_backoff") else None,
    )


def _deterministic_from(made: pb.Deterministic) -> Deterministic:
    return Deterministic(seed=made.seed, start=to_time(made.start) if made.HasField("start") else None)


def _container_from(container: pb.Container) -> Container:
    return Container(
        entrypoint=tuple(container.entrypoint),
        user=container.user or None,
        working_dir=container.working_dir or None,
        writable_root=container.writable_root,
        pids=container.pids or None,
        disk_bytes=container.disk_bytes or None,
        cpus=container.cpus_milli / 1000 if container.cpus_milli else None,
        stop_grace=to_duration(container.stop_grace) if container.HasField("stop_grace") else None,
    )
