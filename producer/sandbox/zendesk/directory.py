"""Users or organizations: whom an export lists, and what is known of those whom tickets merely refer to."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import orjson

from producer.sandbox.zendesk.history import History, View
from producer.sandbox.zendesk.related import Related

_FIRST_NEW_ID = 6_160_000_000_001


class _Render(Protocol):
    def __call__(
        self, id: int, created: int, updated: int, revision: int = ..., deleted: bool = ...
    ) -> dict[str, Any]: ...


class Directory(History):
    """The users, or the organizations, of one account. Their stamp is `updated_at`, which every change moves.

    It lists those that were generated, put, created or changed. Tickets refer to many more: of each there is a record,
    the same every time, until it is changed and so gets listed.
    """

    def __init__(self, name: Literal["users", "organizations"], related: Related, seed: int) -> None:
        super().__init__(name, seed)
        self._kind = name.removesuffix("s")
        self._render: _Render = related.user if name == "users" else related.organization
        self._related = related
        self._created = array("q")
        self._revisions = array("I")
        self._deleted = bytearray()
        self._overrides: dict[int, dict[str, Any]] = {}
        self._highest_id = _FIRST_NEW_ID - 1

    def generate(self, ids: Iterable[int], until: float, span: float) -> None:
        """List these, made and last changed at moments that are spread over the `span` seconds before `until`."""
        listed = sorted(set(ids))
        begin, step = int(until - span), span / max(len(listed), 1)
        stamps = array("q", (begin + int(n * step) for n in range(len(listed))))
        self._load(array("q", listed), stamps)
        self._created = array("q", stamps)
        self._revisions = array("I", bytes(4 * len(listed)))
        self._deleted = bytearray(len(listed))
        self._highest_id = max(self._highest_id, _FIRST_NEW_ID - 1)

    def put(
        self,
        stamp: int,
        id: int | None = None,
        *,
        raw: bytes | None = None,
        visible_at: float | None = None,
        **fields: Any,
    ) -> int:
        """Add a version with exactly this `updated_at` (Unix seconds); returns its id. Otherwise as `Account.put`."""
        number = self._highest_id + 1 if id is None else id
        self._append(number, stamp, fields, raw=raw, visible_at=visible_at)
        return number

    def create(self, at: float, **fields: Any) -> int:
        """A new one, made at this moment; returns its id."""
        return self.put(int(at), **fields)

    def update(self, id: int, at: float, **fields: Any) -> None:
        """An edit: `fields` (say, `name`) are from now on these, and its notes are others.

        Raises:
            ValueError: it has changed later than `at`, or is deleted.
        """
        self._change(id, at, fields)

    def delete(self, id: int, at: float) -> None:
        """Its end: a user is no longer `active`, an organization has a `deleted_at`. Raises as `update`."""
        self._change(id, at, {}, deleted=True)

    def record(self, id: int) -> bytes:
        """What is now known of it, whether it is listed or not."""
        version = self._newest.get(id)
        if version is not None:
            return self.body(version)
        born = self._related.born(self._kind, id)
        return orjson.dumps(self._render(id, born, born))

    def status(self, version: int) -> str:
        """Either `active` or `deleted`."""
        return "deleted" if self._deleted[version] else "active"

    def _contents(self, version: int, view: View) -> Sequence[bytes]:
        if version in self._raw:
            return [self._raw[version]]
        record = self._render(
            self._ids[version],
            self._created[version],
            self._stamps[version],
            self._revisions[version],
            bool(self._deleted[version]),
        )
        return [orjson.dumps(record | self._overrides.get(version, {}))]

    def _change(self, id: int, at: float, fields: dict[str, Any], deleted: bool = False) -> None:
        before = self._newest.get(id)
        if before is not None and self._stamps[before] > int(at):
            raise ValueError(f"{self._kind} {id} cannot change at {int(at)}: it has changed at {self._stamps[before]}")
        if before is not None and self._deleted[before]:
            raise ValueError(f"{self._kind} {id} is deleted")
        self._append(id, int(at), fields, deleted=deleted, known=True)

    def _append(
        self,
        id: int,
        stamp: int,
        fields: dict[str, Any],
        *,
        deleted: bool = False,
        known: bool = False,
        raw: bytes | None = None,
        visible_at: float | None = None,
    ) -> None:
        """A version; `known` says that there was a record before, listed or not."""
        before = self._newest.get(id)
        if before is None:
            created, revision = (self._related.born(self._kind, id), 1) if known else (stamp, 0)
        else:
            created, revision = self._created[before], self._revisions[before] + 1
            kept = self._overrides.get(before, {})
            fields = {key: value for key, value in kept.items() if key != "updated_at"} | fields
        version = self._add(id, stamp, raw, visible_at)
        self._created.append(created)
        self._revisions.append(revision)
        self._deleted.append(deleted)
        if fields:
            self._overrides[version] = fields
