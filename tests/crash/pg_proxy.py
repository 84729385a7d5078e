"""A proxy before PostgreSQL that stops a transaction at a chosen moment.

It understands as much of the protocol as that takes: how messages are framed, which statement a prepared name stands
for, and the simple queries that open and end a transaction. Everything else passes as it is.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import parse_qs, unquote, urlsplit

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
CHUNK = 65_536

# How the product's own statements are told apart.
T1 = "INSERT INTO idempotency_keys"
T2 = "WITH written AS"
ATTEMPT = "SET attempt = attempt + 1"
SWITCH = "WITH switched AS"
READ = "clock_timestamp() AS now FROM payments"


class Moment(Enum):
    """Where a transaction is stopped."""

    STATEMENT = "before its statement"
    COMMIT = "before its COMMIT reaches the server"
    COMMITTED = "after its COMMIT, before the client learns of it"


class Decision(Enum):
    PASS = "go on"
    CUT = "cut both sides"
    HALF_OPEN = "cut the client, and let the server know nothing of it"


@dataclass
class Hold:
    """One stop. `reached` is set when a transaction stands there; a decision lets it go on or cuts it."""

    moment: Moment
    statement: str
    containing: bytes
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _decided: asyncio.Event = field(default_factory=asyncio.Event)
    _decision: Decision = Decision.PASS

    def decide(self, decision: Decision) -> None:
        self._decision = decision
        self._decided.set()

    async def stop_here(self) -> Decision:
        self.reached.set()
        await self._decided.wait()
        return self._decision

    def matches(self, moment: Moment, seen: list[tuple[str, bytes]]) -> bool:
        return (
            self.moment is moment
            and not self.reached.is_set()
            and any(self.statement in statement for statement, _ in seen)
            and any(self.containing in bound for _, bound in seen)
        )


class _Ended(Exception):
    """The connection was cut."""


class PgProxy:
    """Listens on 127.0.0.1 and passes everything to one server, but for what is held."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._holds: list[Hold] = []
        self._connections: set[_Connection] = set()
        self._none_left = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def dsn(self) -> str:
        """The same database and login by way of this proxy."""
        login = self._parts.netloc.rpartition("@")[0]
        return f"postgresql://{login}@127.0.0.1:{self.port}{self._parts.path}"

    def hold(self, moment: Moment, statement: str = "", containing: str | bytes = b"") -> Hold:
        """Stop the next transaction with this statement and these bytes among its parameters."""
        made = Hold(moment, statement, containing.encode() if isinstance(containing, str) else containing)
        self._holds.append(made)
        return made

    def find(self, moment: Moment, seen: list[tuple[str, bytes]]) -> Hold | None:
        return next((hold for hold in self._holds if hold.matches(moment, seen)), None)

    def clear(self) -> None:
        """Stop nothing any more."""
        self._holds.clear()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut all connections and take no more, as a database that is down."""
        assert self._server is not None
        self._server.close()
        for connection in tuple(self._connections):
            connection.cut()

    async def close(self) -> None:
        await self.refuse()
        if self._connections:
            await self._none_left.wait()

    async def open_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = {name: values[0] for name, values in parse_qs(self._parts.query).items()}
        host = query.get("host") or unquote(self._parts.hostname or "")
        port = int(query.get("port") or self._parts.port or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        self._none_left.clear()
        try:
            await connection.run()
        finally:
            connection.cut()
            self._connections.discard(connection)
            if not self._connections:
                self._none_left.set()


class _Connection:
    def __init__(self, proxy: PgProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client, self._to_client = reader, writer
        self._to_server: asyncio.StreamWriter | None = None
        self._statements: dict[bytes, str] = {}
        self._seen: list[tuple[str, bytes]] = []  # the open transaction's statements with what is bound to them
        self._held_answer: Hold | None = None
        self._half_open = asyncio.Event()
        self._over = asyncio.Event()

    def cut(self) -> None:
        self._over.set()
        self._to_client.transport.abort()
        if self._to_server is not None:
            self._to_server.transport.abort()

    async def run(self) -> None:
        startup = await self._startup()
        if startup is None:
            return
        try:
            server, self._to_server = await self._proxy.open_server()
        except OSError:  # it is down: so is the proxy, for its client
            return
        self._to_server.write(startup)
        pumps = [asyncio.create_task(self._up()), asyncio.create_task(self._down(server))]
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait({*pumps, over}, return_when=asyncio.FIRST_COMPLETED)
        if self._half_open.is_set():
            await self._over.wait()
        for task in (*pumps, over):
            task.cancel()
        for result in await asyncio.gather(*pumps, over, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, _Ended | OSError | EOFError):
                raise result

    async def _startup(self) -> bytes | None:
        """The client's first message; encryption is declined."""
        with suppress(OSError, EOFError):
            while True:
                size, code = struct.unpack("!II", head := await self._client.readexactly(8))
                if code not in (SSL_REQUEST, GSS_REQUEST):
                    return head + await self._client.readexactly(size - 8)
                self._to_client.write(b"N")
        return None

    async def _up(self) -> None:
        """From the client to the server, message by message."""
        assert self._to_server is not None
        while True:
            head = await self._client.readexactly(5)
            body = await self._client.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            await self._stop_before(head[:1], body)
            self._to_server.write(head + body)
            await self._to_server.drain()

    async def _stop_before(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._statements[name] = sql.decode()
        elif kind == b"B":
            _, name, bound = body.split(b"\0", 2)
            self._seen.append((self._statements.get(name, ""), bound))
            await self._stop(self._proxy.find(Moment.STATEMENT, self._seen[-1:]))
        elif kind == b"Q" and body.startswith(b"BEGIN"):
            self._seen = []
        elif kind == b"Q" and body == b"COMMIT\0":
            await self._stop(self._proxy.find(Moment.COMMIT, self._seen))
            self._held_answer = self._proxy.find(Moment.COMMITTED, self._seen)

    async def _down(self, server: asyncio.StreamReader) -> None:
        """From the server to the client."""
        while data := await server.read(CHUNK):
            hold, self._held_answer = self._held_answer, None
            await self._stop(hold)
            self._to_client.write(data)
            await self._to_client.drain()

    async def _stop(self, hold: Hold | None) -> None:
        decision = await hold.stop_here() if hold is not None else Decision.PASS
        if decision is Decision.CUT:
            self.cut()
            raise _Ended
        if decision is Decision.HALF_OPEN:
            self._half_open.set()
            self._to_client.transport.abort()
            raise _Ended


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[PgProxy]:
    """A proxy before the database of `dsn`."""
    proxy = PgProxy(dsn)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
