"""Turn an API key into a caller. Revocation, suspension and new limits take effect within five seconds."""

import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

import structlog

from kobiri.domain import api_key
from kobiri.domain.errors import AddressNotAllowed, KobiriError, Unauthenticated
from kobiri.domain.ids import TenantId
from kobiri.domain.payment import Mode
from kobiri.store import tenants
from kobiri.store.db import Database
from kobiri.store.tenants import KeyOwner

log = structlog.get_logger(__name__)

REMEMBER_S = 5.0
REMEMBER_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: one API key of one tenant, in one mode. Limits are requests per throttle window; None: the default."""

    tenant_id: TenantId
    slug: str
    mode: Mode
    scopes: frozenset[str]
    key_id: str
    suspended: bool
    tenant_throttle_limit: int | None
    key_throttle_limit: int | None


class Access:
    """The keys that were seen lately."""

    def __init__(self, db: Database, pepper: bytes) -> None:
        self._db = db
        self._pepper = pepper
        self._owners: OrderedDict[str, tuple[float, KeyOwner | None]] = OrderedDict()
        self._used: set[str] = set()

    async def authenticate(self, text: str | None, address: str) -> Caller:
        """The bearer of this key. Raises Unauthenticated without saying what was wrong, or AddressNotAllowed."""
        key = api_key.parse(text) if text else None
        if key is None:
            raise Unauthenticated
        owner = await self._owner(key.key_id)
        expected = owner.secret_hmac if owner else bytes(32)
        # Compared for unknown ids too: the time must not tell which ids exist.
        genuine = hmac.compare_digest(api_key.secret_hmac(key, self._pepper), expected)
        if owner is None or not genuine or owner.mode != key.mode or _is_over(owner):
            raise Unauthenticated
        if owner.allowed_addresses and not _is_within(address, owner):
            raise AddressNotAllowed
        self._used.add(key.key_id)
        return Caller(
            tenant_id=owner.tenant_id,
            slug=owner.slug,
            mode=owner.mode,
            scopes=owner.scopes,
            key_id=key.key_id,
            suspended=owner.tenant_status != "active",
            tenant_throttle_limit=owner.tenant_throttle_limit,
            key_throttle_limit=owner.throttle_limit,
        )

    async def note_use(self) -> None:
        """Write down which keys were used since the last call; run about once a minute.

        Raises nothing: what could not be written is tried again with the next call.
        """
        used, self._used = sorted(self._used), set()
        if not used:
            return
        try:
            async with self._db.gate_transaction() as tx:
                await tenants.note_key_use(tx, used)
        except KobiriError as error:
            log.warning("access.use_not_noted", code=error.code)
            self._used.update(used)
        except Exception:
            log.exception("access.note_use_crashed")
            self._used.update(used)

    async def _owner(self, key_id: str) -> KeyOwner | None:
        now = time.monotonic()
        known = self._owners.get(key_id)
        if known is not None and known[0] > now:
            return known[1]
        async with self._db.gate_transaction() as tx:
            owner = await tenants.find_key(tx, key_id)
        self._owners[key_id] = (now + REMEMBER_S, owner)
        self._owners.move_to_end(key_id)
        if len(self._owners) > REMEMBER_KEYS:
            self._owners.popitem(last=False)
        return owner


def _is_over(owner: KeyOwner) -> bool:
    return owner.revoked_at is not None or (owner.expires_at is not None and owner.expires_at <= datetime.now(UTC))


def _is_within(address: str, owner: KeyOwner) -> bool:
    try:
        source = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(source, "ipv4_mapped", None)
    return any((mapped or source) in network for network in owner.allowed_addresses)
