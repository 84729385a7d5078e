"""JSON Schema of what goes over the wire: msgspec knows the shapes, the words and the narrower values stand here."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kobiri.api import callbacks, schemas
from kobiri.api.strict_json import Amount
from kobiri.domain.money import DECIMAL_TEXT
from kobiri.domain.payment import Review, Status

Schema = dict[str, Any]

# What stands under components/schemas, by the name that readers see.
OBJECTS: Mapping[str, type[msgspec.Struct]] = {
    "PaymentRequest": schemas.PaymentRequest,
    "Payment": schemas.PaymentView,
    "Failure": schemas.FailureView,
    "PaymentPage": schemas.PaymentPage,
    "Transaction": schemas.TransactionView,
    "TransactionPage": schemas.TransactionPage,
    "Event": schemas.EventView,
    "EventPage": schemas.EventPage,
    "Offer": schemas.OfferView,
    "OfferList": schemas.OfferList,
    "Prediction": schemas.Prediction,
    "CallbackTaken": callbacks.Taken,
    "CallbackHealth": schemas.CallbackHealth,
    "Health": schemas.Health,
    "Problem": schemas.Problem,
}
NAMES = {struct: name for name, struct in OBJECTS.items()}

UUID = {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time"}
DECIMAL = f"^(?:{DECIMAL_TEXT.pattern})$"
NETWORK = {"type": "string", "enum": ["mtn", "airtel", "zamtel"]}
STATUSES = {"type": "string", "enum": [status.value for status in Status]}
AMOUNT_TEXT = {"type": "string", "pattern": DECIMAL}
AMOUNT_GIVEN = {"oneOf": [AMOUNT_TEXT, {"type": "number", "exclusiveMinimum": 0}]}

# What each field means; a schema beside it replaces what the type alone says.
FIELDS: Mapping[str, Mapping[str, str | tuple[str, Schema]]] = {
    "PaymentRequest": {
        "amount": (
            'In major units, as text or as a number: "1000.50", 1000.5. No more decimals than the currency has.',
            AMOUNT_GIVEN,
        ),
        "currency": "ISO 4217, such as ZMW.",
        "payer": "The payer's phone number: 260961234567, +260 96 1234567, or in Zambia 0961234567.",
        "network": "Whose wallet it is; without it the number tells.",
        "reference": "Your own name for it, such as an order number. Only one payment that has not failed may have it.",
        "description": "What the payer reads on the phone. Operators cut it and drop special characters.",
        "metadata": "Up to 20 short texts of yours, given back as they were.",
        "callback_url": "Where you want to be told. Kept and shown; nothing is sent there yet.",
    },
    "Payment": {
        "id": ("Ours. Sorts by time of creation.", UUID),
        "kind": ("What moves: a collection takes money from a wallet.", {"type": "string", "enum": ["collection"]}),
        "mode": (
            "That of the API key; live and test never see each other.",
            {"type": "string", "enum": ["live", "test"]},
        ),
        "status": (
            (
                "PENDING: being sent, or the payer has yet to approve. TIMEOUT: the outcome is not known yet."
                " SUCCESSFUL: money moved. FAILED: it did not, or not as asked. REVERSED: it was taken back later."
            ),
            STATUSES,
        ),
        "amount": ("In major units, with all decimals of the currency.", AMOUNT_TEXT),
        "currency": "ISO 4217.",
        "payer": "The phone number, digits only.",
        "network": ("Whose wallet it is.", NETWORK),
        "provider": "Which road was taken.",
        "provider_reference": ("The name under which the provider knows it.", UUID),
        "provider_transaction_id": "The provider's own id, once money moved.",
        "provider_receipt": (
            "The number in the wallet's SMS and in the provider's statement, where it is another one than"
            " provider_transaction_id."
        ),
        "received_amount": (
            "What the provider says it received for this payment and that did not settle it: another amount, late, or"
            " twice. A person looks at it, and it is not yours. Null: nothing like that."
        ),
        "received_currency": "ISO 4217: that of received_amount.",
        "reference": "Yours.",
        "description": "Yours.",
        "metadata": "Yours.",
        "callback_url": "Yours.",
        "failure": "Why it did not succeed; null unless FAILED.",
        "review": (
            (
                "Why a person looks at it: unresolved (no answer for an hour), mismatched (another amount or payer),"
                " contradicted (the provider said both paid and failed, or named another transaction)."
            ),
            {"type": ["string", "null"], "enum": [*(review.value for review in Review), None]},
        ),
        "created_at": ("When it was recorded.", TIME),
        "expires_at": ("Until when the payer can be expected to approve; after that PENDING becomes TIMEOUT.", TIME),
        "completed_at": ("When the outcome became known.", {**TIME, "type": ["string", "null"]}),
    },
    "Failure": {
        "code": "Our word: one of the list below. New ones may be added.",
        "provider_code": "The provider's own word; null where there is none, or where it may be a number or a key.",
    },
    "PaymentPage": {
        "data": "Newest first.",
        "next_cursor": "Pass it as `cursor` for the next page; null: this was the last.",
    },
    "Transaction": {"payment": "As it stands now.", "events": "What happened to it, oldest first."},
    "TransactionPage": {
        "data": "Newest first.",
        "next_cursor": "Pass it as `cursor` for the next page; null: this was the last.",
    },
    "Event": {
        "id": ("Ours.", UUID),
        "sequence": "Its number in your tenant's chain, from 1 and without gaps; null until sealed, a second later.",
        "type": "Such as payment.created, payment.succeeded, payment.failed.",
        "subject_id": "What it is about: a payment's id, a key's id.",
        "actor": "Who did it: api_key:…, provider:…, operator:…, or the worker.",
        "data": "Codes and ids; no personal data.",
        "request_id": "The X-Request-Id of the request that caused it.",
        "created_at": ("When it happened.", TIME),
    },
    "EventPage": {
        "data": "Oldest first.",
        "next_cursor": "Always there: pass it as `cursor` later for what came since.",
    },
    "Offer": {
        "provider": "Which road it is.",
        "provider_name": "For people.",
        "account_id": ("Your own account; null: the platform's.", {**UUID, "type": ["string", "null"]}),
        "networks": "Whose wallets it reaches.",
        "kind": ("What moves.", {"type": "string", "enum": ["collection", "payout", "refund"]}),
        "currencies": "ISO 4217.",
        "min_amount": "The smallest amount of one movement, in major units; null: no limit of ours.",
        "max_amount": "The largest amount of one movement, in major units: the account's, or the gateway's.",
        "availability": (
            (
                "How our own calls of the last five minutes went, as the process that answers you saw them:"
                " operational, degraded (a tenth or more failed), down (nothing is sent there now), unknown (no calls)."
            ),
            {"type": "string", "enum": ["operational", "degraded", "down", "unknown"]},
        ),
        "open": "Whether new ones are taken this way.",
        "closed_because": "Why not, where they are not.",
    },
    "OfferList": {"data": "In the order in which they are tried."},
    "Prediction": {
        "msisdn": "The number as we read it, digits only.",
        "country": "ISO 3166, of the countries where an account can be; null: another.",
        "network": "Whose wallet it probably is; null: the number does not tell.",
        "predicted_from": ("What the prediction rests on.", {"type": ["string", "null"], "enum": ["prefix", None]}),
        "advice": "What to do with it, for people.",
    },
    "CallbackTaken": {"status": ("It need not be sent again.", {"type": "string", "enum": ["taken"]})},
    "CallbackHealth": {
        "provider": "The provider.",
        "signed": "Whether a webhook secret is set. Without one a callback is a hint, and we ask the provider at once.",
        "callback_url_configured": "Whether the provider is told where to call back.",
        "applied_24h": "Signed callbacks that were believed.",
        "hints_24h": "Callbacks that made us ask.",
        "last_received_at": ("When the last one came.", {**TIME, "type": ["string", "null"]}),
    },
    "Health": {
        "status": ("pass or fail.", {"type": "string", "enum": ["pass", "fail"]}),
        "output": "What is wrong.",
    },
    "Problem": {
        "type": "The address of this error's description.",
        "title": "The error, for people.",
        "status": "The HTTP status.",
        "detail": "This occurrence, for people.",
        "instance": "urn:request: and the X-Request-Id, under which the log knows more.",
        "code": "The error, for programs: stable.",
        "retryable": "Whether the same request, with the same Idempotency-Key, is worth sending again.",
    },
}

# MTN's words, as a provider posts them; other providers have others.
CALLBACK: Schema = {
    "type": "object",
    "description": "What MTN posts. Other providers write other bodies to their own address.",
    "required": ["externalId", "status"],
    "properties": {
        "externalId": {"type": "string", "description": "The payment's provider_reference."},
        "status": {"type": "string", "description": "SUCCESSFUL, FAILED or PENDING."},
        "amount": {"type": ["string", "number"], "description": "Without it a callback is a hint only."},
        "currency": {"type": "string", "description": "ISO 4217."},
        "payer": {
            "description": "A phone number, or MTN's object.",
            "oneOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"partyIdType": {"type": "string"}, "partyId": {"type": "string"}},
                },
            ],
        },
        "financialTransactionId": {"type": ["string", "number"], "description": "MTN's id of the movement."},
        "reason": {"description": "Why it failed: a text, or an object with a code."},
    },
}


def components() -> dict[str, Schema]:
    """Every object under its name, each field with its meaning."""
    _, found = msgspec.json.schema_components(
        OBJECTS.values(), schema_hook=_foreign, ref_template="#/components/schemas/{name}"
    )
    if set(found) != {struct.__name__ for struct in OBJECTS.values()}:
        raise LookupError(f"OBJECTS and what they are made of differ: {sorted(found)}")
    made = {name: _described(name, found[struct.__name__]) for name, struct in OBJECTS.items()}
    return {**made, "Callback": CALLBACK}


def _foreign(type_: type) -> Schema:
    if type_ is Amount:
        return AMOUNT_GIVEN
    raise NotImplementedError(type_)


def _described(name: str, schema: Schema) -> Schema:
    words = FIELDS[name]
    properties = schema["properties"]
    if list(words) != list(properties):
        raise LookupError(f"FIELDS[{name!r}] must name these, in this order: {', '.join(properties)}")
    described = {field: _with_words(_tidied(properties[field]), words[field]) for field in properties}
    made = {"type": "object", "description": schema["description"], "properties": described}
    if name == "PaymentRequest":
        return made | {"required": schema["required"], "additionalProperties": False}
    return made | {"required": list(properties)}  # answers leave nothing out


def _with_words(schema: Schema, words: str | tuple[str, Schema]) -> Schema:
    if isinstance(words, tuple):
        return {**words[1], "description": words[0]}
    return {**schema, "description": words}


def _tidied(schema: Any) -> Any:  # noqa: ANN401  # any part of a schema
    """Patterns as ECMAScript knows them, unions with null as a list of types, references by the readers' names."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {name: _tidied(value) for name, value in schema.items() if name not in ("title", "default")}
    if isinstance(pattern := tidied.get("pattern"), str):
        tidied["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
    if isinstance(reference := tidied.get("$ref"), str):
        place, _, struct = reference.rpartition("/")
        tidied["$ref"] = f"{place}/{next(NAMES[known] for known in NAMES if known.__name__ == struct)}"
    if "enum" in tidied and "type" not in tidied:
        tidied["type"] = "string"
    options = tidied.get("anyOf")
    if isinstance(options, list) and len(options) == 2 and options[1] == {"type": "null"} and "type" in options[0]:
        simple = dict(options[0])
        simple["type"] = [simple["type"], "null"]
        if "enum" in simple:
            simple["enum"] = [*simple["enum"], None]
        tidied = {name: value for name, value in tidied.items() if name != "anyOf"} | simple
    return tidied
