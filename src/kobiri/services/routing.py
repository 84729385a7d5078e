"""Which roads lead to a wallet now, in order, and why the others do not."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Group
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from kobiri.domain.errors import AmountOutOfLimits, CountryNotServed, NoRoute, RouteClosed
from kobiri.domain.ids import AccountId, TenantId
from kobiri.domain.money import LARGEST_MINOR, Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Kind, Mode, Payment
from kobiri.services.accounts import Loaded, Make, TenantAccount
from kobiri.services.roads import Road
from kobiri.store import switches
from kobiri.store.db import Database

log = structlog.get_logger(__name__)

RETRY_CLOSED_S = 10
VERBS: Mapping[Kind, str] = {
    "collection": "collects {} from",
    "payout": "pays out {} to",
    "refund": "refunds {} to",
}
REMEMBER_S = 5.0
FORGET_AFTER_S = 900.0  # a road in use keeps its tokens and circuits, however many tenants there are: 10 KB each
CLOSING_MARGIN_S = 10.0  # after the longest call of an account that was replaced

AccountsOf = Callable[[TenantId], Awaitable[Loaded]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A movement that looks for a road. `wallet`: the number of its payer or payee."""

    tenant_id: TenantId
    kind: Kind
    network: str
    mode: Mode
    money: Money
    wallet: Msisdn


@dataclass(frozen=True, slots=True)
class Route:
    """The open roads, best first, and one line for each road that reaches the wallet and is not taken."""

    roads: tuple[Road, ...]
    passed_over: tuple[str, ...]


@dataclass(slots=True)
class _Own:
    """The roads of one merchant's own accounts, as they were when last read."""

    read_at: float
    unopened: frozenset[Mode] = frozenset()
    roads: dict[AccountId, tuple[int, Road]] = field(default_factory=dict)


