"""The end of a run: wait for rest, then every invariant from outside; of what is broken, the whole history."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.chaos import plain, sanity, truth
from tests.chaos.clients import Crowd
from tests.chaos.stack import Site, askable
from tests.crash.invariants import INVARIANTS, Broken, broken, broken_chain, look
from tests.e2e.stack import NotYet, eventually

EVERYONE_IS_TOLD = "every client is told in the end"
ALL_COME_TO_REST = "every payment becomes final or, where nobody can be asked, waits for a person"
CHAIN_VERIFIES = "the audit chain verifies and holds every event"
NO_DEFECT = "no process reports a defect"
ROADS_ARE_BACK = f"every road is back in every process {truth.BACK_WITHIN_S:.0f} s after the operators are sane"
OF_EVERY_RUN = (EVERYONE_IS_TOLD, ALL_COME_TO_REST, CHAIN_VERIFIES, NO_DEFECT, plain.AN_ANSWER_SETTLES)
NAMES = (*INVARIANTS, *OF_EVERY_RUN)
LYING_NAMES = (*truth.WHATEVER_IS_SAID, *truth.LYING_INVARIANTS, ROADS_ARE_BACK, *OF_EVERY_RUN)
TRACES = ("Traceback (most recent call last)", '"exception":')

RESTLESS = """
SELECT id, status, provider, review FROM payments
WHERE status IN ('PENDING', 'TIMEOUT') AND (review IS NULL OR lease_token IS NOT NULL OR provider = ANY($1::text[]))
"""
# Where a provider lies, another amount or payer than was asked for, or two words against each other, wait for a person.
RESTLESS_THOUGH_LIED_ABOUT = f"{RESTLESS} AND coalesce(review, '') NOT IN ('mismatched', 'contradicted')"
# A question about what is final, which somebody's word raised, may be due hours later; this one is asked now.
ASKED_NOW = """
SELECT id FROM payments WHERE status IN ('SUCCESSFUL', 'FAILED') AND next_run_at < now() + interval '3 seconds'
"""
HISTORIES = 5  # of so many broken payments everything is shown
SOURCES = {
    "payment": "SELECT to_jsonb(t)::text FROM payments t WHERE id::text = $1",
    "attempts": "SELECT to_jsonb(t)::text FROM attempts t WHERE payment_id::text = $1 ORDER BY attempt",
    "events": "SELECT to_jsonb(t)::text FROM events t WHERE subject_id = $1 ORDER BY created_at, id",
    "keys": "SELECT (to_jsonb(t) - 'response_body' - 'fingerprint')::text || ' ' || "
    "coalesce(convert_from(response_body, 'UTF8'), '') FROM idempotency_keys t WHERE payment_id::text = $1",
    "ledger": "SELECT to_jsonb(t)::text FROM ledger_entries t WHERE payment_id::text = $1",
    "callbacks": "SELECT (to_jsonb(t) - 'body' - 'digest')::text FROM callbacks t WHERE payment_id::text = $1",
}


async def rest(site: Site, within_s: float) -> float:
    """How long it took, in seconds. Raises NotYet."""
    began = time.monotonic()

    async def rests() -> bool:
        restless = await site.stack.database.fetch(_restless(site) + " LIMIT 1", list(askable()))
        return not restless and not await site.stack.database.fetch(ASKED_NOW)

    await eventually(rests, "all payments come to rest", within_s, every_s=0.3)
    return time.monotonic() - began


def _restless(site: Site) -> str:
    return RESTLESS_THOUGH_LIED_ABOUT if site.lying else RESTLESS


async def everything(site: Site, crowd: Crowd, rest_within_s: float) -> tuple[list[Broken], float | None]:
    """All that is broken, and how long rest took."""
    found: list[Broken] = []
    if site.lying:
        found += [Broken(ROADS_ARE_BACK, None, each) for each in truth.not_back(await sanity.trials(site))]
    rested_s: float | None = None
    try:
        rested_s = await rest(site, rest_within_s)
    except NotYet:
        restless = await site.stack.database.fetch(_restless(site), list(askable()))
        found += [Broken(ALL_COME_TO_REST, str(row["id"]), f"{dict(row)}") for row in restless]
    await crowd.last_words()
    found += [Broken(EVERYONE_IS_TOLD, None, key) for key in sorted(set(crowd.untold))]
    wrong = await _broken_chain(site) and await _broken_chain(site)  # an event may come while it is read
    found += [Broken(CHAIN_VERIFIES, None, wrong)] if wrong else []
    await plain.asked_again(site)
    await site.stop_workers()
    found += plain.unsettled(*await plain.ask(site))
    found += await _of_a_lying_world(site, crowd) if site.lying else broken(await look(site.stack, crowd.told))
    found += [Broken(NO_DEFECT, None, defect) for process in site.stack.processes for defect in process.defects()]
    return found, rested_s


async def _broken_chain(site: Site) -> str | None:
    try:
        return await broken_chain(site.stack)
    except NotYet as error:
        return str(error)


async def _of_a_lying_world(site: Site, crowd: Crowd) -> list[Broken]:
    """Nobody was killed, so no process may end, and nothing may surprise one so that it shows where."""
    found = [
        Broken(NO_DEFECT, None, f"{process.name}: {line}")
        for process in site.stack.processes
        for line in process.text.splitlines()
        if any(trace in line for trace in TRACES)
    ]
    if ended := site.counts["started again"]:
        found.append(Broken(NO_DEFECT, None, f"{ended} processes ended by themselves"))
    world = await look(site.stack, crowd.told)
    found += truth.broken_before_the_statement(await sanity.lying_world(site, world))
    missing = await sanity.statements(site)
    world = await look(site.stack, crowd.told)
    return found + truth.broken_after_the_statement(await sanity.lying_world(site, world, missing))


async def by_status(site: Site) -> Mapping[str, Mapping[str, int]]:
    """How many payments, by provider and status; those in review apart."""
    counted: dict[str, Counter[str]] = {}
    for row in await site.stack.database.fetch("SELECT provider, status, review IS NOT NULL AS review FROM payments"):
        status = f"{row['status']} in review" if row["review"] else row["status"]
        counted.setdefault(row["provider"], Counter())[status] += 1
    return counted


async def histories(site: Site, found: Iterable[Broken]) -> dict[str, dict[str, Any]]:
    """All that is known of the first broken payments: tables, the provider's books, what reached the provider."""
    ids = [*dict.fromkeys(each.payment_id for each in found if each.payment_id is not None)][:HISTORIES]
    return {payment_id: await _history(site, payment_id) for payment_id in ids}


async def _history(site: Site, payment_id: str) -> dict[str, Any]:
    database, simulator = site.stack.database, site.stack.simulator
    told: dict[str, Any] = {
        name: [row[0] for row in await database.fetch(sql, payment_id)] for name, sql in SOURCES.items()
    }
    roads = await database.fetch(
        "SELECT provider_reference::text FROM payments WHERE id::text = $1"
        " UNION SELECT provider_reference::text FROM attempts WHERE payment_id::text = $1",
        payment_id,
    )
    for reference in (spelt for row in roads for spelt in (row[0], row[0].replace("-", ""))):
        if movements := await simulator.movements(reference):
            told[f"books {reference}"] = movements
        if requests := await simulator.requests(reference=reference):
            told[f"requests {reference}"] = requests
        hits = (await simulator.client.get("/_sim/faults/hits", params={"reference": reference})).json()["hits"]
        if lies := [hit | {"fault": site.told.get(hit["fault"])} for hit in hits]:
            told[f"lies {reference}"] = lies
    return told
