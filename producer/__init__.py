"""Every version of every Zendesk ticket in Kafka, exactly once."""

__version__ = "0.1.0"
