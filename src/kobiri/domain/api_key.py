"""API keys: kob_live_<id>_<secret><checksum>.

The prefix lets secret scanners find a leaked key, the id is looked up, the checksum refuses typing errors without a
query, and the secret is stored as an HMAC under a pepper that is not in the database. A random secret of 256 bits
needs no slow hash.
"""

import hashlib
import hmac
import re
import zlib
from dataclasses import dataclass
from typing import Literal, cast

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12
SECRET_LENGTH = 43  # of 62 letters: 256 bits
CHECKSUM_LENGTH = 6

PATTERN = re.compile(r"kob_(live|test)_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", re.ASCII)

SCOPES = ("payments:read", "payments:write", "events:read")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in the clear: shown once, then known to its bearer alone."""

    mode: Literal["live", "test"]
    key_id: str
    secret: str

    @property
    def text(self) -> str:
        body = f"kob_{self.mode}_{self.key_id}_{self.secret}"
        return body + _checksum(body)

    def __repr__(self) -> str:
        return f"ApiKey({self.key_id})"


def parse(text: str) -> ApiKey | None:
    """Read a key; None when it cannot be one."""
    match = PATTERN.fullmatch(text)
    if match is None or _checksum(text[:-CHECKSUM_LENGTH]) != match[4]:
        return None
    return ApiKey(cast(Literal["live", "test"], match[1]), match[2], match[3])


def secret_hmac(key: ApiKey, pepper: bytes) -> bytes:
    """What the database keeps: 32 bytes. Mode and id are in it, so that no row can lend its secret to another."""
    return hmac.digest(pepper, f"{key.mode}.{key.key_id}.{key.secret}".encode(), hashlib.sha256)


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    letters = []
    for _ in range(CHECKSUM_LENGTH):
        number, rest = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[rest])
    return "".join(reversed(letters))
