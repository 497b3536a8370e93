"""How an answer travels: gzip and chunks, whole or broken on the way."""

import asyncio
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web

from producer.sandbox.zendesk.answers import Answer
from producer.sandbox.zendesk.faults import Fault

_PIECE = 64 * 1024  # bytes per chunk
_PADDING = b" " * (1024 * 1024)  # white space is JSON
_HEAD_ARRIVES = 0.05  # seconds that the client gets to read the head: a reset discards what it has not read


async def deliver(
    request: web.Request, answer: Answer, fault: Fault | None, stopping: asyncio.Event
) -> web.StreamResponse:
    """Send the answer, or what the transport fault leaves of it; slow ones hurry when the server stops."""
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type, **answer.headers})
    with suppress(ConnectionResetError):  # the client was killed, or gave up: its business
        await _send(request, response, answer, fault, stopping)
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, answer: Answer, fault: Fault | None, stopping: asyncio.Event
) -> None:
    name = fault.name if fault is not None else None
    if fault is not None and name == "slow_first_byte":
        await pause(fault.seconds, stopping)
    if name == "reset_before_headers":
        _reset(request)
        return

    zipped = name not in ("json_prefix", "oversized_body") and (
        "gzip" in request.headers.get("Accept-Encoding", "") or name in ("gzip_stream_cut", "gzip_bomb")
    )
    if zipped:
        response.headers["Content-Encoding"] = "gzip"
    if request.version >= (1, 1):
        response.enable_chunked_encoding()
    await response.prepare(request)

    if fault is not None and name in ("gzip_bomb", "oversized_body"):
        async for piece in _swollen(answer.body, fault.size, zipped):
            await response.write(piece)
        await response.write_eof()
        return

    body = await asyncio.to_thread(_gzip, answer.body) if zipped else answer.body
    half = len(body) // 2
    if name in ("gzip_stream_cut", "json_prefix"):
        body = body[:half]
    elif name in ("reset_after_headers", "chunked_body_cut", "stalled_body"):
        await _write(response, body[:half])
        body = body[half:]
        if fault is not None and name == "stalled_body":
            await pause(fault.seconds, stopping)
        else:
            await asyncio.sleep(_HEAD_ARRIVES)
            if name == "reset_after_headers":
                _reset(request)
            elif request.transport is not None:
                request.transport.close()
            return
    await _write(response, body)
    await response.write_eof()
    if name == "connection_dropped" and request.transport is not None:
        request.transport.close()  # without the `Connection: close` that would have announced it


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=31)
    return packer.compress(body) + packer.flush()


async def _write(response: web.StreamResponse, body: bytes) -> None:
    view = memoryview(body)
    for start in range(0, len(view), _PIECE):
        await response.write(view[start : start + _PIECE])


async def _swollen(body: bytes, size: int, zipped: bool) -> AsyncIterator[bytes]:
    """The body, padded inside to `size` bytes: valid, for a client that would read it to its end."""
    packer = zlib.compressobj(level=1, wbits=31)
    for block in _padded(body, size):
        piece = await asyncio.to_thread(packer.compress, block) if zipped else block
        if piece:
            yield piece
    if zipped:
        yield packer.flush()


def _padded(body: bytes, size: int) -> list[bytes]:
    blocks = max(0, size - len(body)) // len(_PADDING)
    return [body[:1], *[_PADDING] * blocks, body[1:]]


def _reset(request: web.Request) -> None:
    """End the connection with RST, not with FIN."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Wait so many real seconds, less when the server stops."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
