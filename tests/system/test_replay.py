"""Decisions of real workers made again from the books alone, and policies whose effect is known tried on them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.cli.replay import run
from gateway.errors import BadRequest
from gateway.replay.reading import Books
from gateway.replay.run import replay
from gateway.reports.period import Period
from gateway.store import database
from gateway.store.history import History
from policies.replaying import Replay, Verdict
from tests.system.deployment import Deployment, Person, chat, limit

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
CHAT = "/v1/chat/completions"
EVERYONE = 12


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "requests": Person(limits=(limit("requests", 7),)),
        "tokens": Person(limits=(limit("total_tokens", 600), limit("requests", 9, 2_000))),
        "one": Person(limits=({"metric": "concurrent_requests", "amount": 1, "window_kind": "none"},)),
    }


async def recorded(gateway: Deployment, calls: int) -> None:
    """Wait until the books have so many admissions and single refusals."""
    ends = time.monotonic() + 60
    while True:
        (row,) = await gateway.query(
            "SELECT (SELECT count(*) FROM gateway.requests) + (SELECT coalesce(sum(count), 0) FROM gateway.audit_refusals"
            " WHERE code <> 'unauthenticated') AS n"
        )
        if row["n"] >= calls:
            return
        assert time.monotonic() < ends, f"{row['n']} of {calls}"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def books(database_url: str) -> AsyncGenerator[tuple[Books, Any]]:
    connection = await asyncpg.connect(database_url)
    engine = database.engine(database_url, size=0)
    try:
        made = Books(connection)
        await made.open()
        async with engine.connect() as history:
            yield made, history
    finally:
        await connection.close()
        await engine.dispose()


async def command(gateway: Deployment, *arguments: str) -> tuple[int, str]:
    """`weighbridge replay` as a person runs it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "replay",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**gateway._environment, **gateway.settings.to_env()},
    )
    out, err = await process.communicate()
    assert not err, err.decode()
    return process.returncode or 0, out.decode()


async def told_as(
    form: str, gateway: Deployment, file: Path, start: datetime, capsys: pytest.CaptureFixture[str]
) -> str:
    """What it prints."""
    assert await run(gateway.settings, file, prune=False, since=start.isoformat(), until=None, form=form) == 0
    return capsys.readouterr().out


async def test_every_decision_comes_out_again_with_its_columns_blanked(
    gateway: Deployment, database_url: str
) -> None:
    start = datetime.now(UTC) - timedelta(seconds=1)

    async def ask(who: str, number: int) -> int:
        body = chat(f"call {number}", max_tokens=10 + number * 5, stream=number % 3 == 0)
        return (await gateway.ask("POST", CHAT, body, key=gateway.keys[who])).status

    statuses = await asyncio.gather(
        *(ask(who, number) for who in ("requests", "tokens", "one", "stranger") for number in range(EVERYONE))
    )
    assert statuses.count(200) >= 9
    assert set(statuses) == {200, 429, 403}
    await recorded(gateway, len(statuses))
    period = Period(start, datetime.now(UTC) + timedelta(minutes=1))
    async with books(database_url) as (made, history):
        result = await replay(made, history, period, None)
    assert (result.unknown, result.other_mode) == (0, 0)
    assert [(each.past, each.now) for each in result.differing] == []
    assert result.calls == result.again == len(statuses) - result.counted
    async with books(database_url) as (made, history):
        past, course = History(), Replay(as_it_was=True)
        seen = 0
        async for call in made.calls(start, period.end, present_keys=False):
            blanked = replace(call.past, was=Verdict(False), charged=frozenset())
            moment = datetime.fromtimestamp(call.past.at_ms / 1000, UTC)
            found = course.decide(blanked, await past.of(history, call.snapshot_version, moment))
            assert found.now == call.past.was
            seen += 1
    assert seen == result.calls
    status, told = await command(gateway, "--from", start.isoformat())
    assert status == 0
    assert f"{result.again} of {result.again} decisions come out as they were" in told


async def test_a_policy_whose_effect_is_known_has_that_effect_and_changes_nothing(
    gateway: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = datetime.now(UTC)
    ids: list[str] = []
    for number in range(8):
        answer = await gateway.ask("POST", CHAT, chat(f"known {number}"), key=gateway.keys["bulk"])
        assert answer.status == 200, answer.body
        ids.append(answer.headers["x-request-id"])
    costs = [(await gateway.row_of(each))["cost_nano_usd"] for each in ids]
    file = tmp_path / "policy.yaml"
    file.write_text(
        "limits:\n  - {name: tried, scope: user, subject: bulk, metric: requests, amount: 5, window: hour}\n"
    )
    before = await gateway.query("SELECT max(number) AS n FROM gateway.configuration_change")
    told = await told_as("csv", gateway, file, start, capsys)
    lines = list(csv.DictReader(io.StringIO(told)))
    assert [each["request_id"] for each in lines] == ids[5:]
    assert [int(each["cost_nano_usd"]) for each in lines] == costs[5:]
    assert {(each["principal"], each["was"], each["now"]) for each in lines} == {
        ("bulk", "admitted", "refused")
    }
    assert "requests per hour of user 'bulk' 'tried'" in lines[0]["rule"]
    told = await told_as("table", gateway, file, start, capsys)
    assert "3 admitted calls would have been refused, 0 of them only throttled" in told
    told = await told_as("json", gateway, file, start, capsys)
    assert [each["request_id"] for each in json.loads(told)] == ids[5:]
    assert await gateway.query("SELECT max(number) AS n FROM gateway.configuration_change") == before
    assert not await gateway.query("SELECT FROM gateway.limits WHERE name = 'tried'")


async def test_a_file_that_cannot_be_applied_is_refused_in_its_own_words(
    gateway: Deployment, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "limits:\n  - {name: x, scope: user, subject: nobody, metric: requests, amount: 5, window: hour}\n"
    )
    with pytest.raises(BadRequest, match="nobody"):
        await run(gateway.settings, file, prune=False, since=None, until=None, form="table")
