"""Is this process alive, and may it get requests."""

from typing import Any

from litestar import Request, Response, get

from kobiri.api.schemas import Health
from kobiri.api.state import ApiState

MEDIA_TYPE = "application/health+json"

AnyRequest = Request[Any, Any, Any]


@get("/health/live", opt={"public": True}, media_type=MEDIA_TYPE, summary="Is this process alive")
async def live() -> Health:
    """The process answers. Nothing else is looked at: a restart would mend nothing else."""
    return Health("pass")


@get("/health/ready", opt={"public": True}, media_type=MEDIA_TYPE, summary="May this process get requests")
async def ready(request: AnyRequest) -> Response[Health]:
    """Fails when the database is gone or not migrated, or the process is stopping; never because a provider is down."""
    state: ApiState = request.app.state.api
    trouble = "the process is stopping" if state.draining else await state.gateway.db.is_ready(state.newest_migration)
    if trouble:
        return Response(Health("fail", trouble), status_code=503, media_type=MEDIA_TYPE, headers={"retry-after": "1"})
    return Response(Health("pass"), media_type=MEDIA_TYPE)
