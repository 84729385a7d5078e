"""What goes to Zamtel, and what its answers mean. Nothing that it may say raises, and no doubt becomes a firm word."""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Declined, FailureCode, Outcome, Succeeded, Unknown
from kobiri.providers.base import Collection, Payout
from kobiri.providers.zamtel import wire

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
CONVERSATION_ID = "8a3f0e526f434a0e9a561d1f6f1a7a10"
PAYER = Msisdn("260951234567")
MONEY = Money(1_050, "ZMW")
VALUES = {"third_party_id": "Caller_1", "password": "a+b/c=&d %é", "shortcode": "000001"}
PAYOUT_VALUES = {"identifier": "Operator", "credential": "x+y/z="}


def collection(money: Money = MONEY) -> Collection:
    return Collection(REFERENCE, money, PAYER, "zamtel", "Order 7")


def payout() -> Payout:
    return Payout(REFERENCE, MONEY, PAYER, "zamtel", "Wages")


def unknown(reason: str, *, outage: bool = True, refused: bool = False, unlisted: str | None = None) -> Unknown:
    return Unknown(reason, outage=outage, refused=refused, askable=False, unlisted=unlisted)


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_collection_is_written_as_zamtel_wants_it() -> None:
    parts = urlsplit(wire.collection_call(collection(), VALUES))
    assert parts.path == "/Req"
    assert parse_qsl(parts.query, strict_parsing=True) == [
        ("ThirdPartyID", "Caller_1"),
        ("Password", "a+b/c=&d %é"),
        ("Amount", "10.50"),
        ("Msisdn", "260951234567"),
        ("Shortcode", "000001"),
        ("ConversationId", CONVERSATION_ID),
    ]
    assert "+" not in parts.query


def test_a_payout_is_written_as_zamtel_wants_it() -> None:
    call = wire.payout_call(payout(), VALUES | PAYOUT_VALUES)
    assert call is not None
    parts = urlsplit(call)
    assert parts.path == "/B2CReq"
    assert dict(parse_qsl(parts.query, strict_parsing=True)) == {
        "ThirdPartyID": "Caller_1",
        "Password": "a+b/c=&d %é",
        "Amount": "10.50",
        "Msisdn": "260951234567",
        "Shortcode": "000001",
        "identifier": "Operator",
        "credential": "x+y/z=",
        "ConversationId": CONVERSATION_ID,
    }


@pytest.mark.parametrize("missing", ["identifier", "credential"])
def test_no_payout_without_payout_credentials(missing: str) -> None:
    values = {name: value for name, value in (VALUES | PAYOUT_VALUES).items() if name != missing}
    assert wire.payout_call(payout(), values) is None
    assert wire.payout_call(payout(), values | {missing: ""}) is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_secret_arrives_as_it_is(secret: str) -> None:
    query = urlsplit(wire.collection_call(collection(), VALUES | {"password": secret})).query
    assert dict(parse_qsl(query, keep_blank_values=True))["Password"] == secret


@pytest.mark.parametrize(
    ("minor", "text"), [(10_000, "100"), (1_050, "10.50"), (1, "0.01"), (10, "0.10"), (10**15, "10000000000000")]
)
def test_amounts_are_decimal_text(minor: int, text: str) -> None:
    assert wire.amount(Money(minor, "ZMW")) == text


@given(st.integers(1, 10**15))
def test_an_amount_reads_back_as_it_was_written(minor: int) -> None:
    assert Money.read(wire.amount(Money(minor, "ZMW")), "ZMW") == Money(minor, "ZMW")


# --- what the answers mean ------------------------------------------------------------------------------------------

READERS = {"collection": wire.read_collection, "payout": wire.read_payout}

