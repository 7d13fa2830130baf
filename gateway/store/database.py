"""How PostgreSQL is reached: one way to read an address, for SQLAlchemy and for asyncpg alike.

No statement outlives its time limit, and nothing here leans on session state, so a transaction pooler may stand
between: limits are set inside each transaction and prepared statements have no name. SQLAlchemy is imported with its
first engine: what calls go through asks asyncpg, and a worker that only serves calls has 28 MB less.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from gateway.errors import Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10.0

# Anything that says the server, not the statement, is the trouble: waiting and trying again may help.
AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    # The client's own state, where the server was killed in the middle of a statement.
    asyncpg.InternalClientError,
)
FAILED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""All that a statement on a connection of one's own fails with, the server's refusals among it."""
UNREACHABLE = "The configuration cannot be reached now: PostgreSQL is away. Try again in a moment."


@contextmanager
def reached() -> Generator[None]:
    """Turns a server that is away into Unavailable, for statements that go to asyncpg."""
    try:
        yield
    except (*AWAY, TimeoutError) as error:
        raise Unavailable(UNREACHABLE) from error


async def connect(
    url: str,
    *,
    application_name: str,
    statement_seconds: float = STATEMENT_SECONDS,
    statement_cache_size: int = 0,
) -> asyncpg.Connection:
    """One connection without SQLAlchemy; `url` as libpq writes it, a socket folder as `?host=` included."""
    return await asyncpg.connect(
        plain(url),
        timeout=CONNECT_SECONDS,
        command_timeout=statement_seconds,
        statement_cache_size=statement_cache_size,
        server_settings={"application_name": application_name},
    )


class Connections:
    """A pool of at most `size` connections without SQLAlchemy, made when they are asked for."""

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "weighbridge",
        size: int = 4,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        self._url = url
        self._name = application_name
        self._size = size
        self._seconds = statement_seconds
        self._pool: asyncpg.Pool | None = None

    @asynccontextmanager
    async def begun(self) -> AsyncGenerator[asyncpg.Connection]:
        """A connection in a transaction that ends with the block; raises what asyncpg raises, or TimeoutError."""
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                min_size=0, max_size=self._size, connect=self._connect, reset=_kept
            )
        # Nothing is connected by waiting for it: a pool that is made already is there at once.
        pool = await self._pool
        assert pool is not None
        async with pool.acquire(timeout=CONNECT_SECONDS) as lent:
            # Whatever is asked of what the pool lends goes to the connection.
            connection = cast("asyncpg.Connection", lent)
            try:
                await connection.execute(f"BEGIN; SET LOCAL statement_timeout = {int(self._seconds * 1000)}")
                yield connection
                await connection.execute("COMMIT")
            except BaseException:
                # Cheaper than to find out whether its transaction can still be ended; the next one asks anew.
                connection.terminate()
                raise

    async def close(self) -> None:
        """Close what is open, whatever it is doing."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _connect(self, *_: Any, **__: Any) -> asyncpg.Connection:
        try:
            # The client's own limit stands behind the server's, which a frozen server would not keep.
            return await connect(self._url, application_name=self._name, statement_seconds=self._seconds + 2)
        except asyncpg.PostgresError as error:
            # Whatever the server says, it said it before there was a statement: it is away.
            raise ConnectionError(f"{type(error).__name__}: {error}") from error


async def _kept(_: asyncpg.Connection) -> None:
    """What a connection needs before it is lent again: nothing, every transaction brings its own settings."""


def engine(
    url: str,
    *,
    application_name: str = "weighbridge",
    size: int = 4,
    statement_seconds: float = STATEMENT_SECONDS,
) -> AsyncEngine:
    """A pool of at most `size` connections (0: none is kept); a statement is ended after `statement_seconds`.

    asyncpg reads the address, so that it means the same to every part.
    """
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def creator(**_: Any) -> asyncpg.Connection:
        # The client's own limit stands behind the server's, which a frozen server would not keep.
        return await connect(url, application_name=application_name, statement_seconds=statement_seconds + 2)

    pool: dict[str, Any] = (
        {
            "pool_size": size,
            "max_overflow": 0,
            "pool_timeout": CONNECT_SECONDS,
            "pool_pre_ping": True,
            "pool_recycle": 1800,
        }
        if size
        else {"poolclass": NullPool}
    )
    made = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={
            "async_creator_fn": creator,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": _unnamed,
        },
        **pool,
    )
    limit = f"SET LOCAL statement_timeout = {int(statement_seconds * 1000)}"

    def bound(connection: Connection) -> None:
        connection.exec_driver_sql(limit)

    event.listen(made.sync_engine, "begin", bound)
    return made


def sessions(made: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions on that engine; what they loaded stays readable after a commit."""
    from sqlalchemy.ext.asyncio import async_sessionmaker

    return async_sessionmaker(made, expire_on_commit=False)


def plain(url: str) -> str:
    """The address without SQLAlchemy's driver name, which asyncpg does not know."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def _unnamed() -> str:
    # A named statement would be left behind on whichever server connection the pooler gave us then.
    return ""
