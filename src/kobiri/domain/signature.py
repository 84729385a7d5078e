"""X-Signature-256 of callbacks: sha256=<hex HMAC-SHA256 of the raw body>."""

import hashlib
import hmac
import re
from collections.abc import Sequence

# Matched before decoding: bytes.fromhex would take inner spaces and upper case.
FORM = re.compile(r"(?:sha256=)?([0-9a-f]{64})", re.ASCII)


def sign(body: bytes, secret: bytes) -> str:
    """The header's value for this body."""
    return "sha256=" + hmac.digest(secret, body, hashlib.sha256).hex()


def is_genuine(headers: Sequence[str], body: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether there is exactly one signature, and it was made with one of the secrets (two during a rotation)."""
    if len(headers) != 1:
        return False
    match = FORM.fullmatch(headers[0])
    if match is None:
        return False
    given = bytes.fromhex(match[1])
    genuine = False
    for secret in secrets:
        genuine |= bool(secret) and hmac.compare_digest(hmac.digest(secret, body, hashlib.sha256), given)
    return genuine