SAME_FOR_BOTH: list[tuple[int, object, Outcome]] = [
    (200, {"status": "0", "message": "Success", "TransactionId": "ABC123"}, Succeeded("ABC123")),
    (200, {"status": 0, "message": "Success", "TransactionId": 123}, Succeeded("123")),
    (200, {"status": "0"}, Succeeded(None)),
    (200, {"status": "2006", "message": "x"}, Declined(FailureCode.INSUFFICIENT_FUNDS, "2006")),
    (200, {"status": 2006}, Declined(FailureCode.INSUFFICIENT_FUNDS, "2006")),
    # Neither names a reason why no money moved.
    (200, {"status": "E8027"}, unknown("status E8027")),
    (200, {"status": "-1", "message": "Internal Error"}, unknown("status -1")),
    (200, {"status": -1}, unknown("status -1")),
    (200, {"status": "9999"}, unknown("an unknown status", outage=False, unlisted="9999")),
    (200, {"status": "00"}, unknown("an unknown status", outage=False, unlisted="00")),
    (200, {"status": "e8003"}, unknown("an unknown status", outage=False, unlisted="e8003")),
    (200, {"status": "a secret that is echoed"}, unknown("an unknown status", outage=False)),
    (200, {"status": ""}, unknown("an unknown status", outage=False)),
    (200, b'{"status": 0.0}', unknown("an unknown status", outage=False)),
    # One client takes this for a success; nothing says that a failure would not look the same.
    (200, {"message": "Success"}, unknown("the answer does not have one status", outage=False)),
    (200, {"message": "Success", "TransactionId": "1"}, unknown("the answer does not have one status", outage=False)),
    (200, {"status": None, "message": "Success"}, unknown("the answer does not have one status", outage=False)),
    (200, {"status": False}, unknown("a field has an unexpected type", outage=False)),
    (200, {"status": ["0"]}, unknown("a field has an unexpected type", outage=False)),
    (200, b'{"status": "0", "status": "2006"}', unknown("two of its keys are equal", outage=False)),
    (200, b'{"status": NaN}', unknown("a number is none", outage=False)),
    (200, b"", unknown("the body is not JSON")),
    (200, b"<html>0</html>", unknown("the body is not JSON")),
    (200, b"0", unknown("the body is not a JSON object")),
    (200, [{"status": "0"}], unknown("the body is not a JSON object")),
    # A firm word must come in good order.
    (201, {"status": "0"}, unknown("HTTP 201", outage=False)),
    (302, {"status": "0"}, unknown("HTTP 302")),
    (400, {"status": "2006"}, unknown("HTTP 400", outage=False)),
    (401, b"", unknown("HTTP 401", outage=False, refused=True)),
    (404, b"<html>", unknown("HTTP 404", outage=False)),
    (429, b"", unknown("HTTP 429", outage=False)),
    (500, {"status": "2006"}, unknown("HTTP 500")),
    (503, b"<html>", unknown("HTTP 503")),
]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(("status", "body", "outcome"), SAME_FOR_BOTH)
def test_answers(kind: str, status: int, body: object, outcome: Outcome) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert READERS[kind](status, raw) == outcome


@pytest.mark.parametrize(
    ("kind", "code", "outcome"),
    [
        ("collection", "E8003", Declined(FailureCode.PAYER_DECLINED, "E8003")),
        ("collection", "2001", unknown("status 2001", outage=False, unlisted="2001")),
        ("collection", "2005", unknown("status 2005", outage=False, unlisted="2005")),
        ("payout", "2001", Declined(FailureCode.PROVIDER_REJECTED, "2001")),
        ("payout", "2005", Declined(FailureCode.NOT_ALLOWED, "2005")),
        ("payout", "E8003", unknown("status E8003", outage=False, unlisted="E8003")),
    ],
)
def test_a_refusal_is_firm_only_for_the_kind_it_is_known_of(kind: str, code: str, outcome: Outcome) -> None:
    assert READERS[kind](200, json.dumps({"status": code}).encode()) == outcome


@pytest.mark.parametrize(
    ("kind", "body", "outcome"),
    [
        ("payout", {"StatusCode": 0, "TransactionId": "7"}, Succeeded("7")),
        ("payout", {"StatusCode": "2005"}, Declined(FailureCode.NOT_ALLOWED, "2005")),
        ("payout", {"StatusCode": "0", "status": "0"}, Succeeded(None)),
        ("payout", {"StatusCode": 0, "status": "2006"}, unknown("the answer does not have one status", outage=False)),
        ("collection", {"StatusCode": 0}, unknown("the answer does not have one status", outage=False)),
    ],
)
def test_a_payout_may_name_its_code_otherwise(kind: str, body: object, outcome: Outcome) -> None:
    assert READERS[kind](200, json.dumps(body).encode()) == outcome


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.sampled_from(["0", "2006"])
)
VALUES_IN_ANSWERS = SCALARS | st.lists(SCALARS, max_size=2)
ANSWERS = st.dictionaries(st.sampled_from(["status", "StatusCode", "TransactionId"]), VALUES_IN_ANSWERS)


@pytest.mark.parametrize("kind", READERS)
@given(st.integers(100, 599), st.binary(max_size=200) | ANSWERS.map(lambda answer: json.dumps(answer).encode()))
@example(200, b"[" * 100_000)
@example(200, b'{"status":' + b"9" * 5_000 + b"}")
@example(200, b'{"status":"0","TransactionId":"' + b"\\ud800" * 100 + b'"}')
@example(200, b"\xff\xfe{}")
def test_no_answer_raises_and_none_is_ever_asked_for(kind: str, status: int, body: bytes) -> None:
    outcome = READERS[kind](status, body)
    assert isinstance(outcome, Succeeded | Declined | Unknown)
    if isinstance(outcome, Unknown):
        assert not outcome.askable
        assert len(outcome.reason) < 60
    else:
        assert status == 200
    if isinstance(outcome, Succeeded) and outcome.provider_transaction_id is not None:
        assert outcome.provider_transaction_id.isprintable()
        assert len(outcome.provider_transaction_id) <= 64
