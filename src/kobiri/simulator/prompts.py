"""What payers do with their prompts, and when: the part of a simulator that is alike at all providers."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from kobiri.simulator import faults as f
from kobiri.simulator.faults import Cue, Faults

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a request, in the provider's own words, and how long after it or the verdict before."""

    after_ms: int
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """A provider's own words, each a status and its reason, for what a payer may do."""

    paid: tuple[str, str | None]
    rejected: tuple[str, str | None]
    expired: tuple[str, str | None]
    no_funds: tuple[str, str | None]
    broken: tuple[str, str | None]
    pending: str

    def told(self, word: str | None, status: str, reason: str | None) -> tuple[str, str | None]:
        """Status and reason as told: by a word of the faults', or the true ones. An unknown word stands as it is."""
        match word:
            case None:
                return status, reason
            case "paid":
                return self.paid
            case "failed":
                return self.rejected
            case "pending":
                return self.pending, None
            case _:
                return word, reason


def faulted(faults: Faults, cue: Cue, prompt_ms: int, words: Words) -> list[Verdict] | None:
    """What the faults in force make of a request; None when they leave it to its number."""
    if (late := faults.take(cue, f.LateSuccess)) is not None:
        approval = Verdict(late.ms, *words.paid)
        return [Verdict(prompt_ms, *words.broken), approval] if late.after_failure else [approval]
    if (payer := faults.take(cue, f.Payer)) is None:
        return None
    after_ms = prompt_ms if payer.prompt_ms is None else payer.prompt_ms
    match payer.decision:
        case "approve":
            return [Verdict(after_ms, *words.paid)]
        case "ignore":
            return []
        case "reject":
            status, reason = words.rejected
        case "expire":
            status, reason = words.expired
        case "no_funds":
            status, reason = words.no_funds
        case "fail":
            status, reason = words.broken
    return [Verdict(after_ms, status, payer.reason or reason)]


@dataclass(slots=True)
class _Entry(Generic[T]):
    request: T
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Requests(Generic[T]):
    """What a provider was asked for, by reference; `settle` is called with each verdict when its time has come."""

    limit: int
    settle: Callable[[T, Verdict], None]
    _known: OrderedDict[str, _Entry[T]] = field(default_factory=OrderedDict)

    def get(self, reference: str) -> T | None:
        entry = self._known.get(reference)
        return None if entry is None else entry.request

    def add(self, reference: str, request: T, verdicts: Sequence[Verdict]) -> None:
        """Keep it, and set the alarm for the first verdict; each sets the next.

        What stood there under the same reference is forgotten, and still comes to its end.
        """
        entry = self._known[reference] = _Entry(request)
        if len(self._known) > self.limit:
            _, oldest = self._known.popitem(last=False)
            _silence(oldest)
        self._then(entry, verdicts)

    def forget(self) -> None:
        for entry in self._known.values():
            _silence(entry)
        self._known.clear()

    def _then(self, entry: _Entry[T], verdicts: Sequence[Verdict]) -> None:
        entry.timer = None
        if verdicts:
            come = partial(self._come, entry, verdicts)
            entry.timer = asyncio.get_running_loop().call_later(verdicts[0].after_ms / 1000, come)

    def _come(self, entry: _Entry[T], verdicts: Sequence[Verdict]) -> None:
        self.settle(entry.request, verdicts[0])
        self._then(entry, verdicts[1:])


def _silence(entry: _Entry[T]) -> None:
    if entry.timer is not None:
        entry.timer.cancel()
