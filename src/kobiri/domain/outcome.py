"""What a provider may say. A call that moves money has exactly five outcomes.

A status check may also find nothing, or a failure of which the provider itself is not sure.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from kobiri.domain.money import Money


class FailureCode(StrEnum):
    """Why the payment did not succeed, in our words. The provider's own word stands beside it."""

    PAYER_NOT_FOUND = "payer_not_found"
    PAYEE_NOT_FOUND = "payee_not_found"
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
    RESOLVED_BY_OPERATOR = "resolved_by_operator"
    AMOUNT_MISMATCH = "amount_mismatch"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has it and works on it, or waits for the payer.

    `calls_back`: it was told where to post the outcome, so there is no hurry to ask. `unlisted`, here and below: a code
    that stood beside the clear word and is in no table of ours; it decides nothing, and is noted. `receipt`: as in
    Succeeded; the first answer may be the only one that tells it.
    """

    calls_back: bool = False
    unlisted: str | None = None
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Money moved. `money` and `payer` are what the provider says; None where it did not say.

    `payer` is as much of a number as it shows (see `as_told`). `told_in`: where that stands, such as a line. `receipt`:
    the transaction's number in the wallet's SMS and in statements, where that is another one than its id.
    """

    provider_transaction_id: str | None = None
    money: Money | None = None
    payer: str | None = field(default=None, repr=False)
    told_in: str | None = None
    unlisted: str | None = None
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """A firm word that no money moved and none will. `provider_code` is theirs, as far as merchants may see it.

    `arrived`: what arrived instead of what was asked for; only a person says so, and it waits in suspense.
    """

    code: FailureCode
    provider_code: str | None = None
    arrived: Succeeded | None = None
    unlisted: str | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not one byte of the money request was written.

    `outage`: the provider or the line to it is in trouble; False where the reason lies with us. `refused`: it refused
    the account's credentials.
    """

    reason: str
    outage: bool = True
    refused: bool = False

    @property
    def unknown(self) -> "Unknown":
        """What it means where not money was to be moved, but a question to be asked."""
        return Unknown(self.reason, outage=self.outage, refused=self.refused, asked=False)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Anything after the first byte that is not a firm answer.

    `outage` is as in NotSent: False where the provider answered in good order, such as 403 or 429; `refused` too.
    `retry_after_s`: it asked for so many seconds of rest. `askable` False: it has no status query, so a person or a
    statement must tell. `asked` False: the question never left; `retry_after_s` is then when there is a place for it.
    `unlisted`: what stood where a clear word should, and is none that we know.
    """

    reason: str
    outage: bool = True
    retry_after_s: float | None = None
    askable: bool = True
    refused: bool = False
    asked: bool = True
    unlisted: str | None = None


@dataclass(frozen=True, slots=True)
class NotFound:
    """The provider does not know the reference. `firm`: it never will, so it says."""

    firm: bool = False


@dataclass(frozen=True, slots=True)
class Doubtful:
    """The provider knows the reference, says that it failed, and says beside it that it does not know.

    One such answer is no verdict. The same one again and again is a failure, for these reasons.
    """

    code: FailureCode
    provider_code: str | None = None

    @property
    def proven(self) -> Declined:
        """What it means once it was said often enough, over enough time."""
        return Declined(self.code, self.provider_code)


Outcome = Accepted | Succeeded | Declined | NotSent | Unknown
Finding = Accepted | Succeeded | Declined | NotFound | Doubtful | Unknown


def after_doubt(again: Outcome) -> Outcome:
    """What a repeat's outcome means when an earlier pass may have arrived: its refusal says nothing about that one."""
    match again:
        case Declined():
            return Unknown(f"repeat refused: {again.provider_code}", outage=False)
        case NotSent():
            return Unknown(again.reason, outage=again.outage, refused=again.refused)
        case _:
            return again


class Source(StrEnum):
    """Who brought the word."""

    SEND = "send"
    CHECK = "check"
    CALLBACK = "callback"
    STATEMENT = "statement"
    PERSON = "person"
