"""What each operation is for, with requests and answers that a test compares with the real ones."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kobiri.domain import errors
from kobiri.domain.errors import KobiriError

# --- values of the examples -----------------------------------------------------------------------------------

REFERENCE = "order-1001"
KEY = "7a1f4c0e-52b1-4c58-9d0e-0b6f3f6f8a11"
PAYMENT_ID = "019c1841-9c3b-7ac0-8000-3d4f6a1b2c01"
PROVIDER_REFERENCE = "2f9d1c1e-7b0a-4f0e-9a53-6d1f0c3b7e21"
REQUEST_ID = "019c1841-9c39-7b10-8000-51c2d3e4f506"
CALLBACK_REQUEST_ID = "019c1841-b1f2-7e30-8000-9a8b7c6d5e4f"
WEBHOOK_SECRET = "the-webhook-secret-of-this-example"  # noqa: S105  # an example that a reader may recompute
CREATED = "2026-02-01T08:00:00.123Z"
ACCEPTED = "2026-02-01T08:00:00.301Z"
PAID = "2026-02-01T08:00:05.618Z"

ORDER = {
    "amount": "50.00",
    "currency": "ZMW",
    "payer": "260961234567",
    "reference": REFERENCE,
    "description": "Two school books",
    "metadata": {"cart": "c-77"},
}

PENDING: Mapping[str, Any] = {
    "id": PAYMENT_ID,
    "kind": "collection",
    "mode": "test",
    "status": "PENDING",
    "amount": "50.00",
    "currency": "ZMW",
    "payer": "260961234567",
    "network": "mtn",
    "provider": "mtn",
    "provider_reference": PROVIDER_REFERENCE,
    "provider_transaction_id": None,
    "provider_receipt": None,
    "received_amount": None,
    "received_currency": None,
    "reference": REFERENCE,
    "description": "Two school books",
    "metadata": {"cart": "c-77"},
    "callback_url": None,
    "failure": None,
    "review": None,
    "created_at": CREATED,
    "expires_at": "2026-02-01T08:15:00.123Z",
    "completed_at": None,
}
SUCCESSFUL = {**PENDING, "status": "SUCCESSFUL", "provider_transaction_id": "348213907", "completed_at": PAID}
DECLINED = {
    **PENDING,
    "status": "FAILED",
    "failure": {"code": "payer_not_found", "provider_code": "PAYER_NOT_FOUND"},
    "completed_at": ACCEPTED,
}


def _event(
    number: int, id_end: str, type_: str, *, actor: str, request_id: str, at: str, **data: str | list[str] | None
) -> dict[str, Any]:
    return {
        "id": f"019c1841-{id_end}",
        "sequence": number,
        "type": type_,
        "subject_id": PAYMENT_ID,
        "actor": actor,
        "data": data,
        "request_id": request_id,
        "created_at": at,
    }


HISTORY = [
    _event(
        3,
        "9c3c-7f20-8000-0a1b2c3d4e5f",
        "payment.created",
        actor="api_key:4fJ7aQ2mZx9K",
        request_id=REQUEST_ID,
        at=CREATED,
        amount="50.00",
        network="mtn",
        currency="ZMW",
        provider="mtn",
        account_id=None,
        passed_over=[],
        network_from="prefix",
        provider_reference=PROVIDER_REFERENCE,
    ),
    _event(
        4,
        "9ced-7d10-8000-1b2c3d4e5f60",
        "payment.accepted",
        actor="api_key:4fJ7aQ2mZx9K",
        request_id=REQUEST_ID,
        at=ACCEPTED,
        source="send",
        provider_reference=PROVIDER_REFERENCE,
    ),
    _event(
        5,
        "b1f3-7c40-8000-2c3d4e5f6071",
        "payment.succeeded",
        actor="provider:mtn",
        request_id=CALLBACK_REQUEST_ID,
        at=PAID,
        source="callback",
        provider_transaction_id="348213907",
    ),
]

CALLBACK = {
    "externalId": PROVIDER_REFERENCE,
    "status": "SUCCESSFUL",
    "amount": "50",
    "currency": "ZMW",
    "payer": {"partyIdType": "MSISDN", "partyId": "260961234567"},
    "financialTransactionId": "348213907",
}
CALLBACK_BODY = json.dumps(CALLBACK, indent=2)
ACCOUNT_TOKEN = "Zk3xQ0aY7bN1cV5dM9eL2fK8"  # noqa: S105  # of nobody
CALLBACK_SIGNATURE = "sha256=" + hmac.digest(WEBHOOK_SECRET.encode(), CALLBACK_BODY.encode(), hashlib.sha256).hex()


# --- requests and answers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be pasted into a shell, once KOBIRI_URL and KOBIRI_KEY are set there."""

    label: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    by_key: bool = True

    @property
    def curl(self) -> str:
        verb = "" if self.method == "GET" or (self.method == "POST" and self.body) else f"-X {self.method} "
        parts = [f'curl -sS {verb}"$KOBIRI_URL{self.path}"']
        if self.by_key:
            parts.append('-H "x-api-key: $KOBIRI_KEY"')
        parts += [f"-H '{name}: {value}'" for name, value in self.headers.items()]
        if self.body is not None:
            parts.append(f"-d '{self.body}'")
        return " \\\n  ".join(parts)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no error: each example under a name, with the headers that it may carry."""

    status: int
    meaning: str
    schema: str
    examples: Mapping[str, Any]
    headers: tuple[str, ...] = ()
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """What the route table does not tell. `handler` is the function's name."""

    handler: str
    id: str
    tag: str
    text: str
    requests: tuple[Request, ...]
    answers: tuple[Answer, ...]
    errors: tuple[type[KobiriError], ...]
    body: str | None = None
    headers: tuple[str, ...] = ()
    summary: str | None = None


