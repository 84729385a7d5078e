"""What goes to pawaPay, and what its answers mean. Nothing that pawaPay may say raises."""

import base64
import contextlib
import json
import re
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.ids import ProviderReference, parse_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Succeeded,
    Unknown,
)
from kobiri.domain.payment import Kind
from kobiri.providers.base import CallbackWord, Collection, Payout, Refund, Unreadable
from kobiri.providers.pawapay import wire

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
DEPOSIT = ProviderReference("0f9d2f30-2f0c-4c8a-8f5c-3a9c8f2a7b11")
OTHER = "11111111-6f43-4a0e-9a56-1d1f6f1a7a10"
K10 = Money(1_000, "ZMW")
PHONE = "260761234567"
WALLET = {"type": "MMO", "accountDetails": {"phoneNumber": PHONE, "provider": "MTN_MOMO_ZMB"}}
KINDS: tuple[Kind, ...] = get_args(Kind)

COMPLETED = {"status": "COMPLETED", "amount": "10.00", "currency": "ZMW", "providerTransactionId": "12356789"}


def collection(description: str | None = None, money: Money = K10, network: str = "mtn") -> Collection:
    return Collection(REFERENCE, money, Msisdn(PHONE), network, description)


def data(kind: Kind = "collection", **changes: object) -> dict[str, object]:
    """A completed payment with `changes`; None leaves a field out."""
    whole = {
        wire.IDS[kind]: REFERENCE,
        "payer" if kind == "collection" else "recipient": WALLET,
        "country": "ZMB",
        **COMPLETED,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def found(kind: Kind = "collection", **changes: object) -> bytes:
    return json.dumps({"status": "FOUND", "data": data(kind, **changes)}).encode()


def refusal(code: object) -> bytes:
    return json.dumps({"failureReason": {"failureCode": code, "failureMessage": "No."}}).encode()


def initiation(status: str, code: str | None = None, **changes: object) -> bytes:
    whole: dict[str, object] = {"depositId": REFERENCE, "status": status, **changes}
    if code is not None:
        whole["failureReason"] = {"failureCode": code, "failureMessage": "No."}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


# --- what is written ----------------------------------------------------------------------------------------


def test_a_deposit_is_written_as_pawapay_wants_it() -> None:
    assert json.loads(wire.body(collection("Order 7"))) == {
        "depositId": REFERENCE,
        "amount": "10",
        "currency": "ZMW",
        "payer": WALLET,
        "customerMessage": "Order 7",
    }


def test_a_payout_names_its_recipient() -> None:
    payout = Payout(REFERENCE, K10, Msisdn("260951234567"), "zamtel", None)
    assert json.loads(wire.body(payout)) == {
        "payoutId": REFERENCE,
        "amount": "10",
        "currency": "ZMW",
        "recipient": {"type": "MMO", "accountDetails": {"phoneNumber": "260951234567", "provider": "ZAMTEL_ZMB"}},
    }


def test_a_refund_names_its_deposit_and_always_its_amount() -> None:
    """Without an amount pawaPay refunds all that is left."""
    refund = Refund(REFERENCE, Money(250, "ZMW"), Msisdn(PHONE), "mtn", "Back to you", DEPOSIT, "12356789")
    assert json.loads(wire.body(refund)) == {
        "refundId": REFERENCE,
        "depositId": DEPOSIT,
        "amount": "2.50",
        "currency": "ZMW",
    }


@pytest.mark.parametrize(
    ("network", "provider"),
    [("mtn", "MTN_MOMO_ZMB"), ("airtel", "AIRTEL_OAPI_ZMB"), ("zamtel", "ZAMTEL_ZMB")],
)
def test_the_network_chooses_the_provider_and_not_the_number(network: str, provider: str) -> None:
    written = json.loads(wire.body(collection(network=network)))
    assert written["payer"]["accountDetails"] == {"phoneNumber": PHONE, "provider": provider}


@given(st.integers(1, 10**15))
def test_an_amount_is_exact_and_in_pawapays_form(minor: int) -> None:
    written = wire.amount(Money(minor, "ZMW"))
    assert Money.read(written, "ZMW") == Money(minor, "ZMW")
    assert re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]{1,2})?", written)
    assert len(written) <= 23


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, None),
        ("", None),
        ("abc", None),
        ("a-b", None),
        ("Order 7", "Order 7"),
        ("  Café * Ndola's  #12 ", "Cafe Ndola s 12"),
        ("twenty one characters and more", "twenty one characters"),
        ("12345678901234567890123", "1234567890123456789012"),
        ("ኮቢሪ", None),
    ],
)
def test_a_message_is_short_and_plain_or_left_out(text: str | None, shown: str | None) -> None:
    assert wire.message(text) == shown


