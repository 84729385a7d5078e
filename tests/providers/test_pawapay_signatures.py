"""Whether pawaPay signed a callback. The signer here is written out by hand: it shares no line with the verifier."""

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from kobiri.providers.base import Authenticity, Callback
from kobiri.providers.pawapay import signatures
from kobiri.providers.pawapay.signatures import UnknownKey

NOW = 1_714_657_551
KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
KEY_ID = "HTTP_EC_P256_KEY:1"
BODY = b'{"depositId": "8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10", "status": "COMPLETED"}'
MUST_BE_COVERED = ("@method", "@authority", "@path", "signature-date", "content-digest")
COVERED = (*MUST_BE_COVERED, "content-type")


@dataclass(frozen=True)
class Signer:
    """What is signed, and how; a test changes one thing."""

    key: ec.EllipticCurvePrivateKey = KEY
    key_id: str | None = KEY_ID
    covered: tuple[str, ...] = COVERED
    label: str = "sig-pp"
    der: bool = False
    digest: str = "sha-512"
    created: int | None = NOW
    expires: int | None = NOW + 60
    algorithm: str | None = "ecdsa-p256-sha256"
    content_digest: str | None = None
    authority: str = "pay.example.com"
    body: bytes = BODY

    def callback(self) -> Callback:
        fields = {
            "content-type": "application/json; charset=UTF-8",
            "signature-date": "2024-05-02T13:45:51.131905Z",
            "content-digest": self.content_digest or digest_of(self.body, self.digest),
        }
        derived = {"@method": "POST", "@authority": self.authority, "@path": "/api/v1/webhooks/pawapay"}
        values = fields | derived
        parameters = "(" + " ".join(f'"{name}"' for name in self.covered) + ")"
        for name, value in (("alg", self.algorithm), ("keyid", self.key_id)):
            parameters += f';{name}="{value}"' if value is not None else ""
        for name, number in (("created", self.created), ("expires", self.expires)):
            parameters += f";{name}={number}" if number is not None else ""
        lines = [f'"{name}": {values[name]}' for name in self.covered]
        base = "\n".join([*lines, f'"@signature-params": {parameters}'])
        signature = self.key.sign(base.encode(), ec.ECDSA(hashes.SHA256()))
        if not self.der:
            r, s = decode_dss_signature(signature)
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        fields["signature-input"] = f"{self.label}={parameters}"
        fields["signature"] = f"{self.label}=:{base64.b64encode(signature).decode()}:"
        return Callback("POST", self.authority, "/api/v1/webhooks/pawapay", tuple(fields.items()), self.body)


def digest_of(body: bytes, algorithm: str) -> str:
    raw = hashlib.new(algorithm.replace("-", ""), body).digest()
    return f"{algorithm}=:{base64.b64encode(raw).decode()}:"


def verdict(callback: Callback, now_s: float = NOW) -> Authenticity | UnknownKey:
    return signatures.check(callback, {KEY_ID: KEY.public_key()}.get, now_s)


def with_header(callback: Callback, name: str, value: str | None) -> Callback:
    kept = tuple(line for line in callback.headers if line[0] != name)
    return replace(callback, headers=kept if value is None else (*kept, (name, value)))


# --- genuine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("der", [False, True])
@pytest.mark.parametrize("digest", ["sha-256", "sha-512"])
def test_what_pawapay_signed_is_genuine_in_both_forms(der: bool, digest: str) -> None:
    assert verdict(Signer(der=der, digest=digest).callback()) is Authenticity.GENUINE


@pytest.mark.parametrize(
    "signer",
    [
        Signer(covered=MUST_BE_COVERED),
        Signer(expires=None),
        Signer(algorithm=None),
        Signer(authority="pay.example.com:8443"),
    ],
)
def test_what_may_differ(signer: Signer) -> None:
    assert verdict(signer.callback()) is Authenticity.GENUINE


def test_the_host_is_compared_without_case_and_without_the_usual_port() -> None:
    callback = Signer().callback()
    for authority in ("PAY.example.com", "pay.example.com:443"):
        assert verdict(replace(callback, authority=authority)) is Authenticity.GENUINE


# --- forged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("der", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"authority": "other.example.com"},
        {"authority": ""},
        {"path": "/api/v1/webhooks/pawapay/another-account"},
        {"body": BODY.replace(b"8a3f", b"8a3e")},
        {"body": b""},
    ],
)
def test_a_changed_part_is_forged(change: dict[str, Any], der: bool) -> None:
    assert verdict(replace(Signer(der=der).callback(), **change)) is Authenticity.FORGED


@pytest.mark.parametrize("name", ["signature-date", "content-digest", "content-type", "signature-input", "signature"])
def test_a_changed_or_missing_header_is_forged(name: str) -> None:
    callback = Signer().callback()
    [value] = callback.values(name)
    other = value.replace("2024-05-02", "2024-05-03").replace("UTF-8", "UTF-9").replace("created=1", "created=2")
    changed = other if other != value else value.replace("=:", "=:AAAA", 1)
    assert verdict(with_header(callback, name, changed)) is Authenticity.FORGED
    assert verdict(with_header(callback, name, None)) is Authenticity.FORGED
    assert verdict(replace(callback, headers=(*callback.headers, (name, value)))) is Authenticity.FORGED


