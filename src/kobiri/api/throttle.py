"""Quotas: failed requests by source address, all others by tenant and by API key.

Whoever shows a valid key is counted as that tenant alone, so that a tenant's own higher limit means something and
shops behind one address do not block each other. In-process for now: each API process counts for itself.
"""

import math
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from kobiri.domain.errors import TooManyRequests
from kobiri.services.access import Caller


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left: `remaining` requests in the next `reset_s` seconds, of `limit` in `window_s`."""

    limit: int
    window_s: int
    remaining: int
    reset_s: int

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """RateLimit and RateLimit-Policy (IETF draft, state of September 2025)."""
        return [
            (b"ratelimit-policy", b'"default";q=%d;w=%d' % (self.limit, self.window_s)),
            (b"ratelimit", b'"default";r=%d;t=%d' % (self.remaining, self.reset_s)),
        ]


class QuotaUsedUp(TooManyRequests):
    """Carries the quota, for the answer tells it in its headers."""

    def __init__(self, quota: Quota) -> None:
        super().__init__(
            f"The limit of {quota.limit} requests in {quota.window_s} s is used up.", retry_after_s=quota.reset_s
        )
        self.quota = quota


class Throttle:
    """Windows of `ttl_ms` milliseconds; a limit of 0 switches everything off but the limits of tenants and keys."""

    def __init__(self, limit: int, ttl_ms: int) -> None:
        self._limit = limit
        self._window_s = max(1, math.ceil(ttl_ms / 1000))
        self._windows = FixedWindowRateLimiter(MemoryStorage())

    async def check_address(self, address: str) -> None:
        """Raises TooManyRequests while this address has used up its failures."""
        if self._limit:
            item, place = self._item(self._limit), _place(address)
            if not await self._windows.test(item, "address", place):
                raise QuotaUsedUp(await self._quota(item, "address", place))

    async def count_address(self, address: str) -> None:
        """Count a failure of this address."""
        if self._limit:
            await self._windows.hit(self._item(self._limit), "address", _place(address))

    async def count_caller(self, caller: Caller) -> Quota | None:
        """Count a request of this tenant and key; what is left of the narrower quota. Raises TooManyRequests."""
        quotas = []
        for limit, name, value in (
            (caller.key_throttle_limit, "key", caller.key_id),
            (caller.tenant_throttle_limit or self._limit, "tenant", caller.tenant_id),
        ):
            if limit:
                item = self._item(limit)
                if not await self._windows.hit(item, name, value):
                    raise QuotaUsedUp(await self._quota(item, name, value))
                quotas.append(await self._quota(item, name, value))
        return min(quotas, key=lambda quota: quota.remaining, default=None)

    def _item(self, limit: int) -> RateLimitItem:
        return RateLimitItemPerSecond(limit, self._window_s)

    async def _quota(self, item: RateLimitItem, name: str, value: str) -> Quota:
        stats = await self._windows.get_window_stats(item, name, value)
        reset_s = max(1, math.ceil(stats.reset_time - time.time()))
        return Quota(item.amount, self._window_s, stats.remaining, reset_s)


def _place(address: str) -> str:
    """Who is counted as one: an IPv4 address, or the /64 that an IPv6 customer has for himself."""
    try:
        source = ip_address(address)
    except ValueError:
        return address
    if isinstance(source, IPv4Address) or source.ipv4_mapped:
        return str(getattr(source, "ipv4_mapped", None) or source)
    return str(IPv6Network((source, 64), strict=False))
