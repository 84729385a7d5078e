"""Why a person decides something: asked for wherever a decision is one."""

from kobiri.domain.errors import Unprocessable

MAX_REASON = 500


def require(reason: str, because: str) -> None:
    """Raises Unprocessable where a reason is empty or too long. `because` says why it is asked for."""
    if not 1 <= len(reason.strip()) <= MAX_REASON:
        raise Unprocessable(f"A reason of 1 to {MAX_REASON} characters is required: {because}.")
