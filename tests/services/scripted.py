"""A provider that says what the test tells it to, in the operator's place: nothing goes over any wire."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal

from kobiri.domain.ids import ProviderReference, new_provider_reference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Finding, Outcome
from kobiri.domain.payment import Kind
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    CallbackWord,
    Checked,
    Collection,
    Operation,
    ProviderSpec,
    Request,
    Unreadable,
)

PATIENCE_S = 30


class Clock:
    """Monotonic seconds that pass when the test says so: by `now`, or by `step` at each look."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@dataclass(frozen=True)
class Called:
    """One call that a provider got. `at` is the real monotonic time."""

    reference: ProviderReference
    within_s: float
    first_byte_before: float | None
    at: float
    kind: Kind | None = None


class Operator:
    """Plays its outcomes in order, then the last one again and again. A callable is asked what to say."""

    def __init__(
        self,
        *outcomes: Outcome | Callable[[], Awaitable[Outcome]],
        finds: Finding = Accepted(),  # noqa: B008  # a frozen value
        spec: ProviderSpec | None = None,
        answer_within_s: float = 10.0,
        modes: Iterable[str] = ("live", "test"),
        currencies: Iterable[str] = ("ZMW",),
        countries: Iterable[str] | None = ("ZM",),
    ) -> None:
        self.outcomes = deque(outcomes or (Accepted(),))
        self.finding: Finding | Callable[[], Awaitable[Finding]] = finds
        self.checked: asyncio.Queue[str | None] = asyncio.Queue()
        self.sent: list[Called] = []
        self.found: list[Called] = []
        self.checks = 0
        self.checked_for: list[Kind | None] = []
        self.closed = False
        self._spec = spec or make_spec()
        self._currencies = frozenset(currencies)
        self._countries = None if countries is None else frozenset(countries)
        self._account = Account(
            base_url="http://operator.test",
            modes=frozenset(modes),
            values={},
            callback_url=None,
            webhook_secrets=(),
            answer_within_s=answer_within_s,
            deadline_s=answer_within_s,
            max_connections=1,
        )

    @property
    def spec(self) -> ProviderSpec:
        return self._spec

    @property
    def account(self) -> Account:
        return self._account

    def fingerprint_of(self, kind: Kind) -> str:
        return f"{self._spec.id}@scripted"

    @property
    def currencies(self) -> frozenset[str]:
        return self._currencies

    @property
    def countries(self) -> frozenset[str] | None:
        return self._countries

    @property
    def passes(self) -> Counter[ProviderReference]:
        """How often each reference was sent."""
        return Counter(call.reference for call in self.sent)

    async def send(self, request: Request, *, within_s: float, first_byte_before: float | None) -> Outcome:
        self.sent.append(Called(request.reference, within_s, first_byte_before, monotonic()))
        said = self.outcomes.popleft() if len(self.outcomes) > 1 else self.outcomes[0]
        return await said() if callable(said) else said

    async def find(self, kind: Kind, reference: ProviderReference, *, within_s: float) -> Finding:
        self.found.append(Called(reference, within_s, None, monotonic(), kind))
        return await self.finding() if callable(self.finding) else self.finding

    async def check(self, kind: Kind | None = None, *, within_s: float) -> Checked:
        self.checks += 1
        self.checked_for.append(kind)
        return Checked(await self.checked.get())

    async def verify(self, callback: Callback) -> Authenticity:
        return Authenticity.UNSIGNED

    def read_callback(self, callback: Callback) -> CallbackWord:
        raise Unreadable("This provider posts nothing.")

    async def close(self) -> None:
        self.closed = True


def make_spec(
    provider: str = "scripted",
    *,
    dedupes: bool = True,
    repeats: bool | None = None,
    status_query: Literal["none", "soft", "firm"] = "soft",
    networks: Iterable[str] = ("mtn",),
    kinds: Iterable[Kind] = ("collection",),
    status_reads_per_s: float | None = None,
) -> ProviderSpec:
    operation = Operation(
        dedupes=dedupes,
        repeats=dedupes if repeats is None else repeats,
        status_query=status_query,
        partial=False,
        needs=(),
    )
    return ProviderSpec(
        id=provider,
        name=provider,
        base_url="http://operator.test",
        known_mode=lambda _url: None,
        networks=frozenset(networks),
        operations=dict.fromkeys(kinds, operation),
        signs_callbacks=False,
        fields=(),
        answer_within_s=10,
        deadline_s=None,
        status_reads_per_s=status_reads_per_s,
    )


PAYERS = itertools.count(260_961_000_000)


def order(**but: Any) -> Collection:
    """K10 from somebody else each time, under a reference of its own."""
    asked = Collection(new_provider_reference(), Money(1_000, "ZMW"), Msisdn(str(next(PAYERS))), "mtn", None)
    return replace(asked, **but)


async def comes_true(condition: Callable[[], bool]) -> None:
    """Let the others run until it holds."""
    deadline = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline, "it never came true"
        await asyncio.sleep(0)
