"""What goes to Airtel, and what its answers mean. Nothing that Airtel may say raises."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, Doubtful, FailureCode, NotFound, NotSent, Succeeded, Unknown
from kobiri.providers.airtel import wire
from kobiri.providers.answers import read_object, text
from kobiri.providers.base import Authenticity, CallbackWord, Collection, Payout, Unreadable
from kobiri.providers.tokens import Fresh

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
ID = "8a3f0e526f434a0e9a561d1f6f1a7a10"
OTHER = "111111116f434a0e9a561d1f6f1a7a10"
ABOUT_ANOTHER = Unknown("the answer is about another reference", outage=False)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
FIRM = FailureCode


@cache
def private_key(bits: int = 1024) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def public_key(key: Any) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def collection(description: str | None = None, money: Money = Money(10_000, "ZMW")) -> Collection:  # noqa: B008
    return Collection(REFERENCE, money, Msisdn("260971234567"), "airtel", description)


def body(
    word: str | None = None,
    response_code: str | None = None,
    *,
    ours: object = ID,
    message: str = "x",
    **more: object,
) -> bytes:
    """Airtel's usual body; what is None is left out. `more` goes into `status`."""
    transaction = {"id": ours, "status": word, "airtel_money_id": "MP210603.1234.L06941" if word == "TS" else None}
    status: dict[str, object] = {"code": "200", "message": message, "response_code": response_code, **more}
    return json.dumps({
        "data": {"transaction": {k: v for k, v in transaction.items() if v is not None}},
        "status": {k: v for k, v in status.items() if v is not None},
    }).encode()  # fmt: skip


def refused(code: str | None = None, **more: object) -> bytes:
    """The same without `data`."""
    said: dict[str, Any] = {"success": False, **more}
    return json.dumps({"status": json.loads(body(None, code, **said))["status"]}).encode()


def dp008(number: int) -> str:
    return f"DP0080000{number}"


def dp009(number: int) -> str:
    return f"DP0090000{number}"


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_collection_is_written_as_airtel_wants_it() -> None:
    assert json.loads(wire.collection_body(collection("Order 7"), "ZM")) == {
        "reference": "Order7",
        "subscriber": {"country": "ZM", "currency": "ZMW", "msisdn": "971234567"},
        "transaction": {"amount": 100, "country": "ZM", "currency": "ZMW", "id": ID},
    }


def test_a_payout_is_written_as_airtel_wants_it() -> None:
    payout = Payout(REFERENCE, Money(1_050, "ZMW"), Msisdn("260971234567"), "airtel", "May")
    assert json.loads(wire.payout_body(payout, "sealed", "v2")) == {
        "payee": {"currency": "ZMW", "msisdn": "971234567"},
        "reference": "PaymentMay",
        "pin": "sealed",
        "transaction": {"amount": 10.5, "id": ID, "type": "B2C"},
    }
    assert json.loads(wire.payout_body(payout, "sealed", "v3")) == {
        "payee": {"msisdn": "971234567", "wallet_type": "NORMAL"},
        "reference": "PaymentMay",
        "pin": "sealed",
        "transaction": {"amount": 10.5, "id": ID, "type": "B2C"},
    }
    assert wire.payout_enquiry(REFERENCE, "v3") == f"/standard/v3/disbursements/{ID}"
    assert wire.payout_enquiry(REFERENCE, "v2") == f"/standard/v2/disbursements/{ID}?transactionType=B2C"
    assert wire.collection_enquiry(REFERENCE) == f"/standard/v1/payments/{ID}"


@pytest.mark.parametrize(
    ("minor", "written"), [(1, b"0.01"), (10, b"0.10"), (1_050, b"10.50"), (10_000, b"100"), (10**15, b"1" + b"0" * 13)]
)
def test_an_amount_is_written_digit_by_digit(minor: int, written: bytes) -> None:
    body = wire.collection_body(collection(money=Money(minor, "ZMW")), "ZM")
    assert b'{"amount":' + written + b"," in body


@given(st.integers(1, 10**15))
@example(10**15)
def test_an_amount_is_an_exact_number_of_at_most_two_decimals(minor: int) -> None:
    money = Money(minor, "ZMW")
    written = wire.collection_body(collection(money=money), "ZM")
    told = read_object(written)["transaction"]
    assert isinstance(told, dict)
    number = text(told["amount"], numbers=True) or ""
    assert Money.parse(number, "ZMW") == money
    assert b'"amount":' + number.encode() in written  # a number, not a text


@given(st.text())
@example("")
@example("O'Brien & Söhne <b>")
@example("a" * 200)
def test_every_note_is_short_and_alphanumeric(given_text: str) -> None:
    note = wire.note(given_text)
    assert 4 <= len(note) <= wire.MAX_NOTE
    assert note.isascii()
    assert note.isalnum()


