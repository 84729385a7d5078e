"""What an operator takes away is gone within five seconds, in every process."""

import time

from tests.conftest import make_tenant
from tests.e2e.stack import Stack, children, eventually

PROMISED_S = 5.0
MEASURING_S = 3.0  # a command's and a slow machine's own time
IN_A_ROW = 20  # each on a connection of its own, which lands in either process


async def test_a_revoked_key_and_a_suspended_tenant_are_refused_within_five_seconds(stack: Stack) -> None:
    server = await stack.serve(processes=2)
    assert len(children(server.pid)) == 2
    key, _ = await make_tenant(stack.database, "shop")
    key_id = key.split("_")[2][:12]

    async def reads(with_key: str) -> int:
        return (await stack.client.get("/api/v1/payments", headers={"x-api-key": with_key})).status_code

    async def pays() -> str | None:
        answer = await stack.pay(f"key-{time.monotonic_ns()}")
        code = answer.json().get("code")
        return None if answer.status_code == 201 else str(code)

    paid = await stack.pay("before")
    for _ in range(IN_A_ROW):  # both processes know both keys now
        assert await reads(key) == 200
        assert await pays() is None

    code, output = await stack.command("keys", "revoke", key_id)
    assert code == 0, output
    revoked_at = time.monotonic()

    async def refused_everywhere() -> bool:
        return {await reads(key) for _ in range(IN_A_ROW)} == {401}

    await eventually(refused_everywhere, "the key is refused", every_s=0.1)
    assert time.monotonic() - revoked_at < PROMISED_S + MEASURING_S
    assert await pays() is None, "the tenant's other key goes on"

    code, output = await stack.command("tenants", "suspend", "shop")
    assert code == 0, output
    suspended_at = time.monotonic()

    async def suspended_everywhere() -> bool:
        return {await pays() for _ in range(IN_A_ROW)} == {"tenant_suspended"}

    await eventually(suspended_everywhere, "new money is refused", every_s=0.1)
    assert time.monotonic() - suspended_at < PROMISED_S + MEASURING_S
    replay = await stack.pay("before")
    assert (replay.status_code, replay.content) == (201, paid.content), "what was answered once is answered again"
    await stack.worker()
    await stack.settled(paid.json()["id"])  # what runs is finished, and can be read
