"""Merchants that pay, and repeat with the same key on any error or lost connection until they are told."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx

from tests.crash.invariants import Told

PATIENCE_S = 20.0  # for one answer
BACKOFF_S = (0.1, 0.2, 0.4, 0.8, 1.0)


@dataclass(frozen=True)
class Order:
    """`patience_s`: after so long the first request is given up, as by one who loses the line."""

    key: str
    body: dict[str, Any]
    prefer: str | None
    patience_s: float
    twins: int
    repeats: int  # after it was told
    pause_s: float


def orders(seed: int, prefixes: Sequence[str]) -> Iterator[Order]:
    """What one client asks for, without end."""
    dice = random.Random(seed)
    while True:
        payer = f"{dice.choice(prefixes)}{dice.randint(1_000_000, 9_999_999)}"
        body = {"amount": str(dice.randint(1, 500)), "currency": "ZMW", "payer": payer}
        if dice.random() < 0.3:
            body["reference"] = f"order-{dice.getrandbits(48):x}"
        yield Order(
            key=f"{dice.getrandbits(64):016x}",
            body=body,
            prefer="respond-async" if dice.random() < 0.15 else None,
            patience_s=dice.uniform(0.01, 1.0) if dice.random() < 0.15 else PATIENCE_S,
            twins=dice.choice((1, 1, 1, 1, 2, 3)),
            repeats=dice.choice((0, 0, 0, 1)),
            pause_s=dice.uniform(0.1, 0.8),
        )


@dataclass
class Crowd:
    """All clients together, and what they were told. They go to one address after the other."""

    urls: Sequence[str]
    told: list[Told] = field(default_factory=list)
    asked: list[tuple[str, Order]] = field(default_factory=list)  # with the caller's key of the API
    untold: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # No connection is kept: one that a killed process held would fail the next request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(limits=limits, timeout=PATIENCE_S, trust_env=False, verify=False)

        self._turns = cycle(self.urls)

    async def close(self) -> None:
        await self._http.aclose()

    async def buy(self, caller: str, wanted: Iterator[Order], until: float, give_up_at: float) -> None:
        """One client: orders begin until the one monotonic time, and the last is told by the other."""
        for order in wanted:
            if time.monotonic() >= until:
                return
            self.asked.append((caller, order))
            await asyncio.gather(*(self._until_told(caller, order, give_up_at) for _ in range(order.twins)))
            for _ in range(order.repeats):
                await self._ask(caller, order, PATIENCE_S)
            await asyncio.sleep(order.pause_s)

    async def _until_told(self, caller: str, order: Order, give_up_at: float) -> None:
        patience_s, tries = order.patience_s, 0
        while not await self._ask(caller, order, patience_s):
            if time.monotonic() > give_up_at:
                self.untold.append(order.key)
                return
            self.counts["repeats"] += 1
            await asyncio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)])
            patience_s, tries = PATIENCE_S, tries + 1

    async def last_words(self, at_once: int = 8) -> None:
        """Each key once more, now that all is at rest."""
        places = asyncio.Semaphore(at_once)

        async def once(caller: str, order: Order) -> None:
            async with places:
                if not await self._ask(caller, order, PATIENCE_S, last=True):
                    self.untold.append(order.key)

        await asyncio.gather(*(once(caller, order) for caller, order in self.asked))

    async def _ask(self, caller: str, order: Order, patience_s: float, *, last: bool = False) -> bool:
        """Whether it was told; refusals that may be repeated do not count."""
        headers = {"x-api-key": caller, "idempotency-key": order.key}
        if order.prefer:
            headers["prefer"] = order.prefer
        self.counts["requests"] += 1
        try:
            url = f"{next(self._turns)}/api/v1/payments"
            answer = await self._http.post(url, json=order.body, headers=headers, timeout=patience_s)
        except httpx.TransportError as error:
            self.counts[f"lost: {type(error).__name__}"] += 1
            return False
        told = Told.by(answer, last=last)
        self.told.append(told)
        self.counts[f"told {told.status_code}"] += 1
        return not told.document.get("retryable", False)
