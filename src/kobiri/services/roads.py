"""One provider account with its guards: whether it may be called now, and how its calls go."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

import structlog

from kobiri.domain import schedule
from kobiri.domain.allowance import Pace, RetryBudget
from kobiri.domain.breaker import OPEN_S, Breaker, State, Trouble
from kobiri.domain.ids import AccountId, ProviderReference, new_provider_reference
from kobiri.domain.money import LARGEST_MINOR
from kobiri.domain.outcome import Finding, NotSent, Outcome, Unknown, after_doubt
from kobiri.domain.payment import Kind
from kobiri.net import CONNECT_WITHIN_S
from kobiri.providers.base import (
    Account,
    Operation,
    Payout,
    Provider,
    ProviderSpec,
    Request,
    kind_of,
    kinds_of,
)
from kobiri.services.unlisted import Unlisted

log = structlog.get_logger(__name__)

CHECK_WITHIN_S = 8.0  # or as long as the provider gets, where it can be asked: a slow one is well too
PLACE_WITHIN_S = 0.5  # a question that the pace lets wait for longer is due again later: it holds up a worker meanwhile
LONGEST_LINE_S = 120.0
LASTS_S = CONNECT_WITHIN_S + 2.0  # who has no answer by then has a connection, and trouble would show at once
SENSE_IN_REPEATING_S = 1.0  # with less time than this left no repeat is begun
DEGRADED_SHARE = 0.1

# Each sort of call has its own guard: what questions meet says nothing of new money, nor one product's key of another.
Call: TypeAlias = tuple[Literal["send", "find"], Kind]
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
        self.unlisted = Unlisted(provider.spec.id, account_id)
        self._breakers: defaultdict[Call, Breaker] = defaultdict(Breaker)
        self._budget = RetryBudget()
        reads = provider.spec.status_reads_per_s
        self._pace = Pace(reads) if reads else None
        self._line = Pace(reads) if reads else None  # of the questions for which there was no place
        self._probes: set[asyncio.Task[None]] = set()
        self._looked_into: dict[Call, float] = {}

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
        breaker = self._breakers["send", kind]
        return None if breaker.lets_through else breaker.because

    def availability(self, kind: Kind) -> Availability:
        """How our own calls of the last five minutes went, in this process."""
        breaker = self._breakers["send", kind]
        if breaker.state is not State.CLOSED:
            return "down"
        good, bad = breaker.counts(self._clock())
        if not good + bad:
            return "unknown"
        return "degraded" if bad >= DEGRADED_SHARE * (good + bad) else "operational"

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        """Move money, at most once. What may safely be repeated is, inside of `within_s` seconds."""
        kind = kind_of(request)
        call: Call = ("send", kind)
        breaker, operation = self._breakers[call], self.operation(kind)
        turn = breaker.begin()
        if turn is None:
            return NotSent(breaker.because, outage=False)
        began, outcome = self._clock(), None
        lasts = None
        if operation.status_query == "none":
            lasts = asyncio.get_running_loop().call_later(LASTS_S, breaker.lasts, turn)
        try:
            outcome = await self._send(request, operation, began + within_s, first_byte_before)
        finally:
            if lasts is not None:
                lasts.cancel()
            # Where the payer is awaited inside of the call, its silence says nothing about the provider.
            waited_in_vain = operation.status_query == "none" and self._clock() - began >= within_s - 0.5
            self._count(call, turn, None if waited_in_vain else outcome, about=_wallet(request))
        self.unlisted.note(outcome)
        if isinstance(outcome, Unknown) and operation.status_query == "none":
            return replace(outcome, askable=False)
        return outcome

    async def find(self, kind: Kind, reference: ProviderReference) -> Finding:
        """Ask what became of a movement, at the pace that the provider wants."""
        if self.operation(kind).status_query == "none":
            return Unknown("this provider cannot be asked", outage=False, askable=False)
        call: Call = ("find", kind)
        within_s, breaker = self.account.deadline_s, self._breakers[call]
        wait_s = self._pace.reserve(self._clock(), min(PLACE_WITHIN_S, within_s / 2)) if self._pace else 0.0
        if wait_s is None:
            in_line_s = self._line.reserve(self._clock(), LONGEST_LINE_S) if self._line else None
            place_in_s = PLACE_WITHIN_S + (LONGEST_LINE_S if in_line_s is None else in_line_s)
            return Unknown("too many questions at once", outage=False, asked=False, retry_after_s=place_in_s)
        await asyncio.sleep(wait_s)
        turn = breaker.begin()
        if turn is None:
            return Unknown(breaker.because, outage=False, asked=False)
        finding = None
        try:
            finding = await self.provider.find(kind, reference, within_s=within_s - wait_s)
        finally:
            self._count(call, turn, finding, about=reference)
        self.unlisted.note(finding)
        return finding

    def reset(self) -> None:
        """Let all calls through again, whatever went badly before: an operator says so."""
        for probe in self._probes:
            probe.cancel()
        for breaker in self._breakers.values():
            breaker.close()
        self._looked_into.clear()

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

    def _count(self, call: Call, turn: int, said: Outcome | Finding | None, *, about: Hashable) -> None:
        """Tell the breaker how a call went that began in this turn of it, and whose it was."""
        now, breaker = self._clock(), self._breakers[call]
        trouble = _trouble(said)
        if call[0] == "find" and trouble not in (None, Trouble.OUTAGE):
            # Whoever has a few payments may be answered so about them: only the word about nobody's closes it to all.
            breaker.neither(turn)
            self._look_into(call)
        elif trouble is not None and isinstance(said, NotSent | Unknown):
            was_open = breaker.state is State.OPEN
            breaker.bad(
                now,
                random.random(),
                turn,
                about=about if isinstance(said, Unknown) and said.asked else None,
                trouble=trouble,
                rest_s=_rest_s(said),
            )
            if breaker.state is State.OPEN and not was_open:
                self._opened(call, said.reason)
            elif trouble is not Trouble.OUTAGE and breaker.state is State.CLOSED:
                self._look_into(call)
        elif said is None or isinstance(said, NotSent):
            breaker.neither(turn)  # our own reasons for not sending say nothing about the provider
        else:
            breaker.good(now, turn)

    # --- what is asked about nobody's payment -----------------------------------------------------------------------

    def _opened(self, call: Call, reason: str) -> None:
        what, kind = call
        because = self._breakers[call].because.value
        log.warning("circuit.opened", road=self.label, call=what, kind=kind, because=because, reason=reason)
        self._start(self._probe(call))

    def _look_into(self, call: Call) -> None:
        """A plain word to one payer may be about that payer alone: ask at once whether all are meant."""
        now = self._clock()
        if now - self._looked_into.get(call, float("-inf")) >= OPEN_S:
            self._looked_into[call] = now
            self._start(self._confirm(call))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        probe = asyncio.create_task(work)
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _confirm(self, call: Call) -> None:
        breaker = self._breakers[call]
        turn = breaker.turn
        said = await self._trouble_of(call[1])
        trouble = _trouble(said)
        if said is not None and trouble in (Trouble.REFUSED, Trouble.REST) and breaker.turn == turn:
            breaker.open(self._clock(), random.random(), trouble, _rest_s(said))
            self._opened(call, said.reason)

    async def _probe(self, call: Call) -> None:
        """While the circuit is open: call what moves nothing, so that no payer has to try whether it works again."""
        what, kind = call
        breaker = self._breakers[call]
        while breaker.state is State.OPEN:
            await asyncio.sleep(max(breaker.open_until - self._clock(), 0))
            said = await self._trouble_of(kind)
            if said is not None:
                breaker.open(self._clock(), random.random(), _trouble(said) or Trouble.OUTAGE, _rest_s(said))
            elif what == "find":
                breaker.close()  # a question went well: there is no more to try
            else:
                breaker.half_open()
                log.info("circuit.half_open", road=self.label, kind=kind)

    async def _trouble_of(self, kind: Kind) -> Unknown | None:
        """What is wrong with calls of a kind, asked about nobody's payment; None: nothing."""
        within_s = CHECK_WITHIN_S
        if self.operation(kind).status_query != "none":
            within_s = max(within_s, self.account.deadline_s)
            said = await self.provider.find(kind, new_provider_reference(), within_s=within_s)
            trouble = _trouble(said)
            if trouble is not Trouble.OUTAGE:
                return said if trouble is not None and isinstance(said, Unknown) else None
            # What is said of a payment that nobody can know may look like an outage: then the key decides.
        checked = await self.provider.check(kind, within_s=within_s)
        return None if checked.trouble is None else Unknown(checked.trouble)


def _may_repeat(outcome: Outcome, operation: Operation, took_s: float) -> bool:
    """What surely did not leave, or what the provider recognises by our reference; and only where it may help.

    Who needed a second to find no connection leaves the time that is left to another road.
    """
    match outcome:
        case NotSent():
            return outcome.outage and took_s < SENSE_IN_REPEATING_S
        case Unknown():
            return outcome.outage and operation.repeats and outcome.retry_after_s is None
        case _:
            return False


def _trouble(said: Outcome | Finding | None) -> Trouble | None:
    """What an answer tells against its provider, whoever's payment it is about."""
    if not isinstance(said, NotSent | Unknown):
        return None
    if said.refused:
        return Trouble.REFUSED
    if _rest_s(said):
        return Trouble.REST
    return Trouble.OUTAGE if said.outage else None


def _rest_s(said: Outcome | Finding) -> float:
    return (said.retry_after_s or 0.0) if isinstance(said, Unknown) else 0.0


def _wallet(request: Request) -> str:
    """Whose it is: of what goes badly for one wallet alone, others shall notice nothing."""
    return request.payee.digits if isinstance(request, Payout) else request.payer.digits
