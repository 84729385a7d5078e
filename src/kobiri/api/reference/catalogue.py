"""What each error and each failure means, and what to do about it. Pages, markdown and OpenAPI are made of this."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kobiri.api import problems
from kobiri.domain import errors
from kobiri.domain.errors import KobiriError
from kobiri.domain.outcome import FailureCode

RETRIED = {
    True: "Yes: the same request with the same Idempotency-Key, after Retry-After seconds where the answer names them.",
    False: "No: the same request would be refused again.",
}

AGAIN_WITH_SAME_KEY = (
    "Repeat the request with the same Idempotency-Key: if the payment was recorded, you get it, and nobody pays twice."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One error. `detail`, `members` and `retry_after_s` are an example of an occurrence."""

    error: type[KobiriError]
    meaning: str
    remedy: str
    detail: str = ""
    members: Mapping[str, object] = field(default_factory=dict)
    retry_after_s: int | None = None
    retry: str | None = None

    @property
    def code(self) -> str:
        return self.error.code

    @property
    def status(self) -> int:
        return problems.status_of(self.error)

    @property
    def retried(self) -> str:
        """Whether the same request may be sent again."""
        return self.retry or RETRIED[issubclass(self.error, problems.RETRYABLE)]

    @property
    def example(self) -> KobiriError:
        return self.error(self.detail, retry_after_s=self.retry_after_s, **self.members)


def _one_fault(pointer: str, error: type[KobiriError], detail: str) -> Mapping[str, object]:
    return {"errors": [{"pointer": pointer, "code": error.code, "detail": detail}]}


FAMILY = "Treat a code that you do not know by its HTTP status."

