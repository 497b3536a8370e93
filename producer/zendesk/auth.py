"""Who asks: the Authorization header of each request, which changes when a token runs out or a secret is rotated."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec
from aiohttp import encode_basic_auth

from producer.errors import BadAnswer, ProducerError, SignInRefused
from producer.events import Noticed, Observer
from producer.settings import Settings, ZendeskSettings, read_again
from producer.streams import BESIDE, STREAMS

API_TOKENS_END = "2027-04-30"
"""When they stop working, by Zendesk's announcement."""

MARGIN = 60.0
"""Seconds before a token runs out at which it is renewed at the latest; earlier, when a tenth of its life is left."""

PAUSE = 60.0
"""Seconds after which a renewal that failed is tried again, while the token in hand is good."""

_SENDABLE = re.compile(r"[\x21-\x7e]+")  # all else could not be sent in a header, or would end it


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, in memory only. By the monotonic clock it is to be renewed at `until`, and good until `end`."""

    value: str = field(repr=False)
    until: float
    end: float
    scope: str
    life: float


class _Granted(msgspec.Struct):
    """What the token endpoint answers."""

    access_token: str
    scope: str | None = None
    expires_in: float | None = None


class Login:
    """The sign-in of one account, shared by its streams. `ask` sends a request for a token and answers its body.

    While a token is good, a renewal that fails stops nothing: it is told, and tried again a little later.
    A secret that came from a file is read again when a token is asked for, and when the API does not accept what we have:
    who rotates a secret needs to restart nobody.
    """

    def __init__(
        self, settings: Settings, ask: Callable[[Mapping[str, str | int]], Awaitable[bytes]], tell: Observer
    ) -> None:
        self._settings = settings
        self._zendesk = settings.zendesk
        self._ask = ask
        self._tell = tell
        self._one = asyncio.Lock()
        self._token: Token | None = None
        self._doubted = False  # what we have replaces something that was refused, and was not accepted yet
        self._renewal_failed = False

    async def header(self) -> str:
        """The value of the Authorization header: Bearer, or Basic as `email/token:token` or `email:password`.

        Raises:
            SignInRefused: no token is given to us, or not for what we need.
            Others: as from `ask`.
        """
        if self._zendesk.client_secret is None:
            return _static(self._zendesk)
        if self._token is None or time.monotonic() >= self._token.until:
            async with self._one:
                if self._token is None:
                    await self._renew()
                elif time.monotonic() >= self._token.until:
                    await self._renew_in_time(self._token)
        assert self._token is not None
        return f"Bearer {self._token.value}"

    def accepted(self) -> None:
        """The API takes us for who we are."""
        self._doubted = False

    async def refused(self, header: str) -> bool:
        """The API does not accept this header: whether there is another one by now, so that it may be asked again.

        Once at a time: what replaces it and is refused as well, is refused.

        Raises:
            As `header`.
        """
        async with self._one:
            if self._current() != header:
                return True  # another request has met the same, and is done with it
            if self._doubted:
                self._doubted = False
                return False
            if self._zendesk.client_secret is not None:
                await self._renew()
            else:
                self._zendesk = read_again(self._settings, self._zendesk)
            self._doubted = self._current() != header
            return self._doubted

    def forbidden(self, header: str) -> None:
        """The API knows this header and does not allow what was asked: what it will allow is seen by signing in anew.

        A token keeps the rights with which it was given, whatever is granted later.
        """
        if self._current() == header:
            self._token = None
            self._zendesk = read_again(self._settings, self._zendesk)

    @property
    def granted(self) -> str:
        """What the token in hand is good for, in words; empty without one."""
        return "" if self._token is None else f"scope {self._token.scope}, for {self._token.life:g} s"

    def _current(self) -> str:
        if self._zendesk.client_secret is None:
            return _static(self._zendesk)
        return "" if self._token is None else f"Bearer {self._token.value}"

    async def _renew_in_time(self, good: Token) -> None:
        try:
            await self._renew()
        except ProducerError as error:
            now = time.monotonic()
            if now >= good.end:
                raise
            self._token = replace(good, until=min(now + PAUSE, good.end))
            text = f"no new token is given to us; the one in hand is good for {good.end - now:.0f} s more: {error}"
            self._tell(Noticed("token", text, again=self._renewal_failed))
            self._renewal_failed = True
        else:
            self._renewal_failed = False

    async def _renew(self) -> None:
        zendesk = self._zendesk = read_again(self._settings, self._zendesk)
        assert zendesk.client_id is not None
        assert zendesk.client_secret is not None
        asked = scope_of(zendesk)
        self._token = None
        began = time.monotonic()
        body = await self._ask(
            {
                "grant_type": "client_credentials",
                "client_id": zendesk.client_id,
                "client_secret": zendesk.client_secret.get_secret_value(),
                "scope": asked,
                "expires_in": int(zendesk.token_lifetime),
            }
        )
        try:
            granted = msgspec.json.decode(body, type=_Granted)
        except msgspec.MsgspecError as error:
            # Nothing of the answer is quoted: a token may be in it.
            raise BadAnswer(f"the answer to a request for a token cannot be read: {type(error).__name__}") from None
        if not _SENDABLE.fullmatch(granted.access_token):
            raise BadAnswer("the answer to a request for a token has none that could be sent")
        self._settings.learn(granted.access_token)
        if granted.scope is not None and not covers(granted.scope, asked):
            raise SignInRefused(
                f'Zendesk gave a token with the scope "{granted.scope}" where "{asked}" was asked for: requests would be '
                "answered with 403",
                hint="give the OAuth client this scope in the Admin Center, or set zendesk.scope to what it may have",
            )
        life = zendesk.token_lifetime if granted.expires_in is None else granted.expires_in
        end = began + life
        early = min(max(life / 10, MARGIN), life / 2)
        self._token = Token(granted.access_token, end - early, end, granted.scope or asked, life)


def scope_of(zendesk: ZendeskSettings) -> str:
    """The scope that is asked for: `zendesk.scope`, else the least that the streams and sideloads need.

    Records beside the tickets need `read`: a right to read tickets does not say that others may be read along with them.
    """
    if zendesk.scope is not None:
        return zendesk.scope
    if "tickets" in zendesk.streams and any(name in BESIDE for name in zendesk.include):
        return "read"
    return " ".join(dict.fromkeys(STREAMS[name].scope for name in zendesk.streams))


def covers(granted: str, asked: str) -> bool:
    """Whether one scope, a list of words, allows what another does: `read` allows every `…:read`."""
    words = granted.split()
    return all(word in words or word.rpartition(":")[2] in words for word in asked.split())


def _static(zendesk: ZendeskSettings) -> str:
    """Settings with no way to sign in never come this far: `producer.settings` refuses them."""
    if zendesk.access_token is not None:
        return f"Bearer {zendesk.access_token.get_secret_value()}"
    if zendesk.api_token is not None:
        return encode_basic_auth(f"{zendesk.email}/token", zendesk.api_token.get_secret_value(), encoding="utf-8")
    assert zendesk.password is not None
    return encode_basic_auth(str(zendesk.email), zendesk.password.get_secret_value(), encoding="utf-8")
