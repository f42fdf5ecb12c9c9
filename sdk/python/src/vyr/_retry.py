"""Owns when a call that failed is made again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from ._errors import ABOUT_CERTIFICATES, Error, ErrorKind, UsageError

_AGAIN = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED})


def may_pass(error: Error) -> bool:
    """Whether another try may work."""
    return error.kind in _AGAIN and error.next != ABOUT_CERTIFICATES


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call that met `unavailable` or `exhausted` is made again, and after what wait.

    The wait doubles from try to try, and up to as much again is added by chance. Where the node says how long to wait
    (`google.rpc.RetryInfo`), it is no shorter than that. A stream that got on begins to count anew. A certificate that isn't
    trusted is not tried again.

    Attributes:
        tries: All tries together, the first included. 1: nothing is tried again.
        initial_backoff: The wait before the second try, in seconds.
        factor: What the wait is multiplied by for each further try.
        max_backoff: The longest wait before chance is added, in seconds.
        deadline: No further try begins when so many seconds have passed since the first failure.
    """

    tries: int = 5
    initial_backoff: float = 0.2
    factor: float = 2.0
    max_backoff: float = 5.0
    deadline: float = 60.0

    def __post_init__(self) -> None:
        if self.tries < 1 or self.factor < 1 or min(self.initial_backoff, self.max_backoff, self.deadline) < 0:
            raise UsageError(f"{self} makes no sense: at least one try, a factor of at least 1, no negative times")


NEVER = Retry(tries=1)


class Attempts:
    """The tries of one call, or of one stream since it last got on."""

    def __init__(
        self,
        policy: Retry,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._failed = 0
        self._since = 0.0
        self.met_unavailable = False
        """Whether a try ended without an answer, so that nobody knows what became of it."""

    def got_on(self) -> None:
        """What failed before doesn't count any more."""
        self._failed = 0

    def wait_after(self, error: Error) -> float:
        """How many seconds to wait before the next try.

        Raises:
            Error: The one given, where there is no next try.
        """
        now = self._clock()
        if self._failed == 0:
            self._since = now
        self._failed += 1
        self.met_unavailable = self.met_unavailable or error.kind is ErrorKind.UNAVAILABLE
        if not may_pass(error) or self._failed >= self._policy.tries:
            raise error
        policy = self._policy
        # The exponent has a bound of its own, since a float's doesn't wrap: it raises.
        backoff = min(policy.max_backoff, policy.initial_backoff * policy.factor ** min(self._failed - 1, 64))
        wait = max(backoff * (1 + self._chance()), error.retry_after or 0.0)
        if now - self._since + wait > policy.deadline:
            raise error
        return wait