@given(st.text())
def test_no_description_makes_a_message_that_is_refused(text: str) -> None:
    shown = wire.message(text)
    assert shown is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ]{2,20}[A-Za-z0-9]", shown)


def token(claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJFUzI1NiJ9.{payload}.c2ln"


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        (token({"sub": "135", "jti": "one"}), "135"),
        (token({"sub": 135}), "135"),
        (token({"sub": ""}), None),
        (token({"sub": ["135"]}), None),
        (token({"jti": "one"}), None),
        (token(["135"]), None),
        (token({"sub": "1" * 201}), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.ä.c", None),
        ("", None),
    ],
)
def test_a_token_may_tell_whose_account_it_opens(text: str, subject: str | None) -> None:
    assert wire.subject(text) == subject


# --- answers to a request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, initiation("ACCEPTED"), Accepted(calls_back=True)),
        (200, initiation("ACCEPTED", depositId=REFERENCE.upper()), Accepted(calls_back=True)),
        (200, initiation("ACCEPTED", depositId=None, payoutId=REFERENCE), Accepted(calls_back=True)),
        (200, initiation("ACCEPTED", refundId=REFERENCE, depositId=DEPOSIT), Accepted(calls_back=True)),
        (200, initiation("DUPLICATE_IGNORED"), Accepted(calls_back=False)),
        (200, initiation("ACCEPTED", depositId=OTHER), Unknown("the answer is about another reference", outage=False)),
        (200, initiation("REJECTED", depositId=OTHER), Unknown("the answer is about another reference", outage=False)),
        (200, initiation("REJECTED", "UNKNOWN_ERROR"), Unknown("rejected with UNKNOWN_ERROR", outage=False)),
        (200, initiation("REJECTED"), Declined(FailureCode.PROVIDER_REJECTED, None)),
        (
            200,
            initiation("REJECTED", "NEW_WORD"),
            Declined(FailureCode.PROVIDER_REJECTED, "NEW_WORD", unlisted="NEW_WORD"),
        ),
        (200, initiation("REJECTED", failureReason="x"), Unknown("a field has an unexpected type", outage=False)),
        (
            200,
            initiation("COMPLETED"),
            Unknown("the status is not one of pawaPay's words", outage=False, unlisted="COMPLETED"),
        ),
        (200, b"<html></html>", Unknown("the body is not JSON")),
        (200, b'{"status": "REJECTED", "status": "ACCEPTED"}', Unknown("two of its keys are equal", outage=False)),
        (400, refusal("INVALID_INPUT"), Declined(FailureCode.PROVIDER_REJECTED, "INVALID_INPUT")),
        (400, refusal("MISSING_PARAMETER"), Declined(FailureCode.PROVIDER_REJECTED, "MISSING_PARAMETER")),
        (400, refusal("UNSUPPORTED_PARAMETER"), Declined(FailureCode.PROVIDER_REJECTED, "UNSUPPORTED_PARAMETER")),
        (400, refusal("INVALID_PARAMETER"), Declined(FailureCode.PROVIDER_REJECTED, "INVALID_PARAMETER")),
        (
            400,
            refusal("DUPLICATE_METADATA_FIELD"),
            Declined(FailureCode.PROVIDER_REJECTED, "DUPLICATE_METADATA_FIELD"),
        ),
        *(
            (403, refusal(f"{kind}_NOT_ALLOWED"), Declined(FailureCode.NOT_ALLOWED, f"{kind}_NOT_ALLOWED"))
            for kind in ("DEPOSITS", "PAYOUTS", "REFUNDS", "REMITTANCES")
        ),
        (403, refusal("NOT_ALLOWED"), Unknown("HTTP 403", outage=False, refused=True)),
        (403, b"<html>DEPOSITS_NOT_ALLOWED</html>", Unknown("HTTP 403", outage=False, refused=True)),
        (401, refusal("DEPOSITS_NOT_ALLOWED"), Unknown("HTTP 401 DEPOSITS_NOT_ALLOWED", outage=False, refused=True)),
        (400, refusal("SOMETHING_ELSE"), Unknown("HTTP 400", outage=False, unlisted="SOMETHING_ELSE")),
        (400, refusal("INVALID_AMOUNT"), Unknown("HTTP 400 INVALID_AMOUNT", outage=False)),
        (400, b"<html>Bad Request</html>", Unknown("HTTP 400", outage=False)),
        (401, refusal("NO_AUTHENTICATION"), Unknown("HTTP 401 NO_AUTHENTICATION", outage=False, refused=True)),
        (403, refusal("AUTHENTICATION_ERROR"), Unknown("HTTP 403 AUTHENTICATION_ERROR", outage=False, refused=True)),
        (403, refusal("HTTP_SIGNATURE_ERROR"), Unknown("HTTP 403 HTTP_SIGNATURE_ERROR", outage=False, refused=True)),
        (404, b"", Unknown("HTTP 404", outage=False)),
        (429, b"", Unknown("HTTP 429", outage=False)),
        (500, refusal("UNKNOWN_ERROR"), Unknown("HTTP 500 UNKNOWN_ERROR")),
        (500, refusal("INVALID_INPUT"), Unknown("HTTP 500 INVALID_INPUT")),
        (503, b"", Unknown("HTTP 503")),
        (202, initiation("ACCEPTED"), Unknown("HTTP 202", outage=False)),
        (302, b"", Unknown("HTTP 302")),
    ],
)
def test_the_answer_to_a_request(status: int, body: bytes, outcome: Outcome) -> None:
    assert wire.read_create(status, body, REFERENCE) == outcome


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("AMOUNT_OUT_OF_BOUNDS", FailureCode.PROVIDER_REJECTED),
        ("INVALID_AMOUNT", FailureCode.PROVIDER_REJECTED),
        ("INVALID_PHONE_NUMBER", FailureCode.PROVIDER_REJECTED),
        ("INVALID_CURRENCY", FailureCode.PROVIDER_REJECTED),
        ("INVALID_PROVIDER", FailureCode.PROVIDER_REJECTED),
        ("DEPOSITS_NOT_ALLOWED", FailureCode.NOT_ALLOWED),
        ("PAYOUTS_NOT_ALLOWED", FailureCode.NOT_ALLOWED),
        ("REFUNDS_NOT_ALLOWED", FailureCode.NOT_ALLOWED),
        ("PROVIDER_TEMPORARILY_UNAVAILABLE", FailureCode.PROVIDER_UNAVAILABLE),
        ("REFUND_IN_PROGRESS", FailureCode.PROVIDER_REJECTED),
        ("AMOUNT_TOO_LARGE", FailureCode.PROVIDER_REJECTED),
        ("REMITTANCES_NOT_ALLOWED", FailureCode.NOT_ALLOWED),
        ("NOT_FOUND", FailureCode.PROVIDER_REJECTED),
        ("INVALID_STATE", FailureCode.PROVIDER_REJECTED),
    ],
)
def test_a_rejection_has_its_reason(code: str, ours: FailureCode) -> None:
    assert wire.read_create(200, initiation("REJECTED", code), REFERENCE) == Declined(ours, code)


