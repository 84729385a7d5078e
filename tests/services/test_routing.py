"""Which road is taken, and why the others are not."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.breaker import IN_A_ROW, Trouble
from kobiri.domain.errors import AmountOutOfLimits, CountryNotServed, NoRoute, RouteClosed
from kobiri.domain.ids import AccountId, TenantId
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Kind
from kobiri.services.accounts import Loaded, TenantAccount
from kobiri.services.roads import Road
from kobiri.services.routing import REMEMBER_S, OwnRoads, Roads, Wanted, choose
from kobiri.store import switches
from kobiri.store.db import Database
from tests.services.scripted import Clock, Operator, make_spec
from tests.store.builders import make_payment

TENANT = TenantId("01935a1e-0000-7000-8000-000000000001")
WANTED = Wanted(TENANT, "collection", "mtn", "test", Money(1_000, "ZMW"), Msisdn("260961234567"))


def road(
    provider: str = "one",
    *,
    networks: tuple[str, ...] = ("mtn",),
    kinds: tuple[Kind, ...] = ("collection",),
    modes: tuple[str, ...] = ("live", "test"),
    currencies: tuple[str, ...] = ("ZMW",),
    countries: tuple[str, ...] | None = ("ZM",),
    circuit_open: bool = False,
    rests: bool = False,
    **more: Any,
) -> Road:
    operator = Operator(
        spec=make_spec(provider, networks=networks, kinds=kinds),
        modes=modes,
        currencies=currencies,
        countries=countries,
    )
    made = Road(operator, clock=Clock(), **more)
    if circuit_open:
        for _ in range(IN_A_ROW):
            made._breakers["send", "collection"].bad(0, 0.5)
    if rests:
        made._breakers["send", "collection"].open(0, 0.5, Trouble.REST)
    return made


def labels(roads: tuple[Road, ...]) -> list[str]:
    return [one.label for one in roads]


# --- the choice -----------------------------------------------------------------------------------------------------

UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("config", {"kinds": ("payout",)}, "does not offer collections"),
    ("config", {"modes": ("live",)}, "does not serve test mode"),
    ("config", {"currencies": ("USD", "EUR")}, "takes EUR, USD"),
    ("country", {"countries": ("UG", "KE")}, "serves numbers of KE, UG"),
    ("limits", {"limits_minor": (1_001, None)}, "takes 10.01 at least"),
    ("limits", {"limits_minor": (None, 999)}, "takes 9.99 at most"),
    ("limits", {"largest_minor": {"ZMW": 999}}, "takes 9.99 at most"),
    ("limits", {"largest_minor": {"ZMW": 999}, "limits_minor": (None, 10**9)}, "takes 9.99 at most"),
    ("limits", {"limits_minor": (None, 999), "largest_minor": {"ZMW": 10**9}}, "takes 9.99 at most"),
    ("closed", {"disabled_because": "keys leaked"}, "switched off: keys leaked"),
    ("closed", {"circuit_open": True}, "its circuit is open"),
    ("closed", {"rests": True}, "it asked for a rest"),
]


@pytest.mark.parametrize(("sort", "how", "reason"), UNFIT)
def test_each_road_that_is_not_taken_has_its_reason(sort: str, how: dict[str, Any], reason: str) -> None:
    route, sorts = choose([road("one", **how), road("two")], WANTED, {})
    assert labels(route.roads) == ["two"]
    assert route.passed_over == (f"one: {reason}",)
    assert sorts == {sort}


def test_an_account_of_a_tenants_own_is_named_by_its_id() -> None:
    route, _ = choose([road("one", account_id=AccountId("a1"), modes=())], WANTED, {})
    assert route.passed_over == ("one:a1: does not serve test mode",)


def test_a_road_to_other_wallets_is_not_even_mentioned() -> None:
    route, sorts = choose([road("one", networks=("airtel",)), road("two", networks=("airtel", "mtn"))], WANTED, {})
    assert (labels(route.roads), route.passed_over, sorts) == (["two"], (), frozenset())


@pytest.mark.parametrize("unfit", [{"modes": ("live",)}, {"currencies": ("USD",)}, {"kinds": ("payout",)}], ids=str)
def test_an_account_of_ones_own_for_something_else_leaves_the_platforms_open(unfit: dict[str, Any]) -> None:
    route, sorts = choose([road("one", account_id=AccountId("a1"), **unfit), road("one")], WANTED, {})
    assert (labels(route.roads), set(sorts)) == (["one"], {"config"})


def test_a_provider_that_is_switched_off_closes_all_its_accounts() -> None:
    roads = [road("one"), road("one", account_id=AccountId("a1")), road("two", account_id=AccountId("a2"))]
    route, sorts = choose(roads, WANTED, {"one": "fraud"})
    assert labels(route.roads) == ["two:a2"]
    assert route.passed_over == ("one:a1: switched off: fraud", "one: the merchant has accounts of its own")
    assert sorts == {"closed", "config"}


@pytest.mark.parametrize("limits", [(1_000, 1_000), (None, 1_000), (1_000, None), (None, None)])
def test_limits_include_their_ends(limits: tuple[int | None, int | None]) -> None:
    route, _ = choose([road(limits_minor=limits)], WANTED, {})
    assert len(route.roads) == 1


def test_the_lowest_priority_is_first_and_equals_keep_their_order() -> None:
    roads = [road("last", priority=9), road("second"), road("third"), road("first", priority=-1)]
    route, _ = choose(roads, WANTED, {})
    assert labels(route.roads) == ["first", "second", "third", "last"]


@dataclass(frozen=True)
class Seen:
    """A road as the property draws it; `open` is what the rules say of it, each rule once more in other words."""

    number: int
    network: str
    kind: Kind
    mode: str
    currency: str
    least: int | None
    most: int | None
    countries: tuple[str, ...] | None
    priority: int
    is_off: bool
    circuit_open: bool

    @property
    def reaches(self) -> bool:
        return self.network == WANTED.network

    @property
    def open(self) -> bool:
        fits = (self.kind, self.mode, self.currency) == ("collection", "test", "ZMW")
        fits = fits and (self.countries is None or "ZM" in self.countries)
        return fits and (self.least or 0) <= 1_000 <= (self.most or 10**9) and not self.is_off and not self.circuit_open

    def road(self) -> Road:
        return road(
            f"p{self.number}",
            networks=(self.network,),
            kinds=(self.kind,),
            modes=(self.mode,),
            currencies=(self.currency,),
            limits_minor=(self.least, self.most),
            countries=self.countries,
            priority=self.priority,
            circuit_open=self.circuit_open,
        )


def often(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 4 + list(others))


SEEN = st.builds(
    Seen,
    number=st.just(0),
    network=often("mtn", "airtel"),
    kind=often("collection", "payout"),
    mode=often("test", "live"),
    currency=often("ZMW", "USD"),
    least=often(None, 999, 1_000, 1_001),
    most=often(None, 999, 1_000, 1_001),
    countries=often(("ZM",), None, ("UG",), ("UG", "ZM")),
    priority=st.integers(-3, 3),
    is_off=often(False, True),
    circuit_open=often(False, True),
)


@given(st.lists(SEEN, max_size=8))
def test_the_open_roads_are_taken_in_order_and_all_others_that_reach_the_wallet_are_explained(
    drawn: list[Seen],
) -> None:
    seen = [replace(one, number=number) for number, one in enumerate(drawn)]
    off = {f"p{one.number}": "a reason" for one in seen if one.is_off}
    route, sorts = choose([one.road() for one in seen], WANTED, off)
    ordered = sorted((one for one in seen if one.reaches), key=lambda one: (one.priority, one.number))
    assert labels(route.roads) == [f"p{one.number}" for one in ordered if one.open]
    assert [line.split(": ")[0] for line in route.passed_over] == [f"p{one.number}" for one in ordered if not one.open]
    assert bool(sorts) is bool(route.passed_over)


# --- no road --------------------------------------------------------------------------------------------------------


async def test_no_account_that_serves_this_is_told_with_what_was_asked(db: Database) -> None:
    with pytest.raises(NoRoute, match=r"^No provider account collects ZMW from zamtel wallets in test mode\.$"):
        await Roads(db, [road()]).route(replace(WANTED, network="zamtel"))
    said = r"^No provider account pays out ZMW to mtn wallets in test mode \(one: does not offer payouts\)\.$"
    with pytest.raises(NoRoute, match=said):
        await Roads(db, [road()]).route(replace(WANTED, kind="payout"))


async def test_a_number_of_a_country_that_no_account_serves_is_told(db: Database) -> None:
    lebanese = replace(WANTED, wallet=Msisdn("9612345678"))
    roads = Roads(db, [road("one", circuit_open=True), road("two", limits_minor=(None, 1)), road("three", modes=())])
    with pytest.raises(CountryNotServed) as told:
        await roads.route(lebanese)
    assert told.value.detail == (
        "No provider account that collects ZMW from mtn wallets in test mode serves this number's country"
        " (one: serves numbers of ZM; two: serves numbers of ZM; three: does not serve test mode)."
    )
    with pytest.raises(RouteClosed):
        await Roads(db, [road("one"), road("two", countries=None, circuit_open=True)]).route(lebanese)
    assert labels((await Roads(db, [road("one"), road("two", countries=None)]).route(lebanese)).roads) == ["two"]


async def test_another_road_serves_the_number_too(db: Database) -> None:
    abroad, home = road("one", countries=("UG",)), road("two")
    assert (await Roads(db, [abroad, home]).another(make_payment(TENANT), [])).roads == (home,)


def test_an_own_account_in_another_country_does_not_close_the_platforms() -> None:
    own = road("one", account_id=AccountId("a1"), countries=("UG",))
    route, _ = choose([own, road("one")], WANTED, {})
    assert labels(route.roads) == ["one"]


async def test_an_amount_outside_all_limits_is_told_with_the_limits(db: Database) -> None:
    roads = Roads(
        db, [road("one", limits_minor=(5_000, None)), road("two", limits_minor=(None, 500)), road("x", modes=())]
    )
    with pytest.raises(AmountOutOfLimits) as told:
        await roads.route(WANTED)
    assert told.value.detail == (
        "No provider account that collects ZMW from mtn wallets in test mode takes this amount"
        " (one: takes 50.00 at least; two: takes 5.00 at most; x: does not serve test mode)."
    )


async def test_a_closed_road_is_told_as_what_may_be_open_again_soon(db: Database) -> None:
    roads = Roads(db, [road("one", circuit_open=True), road("two", limits_minor=(5_000, None))], closed=["three"])
    with pytest.raises(RouteClosed) as told:
        await roads.route(WANTED)
    assert told.value.detail == (
        "No road that collects ZMW from mtn wallets in test mode is open now"
        " (one: its circuit is open; two: takes 50.00 at least)."
    )
    assert told.value.retry_after_s == 10


async def test_one_open_road_is_enough_and_the_others_are_told_with_it(db: Database) -> None:
    route = await Roads(db, [road("one"), road("two")], closed=["one"]).route(WANTED)
    assert labels(route.roads) == ["two"]
    assert route.passed_over == ("one: switched off: by the settings",)


async def test_another_road_is_one_that_was_not_tried(db: Database) -> None:
    first, second, third = road("one"), road("two", circuit_open=True), road("three")
    roads = Roads(db, [first, second, third])
    payment = make_payment(TENANT)
    route = await roads.another(payment, [first])
    assert (labels(route.roads), route.passed_over) == (["three"], ("two: its circuit is open",))
    assert (await roads.another(payment, [first, third])).roads == ()
    assert (await roads.another(replace(payment, network="airtel"), [])).roads == ()


async def test_a_payment_belongs_to_the_account_that_it_names_and_to_no_other(db: Database) -> None:
    platform, own = road("one"), road("one", account_id=AccountId("a1"))
    roads = Roads(db, [platform, own])
    payment = make_payment(TENANT, provider="one")
    assert await roads.of_payment(payment) is platform
    assert await roads.of_payment(replace(payment, account_id=AccountId("a1"))) is own
    assert await roads.of_payment(replace(payment, account_id=AccountId("gone"))) is None
    assert await roads.of_payment(replace(payment, provider="two")) is None


# --- switches -------------------------------------------------------------------------------------------------------


async def turn(db: Database, provider: str, reason: str, *, is_open: bool) -> None:
    async with db.operator_transaction() as tx:
        await switches.turn(tx, provider, reason, is_open=is_open)


def pass_time(roads: Roads, seconds: float) -> None:
    """As if the switches had been read so much earlier."""
    roads._switches_read_at -= seconds


async def test_an_operators_switch_takes_effect_within_five_seconds_and_both_ways(db: Database) -> None:
    roads = Roads(db, [road("one"), road("two")])
    assert labels((await roads.route(WANTED)).roads) == ["one", "two"]
    await turn(db, "one", "they settle late", is_open=False)
    pass_time(roads, 5.0)
    route = await roads.route(WANTED)
    assert labels(route.roads) == ["two"]
    assert route.passed_over == ("one: switched off: they settle late",)
    await turn(db, "one", "all is well", is_open=True)
    pass_time(roads, 5.0)
    assert labels((await roads.route(WANTED)).roads) == ["one", "two"]


async def test_who_opens_a_provider_again_clears_what_each_process_holds_against_it(db: Database) -> None:
    """Even one that was open all the time; and every account at that provider, but no other provider's."""
    processes = []
    for _ in range(2):
        mine, theirs = road("one", circuit_open=True), road("two", circuit_open=True)
        own = OwnRoads(one_account, lambda _account: Operator(spec=make_spec("one")))
        processes.append((Roads(db, [mine, theirs], own=own), mine, theirs))
    for roads, *_ in processes:
        for one in await roads.of_tenant(TENANT):
            one._breakers["send", "collection"].open(0, 0.5, Trouble.REFUSED)
        with pytest.raises(RouteClosed):
            await roads.route(WANTED)
    await turn(db, "one", "the key is mended", is_open=True)
    for roads, mine, theirs in processes:
        pass_time(roads, 5.0)
        assert labels((await roads.route(WANTED)).roads) == ["one:a1"]
        assert mine.closed_because("collection") is None
        assert theirs.closed_because("collection") is not None
        mine._breakers["send", "collection"].open(0, 0.5)
        pass_time(roads, 5.0)
        await roads.switched_off()
        assert mine.closed_because("collection") is not None, "what comes after is not cleared"
        await turn(db, "one", "once more", is_open=True)
        pass_time(roads, 5.0)
        await roads.of_tenant(TENANT)
        assert mine.closed_because("collection") is None, "a worker that only asks hears of it too"
        await roads.close()


