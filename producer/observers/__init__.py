"""Those who are told what happens: beside the loop, never in it."""

from __future__ import annotations

import logging

from producer.events import Event, Observer


def fan_out(*observers: Observer) -> Observer:
    """One observer that tells all of these, in this order.

    An observer that fails is logged and does not end the service: telling is never a reason to stop publishing.
    """

    def tell(event: Event) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception:
                logging.getLogger(__name__).exception("an observer failed at %s", type(event).__name__)

    return tell
