"""POST and PUT /webhooks/{provider}: the providers' callbacks; GET /webhooks/{provider}/status: their health."""

from typing import Any

from litestar import Request, get, post, put
from litestar.params import FromPath, RawBody
from msgspec import Struct

from kobiri.api import schemas
from kobiri.api.addresses import source_address
from kobiri.api.auth import caller_of
from kobiri.api.schemas import CallbackHealth
from kobiri.api.state import ApiState
from kobiri.providers.base import Callback
from kobiri.services import callbacks as service
from kobiri.store.payments import Author

AnyRequest = Request[Any, Any, Any]


class Taken(Struct):
    """The callback was taken; there is no need to send it again."""

    status: str = "taken"


@post("/webhooks/{provider:str}", opt={"public": True}, status_code=200, summary="Take a provider's callback")
async def post_callback(request: AnyRequest, provider: FromPath[str], body: RawBody) -> Taken:
    """What the provider says about a payment. Signed ones are applied, unsigned ones make us ask at once."""
    return await _receive(request, provider, body)


@put("/webhooks/{provider:str}", opt={"public": True}, status_code=200, summary="Take a provider's callback")
async def put_callback(request: AnyRequest, provider: FromPath[str], body: RawBody) -> Taken:
    """The same by PUT, which some of MTN's platforms use."""
    return await _receive(request, provider, body)


@post(
    "/webhooks/{provider:str}/{token:str}",
    opt={"public": True},
    status_code=200,
    summary="Take a callback for an account of yours",
)
async def post_account_callback(
    request: AnyRequest, provider: FromPath[str], token: FromPath[str], body: RawBody
) -> Taken:
    """What the provider says about a payment by one of your own accounts. The token names the account: keep it."""
    return await _receive(request, provider, body, token)


@put(
    "/webhooks/{provider:str}/{token:str}",
    opt={"public": True},
    status_code=200,
    summary="Take a callback for an account of yours",
)
async def put_account_callback(
    request: AnyRequest, provider: FromPath[str], token: FromPath[str], body: RawBody
) -> Taken:
    """The same by PUT, which some of MTN's platforms use."""
    return await _receive(request, provider, body, token)


@get("/webhooks/{provider:str}/status", opt={"scope": "payments:read"}, summary="See how callbacks arrive")
async def callback_status(request: AnyRequest, provider: FromPath[str]) -> CallbackHealth:
    """Your payments' callbacks from this provider in the last 24 hours."""
    state: ApiState = request.app.state.api
    account, health = await service.health(state.gateway, caller_of(request), provider)
    return CallbackHealth(
        provider=provider,
        signed=account.spec.signs_callbacks or bool(account.account.webhook_secrets),
        callback_url_configured=state.callback_url_configured,
        applied_24h=health.applied,
        hints_24h=health.hints,
        last_received_at=schemas.timestamp(health.last_received_at) if health.last_received_at else None,
    )


async def _receive(request: AnyRequest, provider: str, body: bytes, token: str | None = None) -> Taken:
    state: ApiState = request.app.state.api
    address = source_address(request.scope, state.trusted_proxies)
    # Only bad callbacks count against an address: a provider that posts thousands from one must not be refused.
    await state.throttle.check_address(address)
    callback = Callback(
        method=request.method,
        authority=request.headers.get("host", ""),
        path=request.scope["path"],
        headers=tuple((name.lower(), value) for name, value in request.headers.multi_items()),
        body=body,
    )
    author = Author(f"provider:{provider}"[:80], request.scope["state"]["request_id"])
    known = False
    try:
        known = await service.receive(state.gateway, state.refusals, provider, token, callback, author)
    except service.OUR_TROUBLE:
        known = True
        raise
    finally:
        if not known:
            await state.throttle.count_address(address)
    return Taken()