def oaep(algorithm: hashes.HashAlgorithm, mgf1: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    return padding.OAEP(mgf=padding.MGF1(mgf1), algorithm=algorithm, label=None)


PADDINGS = {
    "pkcs1": padding.PKCS1v15(),
    "oaep-sha1": oaep(hashes.SHA1(), hashes.SHA1()),  # noqa: S303
    "oaep-sha256": oaep(hashes.SHA256(), hashes.SHA256()),
    "oaep-sha256-mgf1-sha1": oaep(hashes.SHA256(), hashes.SHA1()),  # noqa: S303
}


# --- keys, PIN and signature ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits"), [("pkcs1", 1024), ("oaep-sha1", 1024), ("oaep-sha256", 2048), ("oaep-sha256-mgf1-sha1", 2048)]
)
def test_a_pin_can_be_read_by_airtel_alone(name: str, bits: int) -> None:
    key = wire.read_public_key(public_key(private_key(bits)))
    sealed = wire.seal(b"1234", key, name)
    assert b"1234" not in base64.b64decode(sealed)
    assert sealed != wire.seal(b"1234", key, name)
    assert private_key(bits).decrypt(base64.b64decode(sealed), PADDINGS[name]) == b"1234"


def test_a_signature_is_the_body_encrypted_and_its_key_sealed() -> None:
    key, iv, content = bytes(range(32)), bytes(16), b'{"a":1}'
    headers = wire.sign(content, private_key().public_key(), "pkcs1", aes_key=key, iv=iv)
    secret = private_key().decrypt(base64.b64decode(headers["x-key"]), padding.PKCS1v15())
    assert secret == base64.b64encode(key) + b":" + base64.b64encode(iv)
    assert len(secret) == wire.SIGNING_SECRET_BYTES
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    assert decryptor.update(base64.b64decode(headers["x-signature"])) == content + bytes([9]) * 9


def test_a_key_too_small_is_one_sentence() -> None:
    with pytest.raises(wire.BadKey, match=r"^The encryption key is too small: 1024 bits hold 62 bytes under oaep-sha"):
        wire.sign(b"{}", private_key().public_key(), "oaep-sha256", aes_key=bytes(32), iv=bytes(16))


@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_a_key_is_read_or_bad(key: str) -> None:
    with pytest.raises(wire.BadKey):
        wire.read_public_key(key)


def test_a_key_of_another_kind_is_bad() -> None:
    with pytest.raises(wire.BadKey):
        wire.read_public_key(public_key(ec.generate_private_key(ec.SECP256R1())))


def told_key(valid_upto: object) -> bytes:
    data = {"key_id": 100, "key": public_key(private_key()), "valid_upto": valid_upto}
    return json.dumps({"data": data, "status": {"code": 200, "response_code": "DP02010001001"}}).encode()


@pytest.mark.parametrize(
    ("valid_upto", "life_s"),
    [
        ("02-05-2026 06:00:00", 12 * 3600),  # six hours less: nobody says in which zone
        ("01-05-2026 13:00:00", wire.SHORT_KEY_LIFE_S),
        ("01-05-2020 13:00:00", wire.SHORT_KEY_LIFE_S),
        ("31-12-9999 23:59:59", wire.MAX_KEY_LIFE_S),
        ("2026-05-02", wire.UNTOLD_KEY_LIFE_S),
        (7, wire.UNTOLD_KEY_LIFE_S),
        (None, wire.UNTOLD_KEY_LIFE_S),
    ],
)
def test_a_key_lives_until_it_ends(valid_upto: object, life_s: float) -> None:
    key = wire.read_key(200, told_key(valid_upto), NOW)
    assert isinstance(key, Fresh)
    assert key.life_s == life_s


def test_no_key_is_a_reason_to_send_nothing() -> None:
    nonsense = json.dumps({"data": {"key": "nonsense"}}).encode()
    assert wire.read_key(200, nonsense, NOW) == NotSent(
        "The encryption key is not the base64 of an RSA public key.", outage=False
    )
    assert wire.read_key(200, refused("DP02010001000"), NOW) == NotSent("no encryption key: HTTP 200 DP02010001000")
    assert wire.read_key(503, b"", NOW) == NotSent("no encryption key: HTTP 503")
    assert wire.read_key(401, b"", NOW) == wire.TokenRefused()


# --- the answer to a collection -------------------------------------------------------------------------------------

INVALID_TOKEN = b'{"error":"invalid_token","error_description":"The access token is invalid or has expired"}'
NOT_WHITELISTED = b'{"error":"IP address not allowed: 192.0.2.7"}'
NO_ROUTE = b'{"message":"no Route matched with those values"}'


