"""What every provider's reader makes of answers that nobody can have meant."""

import base64
import codecs
import json
import re
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.ids import ProviderReference
from kobiri.domain.outcome import Declined, NotSent, Succeeded, Unknown
from kobiri.providers.airtel import wire as airtel
from kobiri.providers.answers import MAX_WORD, cut, own_word, unclear
from kobiri.providers.base import CallbackWord
from kobiri.providers.mtn import wire as mtn
from kobiri.providers.pawapay import wire as pawapay
from kobiri.providers.zamtel import wire as zamtel

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
HEX = REFERENCE.replace("-", "")
WALLET = {"type": "MMO", "accountDetails": {"phoneNumber": "260961234567", "provider": "MTN_MOMO_ZMB"}}

MTN = {
    "externalId": REFERENCE, "status": "SUCCESSFUL", "amount": "10", "currency": "ZMW",
    "payer": {"partyIdType": "MSISDN", "partyId": "260961234567"}, "financialTransactionId": "7",
}  # fmt: skip
PAWAPAY = {
    "depositId": REFERENCE, "status": "COMPLETED", "amount": "10", "currency": "ZMW", "payer": WALLET,
}  # fmt: skip
AIRTEL = {
    "data": {"transaction": {"id": HEX, "status": "TS", "airtel_money_id": "MP1"}},
    "status": {"response_code": "DP00800001001", "success": True},
}

Read = Callable[[bytes], Any]
# One reader for each sort of answer, and an answer that it takes.
READERS: dict[str, tuple[Read, dict[str, Any]]] = {
    "mtn": (lambda body: mtn.read_status(200, body, REFERENCE, "collection"), MTN),
    "pawapay": (
        lambda body: pawapay.read_status(200, body, "collection", REFERENCE),
        {"status": "FOUND", "data": PAWAPAY},
    ),
    "pawapay-door": (
        lambda body: pawapay.read_create(200, body, REFERENCE),
        {"depositId": REFERENCE, "status": "ACCEPTED"},
    ),
    "airtel": (lambda body: airtel.read_collection_status(200, body, REFERENCE), AIRTEL),
    "airtel-door": (lambda body: airtel.read_collection(200, body, REFERENCE), AIRTEL),
    "airtel-payout": (lambda body: airtel.read_payout(200, body, REFERENCE), AIRTEL),
    "airtel-refund": (lambda body: airtel.read_refund(200, body), AIRTEL),
    "zamtel": (lambda body: zamtel.read_collection(200, body), {"status": "0"}),
    "zamtel-payout": (lambda body: zamtel.read_payout(200, body), {"status": "0"}),
}
NO_OBJECTS = [b"", b" ", b"<html>Please sign in</html>", b"[]", b"null", b"0", b'"ok"', b"\xff\xfe{}", b'{"status": ']


def changed(told: Any, path: tuple[str, ...], value: object) -> Any:
    """The same answer with something else at one place."""
    if not path:
        return value
    return told | {path[0]: changed(told.get(path[0], {}), path[1:], value)}


