"""Work that is done to its end, whether or not somebody waits for it."""

import asyncio
import gc
from typing import Any

from kobiri.domain.errors import Busy
from kobiri.services.gateway import OpenCalls


async def test_calls_that_are_cut_twice_end_once() -> None:
    """A stop's timer and its drain may both come, in one turn of the loop or in the next ones."""
    for pause_turns in (0, 1, 2):
        calls = OpenCalls()
        ended: list[str] = []

        async def hang(calls: OpenCalls = calls, ended: list[str] = ended) -> None:
            try:
                async with calls.track():
                    await asyncio.Event().wait()
            except TimeoutError:
                await asyncio.sleep(0)
                ended.append("cut")

        tasks = [calls.start(hang()) for _ in range(3)]
        await asyncio.sleep(0)
        calls.cut()
        for _ in range(pause_turns):
            await asyncio.sleep(0)
        calls.cut()
        await asyncio.gather(*tasks)
        calls.cut()
        assert ended == ["cut"] * 3


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
