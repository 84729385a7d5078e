"""What will go wrong and when. Pure: the same seed, length and providers give the same plan."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from kobiri.domain.msisdn import ZAMBIA, ZAMBIAN_NETWORKS
from kobiri.providers import registry
from tests.chaos import lies
from tests.conftest import simulator_of
from tests.crash.pg_proxy import ATTEMPT, T1, T2, Decision, Moment

Target: TypeAlias = Literal["api", "server", "worker"]

CLIENTS = 10
FAULTS_EVERY_S, KILLS_EVERY_S, PAUSES_EVERY_S, RESTARTS_EVERY_S = 0.4, 5.0, 5.0, 15.0
CUTS_EVERY_S, STALLS_EVERY_S = 0.8, 0.4
STRANGEST = "strangest"  # how the names of these dialects begin
LONGEST_PROMPT_MS = 8_000
# Long enough to see what not-founds lead to, which needs minutes by design.
LONG_RUN_S, LONG_QUEUE_S = 300.0, 400.0
# Once more after two minutes: a question just before the sends have ended waits for the next (domain/schedule.py).
LEAST_REST_S = 300.0

PAGE = "<html><body><h1>Bad gateway</h1></body></html>"


@dataclass(frozen=True)
class Traits:
    """What the plan must know of a provider. `askable`: it has a status query.

    `strangest`: its strangest dialects. `doubtful`: those of them in which a failure is proven after minutes only.
    """

    provider: str
    networks: tuple[str, ...]
    askable: bool
    strangest: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProviderFault:
    """A fault of the simulators' control API, taken away again after a while."""

    at_s: float
    lasts_s: float
    fault: dict[str, Any]


@dataclass(frozen=True)
class Kill:
    """SIGKILL. `which`: a share of those that run, from 0 to 1."""

    at_s: float
    target: Target
    which: float


@dataclass(frozen=True)
class Pause:
    """SIGSTOP, and SIGCONT after a while."""

    at_s: float
    lasts_s: float
    target: Target
    which: float


@dataclass(frozen=True)
class Restart:
    """PostgreSQL's immediate shutdown, and its start after a while."""

    at_s: float
    lasts_s: float


@dataclass(frozen=True)
class Cut:
    """The next COMMIT of such a transaction loses its connection."""

    at_s: float
    statement: str
    moment: Moment
    decision: Decision


@dataclass(frozen=True)
class Stall:
    """The next T2 of somebody who has decided is held up before it is written, so that another may overtake it."""

    at_s: float
    lasts_s: float


Step: TypeAlias = ProviderFault | Kill | Pause | Restart | Cut | Stall


@dataclass(frozen=True)
class Plan:
    """`signed`: the providers whose callbacks are signed. Each client draws its orders from a seed of its own.

    `unwell`: None where nobody lies; else the providers that refuse everybody at times. `spoken`: each provider's
    dialect; empty where all speak as usual.
    """

    seed: int
    seconds: float
    steps: tuple[Step, ...]
    signed: frozenset[str]
    client_seeds: tuple[int, ...]
    prefixes: tuple[str, ...]
    unwell: frozenset[str] | None = None
    spoken: tuple[tuple[str, str], ...] = ()

    @property
    def send_within_s(self) -> int:
        """How long the gateway may send. Else for an hour: what never arrived is sent again, and all rests soon."""
        return 20 if self._concludes else 3_600

    @property
    def rest_within_s(self) -> float:
        """How long all may take to come to rest: two firm not-founds take seventeen minutes after the last send.

        Three soft ones take twelve, and so do three failures in doubt.
        """
        return 1_200.0 if self._concludes else max(LEAST_REST_S, self.seconds)

    @property
    def _concludes(self) -> bool:
        return (self.unwell is not None or bool(self.spoken)) and self.seconds >= LONG_RUN_S


def traits() -> tuple[Traits, ...]:
    """All providers of the registry that collect."""
    found = []
    for spec in (entry.spec for entry in registry.PROVIDERS):
        if "collection" not in spec.operations:
            continue
        strangest = {name: one for name, one in simulator_of(spec).DIALECTS.items() if name.startswith(STRANGEST)}
        found.append(
            Traits(
                provider=spec.id,
                networks=tuple(sorted(spec.networks)),
                askable=spec.operations["collection"].status_query != "none",
                strangest=tuple(strangest),
                doubtful=tuple(name for name, one in strangest.items() if one.doubtful),
            )
        )
    return tuple(found)


