"""How we connect to the cluster, and why we cannot when we cannot."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.helpers import create_ssl_context

from producer.errors import Final, Misconfigured, ProducerError, Unavailable
from producer.kafka.failures import FAILURES, causes, meaning
from producer.settings import KafkaSettings

REQUEST_TIMEOUT_MS = 20_000
_PROBE_SECONDS = 5.0
_FAREWELL = 2.0


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """The arguments that every aiokafka client shares.

    Raises:
        Misconfigured: a certificate or key file cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        # Also the pause of `start()` while a predecessor's transaction ends: 20 ms instead of 100 ms.
        "retry_backoff_ms": 20,
    }
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        assert settings.sasl_password is not None
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return options


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    password = settings.ssl_password.get_secret_value() if settings.ssl_password else None
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=_path(settings.ssl_cafile),
            certfile=_path(settings.ssl_certfile),
            keyfile=_path(settings.ssl_keyfile),
            password=password,
        )
    except (OSError, ssl.SSLError, ValueError) as error:
        raise Misconfigured(
            f"the TLS files for Kafka cannot be used: {error}",
            hint="check kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile and kafka.ssl_password (all PEM)",
        ) from None
    return context


def _path(value: object) -> str | None:
    return None if value is None else str(value)


async def disconnect(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer. However that goes, it has no connection afterwards, and makes none."""
    client = consumer._client
    try:
        async with asyncio.timeout(_FAREWELL):
            await consumer.stop()
    except (TimeoutError, *FAILURES):
        pass
    except asyncio.CancelledError:
        # aiokafka trips over a task of its own that had no time to begin. Only a cancellation of ours goes on.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    finally:
        if client._sync_task is not None:
            client._sync_task.cancel()
        cut_off(client)


class _Ended(dict[Any, AIOKafkaConnection]):
    """Stands in for a client's connections. A task of aiokafka's that was still connecting gets one that is closed."""

    def __setitem__(self, key: Any, connection: AIOKafkaConnection) -> None:
        connection.close()
        super().__setitem__(key, connection)


def cut_off(client: AIOKafkaClient) -> None:
    """Close all connections of a client, at once and for good."""
    connections, client._conns = list(client._conns.values()), _Ended()
    for connection in connections:
        connection.close()


async def why_unreachable(settings: KafkaSettings) -> ProducerError:
    """Why no bootstrap server can be used, asked of each in turn: aiokafka's bootstrap keeps the reason to itself.

    Answers Refused or Misconfigured where a server tells so, else Unavailable with what each one said.
    """
    said: list[str] = []
    options = client_options(settings)
    servers = options.pop("bootstrap_servers")
    options.pop("retry_backoff_ms")
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                connection = await create_conn(host.strip("[]"), int(port), **options)
            connection.close()
            said.append(f"{server}: answers now")
        except TimeoutError:
            said.append(f"{server}: no answer within {_PROBE_SECONDS:g} s")
        except (kafka.KafkaError, OSError) as error:
            if (refused := _refused_by_tls(error, server)) is not None:
                return refused
            told = meaning(error, f"connect to {server}")
            if isinstance(told, Final):
                return told
            said.append(f"{server}: {error or type(error).__name__}")
    return Unavailable(
        f"no Kafka bootstrap server can be used ({'; '.join(said)})",
        hint="check kafka.bootstrap_servers and kafka.security_protocol",
    )


def _refused_by_tls(error: BaseException, server: str) -> Misconfigured | None:
    """The TLS handshake's own reason, if there is one; a connection that merely ended is none."""
    for cause in causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return Misconfigured(
                    f"the certificate of Kafka's {server} is not trusted: {cause.verify_message}",
                    hint="set kafka.ssl_cafile",
                )
            case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
                return None
            case ssl.SSLError():
                return Misconfigured(
                    f"Kafka's {server} refused the TLS connection: {cause}",
                    hint="check kafka.security_protocol, and kafka.ssl_certfile with kafka.ssl_keyfile if the broker asks for one",
                )
    return None
