"""Every setting, once: its name, its default, its rule, and where its value is looked for.

A value given in several places is taken from the first of: `--set group.name=value`, the environment
(`PRODUCER_<GROUP>__<NAME>`), secret files (`/run/secrets/<group>__<name>`, directory in PRODUCER_SECRETS_DIR), the YAML
file (`--config`, PRODUCER_CONFIG, `config/producer.yaml` where it exists), the default. Every place gives text, so that a
value means the same wherever it stands; an empty one counts as not given.

The places are read here and not by pydantic-settings: it can neither say where a wrong value came from nor refuse a
misspelt group, and costs a sixth of the CPU that the way to the first committed page may take.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from producer.errors import Misconfigured

DEFAULT_CONFIG = Path("config/producer.yaml")
DEFAULT_SECRETS_DIR = Path("/run/secrets")
PREFIX = "PRODUCER_"
CONFIG_VARIABLE = "PRODUCER_CONFIG"
SECRETS_DIR_VARIABLE = "PRODUCER_SECRETS_DIR"

# Kubernetes puts these into every container beside a Service that is called "producer": they are nobody's settings.
_SERVICE_LINK = re.compile(r"PRODUCER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\w+)?)")

_SUBDOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CONTAINER_HOST = re.compile(r"[a-z][a-z0-9_-]*")  # no digit first: 2130706433 and 0x7f000001 are addresses in disguise
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


# --- rules of single values ------------------------------------------------------------------------------------------


def _subdomain(value: str) -> str:
    value = value.lower()
    if not _SUBDOMAIN.fullmatch(value):
        guess = value.partition("://")[2] or value
        guess = re.split(r"[./:@?#]", guess)[0]
        raise ValueError(
            "only the account's name is expected, the part before .zendesk.com"
            + (f'; try "{guess}"' if _SUBDOMAIN.fullmatch(guess) else "")
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


def _start_time(value: object) -> int:
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


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


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


_Secret = Annotated[SecretStr, AfterValidator(_one_line)]
_File = Annotated[Path, AfterValidator(_readable)]
_TopicName = Annotated[str, AfterValidator(_topic)]
_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


# --- the settings ----------------------------------------------------------------------------------------------------


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

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
            found = [_detail(detail["loc"], detail["type"], _text(detail["msg"])) for detail in details] + found
        else:
            if not found:
                return group
        raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True) from None


def _detail(place: tuple[int | str, ...], kind: str, text: str) -> InitErrorDetails:
    # The text is a parameter, because braces in a template would be taken for one.
    return InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=place, input=None)


def _text(message: str) -> str:
    return message.removeprefix("Value error, ")


class ZendeskSettings(_Group):
    """The account that we read, and how we sign in."""

    subdomain: Annotated[str, AfterValidator(_subdomain)] = Field(description="The account: acme of acme.zendesk.com.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        default="https://{subdomain}.zendesk.com",
        validate_default=True,
        description="Where its API is; plain http for loopback addresses and container names only.",
    )
    access_token: _Secret | None = Field(default=None, description="A bearer token.")
    email: Annotated[str, AfterValidator(_email)] | None = Field(default=None, description="Who signs in with Basic.")
    api_token: _Secret | None = Field(default=None, description="The API token of zendesk.email.")
    password: _Secret | None = Field(default=None, description="The password of zendesk.email.")
    start_time: Annotated[int, BeforeValidator(_start_time), WithJsonSchema({"type": ["string", "integer"]})] | None = (
        Field(
            default=None,
            description="Where an account without a checkpoint begins: ISO 8601 with a zone, or Unix seconds.",
        )
    )
    requests_per_minute: float = Field(
        default=10, gt=0, allow_inf_nan=False, description="Export requests per minute that we allow ourselves."
    )
    page_size: int = Field(default=1000, ge=1, le=1000, description="Most tickets asked for at once.")
    poll_interval: _Seconds = Field(default=10, description="Seconds between polls when caught up.")
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
        ways = [name for name in ("access_token", "api_token", "password") if name in given]
        if not ways and "email" in given:
            yield "email", "needs zendesk.api_token (or zendesk.password) beside it"
        elif not ways:
            yield "access_token", "no way to sign in; set it, or zendesk.email with zendesk.api_token"
        elif len(ways) > 1:
            for name in ways:
                yield (
                    name,
                    f"one way to sign in is expected, not {len(ways)}; keep one of zendesk.{', zendesk.'.join(ways)}",
                )
        elif ways == ["access_token"] and "email" in given:
            yield "email", "belongs to zendesk.api_token or zendesk.password, not to zendesk.access_token; remove it"
        elif ways != ["access_token"] and "email" not in given:
            yield "email", f"required with zendesk.{ways[0]}"

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
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
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

    def of_account(self, subdomain: str) -> Self:
        """The same with the account's name in place of `{subdomain}`."""
        return self.model_copy(update={name: topic.replace("{subdomain}", subdomain) for name, topic in self})


