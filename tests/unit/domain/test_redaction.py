"""Redaction: whatever an operator or an adapter writes, no secret, number or name that was in it is told."""

import base64
import json
import string
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Unknown
from kobiri.domain.redaction import LEFT_OUT, LEFT_OUT_OBJECT, LEFT_OUT_PAGE, WORDS, Redactor
from kobiri.providers.airtel import wire as airtel
from kobiri.providers.mtn import wire as mtn
from kobiri.providers.pawapay import wire as pawapay
from kobiri.providers.zamtel import wire as zamtel

REFERENCE = ProviderReference("5f2d3c4b-6a79-4881-9a0b-7c8d9e0f1a2b")
HEX = REFERENCE.replace("-", "")
WALLET = Msisdn("260977654328")
MONEY = Money.parse("3.00", "ZMW")
KEY, PIN, TOKEN = "Zq8+kanary/Key=93", "7394", "vT5-callback_kanary-88"
NAMES = ("Chilufya", "Mutale-Phiri")
OTHERS = ("0955812640", "260 96 8 754 839", "98765.43", "203.0.113.77")


def redactor() -> Redactor:
    return Redactor(
        secrets=[KEY, PIN, f"https://pay.example.com/api/v1/webhooks/mtn/{TOKEN}", TOKEN],
        wallets=[WALLET],
        references={REFERENCE: "{reference}"},
        amounts=[MONEY],
        words=["mtn", "pawapay"],
    )


def encodings(secret: str) -> set[str]:
    raw = secret.encode()
    basic = base64.b64encode(b"user:" + raw).decode()
    return {
        secret, base64.b64encode(raw).decode(), basic, quote(secret, safe=""), raw.hex(), raw.hex().upper(),
        json.dumps(secret)[1:-1], " ".join(secret), "-".join(secret), secret.upper(), secret[::-1],
    }  # fmt: skip


SPELT = (
    "260977654328", "+260977654328", "00260977654328", "0977654328", "977654328", "+260 97 765 43 28", "097-765-4328",
    "260(0)977654328", "FRI:260977654328/MSISDN", "tel:+260977654328", "%2B260977654328", "26097765****", "*****654328",
)  # fmt: skip
PLANTED = sorted({form for secret in (KEY, PIN, TOKEN) for form in encodings(secret)} | {*SPELT, *NAMES, *OTHERS})

# What may be recognised once all that separates is gone. Of the number the last digits that a hidden one shows, too.
SEEN = {form for secret in (KEY, PIN, TOKEN) for form in encodings(secret)} | {
    "977654328",
    "7654328",
    "654328",
    "260977",
}
SEEN |= {*NAMES, "955812640", "968754839", "9876543", "2030113", KEY[:8], TOKEN[:8]}


def plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def assert_told_nothing(told: str) -> None:
    flat = plain(told)
    found = [form for form in SEEN if plain(form) in flat]
    assert not found, told


texts = st.builds(
    lambda before, planted, after: before + planted + after,
    st.sampled_from(["", "DP", "Error ", "paid by ", "PIN:", "x", "9", "Bearer ", "{", "\u202e"]),
    st.sampled_from(PLANTED),
    st.sampled_from(["", " failed", ".", "_CODE", "=", "\n", "/x"]),
)
names = st.sampled_from(
    ["status", "code", "reason", "message", "id", "user_name", "balance", "msisdn", "resultCode", "x"]
)
leaves = st.one_of(
    texts, st.sampled_from(PLANTED), st.sampled_from([977654328, 260977654328, 7394, 98765.43, 955812640, True, None])
)
documents: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(names, st.sampled_from(PLANTED), texts), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(documents)
def test_no_document_tells_what_was_planted_in_it(document: object) -> None:
    told = redactor().body(json.dumps(document).encode())
    assert_told_nothing(json.dumps(told, ensure_ascii=False))


@given(st.binary(max_size=200), st.sampled_from(PLANTED))
def test_no_text_that_is_no_json_is_told_at_all(around: bytes, planted: str) -> None:
    told = redactor().body(b"<" + around + planted.encode())
    assert told in ({"body_text": LEFT_OUT}, {"body_text": LEFT_OUT_PAGE})


@given(
    st.lists(st.sampled_from(sorted(set(PLANTED) - {*NAMES})), max_size=3),
    st.dictionaries(st.sampled_from(["Msisdn", "Password", "status", "x"]), st.sampled_from(PLANTED)),
)
def test_no_path_and_no_header_tells_it(segments: list[str], query: dict[str, str]) -> None:
    one = redactor()
    path = "/".join(["", "v1_0", *(quote(segment, safe="") for segment in segments)])
    asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    heads = {**query, "Authorization": segments[0] if segments else "", "Content-Type": PLANTED[0], "X-Country": "ZM"}
    told = [
        one.path(f"{path}?{asked}"),
        one.sent_headers(heads, but=None),
        one.answered_headers({**heads, "Set-Cookie": KEY}),
    ]
    assert_told_nothing(json.dumps(told))
    assert one.sent_headers({"X-Callback-Url": TOKEN, "Accept": "*/*"}, but=TOKEN) == {"Accept": "*"}


def test_every_code_of_an_adapters_tables_is_told() -> None:
    codes = {*mtn.TOLD, *pawapay.TOLD, *zamtel.LISTED, *airtel.LISTED}
    one = redactor()
    assert {one.text("code", code) for code in codes - {"FORBIDDEN IP"}} == codes - {"FORBIDDEN IP"}


def test_seconds_that_are_a_pin_are_not_told() -> None:
    one = redactor()
    assert one.answered_headers({"Retry-After": "7394"}) == {}
    assert one.answered_headers({"Retry-After": "30"}) == {"Retry-After": "30"}
    assert one.text("expires_in", "7394") == "1111"
    assert one.text("expires_in", "3600") == "3600"


