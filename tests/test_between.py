"""What may stand between us and the account: TLS by an authority of one's own, and a proxy that wants a login."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from producer.errors import Misconfigured, Refused, Unavailable
from producer.sandbox.zendesk import Account, Clock, Simulator
from tests.test_service import history
from tests.test_source import BEARER, BEGIN, CANARY, faulty, source, whole


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _join(client: asyncio.StreamReader, to_client: asyncio.StreamWriter, port: int) -> None:
    server, to_server = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(_copy(client, to_server), _copy(server, to_client))


@asynccontextmanager
async def tls_front(zendesk: Simulator, authority: trustme.CA) -> AsyncIterator[str]:
    """The simulator behind TLS: its base URL with https."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    port = int(zendesk.base_url.rpartition(":")[2])
    server = await asyncio.start_server(lambda r, w: _join(r, w, port), "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def proxy(login: str, seen: list[str]) -> AsyncIterator[int]:
    """A proxy that tunnels for whoever knows `login` (`user:password`): its port. `seen` gets each request's first line."""
    expected = f"Proxy-Authorization: Basic {b64encode(login.encode()).decode()}\r\n"

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        head = (await client.readuntil(b"\r\n\r\n")).decode()
        seen.append(head.splitlines()[0])
        if expected not in head:
            to_client.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            to_client.close()
            return
        to_client.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await _join(client, to_client, int(head.split()[1].rpartition(":")[2]))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """An authority, in `ca.pem`."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


async def test_an_account_behind_an_authority_of_ones_own_is_read_once_that_is_trusted(
    authority: trustme.CA, account: Account, clock: Clock, tmp_path: Path
) -> None:
    async with faulty(account, clock) as zendesk, tls_front(zendesk, authority) as url:
        base = (*BEARER, f"zendesk.base_url={url}")
        async with source(zendesk, *base, f"zendesk.ca_file={tmp_path / 'ca.pem'}") as export:
            assert whole(await export.fetch(BEGIN))
        async with source(zendesk, *base) as export:
            with pytest.raises(Misconfigured, match="is not trusted") as caught:
                await export.fetch(BEGIN)
        assert "zendesk.ca_file" in caught.value.hint
        assert len(zendesk.journal) == 1  # no credentials went to whom we do not trust


async def test_an_account_is_reached_through_a_proxy_with_a_login(
    authority: trustme.CA, account: Account, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    async with (
        faulty(account, clock) as zendesk,
        tls_front(zendesk, authority) as url,
        proxy(f"user:{CANARY}", seen) as port,
    ):
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # proxies of the environment are not used
        base = (*BEARER, f"zendesk.base_url={url}", f"zendesk.ca_file={tmp_path / 'ca.pem'}")
        async with source(zendesk, *base, f"zendesk.proxy=http://user:{CANARY}@127.0.0.1:{port}") as export:
            assert whole(await export.fetch(BEGIN))
        assert seen == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1"]
        async with source(zendesk, *base, f"zendesk.proxy=http://user:{CANARY}-no@127.0.0.1:{port}") as export:
            with pytest.raises(Refused, match="the proxy answered 407") as caught:
                await export.fetch(BEGIN)
        assert CANARY not in f"{caught.value} {caught.value.hint}"


async def test_a_proxy_that_is_not_there_is_unavailable_and_its_password_not_shown(
    account: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.retry.BUDGET", 0.1)
    history(account, clock.now())
    async with (
        faulty(account, clock) as zendesk,
        source(zendesk, *BEARER, f"zendesk.proxy=http://user:{CANARY}@127.0.0.1:9") as export,
    ):
        with pytest.raises(Unavailable) as caught:
            await export.fetch(BEGIN)
    assert CANARY not in f"{caught.value} {caught.value.hint}"