def make(seed: int, seconds: float, providers: Sequence[Traits], *, lying: bool = False, strange: bool = False) -> Plan:
    """`lying`: providers say what is not so, and nobody is killed; else they may be slow, lose and repeat.

    `strange`: each speaks its strangest dialect; of several, the seed draws one.
    """
    dice = random.Random(seed)
    networks = {network for each in providers for network in each.networks}
    first = [each.provider for each in providers if len(each.networks) == 1]
    others = [each.provider for each in providers if len(each.networks) != 1]
    unwell = lies.unwell(dice, first, others) if lying else None
    drawn = _said(dice, seconds, providers, unwell) if unwell is not None else _broken(dice, seconds, providers)
    steps = (
        step if isinstance(step, Kill | Cut) else replace(step, lasts_s=min(step.lasts_s, seconds - step.at_s))
        for step in drawn
    )
    # With dice of their own, so that the rest of a seed's plan is the same in every dialect.
    spoken = _spoken(random.Random(f"{seed} speaks"), seconds, providers) if strange else ()
    return Plan(
        seed=seed,
        seconds=seconds,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
        signed=frozenset(each.provider for each in providers if dice.random() < 0.5),
        client_seeds=tuple(dice.getrandbits(64) for _ in range(CLIENTS)),
        prefixes=tuple(ZAMBIA + prefix for prefix, network in ZAMBIAN_NETWORKS.items() if network in networks),
        unwell=unwell,
        spoken=tuple(spoken),
    )


def _spoken(dice: random.Random, seconds: float, providers: Sequence[Traits]) -> Iterator[tuple[str, str]]:
    """How each provider speaks all the time. What takes minutes to understand is said in a long run only."""
    for each in providers:
        choice = [name for name in each.strangest if seconds >= LONG_RUN_S or name not in each.doubtful]
        yield each.provider, dice.choice(choice)


def _broken(dice: random.Random, seconds: float, providers: Sequence[Traits]) -> list[Step]:
    return [
        *_spread(dice, seconds, FAULTS_EVERY_S, lambda at_s: _provider_fault(dice, at_s, dice.choice(providers))),
        *_spread(dice, seconds, KILLS_EVERY_S, lambda at_s: Kill(at_s, _target(dice), dice.random())),
        *_spread(dice, seconds, PAUSES_EVERY_S, lambda at_s: _pause(dice, at_s)),
        *_spread(dice, seconds, RESTARTS_EVERY_S, lambda at_s: Restart(at_s, dice.uniform(0.2, 2.5))),
        *_spread(dice, seconds, CUTS_EVERY_S, lambda at_s: _cut(dice, at_s)),
        *_spread(dice, seconds, STALLS_EVERY_S, lambda at_s: Stall(at_s, dice.uniform(0.3, 2.5))),
    ]


def _said(dice: random.Random, seconds: float, providers: Sequence[Traits], unwell: frozenset[str]) -> list[Step]:
    def about_a_payment(at_s: float) -> Step:
        chosen = dice.choice(providers)
        # Whatever lies in a queue is carried out before the operators are sane.
        queue_s = min(LONG_QUEUE_S, seconds - at_s) if seconds >= LONG_RUN_S else lies.SHORT_QUEUE_S
        return ProviderFault(at_s, 10.0, lies.about_a_payment(dice, chosen.provider, queue_s=queue_s))

    def to_everybody(at_s: float) -> Step:
        return ProviderFault(at_s, dice.uniform(1, 4), lies.to_everybody(dice, dice.choice(sorted(unwell))))

    return [
        *_spread(dice, seconds, lies.LIES_EVERY_S, about_a_payment),
        *_spread(dice, seconds, lies.UNWELL_EVERY_S, to_everybody),
    ]


def _spread(dice: random.Random, seconds: float, every_s: float, draw: Callable[[float], Step]) -> Iterator[Step]:
    at_s = every_s * dice.uniform(0.2, 0.8)
    while at_s < seconds:
        yield draw(at_s)
        at_s += every_s * dice.uniform(0.3, 1.7)


