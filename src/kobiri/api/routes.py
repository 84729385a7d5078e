"""The table of routes, and the application around it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from litestar import Litestar, Router
from litestar.exceptions import HTTPException

from kobiri.api import callbacks, docs, health, payments, problems, providers
from kobiri.api.auth import guard
from kobiri.api.observe import Observe
from kobiri.api.strict_json import MAX_BODY_BYTES
from kobiri.domain.errors import KobiriError

API = Router(
    "/api/v1",
    route_handlers=[
        payments.create_payment,
        payments.list_payments,
        payments.get_payment,
        payments.list_transactions,
        payments.list_events,
        providers.list_providers,
        providers.predict_provider,
        callbacks.post_callback,
        callbacks.put_callback,
        callbacks.post_account_callback,
        callbacks.put_account_callback,
        callbacks.callback_status,
    ],
)


def build(lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]]) -> Litestar:
    """The ASGI application of one process. `lifespan` sets `app.state.api` to an ApiState."""
    app = Litestar(
        route_handlers=[API, health.live, health.ready, docs.page, docs.openapi, docs.errors],
        guards=[guard],
        exception_handlers={
            KobiriError: problems.answer_error,
            HTTPException: problems.answer_framework_error,
            Exception: problems.answer_defect,
        },
        request_max_body_size=MAX_BODY_BYTES,
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    # Around the router: as middleware it would not see what has no route.
    app.asgi_handler = Observe(app.asgi_handler)
    return app