@pytest.mark.parametrize(
    ("status", "content", "outcome"),
    [
        (200, body("SUCCESS", dp008(1006), success=True, result_code="ESB000010"), Accepted()),
        (200, body("Success.", dp008(1006), success=False), Accepted()),
        (200, body("SUCCESS", dp008(1006), code=200), Accepted()),
        (200, body("TIP", dp008(1006)), Accepted()),
        (200, body("TIP"), Accepted()),
        (200, body("TS", dp008(1001)), Accepted()),  # whether money moved is asked for
        (200, refused(dp008(1006)), Accepted()),
        (200, body("SUCCESS", dp008(1006), ours=OTHER), ABOUT_ANOTHER),
        (200, body("SUCCESS", dp008(1007)), Unknown(f"HTTP 200 SUCCESS {dp008(1007)}", outage=False)),
        (200, body("TA", dp008(1006)), Unknown(f"HTTP 200 TA {dp008(1006)}", outage=False)),
        (200, body("260971234567 is barred", dp008(1006)), Unknown(f"HTTP 200 ? {dp008(1006)}", False, unlisted="?")),
        (200, body("SUCCESS", dp008(1006), result_code="ESB000001"), Unknown("HTTP 200 SUCCESS DP00800001006", False)),
        (400, refused(dp008(1005), message="Msisdn Not Found"), Declined(FIRM.PAYER_NOT_FOUND, dp008(1005))),
        (200, refused(dp008(1005), message="Msisdn Not Found"), Declined(FIRM.PAYER_NOT_FOUND, dp008(1005))),
        (200, refused(dp008(1005)), Unknown(f"HTTP 200 {dp008(1005)}", outage=False)),
        (500, refused(dp008(1005), message="Msisdn Not Found"), Unknown(f"HTTP 500 {dp008(1005)}")),
        (200, refused(dp008(1000)), Unknown(f"HTTP 200 {dp008(1000)}", outage=False)),
        (200, body("TF", dp008(1000)), Unknown(f"HTTP 200 TF {dp008(1000)}", outage=False)),
        (200, refused(dp008(1007), result_code="ESB000001"), Unknown(f"HTTP 200 {dp008(1007)}", outage=False)),
        (200, refused(dp008(1002)), Declined(FIRM.PAYER_DECLINED, dp008(1002))),
        (200, refused(dp008(1003)), Declined(FIRM.PAYER_LIMIT_REACHED, dp008(1003))),
        (200, refused(dp008(1004)), Declined(FIRM.PROVIDER_REJECTED, dp008(1004))),
        (200, body("TF", dp008(1007)), Declined(FIRM.INSUFFICIENT_FUNDS, dp008(1007))),
        (200, refused(dp008(1007), success=True), Unknown(f"HTTP 200 {dp008(1007)}", outage=False)),
        (200, body("TF", dp008(1007), success=True), Declined(FIRM.INSUFFICIENT_FUNDS, dp008(1007))),
        (200, refused(dp008(1008)), Declined(FIRM.PAYER_DECLINED, dp008(1008))),
        (200, refused(dp008(1009)), Declined(FIRM.PROVIDER_REJECTED, dp008(1009))),
        (200, refused(dp008(1010)), Declined(FIRM.PAYER_NOT_FOUND, dp008(1010))),
        (200, refused(dp008(1014)), Unknown(f"HTTP 200 {dp008(1014)}", outage=False)),
        (200, refused(dp008(1017)), Accepted()),
        (200, body("TF", dp008(1024)), Unknown(f"HTTP 200 TF {dp008(1024)}", outage=False)),
        (200, refused(dp008(1025)), Unknown(f"HTTP 200 {dp008(1025)}", outage=False)),
        (200, refused(dp008(1026)), Declined(FIRM.PROVIDER_REJECTED, dp008(1026))),
        (200, body("TE", dp008(1029)), Declined(FIRM.PAYER_TIMEOUT, dp008(1029))),
        (200, refused(dp008(1099)), Unknown("HTTP 200", outage=False, unlisted=dp008(1099))),
        (200, refused(None, result_code="ESB000041"), Accepted()),
        (200, refused(dp008(1009), result_code="ESB000041"), Accepted()),
        (200, refused(None, result_code="ESB000004"), Unknown("HTTP 200 ESB000004", outage=False)),
        (200, refused(None, result_code="ESB000011"), Unknown("HTTP 200 ESB000011", outage=False)),
        (200, refused(None, result_code="ESB000033"), Declined(FIRM.PROVIDER_REJECTED, "ESB000033")),
        (400, b'{"status_message":"Partner 7 not found","status_code":"ROUTER110"}',
         Declined(FIRM.NOT_ALLOWED, "ROUTER110")),
        (400, b'{"status_message":"Timed out","status_code":"ROUTER117"}', Unknown("HTTP 400 ROUTER117", False)),
        (401, b"", wire.TokenRefused()),
        (403, INVALID_TOKEN, wire.TokenRefused()),
        (403, NOT_WHITELISTED, Unknown("HTTP 403", outage=False, refused=True)),
        (403, b"You cannot consume this service", Unknown("HTTP 403", outage=False, refused=True)),
        (404, NO_ROUTE, Unknown("HTTP 404")),
        (404, refused(dp008(1007)), Unknown(f"HTTP 404 {dp008(1007)}")),
        (408, b"", Unknown("HTTP 408")),
        (429, b"", Unknown("HTTP 429", outage=False)),
        (500, refused(dp008(1007)), Unknown(f"HTTP 500 {dp008(1007)}")),
        (503, b"", Unknown("HTTP 503")),
        (504, body("SUCCESS", dp008(1006)), Unknown(f"HTTP 504 SUCCESS {dp008(1006)}")),
        (200, b"<html>", Unknown("HTTP 200")),
        (200, b'{"status":"SUCCESS"}', Unknown("HTTP 200", outage=False)),
        (200, b'{"data":{"transaction":{"status":"SUCCESS","status":"SUCCESS"}}}', Unknown("HTTP 200", outage=False)),
        (200, b"{}", Unknown("HTTP 200", outage=False)),
        (200, b"null", Unknown("HTTP 200")),
    ],
)  # fmt: skip
def test_answers_to_a_collection(status: int, content: bytes, outcome: object) -> None:
    assert wire.read_collection(status, content, REFERENCE) == outcome


