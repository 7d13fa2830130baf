"""Every request that a worker appended is one row, whoever dies and however often it is read."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from gateway.ids import text
from gateway.spool import burial, poster
from gateway.spool.books import Away
from gateway.spool.drainer import AnotherDrainer, Drainer
from gateway.spool.records import Charge
from gateway.spool.replay import replay
from gateway.spool.writer import SpoolWriter
from gateway.store.ledger import PostgresBooks
from tests.spool.making import attempt, intent, now_ms, progress, settlement
from tests.store_ledger.books_check import assert_sums_are_right, drain, quarantined, snapshot


async def row(database: asyncpg.Connection, request_id: bytes) -> asyncpg.Record:
    found = await database.fetch("SELECT * FROM gateway.requests WHERE request_id = $1", request_id.hex())
    assert len(found) == 1
    return found[0]


async def test_a_settled_request_is_one_row_with_all_that_is_known_of_it(
    spool: SpoolWriter, drainer: Drainer, database: asyncpg.Connection
) -> None:
    begun = intent(
        tags={"team": 'a "quoted" \\ one'}, end_user="tab\there", principal_name="Åsa {x}", group_id="g_1"
    )
    spool.append(begun)
    await drainer.turn()
    spool.append(settlement(begun))
    await drain(drainer)
    found = await row(database, begun.request_id)
    assert found["request_id"].bytes == begun.request_id
    assert found["worker_id"].bytes == spool.worker_id.bytes
    assert int(found["admitted_at"].timestamp() * 1000 + 0.5) == begun.admitted_at_ms
    assert (found["principal_name"], found["end_user"], found["group_id"]) == (
        "Åsa {x}",
        "tab\ufffdhere",
        "g_1",
    )
    assert found["tags"] == '{"team": "a \\"quoted\\" \\\\ one"}'
    assert (found["prompt_tokens"], found["completion_tokens"], found["cost_nano_usd"]) == (100, 50, 207)
    assert (found["degraded"], found["stopped_by"], found["http_status"], found["stream"]) == (
        None,
        None,
        200,
        True,
    )
    await assert_sums_are_right(database)
    spool.close()


async def test_the_same_spool_drained_again_changes_nothing(
    tmp_path: Path, spool: SpoolWriter, drainer: Drainer, books: PostgresBooks, database: asyncpg.Connection
) -> None:
    # Over the edge of a month, of a year, of a week and of a day, at both sides of each.
    edges = (1_793_491_200_000, 1_798_761_600_000, 1_795_996_800_000, 1_795_910_400_000)
    for edge in edges:
        for at in (edge - 1, edge, edge + 1):
            begun = intent(admitted_at_ms=at, principal_id=f"u_{at % 3}")
            spool.append(begun)
            spool.append(settlement(begun))
    orphan = intent()
    spool.append(orphan)
    spool.append(progress(orphan))
    spool.close()
    copy = shutil.copytree(spool.folder, tmp_path / "copy")
    await drain(drainer)
    before = await snapshot(database)
    await assert_sums_are_right(database)

    again = await replay(tmp_path, books)
    assert (again.requests, again.posted) == (13, 0)
    other = tmp_path / "other"
    other.mkdir()
    copy.rename(other / str(spool.worker_id))
    await database.execute("DELETE FROM gateway.spool_positions")
    second = Drainer(other, books)
    await drain(second)
    second.close()
    assert await snapshot(database) == before


async def test_what_a_restored_database_lacks_is_posted_again_by_a_replay(
    tmp_path: Path,
    spool: SpoolWriter,
    drainer: Drainer,
    books: PostgresBooks,
    database: asyncpg.Connection,
    owner_url: str,
) -> None:
    begun = [intent(principal_id="u_replay") for _ in range(30)]
    for each in begun:
        spool.append(each)
        spool.append(settlement(each))
    await drain(drainer)
    before = await snapshot(database)
    owner = await asyncpg.connect(owner_url)
    await owner.execute("TRUNCATE gateway.requests, gateway.attempts, gateway.usage_hour, gateway.usage_day")
    await owner.close()
    done = await replay(tmp_path, books)
    assert done.posted == done.requests == 30
    after = await snapshot(database)
    assert [len(each) for each in after] == [30, 30, 1, 1]
    assert {each["request_id"] for each in after[0]} <= {each["request_id"] for each in before[0]}
    await assert_sums_are_right(database)
    spool.close()


async def test_a_dead_workers_requests_end_once_each(
    tmp_path: Path, spool: SpoolWriter, drainer: Drainer, database: asyncpg.Connection
) -> None:
    untouched, silent, streaming, living = (intent() for _ in range(4))
    for each in (untouched, silent, streaming):
        spool.append(each)
    spool.append(progress(silent, first_byte=False, prompt_tokens=0, completion_tokens=0))
    spool.append(progress(streaming, completion_tokens=128))
    other = SpoolWriter(tmp_path)
    other.append(living)
    await drain(drainer)
    assert (
        await database.fetchval(
            "SELECT count(*) FROM gateway.requests WHERE request_id = $1", streaming.request_id.hex()
        )
        == 0
    )
    spool.close()
    await drain(drainer)
    for each, cost in ((untouched, 0), (silent, 0), (streaming, 100 + 256 + 7)):
        found = await row(database, each.request_id)
        assert (found["status"], found["cost_nano_usd"]) == ("interrupted", cost)
    assert (
        await database.fetchval(
            "SELECT count(*) FROM gateway.requests WHERE request_id = $1", living.request_id.hex()
        )
        == 0
    )
    other.append(settlement(living))
    other.close()
    await drain(drainer)
    assert (await row(database, living.request_id))["status"] == "ok"
    closed = "SELECT count(*) FROM gateway.spool_positions WHERE spool_id = ANY($1) AND closed_at IS NOT NULL"
    assert await database.fetchval(closed, [spool.worker_id, other.worker_id]) == 2
    await assert_sums_are_right(database)


class Counters:
    """Takes settlements; away while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.told: list[tuple[str, int, int, int, int]] = []
        self.charges: list[Charge] = []
        self.held: list[bytes] = []
        self.released: list[str] = []

    async def settle(
        self,
        *,
        worker_id: str,
        request_id: str,
        charges: list[Charge],
        granted_output: int,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
        spool_id: str,
        number: int,
    ) -> None:
        if self.away:
            raise ConnectionError("away")
        self.told.append((request_id, granted_output, prompt_tokens, completion_tokens, cost_nano_usd))
        self.charges = charges

    async def unsettled(self, worker_id: str) -> list[str]:
        if self.away:
            raise ConnectionError("away")
        return [text(each) for each in self.held]

    async def release(self, *, worker_id: str, request_id: str) -> None:
        self.released.append(request_id)
        self.held = [each for each in self.held if text(each) != request_id]


