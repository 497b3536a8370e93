"""The tree of errors: what is retried, what ends a session, what ends the process.

```
ProducerError                 says what happened (message) and what to do (hint)
├── Retriable                 the same request may succeed soon; the retry policy asks again
│   ├── Unavailable           no answer, a cut answer, 408, 409, 425, 5xx
│   └── Throttled             429
├── Blocked                   this position cannot be passed now: said loudly, tried again slowly, never skipped
│   ├── BadAnswer             the answer is not what the API promises
│   │   └── BadRequest        400, 410, 422: the API refuses what was asked
│   ├── TooLarge              the answer is over zendesk.max_response_bytes
│   ├── TooSlow               504: the page takes the API too long to build
│   ├── Pinned                rows, the stream not ended, and the position does not move
│   └── Unpublishable         Kafka refused a record of the page
├── SessionOver               Kafka failed: close hard, open a new session, read the checkpoint again
│   └── Fenced                another instance holds the account, or a person moved its checkpoint
├── Stopping                  asked to stop in the middle of a wait
└── Final                     ends the process; carries its exit code
    ├── Refused               77: credentials or rights
    │   └── SignInRefused     Zendesk's: after a first success it is tried again for a while, a secret may be being rotated
    └── Misconfigured         78: settings, topics or checkpoints that cannot be right
```

Whether to try again is decided where an error is born, by choosing its class; everyone else only asks.
"""

from __future__ import annotations

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69  # sysexits.h: EX_UNAVAILABLE
EXIT_REFUSED = 77  # EX_NOPERM
EXIT_CONFIGURATION = 78  # EX_CONFIG


class ProducerError(Exception):
    """Something went wrong outside this program. `hint` says what to do about it, if anything can be done."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Retriable(ProducerError):
    """The same request may succeed soon. `retry_after` is the wait that the far end asked for, in seconds."""

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Unavailable(Retriable):
    """The far end did not answer, or answered that it cannot just now."""


class Throttled(Retriable):
    """The far end asked for fewer requests."""


class Blocked(ProducerError):
    """The account cannot pass its position: nothing is skipped, the same request is tried again slowly."""


class BadAnswer(Blocked):
    """The answer is not what the API promises."""


class BadRequest(BadAnswer):
    """The API refuses the parameters of the request (400, 410, 422): those of a cursor that it does not know any more."""


class TooLarge(Blocked):
    """The answer is larger than `zendesk.max_response_bytes`."""


class TooSlow(Blocked):
    """The API gave up building a page of this size (504)."""


class Pinned(Blocked):
    """The API answers with rows and more to come, but with an `end_time` that does not move (design, section 4)."""


class Unpublishable(Blocked):
    """Kafka refused a record of the page for what the record is, not for the state of the cluster."""


class SessionOver(ProducerError):
    """The Kafka session has failed; what its last transaction came to is known only to the next session."""


class Fenced(SessionOver):
    """The newest checkpoint names another instance or a higher generation. `holder` is that instance, or empty."""

    def __init__(self, message: str, *, holder: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class Stopping(ProducerError):
    """The process was asked to stop while it waited."""


class Final(ProducerError):
    """Only a person can mend this; the process ends with `exit_code`."""

    exit_code: int = EXIT_BUG


class Refused(Final):
    """Credentials or rights were refused."""

    exit_code = EXIT_REFUSED


class SignInRefused(Refused):
    """Zendesk does not accept who asks, or does not allow it: a person must look, but a rotation may be under way."""


class Misconfigured(Final):
    """Settings, topics or checkpoints that cannot be right."""

    exit_code = EXIT_CONFIGURATION
