"""What a provider hands out for a while, such as a token: fetched once for all who wait, renewed before its end."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kobiri.domain.outcome import NotSent

T = TypeVar("T")

RENEW_PAUSE_S = 5.0  # between attempts to renew what still lives


@dataclass(frozen=True, slots=True)
class Fresh(Generic[T]):
    """What a fetch brought, and how long it lives from the moment when it was asked for, in seconds."""

    value: T = field(repr=False)
    life_s: float


@dataclass(frozen=True, slots=True)
class Token(Generic[T]):
    """What is in force. Times are monotonic."""

    value: T = field(repr=False)
    refresh_at: float
    ends_at: float


class Tokens(Generic[T]):
    """One thing of one account. `fetch` never raises; `renew_before_s`: so long before its end, or half-way through."""

    def __init__(
        self,
        fetch: Callable[[], Coroutine[Any, Any, Fresh[T] | NotSent]],
        *,
        what: str,
        renew_before_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._what = what
        self._renew_before_s = renew_before_s
        self._clock = clock
        self._current: Token[T] | None = None
        self._fetching: asyncio.Task[Token[T] | NotSent] | None = None
        self._renew_after = 0.0

    async def fresh(self, within_s: float) -> Token[T] | NotSent:
        """Return one that was not there before."""
        return await self.get(self._current, within_s)

    async def get(self, refused: Token[T] | None, within_s: float) -> Token[T] | NotSent:
        """Return one that is not `refused`, or why there is none after `within_s`."""
        self.forget(refused)
        now, current = self._clock(), self._current
        if current is not None and now < current.ends_at:
            if now >= max(current.refresh_at, self._renew_after):
                self._renew_after = now + RENEW_PAUSE_S
                self._start()
            return current
        # The fetch is nobody's own: who waits may be cancelled or run out of time, it goes on for the others.
        fetching = self._start()
        await asyncio.wait({fetching}, timeout=max(within_s, 0))
        if not fetching.done() or fetching.cancelled():
            return NotSent(f"no {self._what} in time")
        return fetching.result()

    def forget(self, refused: Token[T] | None) -> None:
        """Use this one no more; another that has replaced it stays."""
        if refused is not None and self._current is refused:
            self._current = None

    def _start(self) -> asyncio.Task[Token[T] | NotSent]:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._new())
        return self._fetching

    async def _new(self) -> Token[T] | NotSent:
        asked_at = self._clock()
        fresh = await self._fetch()
        if isinstance(fresh, NotSent):
            return fresh
        self._current = Token(
            fresh.value,
            refresh_at=asked_at + max(fresh.life_s - self._renew_before_s, fresh.life_s / 2),
            ends_at=asked_at + fresh.life_s,
        )
        return self._current

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
