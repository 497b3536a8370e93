"""A busy help desk: seeded random changes to tickets, users and organizations, at once or so many a minute."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from producer.sandbox.zendesk.account import Account
from producer.sandbox.zendesk.clock import Clock
from producer.sandbox.zendesk.history import History

_USUAL: Final = {"create": 20, "update": 55, "delete": 10, "system_update": 15}  # of 100 changes to tickets
_USUAL_BESIDE: Final = {
    "user_create": 4,
    "user_update": 10,
    "user_delete": 1,
    "organization_create": 1,
    "organization_update": 3,
    "organization_delete": 1,
}  # among as many, where users or organizations are listed

KINDS: Final = (*_USUAL, *_USUAL_BESIDE)

_BREATH = 0.05  # real seconds between two looks at the clock


class Changes:
    """Who changes which record is drawn from the account's seed; when, is the clock's now."""

    def __init__(self, account: Account, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._rng = random.Random(f"changes {account.seed}")
        users, organizations = account.users, account.organizations
        self._creations: dict[str, Callable[[float], int]] = {
            "create": account.create,
            "user_create": users.create,
            "organization_create": organizations.create,
        }
        self._changes: dict[str, tuple[History, Callable[[int, float], None]]] = {
            "update": (account, account.update),
            "delete": (account, account.delete),
            "system_update": (account, account.system_update),
            "user_update": (users, users.update),
            "user_delete": (users, users.delete),
            "organization_update": (organizations, organizations.update),
            "organization_delete": (organizations, organizations.delete),
        }

    def make(self, **counts: int) -> dict[str, list[int]]:
        """Make so many changes of each of `KINDS`; returns the ids by kind, fewer where nothing was left to change.

        Users and organizations are among the kinds that are returned where they were asked for.
        """
        at = self._clock.now()
        kinds = (*_USUAL, *(kind for kind in _USUAL_BESIDE if kind in counts))
        return {kind: self._make(kind, counts.get(kind, 0), at) for kind in kinds}

    def _make(self, kind: str, count: int, at: float) -> list[int]:
        if kind in self._creations:
            return [self._creations[kind](at) for _ in range(count)]
        stream, change = self._changes[kind]
        changed = []
        for _ in range(count):
            id = stream.pick(self._rng, at)
            if id is not None:
                change(id, at)
                changed.append(id)
        return changed

    async def keep_making(self, per_minute: float) -> None:
        """Make the usual mix of changes until cancelled, so many per simulated minute."""
        account = self._account
        usual = _USUAL | _USUAL_BESIDE if account.users or account.organizations else _USUAL
        made, began = 0, self._clock.now()
        while True:
            await asyncio.sleep(_BREATH)
            due = int((self._clock.now() - began) / 60 * per_minute) - made
            drawn = self._rng.choices([*usual], weights=[*usual.values()], k=due)
            self.make(**{kind: drawn.count(kind) for kind in usual})
            made += due
