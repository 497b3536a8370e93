"""Every setting, once: its name, its default, its rule."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from producer.fields import RecordRules, Rules
from producer.json_paths import Path as FieldPath
from producer.json_paths import parse_path
from producer.streams import BESIDE, INSIDE, REFUSED, Stream

SUBDOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CONTAINER_HOST = re.compile(r"[a-z][a-z0-9_-]*")  # no digit first: 2130706433 and 0x7f000001 are addresses in disguise
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


# --- rules of single values ------------------------------------------------------------------------------------------


def _subdomain(value: str) -> str:
    value = value.lower()
    if not SUBDOMAIN.fullmatch(value):
        guess = value.partition("://")[2] or value
        guess = re.split(r"[./:@?#]", guess)[0]
        raise ValueError(
            "only the account's name is expected, the part before .zendesk.com"
            + (f'; try "{guess}"' if SUBDOMAIN.fullmatch(guess) else "")
        )
    return value


def _url(value: str, schemes: str) -> tuple[str, str, bool]:
    """Scheme, network location and whether a login is in it, of a URL that consists of nothing else.

    The messages never quote the value: it may hold a password.
    """
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("not a URL (host or port)") from None
    if parts.scheme not in schemes.split() or not parts.hostname or not parts.netloc.isascii():
        raise ValueError(
            f"a URL with a host is expected that begins with {' or '.join(f'{s}://' for s in schemes.split())}"
        )
    login = "@" in parts.netloc
    if parts.path not in ("", "/") or parts.query or parts.fragment or value.endswith(("?", "#")):
        raise ValueError(
            "a path, query or fragment does not belong here"
            + ("" if login else f'; try "{parts.scheme}://{parts.netloc.lower()}"')
        )
    return parts.scheme, parts.netloc if login else parts.netloc.lower(), login


def _base_url(value: str, info: ValidationInfo) -> str:
    scheme, netloc, login = _url(value.replace("{subdomain}", info.data.get("subdomain", "acme")), "https http")
    if login:
        raise ValueError("credentials do not belong into the URL; use zendesk.email with zendesk.api_token")
    host = urlsplit(f"//{netloc}").hostname or ""
    if scheme == "http" and not _stays_here(host):
        raise ValueError(
            "plain http would send the credentials in the clear: it is for loopback addresses and container names "
            f'(one word); try "https://{netloc}"'
        )
    return f"{scheme}://{netloc}"


def _stays_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return bool(_CONTAINER_HOST.fullmatch(host))


def _proxy(value: str) -> str:
    scheme, netloc, _ = _url(value, "http https")
    return f"{scheme}://{netloc}"


def _email(value: str) -> str:
    if value.endswith("/token"):
        raise ValueError(f'"/token" is added by itself; try "{value.removesuffix("/token")}"')
    if "@" not in value or ":" in value or not value.isprintable():
        raise ValueError("the e-mail address of the agent who signs in is expected")
    return value


def _one_line(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().isprintable():
        raise ValueError("holds a line break or another control character; the value alone is expected")
    return value


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 16:
        raise ValueError("is too short to be a secret; at least 16 characters are expected, better 32 random ones")
    return value


def _field_path(value: object) -> FieldPath:
    return value if isinstance(value, FieldPath) else parse_path(str(value))


def parse_start_time(value: object) -> int:
    """Unix seconds of a date with zone (ISO 8601) or of Unix seconds as text; ValueError says what else is expected."""
    text = str(value).strip()
    if re.fullmatch(r"-?\d{1,18}", text):
        moment = int(text)
    else:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError('ISO 8601 with a zone ("2024-01-01T00:00:00Z") or Unix seconds are expected') from None
        if parsed.tzinfo is None:
            raise ValueError(f'has no zone; try "{parsed.isoformat(timespec="seconds")}Z" if it is UTC')
        moment = int(parsed.timestamp())
    if moment > time.time() * 100:
        raise ValueError(f"Unix seconds are expected, these look like milliseconds; try {moment // 1000}")
    if moment > time.time():
        raise ValueError("is in the future; the export begins at or before now")
    if moment < 0:
        raise ValueError("is before 1970; 0 is the earliest")
    return moment


def _rate(value: object) -> float | Literal["auto"]:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        rate = float(value)  # type: ignore[arg-type]  # what cannot be one is an error below
    except (TypeError, ValueError):
        rate = math.nan
    if isinstance(value, bool) or not 0 < rate < math.inf:
        raise ValueError('a number of requests above 0 is expected, or "auto"')
    return rate


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _once_each(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("names something twice")
    return values


def _sideload(value: str) -> str:
    if value in REFUSED:
        raise ValueError(f"{value} cannot be had: {REFUSED[value]}")
    if value not in (*BESIDE, *INSIDE):
        raise ValueError(f"there is no sideload {value!r}; there are {', '.join((*BESIDE, *INSIDE))}")
    return value


def _server(value: str) -> str:
    bare = value.strip().rpartition("://")[2].strip("/")
    host, colon, port = bare.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        raise ValueError(f'host:port is expected, not {bare!r}; try "{bare}:9092"')
    if bare != value.strip():
        raise ValueError(f'host:port without a scheme is expected; try "{bare}"')
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"host:port is expected, with a port from 1 to 65535, not {bare!r}")
    return bare


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"the file {path} cannot be read by user id {os.geteuid()}")
    return path


def _topic(value: str) -> str:
    # 63 letters are the longest subdomain.
    if not _TOPIC.fullmatch(value.replace("{subdomain}", "s" * 63)) or value in (".", ".."):
        raise ValueError(
            "a Kafka topic name is expected: up to 249 letters, digits, '.', '_' and '-'; "
            "{subdomain} stands for the account and counts as 63"
        )
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


_LIST = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
_Secret = Annotated[SecretStr, AfterValidator(_one_line)]
_Key = Annotated[_Secret, AfterValidator(_long_enough)]
_Paths = Annotated[
    tuple[Annotated[FieldPath, PlainValidator(_field_path), PlainSerializer(str)], ...], BeforeValidator(_split), _LIST
]
_File = Annotated[Path, AfterValidator(_readable)]
_TopicName = Annotated[str, AfterValidator(_topic)]
_Sideloaded = Annotated[_TopicName, Field(description="Records of this sideload.")]
_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


# --- the settings ----------------------------------------------------------------------------------------------------


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Name and text of each setting that does not go with the others. `given` is as it came, possibly wrong."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _everything_at_once(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # An "after" validator would stay silent until each value is right by itself: two rounds for the user.
        found = []
        if isinstance(given, Mapping):
            present = {name: value for name, value in given.items() if value is not None}
            found = [_detail((name,), "contradiction", text) for name, text in cls.contradictions(present)]
        try:
            group = handler(given)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            found = [
                _detail(detail["loc"], detail["type"], without_prefix(detail["msg"])) for detail in details
            ] + found
        else:
            if not found:
                return group
        raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True) from None


def _detail(place: tuple[int | str, ...], kind: str, text: str) -> InitErrorDetails:
    # The text is a parameter, because braces in a template would be taken for one.
    return InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=place, input=None)


def without_prefix(message: str) -> str:
    """A validator's own words, without what pydantic puts before them."""
    return message.removeprefix("Value error, ")


