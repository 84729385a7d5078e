"""Settings: where they come from, what they default to, and that none shows its secret."""

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest
from asyncpg import connect_utils
from pydantic import SecretStr

from kobiri import config
from kobiri.config import ConfigurationError, Settings

SECRETS = {
    "DATABASE_URL": "postgresql://app:hunter2@db/kobiri",
    "DATABASE_MIGRATION_URL": "postgresql://owner:hunter2@db/kobiri",
    "DATABASE_PASSWORD": "hunter2",
    "API_KEY_PEPPER": "hunter2" * 6,
    "MTN_COLLECTION_API_KEY": "hunter2",
    "MTN_COLLECTION_SUBSCRIPTION_KEY": "hunter2",
    "MTN_COLLECTION_PRIMARY_KEY": "hunter2",
    "KOBIRI_MASTER_KEYS": "hunter2:aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ=",
    "OPERATOR_WEBHOOK_URL": "https://ops.example.com/hunter2",
    "OPERATOR_WEBHOOK_SECRET": "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1",
    "MTN_DISBURSEMENT_API_KEY": "hunter2",
    "MTN_DISBURSEMENT_SUBSCRIPTION_KEY": "hunter2",
    "MTN_WEBHOOK_SECRET": "hunter2" * 3,
    "MTN_WEBHOOK_SECRET_PREVIOUS": "hunter2" * 3,
    "ZAMTEL_THIRD_PARTY_ID": "hunter2",
    "ZAMTEL_PASSWORD": "hunter2",
    "ZAMTEL_CREDENTIAL": "hunter2",
    "ZAMTEL_WEBHOOK_SECRET": "hunter2" * 3,
    "ZAMTEL_WEBHOOK_SECRET_PREVIOUS": "hunter2" * 3,
    "PAWAPAY_API_TOKEN": "hunter2",
    "PAWAPAY_WEBHOOK_SECRET": "hunter2" * 3,
    "PAWAPAY_WEBHOOK_SECRET_PREVIOUS": "hunter2" * 3,
    "AIRTEL_CLIENT_SECRET": "hunter2",
    "AIRTEL_PIN": "hunter2",
    "AIRTEL_CALLBACK_KEY": "hunter2",
    "AIRTEL_WEBHOOK_SECRET": "hunter2" * 3,
    "AIRTEL_WEBHOOK_SECRET_PREVIOUS": "hunter2" * 3,
}


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return config.load()


def test_it_starts_with_nothing_set() -> None:
    settings = config.load()
    assert settings.uses_embedded_database
    assert settings.configured_dsn is None
    assert (settings.throttle_limit, settings.throttle_ttl) == (100, 60_000)
    assert (settings.host, settings.port, settings.simulator_port) == ("127.0.0.1", 8000, 8001)
    assert settings.mtn_timeout_seconds == 10
    assert settings.idempotency_required
    assert settings.idempotency_ttl_seconds == 24 * 3600
    assert settings.expires_after == timedelta(minutes=15)


def test_the_environment_is_read_and_an_empty_value_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, PORT="9000", LOG_LEVEL="WARNING", DATABASE_URL="", API_KEY_PEPPER="", THROTTLE_LIMIT="0"
    )
    assert (settings.port, settings.log_level, settings.throttle_limit) == (9000, "warning", 0)
    assert settings.uses_embedded_database
    assert settings.api_key_pepper is None


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9001\nSIMULATOR_PORT=9002\nSOMETHING_ELSE=x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    settings = load(monkeypatch, PORT="9000")
    assert (settings.port, settings.simulator_port) == (9000, 9002)


def test_the_database_may_be_named_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        DATABASE_HOST="db.internal",
        DATABASE_PORT="6432",
        DATABASE_NAME="gateway",
        DATABASE_USER="app@zm",
        DATABASE_PASSWORD="p@ss:w/rd?#%",
    )
    assert not settings.uses_embedded_database
    assert settings.configured_dsn == "postgresql://app%40zm:p%40ss%3Aw%2Frd%3F%23%25@db.internal:6432/gateway"


