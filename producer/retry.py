"""Trying again: the one retry policy of requests, and the waits between sessions."""

from __future__ import annotations

import random
import time

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, stop_before_delay

from producer.errors import Blocked, Fenced, ProducerError, Retriable, SignInRefused, Unavailable
from producer.events import Committed, Event, Fetched, Observer, Retrying, StandingBy
from producer.stop import Stop

FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
BUDGET = 900.0
"""Seconds from a request's first attempt until its error leaves the source and ends the session."""


def backoff(attempt: int, first: float, longest: float) -> float:
    """Seconds to wait after the `attempt`-th failure: doubling from `first` to `longest`, with up to half of it as jitter."""
    wait = min(longest, first * 2.0 ** min(attempt - 1, 30))
    return wait * random.uniform(0.5, 1.0)


def wait_for(error: BaseException | None, attempt: int, first: float, longest: float) -> float:
    """As `backoff`, but never less than the far end asked for. A second of jitter keeps replicas from returning at once."""
    wait = backoff(attempt, first, longest)
    asked = error.retry_after if isinstance(error, Retriable) else None
    return wait if asked is None else max(asked + random.uniform(0, 1), wait)


def retrying(stop: Stop, tell: Observer, give_up_after: float | None = None) -> AsyncRetrying:
    """A fresh policy for one request: errors that are Retriable are tried again until BUDGET is spent, or as long as the next
    attempt comes within `give_up_after` seconds of the first.

    Fresh each time, because tenacity keeps the state of a call on the object. The sleep ends at once when asked to stop,
    and raises Stopping then: tenacity alone would make one more attempt.
    """

    def wait(state: RetryCallState) -> float:
        assert state.outcome is not None
        return wait_for(state.outcome.exception(), state.attempt_number, FIRST_WAIT, LONGEST_WAIT)

    def announce(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        tell(Retrying("request", error, state.upcoming_sleep, state.attempt_number))

    return AsyncRetrying(
        retry=retry_if_exception_type(Retriable),
        wait=wait,
        stop=stop_after_delay(BUDGET) if give_up_after is None else stop_before_delay(min(BUDGET, give_up_after)),
        sleep=stop.sleep_or_raise,
        before_sleep=announce,
        reraise=True,
    )


class Setbacks:
    """What follows a failed session: how long to wait, what to tell, and when to give up. The service tells through it.

    Waits grow with each setback of a kind and start anew once a session has committed a page. Standing by is for the
    instance that was fenced: longer each time a session is taken away before it committed a page, so that two instances
    that both believe to be the one take turns ever more rarely (design, D10).
    """

    REOPEN = (0.5, 60.0)
    """Seconds before a failed session is opened again: first and longest wait."""

    BLOCKED = (15.0, 900.0)
    """The same for an account that cannot pass its position."""

    REFUSED = (15.0, 300.0)
    """The same for an account whose sign-in is refused."""

    LONGEST_STANDBY = 900.0

    def __init__(
        self, standby_seconds: float, refused_grace: float, give_up_after: float | None, tell: Observer
    ) -> None:
        self._standby = (standby_seconds, self.LONGEST_STANDBY)
        self._refused_grace = refused_grace
        self._give_up_after = give_up_after
        self._tell = tell
        self._attempts: dict[str, int] = {}
        self._progress = time.monotonic()
        self._answered = False
        self._refused: float | None = None  # when it was, first after a success

    def __call__(self, event: Event) -> None:
        """Pass on what the service tells, and remember its successes."""
        match event:
            case Fetched():
                self._answered, self._refused = True, None
                self._attempts.pop("sign-in", None)
            case Committed() if event.records:
                self._attempts.clear()
                self._progress = time.monotonic()
        self._tell(event)

    def after(self, failure: ProducerError) -> float:
        """Seconds to wait after a session failed.

        Raises:
            SignInRefused: the API has given no page yet, or has refused us for `refused_grace` seconds.
            Unavailable: no page was committed for `give_up_after` seconds, or would be after the wait; SignInRefused, where
                that is the reason.
        """
        failure.with_traceback(None)  # observers keep the error, and its frames hold the page
        match failure:
            case SignInRefused():
                self._refused = time.monotonic() if self._refused is None else self._refused
                left = self._refused + self._refused_grace - time.monotonic()
                if not self._answered or left <= 0:
                    raise failure
                kind, wait = "sign-in", min(wait_for(failure, self._attempt("sign-in"), *self.REFUSED), left)
            case Fenced(holder=""):
                kind, wait = "account", 0.0  # a person moved the checkpoint: nobody to stand by for
            case Fenced():
                kind, wait = "standby", backoff(self._attempt("standby"), *self._standby)
            case Blocked():
                kind, wait = "account", wait_for(failure, self._attempt("account"), *self.BLOCKED)
            case _:
                kind, wait = "session", wait_for(failure, self._attempt("session"), *self.REOPEN)
        if self._give_up_after is not None and time.monotonic() + wait - self._progress > self._give_up_after:
            if isinstance(failure, SignInRefused):
                raise failure
            raise Unavailable(f"no progress for {self._give_up_after:g} s: {failure}", hint=failure.hint) from None
        if kind == "standby":
            self._tell(StandingBy(str(getattr(failure, "holder", "")), wait))
        else:
            self._tell(Retrying(kind, failure, wait, self._attempts.get(kind, 0)))
        return wait

    def _attempt(self, kind: str) -> int:
        self._attempts[kind] = self._attempts.get(kind, 0) + 1
        return self._attempts[kind]