async def one_account(tenant_id: TenantId) -> Loaded:
    """A merchant with one account of its own."""
    account = TenantAccount(
        id=AccountId("a1"), tenant_id=tenant_id, provider="one", mode="test", name="main", base_url="",
        currency="ZMW", min_minor=None, max_minor=None, priority=1, version=1, values={}, callback_token="",
        webhook_secrets=(),
    )  # fmt: skip
    return Loaded([account])


async def test_roads_in_use_are_kept_however_many_tenants_there_are() -> None:
    """What is made anew forgets its tokens and open circuits, and every payment meets a broken provider again."""
    made: list[Operator] = []

    def make(_account: TenantAccount) -> Operator:
        made.append(Operator(spec=make_spec("one")))
        return made[-1]

    own = OwnRoads(one_account, make)
    tenants = [TenantId(str(number)) for number in range(1_500)]
    for _ in range(2):
        for tenant in tenants:
            await own.of_tenant(tenant)
            own._known[tenant].read_at -= REMEMBER_S
    assert len(made) == len(tenants)
    for tenant in tenants[:1_000]:
        own._known[tenant].read_at -= 1_000
    await own.of_tenant(tenants[-1])
    assert len(own._known) == 500, "who has not come for a quarter of an hour is forgotten"
    await own.close()
    assert all(operator.closed for operator in made)


