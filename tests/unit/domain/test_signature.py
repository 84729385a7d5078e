"""X-Signature-256: what verifies, and above all what does not."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.signature import is_genuine, sign

BODY = b'{"status": "SUCCESSFUL"}'
SECRET, OLD = b"the secret of this year", b"the secret of last year"
GOOD = sign(BODY, SECRET)
SECRETS = st.binary(min_size=1, max_size=64)  # HMAC fills a key up with zeros, and hashes a longer one


def test_the_form_is_that_of_the_protocol() -> None:
    """Computed by somebody else: openssl dgst -sha256 -hmac secret."""
    assert sign(b"body", b"secret") == "sha256=dc46983557fea127b43af721467eb9b3fde2338fe3e14f51952aa8478c13d355"


@given(st.binary(max_size=200), SECRETS, SECRETS)
def test_what_one_secret_signed_verifies_with_it_whatever_stands_beside_it(
    body: bytes, secret: bytes, other: bytes
) -> None:
    given_ = [sign(body, secret)]
    assert is_genuine(given_, body, [secret])
    assert is_genuine(given_, body, [secret, other])
    assert is_genuine(given_, body, [other, secret])
    assert is_genuine([given_[0].removeprefix("sha256=")], body, [secret])
    assert is_genuine(given_, body, [other]) is (secret.rstrip(b"\0") == other.rstrip(b"\0"))
    assert not is_genuine(given_, body + b"x", [secret, other])


@pytest.mark.parametrize("secrets", [[b""], [b"", b""], [SECRET, b""], [b"", SECRET]], ids=str)
def test_an_empty_secret_signs_nothing(secrets: list[bytes]) -> None:
    """Anybody can compute that signature."""
    assert not is_genuine([sign(BODY, b"")], BODY, secrets)
    assert is_genuine([GOOD], BODY, secrets) is (SECRET in secrets)


def test_without_a_secret_nothing_is_genuine() -> None:
    assert not is_genuine([GOOD], BODY, [])


HEADERS: list[list[str]] = [
    [],
    [""],
    [GOOD, GOOD],
    [GOOD, "sha256=" + "0" * 64],
    [f"{GOOD}, {GOOD}"],
    [GOOD.upper()],
    ["sha256=" + GOOD[7:].upper()],
    [GOOD.replace("sha256", "sha512")],
    [GOOD.replace("sha256=", "sha1=")],
    ["sha256=" + hashlib.sha256(BODY).hexdigest()],
    [GOOD[:-1]],
    [GOOD + "0"],
    [GOOD + "\n"],
    [" " + GOOD],
    [GOOD[:30] + " " + GOOD[30:]],
    [GOOD[:-1] + "\u0661"],
    [GOOD[:-1] + ("0" if GOOD[-1] != "0" else "1")],
]


@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
def test_anything_but_one_right_signature_is_refused(headers: list[str]) -> None:
    assert not is_genuine(headers, BODY, [SECRET, OLD])
