"""Signed opaque cursors: made for one tenant, mode, list and filter, and good for nothing else."""

import base64
import binascii
import hashlib
import hmac

from kobiri.domain.errors import InvalidCursor
from kobiri.services.access import Caller

TAG_BYTES = 16


class Cursors:
    """Writes and reads cursors under a key that all processes share."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, caller: Caller, filters: str, position: str) -> str:
        """A cursor that stands behind `position` in the list that `filters` names."""
        tag = self._tag(caller, filters, position)
        return base64.urlsafe_b64encode(tag + position.encode()).decode().rstrip("=")

    def read(self, caller: Caller, filters: str, cursor: str) -> str:
        """The position. Raises InvalidCursor: tampered with, another tenant's, or for other filters."""
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            position = raw[TAG_BYTES:].decode()
        except (ValueError, binascii.Error):
            raise InvalidCursor from None
        if not hmac.compare_digest(raw[:TAG_BYTES], self._tag(caller, filters, position)):
            raise InvalidCursor("Use it with the same filters, and the key of the same tenant, as when you got it.")
        return position

    def _tag(self, caller: Caller, filters: str, position: str) -> bytes:
        text = f"{caller.tenant_id}\n{caller.mode}\n{filters}\n{position}"
        return hmac.digest(self._key, text.encode(), hashlib.sha256)[:TAG_BYTES]