class TicketsSettings(_Group):
    """What is done with tickets."""

    tombstones: bool = Field(default=True, description="Whether a deleted ticket's event is followed by a tombstone.")


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


class Settings(_Group):
    """All settings. Made by `load_settings`; a test may build one from its groups."""

    zendesk: ZendeskSettings
    kafka: KafkaSettings
    topics: TopicsSettings = Field(default=TopicsSettings(), validate_default=True)
    tickets: TicketsSettings = TicketsSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("topics")
    @classmethod
    def _different_topics(cls, topics: TopicsSettings, info: ValidationInfo) -> TopicsSettings:
        if "zendesk" in info.data:
            topics = topics.of_account(info.data["zendesk"].subdomain)
        names = [name for _, name in topics]
        if len(set(names)) < len(names):
            raise ValueError("tickets, checkpoints and dead_letters need three different topics")
        return topics

    def origin(self, name: str) -> str:
        """Where the value of the setting `group.name` came from, for a person to find."""
        return self._origins.get(name, "default")

    def secrets(self) -> tuple[str, ...]:
        """Every secret value in clear, and the forms in which they travel: what no log or error may show."""
        found = [
            value.get_secret_value()
            for group in (self.zendesk, self.kafka)
            for _, value in group
            if isinstance(value, SecretStr)
        ]
        zendesk = self.zendesk
        for suffix, secret in (("/token", zendesk.api_token), ("", zendesk.password)):
            if secret is not None:
                login = f"{zendesk.email}{suffix}:{secret.get_secret_value()}"
                found.append(base64.b64encode(login.encode()).decode())
        if zendesk.proxy and zendesk.proxy_password:
            found += [zendesk.proxy_password, urlsplit(zendesk.proxy).password or ""]
        return tuple(secret for secret in dict.fromkeys(found) if secret)

    def redact(self, text: str) -> str:
        """The text with every secret in it replaced by `***`."""
        return self._any_secret.sub("***", text) if self._any_secret else text

    @cached_property
    def _any_secret(self) -> re.Pattern[str] | None:
        # The longest first: one secret may begin another.
        longest_first = sorted(self.secrets(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _groups() -> dict[str, type[_Group]]:
    return {
        "zendesk": ZendeskSettings,
        "kafka": KafkaSettings,
        "topics": TopicsSettings,
        "tickets": TicketsSettings,
        "http": HttpSettings,
        "log": LogSettings,
    }


NAMES = tuple(f"{group}.{name}" for group, model in _groups().items() for name in model.model_fields)
"""Of every setting, as `group.name`."""


# --- where values are looked for -------------------------------------------------------------------------------------


class _Found:
    """What the sources gave so far, a later one replacing an earlier one, and what is wrong with it."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {group: {} for group in _groups()}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        self.judged: set[str] = set()

    def take(self, name: str, value: str | list[str], origin: str) -> None:
        if name not in NAMES:
            self.problem(name, origin, "there is no such setting" + _suggestion(name, origin))
        elif value:
            group, _, field = name.partition(".")
            self.values[group][field] = value
            self.origins[name] = origin

    def problem(self, name: str, origin: str, text: str) -> None:
        self.problems.append(f"{name} ({origin}): {text}")

    def unreadable(self, name: str, origin: str, text: str) -> None:
        self.problem(name, origin, text)
        self.take(name, "unreadable", origin)  # so that nobody says it was not given
        self.judged.add(name)


def _suggestion(name: str, origin: str) -> str:
    group, _, field = name.partition(".")
    # The right word in the wrong group first: it is no typing error that a measure of distance would find.
    same = [known for known in NAMES if field and known.endswith(f".{field}")]
    close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.6) or same
    if not close:
        return f"; the groups are {', '.join(_groups())}" if group not in _groups() else ""
    variable = f" ({_variable(close[0])})" if origin.startswith("environment") else ""
    return f"; did you mean {close[0]}{variable}?"


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


def _read_yaml(path: Path, found: _Found) -> None:
    # Composed, not loaded: the nodes keep each value's text and line, so 007, yes and 2024-01-01 stay what was written.
    try:
        with path.open(encoding="utf-8") as file:
            root = yaml.compose(file, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Misconfigured(
            f"the settings file {path} cannot be read: {reason}",
            hint=f"give its path with --config or {CONFIG_VARIABLE}",
        ) from None
    except yaml.YAMLError as error:
        # The parser's own words may quote a value.
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise Misconfigured(
            f"the settings file is not valid YAML at {place}",
            hint="look at the indentation, and put values with special characters into single quotes",
        ) from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise Misconfigured(f"the settings file {path} does not consist of groups of settings")
    for group, members, origin in _members(root, path, "", found):
        if isinstance(members, yaml.MappingNode):
            for name, value, place in _members(members, path, f"{group}.", found):
                found.take(f"{group}.{name}", _plain(value, f"{group}.{name}", place, found), place)
        elif not _is_null(members):
            found.problem(group, origin, "a group of settings is expected, each on an indented line of its own")
        elif group not in _groups():
            found.take(group, "", origin)


def _members(node: yaml.MappingNode, path: Path, prefix: str, found: _Found) -> Iterator[tuple[str, yaml.Node, str]]:
    seen = set()
    for key, value in node.value:
        origin = f"{path}:{key.start_mark.line + 1}"
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
        if name in seen:
            found.problem(prefix + name, origin, "given twice in this file; keep one")
        seen.add(name)
        yield name, value, origin


def _plain(node: yaml.Node, name: str, origin: str, found: _Found) -> str | list[str]:
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return "" if _is_null(node) else str(node.value)
    if name in NAMES:
        found.unreadable(name, origin, "a plain value is expected")
    return ""


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _read_secret_files(found: _Found) -> None:
    chosen = os.environ.get(SECRETS_DIR_VARIABLE)
    directory = Path(chosen) if chosen else DEFAULT_SECRETS_DIR
    if not chosen and not directory.is_dir():
        return
    try:
        files = sorted(directory.iterdir())
    except OSError as error:
        raise Misconfigured(
            f"the directory of secret files {directory} cannot be listed: {error.strerror}",
            hint=f"set {SECRETS_DIR_VARIABLE}, or unset it where there are none",
        ) from None
    for file in files:
        group, separator, field = file.name.lower().partition("__")
        if not separator or group not in _groups():
            continue  # other programs have secrets, too
        name, origin = f"{group}.{field}", f"secret file {file}"
        if name not in NAMES:
            found.take(name, "", origin)
            continue
        try:
            found.take(name, file.read_text(encoding="utf-8").rstrip("\r\n"), origin)
        except (OSError, UnicodeDecodeError) as error:
            found.unreadable(name, origin, _why_unreadable(error))


def _why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    match error:
        case IsADirectoryError():
            return (
                "is a directory: Docker makes one when the file is missing on the host; create it there and start anew"
            )
        case PermissionError():
            return (
                f"cannot be read by user id {os.geteuid()}; a Compose secret keeps the owner and mode of the host's file: "
                f"there, chown it to {os.geteuid()} or chmod it to 644"
            )
        case UnicodeDecodeError():
            return "is not UTF-8 text"
        case _:
            return f"cannot be read: {error.strerror}"


def _read_environment(found: _Found) -> None:
    for variable, value in sorted(os.environ.items()):
        if variable in (CONFIG_VARIABLE, SECRETS_DIR_VARIABLE) or _SERVICE_LINK.fullmatch(variable):
            continue
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            found.take(name, value, f"environment variable {variable}")


def _read_overrides(overrides: Sequence[str], found: _Found) -> None:
    for number, override in enumerate(overrides, 1):
        name, equals, value = override.partition("=")
        if equals and value:
            found.take(name.strip().lower(), value, "--set")
        else:
            # Without the text: it may be a secret in the wrong place.
            found.problem(f"--set number {number}", "command line", "group.name=value is expected")


def load_settings(config: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read all sources and check all settings.

    Args:
        config: The YAML file; None takes PRODUCER_CONFIG, else `config/producer.yaml` where it exists.
        overrides: `group.name=value` each, as after `--set`.

    Raises:
        Misconfigured: with all problems, one on each line: the setting, where its value came from, what is wrong with it
            and what would be right. Values of secrets are never shown.
    """
    found = _Found()
    chosen = config or (Path(path) if (path := os.environ.get(CONFIG_VARIABLE)) else None)
    if chosen is not None or DEFAULT_CONFIG.exists():
        _read_yaml(chosen or DEFAULT_CONFIG, found)
    _read_secret_files(found)
    _read_environment(found)
    _read_overrides(overrides, found)

    try:
        settings = Settings.model_validate(found.values)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in detail["loc"][:2])
            if name in found.judged:
                continue
            text = _text(detail["msg"])
            if detail["type"] == "missing":
                text = f"required; set it as {_variable(name)}, with --set or in the YAML file"
            found.problem(name, found.origins.get(name, "not set"), text)
    if found.problems:
        count = "one problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise Misconfigured(
            f"the settings have {count}:" + "".join(f"\n  {problem}" for problem in found.problems),
            hint="config/producer.yaml describes every setting; `zendesk-producer config schema` prints their schema",
        )
    settings._origins.update(found.origins)
    return settings
