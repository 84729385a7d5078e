"""What a provider may say. A call that moves money has exactly five outcomes; a status check may also find nothing."""

from dataclasses import dataclass, field
from enum import StrEnum

from kobiri.domain.money import Money


class FailureCode(StrEnum):
    """Why no money moved, in our words. The provider's own word stands beside it."""

    PAYER_NOT_FOUND = "payer_not_found"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    PAYER_LIMIT_REACHED = "payer_limit_reached"
    PAYER_DECLINED = "payer_declined"
    PAYER_TIMEOUT = "payer_timeout"
    PAYEE_NOT_ALLOWED = "payee_not_allowed"
    NOT_ALLOWED = "not_allowed"
    PROVIDER_REJECTED = "provider_rejected"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    NOT_RECEIVED = "not_received"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has it and works on it, or waits for the payer.

    `calls_back`: it was told where to post the outcome, so there is no hurry to ask.
    """

    calls_back: bool = False


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Money moved. `money` and `payer` are what the provider says; None where it did not say."""

    provider_transaction_id: str | None = None
    money: Money | None = None
    payer: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Declined:
    """A firm word that no money moved and none will. `provider_code` is theirs, kept raw."""

    code: FailureCode
    provider_code: str | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not one byte of the money request was written."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Anything after the first byte that is not a firm answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The provider does not know the reference. `firm`: it never will."""

    firm: bool = False


Outcome = Accepted | Succeeded | Declined | NotSent | Unknown
Finding = Accepted | Succeeded | Declined | NotFound | Unknown


class Source(StrEnum):
    """Who brought the word."""

    SEND = "send"
    CHECK = "check"
    CALLBACK = "callback"
