"""The platform's MTN account, as the environment names it."""

from kobiri.config import Settings
from kobiri.providers.mtn.adapter import MtnAccount, MtnProvider

CALLBACK_PATH = "/api/v1/webhooks/mtn"

# The sandbox takes EUR alone; each country its own money (README 2 [D2]).
CURRENCIES = {
    "sandbox": "EUR", "mtnzambia": "ZMW", "mtnuganda": "UGX", "mtnghana": "GHS", "mtnrwanda": "RWF",
    "mtncameroon": "XAF", "mtncongo": "XAF", "mtnivorycoast": "XOF", "mtnbenin": "XOF",
    "mtnguineaconakry": "GNF", "mtnswaziland": "SZL", "mtnsouthafrica": "ZAR", "mtnliberia": "LRD",
    "mtnsouthsudan": "SSP", "mtnnigeria": "NGN",
}  # fmt: skip


def platform_account(settings: Settings) -> MtnProvider | None:
    """The account of MTN_COLLECTION_*, or None when it is not configured. Needs a running loop."""
    user, key = settings.mtn_collection_api_user, settings.mtn_collection_api_key
    subscription = settings.mtn_collection_key
    if user is None or key is None or subscription is None:
        return None
    environment = settings.mtn_target_environment
    secrets = (settings.mtn_webhook_secret, settings.mtn_webhook_secret_previous)
    return MtnProvider(
        MtnAccount(
            base_url=settings.mtn_base_url,
            target_environment=environment,
            currency=settings.mtn_currency or CURRENCIES.get(environment, "ZMW"),
            api_user=user,
            api_key=key.get_secret_value(),
            subscription_key=subscription.get_secret_value(),
            callback_url=settings.public_base_url + CALLBACK_PATH if settings.public_base_url else None,
            webhook_secrets=tuple(secret.get_secret_value().encode() for secret in secrets if secret),
            modes=_modes(settings),
            answer_within_s=settings.mtn_timeout_seconds,
            max_connections=settings.mtn_max_connections,
        )
    )


def _modes(settings: Settings) -> frozenset[str]:
    """The sandbox serves test keys, any other environment live ones, unless MTN_MODE says otherwise."""
    mode = settings.mtn_mode or ("test" if settings.mtn_target_environment == "sandbox" else "live")
    return frozenset({"live", "test"}) if mode == "both" else frozenset({mode})
