"""A TCP proxy in front of a broker that reads Kafka's request headers, to lose exactly the message that a test names."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self

PRODUCE, ADD_PARTITIONS_TO_TXN, END_TXN = 0, 24, 26
"""Numbers of Kafka's protocol (api keys)."""

_SIZE = 4


class Proxy:
    """Passes requests and answers between clients and the broker that listens on `upstream`, and cuts where it is told to.

    `lose_answer`: of the next request with that api key, the answer is lost: the broker gets the request, the client a cut
    connection. `lose_request`: the request itself is lost, and kept to be delivered late. `seen` counts the requests by
    api key, lost ones included.
    """

    def __init__(self) -> None:
        self.port = self.upstream = 0
        self.lose_answer: int | None = None
        self.lose_request: int | None = None
        self.seen: Counter[int] = Counter()
        self._lost_request = b""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Close every connection, as a network that goes away."""
        for connection in self._connections:
            connection.cancel()

    async def deliver_late(self) -> None:
        """Send the lost request to the broker now, on a connection of its own, and wait for the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        writer.write(self._lost_request)
        await _frame(reader)
        writer.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        to_broker: asyncio.StreamWriter | None = None
        try:
            broker, to_broker = await asyncio.open_connection("127.0.0.1", self.upstream)
            # Requests of one connection are answered in their order, so one at a time is no restriction on correctness.
            while True:
                request = await _frame(client)
                key = int.from_bytes(request[_SIZE : _SIZE + 2])
                self.seen[key] += 1
                if key == self.lose_request:
                    self.lose_request, self._lost_request = None, request
                    return
                to_broker.write(request)
                answer = await _frame(broker)
                if key == self.lose_answer:
                    self.lose_answer = None
                    return
                to_client.write(answer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self._connections.discard(task)
            for writer in (to_client, to_broker):
                if writer is not None:
                    writer.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One request or answer, its size in front."""
    size = await reader.readexactly(_SIZE)
    return size + await reader.readexactly(int.from_bytes(size))