# --- the answer to a payout -----------------------------------------------------------------------------------------

PAID = Succeeded("MP210603.1234.L06941")


@pytest.mark.parametrize(
    ("status", "content", "outcome"),
    [
        (200, body("TS", dp009(1001), success=True), PAID),
        (200, body("TS", dp009(1001), success=False), PAID),
        (200, body("TS"), PAID),
        (200, body("TS", dp009(1001), ours=ID.upper()), PAID),
        (200, body("TS", dp009(1001), ours=None), Accepted()),
        (200, body("TS", dp009(1001), ours=OTHER), ABOUT_ANOTHER),
        (200, body("TS", dp009(1006)), Accepted()),
        (200, body("TS", dp009(1007)), Unknown(f"HTTP 200 TS {dp009(1007)}", outage=False)),
        (200, refused(dp009(1001)), Accepted()),
        (200, body("TIP", dp009(1006)), Accepted()),
        (200, body("TA", dp009(1000)), Unknown(f"HTTP 200 TA {dp009(1000)}", outage=False)),
        (200, body("TF", dp009(1003)), Declined(FIRM.PROVIDER_REJECTED, dp009(1003))),
        (200, refused(dp009(1004)), Declined(FIRM.PROVIDER_REJECTED, dp009(1004))),
        (200, body("TF", dp009(1005)), Unknown(f"HTTP 200 TF {dp009(1005)}", outage=False)),
        (200, body("TF", dp009(1007)), Declined(FIRM.INSUFFICIENT_FUNDS, dp009(1007))),
        (200, refused(dp009(1009)), Declined(FIRM.PAYEE_NOT_ALLOWED, dp009(1009))),
        (200, refused(dp009(1010)), Declined(FIRM.NOT_ALLOWED, dp009(1010))),
        (200, body("TF", dp009(1011), result_code="521050"), Accepted()),
        (200, refused(dp009(1012)), Declined(FIRM.PAYEE_NOT_FOUND, dp009(1012))),
        (200, refused(dp009(1013), result_code="521050"), Accepted()),
        (200, refused(dp009(1013)), Declined(FIRM.PROVIDER_REJECTED, dp009(1013))),
        (200, body("TF", dp009(1014)), Unknown(f"HTTP 200 TF {dp009(1014)}", outage=False)),
        (200, refused(dp009(1015)), Unknown(f"HTTP 200 {dp009(1015)}", outage=False)),
        (200, refused(dp009(1016)), Declined(FIRM.PROVIDER_REJECTED, dp009(1016))),
        (200, refused(dp009(1017)), Accepted()),
        (200, refused(dp009(1018)), Declined(FIRM.PROVIDER_REJECTED, dp009(1018))),
        (200, refused(dp009(1019)), Declined(FIRM.NOT_ALLOWED, dp009(1019))),
        (200, body("TF", dp009(1050)), Unknown("HTTP 200 TF", outage=False, unlisted=dp009(1050))),
        (403, INVALID_TOKEN, wire.TokenRefused()),
        (504, body("TS", dp009(1001)), Unknown(f"HTTP 504 TS {dp009(1001)}")),
    ],
)
def test_answers_to_a_payout(status: int, content: bytes, outcome: object) -> None:
    assert wire.read_payout(status, content, REFERENCE) == outcome


