"""Secrets at rest: AES-256-GCM envelopes. Randomness is an argument.

A data key of its own seals each secret; a master key wraps the data key. What a secret belongs to is part of the
sealing, so that nothing opens in another's place. A new master key re-wraps the data keys and touches no secret.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES, NONCE_BYTES = 32, 12
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)

Random = Callable[[int], bytes]


class CannotOpen(Exception):
    """The master key is not there, or this is not what was sealed, or not where it was sealed. One sentence."""


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """By their ids. The first seals, all open."""

    by_id: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "MasterKeys":
        """Read "id:base64,id:base64". Raises ValueError with one sentence that shows no key."""
        found: dict[str, bytes] = {}
        for part in text.split(","):
            key_id, _, encoded = part.strip().partition(":")
            if not KEY_ID.fullmatch(key_id):
                raise ValueError("must be id:key pairs separated by commas, such as 2026:<base64 of 32 random bytes>")
            try:
                key = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                key = b""
            if len(key) != KEY_BYTES:
                raise ValueError(f"the key {key_id} must be the base64 of 32 random bytes: openssl rand -base64 32")
            if key_id in found:
                raise ValueError(f"the key id {key_id} stands there twice")
            found[key_id] = key
        return cls(found)

    @property
    def first(self) -> str:
        return next(iter(self.by_id))

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self.by_id)})"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is stored: the sealed secret, and its data key as the master key `key_id` wrapped it."""

    key_id: str
    wrapped_key: bytes
    sealed: bytes


def seal(keys: MasterKeys, secret: bytes, belongs_to: tuple[str, ...], random: Random) -> Envelope:
    """Seal a secret under a data key of its own."""
    data_key = random(KEY_BYTES)
    return Envelope(
        key_id=keys.first,
        wrapped_key=_encrypt(keys.by_id[keys.first], data_key, _associated("key", belongs_to), random),
        sealed=_encrypt(data_key, secret, _associated("secret", belongs_to), random),
    )


def open_(keys: MasterKeys, envelope: Envelope, belongs_to: tuple[str, ...]) -> bytes:
    """The secret. Raises CannotOpen."""
    return _decrypt(_data_key(keys, envelope, belongs_to), envelope.sealed, _associated("secret", belongs_to))


def rewrap(keys: MasterKeys, envelope: Envelope, belongs_to: tuple[str, ...], random: Random) -> Envelope:
    """The same secret under the first master key. Raises CannotOpen."""
    data_key = _data_key(keys, envelope, belongs_to)
    wrapped = _encrypt(keys.by_id[keys.first], data_key, _associated("key", belongs_to), random)
    return Envelope(keys.first, wrapped, envelope.sealed)


def _data_key(keys: MasterKeys, envelope: Envelope, belongs_to: tuple[str, ...]) -> bytes:
    master = keys.by_id.get(envelope.key_id)
    if master is None:
        raise CannotOpen(f"The master key {envelope.key_id} is not among those of KOBIRI_MASTER_KEYS.")
    return _decrypt(master, envelope.wrapped_key, _associated("key", belongs_to))


def _encrypt(key: bytes, plain: bytes, associated: bytes, random: Random) -> bytes:
    nonce = random(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, associated)


def _decrypt(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        raise CannotOpen("It was sealed by another key, for another place, or was changed since.") from None


def _associated(what: str, belongs_to: tuple[str, ...]) -> bytes:
    """Each part with its length, so that no two places share a form."""
    return b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in (what, *belongs_to))
