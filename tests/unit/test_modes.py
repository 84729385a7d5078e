"""Whose keys an account serves: a test key never asks a real payer, a live payment never succeeds without money."""

from contextlib import suppress
from typing import Any

import pytest

from kobiri import app
from kobiri.config import ConfigurationError, Settings
from kobiri.providers import registry
from kobiri.providers.base import refused_mode

LIVE = {
    "mtn": ["https://proxy.momoapi.mtn.com", "https://momoapi.momo.africa/"],
    "airtel": ["https://openapi.airtel.co.zm", "https://openapi.airtel.africa"],
    "zamtel": ["https://apps.zamtel.co.zm/ZampayRestProd"],
    "pawapay": ["https://api.pawapay.io"],
}
SANDBOXES = {
    "mtn": ["https://sandbox.momodeveloper.mtn.com"],
    "airtel": ["https://openapiuat.airtel.co.zm", "https://openapiuat.airtel.africa"],
    "zamtel": [],
    "pawapay": ["https://api.sandbox.pawapay.io"],
}
HERE = ["http://127.0.0.1:8001/x", "http://localhost:8001/x"]
NOBODY_KNOWS = ["https://sandbox.example.com", "https://uat.example.com/ZampayRest", "http://simulator:8001/x"]
EVERY = pytest.mark.parametrize("provider", list(registry.BY_ID))


def modes(provider: str, base_url: str | None, mode: str | None) -> set[str] | None:
    """Whose keys the platform's account serves; None: no process starts with it."""
    values: dict[str, Any] = {f"{provider}_{k}": v for k, v in registry.simulated_values()[provider].items()}
    values |= {f"{provider}_base_url": base_url, f"{provider}_mode": mode}
    account = None
    with suppress(ConfigurationError):
        account = registry.platform_account(Settings(**values), registry.BY_ID[provider].spec)
    return None if account is None else set(account.modes)


@EVERY
def test_an_address_is_live_unless_it_is_known_to_be_a_sandbox(provider: str) -> None:
    for url in (*LIVE[provider], *HERE, *NOBODY_KNOWS):
        assert modes(provider, url, None) == {"live"}, url
    for url in SANDBOXES[provider]:
        assert modes(provider, url, None) == {"test"}, url
    assert modes(provider, None, None) == ({"live"} if provider == "zamtel" else {"test"}), "where none is named"


@EVERY
def test_a_mode_that_an_address_cannot_have_stops_the_start(provider: str) -> None:
    for url in LIVE[provider]:
        assert [modes(provider, url, mode) for mode in ("live", "test", "both")] == [{"live"}, None, None]
    for url in SANDBOXES[provider]:
        assert [modes(provider, url, mode) for mode in ("live", "test", "both")] == [None, {"test"}, None]
    for url in NOBODY_KNOWS:
        assert [modes(provider, url, mode) for mode in ("live", "test", "both")] == [{"live"}, {"test"}, None]
    for url in HERE:
        assert [modes(provider, url, mode) for mode in ("live", "test", "both")] == [
            {"live"},
            {"test"},
            {"live", "test"},
        ]


@EVERY
def test_an_account_stored_before_serves_no_test_key_where_real_money_moves(provider: str) -> None:
    spec = registry.BY_ID[provider].spec
    for url, mode in ((url, mode) for url in LIVE[provider] for mode in ("live", "test")):
        account = registry.account(
            Settings(), spec, base_url=url, mode=mode, values=registry.simulated_values()[provider],
            callback_url=None, webhook_secrets=(),
        )  # fmt: skip
        assert account is not None, "what it has begun is followed"
        assert account.modes == ({"live"} if mode == "live" else set())
        assert (refused_mode(spec, url, mode) is None) == (mode == "live")


def test_the_refusal_names_the_variable_and_no_value() -> None:
    values: dict[str, Any] = {
        "database_url": "postgresql://a@127.0.0.1:1/b", "api_key_pepper": "x" * 32, "pawapay_api_token": "hunter2",
        "pawapay_base_url": "https://api.pawapay.io/hunter2", "pawapay_mode": "test",
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"^PAWAPAY_MODE: ") as refused:
        app.check(Settings(**values))
    assert "hunter2" not in str(refused.value)