@given(st.integers(100, 599), st.binary() | st.builds(json.dumps, st.recursive(st.none() | st.text(), st.lists)))
def test_no_answer_raises(status: int, body: bytes | str) -> None:
    raw = body if isinstance(body, bytes) else body.encode()
    wire.read_create(status, raw, REFERENCE)
    wire.read_status(status, raw, "collection", REFERENCE)
    wire.read_public_keys(status, raw)
    wire.read_configuration(status, raw)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    # Hypothesis also draws texts that stand in the sources, and one is an id.
    | st.text().filter(lambda drawn: parse_id(drawn) is None)
    | st.sampled_from([REFERENCE, OTHER, "ACCEPTED", "REJECTED", "COMPLETED", "FAILED", "FOUND", "NOT_FOUND", "10"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["depositId", "payoutId", "refundId", "status", "data", "failureReason", "amount", "currency", "payer"]
OBJECTS = st.dictionaries(st.sampled_from([*NAMES, "recipient", "providerTransactionId"]), VALUES)


@given(OBJECTS, st.sampled_from(KINDS))
def test_strange_answers_do_not_raise_and_leave_the_door_open(answer: dict[str, Any], kind: Kind) -> None:
    raw = json.dumps(answer).encode()
    sent = wire.read_create(200, raw, REFERENCE)
    assert not isinstance(sent, NotSent)
    if isinstance(sent, Declined):
        assert answer["status"] == "REJECTED"
        (sent.provider_code or "").encode()  # no lone surrogate, which no database takes
    for body in (raw, json.dumps({"status": "FOUND", "data": answer}).encode()):
        finding = wire.read_status(200, body, kind, REFERENCE)
        if isinstance(finding, Succeeded | Declined | Accepted):
            assert str(answer[wire.IDS[kind]]).lower() == REFERENCE
        if isinstance(finding, Succeeded):
            assert finding.money is not None
    with contextlib.suppress(Unreadable):
        assert wire.read_callback(raw).reference in (REFERENCE, OTHER)


# --- the status ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_completed_payment_names_money_and_wallet(kind: Kind) -> None:
    assert wire.read_status(200, found(kind), kind, REFERENCE) == Succeeded("12356789", K10, PHONE)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"status": "ACCEPTED"}, Accepted()),
        ({"status": "PROCESSING"}, Accepted()),
        ({"status": "SUBMITTED"}, Accepted()),
        ({"status": "ENQUEUED"}, Accepted()),
        ({"status": "IN_RECONCILIATION"}, Accepted()),
        ({"status": "COMPLETED", "providerTransactionId": None}, Succeeded(None, K10, PHONE)),
        ({"status": "COMPLETED", "payer": None}, Succeeded("12356789", K10, None)),
        ({"status": "COMPLETED", "amount": 10}, Succeeded("12356789", K10, PHONE)),
        ({"status": "COMPLETED", "amount": "10.005"}, Unknown("the amount cannot be read", outage=False)),
        ({"status": "COMPLETED", "amount": None}, Unknown("the amount cannot be read", outage=False)),
        ({"status": "COMPLETED", "currency": "ZZZ"}, Unknown("the amount cannot be read", outage=False)),
        (
            {"status": "COMPLETED", "payer": {**WALLET, "type": "CARD"}},
            Unknown("the wallet is not a phone number", outage=False),
        ),
        ({"status": "FAILED"}, Declined(FailureCode.PROVIDER_ERROR, None)),
        (
            {"status": "CANCELLED"},
            Unknown("the status is not one of pawaPay's words", outage=False, unlisted="CANCELLED"),
        ),
        ({"status": None}, Unknown("the status is not one of pawaPay's words", outage=False)),
        ({"depositId": OTHER}, Unknown("the answer is about another reference", outage=False)),
        ({"depositId": None}, Unknown("the answer is about another reference", outage=False)),
        ({"depositId": None, "payoutId": REFERENCE}, Unknown("the answer is about another reference", outage=False)),
    ],
)
def test_what_is_found(changes: dict[str, Any], finding: Finding) -> None:
    assert wire.read_status(200, found(**changes), "collection", REFERENCE) == finding


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("PAYMENT_NOT_APPROVED", FailureCode.PAYER_DECLINED),
        ("INSUFFICIENT_BALANCE", FailureCode.INSUFFICIENT_FUNDS),
        ("PAYMENT_IN_PROGRESS", FailureCode.PROVIDER_REJECTED),
        ("PAYER_NOT_FOUND", FailureCode.PAYER_NOT_FOUND),
        ("RECIPIENT_NOT_FOUND", FailureCode.PAYEE_NOT_FOUND),
        ("MANUALLY_CANCELLED", FailureCode.PROVIDER_REJECTED),
        ("PAWAPAY_WALLET_OUT_OF_FUNDS", FailureCode.INSUFFICIENT_FUNDS),
        ("PAYER_LIMIT_REACHED", FailureCode.PAYER_LIMIT_REACHED),
        ("WALLET_LIMIT_REACHED", FailureCode.PAYER_LIMIT_REACHED),
        ("UNSPECIFIED_FAILURE", FailureCode.PROVIDER_ERROR),
        ("A_NEW_WORD", FailureCode.PROVIDER_ERROR),
        ("UNKNOWN_ERROR", FailureCode.PROVIDER_ERROR),
    ],
)
def test_a_failure_has_its_reason(code: str, ours: FailureCode) -> None:
    body = found(status="FAILED", failureReason={"failureCode": code})
    unlisted = code if code == "A_NEW_WORD" else None
    assert wire.read_status(200, body, "collection", REFERENCE) == Declined(ours, code, unlisted=unlisted)


