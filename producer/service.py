"""The story: open (fence, recover), fetch, commit, wait; and when something fails, begin again."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from producer.errors import Blocked, Fenced, Retriable, SessionOver, SignInRefused, Stopping
from producer.events import CaughtUp, Committed, Fetched, Observer, Started, Stopped
from producer.kafka.limits import Limits
from producer.kafka.session import Session, open_session
from producer.model import Checkpoint
from producer.retry import Setbacks
from producer.settings import Settings
from producer.shipment import Sorter
from producer.stop import Stop
from producer.streams import TICKETS, Stream
from producer.zendesk.source import Account, open_account
from producer.zendesk.walk import Walk


async def run(
    settings: Settings,
    stop: Stop,
    tell: Observer,
    *,
    instance: str,
    once: bool = False,
    give_up_after: float | None = None,
    stream: Stream = TICKETS,
    account: Account | None = None,
) -> None:
    """Publish a stream of an account until asked to stop, or with `once` until caught up and committed.

    `account` is one that the stream shares with others; without, one is opened for it alone. Whatever goes wrong outside
    ends the session and no more: the next one reads the checkpoint and goes on from there.

    Raises:
        Refused, Misconfigured: only a person can mend it.
        Unavailable: no page was committed for `give_up_after` seconds (None: wait for ever).
    """
    tell(Started(settings.zendesk.subdomain, instance, _summary(settings, stream)))
    limits = Limits()
    setbacks = Setbacks(settings.kafka.standby_seconds, settings.zendesk.refused_grace, give_up_after, tell)
    held: Checkpoint | None = None
    take_over = False
    error: BaseException | None = None
    try:
        async with AsyncExitStack() as around:
            if account is None:
                account = await around.enter_async_context(open_account(settings, stop, tell))
            source = account.source(stream, tell, give_up_after)
            while not stop.is_set():
                session: Session | None = None
                try:
                    async with (
                        open_session(settings, stream, instance, held, limits, tell, take_over=take_over) as session,
                        source.export(session.check) as export,
                    ):
                        sorter = Sorter(settings, stream, limits)
                        await pump(export, session, sorter, settings.zendesk.poll_interval, stop, setbacks, once=once)
                        return
                except Stopping:
                    return
                except (SessionOver, Retriable, Blocked, SignInRefused) as failure:
                    wait = setbacks.after(failure)
                    # Whoever fenced us has had its time when the wait is over: then we fence, until it succeeds.
                    take_over = isinstance(failure, Fenced) or (take_over and session is None)
                finally:
                    held = session.checkpoint if session else held
                await stop.sleep(wait)
    except BaseException as caught:
        error = caught
        raise
    finally:
        tell(Stopped(held, error))


async def pump(
    export: Walk, session: Session, sorter: Sorter, poll_interval: float, stop: Stop, tell: Observer, *, once: bool
) -> None:
    """The main loop: one page, one transaction. Ends when asked to stop, with `once` when caught up."""
    while not stop.is_set():
        checkpoint = session.checkpoint
        page = await stop.cut_short(export.fetch(checkpoint.position))
        tell(Fetched(page))
        shipment = sorter.sort(page, checkpoint)
        if shipment or page.position != checkpoint.position or session.due:
            started = time.monotonic()
            checkpoint = await session.commit(shipment.records, shipment.checkpoint)
            tell(Committed(page, shipment, checkpoint, time.monotonic() - started))
        if page.caught_up:
            if once:
                return
            tell(CaughtUp(checkpoint, page.server_time, poll_interval))
        wait = poll_interval if page.caught_up else 0.0
        del page, shipment  # or every account would keep its last page in memory while it waits for the next one
        await stop.sleep(wait)


def _summary(settings: Settings, stream: Stream) -> dict[str, str]:
    return {
        "source": settings.zendesk.base_url,
        "kafka": ",".join(settings.kafka.bootstrap_servers),
        "topic": settings.topics.of(stream),
        "delivery": settings.kafka.delivery,
        "requests_per_minute": str(settings.zendesk.requests_per_minute).removesuffix(".0"),
    }