def payout_told(word: str, code: str, ours: object = ID, **transaction: object) -> bytes:
    told = json.loads(body(word, code, ours=ours))
    told["data"]["transaction"] |= transaction
    return json.dumps(told).encode()


DISBURSEMENT = f"disbursement-EXAMPLE-{ID}"


@pytest.mark.parametrize(
    ("told", "receipt"),
    [
        ("CI250506.1824.H00006", "CI250506.1824.H00006"),
        (" APC210603.1234.L06941\n", "APC210603.1234.L06941"),
        (18_123_456_354, "18123456354"),
        (None, None),
        ("", None),
        ("Payment", None),  # the same text for all payouts would be nobody's number
        ("Order7", None),
        ("1", None),
        ("CI250506.1824.H00006; DROP", None),
        (ID, None),
        (["CI250506.1824.H00006"], None),
    ],
)
def test_the_number_that_the_payee_sees_stands_in_the_first_answer_alone(told: object, receipt: str | None) -> None:
    for word, code in (("TS", dp009(1001)), ("TS", dp009(1006)), ("TIP", dp009(1006))):
        content = payout_told(word, code, reference_id=told, airtel_money_id=DISBURSEMENT)
        first = wire.read_payout(200, content, REFERENCE)
        is_paid = code == dp009(1001)
        assert first == (Succeeded(DISBURSEMENT, receipt=receipt) if is_paid else Accepted(receipt=receipt))
        assert isinstance(wire.read_payout_status(200, content, REFERENCE), Succeeded | Accepted)
    elsewhere = payout_told("TIP", dp009(1006), None, reference_id=told)
    assert wire.read_payout(200, elsewhere, REFERENCE) == Accepted()
    failed = payout_told("TF", dp009(1007), reference_id=told)
    assert wire.read_payout(200, failed, REFERENCE) == Declined(FIRM.INSUFFICIENT_FUNDS, dp009(1007))


# --- the answer to a refund -----------------------------------------------------------------------------------------


def lost(reason: str, *, outage: bool = False) -> Unknown:
    return Unknown(reason, outage=outage, askable=False)


@pytest.mark.parametrize(
    ("status", "content", "outcome"),
    [
        (200, body("SUCCESS", dp008(1006), ours=None, success=True), Succeeded(None)),
        (200, body("TS", dp008(1001), ours=None), PAID),
        (200, body("SUCCESS", dp008(1006), ours=None), lost(f"HTTP 200 SUCCESS {dp008(1006)}")),
        (200, body("TS", dp009(1006), ours=None), lost(f"HTTP 200 TS {dp009(1006)}")),
        (200, body("SUCCESS", dp008(1006), ours=None, success=False), lost(f"HTTP 200 SUCCESS {dp008(1006)}")),
        (200, body("SUCCESS", ours=None), lost("HTTP 200 SUCCESS")),
        (200, refused(dp008(1006)), lost(f"HTTP 200 {dp008(1006)}")),
        (200, refused(dp008(1007)), Declined(FIRM.INSUFFICIENT_FUNDS, dp008(1007))),
        (200, refused(dp008(1025)), Declined(FIRM.PROVIDER_REJECTED, dp008(1025))),
        (200, refused(dp008(1000)), lost(f"HTTP 200 {dp008(1000)}")),
        (200, refused(dp008(1007), result_code="ESB000001"), lost(f"HTTP 200 {dp008(1007)}")),
        (200, refused(dp008(1017)), lost(f"HTTP 200 {dp008(1017)}")),
        (200, body("TF", dp008(1024)), lost(f"HTTP 200 TF {dp008(1024)}")),
        (504, b"", lost("HTTP 504", outage=True)),
        (200, b"", lost("HTTP 200", outage=True)),
        (401, b"", wire.TokenRefused()),
    ],
)
def test_answers_to_a_refund(status: int, content: bytes, outcome: object) -> None:
    assert wire.read_refund(status, content) == outcome