@pytest.mark.parametrize("host", ["db.internal", "2001:db8::5", "/var/run/postgresql"])
def test_the_driver_understands_the_parts(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    settings = load(monkeypatch, DATABASE_HOST=host, DATABASE_PORT="6432", DATABASE_PASSWORD="p@ss:w/rd?#%")
    parse: Any = connect_utils._parse_connect_dsn_and_args  # type: ignore[attr-defined]
    addresses, parameters, *_ = parse(
        dsn=settings.configured_dsn,
        **dict.fromkeys(
            (
                *("host", "port", "user", "password", "passfile", "database", "ssl", "direct_tls", "service"),
                *("servicefile", "server_settings", "target_session_attrs", "krbsrvname", "gsslib"),
            )
        ),
    )
    expected = f"{host}/.s.PGSQL.6432" if host.startswith("/") else (host, 6432)
    assert addresses == [expected]
    assert (parameters.user, parameters.password, parameters.database) == ("kobiri_app", "p@ss:w/rd?#%", "kobiri")


def test_the_address_wins_over_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DATABASE_URL="postgresql://a@b/c", DATABASE_HOST="db.internal")
    assert settings.configured_dsn == "postgresql://a@b/c"


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, MTN_DISBURSEMENT_API_USER="user", **SECRETS)
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_every_setting_that_sounds_secret_is_kept_as_one() -> None:
    """A new password, key or token is a SecretStr from its first day."""
    secret_words = {"password", "secret", "key", "token", "pepper", "url"}
    open_by_design = ("_base_url", "_public_key", "airtel_pin_key", "airtel_sign_key")  # public halves
    for name, field in Settings.model_fields.items():
        if secret_words & set(name.split("_")) and not name.endswith(open_by_design):
            assert SecretStr in getattr(field.annotation, "__args__", (field.annotation,)), name
            assert name.upper() in SECRETS, name


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"API_KEY_PEPPER": "hunter2"}, "API_KEY_PEPPER"),
        ({"DATABASE_URL": "mysql://app:hunter2@db/x"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://app:hunter2@[db/x"}, "DATABASE_URL"),
        ({"MTN_COLLECTION_SUBSCRIPTION_KEY": "hunter2", "MTN_COLLECTION_PRIMARY_KEY": "hunter22"}, "MTN_COLLECTION_"),
        ({"MTN_DISBURSEMENT_API_KEY": "hunter2"}, "MTN_DISBURSEMENT_API_USER"),
        ({"PUBLIC_BASE_URL": "http://[hunter2"}, "PUBLIC_BASE_URL"),
        ({"OPERATOR_WEBHOOK_SECRET": "hunter2"}, "OPERATOR_WEBHOOK_SECRET"),
        ({"MTN_WEBHOOK_SECRET": "fifteen letters"}, "MTN_WEBHOOK_SECRET"),
        ({"AIRTEL_WEBHOOK_SECRET_PREVIOUS": "a"}, "AIRTEL_WEBHOOK_SECRET_PREVIOUS"),
        ({"OPERATOR_WEBHOOK_SECRET": "whsec_aHVudGVyMg=="}, "OPERATOR_WEBHOOK_SECRET"),
        ({"OPERATOR_WEBHOOK_URL": "ftp://hunter2"}, "OPERATOR_WEBHOOK_URL"),
        ({"OPERATOR_WEBHOOK_URL": "https://ops.example.com/hunter2"}, "OPERATOR_WEBHOOK_URL"),
        ({"KOBIRI_MASTER_KEYS": "2026:hunter2"}, "KOBIRI_MASTER_KEYS"),
        ({"PAYMENT_MAX_AMOUNTS": "ZMW"}, "PAYMENT_MAX_AMOUNTS"),
        ({"PAYMENT_MAX_AMOUNTS": "ABC:5"}, "PAYMENT_MAX_AMOUNTS"),
    ],
)
def test_an_error_names_the_variable_and_not_its_secret(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, **variables)
    told = str(refused.value)
    assert told.startswith(name)
    assert "\n" not in told
    assert "hunter2" not in told
    assert refused.value.__suppress_context__


