"""Double-entry bookkeeping: the movement that each change of a payment causes.

A debit is positive, a credit negative; every movement sums to zero. A payment has at most one movement per reason.
"""

from dataclasses import dataclass

from kobiri.domain.money import Money

AVAILABLE = "merchant_available"  # what the merchant may pay out
SUSPENSE = "suspense"  # money that arrived against our earlier word; a person decides


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of a movement: `minor` units into (positive) or out of (negative) `account`."""

    account: str
    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Movement:
    """Postings that belong together, and why they were made."""

    reason: str
    postings: tuple[Posting, ...]


def provider_account(provider: str) -> str:
    """The money that a provider holds for the platform."""
    return f"provider:{provider}"


def collected(provider: str, money: Money) -> Movement:
    """A payer's money has arrived for the merchant."""
    return _move("collected", provider_account(provider), AVAILABLE, money)


def arrived_unexpectedly(provider: str, money: Money) -> Movement:
    """A payment that was told as failed turned out to have moved money."""
    return _move("arrived_unexpectedly", provider_account(provider), SUSPENSE, money)


def _move(reason: str, debited: str, credited: str, money: Money) -> Movement:
    return Movement(
        reason,
        (
            Posting(debited, money.minor, money.currency),
            Posting(credited, -money.minor, money.currency),
        ),
    )
