"""One provider account with its guards: whether it may be called now, and how its calls go."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

import structlog

from kobiri.domain import schedule
from kobiri.domain.allowance import Pace, RetryBudget
from kobiri.domain.breaker import Breaker, State
from kobiri.domain.ids import AccountId, ProviderReference
from kobiri.domain.money import LARGEST_MINOR
from kobiri.domain.outcome import Finding, NotSent, Outcome, Unknown, after_doubt
from kobiri.domain.payment import Kind
from kobiri.providers.base import (
    Account,
    Operation,
    Provider,
    ProviderSpec,
    Request,
    kind_of,
    kinds_of,
)

log = structlog.get_logger(__name__)

CHECK_WITHIN_S = 8.0
SENSE_IN_REPEATING_S = 1.0  # with less time than this left no repeat is begun
DEGRADED_SHARE = 0.1

Call: TypeAlias = Kind | Literal["find"]
Availability: TypeAlias = Literal["operational", "degraded", "down", "unknown"]


class Road:
    """A provider account as the services call it. Made inside a running loop; close it.

    `account_id` None: the platform's account. Of several roads to a wallet the one of the lowest `priority` is taken
    first. `limits_minor`: the smallest and largest amount of one payment, where the account has any. `largest_minor`:
    the largest that the installation allows, by currency.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        account_id: AccountId | None = None,
        priority: int = 0,
        limits_minor: tuple[int | None, int | None] = (None, None),
        largest_minor: Mapping[str, int] = LARGEST_MINOR,
        disabled_because: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider = provider
        self.kinds = kinds_of(provider.spec, provider.account)
        self.account_id = account_id
        self.priority = priority
        self._limits_minor = limits_minor
        self._largest_minor = largest_minor
        self.disabled_because = disabled_because
        self._clock = clock
        self._breakers: defaultdict[Call, Breaker] = defaultdict(Breaker)
        self._budget = RetryBudget()
        reads = provider.spec.status_reads_per_s
        self._pace = Pace(reads) if reads else None
        self._rests_until = 0.0
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def spec(self) -> ProviderSpec:
        return self.provider.spec

    @property
    def account(self) -> Account:
        return self.provider.account

    @property
    def label(self) -> str:
        """For logs and events: the provider, and whose account where it is not the platform's."""
        return self.spec.id if self.account_id is None else f"{self.spec.id}:{self.account_id}"

    def limits(self, currency: str) -> tuple[int | None, int | None]:
        """The smallest and the largest amount of one payment, in minor units; None: there is no limit of ours."""
        least, most = self._limits_minor
        both = (limit for limit in (most, self._largest_minor.get(currency)) if limit is not None)
        return least, min(both, default=None)

    def operation(self, kind: Kind) -> Operation:
        """What it can do with a kind of movement that it offers."""
        return self.spec.operations[kind]

    def closed_because(self, kind: Kind) -> str | None:
        """Why no new money may go this way now; None: it may."""
        if self.disabled_because is not None:
            return f"switched off: {self.disabled_because}"
        if not self._breakers[kind].lets_through:
            return "its circuit is open"
        if self._clock() < self._rests_until:
            return "it asked for a rest"
        return None

    def availability(self, kind: Kind) -> Availability:
        """How our own calls of the last five minutes went, in this process."""
        breaker = self._breakers[kind]
        if breaker.state is not State.CLOSED:
            return "down"
        good, bad = breaker.counts(self._clock())
        if not good + bad:
            return "unknown"
        return "degraded" if bad >= DEGRADED_SHARE * (good + bad) else "operational"

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        """Move money, at most once. What may safely be repeated is, inside of `within_s` seconds."""
        kind = kind_of(request)
        breaker, operation = self._breakers[kind], self.operation(kind)
        turn = breaker.begin()
        if turn is None:
            return NotSent("the circuit is open", outage=False)
        began, outcome = self._clock(), None
        try:
            outcome = await self._send(request, operation, began + within_s, first_byte_before)
        finally:
            # Where the payer is awaited inside of the call, its silence says nothing about the provider.
            waited_in_vain = operation.status_query == "none" and self._clock() - began >= within_s - 0.5
            self._count(kind, breaker, turn, None if waited_in_vain else outcome)
        if isinstance(outcome, Unknown) and operation.status_query == "none":
            return replace(outcome, askable=False)
        return outcome

    async def find(self, kind: Kind, reference: ProviderReference) -> Finding:
        """Ask what became of a movement, at the pace that the provider wants."""
        if self.operation(kind).status_query == "none":
            return Unknown("this provider cannot be asked", outage=False, askable=False)
        within_s, breaker = self.account.answer_within_s, self._breakers["find"]
        wait_s = self._pace.reserve(self._clock(), within_s / 2) if self._pace else 0.0
        if wait_s is None:
            return Unknown("too many questions at once", outage=False, asked=False)
        await asyncio.sleep(wait_s)
        if self._clock() < self._rests_until:
            return Unknown("it asked for a rest", outage=False, asked=False)
        turn = breaker.begin()
        if turn is None:
            return Unknown("the circuit is open", outage=False, asked=False)
        finding = None
        try:
            finding = await self.provider.find(kind, reference, within_s=within_s - wait_s)
        finally:
            self._count("find", breaker, turn, finding)
        return finding

    async def close(self) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self.provider.close()

    async def _send(
        self, request: Request, operation: Operation, ends_at: float, first_byte_before: float | None
    ) -> Outcome:
        """One call and its repeats. Once a pass may have arrived, a later one's refusal settles nothing."""
        self._budget.earn()
        began = self._clock()
        outcome = await self.provider.send(
            request, within_s=ends_at - self._clock(), first_byte_before=first_byte_before
        )
        in_doubt = isinstance(outcome, Unknown)
        repeats = 0
        while _may_repeat(outcome, operation, self._clock() - began):
            delay_s = schedule.quick_delay_s(repeats, random.random())
            if delay_s is None or ends_at - self._clock() < delay_s + SENSE_IN_REPEATING_S or not self._budget.spend():
                break
            await asyncio.sleep(delay_s)
            repeats, began = repeats + 1, self._clock()
            again = await self.provider.send(
                request, within_s=ends_at - self._clock(), first_byte_before=first_byte_before
            )
            outcome = after_doubt(again) if in_doubt else again
            in_doubt = in_doubt or isinstance(again, Unknown)
        return outcome

    def _count(self, call: Call, breaker: Breaker, turn: int, said: Outcome | Finding | None) -> None:
        """Tell the breaker how a call went that began in this turn of it."""
        now = self._clock()
        if said is None:
            breaker.neither(turn)
            return
        if isinstance(said, Unknown) and said.retry_after_s:
            self._rests_until = max(self._rests_until, now + said.retry_after_s)
        if isinstance(said, NotSent | Unknown) and said.outage:
            was_open = breaker.state is State.OPEN
            breaker.bad(now, random.random(), turn)
            if breaker.state is State.OPEN and not was_open:
                log.warning("circuit.opened", road=self.label, call=call, reason=said.reason)
                self._start_probe(call, breaker)
        elif isinstance(said, NotSent):
            breaker.neither(turn)  # our own reasons for not sending say nothing about the provider
        else:
            breaker.good(now, turn)

    def _start_probe(self, call: Call, breaker: Breaker) -> None:
        probe = asyncio.create_task(self._probe(call, breaker))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _probe(self, call: Call, breaker: Breaker) -> None:
        """While the circuit is open: call what moves nothing, so that no payer has to try whether it works again."""
        while breaker.state is State.OPEN:
            await asyncio.sleep(max(breaker.open_until - self._clock(), 0))
            trouble = await self.provider.check(within_s=CHECK_WITHIN_S)
            if trouble is None:
                breaker.half_open()
                log.info("circuit.half_open", road=self.label, call=call)
            else:
                breaker.stay_open(self._clock(), random.random())


def _may_repeat(outcome: Outcome, operation: Operation, took_s: float) -> bool:
    """What surely did not leave, or what the provider would recognise by our reference; and only where it may help.

    Who needed a second to find no connection leaves the time that is left to another road.
    """
    match outcome:
        case NotSent():
            return outcome.outage and took_s < SENSE_IN_REPEATING_S
        case Unknown():
            return outcome.outage and operation.dedupes and outcome.retry_after_s is None
        case _:
            return False