# --- the answer to an enquiry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content", "finding"),
    [
        (200, body("TS", dp008(1001)), PAID),
        (200, body("TS", dp008(1006), success=False), PAID),
        (200, body("TS"), PAID),
        (200, body("TS", dp008(1007)), Unknown(f"HTTP 200 TS {dp008(1007)}", outage=False)),
        (200, body("TS", dp008(1000)), Unknown(f"HTTP 200 TS {dp008(1000)}", outage=False)),
        (200, body("TS", dp008(1025)), Unknown(f"HTTP 200 TS {dp008(1025)}", outage=False)),
        (200, body("TS", dp008(1001), ours=OTHER), ABOUT_ANOTHER),
        (200, body("TS", dp008(1001), ours=None), ABOUT_ANOTHER),
        (200, body("TF", dp008(1007)), Declined(FIRM.INSUFFICIENT_FUNDS, dp008(1007))),
        (200, body("TF", dp008(1005)), Declined(FIRM.PAYER_TIMEOUT, dp008(1005))),
        (200, body("TF", dp008(1005), message="Msisdn not found"), Declined(FIRM.PAYER_NOT_FOUND, dp008(1005))),
        (200, body("TF", dp008(1024)), Declined(FIRM.PAYER_TIMEOUT, dp008(1024))),
        (200, body("TF", dp008(1006)), Unknown(f"HTTP 200 TF {dp008(1006)}", outage=False)),
        (200, body("TF", dp008(1099)), Declined(FIRM.PROVIDER_ERROR, dp008(1099), unlisted=dp008(1099))),
        (200, body("TF"), Declined(FIRM.PROVIDER_ERROR, "TF")),
        (200, body("TF", dp008(1001)), Unknown(f"HTTP 200 TF {dp008(1001)}", outage=False)),
        (200, body("TF", dp008(1000)), Doubtful(FIRM.PROVIDER_ERROR, dp008(1000))),
        (200, body("TF", dp008(1000), ours=OTHER), ABOUT_ANOTHER),
        (400, body("TF", dp008(1000)), Unknown(f"HTTP 400 TF {dp008(1000)}", outage=False)),
        (200, body("TF", dp008(1014)), Unknown(f"HTTP 200 TF {dp008(1014)}", outage=False)),
        (200, body("TF", dp008(1000), result_code="ESB000001"), Unknown(f"HTTP 200 TF {dp008(1000)}", outage=False)),
        (200, body("TE", dp008(1000)), Unknown(f"HTTP 200 TE {dp008(1000)}", outage=False)),
        (200, refused(dp008(1000)), Unknown(f"HTTP 200 {dp008(1000)}", outage=False)),
        (200, body("TF", dp008(1007), ours=OTHER), ABOUT_ANOTHER),
        (200, body("TE"), Declined(FIRM.PAYER_TIMEOUT, "TE")),
        (200, body("TA", dp008(1000)), Unknown(f"HTTP 200 TA {dp008(1000)}", outage=False)),
        (200, body("TA", dp008(1006)), Unknown(f"HTTP 200 TA {dp008(1006)}", outage=False)),
        (200, body("TIP", dp008(1006)), Accepted()),
        (200, body("TI"), Accepted()),
        (200, body("TR", dp008(1001)), Unknown(f"HTTP 200 {dp008(1001)}", outage=False, unlisted="TR")),
        (200, refused(dp008(1025)), NotFound(firm=False)),
        (400, refused(None, result_code="ESB000045"), NotFound(firm=False)),
        (404, refused(dp008(1025)), NotFound(firm=False)),
        (200, body("TF", dp008(1025)), NotFound(firm=False)),
        (200, refused(dp008(1007)), Unknown(f"HTTP 200 {dp008(1007)}", outage=False)),
        (400, body("TF", dp008(1007)), Unknown(f"HTTP 400 TF {dp008(1007)}", outage=False)),
        (404, NO_ROUTE, Unknown("HTTP 404")),
        (500, refused(dp008(1025)), Unknown(f"HTTP 500 {dp008(1025)}")),
        (401, b"", wire.TokenRefused()),
        (403, INVALID_TOKEN, wire.TokenRefused()),
        (429, b"", Unknown("HTTP 429", outage=False)),
        (200, b"", Unknown("HTTP 200")),
    ],
)
def test_answers_to_an_enquiry(status: int, content: bytes, finding: object) -> None:
    assert wire.read_collection_status(status, content, REFERENCE) == finding


def test_a_payouts_enquiry_has_its_own_codes() -> None:
    read = wire.read_payout_status
    assert read(200, body("TS", dp009(1001)), REFERENCE) == PAID
    assert read(200, refused(dp009(1015)), REFERENCE) == NotFound(firm=False)
    assert read(200, body("TF", dp009(1005)), REFERENCE) == Declined(FIRM.PROVIDER_ERROR, dp009(1005))
    assert read(200, body("TF", dp009(1011)), REFERENCE) == Unknown(f"HTTP 200 TF {dp009(1011)}", outage=False)
    # Who believed that a payout failed, and pays again, pays twice: a person decides.
    assert read(200, body("TF", dp009(1000)), REFERENCE) == Unknown(f"HTTP 200 TF {dp009(1000)}", outage=False)


