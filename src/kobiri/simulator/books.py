"""What really moved: the simulator's own record of money, kept apart from any protocol's state."""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

Kind = Literal["collection", "payout", "refund"]


class Movement(msgspec.Struct, kw_only=True):
    """Every movement under one reference: a payer's debit, or for payouts and refunds a payee's credit.

    `amount` is that of the first, `moved` the sum of all `charged`.
    """

    provider: str
    reference: str
    kind: Kind
    amount: str
    moved: str
    currency: str
    msisdn: str
    charged: int = 1
    first_charged_at: float
    last_charged_at: float


class Totals(msgspec.Struct, kw_only=True, frozen=True):
    movements: int
    charges: int
    charged_more_than_once: int
    dropped: int
    amounts: dict[str, str]


class Books:
    """Counts movements per provider and reference. It trusts nothing it is told to have happened only once."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._movements: OrderedDict[tuple[str, str], Movement] = OrderedDict()
        self._sums: dict[tuple[str, Kind, str], Decimal] = {}
        self._dropped = 0

    def charge(
        self,
        *,
        provider: str,
        reference: str,
        amount: str,
        currency: str,
        msisdn: str,
        kind: Kind = "collection",
    ) -> None:
        now = time.time()
        self._add((provider, kind, currency), amount)
        key = (provider, reference)
        if (known := self._movements.get(key)) is not None:
            known.charged += 1
            known.moved = _sum(known.moved, amount)
            known.last_charged_at = now
            return
        self._movements[key] = Movement(
            provider=provider,
            reference=reference,
            kind=kind,
            amount=amount,
            moved=amount,
            currency=currency,
            msisdn=msisdn,
            first_charged_at=now,
            last_charged_at=now,
        )
        if len(self._movements) > self._limit:
            self._movements.popitem(last=False)
            self._dropped += 1

    def moved(self, provider: str, kind: Kind, currency: str) -> Decimal:
        """How much has moved in all, of what is forgotten too."""
        return self._sums.get((provider, kind, currency), Decimal(0))

    def find(
        self, *, provider: str | None = None, reference: str | None = None, min_charged: int = 1
    ) -> Iterator[Movement]:
        """Oldest first."""
        if provider is not None and reference is not None:
            one = self._movements.get((provider, reference))
            candidates = iter(() if one is None else (one,))
        else:
            candidates = iter(self._movements.values())
        for movement in candidates:
            if provider is not None and movement.provider != provider:
                continue
            if reference is not None and movement.reference != reference:
                continue
            if movement.charged >= min_charged:
                yield movement

    def totals(self, movements: list[Movement]) -> Totals:
        amounts: dict[str, Decimal] = {}
        for movement in movements:
            try:
                moved = Decimal(movement.moved)
            except InvalidOperation:
                continue
            amounts[movement.currency] = amounts.get(movement.currency, Decimal(0)) + moved
        return Totals(
            movements=len(movements),
            charges=sum(movement.charged for movement in movements),
            charged_more_than_once=sum(1 for movement in movements if movement.charged > 1),
            dropped=self._dropped,
            amounts={currency: format(amount, "f") for currency, amount in sorted(amounts.items())},
        )

    def clear(self) -> None:
        self._movements.clear()
        self._sums.clear()
        self._dropped = 0

    def _add(self, key: tuple[str, Kind, str], amount: str) -> None:
        with suppress(InvalidOperation):
            self._sums[key] = self._sums.get(key, Decimal(0)) + Decimal(amount)


def _sum(one: str, other: str) -> str:
    try:
        return format(Decimal(one) + Decimal(other), "f")
    except InvalidOperation:
        return one
