"""After the lies: whether every road is back, in every process, and what the providers' statements change."""

import asyncio
import csv
import json
import random
import time
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import httpx

from kobiri.domain.msisdn import ZAMBIA, ZAMBIAN_NETWORKS
from tests.chaos.plan import traits
from tests.chaos.stack import Site
from tests.chaos.truth import BACK_WITHIN_S, IN_A_ROW, IN_TIME, Heard, Lie, LyingWorld, Trial, back_after_s
from tests.crash.invariants import World, digits

EVERY_S = 1.0
SUCCESSES, FAILURES = (b'"SUCCESSFUL"', b'"TS"', b'"COMPLETED"'), (b'"FAILED"', b'"TF"', b'"TE"')


async def trials(site: Site) -> list[Trial]:
    """New payments by every network's own road in every process, until each is back or the time is over."""
    networks = [each.provider for each in traits() if each.networks == (each.provider,)]
    began = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=20, trust_env=False) as client:
        found = await asyncio.gather(
            *(_until_back(client, site, url, network, began) for url in site.urls for network in networks)
        )
    return [trial for each in found for trial in each]


async def _until_back(client: httpx.AsyncClient, site: Site, url: str, network: str, began: float) -> list[Trial]:
    done: list[Trial] = []
    running: set[asyncio.Task[Trial]] = set()
    while True:
        at_s = time.monotonic() - began
        row = back_after_s(done)
        if row is not None or (at_s > BACK_WITHIN_S + EVERY_S * IN_A_ROW and not running):
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            return done
        if at_s <= BACK_WITHIN_S + EVERY_S * IN_A_ROW:
            running.add(asyncio.create_task(_try(client, site, url, network, at_s)))
        await asyncio.wait(running, timeout=EVERY_S)
        await asyncio.sleep(max(0.0, began + at_s + EVERY_S - time.monotonic()))
        done += [task.result() for task in running if task.done()]
        running = {task for task in running if not task.done()}


async def _try(client: httpx.AsyncClient, site: Site, url: str, network: str, at_s: float) -> Trial:
    """One payment; good: SUCCESSFUL in time, by the network's own provider."""
    prefix = random.choice([prefix for prefix, name in ZAMBIAN_NETWORKS.items() if name == network])
    body = {"amount": "7.00", "currency": "ZMW", "payer": f"{ZAMBIA}{prefix}{random.randint(1_000_000, 9_999_999)}"}
    headers = {"x-api-key": site.callers[0], "idempotency-key": str(uuid.uuid4())}
    until = time.monotonic() + IN_TIME.total_seconds()
    try:
        answer = await client.post(f"{url}/api/v1/payments", json=body, headers=headers)
        payment: dict[str, Any] = answer.json()
        while answer.is_success and payment["status"] in ("PENDING", "TIMEOUT") and time.monotonic() < until:
            await asyncio.sleep(0.3)
            payment = (await client.get(f"{url}/api/v1/payments/{payment['id']}", headers=headers)).json()
    except httpx.TransportError as error:
        return Trial(url, network, at_s, good=False, detail=repr(error))
    good = answer.is_success and (payment.get("status"), payment.get("provider")) == ("SUCCESSFUL", network)
    return Trial(url, network, at_s, good, f"{answer.status_code} {payment}")


async def statements(site: Site) -> frozenset[str]:
    """Import of every provider what its books hold; the payments that no statement has."""
    missing: set[str] = set()
    by_provider: dict[str, list[dict[str, Any]]] = {}
    for movement in await site.stack.simulator.movements():
        by_provider.setdefault(movement["provider"], []).append(movement)
    for provider, movements in by_provider.items():
        path = site.stack.folder / f"statement-{provider}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("reference", "time", "status", "amount", "currency", "msisdn"))
            for one in movements:
                at = datetime.fromtimestamp(one["first_charged_at"], UTC).isoformat(timespec="seconds")
                row = (one["reference"], at, "successful", one["amount"], one["currency"], one["msisdn"])
                writer.writerows([row] * one["charged"])
        words = ("statements", "import", str(path), "--provider", provider, "--layout", "generic", "--json")
        code, output = await site.stack.command(*words)
        assert code == 0, output
        told = json.loads(output[output.index("{") :])
        missing |= {entry["payment_id"] for entry in told["entries"] if entry["verdict"] == "missing_theirs"}
    return frozenset(missing)


async def lying_world(site: Site, world: World, missing_theirs: frozenset[str] = frozenset()) -> LyingWorld:
    """The world, what was said in it, and what of that was a lie."""
    database = site.stack.database
    simulator = site.stack.simulator.client
    hits = (await simulator.get("/_sim/faults/hits")).json()["hits"]
    sent = (await simulator.get("/_sim/callbacks")).json()["callbacks"]
    signers = {one["provider"] for one in sent if one["signed"]}
    lies: dict[str, list[Lie]] = {}
    for hit in hits:
        payment_id = world.roads.get(digits(hit["reference"]))
        if payment_id is not None:
            lies.setdefault(payment_id, []).append(_lie(site, hit, signers))
    heard: dict[str, list[Heard]] = {}
    for row in await database.fetch(
        "SELECT payment_id::text, body, last_received_at FROM callbacks"
        " WHERE payment_id IS NOT NULL AND verdict <> 'refused' ORDER BY last_received_at"
    ):
        paid = any(word in row["body"] for word in SUCCESSES)
        failed = any(word in row["body"] for word in FAILURES)
        if paid != failed:
            heard.setdefault(row["payment_id"], []).append(Heard("paid" if paid else "failed", row["last_received_at"]))
    providers = {payment_id: {str(row["provider"])} for payment_id, row in world.payments.items()}
    for row in await database.fetch("SELECT payment_id::text, provider FROM attempts"):
        providers[row["payment_id"]].add(row["provider"])
    return LyingWorld(
        world=world,
        lies=lies,
        heard=heard,
        providers={payment_id: frozenset(names) for payment_id, names in providers.items()},
        unwell=site.unwell,
        missing_theirs=missing_theirs,
    )


def _lie(site: Site, hit: dict[str, Any], signers: Collection[str]) -> Lie:
    fault = site.told.get(hit["fault"], {})
    return Lie(
        provider=hit["provider"],
        kind=hit["kind"],
        operation=hit["operation"],
        word=hit["word"],
        signed=hit["provider"] in signers and fault.get("signed", True) is True,
        last_at=datetime.fromtimestamp(hit["last_at"], UTC),
    )
