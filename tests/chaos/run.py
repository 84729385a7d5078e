"""One run: chaos for a while, then calm, rest and the invariants."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos import checks, plan, stack
from tests.chaos.clients import Crowd, orders
from tests.crash.invariants import Broken

Tell = Callable[[str, float], None]  # what is done now, and the share of the run's time that is over


@dataclass(frozen=True)
class Report:
    """What happened. `rested_s`: how long after the last fault all was at rest; None: it was not in time."""

    seed: int
    seconds: float
    lying: bool
    spoken: dict[str, str]
    payments: dict[str, dict[str, int]]
    faults: dict[str, int]
    hurt: dict[str, int]
    clients: dict[str, int]
    rested_s: float | None
    invariants: tuple[str, ...]
    broken: tuple[Broken, ...]
    histories: dict[str, dict[str, Any]]

    @property
    def made(self) -> int:
        return sum(sum(counts.values()) for counts in self.payments.values())

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"made": self.made}


async def run(
    seed: int,
    seconds: float,
    folder: Path,
    tell: Tell = lambda _what, _share: None,
    *,
    lying: bool = False,
    strange: bool = False,
) -> Report:
    """Everything stops by itself: the chaos after `seconds`, the rest within a bound."""
    made = plan.make(seed, seconds, plan.traits(), lying=lying, strange=strange)
    tell("Starting …", 0)
    async with stack.running(folder, made) as site:
        crowd = Crowd(site.urls)
        supervisor = asyncio.create_task(site.supervise())
        try:
            await _chaos(made, site, crowd, tell)
            tell("Waiting for rest …", 1)
            found, rested_s = await checks.everything(site, crowd, made.rest_within_s)
            return Report(
                seed=seed,
                seconds=seconds,
                lying=lying,
                spoken=dict(made.spoken),
                payments={name: dict(counts) for name, counts in (await checks.by_status(site)).items()},
                faults=dict(site.faults.most_common()),
                hurt={**site.counts, "cut commits": site.cut_commits},
                clients=dict(crowd.counts),
                rested_s=rested_s,
                invariants=checks.LYING_NAMES if lying else checks.NAMES,
                broken=tuple(found),
                histories=await checks.histories(site, found),
            )
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
            await crowd.close()


async def _chaos(made: plan.Plan, site: stack.Site, crowd: Crowd, tell: Tell) -> None:
    began = time.monotonic()
    until, give_up_at = began + made.seconds, began + made.seconds + plan.LEAST_REST_S
    async with asyncio.TaskGroup() as group:
        for number, seed in enumerate(made.client_seeds):
            caller = site.callers[number % len(site.callers)]
            group.create_task(crowd.buy(caller, orders(seed, made.prefixes), until, give_up_at))
        group.create_task(_then_calm(made, site, began))
        while (gone_s := time.monotonic() - began) < made.seconds:
            tell(f"Chaos: {len(crowd.asked)} payments, {crowd.counts['repeats']} repeats", gone_s / made.seconds)
            await asyncio.sleep(0.2)


async def _then_calm(made: plan.Plan, site: stack.Site, began: float) -> None:
    await site.carry_out(made, began)
    await asyncio.sleep(max(0.0, began + made.seconds - time.monotonic()))
    await site.calm()