@pytest.mark.parametrize("kind", ["payout", "refund"])
def test_a_full_wallet_is_the_payees_where_money_goes_out(kind: Kind) -> None:
    body = found(kind, status="FAILED", failureReason={"failureCode": "WALLET_LIMIT_REACHED"})
    declined = Declined(FailureCode.PAYEE_NOT_ALLOWED, "WALLET_LIMIT_REACHED")
    assert wire.read_status(200, body, kind, REFERENCE) == declined


@pytest.mark.parametrize(
    ("status", "body", "finding"),
    [
        (200, b'{"status": "NOT_FOUND"}', NotFound(firm=True)),
        (200, b'{"status": "NOT_FOUND", "data": null}', NotFound(firm=True)),
        (
            200,
            b'{"status": "NOT_FOUND", "data": {"x": 1}}',
            Unknown("not found, and yet it tells of one", outage=False),
        ),
        (
            200,
            b'{"status": "ARCHIVED", "data": null}',
            Unknown("the status is not one of pawaPay's words", outage=False, unlisted="ARCHIVED"),
        ),
        (400, refusal("SOMETHING_ELSE"), Unknown("HTTP 400", outage=False, unlisted="SOMETHING_ELSE")),
        (200, b'{"status": "FOUND"}', Unknown("the answer is about another reference", outage=False)),
        (200, b'{"status": "FOUND", "data": []}', Unknown("a field has an unexpected type", outage=False)),
        (200, b"{}", Unknown("the status is not one of pawaPay's words", outage=False)),
        (200, b"", Unknown("the body is not JSON")),
        (404, b'{"status": "NOT_FOUND"}', Unknown("HTTP 404", outage=False)),
        (403, refusal("AUTHENTICATION_ERROR"), Unknown("HTTP 403 AUTHENTICATION_ERROR", outage=False, refused=True)),
        (502, b"", Unknown("HTTP 502")),
    ],
)
def test_only_pawapays_own_word_is_a_firm_not_found(status: int, body: bytes, finding: Finding) -> None:
    assert wire.read_status(status, body, "collection", REFERENCE) == finding


