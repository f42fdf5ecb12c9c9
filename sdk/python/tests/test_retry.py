"""When a call is made again."""

from __future__ import annotations

import pytest

import vyr
from vyr._errors import ABOUT_CERTIFICATES, ERRORS
from vyr._retry import Attempts


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def waits(attempts: Attempts, error: vyr.Error, clock: Clock, most: int = 1000) -> list[float]:
    """The waits until it is given up; the time passes with them."""
    waited: list[float] = []
    for _ in range(most):
        try:
            wait = attempts.wait_after(error)
        except vyr.Error as raised:
            return waited if raised is error else []
        clock.now += wait
        waited.append(wait)
    return waited


@pytest.fixture
def clock() -> Clock:
    return Clock()


PASSING = vyr.UnavailableError("stopping")


def test_tries_are_bounded_and_their_waits_double(clock: Clock) -> None:
    assert waits(Attempts(vyr.Retry(), clock=clock, chance=lambda: 0.0), PASSING, clock) == [0.2, 0.4, 0.8, 1.6]
    assert waits(Attempts(vyr.Retry(), clock=clock, chance=lambda: 1.0), PASSING, clock) == [0.4, 0.8, 1.6, 3.2]
    assert waits(Attempts(vyr.Retry(tries=1), clock=clock), PASSING, clock) == []


def test_the_deadline_bounds_them_too(clock: Clock) -> None:
    many = vyr.Retry(tries=1000, deadline=20.0)
    waited = waits(Attempts(many, clock=clock, chance=lambda: 0.0), PASSING, clock)
    assert 15.0 < sum(waited) <= 20.0
    assert max(waited) == 5.0
    # However long it hangs.
    endless = vyr.Retry(tries=10**6, deadline=1e9)
    assert len(waits(Attempts(endless, clock=clock), PASSING, clock, most=2000)) == 2000


def test_the_node_says_how_long_to_wait_at_least(clock: Clock) -> None:
    full = vyr.ExhaustedError("full", retry_after=3.0)
    assert waits(Attempts(vyr.Retry(), clock=clock, chance=lambda: 0.0), full, clock) == [3.0] * 4
    assert waits(Attempts(vyr.Retry(deadline=2.0), clock=clock), full, clock) == []


def test_what_got_on_counts_anew(clock: Clock) -> None:
    attempts = Attempts(vyr.Retry(tries=2), clock=clock, chance=lambda: 0.0)
    for _ in range(10):
        assert attempts.wait_after(PASSING) == 0.2
        attempts.got_on()
    attempts.wait_after(PASSING)
    with pytest.raises(vyr.UnavailableError):
        attempts.wait_after(PASSING)


@pytest.mark.parametrize("kind", list(vyr.ErrorKind))
def test_only_what_passes_is_tried_again(kind: vyr.ErrorKind, clock: Clock) -> None:
    again = bool(waits(Attempts(vyr.Retry(), clock=clock), ERRORS[kind]("why"), clock))
    assert again == (kind in {"unavailable", "exhausted"})


def test_a_certificate_does_not_become_trusted_by_trying(clock: Clock) -> None:
    assert waits(Attempts(vyr.Retry(), clock=clock), vyr.UnavailableError("x", next=ABOUT_CERTIFICATES), clock) == []
