"""What the topic is judged against: the account's own export, or the ground truth of the pretend Zendesk."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import msgspec

from producer.dates import seconds, utc
from producer.errors import BadAnswer, Unavailable
from producer.events import Event, Retrying
from producer.model import Checkpoint, Position
from producer.records import event_time
from producer.settings import Settings
from producer.stop import Stop
from producer.streams import Stream
from producer.verify.judge import is_required
from producer.verify.store import Store
from producer.zendesk.boundary import content_digest
from producer.zendesk.source import open_source, parameters

Say = Callable[[str], None]

_TRUTH_PATH = "/simulator/truth"
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=120)
_CHUNK = 256 * 1024
_SAY_EVERY = 5.0


class _Offered(msgspec.Struct):
    """A line of the ground truth (producer.sandbox.zendesk.history.Offered). Older simulators tell no `updated_at`."""

    id: int
    generated_timestamp: int
    sha256: str
    current: bool
    status: str
    updated_at: int | None = None


async def read_export(
    settings: Settings,
    stream: Stream,
    checkpoint: Checkpoint,
    store: Store,
    requests_per_minute: float,
    at_most: int,
    say: Say,
) -> None:
    """Ask the API for every version that is current from the history's beginning up to the checkpoint's position.

    Walks the export as the service does, at its own pace. `at_most` is an upper bound of the versions to be read, for
    saying beforehand how long it takes.

    Raises:
        Blocked, Retriable, Refused, Misconfigured: as from `Walk.fetch`.
    """
    until = checkpoint.end_time
    if until is None or until <= checkpoint.start:
        return
    pages = max(1, math.ceil(at_most / settings.zendesk.page_size)) + 1
    say(
        f"reading the API from {utc(checkpoint.start)} to {utc(until)}: up to {pages:,} requests at "
        f"{requests_per_minute:g} a minute, that is up to about {_span(pages * 60 / requests_per_minute)}"
    )

    def tell(event: Event) -> None:
        if isinstance(event, Retrying):
            say(f"{event.error}; asking again in {event.wait:.0f} s")

    async def nobody_to_ask() -> None: ...

    stop = Stop()
    shown, said = 0, time.monotonic()
    async with (
        open_source(settings, stop, tell, stream=stream, requests_per_minute=requests_per_minute) as source,
        source.export(nobody_to_ask) as export,
    ):
        position = Position(checkpoint.start)
        while position.end_time < until:
            page = await export.fetch(position)
            store.add_current(
                (
                    version.id,
                    version.stamp,
                    bytes.fromhex(version.digest),
                    bytes.fromhex(content_digest(version.value)),
                    version.deleted,
                    seconds(event_time(version)),
                    is_required(version.stamp, checkpoint),
                )
                for version in page.versions
            )
            shown += len(page.versions)
            position = page.position
            if page.caught_up:
                break
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                say(f"… {shown:,} versions, up to {utc(position.end_time)}")
    say(f"the API shows {shown:,} versions")


class Truth:
    """The ground truth of a pretend Zendesk at `url`, as `view` shows it. Use `open_truth`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, view: Mapping[str, str]) -> None:
        self.url = url
        self._session = session
        self._view = view

    async def answers(self) -> bool:
        """Whether there is one."""
        try:
            async with self._session.get(self.url, params={**self._view, "current": "true"}) as response:
                return response.status == 200 and response.content_type == "application/x-ndjson"
        except (aiohttp.ClientError, TimeoutError):
            return False  # whatever is wrong there, the API's client says it better

    async def read(self, checkpoint: Checkpoint, store: Store, say: Say) -> None:
        """Take every version that is current or was ever offered."""
        shown = 0
        async for versions in self._read(say):
            store.add_current(
                (
                    version.id,
                    version.generated_timestamp,
                    bytes.fromhex(version.sha256)[:8],
                    None,
                    version.status == "deleted",
                    version.updated_at,
                    is_required(version.generated_timestamp, checkpoint),
                )
                for version in versions
                if version.current
            )
            shown += sum(version.current for version in versions)
            _offer(store, versions)
        store.index_offered()
        say(f"the ground truth has {shown:,} current versions")

    async def read_offered_again(self, store: Store, say: Say) -> None:
        """Take every version that was ever offered, once more: there may be new ones."""
        store.forget_offered()
        async for versions in self._read(say):
            _offer(store, versions)
        store.index_offered()

    async def _read(self, say: Say) -> AsyncIterator[list[_Offered]]:
        decoder = msgspec.json.Decoder(_Offered)
        rest, lines, said = b"", 0, time.monotonic()
        try:
            async with self._session.get(self.url, params=self._view) as response:
                if response.status != 200:
                    raise Unavailable(f"the ground truth {self.url} answered {response.status}")
                async for chunk in response.content.iter_chunked(_CHUNK):
                    whole, newline, rest = (rest + chunk).rpartition(b"\n")
                    versions = decoder.decode_lines(whole + newline)
                    lines += len(versions)
                    if time.monotonic() - said > _SAY_EVERY:
                        said = time.monotonic()
                        say(f"… {lines:,} versions of the ground truth")
                    yield versions
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                f"the ground truth {self.url} cannot be read: {error or type(error).__name__}",
                hint="check --truth; is the simulator running?",
            ) from error
        except msgspec.MsgspecError as error:
            raise BadAnswer(f"the ground truth {self.url} cannot be read: {error}") from error
        if rest:
            raise BadAnswer(f"the ground truth {self.url} ends in the middle of a line")


@asynccontextmanager
async def open_truth(settings: Settings, stream: Stream, truth: str | None) -> AsyncIterator[Truth | None]:
    """The ground truth to judge by; None for the API itself.

    `truth` is its URL (that of the simulator will do), "off", or None: then the account itself is asked for one, unless it
    is reached by https, as every real one is. It knows plain hashes, and so is of no use where field rules key them.
    """
    zendesk, url = settings.zendesk, truth or settings.zendesk.base_url
    if truth == "off" or (truth is None and url.startswith("https:")) or settings.tickets.key is not None:
        yield None
        return
    if urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + _TRUTH_PATH
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session:
        # What was offered depends on what was asked for.
        found = Truth(session, url, {"stream": stream.name, **parameters(zendesk, stream)})
        yield found if truth is not None or await found.answers() else None


def _offer(store: Store, versions: list[_Offered]) -> None:
    store.add_offered(
        (version.id, version.generated_timestamp, bytes.fromhex(version.sha256)[:8]) for version in versions
    )


def _span(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
