"""kobiri accounts: what they need, how they are stored, and that secrets show nowhere."""

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiohttp import web

from kobiri import app as wiring
from kobiri.providers import registry
from kobiri.simulator import app as simulator_app
from tests.cli.conftest import Cli

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
VALUES = {
    "target_environment": "mtnzambia",
    "collection_api_user": "canary-user",
    "collection_api_key": "canary-key",
    "collection_subscription_key": "canary-subscription",
    "webhook_secret": "canary-webhook-secret",
}


@pytest.fixture
def mtn() -> Iterator[str]:
    """MTN's simulator, in a loop of its own: commands bring theirs."""
    loop, found = asyncio.new_event_loop(), dict[str, Any]()

    async def start() -> None:
        runner = web.AppRunner(simulator_app.build(registry.simulators()), access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found["runner"], found["port"] = runner, runner.addresses[0][1]

    loop.run_until_complete(start())
    thread = Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{found['port']}/mtn"
    asyncio.run_coroutine_threadsafe(found["runner"].cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """`kobiri` with a merchant and a master key."""
    cli.environment |= {"KOBIRI_MASTER_KEYS": f"old:{OLD}", "PUBLIC_BASE_URL": "https://pay.example.com"}
    cli.text("tenants", "create", "shop")
    return cli


def written(folder: Path, **values: str) -> str:
    path = folder / "mtn.json"
    path.write_text(json.dumps(VALUES | values))
    return str(path)


def test_the_fields_of_every_provider_are_named(cli: Cli) -> None:
    for provider in registry.BY_ID:
        document = cli.json("accounts", "fields", provider)
        assert document["fields"]
        assert all(field["label"] for field in document["fields"])
    assert "needed, secret" in cli.text("accounts", "fields", "mtn")
    assert cli.refusal("accounts", "fields", "nobody")[0] == "not_found"


def test_an_account_from_its_storing_to_a_new_master_key(shop: Cli, mtn: str, tmp_path: Path) -> None:
    base = ("accounts", "set", "shop", "mtn", "--mode", "test", "--base-url", mtn, "--file", written(tmp_path))
    made = shop.json(*base, "--max", "5000.00", "--priority", "5")
    assert (made["version"], made["currency"]) == (1, "ZMW")
    assert made["callback_url"].startswith("https://pay.example.com/api/v1/webhooks/mtn/")
    assert shop.json(*base)["version"] == 2
    text = shop.text(*base)
    assert made["callback_url"] in text
    (listed,) = shop.json("accounts", "list", "shop")["accounts"]
    assert (listed["name"], listed["enabled"], listed["master_key"], listed["version"]) == ("main", True, "old", 3)
    told = shop.text("accounts", "check", "shop", "main", "--mode", "test")
    assert told.endswith("\nThe provider takes this account.\n")
    assert f"base_url            {mtn} " in told

    shop.text("accounts", "disable", "shop", "main", "--mode", "test", "--reason", "new keys")
    assert shop.json("accounts", "list", "shop")["accounts"][0]["disabled_reason"] == "new keys"
    shop.text("accounts", "enable", "shop", "main", "--mode", "test", "--reason", "done")

    shop.environment["KOBIRI_MASTER_KEYS"] = f"new:{NEW},old:{OLD}"
    assert shop.json("accounts", "rotate") == {"rotated": 1}
    shop.environment["KOBIRI_MASTER_KEYS"] = f"new:{NEW}"
    checked = shop.json("accounts", "check", "shop", "main", "--mode", "test")
    assert checked["taken"]
    assert (checked["facts"]["mode"], checked["facts"]["collection_token"]) == ("test", "HTTP 200")
    shop.environment["KOBIRI_MASTER_KEYS"] = f"old:{OLD}"
    code, sentence = shop.refusal("accounts", "check", "shop", "main", "--mode", "test")
    assert code == "unprocessable"
    assert "master key new" in sentence

    said = text + told + shop.text("accounts", "list", "shop") + json.dumps([made, listed, checked]) + sentence
    assert not any(value in said for name, value in VALUES.items() if name != "target_environment")


def test_the_platforms_accounts_are_checked_by_the_same_command(cli: Cli, mtn: str) -> None:
    simulated = wiring.simulated_environment(mtn.removesuffix("/mtn"))
    secret = {f"{entry.spec.id}_{field.name}".upper() for entry in registry.PROVIDERS for field in entry.spec.fields
              if field.secret}  # fmt: skip
    for provider in registry.BY_ID:
        assert cli.refusal("accounts", "check", "--platform", provider)[0] == "configuration"
    cli.environment |= simulated
    for provider in registry.BY_ID:
        checked = cli.json("accounts", "check", "--platform", provider)
        assert checked["taken"]
        assert checked["facts"]["base_url"] == simulated[f"{provider.upper()}_BASE_URL"]
        assert checked["facts"]["mode"] == "live, test"
        assert checked["facts"]["waits"].startswith("the client ")
        assert any(told.startswith("HTTP ") for told in checked["facts"].values())
        told = cli.text("accounts", "check", "--platform", provider) + json.dumps(checked)
        assert not [name for name in secret & set(simulated) if simulated[name] in told]

    wrong_pin = replace(cli, environment=cli.environment | {"AIRTEL_PIN": "12ab"})
    code, sentence = wrong_pin.refusal("accounts", "check", "--platform", "airtel")
    assert (code, sentence.split(" must ")[0]) == ("configuration", "AIRTEL_PIN:")

    cli.environment["AIRTEL_SIGN_KEY"] = "nonsense"
    cli.environment["AIRTEL_SIGN_MESSAGES"] = "on"
    refused = cli.run("accounts", "check", "--platform", "airtel", "--json")
    document = json.loads(refused.stdout)
    assert (refused.exit_code, document["taken"], document["error"]["code"]) == (1, False, "account_refused")
    assert document["facts"]["sign_key"] == "sign_key"
    for words in ([], ["shop"], ["shop", "main", "--platform", "airtel"]):
        assert cli.refusal("accounts", "check", *words)[0] == "usage"
    assert cli.refusal("accounts", "check", "--platform", "nobody")[0] == "not_found"


@pytest.mark.parametrize(
    ("content", "code"),
    [("[]", "bad_file"), ("{", "bad_file"), ('{"a": 1}', "bad_file"), ('{"colour": "red"}', "unprocessable"),
     ('\ufeff{"colour": "red"}', "unprocessable"),
     ("x" * 70_000, "bad_file"), ("[" * 60_000, "bad_file")],
)  # fmt: skip
def test_a_bad_file_is_told_in_one_sentence(shop: Cli, tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert shop.refusal("accounts", "set", "shop", "mtn", "--file", str(path))[0] == code


def test_what_is_missing_is_told_in_one_sentence(shop: Cli, tmp_path: Path) -> None:
    assert shop.refusal("accounts", "set", "shop", "mtn")[0] == "no_file"
    assert shop.refusal("accounts", "set", "shop", "mtn", "--file", str(tmp_path / "nothing"))[0] == "file"
    assert shop.refusal("accounts", "set", "shop", "nobody", "--file", written(tmp_path))[0] == "not_found"
    refused = shop.refusal(
        "accounts", "set", "nobody", "mtn", "--base-url", "http://127.0.0.1:9/mtn", "--file", written(tmp_path)
    )
    assert refused[0] == "not_found"
    for verb in (("check",), ("disable", "--reason", "x"), ("enable", "--reason", "x")):
        assert shop.refusal("accounts", verb[0], "shop", "main", *verb[1:])[0] == "not_found"
    shop.environment["KOBIRI_MASTER_KEYS"] = None
    assert shop.refusal("accounts", "rotate")[0] == "unprocessable"
    assert "KOBIRI_MASTER_KEYS" in shop.refusal("accounts", "set", "shop", "mtn", "--file", written(tmp_path))[1]


def test_a_provider_that_is_not_there_takes_nothing(shop: Cli, tmp_path: Path) -> None:
    base = ("accounts", "set", "shop", "mtn", "--base-url", "http://127.0.0.1:9/mtn", "--file", written(tmp_path))
    code, sentence = shop.refusal(*base)
    assert code == "unprocessable"
    assert "Nothing was stored" in sentence
    assert shop.json("accounts", "list", "shop") == {"accounts": []}
    assert shop.json(*base, "--unchecked", "MTN is down")["version"] == 1