def test_no_code_means_two_things() -> None:
    doubts = wire.DUPLICATE | wire.DOUBT | wire.PENDING | wire.PAID
    for reasons in (wire.COLLECTION_REASONS, wire.PAYOUT_REASONS, wire.REFUND_REASONS):
        assert not doubts & set(reasons)
    assert not wire.NOT_FOUND & (set(wire.COLLECTION_REASONS) | set(wire.PAYOUT_REASONS))


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_in", "life_s"),
    [(b"180", 180), (b'"180"', 180), (b"1e9", 60), (b"-1", 60), (b"null", 60), (b"[]", 60), (b'"0"', 60)],
)
def test_a_life_is_a_text_or_a_number(expires_in: bytes, life_s: float) -> None:
    token = wire.read_token(200, b'{"access_token":"abc","expires_in":' + expires_in + b',"token_type":"bearer"}')
    assert token == Fresh("abc", life_s)
    assert "abc" not in repr(token)


@pytest.mark.parametrize(
    ("status", "content", "reason", "refused"),
    [
        (400, b'{"error":"invalid_client"}', "no token: HTTP 400 invalid_client", True),
        (503, b"", "no token: HTTP 503", False),
        (429, b"", "no token: HTTP 429", False),
        (200, b"", "no token: HTTP 200", False),
        (200, b'{"access_token":"a\\r\\nX-Evil: 1"}', "no token: HTTP 200", False),
        (401, b'{"access_token":"abc"}', "no token: HTTP 401", True),
    ],
)
def test_no_token_is_a_reason_to_send_nothing(status: int, content: bytes, reason: str, refused: bool) -> None:
    assert wire.read_token(status, content) == NotSent(reason, outage=not refused, refused=refused)


# --- callbacks ------------------------------------------------------------------------------------------------------

KEY = b"the portal's private key"


def callback(status_code: object = "TS", **changes: object) -> dict[str, object]:
    told = {"id": ID, "message": "Paid.", "status_code": status_code, "airtel_money_id": "MP210603.1234.L06941"}
    return {k: v for k, v in {**told, **changes}.items() if v is not None}


def posted(transaction: object, **more: object) -> bytes:
    return json.dumps({"transaction": transaction, **more}).encode()


def hashed(content: bytes, key: bytes = KEY) -> str:
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


@pytest.mark.parametrize(
    ("transaction", "finding"),
    [
        (callback(), PAID),
        (callback(airtel_money_id=None), Succeeded(None)),
        (callback(id=REFERENCE), PAID),
        (callback(id=ID.upper()), PAID),
        (callback("TF"), Declined(FIRM.PROVIDER_ERROR, "TF")),
        (callback("TE"), Declined(FIRM.PAYER_TIMEOUT, "TE")),
        (callback("TIP"), Accepted()),
        (callback("TA"), Accepted()),
        (callback("TS."), PAID),
        (callback(" ts"), PAID),
        (callback(" ta. "), Accepted()),
        (callback("Tf.", code="DP00800001007"), Declined(FIRM.INSUFFICIENT_FUNDS, "DP00800001007")),
        (callback("a sentence"), Unknown("HTTP 200 ?", outage=False, unlisted="?")),
        (callback(amount="10.50", currency="ZMW"), PAID),  # an amount that a callback names counts for nothing
    ],
)
def test_callbacks_are_read(transaction: object, finding: object) -> None:
    assert wire.read_callback(posted(transaction)) == CallbackWord(REFERENCE, finding, None, None, None)  # type: ignore[arg-type]
    assert wire.read_callback(posted(transaction, hash="x")).finding == finding


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"canary",
        b"[]",
        b'{"transaction":"canary"}',
        posted(callback(id="canary")),
        posted(callback(id=None)),
        posted(callback(id=ID[:-1] + "g")),
        posted(callback())[:-1] + b',"transaction":{}}',
    ],
)
def test_what_is_no_callback_is_unreadable_and_not_quoted(content: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        wire.read_callback(content)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


SPACED = b'{ "id":"8a3f", "message":"\\u00e9 \\/ K 1.10", "n" : 1 }'
COMPACT = '{"id":"8a3f","message":"é / K 1.10","n":1}'.encode()


@pytest.mark.parametrize(
    ("content", "authenticity"),
    [
        (b'{"transaction": ' + SPACED + b', "hash":"' + hashed(SPACED).encode() + b'"}', Authenticity.GENUINE),
        (b'{"hash":"' + hashed(SPACED).encode() + b'","transaction":  ' + SPACED + b"  }", Authenticity.GENUINE),
        (b'{"transaction":' + SPACED + b',"hash":"' + hashed(COMPACT).encode() + b'"}', Authenticity.GENUINE),
        (b'{"transaction":' + COMPACT + b',"hash":"' + hashed(SPACED).encode() + b'"}', Authenticity.FORGED),
        (posted({}, hash=hashed(b"{}")), Authenticity.GENUINE),
        (posted({}, hash=hashed(b"{}", b"another key")), Authenticity.FORGED),
        (posted({"a": 1}, hash=hashed(b"{}")), Authenticity.FORGED),
        (posted({}, hash=hashed(b"{}")[:-1]), Authenticity.FORGED),
        (posted({}, hash=""), Authenticity.FORGED),
        (posted({}, hash="é"), Authenticity.FORGED),
        (posted({}, hash=7), Authenticity.FORGED),
        (posted({}), Authenticity.FORGED),
        (b"", Authenticity.FORGED),
        (posted({}, hash=hashed(b"{}"))[:-1] + b',"transaction":{"id":"evil"}}', Authenticity.FORGED),
        (b'{"transaction":{"id":"evil"},' + posted({}, hash=hashed(b"{}"))[1:], Authenticity.FORGED),
    ],
)
def test_a_hash_is_of_the_transaction_as_it_came(content: bytes, authenticity: Authenticity) -> None:
    assert wire.verify_callback(content, KEY) is authenticity


# --- hostile answers ------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["transaction", "data", "status", "id", "code", "response_code", "result_code", "status_code", "error", "hash",
     "airtel_money_id", "success", "TS", "TF", "TA", "TIP", "SUCCESS", ID, *wire.DOUBT, *wire.PAID, *wire.DUPLICATE,
     *wire.REFUND_REASONS, *wire.PAYOUT_REASONS]
)  # fmt: skip
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | WORDS, inner),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries({
    "data": st.fixed_dictionaries({"transaction": st.fixed_dictionaries({"id": st.just(ID), "status": WORDS | ANY_JSON},
                                                                        optional={"airtel_money_id": ANY_JSON})}),
    "status": st.fixed_dictionaries({}, optional={"response_code": WORDS | ANY_JSON, "result_code": WORDS | ANY_JSON,
                                                  "success": st.booleans(), "message": st.text()}),
})  # fmt: skip
CALLBACKS = st.fixed_dictionaries({"transaction": ANY_JSON, "hash": ANY_JSON})
BODIES = st.binary() | (ANY_JSON | NEARLY | CALLBACKS).map(lambda value: json.dumps(value).encode())
HUGE = json.dumps({"data": {"key": "A" * 60_000, "valid_upto": "1"}}).encode()