async def test_an_account_that_is_enabled_again_begins_anew() -> None:
    disabled: list[str | None] = [None]

    async def accounts_of(tenant_id: TenantId) -> Loaded:
        (account,) = (await one_account(tenant_id)).accounts
        return Loaded([replace(account, disabled_reason=disabled[-1])])

    own = OwnRoads(accounts_of, lambda _account: Operator(spec=make_spec("one")))
    for reason in (None, "the key is changed", None):
        disabled.append(reason)
        ((only,), _) = await own.of_tenant(TENANT)
        if reason is not None:
            only._breakers["send", "collection"].open(0, 0.5)
        own._known[TENANT].read_at -= REMEMBER_S
    assert only.closed_because("collection") is None
    await own.close()


async def test_switches_are_read_once_in_five_seconds(db: Database) -> None:
    roads = Roads(db, [road("one")])
    began = time.monotonic()
    await roads.route(WANTED)
    await turn(db, "one", "they settle late", is_open=False)
    assert time.monotonic() - began < REMEMBER_S, "too slow to tell"
    await roads.route(WANTED)


async def test_what_the_settings_switch_off_no_operator_switches_on(db: Database) -> None:
    roads = Roads(db, [road("one")], closed=["one"])
    await turn(db, "one", "all is well", is_open=True)
    with pytest.raises(RouteClosed, match="by the settings"):
        await roads.route(WANTED)
