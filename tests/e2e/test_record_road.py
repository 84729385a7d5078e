"""`kobiri accounts record --collect` goes by the account that was named, or not at all."""

from pathlib import Path

from kobiri import app as kobiri_app
from tests.conftest import Simulator
from tests.e2e.stack import Stack, free_port


async def test_what_the_named_account_cannot_send_no_worker_sends_by_another(
    stack: Stack, simulator: Simulator, tmp_path: Path
) -> None:
    environment = kobiri_app.simulated_environment(simulator.url)
    stack.environment |= {key: value for key, value in environment.items() if key.startswith("PAWAPAY_")}
    stack.environment |= {"MTN_BASE_URL": f"http://127.0.0.1:{free_port()}/mtn"}
    await stack.worker()
    code, said = await stack.command(
        "accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--collect", "1.00",
        "--from", "0967123456", "--out", str(tmp_path), "--wait", "15",
    )  # fmt: skip
    rows = await stack.database.fetch(
        "SELECT status, failure_code, provider, send_before = created_at AS over FROM payments"
    )
    wanted = {"status": "FAILED", "failure_code": "provider_unavailable", "provider": "mtn", "over": True}
    assert [dict(row) for row in rows] == [wanted], (code, said)
    assert await simulator.movements() == []
