"""Sideloads: what the ticket exports show beside their tickets when asked to (`include`), and which of it is news. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence

from producer.model import Headers, Record, Sideload
from producer.records import JSON, SPECVERSION
from producer.streams import BESIDE
from producer.system_updates import zendesk_time

REMEMBERED = 50_000
"""Records, at some 200 bytes each, whose content is known not to be news."""


class Recent:
    """What was published lately: of each record, which content. For one Kafka session, so that all of it is committed."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._digests: OrderedDict[tuple[str, int], str] = OrderedDict()

    def news(self, sideloads: Iterable[Sideload]) -> list[Sideload]:
        """Those that are new or have changed, which are known from now on."""
        fresh = []
        for sideload in sideloads:
            place = sideload.array, sideload.id
            if self._digests.get(place) != sideload.digest:
                fresh.append(sideload)
                self._digests[place] = sideload.digest
                if len(self._digests) > self._remembered:
                    self._digests.popitem(last=False)
            self._digests.move_to_end(place)
        return fresh


class SideloadRecords(Collection[Record]):
    """The records of one array of a page."""

    def __init__(self, sideloads: Sequence[Sideload], *, account: str, generation: int, seq: int) -> None:
        self._sideloads = sideloads
        self._account = account
        self._page = f"{generation}/{seq}"

    def __len__(self) -> int:
        return len(self._sideloads)

    def __iter__(self) -> Iterator[Record]:
        for index, sideload in enumerate(self._sideloads):
            key = b"%d" % sideload.id
            headers: Headers = [
                SPECVERSION,
                ("ce_id", f"{sideload.id}:{sideload.digest}".encode()),
                source_header(self._account, sideload.array),
                ("ce_type", f"com.zendesk.{BESIDE[sideload.array]}.sideloaded.v1".encode()),
                ("ce_subject", key),
                *((("ce_time", time.encode()),) if (time := zendesk_time(sideload.updated_at)) else ()),
                JSON,
                ("zendesk-page", f"{self._page}/{index}/{len(self)}".encode()),
            ]
            yield Record(key, sideload.value, headers)

    def __contains__(self, record: object) -> bool:
        return any(record == each for each in self)


def source_header(account: str, array: str) -> tuple[str, bytes]:
    """`ce_source` of a sideload: the export that it came with."""
    return "ce_source", f"https://{account}.zendesk.com/api/v2/incremental/tickets?include={array}".encode()
