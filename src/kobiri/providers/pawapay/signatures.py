"""Whether pawaPay signed a callback: RFC 9421 with ECDSA on P-256. Pure; README 6 tells the facts.

The library reads the structured fields, builds the signature base and checks the digests. Two things are ours: a
signature may also be DER (pawaPay's own sample makes such), and the clock is an argument.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms

from kobiri.providers.base import Authenticity, Callback

PublicKey = ec.EllipticCurvePublicKey

LABEL: Final = "sig-pp"
COVERED: Final = ("@method", "@authority", "@path", "signature-date", "content-digest")
TOLERANCE_S: Final = 300.0
RAW_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """The callback names a key that is not known."""


class _Ecdsa(algorithms.ECDSA_P256_SHA256):
    """Takes r‖s as RFC 9421 has it (3.3.4), and DER as Node's sign() makes it."""

    def verify(self, signature: bytes, message: bytes) -> None:
        if len(signature) == RAW_SIGNATURE_BYTES:
            super().verify(signature, message)
        else:
            self.public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, find: Callable[[str], PublicKey | None]) -> None:
        self._find = find
        self.missing = False

    def resolve_public_key(self, key_id: str) -> PublicKey | None:
        found = self._find(key_id)
        self.missing = found is None
        return found


class _Verifier(HTTPMessageVerifier):
    max_clock_skew = timedelta(days=36_500)  # the times are looked at below, by the caller's clock


@dataclass(frozen=True, slots=True)
class _Headers:
    lines: tuple[tuple[str, str], ...]

    def items(self) -> Iterable[tuple[str, str]]:
        return self.lines


@dataclass(frozen=True, slots=True)
class _Message:
    """A callback as the library wants it. The scheme is not covered; with https port 443 is left out of @authority."""

    method: str
    url: str
    headers: _Headers


def check(callback: Callback, find: Callable[[str], PublicKey | None], now_s: float) -> Authenticity | UnknownKey:
    """Check the signature with the key that `find` has for its id. It never raises; `now_s` is Unix time.

    UNSIGNED: truly signed, but too long ago or too far ahead. It may be played back, so it is worth a question only.
    """
    message = _Message(
        callback.method, f"https://{callback.authority}{callback.path}", _Headers(tuple(callback.headers))
    )
    keys = _Keys(find)
    verifier = _Verifier(signature_algorithm=_Ecdsa, key_resolver=keys)
    try:
        [result] = verifier.verify(message, max_age=None, require_components=COVERED, body=callback.body)
        created, expires = int(result.parameters["created"]), int(result.parameters.get("expires", now_s))
    # Any exception at all: nobody can list what hostile headers make a parser raise, and all of it means the same.
    except Exception:  # noqa: BLE001
        return UnknownKey() if keys.missing else Authenticity.FORGED
    if result.label != LABEL:
        return Authenticity.FORGED
    timely = abs(now_s - created) <= TOLERANCE_S and now_s - expires <= TOLERANCE_S
    return Authenticity.GENUINE if timely else Authenticity.UNSIGNED


def read_key(pem: str) -> PublicKey | None:
    """Read a public key on P-256, or None where it is not one."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, PublicKey) and isinstance(key.curve, ec.SECP256R1) else None
