"""Several accounts: what the `zendesk` group says for all of them, what each has of its own, and what none may share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from producer.settings.model import NAMES, SIGN_IN, TopicsSettings
from producer.streams import BESIDE

ACCOUNTS = "accounts"
_WHOSE = {owner for owner in SIGN_IN.values() if owner is not None}
_SHOWN = 10


def parted(name: str) -> tuple[str, str]:
    """The group of a setting and its name within it: `accounts.acme.page_size` is the `page_size` of `accounts.acme`."""
    group, _, field = name.partition(".")
    if group == ACCOUNTS:
        account, _, field = field.partition(".")
        group = f"{ACCOUNTS}.{account}"
    return group, field


def belongs_to_an_account(field: str) -> bool:
    """Whether an account may have this setting of its own. Its subdomain is what tells it from the others."""
    return field != "subdomain" and f"zendesk.{field}" in NAMES


def written_out(text: str, accounts: Iterable[str]) -> str:
    """The full name of what a variable or a file calls `accounts__<account>__<name>`, given without its first part.

    Where the account has hyphens there may be underscores: no subdomain has any, so they tell the same account.
    """
    plain = text.replace("-", "_")
    fitting = [
        f"{ACCOUNTS}.{account}.{plain.removeprefix(spelt)}"
        for account in accounts
        if plain.startswith(spelt := f"{account.replace('-', '_')}__")
    ]
    known = (name for name in fitting if belongs_to_an_account(parted(name)[1]))  # of a--b and a, both fit A__B__…
    return next(known, fitting[0] if fitting else f"{ACCOUNTS}.{text.replace('__', '.')}")


def in_force(of_all: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What is given to an account. One that signs in by a secret of its own leaves alone how the others do."""
    if ways := [way for way in SIGN_IN if way in own]:
        unused = {*SIGN_IN, *_WHOSE} - {SIGN_IN[way] for way in ways}
        of_all = {name: value for name, value in of_all.items() if name not in unused}
    return {**of_all, **own}


def shared_topics(accounts: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The setting of each topic that several accounts would write to, and what is wrong with that.

    `accounts`: what is given to each, by subdomain; `given`: what is given for the topics. All of it as it came.
    Checkpoints may be together, since their keys name the account.
    """
    names = {field.alias or name: field.default for name, field in TopicsSettings.model_fields.items()} | dict(given)
    writers: dict[str, dict[str, str]] = {}
    for subdomain, zendesk in accounts.items():
        for setting in _used(zendesk):
            topic = str(names[setting]).replace("{subdomain}", subdomain)
            writers.setdefault(topic, {})[subdomain] = setting
    for topic, settings in writers.items():
        if len(settings) > 1 and set(settings.values()) != {"checkpoints"}:
            setting = next(name for name in settings.values() if name != "checkpoints")
            yield (
                f"topics.{setting}",
                f"{topic} would have records of {listed(settings)}, and a topic belongs to one account: put {{subdomain}} into "
                f'the name, as in "{names[setting]}.{{subdomain}}"',
            )


def _used(zendesk: Mapping[str, Any]) -> Iterator[str]:
    """The settings of the topics that an account writes to."""
    streams = _names(zendesk.get("streams", "tickets"))
    yield from (name for name in streams if f"topics.{name}" in NAMES)
    yield from ("checkpoints", "dead_letters")
    if "tickets" in streams:
        yield from (f"sideloads.{name}" for name in _names(zendesk.get("include", "")) if name in BESIDE)


def _names(value: str | list[str]) -> list[str]:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def listed(accounts: Collection[str]) -> str:
    """Them, as far as anybody wants to read on."""
    shown = list(accounts)[:_SHOWN]
    more = len(accounts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