SIGN_IN = {"client_secret": "client_id", "access_token": None, "api_token": "email", "password": "email"}
"""The ways to sign in by their secrets, and what says whose secret it is."""


def _beside(way: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a way to sign in needs beside its secret, and what belongs to another one."""
    needs = SIGN_IN[way]
    if needs is not None and needs not in given:
        yield needs, f"required with zendesk.{way}"
    for name in {"client_id", "email"} & given.keys() - {needs}:
        others = " or ".join(f"zendesk.{other}" for other, needed in SIGN_IN.items() if needed == name)
        yield name, f"belongs to {others}, not to zendesk.{way}; remove it"


class ZendeskSettings(_Group):
    """The account that we read, and how we sign in."""

    subdomain: Annotated[str, AfterValidator(_subdomain)] = Field(description="The account: acme of acme.zendesk.com.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="https://{subdomain}.zendesk.com",
        validate_default=True,
        description="Where its API is; plain http for loopback addresses and container names only.",
    )
    client_id: str | None = Field(
        default=None, min_length=1, description="The OAuth client's unique identifier: the recommended way."
    )
    client_secret: _Secret | None = Field(default=None, description="The secret of zendesk.client_id.")
    scope: str | None = Field(
        default=None,
        pattern=r"^[a-z_]+(:[a-z]+)?( [a-z_]+(:[a-z]+)?)*$",
        description="What the OAuth token is to allow, instead of the least that is needed.",
    )
    token_lifetime: int = Field(
        default=7200, gt=300, lt=172_800, description="Seconds that an OAuth token is asked for; it is renewed in time."
    )
    refused_grace: float = Field(
        default=3600,
        ge=0,
        le=86_400 * 7,
        allow_inf_nan=False,
        description="Seconds that a refused sign-in is tried again where it has worked before; then exit code 77.",
    )
    access_token: _Secret | None = Field(default=None, description="A bearer token.")
    email: Annotated[str, AfterValidator(_email)] | None = Field(default=None, description="Who signs in with Basic.")
    api_token: _Secret | None = Field(default=None, description="The API token of zendesk.email.")
    password: _Secret | None = Field(default=None, description="The password of zendesk.email.")
    start_time: (
        Annotated[int, BeforeValidator(parse_start_time), WithJsonSchema({"type": ["string", "integer"]})] | None
    ) = Field(
        default=None,
        description="Where an account without a checkpoint begins: ISO 8601 with a zone, or Unix seconds.",
    )
    export: Annotated[Literal["time", "cursor"], BeforeValidator(_lower)] = Field(
        default="time", description="Which of the API's two exports is walked; topic and checkpoint are the same."
    )
    streams: Annotated[
        tuple[Literal["tickets", "users", "organizations", "ticket_events"], ...],
        BeforeValidator(_split),
        Field(min_length=1),
        AfterValidator(_once_each),
        _LIST,
    ] = Field(default=("tickets",), description="Which of the account's incremental exports are published.")
    include: Annotated[
        tuple[Annotated[str, AfterValidator(_sideload)], ...],
        BeforeValidator(_split),
        AfterValidator(_once_each),
        _LIST,
    ] = Field(default=(), description="Sideloads of the ticket export.")
    support_type_scope: Annotated[Literal["agent", "all", "ai_agent"], BeforeValidator(_lower)] = Field(
        default="agent", description="Whose tickets: the agents', the AI agents', or all."
    )
    exclude_deleted: bool = Field(default=False, description="Whether deleted tickets are left out by the API.")
    requests_per_minute: Annotated[
        float | Literal["auto"],
        PlainValidator(_rate),
        WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "auto"}]}),
    ] = Field(
        default=10.0,
        description="Export requests per minute that we allow ourselves; auto: what the API says it allows.",
    )
    left_to_others: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="With requests_per_minute auto, the share of the account's limit that other programs keep.",
    )
    page_size: int = Field(default=1000, ge=1, le=1000, description="Most tickets asked for at once.")
    poll_interval: _Seconds = Field(default=10, description="Seconds between polls when caught up.")
    late_row_window: float = Field(
        default=300,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds before the position that are read again when caught up, for rows that appear late; 0: never.",
    )
    max_response_bytes: Annotated[ByteSize, Field(gt=0), WithJsonSchema({"type": ["string", "integer"]})] = Field(
        default=ByteSize(64 * 2**20), description="Largest answer taken, decompressed; 64MiB style is understood."
    )
    proxy: Annotated[str, AfterValidator(_proxy)] | None = Field(
        default=None,
        repr=False,
        description="URL of the proxy in front of the account; proxies of the environment are not used.",
    )
    ca_file: _File | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's."
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Exactly one way to sign in."""
        ways = [name for name in SIGN_IN if name in given]
        if not ways and "email" in given:
            yield "email", "needs zendesk.api_token (or zendesk.password) beside it"
        elif not ways and "client_id" in given:
            yield "client_secret", "required with zendesk.client_id"
        elif not ways:
            yield "client_secret", "no way to sign in; set it with zendesk.client_id, or set zendesk.access_token"
        elif len(ways) > 1:
            for name in ways:
                yield (
                    name,
                    f"one way to sign in is expected, not {len(ways)}; keep one of zendesk.{', zendesk.'.join(ways)}",
                )
        else:
            yield from _beside(ways[0], given)

    @property
    def proxy_password(self) -> str | None:
        """The password in `proxy`, as the proxy expects it."""
        password = urlsplit(self.proxy).password if self.proxy else None
        return unquote(password) if password else None


class KafkaSettings(_Group):
    """The cluster that we write to. Names and meanings of the security settings are aiokafka's."""

    bootstrap_servers: Annotated[
        tuple[Annotated[str, AfterValidator(_server)], ...],
        BeforeValidator(_split),
        Field(min_length=1),
        _LIST,
    ] = Field(description="host:port of some brokers, comma separated.")
    security_protocol: Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)] = (
        Field(default="PLAINTEXT", description="How brokers are talked to.")
    )
    sasl_mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(_upper)] = Field(
        default="PLAIN", description="How we sign in with SASL."
    )
    sasl_username: str | None = Field(default=None, min_length=1, description="Who signs in with SASL.")
    sasl_password: _Secret | None = Field(default=None, description="The password of kafka.sasl_username.")
    ssl_cafile: _File | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's."
    )
    ssl_certfile: _File | None = Field(
        default=None, description="PEM file of our certificate, for brokers that ask for one."
    )
    ssl_keyfile: _File | None = Field(default=None, description="PEM file of its key.")
    ssl_password: _Secret | None = Field(default=None, description="The password of kafka.ssl_keyfile.")
    standby_seconds: _Seconds = Field(
        default=30, description="How long an instance whose account was taken over waits before it takes it back."
    )
    create_topics: bool = Field(default=True, description="Whether missing topics are created before the first page.")
    delivery: Annotated[Literal["exactly_once", "at_least_once"], BeforeValidator(_lower)] = Field(
        default="exactly_once",
        description="exactly_once, or at_least_once for brokers without transactions: a crash repeats up to a page.",
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What SASL and TLS need, and what has no effect without them."""
        protocol = str(given.get("security_protocol", "PLAINTEXT")).upper()
        for family, needed in (("SASL", ("sasl_username", "sasl_password")), ("SSL", ())):
            if family in protocol.split("_"):
                for name in needed:
                    if name not in given:
                        yield name, f"required with kafka.security_protocol {protocol}"
            elif protocol in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
                also = {"SASL": "SASL_SSL or SASL_PLAINTEXT", "SSL": "SSL or SASL_SSL"}[family]
                for name in given:
                    # One with a default does no harm: config/producer.yaml spells it out.
                    if name.startswith(f"{family.lower()}_") and cls.model_fields[name].default is None:
                        yield name, f"has no effect with kafka.security_protocol {protocol}; that should be {also}"
        for name, needs in (
            ("ssl_certfile", "ssl_keyfile"),
            ("ssl_keyfile", "ssl_certfile"),
            ("ssl_password", "ssl_keyfile"),
        ):
            if name in given and needs not in given:
                yield name, f"needs kafka.{needs} beside it"


class TopicsSettings(_Group):
    """Where records go. `{subdomain}` in a name stands for the account."""

    tickets: _TopicName = Field(default="zendesk.tickets", description="Ticket versions.")
    checkpoints: _TopicName = Field(default="zendesk.checkpoints", description="How far each account is.")
    dead_letters: _TopicName = Field(
        default="zendesk.tickets.dead-letters", description="Tickets that could not be published."
    )

    users: _TopicName = Field(default="zendesk.users", description="Versions of users, as a stream.")
    organizations: _TopicName = Field(
        default="zendesk.organizations", description="Versions of organizations, as a stream."
    )
    ticket_events: _TopicName = Field(default="zendesk.ticket-events", description="Ticket events, as a stream.")
    sideloads_users: _Sideloaded = Field(default="zendesk.sideloads.users", alias="sideloads.users")
    sideloads_groups: _Sideloaded = Field(default="zendesk.sideloads.groups", alias="sideloads.groups")
    sideloads_organizations: _Sideloaded = Field(
        default="zendesk.sideloads.organizations", alias="sideloads.organizations"
    )
    sideloads_brands: _Sideloaded = Field(default="zendesk.sideloads.brands", alias="sideloads.brands")
    sideloads_ticket_forms: _Sideloaded = Field(
        default="zendesk.sideloads.ticket-forms", alias="sideloads.ticket_forms"
    )
    sideloads_custom_statuses: _Sideloaded = Field(
        default="zendesk.sideloads.custom-statuses", alias="sideloads.custom_statuses"
    )
    sideloads_sharing_agreements: _Sideloaded = Field(
        default="zendesk.sideloads.sharing-agreements", alias="sideloads.sharing_agreements"
    )

    def of(self, stream: Stream) -> str:
        """The topic of a stream."""
        topic: str = getattr(self, stream.name)
        return topic

    def beside(self, array: str) -> str:
        """The topic of a sideload."""
        topic: str = getattr(self, f"sideloads_{array}")
        return topic

    def of_account(self, subdomain: str) -> Self:
        """The same with the account's name in place of `{subdomain}`."""
        return self.model_copy(update={name: topic.replace("{subdomain}", subdomain) for name, topic in self})


class TicketsSettings(_Group):
    """What is done with tickets."""

    tombstones: bool = Field(default=True, description="Whether a deleted ticket's event is followed by a tombstone.")
    system_updates: Annotated[Literal["include", "mark", "exclude"], BeforeValidator(_lower)] = Field(
        default="mark",
        description="Versions of which only generated_timestamp moved: published as any, with a header, or not at all.",
    )
    on_poison: Annotated[Literal["dead_letter", "stop"], BeforeValidator(_lower)] = Field(
        default="dead_letter",
        description="What becomes of a ticket that cannot be published: a record of topics.dead_letters, or a stop until a "
        "person looks.",
    )
    drop_fields: _Paths = Field(
        default=(), description="JSON paths of fields that are left out, of tickets and, by name, of other records."
    )
    hash_fields: _Paths = Field(
        default=(), description="JSON paths of fields in whose place comes a keyed hash (HMAC-SHA256)."
    )
    hash_key: _Key | None = Field(
        default=None, description="The key of these hashes, and of all digests where there are field rules."
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Rules need a key, also where fields are only left out: a plain hash of what was there could be tried out."""
        rules = [name for name in ("drop_fields", "hash_fields") if given.get(name)]
        if rules and "hash_key" not in given:
            yield "hash_key", f"required with tickets.{rules[0]}"

    @property
    def key(self) -> bytes | None:
        """That of all digests, if there are field rules."""
        if self.hash_key is None or not (self.drop_fields or self.hash_fields):
            return None
        return self.hash_key.get_secret_value().encode()

    def rules(self, kind: str) -> RecordRules | None:
        """The field rules for records of a kind (`tickets`, `users`, …); None: there are none."""
        return Rules(self.drop_fields, self.hash_fields, self.key).of(kind)


class HttpSettings(_Group):
    """The endpoint for probes, metrics and people."""

    enabled: bool = Field(default=True, description="Whether there is one.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")


class LogSettings(_Group):
    """What is told, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="The least that is told."
    )
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = Field(
        default="auto", description="auto: console on a terminal, json elsewhere."
    )


_LEARNED = 100
"""Secrets that are remembered: tokens of more than a week."""


class Settings(_Group):
    """All settings. Made by `load_settings`; a test may build one from its groups."""

    zendesk: ZendeskSettings
    kafka: KafkaSettings
    topics: TopicsSettings = Field(default=TopicsSettings(), validate_default=True)
    tickets: TicketsSettings = TicketsSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _learned: dict[str, None] = PrivateAttr(default_factory=dict)
    _learnings: int = PrivateAttr(default=0)
    _pattern: tuple[int, re.Pattern[str] | None] = PrivateAttr(default=(-1, None))

    @field_validator("topics")
    @classmethod
    def _different_topics(cls, topics: TopicsSettings, info: ValidationInfo) -> TopicsSettings:
        if "zendesk" in info.data:
            topics = topics.of_account(info.data["zendesk"].subdomain)
        names = [name for _, name in topics]
        if len(set(names)) < len(names):
            raise ValueError("each of them needs a topic of its own")
        return topics

    def origin(self, name: str) -> str:
        """Where the value of the setting `group.name` came from, for a person to find."""
        return self._origins.get(name, "default")

    def secrets(self) -> tuple[str, ...]:
        """Every secret value in clear, and the forms in which they travel: what no log or error may show."""
        found = [
            value.get_secret_value()
            for group in (self.zendesk, self.kafka, self.tickets)
            for _, value in group
            if isinstance(value, SecretStr)
        ]
        zendesk = self.zendesk
        found += [*logins(zendesk), *self._learned]
        if zendesk.proxy and zendesk.proxy_password:
            found += [zendesk.proxy_password, urlsplit(zendesk.proxy).password or ""]
        return tuple(secret for secret in dict.fromkeys(found) if secret)

    def redact(self, text: str) -> str:
        """The text with every secret in it replaced by `***`."""
        if self._pattern[0] != self._learnings:
            self._pattern = self._learnings, any_of(self.secrets())
        return self._pattern[1].sub("***", text) if self._pattern[1] else text

    @property
    def learnings(self) -> int:
        """Another number when there are other secrets."""
        return self._learnings

    def learn(self, *secrets: str) -> None:
        """Secrets that came while running: a token, a secret that was rotated. The last of them are remembered."""
        for secret in secrets:
            self._learned.pop(secret, None)
            self._learned[secret] = None
        while len(self._learned) > _LEARNED:
            self._learned.pop(next(iter(self._learned)))
        self._learnings += 1


def logins(zendesk: ZendeskSettings) -> list[str]:
    """The forms in which secrets travel that are not the secrets themselves."""
    basic = [
        base64.b64encode(f"{zendesk.email}{suffix}:{secret.get_secret_value()}".encode()).decode()
        for suffix, secret in (("/token", zendesk.api_token), ("", zendesk.password))
        if secret is not None
    ]
    if zendesk.proxy_password:
        user = unquote(urlsplit(zendesk.proxy or "").username or "")
        basic.append(base64.b64encode(f"{user}:{zendesk.proxy_password}".encode("latin-1", "replace")).decode())
    # It is sent as JSON, and whoever echoes that in JSON escapes it once more.
    client = "" if zendesk.client_secret is None else zendesk.client_secret.get_secret_value()
    sent = json.dumps(client)[1:-1]
    return [*basic, *({sent, json.dumps(sent)[1:-1]} - {client})]


def any_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of them; the longest first, since one may begin another."""
    longest_first = sorted(set(secrets), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def groups() -> dict[str, type[_Group]]:
    """The groups by their names."""
    return {
        "zendesk": ZendeskSettings,
        "kafka": KafkaSettings,
        "topics": TopicsSettings,
        "tickets": TicketsSettings,
        "http": HttpSettings,
        "log": LogSettings,
    }


NAMES = tuple(
    f"{group}.{field.alias or name}" for group, model in groups().items() for name, field in model.model_fields.items()
)
"""Of every setting, as `group.name`."""


# --- where values are looked for -------------------------------------------------------------------------------------
