"""Every task of the worker on one screen."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from kobiri.services import checking, housekeeping
from kobiri.services.gateway import Gateway
from kobiri.services.reviews import Operator, tell_new_cases


@dataclass(frozen=True, slots=True)
class Task:
    """Work that is done again and again: every `every_s` seconds, and `at_once` while there is more.

    `run` returns how much it did.
    """

    name: str
    every_s: float
    run: Callable[[], Awaitable[int]]
    at_once: bool = True


def periodic(gateway: Gateway, callback_retention: timedelta, operator: Operator | None) -> tuple[Task, ...]:
    """What is done by the clock. Payments that are due are claimed by the loop itself."""
    earlier_s = checking.EARLIER_PLACES / checking.EARLIER_PER_S
    earlier = Task("ask_earlier_road", earlier_s, lambda: checking.ask_earlier_road(gateway), at_once=False)
    return (
        *(() if operator is None else (Task("tell_operator", 2, lambda: tell_new_cases(gateway.db, operator)),)),
        *(checking.EARLIER_PLACES * (earlier,)),
        Task("seal_events", 0.5, lambda: housekeeping.seal_events(gateway.db)),
        Task("purge_idempotency_keys", 3600, lambda: housekeeping.purge_idempotency_keys(gateway.db)),
        Task("purge_callbacks", 3600, lambda: housekeeping.purge_callbacks(gateway.db, callback_retention)),
    )
