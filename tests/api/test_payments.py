"""The payments API through its own door."""

from tests.conftest import Api, Simulator


async def test_a_payment_is_created_and_sent_once(api: Api, simulator: Simulator) -> None:
    answer = await api.pay(reference="order-1")

    assert answer.status_code == 201, answer.text
    payment = answer.json()
    assert payment["status"] == "PENDING"
    sent = await simulator.requests(reference=payment["provider_reference"])
    assert len(sent) == 1