def _target(dice: random.Random) -> Target:
    return dice.choices(("api", "worker", "server"), (5, 4, 1))[0]


def _pause(dice: random.Random, at_s: float) -> Pause:
    lasts_s = dice.choice((dice.uniform(0.2, 1.5), dice.uniform(2, 5), dice.uniform(8, 14)))
    return Pause(at_s, lasts_s, dice.choice(("api", "worker")), dice.random())


def _cut(dice: random.Random, at_s: float) -> Cut:
    moment, decision = dice.choice(
        (
            (Moment.COMMIT, Decision.CUT),
            (Moment.COMMITTED, Decision.CUT),
            (Moment.COMMIT, Decision.HALF_OPEN),
        )
    )
    return Cut(at_s, dice.choice((T1, T1, T2, T2, ATTEMPT, "")), moment, decision)


# How often each is drawn, beside the others.
FAULT_WEIGHTS = {
    "latency": 3,
    "latency_after": 2,
    "error_before": 3,
    "error_after": 3,
    "drop_after": 3,
    "reset_before": 2,
    "reset_after": 3,
    "hang": 2,
    "outage": 1,
    "html_200": 2,
    "not_found_for": 3,
    "lost": 2,
    "duplicated": 2,
    "late": 2,
    "reordered": 2,
    "forged": 2,
    "unsigned": 1,
    "payer": 4,
    "late_success": 2,
}


def _provider_fault(dice: random.Random, at_s: float, provider: Traits) -> ProviderFault:
    kind = dice.choices(tuple(FAULT_WEIGHTS), tuple(FAULT_WEIGHTS.values()))[0]
    lasts_s = dice.uniform(1, 5) if kind in ("hang", "outage") else 10.0
    fault: dict[str, Any] = {"kind": kind, "provider": provider.provider}
    if kind != "outage":
        fault["times"] = dice.randint(1, 5)
    return ProviderFault(at_s, lasts_s, fault | _details(dice, kind, provider))


def _details(  # noqa: C901, PLR0911  # one return for each kind of fault
    dice: random.Random, kind: str, provider: Traits
) -> dict[str, Any]:
    """A provider may lose, delay and repeat its words; it never says that what it did was refused."""
    request = {"operation": dice.choice(("create", "create", "create", "status", "token"))}
    match kind:
        case "latency" | "latency_after":
            return request | {"ms": dice.choice((dice.randint(20, 800), dice.randint(1_000, 6_000)))}
        case "error_before":
            return request | _error(dice, (401, 429, 500, 502, 503, 504))
        case "error_after":
            return request | _error(dice, (500, 502, 503, 504))
        case "hang" | "html_200":
            return request | {"processed": dice.random() < 0.5}
        case "drop_after" | "reset_before" | "reset_after":
            return request
        case "outage":
            return {"mode": dice.choice(("503", "reset"))}
        case "not_found_for":
            return {"ms": dice.randint(500, 6_000)}
        case "duplicated":
            return {"copies": dice.randint(1, 3), "spacing_ms": dice.randint(0, 500)}
        case "late" | "reordered" | "forged":
            return {"ms": dice.randint(0, 3_000)}
        case "payer":
            # One who never answers is only told apart from a slow one where nobody can ask.
            never = () if provider.askable else ("ignore",)
            decisions = ("approve", "reject", "expire", "no_funds", "fail", *never)
            return {"decision": dice.choice(decisions), "prompt_ms": dice.randint(0, LONGEST_PROMPT_MS)}
        case "late_success":
            return {"ms": dice.randint(1_000, LONGEST_PROMPT_MS)}
        case _:
            return {}


def _error(dice: random.Random, statuses: tuple[int, ...]) -> dict[str, Any]:
    status = dice.choice(statuses)
    rest = {"retry_after_s": 1} if status in (429, 503) and dice.random() < 0.5 else {}
    strange = dice.choice(({}, {}, {"body": ""}, {"body": "{"}, {"body": PAGE, "content_type": "text/html"}))
    return {"status": status, **rest, **strange}
