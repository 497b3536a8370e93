"""A TCP proxy in front of a broker that reads Kafka's request headers, to lose exactly the message that a test names."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Self

PRODUCE, METADATA, FIND_COORDINATOR, API_VERSIONS = 0, 3, 10, 18
INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN = 22, 24, 25, 26
"""Numbers of Kafka's protocol (api keys)."""

UNSUPPORTED_VERSION = 35

_SIZE = 4
_ERROR = slice(12, 14)
"""Where answers have their error code that begin with a throttle time: to FIND_COORDINATOR and INIT_PRODUCER_ID."""


class Proxy:
    """Passes requests and answers between clients and the broker that listens on `upstream`, and cuts where it is told to.

    `lose_answer`: of the next request with that api key, the answer is lost: the broker gets the request, the client a cut
    connection. `lose_request`: the request itself is lost, and kept to be delivered late. What is `held` gets no answer, and
    the connection stays. `seen` counts the requests by api key, lost ones included.

    To stand for a broker that lacks something, by api keys: `unlisted` are left out where it says what it knows
    (aiokafka asks in version 0), `unsupported` are answered with UNSUPPORTED_VERSION, at `ignored` ones the connection ends.
    """

    def __init__(self) -> None:
        self.port = self.upstream = 0
        self.lose_answer: int | None = None
        self.lose_request: int | None = None
        self.held: Collection[int] = ()
        self.unlisted: Collection[int] = ()
        self.unsupported: Collection[int] = ()
        self.ignored: Collection[int] = ()
        self.seen: Counter[int] = Counter()
        self._lost_request = b""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen on `port` of loopback, on a free one if it is 0."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
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
                if key in self.held:
                    await asyncio.get_running_loop().create_future()
                if key in self.ignored:
                    return
                to_broker.write(request)
                answer = self._spoilt(key, request, await _frame(broker))
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

    def _spoilt(self, key: int, request: bytes, answer: bytes) -> bytes:
        if key in self.unsupported:
            spoilt = bytearray(answer)
            spoilt[_ERROR] = UNSUPPORTED_VERSION.to_bytes(2)
            return bytes(spoilt)
        if key == API_VERSIONS and request[_SIZE + 2 : _SIZE + 4] == b"\0\0" and self.unlisted:
            # The correlation id, an error code, and an array of (api key, lowest version, highest version).
            head, listed = answer[_SIZE : _SIZE + 6], answer[_SIZE + 10 :]
            apis = [listed[at : at + 6] for at in range(0, len(listed), 6)]
            apis = [api for api in apis if int.from_bytes(api[:2]) not in self.unlisted]
            body = head + len(apis).to_bytes(4) + b"".join(apis)
            return len(body).to_bytes(_SIZE) + body
        return answer


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One request or answer, its size in front."""
    size = await reader.readexactly(_SIZE)
    return size + await reader.readexactly(int.from_bytes(size))
