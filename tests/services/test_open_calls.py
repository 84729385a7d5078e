"""Work that is done to its end, whether or not somebody waits for it."""

import asyncio
import gc
from typing import Any

from kobiri.domain.errors import Busy
from kobiri.services.gateway import OpenCalls


async def test_what_fails_while_nobody_waits_is_no_defect_of_ours() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    calls = OpenCalls()

    async def store() -> None:
        raise Busy("No database connection became free in time.", retry_after_s=1)

    calls.start(store())
    await calls.drain(1)
    gc.collect()

    assert not calls.running
    assert not complaints, complaints
