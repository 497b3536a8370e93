"""Exactly once: a page and its checkpoint are one transaction.

aiokafka 0.14 commits a transaction although some of its records failed, and retries an EndTxn whose answer was lost (so
that the late one may end a later transaction). Hence, beside what `producers` says:

- an EndTxn that got no answer kills the producer at once instead of being retried: what became of it, only the next
  session knows, since its `start` fences this one first;
- a Produce or AddPartitionsToTxn that got no answer marks the producer `worn`: the transaction may finish (idempotence
  covers it), but there must be no other one after it.
"""

from __future__ import annotations

from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest

from producer.errors import Misconfigured
from producer.kafka.failures import causes
from producer.kafka.producers import OutcomeUnknown, Producer

TRANSACTION_TIMEOUT_MS = 60_000
"""How long a transaction of a killed instance may hold back the topic's readers."""

# A request that the broker does not list, lists in other versions only, or lists and answers so.
UNSUPPORTED = (kafka.IncompatibleBrokerVersion, kafka.UnsupportedVersionError, NotImplementedError)
"""What aiokafka raises where a broker lacks something."""


class LacksTransactions(Misconfigured):
    """The brokers have no transactions, or none that this client can use."""


class TransactionalProducer(Producer):
    """One epoch of one transactional id."""

    transactional = True

    def __init__(self, options: dict[str, Any], transactional_id: str) -> None:
        super().__init__(
            options,
            client_id=transactional_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )

    async def start(self) -> None:
        """Fence every older producer of the id and wait until its last transaction is decided. No deadline of its own.

        Raises:
            LacksTransactions: the brokers say so.
        """
        try:
            await self._producer.start()
        except (kafka.KafkaError, NotImplementedError) as error:
            if any(isinstance(cause, UNSUPPORTED) for cause in causes(error)):
                raise _lacking(str(error)) from error
            raise
        for connection in self._producer.client._conns.values():
            for request in (AddPartitionsToTxnRequest, EndTxnRequest):
                if request.API_KEY not in connection._versions:
                    raise _lacking(f"they do not know {request.__name__}")

    async def begin(self) -> None:
        """Begin a transaction; the broker hears of it with the first record."""
        await self._producer.begin_transaction()

    async def commit(self) -> None:
        """Commit the transaction."""
        await self._producer.commit_transaction()

    def _unanswered(self, request: Any, error: Exception) -> None:
        if isinstance(request, EndTxnRequest):
            raise OutcomeUnknown("no answer to the end of the transaction") from error
        if isinstance(request, ProduceRequest | AddPartitionsToTxnRequest):
            self.worn = True


def _lacking(said: str) -> LacksTransactions:
    return LacksTransactions(
        f"Kafka: these brokers have no transactions that can be used ({said})",
        hint="kafka.delivery: at_least_once publishes without them; what it cannot promise, the README says",
    )
