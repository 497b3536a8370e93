"""Where the value of a setting is looked for, and who is told when it is wrong.

A value given in several places is taken from the first of: `--set group.name=value`, the environment
(`PRODUCER_<GROUP>__<NAME>`), secret files (`/run/secrets/<group>__<name>`, directory in PRODUCER_SECRETS_DIR), the YAML
file (`--config`, PRODUCER_CONFIG, `config/producer.yaml` where it exists), the default. Every place gives text, so that a
value means the same wherever it stands; an empty one counts as not given.

Which accounts there are, if there are several, the list `accounts` of the YAML file says. The other places may give settings
of theirs, as `accounts.<subdomain>.<name>`, PRODUCER_ACCOUNTS__<SUBDOMAIN>__<NAME> and `accounts__<subdomain>__<name>`. What an
account has of its own, wherever it stands, goes before what the `zendesk` group says for all.

The places are read here and not by pydantic-settings: it can neither say where a wrong value came from nor refuse a
misspelt group, and costs a sixth of the CPU that the way to the first committed page may take.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from producer.errors import Misconfigured
from producer.settings.accounts import (
    ACCOUNTS,
    belongs_to_an_account,
    in_force,
    listed,
    parted,
    shared_topics,
    written_out,
)
from producer.settings.model import (
    NAMES,
    SUBDOMAIN,
    HttpSettings,
    Settings,
    ZendeskSettings,
    groups,
    logins,
    without_prefix,
)

DEFAULT_CONFIG = Path("config/producer.yaml")
DEFAULT_SECRETS_DIR = Path("/run/secrets")
PREFIX = "PRODUCER_"
_FROM_FILE = "secret file "
_NAME_IN_TEXT = re.compile(r"(?<![\w.])zendesk\.\w+")
CONFIG_VARIABLE = "PRODUCER_CONFIG"
SECRETS_DIR_VARIABLE = "PRODUCER_SECRETS_DIR"

# Kubernetes puts these into every container beside a Service that is called "producer": they are nobody's settings.
_SERVICE_LINK = re.compile(r"PRODUCER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\w+)?)")


class _Found:
    """What the sources gave so far, a later one replacing an earlier one, and what is wrong with it.

    Beside the groups, `values` has what each account of the list has of its own; `accounts` are these, by subdomain or, of
    one without, by place.
    """

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {group: {} for group in groups()}
        self.accounts: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        self.judged: set[str] = set()

    def take(self, name: str, value: str | list[str], origin: str) -> None:
        if not self.knows(name):
            self.problem(name, origin, self._unknown(name, origin))
        elif value:
            group, field = parted(name)
            self.values[group][field] = value
            self.origins[name] = origin

    def knows(self, name: str) -> bool:
        group, field = parted(name)
        return name in NAMES or (group in self.accounts.values() and belongs_to_an_account(field))

    def _unknown(self, name: str, origin: str) -> str:
        group, field = parted(name)
        if group in self.accounts.values():
            close = difflib.get_close_matches(field, filter(belongs_to_an_account, ZendeskSettings.model_fields), n=1)
            return "an account has no such setting" + (
                _did_you_mean(f"{group}.{close[0]}", origin)
                if close
                else "; it may have those of the zendesk group, and has its subdomain in the list itself"
            )
        if name.startswith(f"{ACCOUNTS}."):
            there = f"there are {listed(self.accounts)}" if self.accounts else f"the YAML file has no list {ACCOUNTS}"
            return f"there is no such account; {there}"
        return "there is no such setting" + _suggestion(name, origin)

    def add_account(self, group: str, subdomain: str, origin: str) -> None:
        self.accounts[group.removeprefix(f"{ACCOUNTS}.")] = group
        self.values[group] = {"subdomain": subdomain}
        self.origins[f"{group}.subdomain"] = origin

    def given_to(self, group: str | None) -> dict[str, Any]:
        """What the sources give to an account: that of this group, or None where there is only one."""
        of_all = self.values["zendesk"]
        return of_all if group is None else in_force(of_all, self.values[group])

    def problem(self, name: str, origin: str, text: str) -> None:
        problem = f"{name} ({origin}): {text}"
        if problem not in self.problems:  # what is wrong for all accounts is told once
            self.problems.append(problem)

    def unreadable(self, name: str, origin: str, text: str) -> None:
        self.problem(name, origin, text)
        self.take(name, "unreadable", origin)  # so that nobody says it was not given
        self.judged.add(name)


def _suggestion(name: str, origin: str) -> str:
    group, _, field = name.partition(".")
    # The right word in the wrong group first: it is no typing error that a measure of distance would find.
    same = [known for known in NAMES if field and known.endswith(f".{field}")]
    close = difflib.get_close_matches(name, [*NAMES, ACCOUNTS], n=1, cutoff=0.6) or same
    if not close:
        return f"; the groups are {', '.join(groups())}" if group not in groups() else ""
    return _did_you_mean(close[0], origin)


def _did_you_mean(name: str, origin: str) -> str:
    variable = f" ({_variable(name)})" if origin.startswith("environment") else ""
    return f"; did you mean {name}{variable}?"


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__").replace("-", "_")


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
        if group == ACCOUNTS:
            _read_accounts(members, path, origin, found)
        elif isinstance(members, yaml.MappingNode):
            for name, value, place in _flat(members, path, f"{group}.", found):
                found.take(name, _plain(value, name, place, found), place)
        elif group not in groups():
            found.take(group, "", origin)
        elif not _is_null(members):
            found.problem(group, origin, "a group of settings is expected, each on an indented line of its own")


def _read_accounts(node: yaml.Node, path: Path, origin: str, found: _Found) -> None:
    if not isinstance(node, yaml.SequenceNode):
        if not _is_null(node):
            found.problem(ACCOUNTS, origin, 'a list is expected, each account beginning with "- subdomain: …"')
        return
    for number, entry in enumerate(node.value, 1):
        group = f"{ACCOUNTS}[{number}]"  # until it has a name
        place = f"{path}:{entry.start_mark.line + 1}"
        if not isinstance(entry, yaml.MappingNode):
            found.problem(group, place, 'settings of an account are expected, first of all "subdomain: …"')
            continue
        named = (value for key, value in entry.value if key.value == "subdomain" and isinstance(value, yaml.ScalarNode))
        subdomain = next((str(value.value).lower() for value in named if not _is_null(value)), "")
        if not subdomain:
            found.problem(f"{group}.subdomain", place, "required in each account")
            found.judged.add(f"{group}.subdomain")
        elif SUBDOMAIN.fullmatch(subdomain):
            group = f"{ACCOUNTS}.{subdomain}"
            if group in found.values:
                before = found.origins[f"{group}.subdomain"]
                found.problem(f"{group}.subdomain", place, f"the account is there already ({before}); keep one")
                continue
        found.add_account(group, subdomain, place)
        for name, value, where in _flat(entry, path, f"{group}.", found):
            if name != f"{group}.subdomain":
                found.take(name, _plain(value, name, where, found), where)


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
    if found.knows(name):
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
        if not separator or group not in (*groups(), ACCOUNTS):
            continue  # other programs have secrets, too
        name, origin = f"{group}.{field}", f"{_FROM_FILE}{file}"
        if group == ACCOUNTS:
            name = written_out(field, found.accounts)
        if not found.knows(name):
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
            name = variable.removeprefix(PREFIX).lower()
            if name.startswith(f"{ACCOUNTS}__"):
                name = written_out(name.removeprefix(f"{ACCOUNTS}__"), found.accounts)
            found.take(name.replace("__", "."), value, f"environment variable {variable}")


def _read_overrides(overrides: Sequence[str], found: _Found) -> None:
    for number, override in enumerate(overrides, 1):
        name, equals, value = override.partition("=")
        if equals and value:
            found.take(name.strip().lower(), value, "--set")
        else:
            # Without the text: it may be a secret in the wrong place.
            found.problem(f"--set number {number}", "command line", "group.name=value is expected")


def _read_all(config: Path | None, overrides: Sequence[str]) -> _Found:
    found = _Found()
    chosen = config or (Path(path) if (path := os.environ.get(CONFIG_VARIABLE)) else None)
    if chosen is not None or DEFAULT_CONFIG.exists():
        _read_yaml(chosen or DEFAULT_CONFIG, found)
    _read_secret_files(found)
    _read_environment(found)
    _read_overrides(overrides, found)
    return found


def load_accounts(
    config: Path | None = None, overrides: Sequence[str] = (), only: Collection[str] = ()
) -> tuple[Settings, ...]:
    """Read all sources and check all settings, of each account that there is or of `only` these.

    The sources give all of them, but what another account lacks, such as its secrets, need not be here.

    Args:
        config: The YAML file; None takes PRODUCER_CONFIG, else `config/producer.yaml` where it exists.
        overrides: `group.name=value` each, as after `--set`.
        only: Subdomains; none of them means all.

    Raises:
        Misconfigured: with all problems, one on each line: the setting, where its value came from, what is wrong with it
            and what would be right. Values of secrets are never shown.
    """
    found = _read_all(config, overrides)
    if found.accounts and "subdomain" in found.values["zendesk"]:
        text = f"the accounts are those of the list {ACCOUNTS}: move this one there"
        found.problem("zendesk.subdomain", found.origins["zendesk.subdomain"], text)
    given = {subdomain: found.given_to(group) for subdomain, group in found.accounts.items()}
    for name, text in shared_topics(given, found.values["topics"]):
        found.problem(name, found.origins.get(name, "default"), text)
    wanted = {subdomain.lower() for subdomain in only}
    of_accounts = [group for subdomain, group in found.accounts.items() if not wanted or subdomain in wanted]
    accounts = [_checked(found, group) for group in (of_accounts if found.accounts else [None])]
    if found.problems:
        count = "one problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise Misconfigured(
            f"the settings have {count}:" + "".join(f"\n  {problem}" for problem in found.problems),
            hint="config/producer.yaml describes every setting; `zendesk-producer config schema` prints their schema",
        )
    settings = tuple(account for account in accounts if account is not None)
    there = list(found.accounts) or [each.zendesk.subdomain for each in settings]
    if absent := wanted - set(there):
        raise Misconfigured(
            f"there is no account {', '.join(sorted(absent))} in the settings", hint=f"known: {listed(there)}"
        )
    return settings


def load_settings(config: Path | None = None, overrides: Sequence[str] = (), only: Collection[str] = ()) -> Settings:
    """As `load_accounts`, for whoever needs one account and no more.

    Raises:
        Misconfigured: as `load_accounts`; or there are several.
    """
    accounts = load_accounts(config, overrides, only)
    if len(accounts) > 1:
        raise Misconfigured(
            f"this is about one account, and there are {listed([each.zendesk.subdomain for each in accounts])}",
            hint="say which one with --account, before the command",
        )
    return accounts[0]


def load_http(config: Path | None = None, overrides: Sequence[str] = ()) -> HttpSettings:
    """Where a running service is asked, for whoever needs no account: nothing else is checked.

    Raises:
        Misconfigured: these settings are wrong.
    """
    try:
        return HttpSettings.model_validate(_read_all(config, overrides).values["http"])
    except ValidationError:
        raise Misconfigured(
            "the settings of the group http are wrong",
            hint="`zendesk-producer config show` says what is wrong with them",
        ) from None


def _checked(found: _Found, group: str | None) -> Settings | None:
    """The settings of an account, None with problems: that of this group, or the only one."""
    zendesk, own = found.given_to(group), {} if group is None else found.values[group]

    def place(name: str) -> str:
        """The name under which a setting is given, or could be."""
        field = name.removeprefix("zendesk.")
        if group is None or field == name or name not in NAMES or (field in zendesk and field not in own):
            return name
        return f"{group}.{field}"

    try:
        settings = Settings.model_validate({**{name: found.values[name] for name in groups()}, "zendesk": zendesk})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            name = place(".".join(str(part) for part in detail["loc"][:2]))
            if name in found.judged:
                continue
            text = _NAME_IN_TEXT.sub(lambda setting: place(setting[0]), without_prefix(detail["msg"]))
            if detail["type"] == "missing":
                text = f"required; set it as {_variable(name)}, with --set or in the YAML file"
            found.problem(name, found.origins.get(name, "not set"), text)
        return None
    origins = {name: found.origins.get(place(name)) for name in NAMES}
    settings._origins.update({name: origin for name, origin in origins.items() if origin is not None})
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