TAGS = {
    "Payments": "Collect money from a wallet, and see what became of it.",
    "History": "What happened, to every payment and to your tenant.",
    "Providers": "Which wallets can be reached now, and whose wallet a number is.",
    "Callbacks": "What providers post to this gateway, and how that goes.",
    "Health": "For load balancers and orchestrators. No key is needed.",
}

# What any operation behind a key may answer.
BEHIND_A_KEY = (
    errors.InvalidQuery,
    errors.Unauthenticated,
    errors.AddressNotAllowed,
    errors.ScopeMissing,
    errors.TenantMismatch,
    errors.TooManyRequests,
    errors.InternalError,
    errors.Busy,
    errors.DatabaseUnavailable,
)
ON_A_CALLBACK = (
    errors.InvalidQuery,
    errors.Unauthenticated,
    errors.NotFound,
    errors.BodyTooLarge,
    errors.Unprocessable,
    errors.TooManyRequests,
    errors.InternalError,
    errors.Busy,
    errors.DatabaseUnavailable,
)
JSON = {"content-type": "application/json"}
CALLER_HEADERS = ("XTenantId", "Traceparent")
PAGE = "A page has at most `limit`, by default 50. For the next pass `next_cursor` as `cursor`, with the same filters."

OPERATIONS = (
    Operation(
        handler="create_payment",
        id="createPayment",
        tag="Payments",
        text=(
            "Asks a payer for money. The payer gets a prompt on the phone and approves it with a PIN; that takes"
            " seconds to minutes, so the answer is mostly PENDING and the outcome is read later.\n\n"
            "Repeat it with the same Idempotency-Key as often as you like, after a lost connection or a crash of yours:"
            " there is one payment, and the provider is called once."
        ),
        requests=(
            Request(
                "Collect", "POST", "/api/v1/payments", {**JSON, "idempotency-key": KEY}, json.dumps(ORDER, indent=2)
            ),
            Request(
                "Collect, without waiting for the provider",
                "POST",
                "/api/v1/payments",
                {**JSON, "idempotency-key": "b0c9a2de-84f7-4f0e-8a4b-2c7d90e1f322", "prefer": "respond-async"},
                json.dumps(ORDER | {"reference": "order-1002"}, indent=2),
            ),
        ),
        answers=(
            Answer(
                201,
                "The provider has it, or has declined it at once. A repeated key gives the same answer again, with"
                " Idempotent-Replayed; where the first answer was 504, the payment as it now stands.",
                "Payment",
                {"pending": PENDING, "declined": DECLINED},
                ("Location", "Idempotent-Replayed"),
            ),
            Answer(
                202,
                "Recorded, but not sent yet: you asked not to wait, or the provider could not be reached. It is sent"
                " within a minute, or fails with provider_unavailable.",
                "Payment",
                {"recorded": {**PENDING, "reference": "order-1002"}},
                ("Location", "Idempotent-Replayed", "Preference-Applied"),
            ),
        ),
        errors=(
            errors.MalformedJSON,
            errors.InvalidFields,
            errors.IdempotencyKeyMissing,
            errors.IdempotencyKeyMalformed,
            *BEHIND_A_KEY,
            errors.TenantSuspended,
            errors.RequestInProgress,
            errors.ReferenceInUse,
            errors.BodyTooLarge,
            errors.UnsupportedMediaType,
            errors.IdempotencyKeyReused,
            errors.InvalidAmount,
            errors.AmountOutOfLimits,
            errors.CurrencyNotSupported,
            errors.InvalidNumber,
            errors.NetworkUnknown,
            errors.CountryNotServed,
            errors.NoRoute,
            errors.RouteClosed,
            errors.OutcomeUnknown,
        ),
        body="PaymentRequest",
        headers=("IdempotencyKey", "Prefer", *CALLER_HEADERS),
    ),
    Operation(
        handler="get_payment",
        id="getPayment",
        tag="Payments",
        text="The payment as it stands now. Ask every few seconds until `status` is SUCCESSFUL or FAILED.",
        requests=(Request("Read", "GET", f"/api/v1/payments/{PAYMENT_ID}"),),
        answers=(Answer(200, "The payment.", "Payment", {"paid": SUCCESSFUL}),),
        errors=(*BEHIND_A_KEY, errors.NotFound),
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="list_payments",
        id="listPayments",
        tag="Payments",
        text=f"The payments of the key's tenant and mode, newest first. {PAGE}",
        requests=(
            Request(
                "List what was paid since a day",
                "GET",
                "/api/v1/payments?status=SUCCESSFUL&created_from=2025-12-01T00:00:00Z&limit=20",
            ),
        ),
        answers=(Answer(200, "A page.", "PaymentPage", {"page": {"data": [SUCCESSFUL], "next_cursor": None}}),),
        errors=(*BEHIND_A_KEY, errors.InvalidCursor),
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="list_transactions",
        id="listTransactions",
        tag="History",
        text=f"Every movement of money with all that happened to it, newest first. {PAGE}",
        requests=(Request("One order's history", "GET", f"/api/v1/transactions?reference={REFERENCE}"),),
        answers=(
            Answer(
                200,
                "A page. Here the events were not sealed yet.",
                "TransactionPage",
                {
                    "page": {
                        "data": [
                            {
                                "payment": SUCCESSFUL,
                                "events": [{**event, "sequence": None} for event in HISTORY],
                            }
                        ],
                        "next_cursor": None,
                    }
                },
            ),
        ),
        errors=(*BEHIND_A_KEY, errors.InvalidCursor),
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="list_events",
        id="listEvents",
        tag="History",
        text=(
            "Every fact about your tenant, oldest first, numbered without gaps. Each is sealed by a hash over all"
            " before it, so that nothing can be changed or left out unseen. Keep `next_cursor` and ask with it for what"
            " is new."
        ),
        requests=(Request("What was paid", "GET", "/api/v1/events?type=payment.succeeded&limit=20"),),
        answers=(
            Answer(
                200,
                "A page.",
                "EventPage",
                {"page": {"data": [HISTORY[2]], "next_cursor": "fQ0G5p0vK1nq3yqkq0mTqjU"}},
            ),
        ),
        errors=(*BEHIND_A_KEY, errors.InvalidCursor),
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="list_providers",
        id="listProviders",
        tag="Providers",
        text=(
            "What the provider accounts offer to your key's mode, in the order in which they are tried: a payment takes"
            " the first that is open. `open` false: no new payment goes that way now, and `closed_because` says why."
        ),
        requests=(Request("What can be paid now", "GET", "/api/v1/providers"),),
        answers=(
            Answer(
                200,
                "The offers.",
                "OfferList",
                {
                    "offers": {
                        "data": [
                            {
                                "provider": "mtn",
                                "provider_name": "MTN MoMo",
                                "account_id": None,
                                "networks": ["mtn"],
                                "kind": "collection",
                                "currencies": ["ZMW"],
                                "min_amount": None,
                                "max_amount": "100000.00",
                                "availability": "unknown",
                                "open": True,
                                "closed_because": None,
                            }
                        ]
                    }
                },
            ),
        ),
        errors=BEHIND_A_KEY,
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="predict_provider",
        id="predictProvider",
        tag="Providers",
        text="Whose wallet a number probably is, by its prefix: what a payment without `network` takes.",
        requests=(Request("Predict", "GET", "/api/v1/providers/predict?msisdn=0961234567"),),
        answers=(
            Answer(
                200,
                "A hint.",
                "Prediction",
                {
                    "mtn": {
                        "msisdn": "260961234567",
                        "country": "ZM",
                        "network": "mtn",
                        "predicted_from": "prefix",
                        "advice": "Numbers may have moved to another operator: name `network` in the payment where you"
                        " know better.",
                    }
                },
            ),
        ),
        errors=(*BEHIND_A_KEY, errors.InvalidNumber),
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="post_callback",
        id="postCallback",
        tag="Callbacks",
        text=(
            "For providers, not for you: what they say about a payment. With a webhook secret configured,"
            " X-Signature-256 must be the HMAC-SHA256 of the raw body under it, and a complete callback is applied at"
            f" once; all others only make us ask the provider. The example's secret is `{WEBHOOK_SECRET}`.\n\n"
            "A callback that matches no payment is answered the same."
        ),
        requests=(
            Request(
                "MTN says that it is paid",
                "POST",
                "/api/v1/webhooks/mtn",
                {**JSON, "x-signature-256": CALLBACK_SIGNATURE},
                CALLBACK_BODY,
                by_key=False,
            ),
        ),
        answers=(Answer(200, "Taken.", "CallbackTaken", {"taken": {"status": "taken"}}),),
        errors=ON_A_CALLBACK,
        body="Callback",
        headers=("XSignature256",),
    ),
    Operation(
        handler="put_callback",
        id="putCallback",
        summary="Take a provider's callback by PUT",
        tag="Callbacks",
        text="The same by PUT, which some of MTN's platforms use.",
        requests=(
            Request(
                "MTN says that it is paid",
                "PUT",
                "/api/v1/webhooks/mtn",
                {**JSON, "x-signature-256": CALLBACK_SIGNATURE},
                CALLBACK_BODY,
                by_key=False,
            ),
        ),
        answers=(Answer(200, "Taken.", "CallbackTaken", {"taken": {"status": "taken"}}),),
        errors=ON_A_CALLBACK,
        body="Callback",
        headers=("XSignature256",),
    ),
    Operation(
        handler="post_account_callback",
        id="postAccountCallback",
        tag="Callbacks",
        text=(
            "For the provider of an account of your own: the address that `kobiri accounts set` printed. Its last part"
            " is a secret. Only payments that went by this account are meant, and its own webhook secret is asked for."
        ),
        requests=(
            Request(
                "MTN says that it is paid",
                "POST",
                f"/api/v1/webhooks/mtn/{ACCOUNT_TOKEN}",
                {**JSON, "x-signature-256": CALLBACK_SIGNATURE},
                CALLBACK_BODY,
                by_key=False,
            ),
        ),
        answers=(Answer(200, "Taken.", "CallbackTaken", {"taken": {"status": "taken"}}),),
        errors=ON_A_CALLBACK,
        body="Callback",
        headers=("XSignature256",),
    ),
    Operation(
        handler="put_account_callback",
        id="putAccountCallback",
        summary="Take a callback for an account of yours by PUT",
        tag="Callbacks",
        text="The same by PUT, which some of MTN's platforms use.",
        requests=(
            Request(
                "MTN says that it is paid",
                "PUT",
                f"/api/v1/webhooks/mtn/{ACCOUNT_TOKEN}",
                {**JSON, "x-signature-256": CALLBACK_SIGNATURE},
                CALLBACK_BODY,
                by_key=False,
            ),
        ),
        answers=(Answer(200, "Taken.", "CallbackTaken", {"taken": {"status": "taken"}}),),
        errors=ON_A_CALLBACK,
        body="Callback",
        headers=("XSignature256",),
    ),
    Operation(
        handler="callback_status",
        id="getCallbackHealth",
        tag="Callbacks",
        text="How this provider's callbacks about your payments arrived in the last 24 hours.",
        requests=(Request("Look", "GET", "/api/v1/webhooks/mtn/status"),),
        answers=(
            Answer(
                200,
                "How they arrive.",
                "CallbackHealth",
                {
                    "signed": {
                        "provider": "mtn",
                        "signed": True,
                        "callback_url_configured": True,
                        "applied_24h": 1,
                        "hints_24h": 0,
                        "last_received_at": PAID,
                    }
                },
            ),
        ),
        errors=(*BEHIND_A_KEY, errors.NotFound),
        headers=CALLER_HEADERS,
    ),
    Operation(
        handler="live",
        id="getLiveness",
        tag="Health",
        text="The process answers. Nothing else is looked at: a restart would mend nothing else.",
        requests=(Request("Look", "GET", "/health/live", by_key=False),),
        answers=(
            Answer(
                200,
                "It lives.",
                "Health",
                {"live": {"status": "pass", "output": None}},
                media_type="application/health+json",
            ),
        ),
        errors=(errors.InvalidQuery, errors.InternalError),
    ),
    Operation(
        handler="ready",
        id="getReadiness",
        tag="Health",
        text="Whether this process should get requests. It is ready while a provider is down: other payments go on.",
        requests=(Request("Look", "GET", "/health/ready", by_key=False),),
        answers=(
            Answer(
                200,
                "It is ready.",
                "Health",
                {"ready": {"status": "pass", "output": None}},
                media_type="application/health+json",
            ),
            Answer(
                503,
                "The database is gone or not migrated, or the process is stopping.",
                "Health",
                {"stopping": {"status": "fail", "output": "the process is stopping"}},
                ("Retry-After",),
                media_type="application/health+json",
            ),
        ),
        errors=(errors.InvalidQuery, errors.InternalError),
    ),
)
