"""Settings: `model` has every one of them, once; `sources` reads their values, reports all problems at once; `accounts` tells
what is whose where there are several accounts."""

from producer.settings.model import (
    NAMES,
    HttpSettings,
    KafkaSettings,
    LogSettings,
    Settings,
    TicketsSettings,
    TopicsSettings,
    ZendeskSettings,
)
from producer.settings.sources import load_accounts, load_http, load_settings, read_again

__all__ = [
    "NAMES",
    "HttpSettings",
    "KafkaSettings",
    "LogSettings",
    "Settings",
    "TicketsSettings",
    "TopicsSettings",
    "ZendeskSettings",
    "load_accounts",
    "load_http",
    "load_settings",
    "read_again",
]
