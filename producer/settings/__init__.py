"""Settings: `model` has every one of them, once; `sources` reads their values, reports all problems at once."""

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
from producer.settings.sources import load_settings, read_again

__all__ = [
    "NAMES",
    "HttpSettings",
    "KafkaSettings",
    "LogSettings",
    "Settings",
    "TicketsSettings",
    "TopicsSettings",
    "ZendeskSettings",
    "load_settings",
    "read_again",
]