async def test_the_counters_hear_of_orphans_and_of_what_was_settled_just_before_the_death(
    tmp_path: Path,
    spool: SpoolWriter,
    books: PostgresBooks,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(burial, "RETRY_SECONDS", 0.01)
    counters = Counters()
    drainer = Drainer(tmp_path, books, counters)
    long_ago, recent, orphan = intent(admitted_at_ms=now_ms() - 90_000), intent(), intent()
    more = [Charge("lim_1", "u_1", "total_tokens", "{wb}:w:lim_1:u_1", "r", 31, 256, 0, 60_000)]
    for each in (long_ago, recent):
        spool.append(each)
        spool.append(settlement(each))
    spool.append(orphan)
    spool.append(progress(orphan, granted_output_tokens=512, charges=more))
    await drain(drainer)
    assert counters.told == []
    counters.away = True
    spool.close()
    await drainer.turn()
    await asyncio.sleep(0.05)
    # The books do not wait for the counters.
    assert (await row(database, orphan.request_id))["status"] == "interrupted"
    counters.away = False
    async with asyncio.timeout(10):
        while not drainer.settled():
            await drainer.turn()
            await asyncio.sleep(0.01)
    told = {request_id: rest for request_id, *rest in counters.told}
    assert len(counters.told) == 2
    assert sorted(bytes.fromhex(each.replace("-", "")) for each in told) == sorted(
        [orphan.request_id, recent.request_id]
    )
    assert [512, 100, 64, 235] in told.values()
    assert [256, 100, 50, 207] in told.values()
    assert counters.charges in (recent.charges, [*orphan.charges, *more])
    drainer.close()


async def test_what_was_admitted_and_never_written_down_is_given_back_and_nothing_else(
    tmp_path: Path, spool: SpoolWriter, books: PostgresBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burial, "RETRY_SECONDS", 0.01)
    counters = Counters()
    drainer = Drainer(tmp_path, books, counters)
    settled_long_ago, orphan, never_begun = intent(), intent(), intent()
    spool.append(settled_long_ago)
    spool.append(settlement(settled_long_ago, ended_at_ms=now_ms() - 90_000))
    spool.append(orphan)
    counters.held = [settled_long_ago.request_id, orphan.request_id, never_begun.request_id]
    counters.away = True
    spool.close()
    await drainer.turn()
    counters.away = False
    async with asyncio.timeout(10):
        while not drainer.settled():
            await drainer.turn()
            await asyncio.sleep(0.01)
    assert counters.released == [text(never_begun.request_id)]
    drainer.close()


async def test_a_row_that_is_refused_three_times_goes_aside_and_holds_up_nothing(
    tmp_path: Path,
    spool: SpoolWriter,
    drainer: Drainer,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poster, "RETRY_SECONDS", 0.0)
    begun = [intent() for _ in range(101)]
    for number, each in enumerate(begun):
        spool.append(each)
        spool.append(settlement(each, attempt(each, output=2**63 if number == 50 else 50)))
    await drainer.turn()
    assert drainer.state.posted == 100
    await drain(drainer)
    await drainer.turn()
    kept = quarantined(tmp_path)
    assert len(kept) == 1
    assert begun[50].request_id in kept[0].read_bytes()
    assert drainer.state.quarantined == 1
    later = intent()
    spool.append(later)
    spool.append(settlement(later))
    await drain(drainer)
    assert (await row(database, later.request_id))["status"] == "ok"
    segment, offset = await database.fetchrow(
        'SELECT segment, "offset" FROM gateway.spool_positions WHERE spool_id = $1', spool.worker_id
    )
    assert (segment, offset) == (1, (spool.folder / "00000001.seg").stat().st_size)
    await assert_sums_are_right(database)
    spool.close()


async def test_a_settlement_whose_intent_is_missing_is_kept_and_told(
    tmp_path: Path, spool: SpoolWriter, drainer: Drainer, database: asyncpg.Connection
) -> None:
    lost, known = intent(), intent()
    spool.append(settlement(lost))
    spool.append(known)
    spool.append(settlement(known))
    await drain(drainer)
    spool.append(settlement(known))
    await drain(drainer)
    assert len(quarantined(tmp_path)) == 1
    assert (await row(database, known.request_id))["status"] == "ok"
    spool.close()


async def test_a_second_drainer_is_refused(tmp_path: Path, drainer: Drainer, books: PostgresBooks) -> None:
    drainer.lock()
    with pytest.raises(AnotherDrainer, match=r"drainer\.lock"):
        Drainer(tmp_path, books).lock()
    drainer.close()
    second = Drainer(tmp_path, books)
    second.lock()
    second.close()


async def test_after_a_restart_it_goes_on_where_the_ledger_says(
    tmp_path: Path, spool: SpoolWriter, drainer: Drainer, books: PostgresBooks, database: asyncpg.Connection
) -> None:
    begun = [intent(principal_id="u_restart") for _ in range(40)]
    for each in begun:
        spool.append(each)
    for each in begun[1:20]:
        spool.append(settlement(each))
    await drain(drainer)
    drainer.close()
    second = Drainer(tmp_path, books)
    for each in (begun[0], *begun[20:]):
        spool.append(settlement(each))
    await drain(second)
    assert (
        await database.fetchval("SELECT count(*) FROM gateway.requests WHERE principal_id = 'u_restart'")
        == 40
    )
    assert quarantined(tmp_path) == []
    await assert_sums_are_right(database)
    second.close()
    spool.close()


DRAIN_ONCE = """
import asyncio, sys
from pathlib import Path
from gateway.spool.drainer import Drainer
from gateway.store.ledger import PostgresBooks
async def main():
    drainer = Drainer(Path(sys.argv[1]), PostgresBooks(sys.argv[2], host="here"))
    while await drainer.turn() or not drainer.settled():
        await asyncio.sleep(0)
asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["drain_before_commit:2", "drain_after_commit:2", ""])
async def test_a_drainer_killed_at_its_commit_neither_loses_nor_doubles(
    tmp_path: Path, spool: SpoolWriter, database: asyncpg.Connection, database_url: str, point: str
) -> None:
    who = f"u_kill_{point}"
    begun = [intent(principal_id=who) for _ in range(1_200)]
    for each in begun:
        spool.append(each)
        spool.append(settlement(each))
    for crash in (point, ""):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            DRAIN_ONCE,
            str(tmp_path),
            database_url,
            env={**os.environ, "WEIGHBRIDGE_CRASH_AT": crash},
        )
        assert await child.wait() == (-signal.SIGKILL if crash else 0)
    assert (
        await database.fetchval("SELECT count(*) FROM gateway.requests WHERE principal_id = $1", who) == 1_200
    )
    assert (
        await database.fetchval("SELECT sum(requests) FROM gateway.usage_day WHERE principal_id = $1", who)
        == 1_200
    )
    await assert_sums_are_right(database)
    spool.close()


async def test_the_worker_is_told_how_far_its_spool_is_drained(spool: SpoolWriter, drainer: Drainer) -> None:
    running = asyncio.create_task(drainer.run())
    begun = intent()
    spool.append(begun)
    spool.append(settlement(begun))
    async with asyncio.timeout(20):
        while spool.undrained_bytes:
            await asyncio.sleep(0.02)
    drainer.stop()
    await running
    spool.close()


async def test_the_time_up_to_which_the_books_are_complete_never_passes_an_open_request(
    spool: SpoolWriter, drainer: Drainer, database: asyncpg.Connection
) -> None:
    old, new = intent(admitted_at_ms=now_ms() - 30_000), intent()
    spool.append(old)
    spool.append(new)
    spool.append(settlement(new))
    await drain(drainer)
    told = "SELECT (extract(epoch FROM complete_until) * 1000)::int8 FROM gateway.spool_positions WHERE spool_id = $1"
    assert (
        await database.fetchval(told, spool.worker_id)
        == old.admitted_at_ms
        == drainer.state.complete_until_ms
    )
    spool.append(settlement(old))
    await drain(drainer)
    assert await database.fetchval(told, spool.worker_id) > new.admitted_at_ms - 2_000
    spool.close()


async def test_while_the_ledger_is_away_nothing_is_posted_and_nothing_is_lost(
    tmp_path: Path, spool: SpoolWriter, database: asyncpg.Connection, database_url: str
) -> None:
    away = Drainer(tmp_path, PostgresBooks("postgresql://weighbridge_app@/none?host=/nowhere", host="here"))
    begun = intent()
    spool.append(begun)
    spool.append(settlement(begun))
    for _ in range(3):
        with pytest.raises(Away):
            await away.turn()
    away.close()
    back = Drainer(tmp_path, PostgresBooks(database_url, host="here"))
    await drain(back)
    assert (await row(database, begun.request_id))["status"] == "ok"
    back.close()
    spool.close()
