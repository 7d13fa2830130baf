"""Models from SQL through any client: answers, refusals, isolation, cancellation, kills, and what a role cannot do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio

from gateway.store.ai_query import addressed, make_login
from tests.faults.answers import embed
from tests.faults.journal import PEER_CLOSED
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, limit
from tests.system.other_postgres import installed
from tests.system.other_postgres import server as other_postgres

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANNOUNCED = f"SELECT ai_query('{ENDPOINT}', 'Describe Databricks SQL in 30 words.') AS chat"
OTHERS = installed()
ISOLATIONS = ("read_committed", "repeatable_read", "serializable")


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"tight": Person((limit("requests", 2),))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    homes: Path,
    database_url: str,
    database_name: str,
    postgres_server: EmbeddedPostgres,
    module_redis: str,
    upstream: Upstream,
    people: dict[str, Person],
    workers: int,
) -> AsyncIterator[Deployment]:
    """A worker, a drainer, and the process that answers calls from SQL; roles for the people."""
    await postgres_server.install_ai_query(database_name)
    made = Deployment(
        home=homes / "sql",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=upstream.url,
        people=people,
        workers=workers,
        sql_calls=True,
    )
    root = await asyncpg.connect(postgres_server.url("postgres", database_name))
    try:
        for role in ("tight", "stranger", "nobody", "pool"):
            await root.execute(f"DROP ROLE IF EXISTS {role}")
            await root.execute(f"CREATE ROLE {role} LOGIN")
            await root.execute(f'GRANT CONNECT ON DATABASE "{database_name}" TO {role}')
        await root.execute("GRANT demo TO pool")
        async with made:
            for role in ("tight", "stranger"):
                body = {"sql_role": role, "principal_id": made.ids[role]}
                await made.administer("PUT", "/sql-roles", body)
            yield made
        for role in ("tight", "stranger", "nobody", "pool"):
            await root.execute(f"DROP OWNED BY {role}")
            await root.execute(f"DROP ROLE {role}")
    finally:
        await root.close()


@pytest.fixture(scope="module")
def connected(postgres_server: EmbeddedPostgres, database_name: str) -> Any:
    """A connection of a role: `async with connected("demo") as sql`."""

    @asynccontextmanager
    async def connect(role: str = "demo") -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(postgres_server.url(role, database_name), timeout=20)
        try:
            yield connection
        finally:
            connection.terminate()

    return connect


def ask(script: str = "text=fine", **named: str) -> str:
    prompt = f"[[{script}]]".replace("'", "''")
    more = "".join(f", {name} => {value}" for name, value in named.items())
    return f"SELECT ai_query('{ENDPOINT}', '{prompt}'{more})"


async def until(holds: Any, what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def error_of(sql: asyncpg.Connection, statement: str) -> asyncpg.PostgresError:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.fetch(statement)
    return caught.value


async def test_the_announcement_s_sql_is_answered_and_is_the_principal_s_request(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    seen = len(upstream.records)
    async with connected() as sql:
        assert "w1" in await sql.fetchval(ANNOUNCED)
    record = upstream.records[seen]
    row = await gateway.row_of(record.request_id or "")
    assert (row["api"], row["principal_name"], row["status"]) == ("sql.ai_query", "demo", "ok")
    assert row["end_user"] == "demo"
    assert row["completion_tokens"] == record.emitted
    assert not await gateway.query("SELECT FROM gateway.resumed_requests")


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_it_answers_in_every_isolation(gateway: Deployment, connected: Any, isolation: str) -> None:
    async with connected() as sql, sql.transaction(isolation=isolation):
        await sql.fetchval("SELECT count(*) FROM pg_class")
        assert await sql.fetchval(ask("text='in here'")) == "in here"
        assert await sql.fetchval(ask("text='and again'")) == "and again"


async def test_arguments_of_databricks_are_taken_under_their_folded_names(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    seen = len(upstream.records)
    async with connected() as sql:
        told = await sql.fetchval(
            ask(
                """json='{"n": 7}'""",
                returnType="'STRUCT<n: INT>'",
                failOnError="false",
                modelParameters="jsonb_build_object('max_tokens', 33, 'temperature', 0)",
                responseFormat="""'{"type": "json_object"}'""",
            )
        )
        assert json.loads(told)["errorMessage"] is None
        assert json.loads(json.loads(told)["result"]) == {"n": 7}
        await sql.fetchval(ask("tokens=10", modelparameters="jsonb_build_object('max_tokens', 3)"))
        assert upstream.records[-1].emitted == 3
        assert await sql.fetchval(ask("text=42", returntype="'INT'")) == "42"
        assert (await error_of(sql, ask("text=many", returntype="'INT'"))).sqlstate == "22P02"
        assert await sql.fetchval("SELECT ai_query('x', NULL)") is None
    assert len(upstream.records) == seen + 4


async def test_refusals_are_errors_with_a_sqlstate_that_says_which(
    gateway: Deployment, connected: Any
) -> None:
    async with connected() as sql:
        for statement, state in (
            ("SELECT ai_query('no-such', 'x')", "42704"),
            (ask(modelparameters="'{\"temperature\": 9}'"), "22023"),
            (ask(modelparameters='\'{"api_base": "http://x"}\''), "22023"),
            (ask(modelparameters="'{\"messages\": []}'"), "22023"),
            (ask(responseformat="'STRUCT<a: INT>'"), "22023"),
            (ask(returntype="'PLANET'"), "22023"),
            (ask("fail=500"), "58000"),
            (f"SELECT ai_embed('{ENDPOINT}', 'x')", "0A000"),
            ("SELECT ai_query(NULL, 'x')", "22004"),
        ):
            error = await error_of(sql, statement)
            assert error.sqlstate == state, f"{statement}: {error.sqlstate} {error}"
        told = json.loads(await sql.fetchval(ask("fail=500", failonerror="false")))
        assert told["result"] is None
        assert told["errorMessage"]
    async with connected("stranger") as sql:
        error = await error_of(sql, ask())
        assert error.sqlstate == "42501"
        assert "CAN_QUERY" in str(error)
    async with connected("nobody") as sql:
        assert (await error_of(sql, ask())).sqlstate == "42501"
    async with connected("tight") as sql:
        found = [(await sql.fetchval(ask(failonerror="false"))) for _ in range(3)]
        assert [json.loads(each)["errorMessage"] is None for each in found] == [True, True, False]
        assert (await error_of(sql, ask())).sqlstate == "53400"


async def test_a_text_is_embedded_and_the_vector_is_a_row_of_the_ledger(
    gateway: Deployment, connected: Any
) -> None:
    made = await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": "vectors",
            "task": "llm/v1/embeddings",
            "served_entities": [{"name": "e", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}],
        },
    )
    (demo,) = (await gateway.administer("GET", "/users?name=demo"))["items"]
    await gateway.administer(
        "PUT",
        f"/endpoints/{made['id']}/grants",
        {"grantee_kind": "user", "grantee_id": demo["id"], "level": "CAN_QUERY"},
    )
    async with connected() as sql:
        assert await sql.fetchval("SELECT ai_embed('vectors', 'a text')") == pytest.approx(embed("a text"))
        assert await sql.fetchval("SELECT ai_embed('vectors', NULL)") is None
        assert (await error_of(sql, "SELECT ai_query('vectors', 'x')")).sqlstate == "0A000"
    await gateway.drained()
    (row,) = await gateway.query(
        "SELECT prompt_tokens, completion_tokens, status FROM gateway.requests WHERE api = 'sql.ai_embed' AND endpoint_name = 'vectors'"
    )
    assert dict(row) == {"prompt_tokens": 2, "completion_tokens": 0, "status": "ok"}


async def test_many_calls_are_in_flight_at_once_and_a_failure_ends_what_is_left(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    requests = "ARRAY(SELECT CASE WHEN i % 7 = 0 THEN NULL ELSE '[[first=150ms text=a' || i || ']]' END FROM generate_series(1, 40) i)"
    async with connected() as sql:
        began = time.monotonic()
        rows = await sql.fetch(
            f"SELECT * FROM ai_query_many('{ENDPOINT}', {requests}, parallel => 20) ORDER BY n"
        )
        assert [row["n"] for row in rows] == list(range(1, 41))
        assert all(row["result"] == (None if row["n"] % 7 == 0 else f"a{row['n']}") for row in rows)
        print(f"40 calls of 150 ms took {time.monotonic() - began:.2f} s")
        error = await error_of(
            sql,
            f"SELECT * FROM ai_query_many('{ENDPOINT}', ARRAY['[[first=30s]]', '[[fail=500]]', '[[first=30s]]'])",
        )
        assert error.sqlstate == "58000"
    await upstream.until(lambda records: all(each.ended != "open" for each in records), 15.0)


async def test_a_cancelled_statement_frees_the_engine_within_a_second_and_is_settled_as_left(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    for how in ("cancel", "timeout", "terminate"):
        seen = len(upstream.records)
        async with connected() as sql, connected() as other:
            pid = sql.get_server_pid()
            if how == "timeout":
                await sql.execute("SET statement_timeout = '1500ms'")
            running = asyncio.create_task(sql.fetchval(ask("tokens=50 first=60s")))
            await upstream.until(lambda records, seen=seen: len(records) > seen, 20.0)
            if how == "cancel":
                await other.fetchval("SELECT pg_cancel_backend($1)", pid)
            elif how == "terminate":
                await other.fetchval("SELECT pg_terminate_backend($1)", pid)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await running
            ended = time.time()
            await upstream.until(lambda records, seen=seen: records[seen].ended == PEER_CLOSED, 20.0)
            closed = upstream.records[seen].peer_closed_at
            assert closed is not None
            print(f"{how}: the upstream was free {closed - ended:+.3f} s after the statement had ended")
            if how != "terminate":
                assert closed - ended < 1.0
            row = await gateway.row_of(upstream.records[seen].request_id or "")
            assert (row["status"], row["stopped_by"], row["cost_nano_usd"]) == ("cut", "client", 0)


async def test_no_connection_outlives_a_call_however_it_ends(
    gateway: Deployment, connected: Any, postgres_server: EmbeddedPostgres, database_name: str
) -> None:
    root = await asyncpg.connect(postgres_server.url("postgres", database_name))
    try:
        async with connected() as sql:
            await sql.fetchval(ask())
            await error_of(sql, "SELECT ai_query('no-such', 'x')")
            await error_of(sql, ask("text=x", returntype="'INT'"))
            await sql.execute("SET statement_timeout = '500ms'")
            await error_of(sql, ask("first=20s"))

            async def none_left() -> bool:
                return not await root.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'weighbridge_caller'"
                )

            await until(none_left, "a connection of the caller's role is still there")
            # Asked in the very session that called.
            assert (
                await error_of(sql, "SELECT weighbridge_dblink.dblink_get_connections()")
            ).sqlstate == "42501"
    finally:
        await root.close()


async def test_an_ordinary_role_can_neither_use_the_connection_nor_forge_a_caller_nor_read_a_call(
    gateway: Deployment, upstream: Upstream, connected: Any, postgres_server: EmbeddedPostgres
) -> None:
    async with connected("nobody") as sql, connected() as other:
        seen = len(upstream.records)
        running = asyncio.create_task(other.fetchval(ask("first=3s text=secret")))
        await upstream.until(lambda records: len(records) > seen, 20.0)
        for statement in (
            "SELECT * FROM weighbridge_dblink.dblink('weighbridge', 'SELECT 1') AS t (x int)",
            "SELECT weighbridge_dblink.dblink_connect('weighbridge')",
            "SELECT * FROM weighbridge_dblink.answers('demo', 'query', 'x', ARRAY['{}'], 1, true)",
            "SELECT weighbridge_calls.submit('[]')",
            "CALL weighbridge_calls.exchange('[]', '{}', NULL)",
            "SELECT * FROM weighbridge_calls.calls",
            "SELECT * FROM weighbridge_calls.claim(gen_random_uuid(), 100)",
            "SET ROLE demo",
            "SET SESSION AUTHORIZATION demo",
            "SELECT set_config('role', 'demo', false)",
            "CREATE USER MAPPING FOR nobody SERVER weighbridge",
            "ALTER SERVER weighbridge OPTIONS (SET host 'elsewhere')",
            "CREATE OR REPLACE FUNCTION public.ai_query(endpoint text, request text) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
        ):
            assert (await error_of(sql, statement)).sqlstate in ("42501", "42704"), statement
        shown = await sql.fetch("SELECT umoptions FROM pg_user_mappings WHERE srvname = 'weighbridge'")
        assert [each["umoptions"] for each in shown] == [None]
        assert await running == "secret"
    application = await asyncpg.connect(gateway.settings.database_url)
    try:
        assert (await error_of(application, "SELECT * FROM weighbridge_calls.calls")).sqlstate == "42501"
    finally:
        await application.close()


async def test_the_caller_is_the_effective_role_of_a_pooled_login(
    gateway: Deployment, connected: Any
) -> None:
    async with connected("pool") as sql:
        assert (await error_of(sql, ask())).sqlstate == "42501"
        await sql.execute("SET ROLE demo")
        assert await sql.fetchval(ask("text=mine")) == "mine"
        await sql.execute("RESET ROLE")
        assert (await error_of(sql, ask())).sqlstate == "42501"


async def test_a_role_that_is_unmapped_is_cut_and_refused(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    async with connected("tight") as sql:
        seen = len(upstream.records)
        await gateway.administer(
            "PUT", "/sql-roles", {"sql_role": "tight", "principal_id": gateway.ids["bulk"]}
        )
        running = asyncio.create_task(sql.fetchval(ask("first=30s")))
        await upstream.until(lambda records: len(records) > seen, 20.0)
        found = await gateway.administer("GET", "/sql-roles?limit=200")
        mapped = next(each for each in found["items"] if each["sql_role"] == "tight")
        await gateway.administer("DELETE", f"/sql-roles/{mapped['id']}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await running
        assert (await error_of(sql, ask())).sqlstate == "42501"
    row = await gateway.row_of(upstream.records[seen].request_id or "")
    assert (row["status"], row["stopped_by"]) == ("cut", "revoked")


async def test_another_database_calls_through_the_script_as_its_own_login(
    gateway: Deployment, upstream: Upstream, postgres_server: EmbeddedPostgres, database_name: str
) -> None:
    name = "warehouse"
    await postgres_server.create_database(name)
    root = await asyncpg.connect(postgres_server.url("postgres", database_name))
    there = await asyncpg.connect(postgres_server.url("postgres", name))
    try:
        password = await make_login(root, "warehouse_caller")
        sockets = postgres_server.url().partition("host=")[2].partition("&")[0]
        await there.execute(
            addressed(
                host=sockets, port="5432", database=database_name, login="warehouse_caller", password=password
            )
        )
        await there.execute("SET SESSION AUTHORIZATION demo")
        # That database's `demo` is not the gateway's own database's `demo`.
        assert (await error_of(there, ask())).sqlstate == "42501"
        body = {"sql_role": "demo", "login": "warehouse_caller", "principal_id": gateway.ids["bulk"]}
        await gateway.administer("PUT", "/sql-roles", body)
        assert await there.fetchval(ask("text='from afar'")) == "from afar"
        row = await gateway.row_of(upstream.records[-1].request_id or "")
        assert row["principal_name"] == "bulk"
    finally:
        await there.close()
        await postgres_server.drop_database(name)
        await root.execute("DROP OWNED BY warehouse_caller")
        await root.execute("DROP ROLE warehouse_caller")
        await root.close()


async def refusal_of(sql: asyncpg.Connection, statement: str) -> str:
    """Its SQLSTATE; where the machine was too busy to look in once a second, and the call was given up, of the next try."""
    async with asyncio.timeout(30):
        while True:
            error = await error_of(sql, statement)
            if error.sqlstate != "58000" or "given up" not in str(error):
                return error.sqlstate


@pytest.mark.parametrize("major", sorted(OTHERS) or ["none"])
async def test_every_postgresql_of_the_machine_calls_through_the_script(
    gateway: Deployment,
    upstream: Upstream,
    postgres_server: EmbeddedPostgres,
    database_name: str,
    connected: Any,
    major: str,
) -> None:
    if major not in OTHERS:
        pytest.skip("the machine has no other PostgreSQL; WEIGHBRIDGE_TEST_POSTGRES may name folders of some")
    login = f"pg{major}_caller"
    root = await asyncpg.connect(postgres_server.url("postgres", database_name))
    try:
        password = await make_login(root, login)
        sockets = postgres_server.url().partition("host=")[2].partition("&")[0]
        script = addressed(host=sockets, port="5432", database=database_name, login=login, password=password)
        async with other_postgres(OTHERS[major]) as home:

            @asynccontextmanager
            async def entered(role: str) -> AsyncIterator[asyncpg.Connection]:
                connection = await asyncpg.connect(host=home, user=role, database="postgres", timeout=20)
                try:
                    yield connection
                finally:
                    connection.terminate()

            async with entered("postgres") as owner:
                assert str(await owner.fetchval("SHOW server_version")).startswith(f"{major}.")
                for _ in range(2):
                    await owner.execute(script)
                await owner.execute("CREATE ROLE analyst LOGIN; CREATE ROLE nobody LOGIN")
            body = {"sql_role": "analyst", "login": login, "principal_id": gateway.ids["bulk"]}
            await gateway.administer("PUT", "/sql-roles", body)
            async with entered("analyst") as sql, entered("nobody") as nobody:
                for isolation in ISOLATIONS:
                    async with sql.transaction(isolation=isolation):
                        assert await sql.fetchval(ask("text=afar")) == "afar"
                row = await gateway.row_of(upstream.records[-1].request_id or "")
                assert row["principal_name"] == "bulk"
                many = await sql.fetch(
                    f"SELECT * FROM ai_query_many('{ENDPOINT}', ARRAY['[[text=a]]', '[[text=b]]'])"
                )
                assert sorted(each["result"] for each in many) == ["a", "b"]
                assert await refusal_of(nobody, ask()) == "42501"
                for forbidden in (
                    "SELECT * FROM weighbridge_dblink.dblink('weighbridge', 'SELECT 1') AS t (x int)",
                    "SELECT weighbridge_dblink.dblink_connect('weighbridge')",
                    "SELECT * FROM weighbridge_dblink.answers('analyst', 'query', 'x', ARRAY['{}'], 1, true)",
                    "SET ROLE analyst",
                    "CREATE USER MAPPING FOR nobody SERVER weighbridge",
                ):
                    assert (await error_of(nobody, forbidden)).sqlstate == "42501", forbidden
                shown = await nobody.fetch(
                    "SELECT umoptions FROM pg_user_mappings WHERE srvname = 'weighbridge'"
                )
                assert [each["umoptions"] for each in shown] == [None]
                for how in ("SELECT pg_cancel_backend($1)", "SELECT pg_terminate_backend($1)"):
                    seen = len(upstream.records)
                    running = asyncio.create_task(sql.fetchval(ask("tokens=50 first=60s")))
                    await upstream.until(lambda records, seen=seen: len(records) > seen, 20.0)
                    async with entered("postgres") as owner:
                        await owner.fetchval(how, sql.get_server_pid())
                    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                        await running
                    ended = time.time()
                    await upstream.until(lambda records, seen=seen: records[seen].ended == PEER_CLOSED, 20.0)
                    closed = upstream.records[seen].peer_closed_at
                    assert closed is not None
                    print(f"{major}: {how}: free {closed - ended:+.3f} s after the statement had ended")
                    row = await gateway.row_of(upstream.records[seen].request_id or "")
                    assert (row["status"], row["stopped_by"], row["cost_nano_usd"]) == ("cut", "client", 0)
    finally:
        await root.execute(f"DROP OWNED BY {login}")
        await root.execute(f"DROP ROLE {login}")
        await root.close()


async def killed_over(gateway: Deployment, upstream: Upstream, sql: asyncpg.Connection, rows: int) -> None:
    """Many rows while the process that answers is killed twice: the books of it."""
    # Of a user without limits: those of `demo` are not the question here.
    await gateway.administer("PUT", "/sql-roles", {"sql_role": "demo", "principal_id": gateway.ids["bulk"]})
    before = {row["request_id"] for row in await gateway.ledger_rows()}
    seen = len(upstream.records)
    asked = f"ARRAY(SELECT '[[first=60ms tokens=3 text=r' || i || ']]' FROM generate_series(1, {rows}) i)"
    running = asyncio.create_task(
        sql.fetch(f"SELECT n, result FROM ai_query_many('{ENDPOINT}', {asked}, parallel => 16)")
    )
    for share in (0.25, 0.6):
        await upstream.until(
            lambda records, share=share: len(records) - seen >= rows * share and records[-1].ended == "open",
            120.0,
        )
        await gateway.kill("sql-calls")
    answers = {row["n"]: row["result"] for row in await running}
    assert answers == {n: f"r{n}" for n in range(1, rows + 1)}

    async def posted() -> bool:
        found = await gateway.query("SELECT count(*) AS n FROM gateway.requests")
        return found[0]["n"] - len(before) >= rows

    await until(posted, "not every row is in the ledger", 60.0)
    made = [row for row in await gateway.ledger_rows() if row["request_id"] not in before]
    assert len(made) == rows
    assert {row["status"] for row in made} == {"ok"}
    ids = [row["request_id"] for row in made]
    tries = await gateway.query("SELECT * FROM gateway.attempts WHERE request_id = ANY($1)", ids)
    called = [record for record in upstream.records[seen:] if record.request_id]
    assert {record.request_id for record in called} <= {str(each) for each in ids}
    borne = [each for each in tries if each["borne"]]
    cut = [each for each in tries if not each["borne"]]
    print(f"{rows} rows, {len(called)} calls upstream, {len(cut)} attempts cut by a kill")
    assert len(borne) == rows
    assert cut
    assert all((each["outcome"], each["cost_nano_usd"]) == ("interrupted", 0) for each in cut)
    assert all(
        row["cost_nano_usd"]
        == next(each["cost_nano_usd"] for each in borne if each["request_id"] == row["request_id"])
        for row in made
    )


async def test_a_process_that_is_killed_twice_answers_each_row_once(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    async with connected() as sql:
        await killed_over(gateway, upstream, sql, 120)


@pytest.mark.parametrize("point", ["after_intent", "before_first_byte", "after_settle"])
async def test_wherever_it_is_killed_a_call_is_answered_and_is_one_request(
    gateway: Deployment, upstream: Upstream, connected: Any, point: str
) -> None:
    from tests.faults.killer import armed

    starts = await gateway.arm("sql-calls", armed(point))
    seen = len(upstream.records)
    async with connected() as sql:
        assert await sql.fetchval(ask(f"text={point}")) == point
    await gateway.fell("sql-calls", starts)
    record = upstream.records[-1]
    row = await gateway.row_of(record.request_id or "")
    assert row["status"] == "ok"
    assert len({each.request_id for each in upstream.records[seen:]}) == 1


async def test_asked_to_end_it_lets_calls_finish_and_others_wait_for_its_successor(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    seen = len(upstream.records)
    async with connected() as sql, connected() as other:
        first = asyncio.create_task(sql.fetchval(ask("first=1s text=first")))
        await upstream.until(lambda records: len(records) > seen, 20.0)
        os.kill(gateway.pid("sql-calls"), signal.SIGTERM)
        assert await first == "first"
        assert await other.fetchval(ask("text=second")) == "second"
    assert len(upstream.records) == seen + 2
