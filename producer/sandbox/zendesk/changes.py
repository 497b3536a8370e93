"""A busy help desk: seeded random changes to an account's tickets, at once or so many a minute."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from producer.sandbox.zendesk.account import Account
from producer.sandbox.zendesk.clock import Clock

KINDS: Final = ("create", "update", "delete", "system_update")
_USUAL = (20, 55, 10, 15)  # of 100 changes

_BREATH = 0.05  # real seconds between two looks at the clock


class Changes:
    """Who changes which ticket is drawn from the account's seed; when, is the clock's now."""

    def __init__(self, account: Account, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._rng = random.Random(f"changes {account.seed}")

    def make(
        self, *, create: int = 0, update: int = 0, delete: int = 0, system_update: int = 0
    ) -> dict[str, list[int]]:
        """Make so many changes of each kind; returns the ticket ids by kind, fewer where no ticket was left to change."""
        at = self._clock.now()
        account = self._account
        changed: dict[str, list[int]] = {"create": [account.create(at) for _ in range(create)]}
        kinds: tuple[tuple[str, int, Callable[[int, float], None]], ...] = (
            ("update", update, account.update),
            ("delete", delete, account.delete),
            ("system_update", system_update, account.system_update),
        )
        for kind, count, change in kinds:
            changed[kind] = []
            for _ in range(count):
                ticket = account.pick(self._rng, at)
                if ticket is not None:
                    change(ticket, at)
                    changed[kind].append(ticket)
        return changed

    async def keep_making(self, per_minute: float) -> None:
        """Make the usual mix of changes until cancelled, so many per simulated minute."""
        made, began = 0, self._clock.now()
        while True:
            await asyncio.sleep(_BREATH)
            due = int((self._clock.now() - began) / 60 * per_minute) - made
            drawn = self._rng.choices(KINDS, weights=_USUAL, k=due)
            self.make(**{kind: drawn.count(kind) for kind in KINDS})
            made += due