def paths(told: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place in an answer."""
    if not isinstance(told, dict):
        return [before]
    return [before, *(path for name, inner in told.items() for path in paths(inner, (*before, name)))]


@pytest.mark.parametrize("reader", READERS)
def test_an_object_that_cannot_be_read_is_no_outage_whatever_stands_where(reader: str) -> None:
    read, told = READERS[reader]
    nonsense = [False, True, 7, "SUSPENDED_FOR_REVIEW", [], {}, None, "x" * 5_000, [[{}]], {"id": False}]
    for path in paths(told)[1:]:
        for value in nonsense:
            said = read(json.dumps(changed(told, path, value)).encode())
            assert not (isinstance(said, Unknown) and (said.outage or said.refused)), (path, value, said)
    for path in paths(told)[1:]:
        name = path[0]
        rest = {key: value for key, value in told.items() if key != name}
        said = read(json.dumps(rest).encode())
        assert not (isinstance(said, Unknown) and said.outage), (name, said)


# Where a success names the provider's own number of the transaction: a reader, an answer, and the place.
NUMBERED: dict[str, tuple[Read, dict[str, Any], tuple[str, ...]]] = {
    "mtn": (*READERS["mtn"], ("financialTransactionId",)),
    "mtn's callback": (lambda body: mtn.read_callback(body).finding, MTN, ("financialTransactionId",)),
    "pawapay": (*READERS["pawapay"], ("data", "providerTransactionId")),
    "pawapay's callback": (lambda body: pawapay.read_callback(body).finding, PAWAPAY, ("providerTransactionId",)),
    "airtel": (*READERS["airtel"], ("data", "transaction", "airtel_money_id")),
    "airtel-payout": (*READERS["airtel-payout"], ("data", "transaction", "airtel_money_id")),
    "airtel-refund": (*READERS["airtel-refund"], ("data", "transaction", "airtel_money_id")),
    "airtel's callback": (
        lambda body: airtel.read_callback(body).finding,
        {"transaction": {"id": HEX, "status_code": "TS"}},
        ("transaction", "airtel_money_id"),
    ),
    "zamtel": (*READERS["zamtel"], ("TransactionId",)),
    "zamtel-payout": (*READERS["zamtel-payout"], ("TransactionId",)),
}


@pytest.mark.parametrize("reader", NUMBERED)
def test_a_success_whose_number_cannot_be_read_is_one_without_a_number(reader: str) -> None:
    read, told, path = NUMBERED[reader]
    numbered = read(json.dumps(changed(told, path, 7)).encode())
    assert isinstance(numbered, Succeeded)
    assert numbered.provider_transaction_id == "7"
    for odd in (False, True, {}, [], [["7"]], {"id": "7"}, "", " ", "\ud800", None):
        said = read(json.dumps(changed(told, path, odd)).encode())
        assert said == replace(numbered, provider_transaction_id=None), odd


# A reader of callbacks, one about a failure, and where its word and its reason stand.
CALLBACKS: dict[str, tuple[Callable[[bytes], CallbackWord], dict[str, Any], str, str]] = {
    "mtn": (mtn.read_callback, MTN | {"status": "FAILED"}, "status", "reason"),
    "pawapay": (pawapay.read_callback, PAWAPAY | {"status": "FAILED"}, "status", "failureReason"),
    "airtel": (
        lambda body: airtel.read_callback(b'{"transaction":' + body + b"}"),
        {"id": HEX, "status_code": "TF"},
        "status_code",
        "code",
    ),
}


@pytest.mark.parametrize("provider", CALLBACKS)
def test_a_callback_about_our_payment_that_cannot_be_read_is_a_reason_to_ask(provider: str) -> None:
    read, failed, word, reason = CALLBACKS[provider]
    assert isinstance(read(json.dumps(failed).encode()).finding, Declined)
    odd: list[tuple[str, Any]] = [(word, None), (word, ""), (word, " "), (word, 7), (word, {}), (word, {"id": "7"})]
    no_texts: list[Any] = [False, ["7"], [[{}]]]
    odd += [(place, value) for place in (word, reason) for value in no_texts]
    for place, value in odd:
        said = read(json.dumps(failed | {place: value}).encode())
        assert said.reference == REFERENCE
        assert isinstance(said.finding, Unknown), (place, value)
        assert not said.finding.outage


@pytest.mark.parametrize("reader", READERS)
def test_equal_keys_nan_and_deep_nesting_are_one_payments_nonsense(reader: str) -> None:
    read, told = READERS[reader]
    body = json.dumps(told).encode()
    for nonsense in (b',"a":1,"a":1}', b',"x":NaN}', b',"x":-Infinity}', b',"x":' + b"[" * 60_000 + b"}"):
        said = read(body[:-1] + nonsense)
        assert isinstance(said, Unknown)
        assert not said.outage, nonsense


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_object_comes_hardly_from_the_provider(reader: str) -> None:
    read, _ = READERS[reader]
    for body in NO_OBJECTS:
        said = read(body)
        assert isinstance(said, Unknown)
        assert said.outage, body


@pytest.mark.parametrize("reader", READERS)
def test_a_byte_order_mark_before_an_answer_is_no_part_of_it(reader: str) -> None:
    read, told = READERS[reader]
    body = json.dumps(told).encode()
    assert not isinstance(read(body), Unknown)
    assert read(codecs.BOM_UTF8 + body) == read(body)
    assert isinstance(read(codecs.BOM_UTF8 * 2 + body), Unknown), "one, and at the beginning"


def test_a_byte_order_mark_before_callbacks_and_keys_is_no_part_of_them() -> None:
    posted = codecs.BOM_UTF8 + json.dumps(MTN).encode()
    assert mtn.read_callback(posted).reference == REFERENCE
    assert pawapay.read_callback(codecs.BOM_UTF8 + json.dumps(PAWAPAY).encode()).reference == REFERENCE
    transaction = {"id": HEX, "status_code": "TS"}
    signed = {"transaction": transaction, "hash": airtel._hash(b"k", json.dumps(transaction).encode()).decode()}
    body = codecs.BOM_UTF8 + json.dumps(signed).encode()
    assert airtel.read_callback(body).reference == REFERENCE
    assert airtel.verify_callback(body, b"k") == "genuine"
    keys = codecs.BOM_UTF8 + json.dumps([{"id": "1", "key": "pem"}]).encode()
    assert pawapay.read_public_keys(200, keys) == {"1": "pem"}
    assert mtn.read_token(200, codecs.BOM_UTF8 + b'{"access_token": "abc"}') == mtn.Token("abc", 60.0)


@given(st.integers(100, 599), st.sampled_from([b"", b"<html>", b"{}", b'{"code": 7}']))
def test_an_unclear_answer_is_an_outage_where_it_is_hardly_the_providers_own(status: int, body: bytes) -> None:
    said = unclear(status, body, "told")
    assert said.refused is (status in (401, 403))
    if 400 <= status < 500:
        assert not said.outage
    elif 200 <= status < 300:
        assert said.outage is not body.startswith(b"{")
    else:
        assert said.outage


def test_a_500_about_one_number_is_no_outage_in_a_question_either() -> None:
    for code in mtn.REFUSED_WITH_500:
        said = mtn.read_status(500, json.dumps({"code": code, "message": "x"}).encode(), REFERENCE, "collection")
        assert said == Unknown(f"HTTP 500 {code}", outage=False)
    assert mtn.read_status(500, b'{"code": "INTERNAL_PROCESSING_ERROR"}', REFERENCE, "collection") == Unknown(
        "HTTP 500 INTERNAL_PROCESSING_ERROR"
    )


@pytest.mark.parametrize("said", ["MP-1", " MP-1", "MP-1 ", "\u200b MP-1\t\r\n", "MP-1" + " " * 100 + "x"])
def test_spaces_are_no_part_of_a_word(said: str) -> None:
    assert cut(said) == "MP-1"
    assert cut(" ") is None


@pytest.mark.parametrize("status", [200, 400, 401, 403, 422, 429, 500, 503])
@pytest.mark.parametrize("word", ["kanarySecret4711xyz", "260971234567", "7394"])
def test_a_reason_quotes_no_word_that_nobody_listed(status: int, word: str) -> None:
    about = {"code": word, "error": word, "status_code": word, "failureReason": {"failureCode": word}}
    body = json.dumps(about | {"status": {"response_code": word}}).encode()
    zamtels = json.dumps({"status": word}).encode()
    answers = [
        airtel.read_token(status, body),
        airtel.read_key(status, body, datetime(2026, 1, 1, tzinfo=UTC)),
        airtel.read_collection(status, body, REFERENCE),
        airtel.read_payout_status(status, body, REFERENCE),
        mtn.read_token(status, body),
        mtn.read_create(status, body, "collection"),
        mtn.read_status(status, body, REFERENCE, "collection"),
        pawapay.read_create(status, body, REFERENCE),
        pawapay.read_status(status, body, "collection", REFERENCE),
        zamtel.read_collection(status, zamtels),
    ]
    reasons = [answer.reason for answer in answers if isinstance(answer, NotSent | Unknown)]
    reasons.append(pawapay.read_configuration(status, body) or "")
    assert not [reason for reason in reasons if word in reason]


def wide(text: str) -> str:
    """The same letters and digits as East Asian programs write them."""
    return "".join(chr(0xFEE0 + ord(character)) if "!" <= character <= "~" else character for character in text)


UNREADABLE = "HTTP 200: an answer that cannot be read"
SECRETS = ("canary-secret", "2468", "canary-secret-longer")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b'{"access_token": "t0ken", "expires_in": 3600}', "HTTP 200"),
        (403, b'{"status_message": "IP address not allowed: 192.0.2.7", "status_code": "ROUTER007"}',
         "HTTP 403: ROUTER007, IP address not allowed: 192.0.2.7"),
        (200, b'{"status": {"response_code": "DP00900001013", "message": "Pin 2468 is wrong", "success": false}}',
         "HTTP 200: DP00900001013, Pin … is wrong"),
        (400, b'{"error": {"code": 17, "message": "canary-secret-longer"}}',
         "HTTP 400: 17, …"),
        (400, b'{"message": "of +260971234567 by 8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10"}',
         "HTTP 400: of … by …"),
        (502, b"<html><head><title>502</title></head>\r\n<b>Bad\tGateway</b></html>", "HTTP 502: … Bad Gateway"),
        (400, b'{"message": "MSISDN260977123456 unknown"}', "HTTP 400: MSISDN… unknown"),
        (400, b'{"message": "of (097) 7123-456, +260-977-123-456"}', "HTTP 400: of (…"),
        (400, b'{"message": "CANARY-SECRET refused"}', "HTTP 400: … refused"),
        (400, json.dumps({"message": f"{wide('canary secret')} refused"}).encode(), "HTTP 400: … refused"),
        (200, b"", "HTTP 200"),
        (200, b"[1, 2]", UNREADABLE),
        (200, '{"access_token": "t0ken", "expires_in": 3600}'.encode("utf-16"), UNREADABLE),
        (200, '{"access_token": "t0ken"}'.encode("utf-16-be"), UNREADABLE),
        (200, b'{"access_token": "t0ken", "expires', UNREADABLE),
        (200, b'{"message": "denied", "message": "t0ken"}', UNREADABLE),
        (200, b'<pre>{"access_token": "token"}</pre>', UNREADABLE),
        (200, b"access_token=t0kenxyz&expires_in=3600", "HTTP 200: access_token…expires_in…"),
        (200, b'{"access_token": "shop-token", "message": "shop-token given"}', "HTTP 200: … given"),
        (400, b'{"message": "Of 0977 123 456, or 0977.123.456, MW+265 991234567"}', "HTTP 400: Of …, or …, MW…"),
        (400, b'{"message": "97.71.234.56 is at 198.51.100.7."}', "HTTP 400: … is at 198.51.100.7."),
        (400, b'{"message": "DP260977123456 DP0977123456 x_260977123456 nrc123456/10/1"}', "HTTP 400: … … … nrc…"),
        (400, b'{"message": "canary%2Dsecret, c-a-n-a-r-y-secret, Y2FuYXJ5LXNlY3JldA==, 8642"}',
         "HTTP 400: …, …, …A==, …"),
        (400, b'{"message": "Key c2Vzc2lvbiBrZXk failed: tokenTOKENtoken"}', "HTTP 400: Key … failed: …"),
    ],
)  # fmt: skip
def test_a_providers_own_word_is_told_without_what_is_secret(status: int, body: bytes, told: str) -> None:
    assert own_word(status, body, SECRETS) == told


@given(st.binary() | st.text().map(lambda said: json.dumps({"message": said}).encode()), st.sampled_from(SECRETS))
def test_whatever_is_said_a_word_is_one_short_line_without_secrets(body: bytes, secret: str) -> None:
    filler = b'"}' if body.startswith(b"{") else b""
    for said in (body, body.removesuffix(filler) + secret.encode() + filler):
        word = own_word(200, said, SECRETS)
        assert len(word) <= len("HTTP 200: ") + MAX_WORD
        assert word.isprintable()
        assert secret not in word


def plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def spellings(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        secret, secret.upper(), secret[::-1], ".".join(secret), "\u200b".join(secret), raw.hex(),
        quote(secret, safe=""), base64.b64encode(raw).decode(), base64.b64encode(b"me:" + raw).decode(),
        json.dumps(secret)[1:-1], "".join(f"&#{ord(character)};" for character in secret),
        "".join(f"%{byte:02X}" for byte in raw), wide(secret),
    ]  # fmt: skip


def dressed(text: str, place: str) -> bytes:
    """A body in which the provider says this."""
    document = {"access_token": text, "expires_in": 3600} if place == "token" else {place: text, "error": {place: text}}
    return json.dumps(document).encode()


secret_texts = st.text('abcXYZ0189+/=_-.:%&"\\é', min_size=8, max_size=20).filter(lambda it: len(plain(it)) > 6)
tokens = st.text(string.ascii_letters + string.digits + "-_.", min_size=12, max_size=60).filter(
    lambda token: any(map(str.islower, token)) and any(map(str.isupper, token)) and any(map(str.isdigit, token[:-6]))
)
around = st.sampled_from(
    ["", "DP", "ESB", "MSISDN", "x_", "of ", "+", "tel:", "(", "HTTP 404: ", "{'a': '", "no", "\n"]
)


@given(secret_texts, st.integers(0, 12), around, around, st.sampled_from(["message", "code", "error", "token"]))
def test_no_secret_is_told_in_whichever_spelling(secret: str, which: int, before: str, after: str, place: str) -> None:
    spelt = spellings(secret)[which]
    body = dressed(f"{before}{spelt}{after}", place)
    for said in (body, body[:-3], body.decode().encode("utf-16"), f"<p>{before}{spelt}{after}</p>".encode()):
        told = plain(own_word(401, said, [secret, "2468"]).removeprefix("HTTP 401"))
        assert plain(secret) not in told
        assert plain(spelt) not in told


@given(
    st.sampled_from(["977123456", "0977123456", "260977123456", "00260977123456", "0211123456", "265991234567"]),
    st.lists(st.sampled_from(["", "", " ", "-", ".", "/", ") ", " - ", "_", "\u00a0", "\u2011"]), min_size=14),
    around, around, st.sampled_from(["message", "code", "error"]),
)  # fmt: skip
def test_no_phone_number_is_told_whatever_stands_in_it(
    number: str, between: list[str], before: str, after: str, place: str
) -> None:
    spelt = before + "".join(map("".join, zip(number, between, strict=False))) + after
    for said in (dressed(spelt, place), spelt.encode()):
        told = own_word(400, said, []).removeprefix("HTTP 400").replace("404", "")
        assert len(re.sub(r"\D", "", told)) < 4, told


@given(tokens, around, around, st.sampled_from(["message", "code", "error", "token"]))
def test_no_token_is_told(token: str, before: str, after: str, place: str) -> None:
    body = dressed(f"{before} {token} {after}", place)
    for said in (body, body[:-3], f"{before} {token} {after}".encode()):
        assert token not in own_word(200, said, [])


def test_a_secret_at_the_edge_of_what_is_shown_does_not_show_in_part() -> None:
    for before in range(MAX_WORD - 30, MAX_WORD + 5):
        body = json.dumps({"message": "a " * (before // 2) + "canary-secret"}).encode()
        assert "canary" not in own_word(200, body, SECRETS)
