"""At least once, for brokers without transactions: a page, every acknowledgement of it, and only then its checkpoint.

A crash between the two leaves a page, or a part of it, that the next session publishes again. Nothing keeps an older
instance from appending but its own look at the checkpoint (design, D10). Hence, beside what `producers` says:

- the account's transactional id is taken once at the start, so that an instance that delivers exactly once cannot
  commit any more; where the brokers lack transactions, nobody can have it, and the caveat says so;
- a Produce that got no answer is repeated under the same sequence number, which the broker knows, and the producer is
  `worn` then. Brokers that do not number producers either could append it twice, and late: there it is not repeated.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.produce import ProduceRequest

from producer.kafka.failures import causes, meaning
from producer.kafka.producers import OutcomeUnknown, Producer
from producer.kafka.transactions import UNSUPPORTED, LacksTransactions, TransactionalProducer

CAVEAT = (
    "kafka.delivery is at_least_once: a crash repeats up to a page, and two instances at a time may mix up versions"
)

FENCE = 10.0
"""Seconds that a broker has to hand over the transactional id. One that lacks transactions may never answer."""

_PAUSE = 0.2


class AcknowledgedProducer(Producer):
    """A producer without transactions, idempotent where the brokers know how."""

    transactional = False

    def __init__(self, options: dict[str, Any], transactional_id: str) -> None:
        self._options = options
        self._transactional_id = transactional_id
        self._numbered = True
        super().__init__(options, client_id=transactional_id, enable_idempotence=True)

    async def start(self) -> None:
        """Fence the instances that deliver exactly once, if there can be any, and connect."""
        self.caveat = CAVEAT
        if said := await self._fence():
            self.caveat += f"; an instance with exactly_once could not be fenced ({said})"
        try:
            await self._producer.start()
        except (kafka.KafkaError, NotImplementedError) as error:
            if not any(isinstance(cause, UNSUPPORTED) for cause in causes(error)):
                raise
            await self.aclose()
            self.caveat += "; the brokers have no idempotent producers either: a lost answer repeats a page, too"
            self._numbered = False
            self._use(self._options, client_id=self._transactional_id, acks="all")
            await self._producer.start()

    async def _fence(self) -> str:
        """Take the transactional id from whoever has it; answers what the brokers have against it, or nothing."""
        try:
            async with asyncio.timeout(FENCE):
                while True:
                    async with aclosing(TransactionalProducer(self._options, self._transactional_id)) as holder:
                        try:
                            await holder.start()
                            return ""
                        except LacksTransactions as error:
                            return str(error)
                        except kafka.KafkaError as error:
                            if any(isinstance(cause, kafka.BrokerResponseError) for cause in causes(error)):
                                return str(meaning(error, f"take the transactional id {self._transactional_id}"))
                    await asyncio.sleep(_PAUSE)  # a connection that ended may be the answer, or an accident
        except TimeoutError:
            return f"no answer within {FENCE:g} s"

    async def begin(self) -> None:
        """Nothing: records are appended as they are sent."""

    async def commit(self) -> None:
        """Nothing: what is acknowledged is published."""

    def _unanswered(self, request: Any, error: Exception) -> None:
        if isinstance(request, ProduceRequest):
            self.worn = True
            if not self._numbered:
                raise OutcomeUnknown("no answer to an append") from error
