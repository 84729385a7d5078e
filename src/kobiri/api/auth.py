"""Who calls: API key in, `Caller` out, with the throttle before and behind it."""

import unicodedata
from typing import Any, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from kobiri.api.addresses import source_address
from kobiri.api.state import ApiState
from kobiri.domain.errors import InvalidQuery, ScopeMissing, TenantMismatch, Unauthenticated
from kobiri.services.access import Caller

PUBLIC = "public"
SCOPE = "scope"

Connection = ASGIConnection[Any, Any, Any, Any]


async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Runs before every handler: each route declares a scope or that it is public."""
    _check_parameters(connection, handler)
    if handler.opt.get(PUBLIC) or connection.scope.get("method") == "OPTIONS":  # which only names the methods
        return
    state = cast(ApiState, connection.app.state.api)
    address = source_address(connection.scope, state.trusted_proxies)
    await state.throttle.check_address(address)
    try:
        caller = await state.access.authenticate(_key(connection), address)
        _check_tenant(connection, caller)
    except (Unauthenticated, TenantMismatch):
        await state.throttle.count_address(address)
        raise
    connection.scope["state"]["caller"] = caller
    connection.scope["state"]["quota"] = await state.throttle.count_caller(caller)
    scope = handler.opt[SCOPE]
    if scope not in caller.scopes:
        raise ScopeMissing(f"This needs the scope {scope}.")


def caller_of(connection: Connection) -> Caller:
    """The caller that the guard let in."""
    return cast(Caller, connection.scope["state"]["caller"])


def _key(connection: Connection) -> str | None:
    given = connection.headers.get("x-api-key")
    if given is not None:
        return given
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _check_tenant(connection: Connection, caller: Caller) -> None:
    claimed = connection.headers.get("x-tenant-id")
    if claimed is not None and claimed not in (caller.slug, caller.tenant_id):
        raise TenantMismatch


def _check_parameters(connection: Connection, handler: BaseRouteHandler) -> None:
    """A filter with a typing error must not show everything."""
    if not connection.scope["query_string"]:
        return
    known = handler.opt.get("parameters", ())
    for name in connection.query_params:
        if name not in known:
            told = ", ".join(known) if known else "none"
            raise InvalidQuery(f"There is no parameter {name[:40]!r} here; there are: {told}.")
        values = connection.query_params.getall(name)
        if len(values) > 1:
            raise InvalidQuery(f"{name}: give it once.")
        # NUL and half surrogates among them, which no database takes. A line end behind is a slip of copying.
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in values[0].strip()):
            raise InvalidQuery(f"{name}: it holds a control character.")