@pytest.mark.parametrize("left_out", MUST_BE_COVERED)
def test_what_must_be_covered_is_forged_without_it(left_out: str) -> None:
    covered = tuple(name for name in COVERED if name != left_out)
    assert verdict(Signer(covered=covered).callback()) is Authenticity.FORGED


def test_another_body_under_a_digest_that_nobody_signed_is_forged() -> None:
    """The digest agrees with the body, and the signature with all else: only that it is not covered gives it away."""
    callback = Signer(covered=("@method", "@authority", "@path", "signature-date")).callback()
    body = BODY.replace(b"COMPLETED", b"FAILED")
    changed = with_header(replace(callback, body=body), "content-digest", digest_of(body, "sha-512"))
    assert verdict(changed) is Authenticity.FORGED


@pytest.mark.parametrize(
    "signer",
    [
        Signer(key=STRANGER),
        Signer(key=STRANGER, der=True),
        Signer(label="sig-other"),
        Signer(algorithm="hmac-sha256"),
        Signer(algorithm="rsa-v1_5-sha256"),
        Signer(key_id=None),
        Signer(created=None),
        Signer(content_digest=digest_of(BODY + b" ", "sha-256")),
        Signer(content_digest="md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"),
        Signer(content_digest=digest_of(BODY, "sha-256") + ", " + digest_of(b"", "sha-512")),
    ],
)
def test_a_strangers_or_strange_signature_is_forged(signer: Signer) -> None:
    assert verdict(signer.callback()) is Authenticity.FORGED


def test_a_second_signature_is_forged() -> None:
    """Which of two is meant cannot be told: pawaPay sends one."""
    own, other = Signer().callback(), Signer(key=STRANGER, label="other").callback()
    for name in ("signature", "signature-input"):
        own = with_header(own, name, f"{own.values(name)[0]}, {other.values(name)[0]}")
    assert verdict(own) is Authenticity.FORGED


def test_an_unknown_key_is_told_apart() -> None:
    assert verdict(Signer(key_id="HTTP_EC_P256_KEY:2").callback()) == UnknownKey()


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later_s", "signer", "authenticity"),
    [
        (299, Signer(), Authenticity.GENUINE),
        (-299, Signer(), Authenticity.GENUINE),
        (301, Signer(), Authenticity.UNSIGNED),
        (-301, Signer(), Authenticity.UNSIGNED),
        (86_400 * 400, Signer(), Authenticity.UNSIGNED),
        (299, Signer(expires=NOW - 2), Authenticity.UNSIGNED),
        (301, Signer(key=STRANGER), Authenticity.FORGED),
    ],
)
def test_an_old_signature_is_a_hint_and_no_proof(later_s: float, signer: Signer, authenticity: Authenticity) -> None:
    assert verdict(signer.callback(), NOW + later_s) is authenticity


# --- nothing raises -----------------------------------------------------------------------------------------

HEADER_TEXT = st.text(st.characters(max_codepoint=255)) | st.text()


@given(st.lists(st.tuples(st.sampled_from([*COVERED, "signature", "signature-input", "host"]), HEADER_TEXT)))
def test_no_header_raises(headers: list[tuple[str, str]]) -> None:
    callback = Callback("POST", "pay.example.com", "/x", tuple(headers), BODY)
    assert verdict(callback) in (Authenticity.FORGED, UnknownKey())


@given(st.text(), st.text(), st.text(), st.binary())
def test_no_request_raises(method: str, authority: str, path: str, body: bytes) -> None:
    headers = Signer().callback().headers
    verdict(Callback(method, authority, path, headers, body))


@given(st.data())
def test_no_damage_to_a_true_signature_is_believed(data: st.DataObject) -> None:
    callback = Signer().callback()
    name = data.draw(st.sampled_from(["signature-input", "content-digest", "signature-date"]))
    [value] = callback.values(name)
    position = data.draw(st.integers(0, len(value) - 1))
    put = data.draw(st.characters(max_codepoint=255))
    damaged = value[:position] + put + value[position + 1 :]
    if damaged.strip(" \t") != value:
        assert verdict(with_header(callback, name, damaged)) != Authenticity.GENUINE


def test_hostile_sizes_end_quickly() -> None:
    for value in ("sig-pp=" + "(" * 50_000, 'sig-pp=("@method"' * 5_000, "sig-pp=:" + "A" * 100_000, "a=1," * 20_000):
        for name in ("signature", "signature-input"):
            assert verdict(with_header(Signer().callback(), name, value)) is Authenticity.FORGED


# --- keys ---------------------------------------------------------------------------------------------------


def pem(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_only_a_public_key_on_p256_is_one() -> None:
    assert signatures.read_key(pem(KEY.public_key())) == KEY.public_key()
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    whole = pem(KEY.public_key())
    for text in (pem(p384), pem(rsa_key), "", "PEM", whole[:100], whole.replace("A", "B"), "\udcff"):
        assert signatures.read_key(text) is None
