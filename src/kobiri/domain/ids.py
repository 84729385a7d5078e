"""Names for the identifiers that travel through the code, and their generators. All are canonical lower-case text."""

import re
from typing import NewType

import uuid_utils

CANONICAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

TenantId = NewType("TenantId", str)
PaymentId = NewType("PaymentId", str)
AccountId = NewType("AccountId", str)
EventId = NewType("EventId", str)
RequestId = NewType("RequestId", str)
ProviderReference = NewType("ProviderReference", str)
LeaseToken = NewType("LeaseToken", str)


def new_id() -> str:
    """UUIDv7: rows are stored about in the order in which they were made."""
    return str(uuid_utils.uuid7())


def new_provider_reference() -> ProviderReference:
    """UUIDv4, because MTN takes no other version."""
    return ProviderReference(str(uuid_utils.uuid4()))


def made_by_us(text: str) -> ProviderReference | None:
    """A reference that may be one of ours: a UUID of the version that ours have."""
    known = parse_id(text)
    return ProviderReference(known) if known and known[14] == "4" else None


def parse_id(text: str) -> str | None:
    """The canonical form of an id that a caller gave, or None when it cannot be one."""
    return text.lower() if CANONICAL.fullmatch(text) else None