def test_the_largest_amounts_are_named_by_currency(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.load().payment_max_amounts["ZMW"] == 10_000_000
    settings = load(monkeypatch, PAYMENT_MAX_AMOUNTS="ZMW:250.50,UGX:1000")
    assert {name: settings.payment_max_amounts[name] for name in ("ZMW", "UGX", "EUR")} == {
        "ZMW": 25_050, "UGX": 1_000, "EUR": 500_000,
    }  # fmt: skip


def test_one_subscription_key_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.load().mtn_collection_subscription_key is None
    settings = load(monkeypatch, MTN_COLLECTION_PRIMARY_KEY="same")
    assert settings.mtn_collection_subscription_key == SecretStr("same")
    settings = load(monkeypatch, MTN_COLLECTION_SUBSCRIPTION_KEY="same")
    assert settings.mtn_collection_subscription_key == SecretStr("same")


def test_addresses_lose_their_last_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, PUBLIC_BASE_URL="https://pay.example.com/", MTN_BASE_URL="http://127.0.0.1:8001/mtn/")
    assert settings.public_base_url == "https://pay.example.com"
    assert settings.mtn_base_url == "http://127.0.0.1:8001/mtn"


def test_trusted_proxies_are_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.7,2001:db8::/32,")
    assert settings.trusted_proxies == tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")))


def test_the_simulators_hosts_are_names_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, SIMULATOR_HOSTS="Simulator, 192.0.2.7,").simulator_hosts == {"simulator", "192.0.2.7"}
    for wrong in ("http://simulator", "simulator:8001", "a/b", "a@b", "a b", "*"):
        with pytest.raises(ConfigurationError, match=r"^SIMULATOR_HOSTS: "):
            load(monkeypatch, SIMULATOR_HOSTS=wrong)


TEXTS = {
    name
    for name, field in Settings.model_fields.items()
    if field.annotation is str
    or (get_origin(field.annotation) is UnionType and {str, SecretStr} & set(get_args(field.annotation)))
}
SENT = sorted(name for name in TEXTS if not name.startswith(("database_", "api_key_pepper", "kobiri_")))
WRONG = (
    "{}\n",
    "{}\r\n",
    "\n{}",
    "{}\nhunter2",
    "{}\t",
    "{}\x00",
    "{} ",
    " {}",
    "{}\u00a0",
    "{}\u200b",
    "\ufeff{}",
    "{}\udcff",
    "\n",
)
GOOD = {
    "public_base_url": "https://pay.example.com", "operator_webhook_url": "https://ops.example.com/hunter2",
    "operator_webhook_secret": "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1",
    "mtn_currency": "ZMW", "pawapay_currency": "ZMW",
}  # fmt: skip


def test_what_is_sent_somewhere_is_whole() -> None:
    assert {"mtn_collection_api_key", "mtn_target_environment", "pawapay_api_token", "zamtel_password"} <= set(SENT)
    assert {"airtel_client_secret", "mtn_base_url", "public_base_url", "operator_webhook_url"} <= set(SENT)


@pytest.mark.parametrize("name", SENT)
def test_a_setting_that_no_header_can_hold_stops_the_start_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    good = GOOD.get(name, "https://api.example.com" if name.endswith("_url") else "hunter2")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    for wrong in WRONG:
        value = wrong.format(good)
        written = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        in_file = f'{name}="{written}"\n' if "\udcff" not in value else ""
        for environment, file in (({name.upper(): value} if "\0" not in value else {}, ""), ({}, in_file)):
            (tmp_path / ".env").write_text(file)
            with monkeypatch.context() as patch:
                for variable, text in environment.items():
                    patch.setenv(variable, text)
                if not environment and not file:
                    continue
                with pytest.raises(ConfigurationError) as refused:
                    config.load()
            told = str(refused.value)
            assert told.startswith(f"{name.upper()}: "), told
            assert "hunter2" not in told
            assert "\n" not in told


def test_a_key_in_pem_has_lines_and_an_old_pepper_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMFkwEw\r\n-----END PUBLIC KEY-----\n"
    settings = load(
        monkeypatch, PAWAPAY_CALLBACK_PUBLIC_KEY=pem, API_KEY_PEPPER="p" * 32 + "\n", DATABASE_PASSWORD=" a b\n",
        ZAMTEL_PASSWORD="an inner space",
    )  # fmt: skip
    assert settings.pawapay_callback_public_key == pem
    assert settings.api_key_pepper == SecretStr("p" * 32 + "\n")


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields if name.endswith("_base_url")])
def test_an_address_holds_no_password(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for address in (
        "https://me:hunter2@x.example",
        "https://x.example#@hunter2",
        "https://x.example/?hunter2",
        "//x",
        "https://x/%50",
    ):
        with pytest.raises(ConfigurationError, match=f"^{name}: ") as refused:
            load(monkeypatch, **{name: address})
        assert "hunter2" not in str(refused.value)