@given(st.integers(100, 999) | st.sampled_from([200, 400]), BODIES)
@example(200, b"[" * 65_536)
@example(200, b'{"transaction":' * 5_000)
@example(200, b'{"transaction":{},"hash":"\\ud800"}')
@example(200, b'{"transaction":{"a":1e999},"hash":"x"}')
@example(200, b'{"transaction":' + b"9" * 60_000 + b',"hash":"x"}')
@example(200, b'{"data":{"transaction":{"id":"\\ud800","status":"\\ud800"}}}')
@example(200, HUGE)
def test_no_answer_raises(status: int, content: bytes) -> None:
    wire.read_token(status, content)
    wire.read_key(status, content, NOW)
    assert wire.verify_callback(content, KEY) is Authenticity.FORGED
    for told in (
        wire.read_collection(status, content, REFERENCE),
        wire.read_payout(status, content, REFERENCE),
        wire.read_refund(status, content),
        wire.read_collection_status(status, content, REFERENCE),
        wire.read_payout_status(status, content, REFERENCE),
    ):
        unlisted = getattr(told, "unlisted", None)
        assert unlisted in (None, "?") or wire.CODE.fullmatch(unlisted)
        match told:
            case Succeeded(provider_transaction_id=kept) | Declined(provider_code=kept):
                assert kept is None or (kept.isprintable() and 1 <= len(kept) <= 64)
                (kept or "").encode()  # no lone surrogate, which no database takes
            case Unknown(reason=reason):
                assert len(reason) < 200
                reason.encode()
            case _:
                pass


@given(NEARLY, st.sampled_from(sorted(wire.DOUBT)))
def test_where_airtel_is_in_doubt_nothing_is_final(answer: Any, doubt: str) -> None:
    answer["status"]["result_code"] = doubt
    content = json.dumps(answer).encode()
    for told in (
        wire.read_collection(200, content, REFERENCE),
        wire.read_payout(200, content, REFERENCE),
        wire.read_refund(200, content),
        wire.read_collection_status(200, content, REFERENCE),
        wire.read_payout_status(200, content, REFERENCE),
    ):
        assert not isinstance(told, Succeeded | Declined)


@given(BODIES)
@example(b"[" * 65_536)
def test_a_callback_is_read_or_unreadable(content: bytes) -> None:
    try:
        word = wire.read_callback(content)
    except Unreadable:
        return
    assert (word.money, word.payer) == (None, None)


def test_the_margin_of_a_keys_end_covers_every_zone_that_airtel_may_mean() -> None:
    assert timedelta(hours=5, minutes=30) <= wire.KEY_ENDS_EARLIER