ENTRIES = (
    Entry(
        errors.Malformed,
        "The general word for status 400; today a more exact one is always answered.",
        FAMILY,
    ),
    Entry(
        errors.MalformedJSON,
        "The body is not JSON, not UTF-8, nested deeper than 32 levels, has NaN or Infinity in it, or names something"
        " twice in one object.",
        "Correct the program that writes the body.",
        detail="The name 'amount' stands twice in one object.",
    ),
    Entry(
        errors.InvalidFields,
        "A field is missing, unknown, of the wrong type, or not as it must be. `errors` names all of them by JSON"
        " pointer, each with words and a `code`: `missing`, `unknown_field`, `wrong_type`, `not_a_choice`, `too_short`,"
        " `too_long`, `too_many` or `bad_format`.",
        "Correct the fields that `errors` names.",
        detail="network: Expected one of airtel, mtn, zamtel. Did you mean mtn? 1 more in `errors`.",
        members={
            "errors": [
                {
                    "pointer": "/network",
                    "code": "not_a_choice",
                    "detail": "Expected one of airtel, mtn, zamtel. Did you mean mtn?",
                },
                {
                    "pointer": "/metadata/cart",
                    "code": "wrong_type",
                    "detail": "Expected text, got a number: write it in quotes.",
                },
            ]
        },
    ),
    Entry(
        errors.IdempotencyKeyMissing,
        "The request moves money, so it must carry an Idempotency-Key header.",
        "Make a random value for each new payment, store it with your order, and send it with every repetition.",
        detail="Send a new random value, such as a UUID, and repeat it when you try again.",
    ),
    Entry(
        errors.IdempotencyKeyMalformed,
        "The Idempotency-Key is empty, longer than 255 characters, sent twice, or has characters other than printable"
        " ASCII. Quoted and bare are one and the same key.",
        "Send one value, such as a UUID.",
        detail="Send one value of 1 to 255 printable ASCII characters.",
    ),
    Entry(
        errors.InvalidCursor,
        "The cursor was changed, or belongs to another list, other filters, another tenant or another mode.",
        "Pass `next_cursor` on as you got it, with the same filters and the same tenant's key; or begin without one.",
        detail="Use it with the same filters, and the key of the same tenant, as when you got it.",
    ),
    Entry(
        errors.InvalidQuery,
        "A query parameter is unknown here, given twice, or has an impossible value. Unknown ones are refused,"
        " because a filter with a typing error would show everything.",
        "Correct the address; the detail names the parameter.",
        detail="There is no parameter 'state' here; there are: limit, cursor, status, provider, reference,"
        " created_from, created_before.",
    ),
    Entry(
        errors.Unauthenticated,
        "No API key was sent, or it is mistyped, unknown, revoked or expired; which of these is not told. For a"
        " provider's callback: the signature is missing or wrong.",
        "Send a valid key as x-api-key, or as Authorization: Bearer. Repeated failures are throttled by address.",
    ),
    Entry(
        errors.Forbidden,
        "The general word for status 403; today a more exact one is always answered.",
        FAMILY,
    ),
    Entry(
        errors.AddressNotAllowed,
        "The key has a list of allowed addresses, and the request came from another one.",
        "Call from an allowed address, or have a key made for this one.",
    ),
    Entry(
        errors.ScopeMissing,
        "The key is good, but it was made without the scope that this operation needs.",
        "Use a key that has the scope which the detail names.",
        detail="This needs the scope payments:write.",
    ),
    Entry(
        errors.TenantMismatch,
        "The request has an x-tenant-id header, and the key belongs to another tenant.",
        "Send the key and the header of the same tenant; or leave the header out.",
    ),
    Entry(
        errors.TenantSuspended,
        "The tenant is suspended: new payments are refused. Payments that run are finished, and all can be read.",
        "Ask whoever operates this gateway.",
    ),
    Entry(
        errors.NotFound,
        "There is nothing under this address, or it is another tenant's, or of the other mode (live, test): the answer"
        " is the same.",
        "Check the id, and that the key is of the tenant and mode which made the payment.",
        detail="There is no payment with this id.",
    ),
    Entry(
        errors.MethodNotAllowed,
        "The address exists, but not for this method.",
        "Use a method that the Allow header names.",
    ),
    Entry(
        errors.Conflict,
        "The general word for status 409; today a more exact one is always answered.",
        FAMILY,
    ),
    Entry(
        errors.RequestInProgress,
        "The first request with this Idempotency-Key has not been answered yet.",
        "Wait, and repeat the request with the same key: you get the first one's answer. Never take a new key for it.",
        detail="Repeat it in a moment: you will get its answer.",
        retry_after_s=1,
    ),
    Entry(
        errors.ReferenceInUse,
        "Another payment of yours has this `reference` and has not failed. `payment_id` names it.",
        "Read that payment: your order is perhaps being paid already. For another payment choose another reference.",
        detail="Another payment has the reference 'order-1001'.",
        members={"payment_id": "019c1841-9c3b-7ac0-8000-3d4f6a1b2c01"},
    ),
    Entry(
        errors.RequestTimeout,
        "The body did not arrive within 15 seconds. Nothing was stored.",
        "Send it again, in one piece. On a bad line that may take a few tries; the same Idempotency-Key is safe.",
        detail="The body did not arrive within 15 s.",
    ),
    Entry(
        errors.BodyTooLarge,
        "The body has more than 65,536 bytes.",
        "Send less; metadata is for a few short texts.",
    ),
    Entry(
        errors.UnsupportedMediaType,
        "The body is not declared as JSON, or it is compressed.",
        "Send content-type: application/json and no content-encoding.",
        detail="Send content-type: application/json, not 'text/plain'.",
    ),
    Entry(
        errors.Unprocessable,
        "Read and understood, but it cannot be done. As a code of its own it answers a provider's callback that is"
        " no callback.",
        FAMILY,
    ),
    Entry(
        errors.IdempotencyKeyReused,
        "The Idempotency-Key was used for a request with another content, method or address.",
        "Take a new key for a new payment; repeat a request without any change.",
        detail="Use a new key for a new request; repeat a request without any change.",
    ),
    Entry(
        errors.InvalidAmount,
        "The amount is zero, too large, or has more decimals than its currency.",
        "Correct the amount: major units, such as 1000.50 for one thousand kwacha and fifty ngwee.",
        detail="ZMW has 2 decimals; the amount has 3.",
        members=_one_fault("/amount", errors.InvalidAmount, "ZMW has 2 decimals; the amount has 3."),
    ),
    Entry(
        errors.AmountOutOfLimits,
        "The amount is above the largest that this gateway allows in its currency, or outside of what every provider"
        " account that reaches this wallet takes. GET /providers shows both limits. Nothing was stored.",
        "Correct the amount, or split the order.",
        detail="No provider account that collects ZMW from mtn wallets in test mode takes this amount"
        " (mtn: takes 5000.00 at most).",
    ),
    Entry(
        errors.CurrencyNotSupported,
        "The currency is not one that Kobiri knows.",
        "Send an ISO 4217 code in capital letters, such as ZMW.",
        detail="'ABC' is not a currency that Kobiri knows.",
        members=_one_fault("/currency", errors.CurrencyNotSupported, "'ABC' is not a currency that Kobiri knows."),
    ),
    Entry(
        errors.InvalidNumber,
        "The payer is not a phone number that can have a wallet. Spaces, dashes, dots, brackets and characters that"
        " nobody sees are dropped; ten digits that begin like a Zambian number are taken for a slip.",
        "Ask your customer for the number; send it with its country code, such as 260961234567. Another country's"
        " number begins with +.",
        detail="Give the number with its country code, such as 260961234567.",
        members=_one_fault(
            "/payer", errors.InvalidNumber, "Give the number with its country code, such as 260961234567."
        ),
    ),
    Entry(
        errors.NetworkUnknown,
        "The number does not tell whose wallet it is.",
        "Ask your customer, and name the operator in the field `network`.",
        detail="Name the wallet's operator in the field network.",
    ),
    Entry(
        errors.CountryNotServed,
        "The number is of a country that no provider account of this gateway serves. Nothing was stored.",
        "Check the number: what begins with + or 00 is read as international, and a Zambian one is 0961234567 or"
        " 260961234567.",
        detail="No provider account that collects ZMW from mtn wallets in test mode serves this number's country"
        " (mtn: serves numbers of ZM).",
    ),
    Entry(
        errors.NoRoute,
        "No provider account of this gateway collects this currency from this network's wallets in the key's mode.",
        "Offer another way to pay; whoever operates this gateway can add an account.",
        detail="No provider account collects USD from mtn wallets in test mode (mtn: takes ZMW).",
    ),
    Entry(
        errors.TooManyRequests,
        "The quota of the tenant or the key is used up, or this address has failed to authenticate too often.",
        "Wait Retry-After seconds. The headers RateLimit and RateLimit-Policy tell beforehand what is left.",
        detail="The limit of 100 requests in 60 s is used up.",
        retry_after_s=42,
    ),
    Entry(
        errors.InternalError,
        "A defect of ours. Nothing is lost: what was recorded goes on by itself.",
        f"{AGAIN_WITH_SAME_KEY} If it stays so, tell whoever operates this gateway the request id.",
        retry="Carefully: the same request with the same Idempotency-Key does no harm, but may fail the same way.",
    ),
    Entry(
        errors.Unavailable,
        "The general word for status 503; today a more exact one is always answered.",
        FAMILY,
    ),
    Entry(
        errors.RouteClosed,
        "Every road to this network's wallets is closed at the moment. Nothing was recorded, nobody was charged.",
        "Try again after Retry-After seconds, or offer another way to pay.",
        detail="No road that collects ZMW from mtn wallets in test mode is open now"
        " (mtn: switched off: by the settings).",
        retry_after_s=10,
    ),
    Entry(
        errors.Busy,
        "Too many requests are at work on the same thing at once.",
        AGAIN_WITH_SAME_KEY,
        detail="Another request with this Idempotency-Key is being stored.",
        retry_after_s=1,
    ),
    Entry(
        errors.DatabaseUnavailable,
        "The database cannot be reached. Whether the payment was recorded before that is not certain.",
        AGAIN_WITH_SAME_KEY,
        retry_after_s=1,
    ),
    Entry(
        errors.OutcomeUnknown,
        "The provider did not answer in time: the payer may be charged or not. The payment is recorded as TIMEOUT, and"
        " Kobiri asks the provider until the outcome is known.",
        "Do not take it for a failure, and never pay again with a new key. Read the payment that `payment_id` names"
        " until its status is SUCCESSFUL or FAILED.",
        detail="Read the payment later, or repeat this request with the same Idempotency-Key; never with a new one.",
        members={"payment_id": "019c1841-9c3b-7ac0-8000-3d4f6a1b2c01"},
        retry="Yes: the same request with the same Idempotency-Key gives the payment as it then stands.",
    ),
)

