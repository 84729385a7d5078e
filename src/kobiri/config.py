"""Settings, read once from the environment and `.env`. Every default and limit is visible here.

Names are those of the environment, in lower case. A bad value stops the start with one sentence that names it.
"""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, NoDecode, SettingsConfigDict

from kobiri.domain import webhook
from kobiri.domain.address import host_of, on_this_machine
from kobiri.domain.credential import wrong_with, wrong_with_signing_secret
from kobiri.domain.envelope import MasterKeys
from kobiri.domain.errors import KobiriError
from kobiri.domain.money import LARGEST_MINOR, read_largest

Seconds = Annotated[float, Field(gt=0, le=86_400)]
# Of one call to a provider. The bound catches milliseconds: a lease lasts as long, and nobody asks before its end.
CallSeconds = Annotated[float, Field(gt=0, le=600)]
NOT_IN_A_DEMO = "kobiri demo calls nothing outside this machine, and has a database of its own; unset it, in .env too"

AirtelPadding = Literal["pkcs1", "oaep-sha1", "oaep-sha256", "oaep-sha256-mgf1-sha1"]
Port = Annotated[int, Field(ge=1, le=65_535)]


class ConfigurationError(Exception):
    """One sentence for the person who starts Kobiri."""


SIGNING_SECRETS = tuple(
    f"{provider}_webhook_secret{end}"
    for provider in ("mtn", "airtel", "zamtel", "pawapay")
    for end in ("", "_previous")
)


