"""Kept calls in a real PostgreSQL: who may read them, what an outage costs, and how days go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from gateway.ids import RequestIds
from gateway.payloads import storing
from gateway.payloads.keeping import Keeping, Kept
from gateway.payloads.storing import PayloadStore
from gateway.store import database
from gateway.store import payloads as retention
from gateway.store.payloads import drop_payload_days, forget_payloads

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

DENIED = asyncpg.InsufficientPrivilegeError
numbers = RequestIds()


def kept(
    request: bytes = b'{"asked": 1}',
    answer: bytes = b'{"told": 2}',
    *,
    at: datetime | None = None,
    **more: Any,
) -> Kept:
    made = numbers.make()
    if at is not None:
        made = int(at.timestamp() * 1000).to_bytes(6, "big") + made[6:]
    given: dict[str, Any] = {
        "request_id": made, "ended_at_ms": 1, "endpoint_id": "n1", "endpoint_name": "chat", "principal_id": "u1",
        "principal_name": "ann", "api": "openai.chat", "client_request_id": None, "entity_id": "e1", "entity_name": "first",
        "http_status": 200, "duration_ms": 7, "sampling_fraction": 0.5, "stream": False, "max_bytes": 1000,
        "request": request, "answer": answer, "answer_cut": False,
    }  # fmt: skip
    return Kept(**{**given, **more})


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def keeping(told: list[str]) -> Keeping:
    return Keeping(told.append, wall_ms=lambda: 0, monotonic_ns=lambda: 0)


@pytest.fixture
async def store(
    database_url: str, keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PayloadStore]:
    monkeypatch.setattr(storing, "AGAIN_SECONDS", 0.02)
    made = PayloadStore(database_url, keeping)
    made.start()
    yield made
    await made.close()


@pytest.fixture
async def reader(postgres_server: EmbeddedPostgres, database_name: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_server.url("weighbridge_payloads", database_name))
    yield connection
    await connection.close()


def put(keeping: Keeping, each: Kept) -> UUID:
    keeping.put(each, 0)
    return UUID(bytes=each.request_id)


async def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)


async def test_its_own_role_reads_what_was_kept_and_nothing_else(
    store: PayloadStore, keeping: Keeping, told: list[str], reader: asyncpg.Connection, owner_url: str
) -> None:
    made = put(keeping, kept(b"\0a" * 2, b"x" * 2000))
    await until(lambda: told == ["stored"])
    row = await reader.fetchrow("SELECT * FROM calls WHERE databricks_request_id = $1", made)
    assert row is not None
    assert (row["request"], row["response"], row["response_bytes"]) == ("\ufffda\ufffda", "x" * 1000, 2000)
    assert row["logging_error_codes"] == ["MAX_RESPONSE_SIZE_EXCEEDED"]
    assert (row["requester"], row["status_code"], row["sampling_fraction"]) == ("ann", 200, 0.5)
    owner = await asyncpg.connect(owner_url)
    try:
        found = await owner.fetch(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm')"
            " AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        )
    finally:
        await owner.close()
    names = {each["name"] for each in found}
    assert {"gateway.payloads", "gateway.requests", "serving.endpoint_usage", "payloads.calls"} <= names
    for name in sorted(names - {"payloads.calls"}):
        with pytest.raises(DENIED):
            await reader.execute(f"SELECT FROM {name}")
    await reader.execute("SET default_transaction_read_only = off")
    for statement in ("DELETE FROM payloads.calls", "UPDATE payloads.calls SET request = ''"):
        with pytest.raises(DENIED):
            await reader.execute(statement)


@pytest.mark.parametrize("role", ["weighbridge_app", "weighbridge_auditor"])
async def test_neither_the_application_nor_an_auditor_can_read_them(
    postgres_server: EmbeddedPostgres, database_name: str, role: str
) -> None:
    connection = await asyncpg.connect(postgres_server.url(role, database_name))
    try:
        for name in ("gateway.payloads", "payloads.calls"):
            with pytest.raises(DENIED):
                await connection.execute(f"SELECT FROM {name}")
        for statement in ("DELETE FROM gateway.payloads", "UPDATE gateway.payloads SET request = ''"):
            with pytest.raises(DENIED):
                await connection.execute(f"SET default_transaction_read_only = off; {statement}")
    finally:
        await connection.close()


async def test_calls_wait_through_an_outage_and_are_stored_once_after_it(
    store: PayloadStore,
    keeping: Keeping,
    told: list[str],
    reader: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, refusals = storing.connect, 0

    async def away(*_: Any, **__: Any) -> Any:
        nonlocal refusals
        refusals += 1
        raise OSError("away")

    monkeypatch.setattr(storing, "connect", away)
    made = [put(keeping, kept()) for _ in range(150)]
    await until(lambda: refusals >= 3)
    assert (told, len(keeping.waiting)) == ([], 150)
    monkeypatch.setattr(storing, "connect", real)
    await until(lambda: len(told) == 150)
    assert set(told) == {"stored"}
    assert keeping.held == 0
    again = kept(request_id=made[0].bytes)
    put(keeping, again)
    await until(lambda: len(told) == 151)
    found = await reader.fetchval("SELECT count(*) FROM calls WHERE databricks_request_id = ANY($1)", made)
    assert found == 150


async def test_a_row_that_is_refused_is_dropped_alone(
    store: PayloadStore, keeping: Keeping, told: list[str], reader: asyncpg.Connection
) -> None:
    good = [put(keeping, kept())]
    bad = put(keeping, kept(endpoint_name="no\0name"))
    good.append(put(keeping, kept()))
    await until(lambda: len(told) == 3)
    assert sorted(told) == ["dropped", "stored", "stored"]
    rows = await reader.fetch(
        "SELECT databricks_request_id AS id FROM calls WHERE databricks_request_id = ANY($1)", [*good, bad]
    )
    assert {each["id"] for each in rows} == set(good)


async def test_what_waits_at_the_end_is_written_before_the_process_goes(
    database_url: str, keeping: Keeping, told: list[str], reader: asyncpg.Connection
) -> None:
    store = PayloadStore(database_url, keeping)
    made = put(keeping, kept())
    await store.close()
    assert told == ["stored"]
    assert await reader.fetchval("SELECT count(*) FROM calls WHERE databricks_request_id = $1", made) == 1


async def test_with_postgresql_away_at_the_end_what_waits_is_counted_as_dropped(
    keeping: Keeping, told: list[str], tmp_path: Any
) -> None:
    store = PayloadStore(f"postgresql://nobody@/none?host={tmp_path}", keeping)
    put(keeping, kept())
    await store.close()
    assert (told, keeping.held) == (["dropped"], 0)


async def test_days_are_dropped_whole_once_they_are_over_for_long_enough(
    store: PayloadStore, keeping: Keeping, told: list[str], reader: asyncpg.Connection, database_url: str
) -> None:
    now = datetime(2031, 3, 10, 0, 30, tzinfo=UTC)
    days = [now - timedelta(days=each) for each in (32, 31, 30, 29)]
    ids = [put(keeping, kept(at=each)) for each in days]
    await until(lambda: len(told) == 4)
    engine = database.engine(database_url, size=0)
    try:
        assert await drop_payload_days(engine, timedelta(days=30), now=now) >= 2
        assert await drop_payload_days(engine, timedelta(days=30), now=now) == 0
    finally:
        await engine.dispose()
    rows = await reader.fetch(
        "SELECT databricks_request_id AS id FROM calls WHERE databricks_request_id = ANY($1)", ids
    )
    assert {each["id"] for each in rows} == set(ids[2:])


async def test_an_endpoints_calls_go_as_early_as_it_says_and_no_other_endpoints(
    store: PayloadStore,
    keeping: Keeping,
    told: list[str],
    reader: asyncpg.Connection,
    database_url: str,
    owner_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # More than one batch is to go.
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    owner = await asyncpg.connect(owner_url)
    change = 1 + (await owner.fetchval("SELECT coalesce(max(number), 0) FROM gateway.configuration_change"))
    brief, usual, gone, longer = (str(UUID(int=each)) for each in range(1, 5))
    async with owner.transaction():
        for number in (change, change + 1):
            await owner.execute(
                "INSERT INTO gateway.configuration_change (number, changed_at, touched) VALUES ($1, now(), '{}')",
                number,
            )
        for endpoint, rule, ended in (
            (brief, '{"payloads": {"enabled": true, "keep_days": 3}}', None),
            (usual, '{"payloads": {"enabled": true}}', None),
            # Deleted, and its calls are not kept any longer for it.
            (gone, '{"payloads": {"enabled": true, "keep_days": 2}}', change + 1),
            (longer, '{"payloads": {"enabled": true, "keep_days": 90}}', None),
        ):
            await owner.execute(
                "INSERT INTO gateway.endpoints (from_change, valid_from, to_change, valid_to, id, name, task, created_at, settings)"
                " VALUES ($1, now(), $2, CASE WHEN $2::int8 IS NULL THEN NULL ELSE now() END, $3, $3::uuid::text,"
                " 'llm/v1/chat', now(), $4)",
                change, ended, endpoint, rule,
            )  # fmt: skip
    await owner.close()
    now = datetime(2032, 5, 20, 12, tzinfo=UTC)
    ids = {
        (endpoint, days): put(keeping, kept(at=now - timedelta(days=days, minutes=1), endpoint_id=endpoint))
        for endpoint in (brief, usual, gone, longer)
        for days in (1, 2, 3, 4, 5, 6)
    }
    await until(lambda: len(told) == len(ids))
    engine = database.engine(database_url, size=0)
    try:
        assert await forget_payloads(engine, timedelta(days=30), now=now) == 4 + 5
        assert await forget_payloads(engine, timedelta(days=30), now=now) == 0
    finally:
        await engine.dispose()
    rows = await reader.fetch(
        "SELECT databricks_request_id AS id FROM calls WHERE databricks_request_id = ANY($1)",
        list(ids.values()),
    )
    left = {place for place, id_ in ids.items() if id_ in {each["id"] for each in rows}}
    assert left == {
        *((brief, days) for days in (1, 2)),
        (gone, 1),
        *((endpoint, days) for endpoint in (usual, longer) for days in range(1, 7)),
    }
