"""Which roads lead to a wallet now, in order, and why the others do not."""

import time
from collections.abc import Collection as Group
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kobiri.domain.errors import AmountOutOfLimits, NoRoute, RouteClosed
from kobiri.domain.ids import TenantId
from kobiri.domain.money import Money
from kobiri.domain.payment import Kind, Mode, Payment
from kobiri.services.roads import Road
from kobiri.store import switches
from kobiri.store.db import Database

RETRY_CLOSED_S = 10
VERBS: Mapping[Kind, str] = {
    "collection": "collects {} from",
    "payout": "pays out {} to",
    "refund": "refunds {} to",
}
REMEMBER_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A movement that looks for a road."""

    tenant_id: TenantId
    kind: Kind
    network: str
    mode: Mode
    money: Money


@dataclass(frozen=True, slots=True)
class Route:
    """The open roads, best first, and one line for each road that reaches the wallet and is not taken."""

    roads: tuple[Road, ...]
    passed_over: tuple[str, ...]


class Roads:
    """The roads of this process. `closed`: providers that the settings switch off."""

    def __init__(self, db: Database, platform: Sequence[Road], closed: Group[str] = ()) -> None:
        self._db = db
        self._platform = tuple(platform)
        self._closed = dict.fromkeys(closed, "by the settings")
        self._switches: Mapping[str, str] = {}
        self._switches_read_at = float("-inf")

    async def route(self, wanted: Wanted) -> Route:
        """Raises NoRoute (no account serves this), AmountOutOfLimits, or RouteClosed (none is open now)."""
        route, reasons = choose(await self.of_tenant(wanted.tenant_id), wanted, await self.switched_off())
        if route.roads:
            return route
        does = f"{VERBS[wanted.kind].format(wanted.money.currency)} {wanted.network} wallets in {wanted.mode} mode"
        told = f" ({'; '.join(route.passed_over)})" if route.passed_over else ""
        if "closed" in reasons:
            raise RouteClosed(f"No road that {does} is open now{told}.", retry_after_s=RETRY_CLOSED_S)
        if "limits" in reasons:
            raise AmountOutOfLimits(f"No provider account that {does} takes this amount{told}.")
        raise NoRoute(f"No provider account {does}{told}.")

    async def another(self, payment: Payment, tried: Group[Road]) -> Route:
        """The open roads for a payment that could not be sent by those that were tried."""
        wanted = Wanted(payment.tenant_id, payment.kind, payment.network, payment.mode, payment.money)
        untried = [road for road in await self.of_tenant(payment.tenant_id) if road not in tried]
        route, _ = choose(untried, wanted, await self.switched_off())
        return route

    async def of_payment(self, payment: Payment) -> Road | None:
        """The account that this payment uses, or None when there is no such account any more.

        It may point elsewhere by now (another fingerprint): then what it does not know proves nothing.
        """
        for road in await self.of_tenant(payment.tenant_id):
            if road.spec.id == payment.provider and road.account_id == payment.account_id:
                return road
        return None

    async def of_tenant(self, tenant_id: TenantId) -> Sequence[Road]:  # noqa: ARG002
        """The roads that this tenant may use."""
        return self._platform

    async def switched_off(self) -> Mapping[str, str]:
        """The providers that an operator or the settings switched off, with the reason; five seconds old at most."""
        now = time.monotonic()
        if now - self._switches_read_at >= REMEMBER_S:
            async with self._db.gate_transaction() as tx:
                self._switches = {**await switches.closed(tx), **self._closed}
            self._switches_read_at = now
        return self._switches

    def receiver(self, provider: str) -> Road | None:
        """The platform's account at a provider, by whose path a callback came in."""
        return next((road for road in self._platform if road.spec.id == provider), None)

    @property
    def longest_question_s(self) -> float:
        """The longest time that a question may take, over all accounts."""
        return max((road.account.answer_within_s for road in self._platform), default=10.0)

    async def close(self) -> None:
        for road in self._platform:
            await road.close()


def choose(roads: Sequence[Road], wanted: Wanted, switched_off: Mapping[str, str]) -> tuple[Route, frozenset[str]]:
    """The route, and of which sorts the refusals were: "config", "limits", "closed"."""
    taken: list[Road] = []
    passed_over: list[str] = []
    sorts: set[str] = set()
    for road in sorted(roads, key=lambda road: road.priority):
        if wanted.network not in road.spec.networks:
            continue
        refusal = _refusal(road, wanted, switched_off)
        if refusal is None:
            taken.append(road)
        else:
            sort, reason = refusal
            sorts.add(sort)
            passed_over.append(f"{road.label}: {reason}")
    return Route(tuple(taken), tuple(passed_over)), frozenset(sorts)


def _refusal(road: Road, wanted: Wanted, switched_off: Mapping[str, str]) -> tuple[str, str] | None:
    for sort, reason in (
        ("config", _unfit(road, wanted)),
        ("limits", _outside_limits(road, wanted.money)),
        ("closed", f"switched off: {switched_off[road.spec.id]}" if road.spec.id in switched_off else None),
        ("closed", road.closed_because(wanted.kind)),
    ):
        if reason is not None:
            return sort, reason
    return None


def _unfit(road: Road, wanted: Wanted) -> str | None:
    if wanted.kind not in road.spec.operations:
        return f"does not offer {wanted.kind}s"
    if wanted.mode not in road.account.modes:
        return f"does not serve {wanted.mode} mode"
    if wanted.money.currency not in road.provider.currencies:
        return f"takes {', '.join(sorted(road.provider.currencies))}"
    return None


def _outside_limits(road: Road, money: Money) -> str | None:
    least, most = road.limits_minor
    if least is not None and money.minor < least:
        return f"takes {Money(least, money.currency)} at least"
    if most is not None and money.minor > most:
        return f"takes {Money(most, money.currency)} at most"
    return None