class Settings(BaseSettings):
    """The configuration of every process."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    # Where things are
    kobiri_home: Path = Path(".kobiri")
    host: str = "127.0.0.1"
    port: Port = 8000
    simulator_port: Port = 8001
    simulator_hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    public_base_url: str | None = None
    # Set by kobiri demo for its processes: they call nothing outside this machine, and use no database but its own.
    kobiri_demo: bool = False
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()

    # Processes
    api_processes: Annotated[int, Field(ge=1, le=64)] = 1
    api_max_requests: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    worker_concurrency: Annotated[int, Field(ge=1, le=1_000)] = 50
    shutdown_grace_seconds: CallSeconds = 15

    # Database: DATABASE_URL, or the parts, or (neither) the embedded PostgreSQL under KOBIRI_HOME
    database_url: SecretStr | None = None
    database_migration_url: SecretStr | None = None
    database_host: str | None = None
    database_port: Port = 5432
    database_name: str = "kobiri"
    database_user: str = "kobiri_app"
    database_password: SecretStr | None = None
    database_pool_size: Annotated[int, Field(ge=2, le=200)] = 16
    database_statement_cache_size: Annotated[int, Field(ge=0, le=1_000)] = 100

    # Secrets. Without a pepper and with the embedded database one is made and kept under KOBIRI_HOME.
    api_key_pepper: SecretStr | None = None
    # Under which the merchants' provider credentials are sealed; made and kept in the same way.
    kobiri_master_keys: SecretStr | None = None

    # Providers. Connections of one account: so many calls at once, and one that hangs takes no place from another.
    provider_max_connections: Annotated[int, Field(ge=1, le=10_000)] = 2_000

    # MTN MoMo: the platform's account. Not enabled: no new payments (503); running ones are still followed.
    mtn_enabled: bool = True
    mtn_base_url: str | None = None
    mtn_target_environment: str | None = None
    mtn_currency: Annotated[str | None, Field(pattern=r"^[A-Z]{3}$")] = None
    mtn_mode: Literal["live", "test", "both"] | None = None
    mtn_collection_api_user: str | None = None
    mtn_collection_api_key: SecretStr | None = None
    mtn_collection_subscription_key: SecretStr | None = None
    mtn_collection_primary_key: SecretStr | None = None
    mtn_disbursement_api_user: str | None = None
    mtn_disbursement_api_key: SecretStr | None = None
    mtn_disbursement_subscription_key: SecretStr | None = None
    mtn_payout_call: Literal["transfer", "deposit"] | None = None
    mtn_webhook_secret: SecretStr | None = None
    mtn_webhook_secret_previous: SecretStr | None = None
    mtn_timeout_seconds: CallSeconds = 10
    mtn_deadline_seconds: CallSeconds | None = None

    # The operator: where new cases for a person are posted, signed by Standard Webhooks
    operator_webhook_url: SecretStr | None = None
    operator_webhook_secret: SecretStr | None = None

    # Zamtel Kwacha: the platform's account
    zamtel_enabled: bool = True
    zamtel_base_url: str | None = None
    zamtel_mode: Literal["live", "test", "both"] | None = None
    zamtel_third_party_id: SecretStr | None = None
    zamtel_password: SecretStr | None = None
    zamtel_shortcode: str | None = None
    zamtel_identifier: str | None = None
    zamtel_credential: SecretStr | None = None
    zamtel_webhook_secret: SecretStr | None = None
    zamtel_webhook_secret_previous: SecretStr | None = None
    zamtel_timeout_seconds: CallSeconds = 5
    zamtel_deadline_seconds: CallSeconds = 120

    # pawaPay: the platform's account, a second road to all Zambian networks
    pawapay_enabled: bool = True
    pawapay_base_url: str | None = None
    pawapay_mode: Literal["live", "test", "both"] | None = None
    pawapay_api_token: SecretStr | None = None
    pawapay_currency: Annotated[str | None, Field(pattern=r"^[A-Z]{3}$")] = None
    pawapay_callback_signatures: Literal["off", "required"] | None = None
    pawapay_callback_public_key: str | None = None
    pawapay_webhook_secret: SecretStr | None = None
    pawapay_webhook_secret_previous: SecretStr | None = None
    pawapay_timeout_seconds: CallSeconds = 5
    pawapay_deadline_seconds: CallSeconds | None = None

    # Airtel Money: the platform's account, in the same way.
    airtel_enabled: bool = True
    airtel_base_url: str | None = None
    airtel_mode: Literal["live", "test", "both"] | None = None
    airtel_client_id: str | None = None
    airtel_client_secret: SecretStr | None = None
    airtel_country: Literal["ZM"] | None = None
    airtel_collection_version: Literal["v1", "v2"] | None = None
    airtel_payout_version: Literal["v2", "v3"] | None = None
    airtel_refund_version: Literal["v1", "v2"] | None = None
    airtel_pin: SecretStr | None = None
    airtel_pin_key: str | None = None
    airtel_pin_padding: AirtelPadding | None = None
    airtel_sign_messages: Literal["off", "on"] | None = None
    airtel_sign_key: str | None = None
    airtel_sign_padding: AirtelPadding | None = None
    airtel_public_key: str | None = None  # older: one key for both
    airtel_callback_key: SecretStr | None = None
    airtel_webhook_secret: SecretStr | None = None
    airtel_webhook_secret_previous: SecretStr | None = None
    airtel_timeout_seconds: CallSeconds = 8
    airtel_deadline_seconds: CallSeconds | None = None

    # Payments
    idempotency_required: bool = True
    idempotency_ttl_seconds: Annotated[int, Field(ge=86_400, le=31_536_000)] = 86_400
    payment_send_within_seconds: Seconds = 60
    payment_expires_after_seconds: Seconds = 900
    # The largest amount of one payment, in minor units by currency
    payment_max_amounts: Annotated[Mapping[str, int], NoDecode] = LARGEST_MINOR
    callback_retention_days: Annotated[int, Field(ge=1, le=3_650)] = 90

    # Throttle: THROTTLE_LIMIT requests in THROTTLE_TTL milliseconds; 0 switches it off
    throttle_limit: Annotated[int, Field(ge=0, le=10_000_000)] = 100
    throttle_ttl: Annotated[int, Field(ge=1_000, le=86_400_000)] = 60_000

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "pretty"] = "json"

    @field_validator("*")
    @classmethod
    def _can_be_sent(cls, value: object, info: ValidationInfo) -> object:
        # A database's password is no header. A pepper or master key with a line feed has sealed what no other opens.
        ours = (info.field_name or "").startswith(("database_", "api_key_pepper", "kobiri_"))
        if not ours and (wrong := wrong_with(_text(value) or "")) is not None:
            raise ValueError(wrong)
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("simulator_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found = {part.strip().lower() for part in value.split(",") if part.strip()}
        if any("*" in host or host_of(f"http://{host}") != host for host in found):
            raise ValueError("must be names or addresses with commas between them, such as api,192.0.2.7")
        return frozenset(found)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())

    @field_validator("payment_max_amounts", mode="before")
    @classmethod
    def _largest(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return read_largest(value)
        except KobiriError as error:
            raise ValueError(f"must be pairs such as ZMW:50000,EUR:1000 in major units: {error.detail}") from None

    @field_validator("public_base_url", "mtn_base_url", "airtel_base_url", "zamtel_base_url", "pawapay_base_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and (host_of(value) is None or set(value) & set("?#@%")):
            raise ValueError("must be an address such as https://pay.example.com, without a query, a password or a %")
        return value.rstrip("/") if value is not None else None

    @field_validator("database_url", "database_migration_url")
    @classmethod
    def _postgresql_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                parts = urlsplit(value.get_secret_value())
                known = parts.scheme in ("postgresql", "postgres") and parts.port != 0
            except ValueError:  # its text would show the password
                known = False
            if not known:
                raise ValueError("must be an address such as postgresql://user:password@host:5432/name")
        return value

    @field_validator("api_key_pepper")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters; make one with: openssl rand -hex 32")
        return value

    @field_validator("kobiri_master_keys")
    @classmethod
    def _master_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            MasterKeys.parse(value.get_secret_value())
        return value

    @field_validator(*SIGNING_SECRETS)
    @classmethod
    def _signing_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (wrong := wrong_with_signing_secret(value.get_secret_value())) is not None:
            raise ValueError(wrong)
        return value

    @field_validator("operator_webhook_url")
    @classmethod
    def _operator_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("must be an address such as https://ops.example.com/kobiri")
        return value

    @field_validator("operator_webhook_secret")
    @classmethod
    def _webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            webhook.read_secret(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _stays_here(self) -> "Settings":
        for name in type(self).model_fields if self.kobiri_demo else ():
            value = getattr(self, name)
            elsewhere = name.endswith("_url") and not on_this_machine(_text(value) or "")
            if value and (elsewhere or name in ("database_host", "simulator_hosts")):
                raise ValueError(f"{name.upper()}: {NOT_IN_A_DEMO}")
        return self

    @model_validator(mode="after")
    def _operator_signs(self) -> "Settings":
        if self.operator_webhook_url and not self.operator_webhook_secret:
            raise ValueError("OPERATOR_WEBHOOK_URL needs OPERATOR_WEBHOOK_SECRET: what is posted there is signed")
        return self

    @model_validator(mode="after")
    def _one_subscription_key(self) -> "Settings":
        first, second = self.mtn_collection_subscription_key, self.mtn_collection_primary_key
        if first and second and first != second:
            raise ValueError("MTN_COLLECTION_SUBSCRIPTION_KEY and MTN_COLLECTION_PRIMARY_KEY differ; set one of them")
        if second and not first:
            self.mtn_collection_subscription_key = second
        return self

    @model_validator(mode="after")
    def _whole_disbursement(self) -> "Settings":
        parts = (self.mtn_disbursement_api_user, self.mtn_disbursement_api_key, self.mtn_disbursement_subscription_key)
        if any(parts) and not all(parts):
            raise ValueError(
                "MTN_DISBURSEMENT_API_USER, MTN_DISBURSEMENT_API_KEY and MTN_DISBURSEMENT_SUBSCRIPTION_KEY belong"
                " together; set all three or none"
            )
        return self

    @property
    def uses_embedded_database(self) -> bool:
        return self.database_url is None and self.database_host is None

    @property
    def configured_dsn(self) -> str | None:
        """The database that the environment names, or None for the embedded one."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.database_host is None:
            return None
        password = self.database_password.get_secret_value() if self.database_password else ""
        login = quote(self.database_user, safe="") + (f":{quote(password, safe='')}" if password else "")
        if self.database_host.startswith("/"):
            return f"postgresql://{login}@/{self.database_name}?" + urlencode(
                {"host": self.database_host, "port": self.database_port}
            )
        host = f"[{self.database_host}]" if ":" in self.database_host else self.database_host
        return f"postgresql://{login}@{host}:{self.database_port}/{self.database_name}"

    @property
    def expires_after(self) -> timedelta:
        return timedelta(seconds=self.payment_expires_after_seconds)


def _text(value: object) -> str | None:
    return value.get_secret_value() if isinstance(value, SecretStr) else value if isinstance(value, str) else None


def named() -> frozenset[str]:
    """What the environment and `.env` set, known or not, in lower case."""
    return frozenset({*EnvSettingsSource(Settings).env_vars, *DotEnvSettingsSource(Settings).env_vars})


def load(*, demo: bool = False) -> Settings:
    """Read the settings. Raises ConfigurationError: one sentence that names the variable."""
    try:
        return Settings(kobiri_demo=True) if demo else Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"] if isinstance(part, str)).upper()
        text = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{name}: {text}" if name else text) from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
