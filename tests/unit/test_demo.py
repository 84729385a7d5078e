"""What `kobiri demo` makes of the settings of a production: nothing that leads off this machine."""

import os
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, combinations, product
from pathlib import Path
from typing import TypeAlias

import pytest
from pydantic import SecretStr

from kobiri import config, demo, net
from kobiri.config import ConfigurationError, Settings
from kobiri.providers import registry

HERE, THERE = "http://127.0.0.1:9/x", "https://api.example.com"
PROVIDERS = [entry.spec for entry in registry.PROVIDERS]
VALUES = {"pin": "7394", "mode": "test", "country": "ZM", "currency": "ZMW", "target_environment": "mtnzambia"}

Decide: TypeAlias = Callable[[Mapping[str, str], Mapping[str, str]], dict[str, str]]


@pytest.fixture
def decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Decide]:
    """The children's environment under these variables of the environment and of `.env`. Raises what the demo does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")

    def under(variables: Mapping[str, str], file: Mapping[str, str]) -> dict[str, str]:
        os.environ.clear()
        os.environ.update(variables)
        (tmp_path / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in file.items()))
        return demo._environment(config.load(demo=True), config.named())

    kept = dict(os.environ)
    yield under
    os.environ.clear()
    os.environ.update(kept)


def accounts_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the accounts of a process in this environment are; what stands in `.env` is read too."""
    os.environ.clear()
    os.environ.update(environment)
    settings = config.load()
    assert settings.kobiri_demo
    assert settings.uses_embedded_database
    made = {spec.id: registry.platform_account(settings, spec) for spec in PROVIDERS}
    return {provider: account.base_url for provider, account in made.items() if account is not None}


def names_of(provider: str) -> list[str]:
    """Every setting of a provider that says where an account is or whose, and one that nobody knows."""
    known = [name for name in Settings.model_fields if name.startswith(f"{provider}_")]
    return [name for name in known if not name.endswith(demo.TUNING)] + [f"{provider}_api_keyy"]


def value_of(name: str) -> str:
    spec = registry.BY_ID[name.split("_", 1)[0]].spec
    field = name.removeprefix(f"{spec.id}_")
    choices = next((known.choices for known in spec.fields if known.name == field), ())
    return choices[0] if choices else VALUES.get(field, "in production use")


def combinations_of(provider: str) -> Iterator[list[str]]:
    """All subsets of what makes an account, and each other name alone and beside the whole of it."""
    spec = registry.BY_ID[provider].spec
    core = [f"{provider}_{field.name}" for field in spec.fields if not field.optional and field.default is None]
    core.append(f"{provider}_mode")
    others = [name for name in names_of(provider) if name not in core and not name.endswith("_base_url")]
    for chosen in chain.from_iterable(combinations(core, size) for size in range(len(core) + 1)):
        yield list(chosen)
    for other in others:
        yield [other]
        yield [*core, other]


@pytest.mark.parametrize("provider", [spec.id for spec in PROVIDERS])
def test_whatever_is_set_of_a_provider_no_account_leads_off_this_machine(decide: Decide, provider: str) -> None:
    dice = random.Random(provider)
    for named, base_url in product(combinations_of(provider), (None, HERE, THERE)):
        variables = {name: value_of(name) for name in named} | ({f"{provider}_base_url": base_url} if base_url else {})
        if "mtn_collection_primary_key" in variables:
            variables.pop("mtn_collection_subscription_key", None)
        if provider == "mtn" and any("disbursement" in name for name in named):
            parts = ("api_user", "api_key", "subscription_key")
            variables |= {f"mtn_disbursement_{part}": "in production use" for part in parts}
        spelt = {dice.choice((name, name.upper(), name.title())): value for name, value in variables.items()}
        in_file = {name for name in spelt if dice.random() < 0.5}
        file = {name: spelt[name] for name in in_file}
        refused, environment = None, dict[str, str]()
        try:
            environment = decide({name: spelt[name] for name in spelt if name not in in_file}, file)
        except ConfigurationError as error:
            refused = str(error)
        assert (refused is not None) == (bool(variables) and base_url != HERE), variables
        if refused is not None:
            assert refused.split(" ")[0].strip(":").lower() in variables
            assert "in production use" not in refused
            continue
        found = accounts_of(environment)
        assert {other: found.get(other) for other in registry.BY_ID if other != provider} == {
            other: f"http://127.0.0.1:8001/{other}" for other in registry.BY_ID if other != provider
        }
        assert found.get(provider) in ((HERE, None) if variables else (f"http://127.0.0.1:8001/{provider}",))
        mine = {name for name in environment if name.lower().startswith(f"{provider}_")}
        if variables:
            assert mine <= set(spelt), "nothing of a provider is simulated of which something is set"