BY_ERROR = {entry.error: entry for entry in ENTRIES}

# Why it did not succeed, and what to tell or ask the payer.
FAILURES: Mapping[FailureCode, tuple[str, str]] = {
    FailureCode.PAYER_NOT_FOUND: (
        "The operator takes no money from this number. Most likely it has no wallet there, or a barred one.",
        "Ask whether the number is right; if it is, offer another way to pay.",
    ),
    FailureCode.PAYEE_NOT_FOUND: (
        "The operator sends no money to this number. Most likely it has no wallet there.",
        "Ask whether the number is right.",
    ),
    FailureCode.INSUFFICIENT_FUNDS: (
        (
            "Most likely there is not enough money in the wallet that pays: the payer's, or of a payout or refund the"
            " account at the operator. One operator's word for it also means a limit or a permission of the receiver."
        ),
        "The payer can top up and try again. For a payout or refund, tell whoever operates this gateway.",
    ),
    FailureCode.PAYER_LIMIT_REACHED: (
        "A limit of the wallet that pays is reached: the payer's, or of a payout or refund the account's.",
        "The payer can try a smaller amount or another day.",
    ),
    FailureCode.PAYER_DECLINED: (
        "The payer did not approve: said no or typed a wrong PIN. Some operators say the same where no answer came.",
        "Ask what the payer wants.",
    ),
    FailureCode.PAYER_TIMEOUT: ("The payer did not approve in time.", "Offer to try again."),
    FailureCode.PAYEE_NOT_ALLOWED: (
        "The receiving account may not take this payment.",
        "Tell whoever operates this gateway.",
    ),
    FailureCode.NOT_ALLOWED: ("The operator does not allow it.", "Offer another way to pay."),
    FailureCode.PROVIDER_REJECTED: (
        "The operator refused the request itself.",
        "Tell whoever operates this gateway.",
    ),
    FailureCode.PROVIDER_ERROR: ("It failed at the operator.", "Offer to try again later."),
    FailureCode.PROVIDER_UNAVAILABLE: ("The operator could not be reached in time.", "Offer to try again later."),
    FailureCode.NOT_RECEIVED: ("The operator never got the request.", "Offer to try again."),
    FailureCode.RESOLVED_BY_OPERATOR: (
        "The operator's system never told; a person found out that no money moved.",
        "Offer to try again.",
    ),
    FailureCode.AMOUNT_MISMATCH: (
        "Another amount than you asked for arrived, or another payer's: see `received_amount`. It is not yours.",
        "Ask whoever operates this gateway whether it is paid back before you ask the payer again.",
    ),
}
