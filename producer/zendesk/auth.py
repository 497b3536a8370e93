"""Who asks: the Authorization header of each request."""

from __future__ import annotations

from aiohttp import encode_basic_auth

from producer.settings import ZendeskSettings

API_TOKENS_END = "2027-04-30"
"""When they stop working, by Zendesk's announcement."""


def authorization(settings: ZendeskSettings) -> str:
    """The value of the Authorization header: Bearer, or Basic as `email/token:token` or `email:password`.

    Settings with no way to sign in never come this far: `producer.settings` refuses them.
    """
    if settings.access_token is not None:
        return f"Bearer {settings.access_token.get_secret_value()}"
    if settings.api_token is not None:
        return encode_basic_auth(f"{settings.email}/token", settings.api_token.get_secret_value(), encoding="utf-8")
    assert settings.password is not None
    return encode_basic_auth(str(settings.email), settings.password.get_secret_value(), encoding="utf-8")
