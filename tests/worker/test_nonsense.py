"""What one payment's answers say that nobody understands costs no other payment; what they hide costs nobody."""

from typing import Any

import pytest

from tests.api.steps import charged, check, gateway, read, until
from tests.conftest import Api, Simulator

NONSENSE: list[dict[str, Any]] = [
    {"kind": "wrong_word", "words": ["SUSPENDED_FOR_REVIEW"]},
    {"kind": "wrong_reference"},
    {"kind": "garbled", "style": "nan", "operation": "status"},
    {"kind": "garbled", "style": "deep", "operation": "status"},
    {"kind": "garbled", "style": "duplicate_keys", "operation": "status"},
    {"kind": "error_before", "operation": "status", "status": 500, "code": "PAYER_NOT_FOUND"},
    {"kind": "wrong_word", "words": ["successful"]},
]


async def asked_for(api: Api) -> dict[str, Any]:
    payment: dict[str, Any] = (await api.pay(headers={"prefer": "respond-async"})).json()
    return payment


async def test_one_payments_nonsense_costs_no_other_payment(api: Api, simulator: Simulator) -> None:
    strange, ordinary = [await asked_for(api) for _ in NONSENSE], [await asked_for(api) for _ in NONSENSE]
    for fault, payment in zip(NONSENSE, strange, strict=True):
        sent = (await read(api, payment["id"]))["provider_reference"]
        await simulator.fault(reference=sent, **fault)
    for _ in range(4):  # sent, and asked three times
        await check(api)
    road = gateway(api).roads.receiver("mtn")
    assert road is not None
    assert road._breakers["find", "collection"].lets_through
    assert [(await read(api, payment["id"]))["status"] for payment in strange] == ["PENDING"] * len(strange)
    for payment in ordinary:
        await until(api, payment["id"], "SUCCESSFUL")
    await simulator.clear_faults()
    for payment in strange:
        done = await until(api, payment["id"], "SUCCESSFUL")
        await charged(simulator, done["provider_reference"])


@pytest.mark.parametrize("style", ["masked", "national", "number", "absent"])
async def test_a_payers_number_that_is_hidden_or_shortened_holds_nothing_up(
    api: Api, simulator: Simulator, style: str
) -> None:
    await simulator.fault(kind="payer_as", style=style, operation="status")
    payment = (await api.pay()).json()
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert await api.database.value("SELECT review IS NULL FROM payments WHERE id = $1", done["id"])


@pytest.mark.parametrize("told", ["260960000999", "26097*****67", "0961234568", "26096*****68"])
async def test_another_payers_number_settles_nothing(api: Api, simulator: Simulator, told: str) -> None:
    await simulator.fault(kind="wrong_payer", payer=told, operation="status")
    payment = (await api.pay()).json()

    for _ in range(20):
        await check(api)
        if await api.database.value("SELECT review IS NOT NULL FROM payments WHERE id = $1", payment["id"]):
            break
    row = await api.database.fetch("SELECT status, review FROM payments WHERE id = $1", payment["id"])
    assert [tuple(each) for each in row] == [("PENDING", "mismatched")]
