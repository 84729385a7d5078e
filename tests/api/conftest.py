"""The API's log is kept in memory; what changes nothing shares one API for each file."""

import uuid
from collections.abc import AsyncIterator
from contextlib import redirect_stderr
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from kobiri import app as kobiri_app
from kobiri import telemetry
from tests.api.steps import LOG
from tests.conftest import LOGIN, Api, Cluster, TestDatabase, _lifespan, _template, make_settings, make_tenant

NOBODY = "http://127.0.0.1:9"  # nothing listens there: whatever is accepted stays unsent


@pytest.fixture(scope="session", autouse=True)
def _log_to_memory() -> None:
    with redirect_stderr(LOG):
        telemetry.configure("debug", "json")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api(cluster: Cluster) -> AsyncIterator[Api]:
    """One API and database for all tests of a file; no provider answers."""
    name = f"kobiri_test_{uuid.uuid4().hex[:16]}"
    await cluster.execute(f"CREATE DATABASE {name} TEMPLATE {_template()}")
    database = TestDatabase(cluster.address(name), cluster.address(name, LOGIN))
    settings = make_settings(database, NOBODY)
    application = kobiri_app.build_api(settings)
    key, tenant_id = await make_tenant(database, "shop")
    transport = httpx.ASGITransport(app=cast(Any, application))
    async with (
        _lifespan(application),
        httpx.AsyncClient(transport=transport, base_url="http://api.test", headers={"x-api-key": key}) as client,
    ):
        yield Api(application, client, settings, database, key, tenant_id)
    await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")
