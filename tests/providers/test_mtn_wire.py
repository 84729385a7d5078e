"""What goes to MTN, and what its answers mean. Nothing that MTN may say raises."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, FailureCode, NotFound, NotSent, Succeeded, Unknown
from kobiri.domain.payment import Kind
from kobiri.providers.base import CallbackWord, Collection, Foreign, Payout, Refund, Request, Unreadable
from kobiri.providers.mtn import wire

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
OTHER = "11111111-6f43-4a0e-9a56-1d1f6f1a7a10"

SUCCESS = {
    "financialTransactionId": "363440463",
    "externalId": REFERENCE,
    "amount": "100",
    "currency": "ZMW",
    "payer": {"partyIdType": "MSISDN", "partyId": "260961234567"},
    "payerMessage": "Order 7",
    "payeeNote": "Order 7",
    "status": "SUCCESSFUL",
}
PAID_OUT = {name: value for name, value in SUCCESS.items() if name != "payer"} | {"payee": SUCCESS["payer"]}
EMAIL = {"partyIdType": "EMAIL", "partyId": "payer@example.com"}
LONG_WORD = "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED"
SUCCEEDED = Succeeded("363440463", Money(10_000, "ZMW"), "260961234567")


def collection(description: str | None = None, money: Money = Money(10_000, "ZMW")) -> Collection:  # noqa: B008
    return Collection(REFERENCE, money, Msisdn("260961234567"), "mtn", description)


COLLECTED = ProviderReference("3c1d2b4e-9f10-4c7b-8f53-0a2b4c6d8e0f")
PAYOUT = Payout(REFERENCE, Money(10_000, "ZMW"), Msisdn("260961234567"), "mtn", "Wages")
REFUND = Refund(REFERENCE, Money(10_000, "ZMW"), Msisdn("260961234567"), "mtn", "Sorry", COLLECTED, "363440463")


def dump(**changes: object) -> bytes:
    """Write SUCCESS with `changes`; None leaves a field out."""
    return json.dumps({k: v for k, v in {**SUCCESS, **changes}.items() if v is not None}).encode()


# --- what is written ----------------------------------------------------------------------------------------


def test_a_collection_is_written_as_mtn_wants_it() -> None:
    assert json.loads(wire.create_body(collection("Order 7"))) == {
        "amount": "100",
        "currency": "ZMW",
        "externalId": REFERENCE,
        "payer": {"partyIdType": "MSISDN", "partyId": "260961234567"},
        "payerMessage": "Order 7",
        "payeeNote": "Order 7",
    }


@pytest.mark.parametrize(
    ("request_", "other_side"),
    [
        (PAYOUT, {"payee": {"partyIdType": "MSISDN", "partyId": "260961234567"}, "payeeNote": "Wages"}),
        (REFUND, {"referenceIdToRefund": COLLECTED, "payeeNote": "Sorry"}),
    ],
)
def test_payouts_and_refunds_are_written_as_mtn_wants_them(request_: Request, other_side: dict[str, object]) -> None:
    assert json.loads(wire.create_body(request_)) == {
        "amount": "100",
        "currency": "ZMW",
        "externalId": REFERENCE,
        "payerMessage": other_side["payeeNote"],
        **other_side,
    }


@pytest.mark.parametrize(
    ("kind", "payout_call", "path"),
    [
        ("collection", "deposit", "/collection/v1_0/requesttopay"),
        ("payout", "transfer", "/disbursement/v1_0/transfer"),
        ("payout", "deposit", "/disbursement/v1_0/deposit"),
        ("refund", "deposit", "/disbursement/v1_0/refund"),
    ],
)
def test_each_kind_has_its_path(kind: Kind, payout_call: str, path: str) -> None:
    assert wire.path(kind, payout_call) == path


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(10_000, "ZMW"), "100"),
        (Money(1_050, "ZMW"), "10.50"),
        (Money(1, "ZMW"), "0.01"),
        (Money(10, "ZMW"), "0.10"),
        (Money(500, "UGX"), "500"),
        (Money(1_234, "TND"), "1.234"),
    ],
)
def test_amounts_are_decimal_text(money: Money, text: str) -> None:
    assert wire.amount(money) == text


@given(st.integers(1, 10**15), st.sampled_from(["ZMW", "UGX", "TND"]))
def test_an_amount_reads_back_as_it_was_written(minor: int, currency: str) -> None:
    assert Money.read(wire.amount(Money(minor, currency)), currency) == Money(minor, currency)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (None, "Payment"),
        ("", "Payment"),
        ("漢字 ☕", "Payment"),
        ("O'Brien & Söhne <b>", "O Brien Sohne b"),
        ("Facture n° 12-3, Côte d`Ivoire.", "Facture n 12-3, Cote d Ivoire."),
        ("a\r\nX-Evil: 1\0", "a X-Evil 1"),
        ("x" * 159 + " yz", "x" * 159),
    ],
)
def test_notes_hold_only_what_mtn_takes(text: str | None, clean: str) -> None:
    assert wire.note(text) == clean


@given(st.text())
def test_every_note_is_short_plain_and_present(text: str) -> None:
    cleaned = wire.note(text)
    assert 1 <= len(cleaned) <= 160
    assert cleaned.isascii()
    assert all(c.isalnum() or c in " .,-" for c in cleaned)


def test_a_callback_url_travels_only_where_there_is_one() -> None:
    bearer = wire.bearer_headers("t", "s", "mtnzambia")
    assert "X-Callback-Url" not in wire.create_headers(bearer, collection(), None)
    assert "X-Callback-Url" not in wire.create_headers(bearer, collection(), "")
    headers = wire.create_headers(bearer, collection(), "https://pay.example.com/x")
    assert headers["X-Callback-Url"] == "https://pay.example.com/x"
    assert headers["X-Reference-Id"] == REFERENCE
    assert "X-Callback-Url" not in bearer


# --- the answer to a request to pay -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (202, b"", Accepted()),
        (202, b"<html>", Accepted()),
        (409, b'{"code":"RESOURCE_ALREADY_EXIST","message":"Duplicated reference id."}', Accepted()),
        (409, b"", Accepted()),
        (401, b'{"statusCode":401,"message":"Access denied"}', wire.TokenRefused()),
        (400, b"", Declined(FailureCode.PROVIDER_REJECTED)),
        (400, b"<html>", Declined(FailureCode.PROVIDER_REJECTED)),
        (400, b'{"code":"ODD","message":""}', Declined(FailureCode.PROVIDER_REJECTED, "ODD", unlisted="ODD")),
        (400, b'{"error":"Invalid"}', Declined(FailureCode.PROVIDER_REJECTED, "Invalid", unlisted="Invalid")),
        (400, b'{"code":"PAYER_NOT_FOUND"}', Declined(FailureCode.PAYER_NOT_FOUND, "PAYER_NOT_FOUND")),
        (400, b'{"code":"RESOURCE_ALREADY_EXIST"}', Unknown("HTTP 400 RESOURCE_ALREADY_EXIST", outage=False)),
        (400, b'{"code":"INTERNAL_PROCESSING_ERROR"}', Unknown("HTTP 400 INTERNAL_PROCESSING_ERROR", outage=False)),
        (422, b"", Declined(FailureCode.PAYER_NOT_FOUND)),
        (500, b'{"code":"NOT_ENOUGH_FUNDS"}', Declined(FailureCode.INSUFFICIENT_FUNDS, "NOT_ENOUGH_FUNDS")),
        (500, b'{"code":"INVALID_CURRENCY"}', Declined(FailureCode.PROVIDER_REJECTED, "INVALID_CURRENCY")),
        (500, b'{"code":"INTERNAL_PROCESSING_ERROR"}', Unknown("HTTP 500 INTERNAL_PROCESSING_ERROR")),
        (500, b'{"code":"NEVER_HEARD_OF"}', Unknown("HTTP 500")),
        (
            500,
            b'{"code":"SENDER_ACCOUNT_NOT_ACTIVE"}',
            Unknown("HTTP 500 SENDER_ACCOUNT_NOT_ACTIVE", outage=False),
        ),
        (500, b'{"code":"PAYEE_LIMIT_REACHED"}', Unknown("HTTP 500 PAYEE_LIMIT_REACHED", outage=False)),
        (500, b'{"code":"VALIDATION_ERROR"}', Unknown("HTTP 500 VALIDATION_ERROR", outage=False)),
        (500, json.dumps({"code": LONG_WORD}).encode(), Unknown(f"HTTP 500 {LONG_WORD}", outage=False)),
        (503, b'{"code":"VALIDATION_ERROR"}', Unknown("HTTP 503 VALIDATION_ERROR")),
        (500, b'{"code":"NOT_ALLOWED","code":"NOT_ALLOWED"}', Unknown("HTTP 500")),
        (500, b'{"code":["NOT_ALLOWED"]}', Unknown("HTTP 500")),
        (500, b"", Unknown("HTTP 500")),
        (503, b'{"code":"SERVICE_UNAVAILABLE"}', Unknown("HTTP 503 SERVICE_UNAVAILABLE")),
        (503, b'{"code":"NOT_ALLOWED"}', Unknown("HTTP 503 NOT_ALLOWED")),
        (200, b"", Unknown("HTTP 200")),
        (201, b"{}", Unknown("HTTP 201", outage=False)),
        (307, b"", Unknown("HTTP 307")),
        (403, b"<html>", Unknown("HTTP 403", outage=False, refused=True)),
        (404, b'{"code":"RESOURCE_NOT_FOUND"}', Unknown("HTTP 404 RESOURCE_NOT_FOUND", outage=False)),
        (429, b'{"statusCode":429,"message":"Rate limit is exceeded."}', Unknown("HTTP 429", outage=False)),
    ],
)
def test_answers_to_a_request_to_pay(status: int, body: bytes, outcome: object) -> None:
    assert wire.read_create(status, body, "collection") == outcome


@pytest.mark.parametrize(
    ("kind", "status", "body", "outcome"),
    [
        # Refused at the door, most likely; but nobody promises that this is said before the money moves.
        (
            "payout",
            403,
            b'{"code":"FORBIDDEN IP","message":"no"}',
            Unknown("HTTP 403 FORBIDDEN IP", outage=False, refused=True),
        ),
        ("refund", 403, b"<html>", Unknown("HTTP 403", outage=False, refused=True)),
        ("payout", 422, b"", Declined(FailureCode.PAYEE_NOT_FOUND)),
        ("refund", 422, b"", Declined(FailureCode.PROVIDER_REJECTED)),
        ("payout", 500, b'{"code":"PAYEE_NOT_FOUND"}', Declined(FailureCode.PAYEE_NOT_FOUND, "PAYEE_NOT_FOUND")),
        ("payout", 500, b'{"code":"NOT_ENOUGH_FUNDS"}', Declined(FailureCode.INSUFFICIENT_FUNDS, "NOT_ENOUGH_FUNDS")),
        ("payout", 409, b'{"code":"RESOURCE_ALREADY_EXIST"}', Accepted()),
        ("refund", 404, b'{"code":"RESOURCE_NOT_FOUND"}', Unknown("HTTP 404 RESOURCE_NOT_FOUND", outage=False)),
    ],
)
def test_answers_to_payouts_and_refunds(kind: Kind, status: int, body: bytes, outcome: object) -> None:
    assert wire.read_create(status, body, kind) == outcome


def test_only_documented_refusals_decline_a_500() -> None:
    assert set(wire.REASONS) >= wire.REFUSED_WITH_500
    assert not wire.REFUSED_WITH_500 & wire.NO_REFUSAL


# --- the answer to a status question ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "finding"),
    [
        (200, dump(), SUCCEEDED),
        (200, dump(amount="100.00"), SUCCEEDED),
        (200, dump(financialTransactionId=None), Succeeded(None, Money(10_000, "ZMW"), "260961234567")),
        (200, dump(payer=None), Succeeded("363440463", Money(10_000, "ZMW"), None)),
        (200, dump(payer="+260 961234567"), SUCCEEDED),
        (200, dump(externalId=OTHER), Unknown("the answer is about another reference", outage=False)),
        (200, dump(externalId=None), Unknown("the answer is about another reference", outage=False)),
        (200, dump(amount="1e2"), Unknown("the amount cannot be read", outage=False)),
        (200, dump(amount="100.001"), Unknown("the amount cannot be read", outage=False)),
        (200, dump(amount=None), Unknown("the amount cannot be read", outage=False)),
        (200, dump(amount=True), Unknown("a field has an unexpected type", outage=False)),
        (200, dump(currency="zmw"), Unknown("the amount cannot be read", outage=False)),
        (200, dump(currency=None), Unknown("the amount cannot be read", outage=False)),
        (200, dump(payer=EMAIL), Unknown("the payer is not a phone number", outage=False)),
        (200, dump(payer={"partyIdType": "MSISDN"}), replace(SUCCEEDED, payer=None)),
        (200, dump(payer=[]), Unknown("a field has an unexpected type", outage=False)),
        (200, dump(status="FAILED"), Declined(FailureCode.PROVIDER_ERROR)),
        (200, dump(status="FAILED", reason="EXPIRED"), Declined(FailureCode.PAYER_TIMEOUT, "EXPIRED")),
        (
            200,
            dump(status="FAILED", reason={"code": "APPROVAL_REJECTED", "message": "no"}),
            Declined(FailureCode.PAYER_DECLINED, "APPROVAL_REJECTED"),
        ),
        (
            200,
            dump(status="FAILED", reason="INTERNAL_PROCESSING_ERROR"),
            Declined(FailureCode.PROVIDER_ERROR, "INTERNAL_PROCESSING_ERROR"),
        ),
        (
            200,
            dump(status="FAILED", reason="NEW\0\ud800WORD" + "X" * 99),
            Declined(FailureCode.PROVIDER_ERROR, "NEWWORD" + "X" * 57, unlisted="NEWWORD" + "X" * 57),
        ),
        (200, dump(status="FAILED", reason=7), Unknown("a field has an unexpected type", outage=False)),
        (200, dump(status="FAILED", externalId=OTHER), Unknown("the answer is about another reference", outage=False)),
        (200, dump(status="PENDING"), Accepted()),
        (200, dump(status="CREATED"), Accepted()),
        *(
            (200, dump(status=word), Unknown("the status is not one of MTN's words", outage=False, unlisted=word))
            for word in ("EXPIRED", "REJECTED", "TIMEOUT", "ONGOING", "successful")
        ),
        (200, dump(payer={"partyIdType": "MSISDN", "partyId": "961234567"}), SUCCEEDED),
        (
            200,
            dump(payer={"partyIdType": "MSISDN", "partyId": ["96"]}),
            Unknown("a field has an unexpected type", outage=False),
        ),
        (500, b'{"code":"VALIDATION_ERROR"}', Unknown("HTTP 500 VALIDATION_ERROR", outage=False)),
        (200, dump(status=None), Unknown("the status is not one of MTN's words", outage=False)),
        (200, b"", Unknown("the body is not JSON")),
        (200, b"[]", Unknown("the body is not a JSON object")),
        (200, dump() + b" ", SUCCEEDED),
        (200, dump()[:-1] + b',"status":"SUCCESSFUL"}', Unknown("two of its keys are equal", outage=False)),
        (200, dump()[:-1] + b',"x":NaN}', Unknown("a number is none", outage=False)),
        (200, dump()[:-1] + b',"x":' + b"[" * 60_000 + b"}", Unknown("the body is nested too deeply", outage=False)),
        (200, dump()[:-1] + b',"x":' + b"9" * 60_000 + b"}", SUCCEEDED),
        (200, b"\xff" + dump(), Unknown("the body is not JSON")),
        (401, b"", wire.TokenRefused()),
        (404, b'{"code":"RESOURCE_NOT_FOUND","message":"Not found."}', NotFound(firm=False)),
        (404, b'{"statusCode":404,"message":"Resource not found"}', Unknown("HTTP 404", outage=False)),
        (404, b"<html>", Unknown("HTTP 404", outage=False)),
        (202, dump(), Unknown("HTTP 202", outage=False)),
        (500, dump(), Unknown("HTTP 500")),
        (429, b"", Unknown("HTTP 429", outage=False)),
    ],
)
def test_answers_to_a_status_question(status: int, body: bytes, finding: object) -> None:
    assert wire.read_status(status, body, REFERENCE, "collection") == finding


@pytest.mark.parametrize("kind", ["collection", "payout", "refund"])
@pytest.mark.parametrize(
    ("word", "ours"),
    [
        (LONG_WORD, FailureCode.INSUFFICIENT_FUNDS),
        ("SENDER_ACCOUNT_NOT_ACTIVE", FailureCode.NOT_ALLOWED),
        ("PAYEE_LIMIT_REACHED", FailureCode.PAYEE_NOT_ALLOWED),
        ("VALIDATION_ERROR", FailureCode.PROVIDER_REJECTED),
        ("TRANSACTION_NOT_COMPLETED", FailureCode.PROVIDER_ERROR),
        ("TRANSACTION_NOT_FOUND", FailureCode.PROVIDER_REJECTED),
    ],
)
def test_mtns_words_for_a_failure(kind: Kind, word: str, ours: FailureCode) -> None:
    told = dump(status="FAILED", reason=word)
    assert wire.read_status(200, told, REFERENCE, kind) == Declined(ours, word)
    assert wire.read_callback(told).finding == Declined(ours, word)


@pytest.mark.parametrize("kind", ["payout", "refund"])
def test_whom_a_payout_reached_is_read(kind: Kind) -> None:
    told = json.dumps(PAID_OUT).encode()
    assert wire.read_status(200, told, REFERENCE, kind) == SUCCEEDED
    nobody = json.dumps(PAID_OUT | {"payee": None, "payer": EMAIL}).encode()  # `payer` is the merchant here, if at all
    assert wire.read_status(200, nobody, REFERENCE, kind) == replace(SUCCEEDED, payer=None)
    odd = json.dumps(PAID_OUT | {"payee": EMAIL}).encode()
    assert wire.read_status(200, odd, REFERENCE, kind) == Unknown("the payee is not a phone number", outage=False)


def test_a_number_is_read_as_it_was_written() -> None:
    body = dump().replace(b'"100"', b"100.00000000000000001")  # a float would say 100
    assert wire.read_status(200, body, REFERENCE, "collection") == Unknown("the amount cannot be read", outage=False)
    body = dump().replace(b'"100"', b"9007199254740993.01").replace(b'"363440463"', b"36344046300000000001")
    too_much = wire.read_status(200, body, REFERENCE, "collection")  # more than 10^15
    assert too_much == Unknown("the amount cannot be read", outage=False)
    body = dump().replace(b'"100"', b"1234567890123.45").replace(b'"363440463"', b"36344046300000000001")
    word = wire.read_status(200, body, REFERENCE, "collection")
    assert word == Succeeded("36344046300000000001", Money(123_456_789_012_345, "ZMW"), "260961234567")


# --- callbacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (dump(), CallbackWord(REFERENCE, SUCCEEDED, Money(10_000, "ZMW"), "260961234567", "in")),
        (
            dump(externalId=REFERENCE.upper()),
            CallbackWord(REFERENCE, SUCCEEDED, Money(10_000, "ZMW"), "260961234567", "in"),
        ),
        (dump(payer="260961234567"), CallbackWord(REFERENCE, SUCCEEDED, Money(10_000, "ZMW"), "260961234567", "in")),
        (
            dump().replace(b'"100"', b"100.00"),
            CallbackWord(REFERENCE, SUCCEEDED, Money(10_000, "ZMW"), "260961234567", "in"),
        ),
        (
            dump(payer=None),
            CallbackWord(
                REFERENCE, Succeeded("363440463", Money(10_000, "ZMW"), None), Money(10_000, "ZMW"), None, None
            ),
        ),
        (
            dump(payer=EMAIL),
            CallbackWord(
                REFERENCE, Succeeded("363440463", Money(10_000, "ZMW"), None), Money(10_000, "ZMW"), None, None
            ),
        ),
        (
            dump(amount=None),
            CallbackWord(REFERENCE, Succeeded("363440463", None, "260961234567"), None, "260961234567", "in"),
        ),
        (
            dump(amount="-1"),
            CallbackWord(REFERENCE, Succeeded("363440463", None, "260961234567"), None, "260961234567", "in"),
        ),
        (
            dump(currency=None),
            CallbackWord(REFERENCE, Succeeded("363440463", None, "260961234567"), None, "260961234567", "in"),
        ),
        (
            json.dumps(PAID_OUT).encode(),
            CallbackWord(REFERENCE, SUCCEEDED, Money(10_000, "ZMW"), "260961234567", "out"),
        ),
        (  # who names two wallets names none
            dump(payee=PAID_OUT["payee"]),
            CallbackWord(REFERENCE, replace(SUCCEEDED, payer=None), Money(10_000, "ZMW"), None, None),
        ),
        (dump(status="PENDING"), CallbackWord(REFERENCE, Accepted(), Money(10_000, "ZMW"), "260961234567", "in")),
        (
            dump(status="FAILED", reason="NOT_ENOUGH_FUNDS", amount=None),
            CallbackWord(
                REFERENCE, Declined(FailureCode.INSUFFICIENT_FUNDS, "NOT_ENOUGH_FUNDS"), None, "260961234567", "in"
            ),
        ),
    ],
)
def test_callbacks_are_read(body: bytes, word: CallbackWord) -> None:
    assert wire.read_callback(body) == word


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"canary",
        dump(externalId=None),
        dump(externalId=""),
        dump()[:-1] + b',"externalId":"canary"}',
    ],
)
def test_what_is_no_callback_is_unreadable_and_not_quoted(body: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        wire.read_callback(body)
    assert not isinstance(caught.value, Foreign)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("told", ["canary", 1784534223, REFERENCE[:-2] + "_1", REFERENCE.replace("-", "")])
def test_another_ones_id_is_foreign_whatever_else_is_said(told: object) -> None:
    for body in (dump(externalId=told), dump(externalId=told, status="canary")):
        with pytest.raises(Foreign) as caught:
            wire.read_callback(body)
        assert "canary" not in str(caught.value)


# --- tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_in", "life_s"),
    [(b"3600", 3600), (b'"3600"', 3600), (b"1e9", 60), (b"-1", 60), (b"null", 60), (b"[]", 60), (b"0", 60),
     (b'"soon"', 60), (b"9999999", 86_400), (b"3600.5", 60)],
)  # fmt: skip
def test_a_nonsensical_life_is_a_short_one(expires_in: bytes, life_s: float) -> None:
    token = wire.read_token(200, b'{"access_token":"abc.def","expires_in":' + expires_in + b"}")
    assert isinstance(token, wire.Token)
    assert token.life_s == life_s


@pytest.mark.parametrize(
    ("status", "body", "reason", "refused"),
    [
        (401, b'{"error":"invalid_client"}', "no token: HTTP 401 invalid_client", True),
        (500, b'{"error":"login_failed"}', "no token: HTTP 500 login_failed", True),
        (500, b'{"error":"server_error"}', "no token: HTTP 500 server_error", False),
        (403, b"<html>", "no token: HTTP 403", True),
        (429, b"", "no token: HTTP 429", False),
        (200, b"", "no token: HTTP 200", False),
        (200, b'{"access_token":""}', "no token: HTTP 200", False),
        (200, b'{"access_token":7}', "no token: HTTP 200", False),
        (200, b'{"access_token":"a\\r\\nX-Evil: 1"}', "no token: HTTP 200", False),
        (401, b'{"access_token":"abc"}', "no token: HTTP 401", True),
    ],
)
def test_no_token_is_a_reason_to_send_nothing(status: int, body: bytes, reason: str, refused: bool) -> None:
    assert wire.read_token(status, body) == NotSent(reason, outage=not refused, refused=refused)


def test_a_token_hides_its_text() -> None:
    assert "abc" not in repr(wire.read_token(200, b'{"access_token":"abc","expires_in":3600}'))


# --- hostile answers ----------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [*SUCCESS, "payee", "reason", "code", "error", "SUCCESSFUL", "FAILED", "MSISDN", REFERENCE, "ZMW"]
)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | WORDS, inner),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries({}, optional=dict.fromkeys([*SUCCESS, "payee", "reason"], ANY_JSON)).map(
    lambda changes: json.dumps({**SUCCESS, **changes}).encode()
)
BODIES = st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()) | NEARLY


@given(st.integers(100, 999), BODIES, st.sampled_from(["collection", "payout", "refund"]))
@example(200, b"[" * 65_536, "payout")
@example(500, b'{"code":' * 9_000, "refund")
@example(200, b'{"externalId":"\\ud800"}', "collection")
def test_no_answer_raises(status: int, body: bytes, kind: Kind) -> None:
    wire.read_create(status, body, kind)
    wire.read_token(status, body)
    for answered in (status, 200):
        match wire.read_status(answered, body, REFERENCE, kind):
            case Succeeded(provider_transaction_id=kept) | Declined(provider_code=kept):
                assert kept is None or (kept.isprintable() and 1 <= len(kept) <= 64)
                (kept or "").encode()  # no lone surrogate, which no database takes
            case _:
                pass


@given(BODIES)
@example(b"[" * 65_536)
def test_a_callback_is_read_or_unreadable(body: bytes) -> None:
    try:
        word = wire.read_callback(body)
    except Unreadable:
        return
    if isinstance(word.finding, Succeeded):
        assert (word.finding.money, word.finding.payer) == (word.money, word.payer)
