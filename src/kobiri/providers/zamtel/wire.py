"""Zamtel Kwacha's REST calls: what is written, and what the answers mean. Pure.

README.md in this folder tells the facts, how sure each is, and where they come from; it is cited by section.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import quote, urlencode

from kobiri.domain.money import Money
from kobiri.domain.outcome import Declined, FailureCode, Outcome, Succeeded, Unknown
from kobiri.providers.answers import Object, Strange, read_object, text, their_id, unclear
from kobiri.providers.base import Collection, Payout

COLLECTION_PATH = "/Req"
PAYOUT_PATH = "/B2CReq"

# A connection that the server closes just as it is used again leaves a payment that only a statement can settle;
# a payer who types a PIN does not notice the handshake.
HEADERS: Mapping[str, str] = MappingProxyType({"Connection": "close"})

SUCCESS = "0"

# Each names why no money moved, and is firm for the kind of movement alone for which a source lists it: README 2.
COLLECTION_REFUSALS = {
    "E8003": FailureCode.PAYER_DECLINED,  # a wrong PIN: the payer did not approve
    "2006": FailureCode.INSUFFICIENT_FUNDS,
}
PAYOUT_REFUSALS = {
    "2001": FailureCode.PROVIDER_REJECTED,
    "2005": FailureCode.NOT_ALLOWED,
    "2006": FailureCode.INSUFFICIENT_FUNDS,
}

# Words that tell of trouble over there, and nothing of the money.
TROUBLE = frozenset({"E8027", "-1"})

LISTED = TROUBLE.union(COLLECTION_REFUSALS, PAYOUT_REFUSALS)

# What may be quoted of a status: shorter than any secret, for an answer may echo the query that holds them.
QUOTABLE = re.compile(r"-?[A-Za-z0-9]{1,8}", re.ASCII)


def collection_call(collection: Collection, values: Mapping[str, str]) -> str:
    """Write path and query of a collection. They hold the account's secrets."""
    return COLLECTION_PATH + _query({
        **_who_and_how_much(collection.money, collection.payer.digits, values),
        "ConversationId": conversation_id(collection.reference),
    })  # fmt: skip


def payout_call(payout: Payout, values: Mapping[str, str]) -> str | None:
    """Write path and query of a payout, or None where the account has no payout credentials. They hold secrets."""
    if not values.get("identifier") or not values.get("credential"):
        return None
    return PAYOUT_PATH + _query({
        **_who_and_how_much(payout.money, payout.payee.digits, values),
        "identifier": values["identifier"],
        "credential": values["credential"],
        "ConversationId": conversation_id(payout.reference),
    })  # fmt: skip


def conversation_id(reference: str) -> str:
    """Our reference without its hyphens: 32 hex digits, as the one client library sends: README 1 [C]."""
    return reference.replace("-", "")


def amount(money: Money) -> str:
    """Write decimal digits as text: "100", "10.50"."""
    whole, _, fraction = str(money).partition(".")
    return f"{whole}.{fraction}" if fraction.strip("0") else whole


def read_collection(status: int, body: bytes) -> Outcome:
    return _read(status, body, ("status",), COLLECTION_REFUSALS)


def read_payout(status: int, body: bytes) -> Outcome:
    """Read the code under either name: the sources disagree on it (README 2 [C])."""
    return _read(status, body, ("status", "StatusCode"), PAYOUT_REFUSALS)


def _who_and_how_much(money: Money, digits: str, values: Mapping[str, str]) -> dict[str, str]:
    return {
        "ThirdPartyID": values["third_party_id"],
        "Password": values["password"],
        "Amount": amount(money),
        "Msisdn": digits,
        "Shortcode": values["shortcode"],
    }


def _query(parameters: Mapping[str, str]) -> str:
    # Not quote_plus: passwords hold "+" and "/", and a "+" for a space is a form's habit, not every server's.
    return "?" + urlencode(parameters, quote_via=quote, safe="")


def _read(status: int, body: bytes, names: tuple[str, ...], refusals: Mapping[str, FailureCode]) -> Outcome:
    if status != HTTPStatus.OK:
        return replace(unclear(status, body, f"HTTP {status}"), askable=False)
    try:
        answer = read_object(body)
        code = _code(answer, names)
    except Strange as strange:
        return replace(strange.unknown, askable=False)
    if code == SUCCESS:
        return Succeeded(their_id(answer, "TransactionId"))
    if (why := refusals.get(code)) is not None:
        return Declined(why, code)
    told = f"status {code}" if code in LISTED else "an unknown status"
    unlisted = code if QUOTABLE.fullmatch(code) and code not in TROUBLE else None
    return Unknown(told, outage=code in TROUBLE, askable=False, unlisted=unlisted)


def _code(answer: Object, names: tuple[str, ...]) -> str:
    """Read the code, text or number. Raises Strange where there is none, or two that differ."""
    codes = {code for name in names if (code := text(answer.get(name), numbers=True)) is not None}
    if len(codes) != 1:
        raise Strange("the answer does not have one status")
    return codes.pop()
