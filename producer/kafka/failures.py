"""What a Kafka error means for us: almost always that the session is over, sometimes that a person must look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from traceback import walk_tb

from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection

from producer.errors import ProducerError, Refused, SessionOver

# What aiokafka raises when something outside went wrong. Its state machine uses bare asserts, its admin client stumbles
# over metadata without a controller (AttributeError), and a closed connection may show as either kind of OSError.
FAILURES = (kafka.KafkaError, AssertionError, AttributeError, OSError)


ASK = 30.0
"""Seconds for a question that a healthy cluster answers in a moment."""


@asynccontextmanager
async def within(seconds: float, doing: str) -> AsyncIterator[None]:
    """Give what is inside so many seconds, and let every failure of Kafka leave as one of ours.

    `doing` says what was tried ("commit page 12"). aiokafka may wait for ever on nearly every await (README,
    "Non-obvious"), so none of them stands outside such a block.

    Raises:
        SessionOver: time is up, or Kafka failed.
        Refused: Kafka refuses our credentials or rights.
    """
    try:
        async with asyncio.timeout(seconds):
            try:
                yield
            except BaseException as error:
                _end_bootstrap(error)
                raise
    except TimeoutError:
        raise SessionOver(f"Kafka: could not {doing} within {seconds:g} s") from None
    except FAILURES as error:
        raise meaning(error, doing) from error


def _end_bootstrap(error: BaseException) -> None:
    """Close the connection of a bootstrap that was cut short, by a cancellation or by time being up.

    aiokafka has it in a variable of that one call, and else leaves it to the garbage collector.
    """
    for frame, _ in walk_tb(error.__traceback__):
        connection = frame.f_locals.get("bootstrap_conn")
        if isinstance(connection, AIOKafkaConnection):
            connection.close()


def meaning(error: BaseException, doing: str) -> ProducerError:
    """Our error for a failure of Kafka while `doing` something.

    Fencing is not told apart here: brokers answer a stale epoch and a timed-out transaction alike, and aiokafka shows both
    in half a dozen ways. The checkpoint tells (design, D10).
    """
    for cause in causes(error):
        if isinstance(cause, kafka.SaslAuthenticationFailed | kafka.UnsupportedSaslMechanismError):
            return Refused(
                f"Kafka refused the credentials: {_text(cause)}",
                hint="check kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password",
            )
        if right := _missing_right(cause):
            return Refused(f"Kafka: could not {doing}: {_text(cause)}", hint=f"grant the ACL {right}")
        if isinstance(cause, kafka.InvalidTimestampError):
            return SessionOver(
                f"Kafka: could not {doing}: {_text(cause)}",
                hint="a topic refuses records by the clock of this host: set it right, or give the topic "
                "message.timestamp.type=LogAppendTime, as the topics have that we create",
            )
    shown = next((cause for cause in causes(error) if not _is_wrapper(cause)), error)
    return SessionOver(f"Kafka: could not {doing}: {_text(shown)}")


def _missing_right(error: BaseException) -> str:
    match error:
        case kafka.TopicAuthorizationFailedError():
            return f"Write on {_topics(error)} (Read and Write on the checkpoint topic)"
        case kafka.TransactionalIdAuthorizationFailed():
            return "Write on transactional id prefix zendesk-producer."
        case kafka.ClusterAuthorizationFailedError():
            return "IdempotentWrite on the cluster (needed by brokers before 2.8)"
        case kafka.GroupAuthorizationFailedError():
            return "Read on the consumer group"
        case _:
            return ""


def _topics(error: BaseException) -> str:
    named = error.args[0] if error.args else None
    if isinstance(named, str):
        return f"topic {named}"
    return "topic " + ", ".join(sorted(map(str, named))) if named else "the topics"


def _is_wrapper(error: BaseException) -> bool:
    """aiokafka hides the real error of a batch or a sender in the `__cause__` of a plain KafkaError."""
    return type(error) is kafka.KafkaError and error.__cause__ is not None


def causes(error: BaseException) -> list[BaseException]:
    """The error, what caused it, what caused that, and so on."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    return chain


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}" if text else name
