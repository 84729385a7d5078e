"""What an operator is told, and when, where its operation does not dedupe by our reference."""

import time

import pytest

from kobiri.domain.outcome import Accepted, NotFound, NotSent, Unknown
from kobiri.services.roads import Road
from kobiri.services.routing import Roads
from kobiri.services.submission import SEND_AT_ONCE_S
from tests.api.steps import check, gateway, work
from tests.conftest import Api, ApiFactory
from tests.services.scripted import Operator, make_spec


async def served_by(make_api: ApiFactory, *operators: Operator) -> Api:
    """The API with these operators in the place of all others."""
    api = await make_api()
    parts = gateway(api)
    await parts.roads.close()
    object.__setattr__(parts, "roads", Roads(parts.db, [Road(one, priority=n) for n, one in enumerate(operators)]))
    return api


@pytest.mark.parametrize("prefer", ["respond-async", "wait=10"])
@pytest.mark.parametrize("by", ["the first road", "another road"])
async def test_where_nothing_dedupes_each_send_must_leave_at_once(make_api: ApiFactory, prefer: str, by: str) -> None:
    """After a pause the lease may be another's, who sends as well: only the first byte's own limit tells."""
    operator = Operator(spec=make_spec(dedupes=False))
    busy = Operator(NotSent("no connection", outage=False), spec=make_spec("busy"))
    api = await served_by(make_api, *((busy, operator) if by == "another road" else (operator,)))
    began = time.monotonic()
    await api.pay(headers={"prefer": prefer})
    await work(api)
    (sent,) = operator.sent
    assert sent.first_byte_before is not None
    assert began <= sent.first_byte_before - SEND_AT_ONCE_S <= sent.at


@pytest.mark.parametrize("prefer", ["respond-async", "wait=10"])
async def test_no_byte_leaves_after_the_time_that_the_commit_told(make_api: ApiFactory, prefer: str) -> None:
    """What is concluded from a not-found is counted from there."""
    operator = Operator(NotSent("no connection"), NotSent("no connection"), Accepted())
    api = await served_by(make_api, operator)
    began = time.monotonic()
    await api.pay(headers={"prefer": prefer})
    await work(api)
    seconds = await api.database.value("SELECT extract(epoch FROM sent_until - created_at)::float FROM payments")
    assert operator.sent
    for sent in operator.sent:
        assert sent.first_byte_before is not None
        assert sent.first_byte_before - began <= seconds + 5


@pytest.mark.parametrize(
    ("dedupes", "repeats", "times"), [(False, False, 1), (False, True, 1), (True, False, 1), (True, True, 2)]
)
async def test_what_the_operator_does_not_know_is_sent_again_only_where_it_would_know_it_twice(
    make_api: ApiFactory, dedupes: bool, repeats: bool, times: int
) -> None:
    operator = Operator(
        Unknown("lost", outage=False), finds=NotFound(), spec=make_spec(dedupes=dedupes, repeats=repeats)
    )
    api = await served_by(make_api, operator)
    assert (await api.pay()).status_code == 504
    await check(api)
    assert len(operator.found) == 1
    assert list(operator.passes.values()) == [times]
