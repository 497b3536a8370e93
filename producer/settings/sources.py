"""Where the value of a setting is looked for, and who is told when it is wrong.

A value given in several places is taken from the first of: `--set group.name=value`, the environment
(`PRODUCER_<GROUP>__<NAME>`), secret files (`/run/secrets/<group>__<name>`, directory in PRODUCER_SECRETS_DIR), the YAML
file (`--config`, PRODUCER_CONFIG, `config/producer.yaml` where it exists), the default. Every place gives text, so that a
value means the same wherever it stands; an empty one counts as not given.

The places are read here and not by pydantic-settings: it can neither say where a wrong value came from nor refuse a
misspelt group, and costs a sixth of the CPU that the way to the first committed page may take.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from producer.errors import Misconfigured
from producer.settings.model import NAMES, Settings, ZendeskSettings, groups, logins, without_prefix

DEFAULT_CONFIG = Path("config/producer.yaml")
DEFAULT_SECRETS_DIR = Path("/run/secrets")
PREFIX = "PRODUCER_"
_FROM_FILE = "secret file "
CONFIG_VARIABLE = "PRODUCER_CONFIG"
SECRETS_DIR_VARIABLE = "PRODUCER_SECRETS_DIR"

# Kubernetes puts these into every container beside a Service that is called "producer": they are nobody's settings.
_SERVICE_LINK = re.compile(r"PRODUCER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\w+)?)")


class _Found:
    """What the sources gave so far, a later one replacing an earlier one, and what is wrong with it."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {group: {} for group in groups()}
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
        return f"; the groups are {', '.join(groups())}" if group not in groups() else ""
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
            for name, value, place in _flat(members, path, f"{group}.", found):
                found.take(name, _plain(value, name, place, found), place)
        elif not _is_null(members):
            found.problem(group, origin, "a group of settings is expected, each on an indented line of its own")
        elif group not in groups():
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


def _flat(node: yaml.MappingNode, path: Path, prefix: str, found: _Found) -> Iterator[tuple[str, yaml.Node, str]]:
    """Full name, value and origin of each setting in a group; some names go on within a group of their own."""
    for name, value, place in _members(node, path, prefix, found):
        deeper = f"{prefix}{name}."
        if isinstance(value, yaml.MappingNode) and any(known.startswith(deeper) for known in NAMES):
            yield from _flat(value, path, deeper, found)
        else:
            yield prefix + name, value, place


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
        if not separator or group not in groups():
            continue  # other programs have secrets, too
        name, origin = f"{group}.{field}", f"{_FROM_FILE}{file}"
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
            text = without_prefix(detail["msg"])
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


def read_again(settings: Settings, zendesk: ZendeskSettings) -> ZendeskSettings:
    """An account's settings with the secrets that its files hold now. What cannot be read stays what it was.

    `settings` says where they came from, and learns the new ones.
    """
    changed: dict[str, SecretStr] = {}
    for name, value in zendesk:
        origin = settings.origin(f"zendesk.{name}")
        if not isinstance(value, SecretStr) or not origin.startswith(_FROM_FILE):
            continue
        try:
            text = Path(origin.removeprefix(_FROM_FILE)).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            continue  # half-way through being replaced
        if text and text.isprintable() and text != value.get_secret_value():
            changed[name] = SecretStr(text)
    if not changed:
        return zendesk
    renewed = zendesk.model_copy(update=changed)
    settings.learn(*(secret.get_secret_value() for secret in changed.values()), *logins(renewed))
    return renewed
