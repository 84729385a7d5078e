"""What the services work with, wired by `app`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from kobiri.domain.errors import KobiriError
from kobiri.domain.payment import Payment
from kobiri.services.routing import Roads
from kobiri.store.db import Database

# A lease outlives the call that it allows by this much: the time to store what the provider said.
LEASE_MARGIN_S = 5.0
STORE_WITHIN_S = 2.0

log = structlog.get_logger(__name__)

T = TypeVar("T")


class OpenCalls:
    """The provider calls that are open now, so that a stop can end them: what is cut ends as unknown."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopped = False

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a piece of work that is done to its end, whether or not somebody waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        """Perhaps nobody waits for it any more: what stopped it must be told by somebody."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, KobiriError):
            log.warning("call.not_stored", code=error.code, detail=error.detail)
        elif error is not None:
            log.error("call.crashed", exc_info=error)

    @property
    def running(self) -> int:
        """How many pieces of work are not done yet."""
        return len(self._tasks)

    async def drain(self, grace_s: float) -> None:
        """Wait for all work; after `grace_s` seconds cut its calls."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            if late:
                self.cut()
                await asyncio.wait(late, timeout=STORE_WITHIN_S)

    @asynccontextmanager
    async def track(self) -> AsyncIterator[None]:
        """Raises TimeoutError inside when the calls are cut, at once when they have been."""
        if self.stopped:
            raise TimeoutError
        async with asyncio.timeout(None) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def cut(self) -> None:
        """End all open calls now, and let no other begin. Once is enough: what is cut already ends by itself."""
        if self.stopped:
            return
        self.stopped = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The dependencies and durations of the services. `render` turns a payment into the bytes that a client gets."""

    db: Database
    roads: Roads
    render: Callable[[Payment], bytes]
    send_within: timedelta
    expires_after: timedelta
    key_life: timedelta
    calls: OpenCalls = field(default_factory=OpenCalls)
