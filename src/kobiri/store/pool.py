"""Connections kept open, and lent to one transaction at a time.

The driver's own pool makes a task for each release and wraps each call: on the payment path that was half of what a
transaction costs the client (docs/decisions/0013).
"""

import asyncio
from contextlib import suppress
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CLOSE_WITHIN_S = 2.0


class NoneFree(Exception):
    """All connections are lent out, and none came back in time."""


class Pool:
    """Up to `size` connections, opened when they are first needed. The latest returned is lent first."""

    def __init__(
        self, dsn: str, *, size: int, connect_within_s: float, command_within_s: float, statement_cache_size: int
    ) -> None:
        self._dsn = dsn
        self._connect_within_s = connect_within_s
        self._command_within_s = command_within_s
        self._statement_cache_size = statement_cache_size
        self._places = asyncio.Semaphore(size)
        self._free: list[Connection] = []
        self._lent: set[Connection] = set()  # those that may be lent again
        self._closed = False

    async def acquire(self, within_s: float) -> Connection:
        """Borrow a connection. Raises NoneFree, or what connecting raises."""
        if self._closed:
            raise asyncpg.InterfaceError("the pool is closed")
        if self._places.locked():
            try:
                async with asyncio.timeout(within_s):
                    await self._places.acquire()
            except TimeoutError:
                raise NoneFree from None
        else:
            await self._places.acquire()
        try:
            while self._free:
                connection = self._free.pop()
                if not connection.is_closed():
                    self._lent.add(connection)
                    return connection
            connection = await self._connect()
        except BaseException:
            self._places.release()
            raise
        self._lent.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Give a connection back. One that is still inside of a transaction is dropped."""
        usable = connection in self._lent and not connection.is_closed() and not connection.is_in_transaction()
        if usable and not self._closed:
            self._free.append(connection)
        else:
            connection.terminate()
        self._lent.discard(connection)
        self._places.release()

    def drop(self, connection: Connection) -> None:
        """Give a connection back that is not to be used again."""
        self._lent.discard(connection)
        self.release(connection)

    def distrust(self) -> None:
        """Use no connection again that is open now: the server at their other end is not what it was."""
        self._lent.clear()
        while self._free:
            self._free.pop().terminate()

    async def close(self) -> None:
        """Close what is free; what is lent out is closed when it comes back."""
        self._closed = True
        while self._free:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._free.pop().close(timeout=CLOSE_WITHIN_S)

    async def _connect(self) -> Connection:
        return await asyncpg.connect(
            self._dsn,
            timeout=self._connect_within_s,
            command_timeout=self._command_within_s,
            statement_cache_size=self._statement_cache_size,
            server_settings={"application_name": "kobiri", "jit": "off"},
        )
