"""The loop: claim what is due, resume each payment, run the periodic tasks, and stop without dropping anything."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from kobiri.domain.allowance import Pace
from kobiri.domain.errors import KobiriError
from kobiri.services import checking
from kobiri.services.gateway import Gateway
from kobiri.store.db import LockTimeout
from kobiri.store.payments import Claim
from kobiri.worker.tasks import Task

log = structlog.get_logger(__name__)

BUSY_S = 0.02
IDLE_S = 1.0
TROUBLE_S = 2.0

# Questions about final payments, which any stranger may cause, have a few places of their own and a pace of their own:
# with those about earlier roads half of what the slowest provider wants to be asked.
PLACES_FOR_ONE_FINAL = 10  # so many places for others mean one more for these
FINAL_PER_S = 3.0


async def run(
    gateway: Gateway, tasks: Sequence[Task], stop: asyncio.Event, *, concurrency: int, grace_s: float
) -> None:
    """Work until `stop` is set; then claim nothing more and finish what is at hand within `grace_s` seconds."""
    log.info("worker.started", concurrency=concurrency)
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(_repeat(task, stop))
        group.create_task(_resume_due(gateway, stop, concurrency, grace_s))
    log.info("worker.stopped")


async def _resume_due(gateway: Gateway, stop: asyncio.Event, concurrency: int, grace_s: float) -> None:
    pause_s = BUSY_S
    about_final: set[asyncio.Task[None]] = set()
    pace = Pace(FINAL_PER_S)
    while not stop.is_set():
        about_final = {task for task in about_final if not task.done()}
        room = concurrency - gateway.calls.running + len(about_final)
        claims = await _claim(checking.claim_due, gateway, room, stop) if room > 0 else []
        for claim in claims:
            gateway.calls.start(_resume(gateway, claim))
        if len(claims) < room and len(about_final) < max(concurrency // PLACES_FOR_ONE_FINAL, 1) and _is_time(pace):
            final = await _claim(checking.claim_final, gateway, 1, stop)
            about_final |= {gateway.calls.start(_resume(gateway, claim)) for claim in final}
            claims += final
        # Twice as slow after each look that found nothing, and at once again after one that did.
        pause_s = BUSY_S if claims else min(pause_s * 2, IDLE_S)
        await _sleep(stop, pause_s * random.uniform(0.8, 1.2))
    await gateway.calls.drain(grace_s)
    gateway.calls.cut()  # the periodic tasks' own questions: they move no money, and are asked again


def _is_time(pace: Pace) -> bool:
    return pace.reserve(time.monotonic(), 0) is not None


async def _claim(
    claim: Callable[[Gateway, int], Awaitable[list[Claim]]], gateway: Gateway, limit: int, stop: asyncio.Event
) -> list[Claim]:
    try:
        return await claim(gateway, limit)
    except KobiriError as error:
        log.warning("worker.claim_failed", code=error.code)
    except Exception:
        # A defect here must not end the calls that are open, nor the other tasks.
        log.exception("worker.claim_crashed")
    await _sleep(stop, TROUBLE_S)
    return []


async def _resume(gateway: Gateway, claim: Claim) -> None:
    try:
        await checking.resume(gateway, claim)
    except LockTimeout:
        log.info("worker.row_busy", payment_id=claim.payment_id, tenant_id=claim.tenant_id)
    except KobiriError as error:
        log.warning("worker.resume_failed", payment_id=claim.payment_id, tenant_id=claim.tenant_id, code=error.code)
    except Exception:
        # A defect must not stop the other payments. This one is due again when its lease ends.
        log.exception("worker.resume_crashed", payment_id=claim.payment_id, tenant_id=claim.tenant_id)


async def _repeat(task: Task, stop: asyncio.Event) -> None:
    while not stop.is_set():
        done = 0
        try:
            done = await task.run()
        except KobiriError as error:
            log.warning("worker.task_failed", task=task.name, code=error.code)
        except Exception:
            log.exception("worker.task_crashed", task=task.name)
        if done:
            log.debug("worker.task_done", task=task.name, count=done)
        if not done or not task.at_once:
            await _sleep(stop, task.every_s * random.uniform(0.8, 1.2))


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), timeout=seconds)
