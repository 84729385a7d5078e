"""Double-entry bookkeeping: the movement that each change of a payment causes.

A debit is positive, a credit negative; every movement sums to zero. A payment has at most one movement per reason, and
so has an arrival.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kobiri.domain.money import Money
from kobiri.domain.outcome import Source, Succeeded

AVAILABLE = "merchant_available"  # what the merchant may pay out
SUSPENSE = "suspense"  # money that arrived against our earlier word; a person decides

KINDS = 2  # of ids that one money has: the API's, and that of statements


class Why(StrEnum):
    """Why money that arrived is not simply the payment's own."""

    LATE = "late"  # its payment had been told as failed
    MISMATCHED = "mismatched"  # another amount or payer than was asked for
    TWICE = "twice"  # its payment had been paid already
    EARLIER_ROAD = "earlier_road"  # by a road on which nothing was sent, as far as we saw
    UNASKED = "unasked"  # under a reference in the form of ours, of no payment here


@dataclass(frozen=True, slots=True)
class Arrival:
    """Money that came in and waits in suspense. `account` is the fingerprint of the provider's account.

    `source` and `told_in` say who told of it, and where that stands. `other_id`: the id that the same money has where
    ids are of another kind than the source's, such as the number in statements beside that of the API; the same id
    where both show it. `id` is the row's; None: it is not booked yet.
    """

    provider: str
    account: str
    money: Money
    why: Why
    source: Source
    transaction_id: str | None = None
    told_in: str | None = None
    other_id: str | None = None
    id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of a movement: `minor` units into (positive) or out of (negative) `account`."""

    account: str
    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Movement:
    """Postings that belong together, and why they were made. `arrival`: the money that it brings into suspense."""

    reason: str
    postings: tuple[Posting, ...]
    arrival: Arrival | None = None


def provider_account(provider: str) -> str:
    """The money that a provider holds for the platform."""
    return f"provider:{provider}"


def collected(provider: str, money: Money) -> Movement:
    """A payer's money has arrived for the merchant."""
    return _move("collected", provider_account(provider), AVAILABLE, money)


def arrived_unexpectedly(arrival: Arrival) -> Movement:
    """Money has arrived that is not simply a payment's own."""
    return _move("arrived_unexpectedly", provider_account(arrival.provider), SUSPENSE, arrival.money, arrival)


def cleared(arrival: Arrival, *, to_merchant: bool) -> Movement:
    """A person has found out what becomes of money in suspense: the merchant keeps it, or it goes back."""
    if to_merchant:
        return _move("given_to_merchant", SUSPENSE, AVAILABLE, arrival.money)
    return _move("returned", SUSPENSE, provider_account(arrival.provider), arrival.money)


def arrival_of(said: Succeeded, asked: Money, provider: str, account: str, why: Why, source: Source) -> Arrival:
    """The money of which a provider's success tells: `asked` where it names no amount."""
    return Arrival(
        provider,
        account,
        said.money or asked,
        why,
        source,
        said.provider_transaction_id,
        told_in=said.told_in,
        other_id=said.receipt,
    )


def booked_as(arrival: Arrival, booked: Iterable[Arrival]) -> Arrival | None:
    """The money among `booked`, that of its payment, which this word tells of again. None: it is new."""
    same = [other for other in booked if _is_same(arrival, other)]
    by_id = (other for other in same if _ids(arrival) & _ids(other))
    return next(by_id, None) or next(iter(same), None)


def learned(arrival: Arrival, booked: Arrival) -> Arrival | None:
    """The booked money with the ids by which this word knows it, so that no other money is taken for it.

    None: it teaches nothing. A person may have typed either kind of id, so theirs takes no place. The provider's word
    takes the place of a person's, for it shows of which kind the person's id is.
    """
    if arrival.source is Source.PERSON or not _ids(arrival):
        return None
    if booked.source is Source.PERSON:
        typed = next(iter(_ids(booked) - _ids(arrival)), None)
        told = replace(booked, source=arrival.source, told_in=arrival.told_in)
        if arrival.transaction_id is None:
            return replace(told, transaction_id=typed, other_id=arrival.other_id)
        return replace(told, transaction_id=arrival.transaction_id, other_id=arrival.other_id or typed)
    own_id, other_id = (known or named for known, named in zip(_places(booked), _places(arrival), strict=True))
    if booked.source is Source.STATEMENT:
        own_id, other_id = other_id, own_id
    after = replace(booked, transaction_id=own_id, other_id=other_id)
    return None if after == booked else after


def apart(arrival: Arrival, others: Iterable[Arrival]) -> Arrival:
    """The money without the ids that other money of its payment has already: an id stands in the books once."""
    taken = set[str]().union(*(_ids(other) for other in others))
    own_id, other_id = (None if id_ in taken else id_ for id_ in (arrival.transaction_id, arrival.other_id))
    return replace(arrival, transaction_id=own_id, other_id=other_id)


def _is_same(told: Arrival, booked: Arrival) -> bool:
    """One transaction id is one arrival. Else the amount must tell: a statement has ids of a kind of its own.

    So another id of the same kind is other money, whatever else they share: of two payouts Airtel's id may be the same.
    A person may have typed either kind. A third id is other money too, for there are two kinds.
    """
    if (told.provider, told.account) != (booked.provider, booked.account) or len(_ids(told) | _ids(booked)) > KINDS:
        return False
    if Source.PERSON not in (told.source, booked.source):
        for known, named in zip(_places(booked), _places(told), strict=True):
            if None not in (known, named) and known not in _ids(told):
                return False
    return bool(_ids(told) & _ids(booked)) or told.money == booked.money


def _ids(arrival: Arrival) -> set[str]:
    return {id_ for id_ in (arrival.transaction_id, arrival.other_id) if id_ is not None}


def _places(arrival: Arrival) -> tuple[str | None, str | None]:
    """The id that the API has for money, and that of statements. Of a person's word nobody knows which is which."""
    ids = (arrival.transaction_id, arrival.other_id)
    return ids[::-1] if arrival.source is Source.STATEMENT else ids


def _move(reason: str, debited: str, credited: str, money: Money, arrival: Arrival | None = None) -> Movement:
    return Movement(
        reason,
        (
            Posting(debited, money.minor, money.currency),
            Posting(credited, -money.minor, money.currency),
        ),
        arrival,
    )