# --- callbacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_tells_whose_and_what(kind: Kind) -> None:
    finding = Succeeded("12356789", K10, PHONE)
    direction: Literal["in", "out"] = "in" if kind == "collection" else "out"
    assert wire.read_callback(json.dumps(data(kind)).encode()) == CallbackWord(
        REFERENCE, finding, K10, PHONE, direction
    )


def test_a_refunds_callback_is_the_refunds_even_where_it_names_the_deposit() -> None:
    word = wire.read_callback(json.dumps(data("refund", depositId=DEPOSIT)).encode())
    assert word.reference == REFERENCE


@pytest.mark.parametrize("odd", [None, "", False, []])
def test_an_id_of_another_kind_that_names_nothing_is_passed_over(odd: object) -> None:
    posted = json.dumps(data("collection") | {"refundId": odd, "payoutId": odd}).encode()
    assert wire.read_callback(posted) == wire.read_callback(json.dumps(data("collection")).encode())


def test_a_callback_without_money_or_wallet_is_still_a_hint() -> None:
    word = wire.read_callback(json.dumps(data(amount="x", payer=None)).encode())
    assert word == CallbackWord(REFERENCE, Succeeded("12356789", None, None), None, None, "in")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"depositId": "order-7"}, "depositId is not a reference of ours"),
        ({"depositId": None}, "it names no depositId, payoutId or refundId"),
        ({"depositId": [REFERENCE]}, "a field has an unexpected type"),
    ],
)
def test_what_is_no_callback(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        wire.read_callback(json.dumps(data(**changes)).encode())


# --- keys and configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "keys"),
    [
        (200, b'[{"id": "HTTP_EC_P256_KEY:1", "key": "PEM", "more": 1}]', {"HTTP_EC_P256_KEY:1": "PEM"}),
        (200, b"[]", {}),
        (200, b'{"id": "x", "key": "PEM"}', None),
        (200, b'[{"id": 1, "key": "PEM"}]', None),
        (200, b"[" * 100_000, None),
        (403, b'[{"id": "HTTP_EC_P256_KEY:1", "key": "PEM"}]', None),
    ],
)
def test_public_keys_are_read(status: int, body: bytes, keys: dict[str, str] | None) -> None:
    assert wire.read_public_keys(status, body) == keys


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b'{"countries": []}', None),
        (200, b'{"countries": [], "signatureConfiguration": {"signedRequestsOnly": false}}', None),
        (
            200,
            b'{"countries": [], "signatureConfiguration": {"signedRequestsOnly": true}}',
            "pawaPay takes only signed requests from this account",
        ),
        (200, b"<html></html>", "pawaPay does not take this account: HTTP 200"),
        (
            403,
            refusal("AUTHENTICATION_ERROR"),
            "pawaPay does not take this account: HTTP 403 AUTHENTICATION_ERROR",
        ),
    ],
)
def test_the_configuration_proves_the_token(status: int, body: bytes, told: str | None) -> None:
    assert wire.read_configuration(status, body) == told