def test_one_live_account_is_enough_beside_any_of_the_others(decide: Decide) -> None:
    """Two providers at a time: what is said of one changes nothing for the other."""
    for (first, second), (a, b) in product(combinations(registry.BY_ID, 2), product((None, HERE, THERE), repeat=2)):
        variables = {f"{first}_base_url": a, f"{second}_base_url": b}
        given = {name.upper(): value for name, value in variables.items() if value}
        if THERE in (a, b):
            with pytest.raises(ConfigurationError):
                decide(given, {})
        else:
            found = accounts_of(decide(given, {}))
            assert set(found) == {name for name in registry.BY_ID if not variables.get(f"{name}_base_url")}


URLS = sorted(name.upper() for name in Settings.model_fields if name.endswith("_url"))


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("name", [*URLS, "DATABASE_HOST", "SIMULATOR_HOSTS"])
def test_every_address_that_leads_elsewhere_and_every_database_is_refused(
    decide: Decide, name: str, in_file: bool
) -> None:
    database = name.startswith("DATABASE")
    values = ["postgresql://app:hunter2@127.0.0.1/kobiri"] if name.startswith("DATABASE_") else [THERE]
    if name == "SIMULATOR_HOSTS":
        values = ["shop", "127.0.0.1"]
    elif name == "DATABASE_HOST":
        values = ["127.0.0.1", "localhost", "/var/run/postgresql", "db.internal"]
    elif not database:
        values += ["http://127.0.0.1@evil.example", "http://localhost.evil", "http://2130706433", "http://0.0.0.0"]
    secret = {"OPERATOR_WEBHOOK_SECRET": "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1"}
    for value, spelt in product(values, (name, name.lower())):
        given = {spelt: value} | (secret if name.startswith("OPERATOR") else {})
        with pytest.raises(ConfigurationError) as refused:
            decide({} if in_file else given, given if in_file else {})
        assert str(refused.value).startswith(name)
        assert "hunter2" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_what_only_tunes_leaves_the_simulation_whole(decide: Decide) -> None:
    example = (Path(__file__).parents[2] / ".env.example").read_text()
    lines = (line.partition("=") for line in example.splitlines() if line and not line.startswith("#"))
    found = accounts_of(decide({}, {name: value for name, _, value in lines}))
    assert found == {name: f"http://127.0.0.1:8001/{name}" for name in registry.BY_ID}


def test_a_child_takes_no_other_spelling_and_no_file_that_changed_meanwhile(decide: Decide, tmp_path: Path) -> None:
    environment = decide({"kobiri_demo": "false", "Kobiri_Supervised": "0", "LOG_FORMAT": ""}, {})
    assert [name for name in environment if name.lower() == "kobiri_demo"] == ["KOBIRI_DEMO"]
    (tmp_path / ".env").write_text(f"MTN_BASE_URL={THERE}\nMTN_MODE=live\nAIRTEL_CLIENT_ID=production\n")
    assert accounts_of(environment) == {name: f"http://127.0.0.1:8001/{name}" for name in registry.BY_ID}
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://app@db/kobiri\n")
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: "):
        config.load()


def test_a_process_of_the_demo_refuses_a_providers_own_address() -> None:
    """Its default is the operator's sandbox, which is not on this machine either."""
    settings = Settings(kobiri_demo=True, pawapay_api_token=SecretStr("in production use"))
    with pytest.raises(ConfigurationError, match=r"^PAWAPAY_BASE_URL: "):
        registry.platform_account(settings, registry.BY_ID["pawapay"].spec)


async def test_a_process_that_stays_here_calls_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_only_this_machine", False)
    net.stay_on_this_machine()
    session = net.provider_session(1)
    try:
        for call in (net.ask, net.send_once):
            for url in ("http://operator.invalid/x", "http://192.0.2.1/x", "http://127.0.0.1@192.0.2.1/x"):
                with pytest.raises(net.NotSent, match="outside this machine"):
                    await call(session, "GET", url, headers={}, body=None, deadline_s=5)
            with pytest.raises(net.NotSent, match="ECONNREFUSED"):
                await call(session, "GET", "http://127.0.0.1:1/x", headers={}, body=None, deadline_s=5)
    finally:
        await session.close()