secrets = st.text(string.ascii_letters + string.digits + '+/=_-.: %"é', min_size=8, max_size=30).filter(
    lambda secret: len(plain(secret)) >= 8 and len(set(plain(secret)) - set("x1")) > 3
)


@settings(max_examples=200)
@given(secrets, st.lists(names, min_size=1, max_size=3), st.integers(0, 3))
def test_any_secret_of_the_account_stays_untold_in_whichever_dress(secret: str, keys: list[str], times: int) -> None:
    document: Any = {form: form for form in encodings(secret)} | {"said": " ".join(encodings(secret))}
    for key in keys:
        document = {key: document, "code": secret, "status": secret.upper(), "list": [secret] * times}
    told = json.dumps(Redactor(secrets=[secret]).body(json.dumps(document).encode()), ensure_ascii=False)
    assert not [form for form in encodings(secret) if plain(form) in plain(told)]


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("status", "SUCCESSFUL", "SUCCESSFUL"),
        ("status", "TS", "TS"),
        ("status", "PAYER_ACCOUNT_FROZEN", "PAYER_ACCOUNT_FROZEN"),
        ("response_code", "DP00800001006", "DP00800001006"),
        ("result_code", "ESB000010", "ESB000010"),
        ("result_code", "0000900", "0000900"),
        ("statusCode", 429, 429),
        ("status", "E8003", "E8003"),
        (
            "reason",
            "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED",
            "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED",
        ),
        ("provider", "MTN_MOMO_ZMB", "MTN_MOMO_ZMB"),
        ("currency", "ZMW", "ZMW"),
        ("expires_in", 3600, 3600),
        ("amount", "3", "3"),
        ("amount", 3.0, 3.0),
        ("availableBalance", "98765.43", "11111.11"),
        ("id", HEX, "{reference_hex}"),
        ("id", f"disbursement-AB12-{HEX}", "xxxxxxxxxxxx-XX11-{reference_hex}"),
        ("externalId", REFERENCE.upper(), "{reference}"),
        ("msisdn", 977654328, 961234567),
        ("msisdn", "+260 97 765 43 28", "+260 96 123 45 67"),
        ("partyId", "26097****328", "26096****567"),
        ("partyId", "FRI:260977654328/MSISDN", "FRI:260961234567/MSISDN"),
        ("message", "Chilufya has 98765.43 and PIN 7394", "… has … and PIN …"),
        ("valid_upto", "31-12-2026 23:59:59", "11-11-1111 11:11:11"),
        ("user_name", "Chilufya", "Xxxxxxxx"),
        ("code", "PAID0955812640", "XXXX1111111111"),
        ("status", "955812640", "111111111"),
        ("reason", "CHILUFYA_MUTALE", "XXXXXXXX_XXXXXX"),
        ("reason", "MUTALE", "XXXXXX"),
        ("result", "NRC123456101", "XXX111111111"),
        ("code", "MW265991234567", "XX111111111111"),
        ("code", "ZM-0211123456", "XX-1111111111"),
        ("error", "0977654328MUTALE", "0961234567XXXXXX"),
        ("status", "PAYER_MUTALE_FROZEN", "PAYER_XXXXXX_FROZEN"),
        ("state", "BWA", "XXX"),
        ("code", "NRC123456", "XXX111111"),
        ("code", 265992, 111111),
        ("status", "265991", "111111"),
        ("code", "DP0977123456", "XX1111111111"),
        ("code", 521002, 521002),
        ("status", "TIP", "TIP"),
        ("currency", "USD", "USD"),
        ("sourceCurrency", "UGX", "UGX"),
        ("currency", "AMA", "XXX"),
        ("name", "USD", "XXX"),
        ("first_name", "Page", "Xxxx"),
        ("holderName", "Page Small", "Xxxx Xxxxx"),
        ("success", False, False),
        ("id", None, None),
    ],
)
def test_what_matters_of_an_answer_is_left(name: str, said: object, told: object) -> None:
    assert redactor().value(name, said) == told


def test_equal_values_stay_equal_and_others_stay_others() -> None:
    one = redactor()
    ids = [one.text("id", text) for text in ("MP1234.A", "MP5678.B", "MP1234.A")]
    assert ids[0] == ids[2] != ids[1]
    assert one.value("id", 1234) == int(one.text("other", "1234"))


def test_what_adapters_cannot_read_is_left_out_whole_and_no_replay_can_read_it() -> None:
    for body in (
        b'{"a": 1, "a": 2}', b'{"a":' * 60_000, b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe",
        '{"status": "SUCCESSFUL"}'.encode("utf-16"), b'{"status": ',
    ):  # fmt: skip
        told = redactor().body(body)
        assert told["body_text"] in (LEFT_OUT, LEFT_OUT_OBJECT)
        meant = [mtn.read_status(200, said, REFERENCE, "collection") for said in (body, told["body_text"].encode())]
        assert [(type(one), getattr(one, "outage", None)) for one in meant] == [
            (Unknown, told["body_text"] == LEFT_OUT)
        ] * 2
    assert redactor().body(b" ") == {"body_text": ""}


def test_another_key_stands_for_a_public_one() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    text = base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    told = redactor().text("key", text)
    assert told != text
    other = load_der_public_key(base64.b64decode(told))
    assert isinstance(other, rsa.RSAPublicKey)
    assert other.key_size == 2048


def test_the_known_words_are_nobodys_name() -> None:
    assert not {name.lower() for name in NAMES} & WORDS
    assert not {"will", "grace", "mark", "may", "june", "rose", "faith", "mercy", "gift", "charity"} & WORDS