class OwnRoads:
    """The roads of the merchants' own accounts: made when first wanted, and kept while their account is unchanged."""

    def __init__(
        self, accounts_of: AccountsOf, make: Make, *, largest_minor: Mapping[str, int] = LARGEST_MINOR
    ) -> None:
        self._accounts_of = accounts_of
        self._make = make
        self._largest_minor = largest_minor
        self._known: OrderedDict[TenantId, _Own] = OrderedDict()
        self._reading: dict[TenantId, asyncio.Task[_Own]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def of_tenant(self, tenant_id: TenantId) -> tuple[list[Road], frozenset[Mode]]:
        """The roads, and the modes of accounts that do not open; five seconds old at most.

        All who ask at once share one look.
        """
        own = self._known.get(tenant_id)
        if own is None or time.monotonic() - own.read_at >= REMEMBER_S:
            reading = self._reading.get(tenant_id)
            if reading is None:
                reading = self._reading[tenant_id] = asyncio.create_task(self._read(tenant_id))
                reading.add_done_callback(lambda _: self._reading.pop(tenant_id, None))
            own = await asyncio.shield(reading)
        return [road for _, road in own.roads.values()], own.unopened

    async def close(self) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for own in self._known.values():
            for _, road in own.roads.values():
                await road.close()

    async def _read(self, tenant_id: TenantId) -> _Own:
        loaded = await self._accounts_of(tenant_id)
        before = self._known.get(tenant_id) or _Own(0.0)
        now, roads, unopened = time.monotonic(), dict[AccountId, tuple[int, Road]](), set(loaded.unopened)
        for account in loaded.accounts:
            version, road = before.roads.get(account.id, (0, None))
            if road is None or version != account.version:
                road = self._road(account)
            if road is not None:
                if road.disabled_because is not None and account.disabled_reason is None:
                    road.reset()
                road.disabled_because = account.disabled_reason
                roads[account.id] = (account.version, road)
            elif account.disabled_reason is None:
                unopened.add(account.mode)
        own = _Own(now, frozenset(unopened), roads)
        kept = {id(road) for _, road in own.roads.values()}
        self._close_later(road for _, road in before.roads.values() if id(road) not in kept)
        self._known[tenant_id] = own
        self._known.move_to_end(tenant_id)
        while now - next(iter(self._known.values())).read_at > FORGET_AFTER_S:
            _, forgotten = self._known.popitem(last=False)
            self._close_later(road for _, road in forgotten.roads.values())
        return own

    def _road(self, account: TenantAccount) -> Road | None:
        """The road of an account, or None where it does not open: what is missing then must not look like no account.

        A provider that is not there any more, a field that it needs since an upgrade, another mode or currency.
        """
        provider = None
        try:
            provider = self._make(account)
            fault = None if provider is not None else "its provider is unknown here, or needs a field that it has not"
        # Any exception at all: whatever it is, it must not send the merchant's money to the platform's account.
        except Exception as error:  # noqa: BLE001
            fault = type(error).__name__
        if provider is None:
            log.warning("account.not_opened", account_id=account.id, tenant_id=account.tenant_id, reason=fault)
            return None
        road = Road(
            provider,
            account_id=account.id,
            priority=account.priority,
            limits_minor=(account.min_minor, account.max_minor),
            largest_minor=self._largest_minor,
        )
        serves = account.mode in provider.account.modes and account.currency in provider.currencies and road.kinds
        if serves:
            return road
        log.warning(
            "account.not_opened",
            account_id=account.id,
            tenant_id=account.tenant_id,
            reason="its provider serves no more what it was stored for",
        )
        self._close_later([road])
        return None

    def of_provider(self, provider: str) -> Iterable[Road]:
        """All roads there are to one provider now, of whichever tenant."""
        return [road for own in self._known.values() for _, road in own.roads.values() if road.spec.id == provider]

    def _close_later(self, roads: Iterable[Road]) -> None:
        """Calls that are open go on to their end."""

        async def close(road: Road) -> None:
            try:
                await asyncio.sleep(road.account.deadline_s + CLOSING_MARGIN_S)
            finally:
                await road.close()

        for road in roads:
            task = asyncio.create_task(close(road))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class Roads:
    """The roads of this process. `closed`: providers that the settings switch off. `own` None: platform's alone.

    `longest_question_s`: the longest time that a question may take, over all accounts there may be. `only`: new money
    goes by this account (its provider and id) or by none.
    """

    def __init__(
        self,
        db: Database,
        platform: Sequence[Road],
        closed: Group[str] = (),
        own: OwnRoads | None = None,
        *,
        longest_question_s: float = 10.0,
        only: tuple[str, AccountId | None] | None = None,
    ) -> None:
        self.longest_question_s = longest_question_s
        self._only = only
        self._db = db
        self._platform = tuple(platform)
        self._own = own
        self._closed = dict.fromkeys(closed, "by the settings")
        self._switches: Mapping[str, str] = {}
        self._opened_at: Mapping[str, datetime] = {}
        self._switches_read_at = float("-inf")

    async def route(self, wanted: Wanted) -> Route:
        """Raises NoRoute, CountryNotServed, AmountOutOfLimits (no account serves it), RouteClosed (none is open)."""
        route, reasons = await self._choose(wanted)
        if route.roads:
            return route
        does = f"{VERBS[wanted.kind].format(wanted.money.currency)} {wanted.network} wallets in {wanted.mode} mode"
        told = f" ({'; '.join(route.passed_over)})" if route.passed_over else ""
        if "closed" in reasons:
            raise RouteClosed(f"No road that {does} is open now{told}.", retry_after_s=RETRY_CLOSED_S)
        if "limits" in reasons:
            raise AmountOutOfLimits(f"No provider account that {does} takes this amount{told}.")
        if "country" in reasons:
            raise CountryNotServed(f"No provider account that {does} serves this number's country{told}.")
        raise NoRoute(f"No provider account {does}{told}.")

    async def another(self, payment: Payment, tried: Group[Road]) -> Route:
        """The open roads for a payment that could not be sent by those that were tried."""
        wanted = Wanted(payment.tenant_id, payment.kind, payment.network, payment.mode, payment.money, payment.payer)
        route, _ = await self._choose(wanted)
        return Route(tuple(road for road in route.roads if road not in tried), route.passed_over)

    async def of_payment(self, payment: Payment) -> Road | None:
        """The account that this payment uses, or None when there is no such account any more.

        It may point elsewhere by now (another fingerprint): then what it does not know proves nothing.
        """
        return await self.of_account(payment.tenant_id, payment.provider, payment.account_id)

    async def of_account(self, tenant_id: TenantId, provider: str, account_id: AccountId | None) -> Road | None:
        """A merchant's own account, or (None) the platform's at this provider."""
        for road in await self.of_tenant(tenant_id):
            if road.spec.id == provider and road.account_id == account_id:
                return road
        return None

    async def of_tenant(self, tenant_id: TenantId) -> Sequence[Road]:
        """The roads that this tenant may use: its own accounts' first, then the platform's."""
        await self.switched_off()  # who only asks shall hear of an operator's word too
        own, _ = await self._own.of_tenant(tenant_id) if self._own else ([], frozenset())
        return (*own, *self._platform)

    async def _choose(self, wanted: Wanted) -> tuple[Route, frozenset[str]]:
        own, unopened = await self._own.of_tenant(wanted.tenant_id) if self._own else ([], frozenset())
        switched_off = await self.switched_off()
        route, sorts = choose([*own, *self._platform], wanted, switched_off, own_unopened=wanted.mode in unopened)
        return (route if self._only is None else _by(self._only, route)), sorts

    async def switched_off(self) -> Mapping[str, str]:
        """The providers that an operator or the settings switched off, with the reason; five seconds old at most."""
        now = time.monotonic()
        if now - self._switches_read_at >= REMEMBER_S:
            async with self._db.gate_transaction() as tx:
                self._switches = {**await switches.closed(tx), **self._closed}
                opened_at = await switches.opened(tx)
            self._switches_read_at = now
            for provider in {name for name, at in opened_at.items() if at != self._opened_at.get(name)}:
                self._reset(provider)
            self._opened_at = opened_at
        return self._switches

    def _reset(self, provider: str) -> None:
        own = self._own.of_provider(provider) if self._own else ()
        for road in (*own, *(road for road in self._platform if road.spec.id == provider)):
            road.reset()

    def receiver(self, provider: str) -> Road | None:
        """The platform's account at a provider, by whose path a callback came in."""
        return next((road for road in self._platform if road.spec.id == provider), None)

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close()
        for road in self._platform:
            await road.close()


def choose(
    roads: Sequence[Road], wanted: Wanted, switched_off: Mapping[str, str], *, own_unopened: bool = False
) -> tuple[Route, frozenset[str]]:
    """The route, and of which sorts the refusals were: "config", "country", "limits", "closed".

    A merchant's money never lands in another's account because its own is down: with an account of its own that
    serves this, the platform's are no road for it (docs/decisions/0015). `own_unopened`: one of its own accounts does
    not open, and might be the one.
    """
    taken: list[Road] = []
    passed_over: list[str] = []
    sorts: set[str] = set()
    reaching = [road for road in roads if wanted.network in road.spec.networks]
    has_own = any(
        road.account_id and not road.disabled_because and not _unfit(road, wanted) and not _foreign(road, wanted)
        for road in reaching
    )
    for road in sorted(reaching, key=lambda road: (road.account_id is None, road.priority)):
        refusal = _refusal(road, wanted, switched_off)
        if road.account_id is None and own_unopened:
            refusal = ("closed", "an account of the merchant's own cannot be opened")
        elif road.account_id is None and has_own:
            refusal = ("config", "the merchant has accounts of its own")
        if refusal is None:
            taken.append(road)
        else:
            sort, reason = refusal
            sorts.add(sort)
            passed_over.append(f"{road.label}: {reason}")
    return Route(tuple(taken), tuple(passed_over)), frozenset(sorts)


def _by(only: tuple[str, AccountId | None], route: Route) -> Route:
    """The route where one account alone may be used: among those that may be, never in their place."""
    others = tuple(f"{road.label}: not asked for" for road in route.roads if (road.spec.id, road.account_id) != only)
    return Route(
        tuple(road for road in route.roads if (road.spec.id, road.account_id) == only), (*route.passed_over, *others)
    )


def _refusal(road: Road, wanted: Wanted, switched_off: Mapping[str, str]) -> tuple[str, str] | None:
    for sort, reason in (
        ("config", _unfit(road, wanted)),
        ("country", _foreign(road, wanted)),
        ("limits", _outside_limits(road, wanted.money)),
        ("closed", f"switched off: {switched_off[road.spec.id]}" if road.spec.id in switched_off else None),
        ("closed", road.closed_because(wanted.kind)),
    ):
        if reason is not None:
            return sort, reason
    return None


def _unfit(road: Road, wanted: Wanted) -> str | None:
    if wanted.kind not in road.kinds:
        return f"does not offer {wanted.kind}s"
    if wanted.mode not in road.account.modes:
        return f"does not serve {wanted.mode} mode"
    if wanted.money.currency not in road.provider.currencies:
        return f"takes {', '.join(sorted(road.provider.currencies))}"
    return None


def _foreign(road: Road, wanted: Wanted) -> str | None:
    countries = road.provider.countries
    if countries is None or wanted.wallet.country in countries:
        return None
    return f"serves numbers of {', '.join(sorted(countries))}"


def _outside_limits(road: Road, money: Money) -> str | None:
    least, most = road.limits(money.currency)
    if least is not None and money.minor < least:
        return f"takes {Money(least, money.currency)} at least"
    if most is not None and money.minor > most:
        return f"takes {Money(most, money.currency)} at most"
    return None
