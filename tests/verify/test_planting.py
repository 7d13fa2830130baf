"""One wrong value anywhere in the books is found and named; honest books have a difference of exactly 0."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.__main__ import main
from gateway.spool.records import frame
from gateway.spool.segments import segment_path
from gateway.verify import counters
from gateway.verify.books import check_books
from gateway.verify.counters import check_counters
from tests.verify.conftest import BUDGET, SPENT, World

# (what is planted, the check that finds it, what it says)
PLANTED = {
    "a row of the ledger": (
        "UPDATE gateway.requests SET cost_nano_usd = cost_nano_usd + 1 WHERE principal_id = 'u_2'",
        "attempts",
        "cost_nano_usd is 208, its attempts say 207",
    ),
    "an attempt": (
        "UPDATE gateway.attempts SET output = output + 1 WHERE request_id = (SELECT request_id FROM gateway.requests LIMIT 1)",
        "attempts",
        "output is 50, its attempts say 51",
    ),
    "an attempt of nobody": (
        (
            "INSERT INTO gateway.attempts (request_id, attempt, admitted_at, started_at, entity_id, entity_name, model, outcome, fresh_input,"
            " cache_read, cache_write, output, reasoning, usage_source, price_id, cost_nano_usd, borne, duration_us) SELECT gen_random_uuid(),"
            " 1, now(), now(), '', '', '', 'ok', 1, 0, 0, 0, 0, 'reported', '', 0, true, 0"
        ),
        "attempts",
        "has attempts and no row in the ledger",
    ),
    "a row taken out": (
        "DELETE FROM gateway.requests WHERE principal_id = 'u_2'",
        "usage_hour",
        "sums 1 requests; the ledger has none",
    ),
    "an hour": (
        "UPDATE gateway.usage_hour SET output = output - 1 WHERE principal_id = 'u_1'",
        "usage_hour",
        "output is 99, the ledger says 100",
    ),
    "a day": (
        "UPDATE gateway.usage_day SET requests = 3 WHERE principal_id = 'u_1'",
        "usage_day",
        "requests is 3, the ledger says 2",
    ),
    "a day taken out": (
        "DELETE FROM gateway.usage_day WHERE principal_id = 'u_1'",
        "usage_day",
        "has no sum; the ledger has 2 requests",
    ),
    "a balance": (
        "UPDATE gateway.balances SET nano_usd = nano_usd - 7 WHERE subject = 'u_1'",
        "balances",
        f"is {2 * SPENT - 7} nano-dollars over 2 requests, the ledger says {2 * SPENT} over 2",
    ),
    "a charge": (
        "UPDATE gateway.requests SET charges = jsonb_set(charges, '{0,actual}', '1') WHERE principal_id = 'u_2'",
        "charges",
        "was charged 1, the row says 207",
    ),
}


async def test_each_planted_wrong_value_is_named_and_honest_books_differ_by_nothing(world: World) -> None:
    for principal in ("u_1", "u_1", "u_2"):
        world.request(principal_id=principal)
    await world.drained()
    checks = await world.checks()
    assert {name: check.differences for name, check in checks.items()} == dict.fromkeys(checks, 0)
    assert all(
        checks[name].looked_at for name in ("attempts", "usage_hour", "usage_day", "balances", "spools")
    )
    for what, (statement, name, said) in PLANTED.items():
        transaction = world.forger.transaction()
        await transaction.start()
        await world.forger.execute(statement)
        wrong = await world.wrong(world.forger)
        await transaction.rollback()
        assert any(said in text for text in wrong.get(name, ())), (what, wrong)


@pytest.mark.parametrize("which", ["intent", "settlement", "both"])
async def test_a_record_that_was_taken_out_of_a_spool_is_missed(world: World, which: str) -> None:
    for _ in range(2):
        world.request()
    begun, ended = world.records()
    if which == "settlement":
        world.spool.append(begun)
    elif which == "intent":
        world.spool.append(ended)
    world.request()
    world.spool.close()
    await world.drained()
    (said,) = (await world.wrong())["spools"]
    number = {"intent": "2 from 5 to 6", "settlement": "6", "both": "2 from 5 to 6"}[which]
    assert said.startswith(f"spool {world.spool.worker_id}: record {number} is in no row of the ledger")


async def test_bytes_cut_out_of_a_segment_are_a_missing_record(world: World) -> None:
    first, (begun, ended), last = world.records(), world.records(), world.records()
    for record in (*first, begun, ended, *last):
        world.spool.append(record)
    path = segment_path(world.spool.folder, 1)
    data = path.read_bytes()
    cut = frame(begun) + frame(ended)
    assert cut in data
    path.write_bytes(data.replace(cut, b""))
    world.spool.close()
    await world.drained()
    (said,) = (await world.wrong())["spools"]
    assert "record 2 from 3 to 4" in said


async def test_what_still_runs_and_what_died_is_not_missed(world: World) -> None:
    world.request()
    begun, _ = world.records()
    world.spool.numbered -= 1
    world.spool.append(begun)
    world.request()
    await world.drained()
    until = world.drainer.state.complete_until_ms
    assert until <= begun.admitted_at_ms
    watermark = await world.connection.fetchval("SELECT to_timestamp($1 / 1000.0::float8)", float(until))
    assert watermark is not None
    assert [each.name for each in await check_books(world.connection, watermark) if each.differences] == []
    world.spool.close()
    await world.drained()
    assert await world.wrong() == {}


async def test_counters_are_compared_with_the_ledger_and_with_their_own_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(counters, "WAIT_SECONDS", 5.0)
    begun = [world.request(at_ms=None, principal_id=each) for each in ("u_1", "u_1", "u_2")]
    # As of 10 s ago, so that no clock's play matters.
    world.spool.close()
    await world.drained()
    await world.forger.execute("UPDATE gateway.requests SET ended_at = ended_at - interval '10 seconds'")
    key = begun[0].charges[0].key

    async def wrong() -> list[str]:
        check = await check_counters(world.connection, world.redis_url, [BUDGET])
        assert check.skipped is None
        return [f"{found.where}: {found.what}" for found in check.findings]

    assert await wrong() == []
    world.redis.hincrby(key, "t", 5)
    (said,) = await wrong()
    assert said.endswith(f"is {2 * SPENT + 5}, its base and deltas are {2 * SPENT}")
    world.redis.hincrby(key, "b", 5)
    (said,) = await wrong()
    assert said.endswith(f"counts {2 * SPENT + 5} nano-dollars, the ledger has {2 * SPENT}")
    world.redis.hincrby(key, "b", -5)
    world.redis.hincrby(key, "t", -5)
    # Base and delta together say the same as the delta alone.
    world.redis.hincrby(key, "b", SPENT)
    world.redis.hincrby(key, f"w:{world.spool.worker_id}", -SPENT)
    assert await wrong() == []
    world.redis.delete(key)
    (said,) = await wrong()
    assert said.endswith(f"is not there; the balance is {2 * SPENT} nano-dollars")
    world.redis.delete("{wb}:epoch")
    check = await check_counters(world.connection, world.redis_url, [BUDGET])
    assert check.skipped == "the counters are being rebuilt"


async def test_what_runs_is_within_what_it_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(counters, "WAIT_SECONDS", 0.5)
    begun, _ = world.records()
    world.spool.append(begun)
    world.count(begun, 1012)
    await world.drained()
    check = await check_counters(world.connection, world.redis_url, [BUDGET])
    assert check.findings == []
    assert check.notes == ["1 of them agree within what requests held that ran when they were read"]


@pytest.fixture
def command(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    (tmp_path / "master.key").write_text("4f1c8a7be29d0356a1b2c3d4e5f60718293a4b5c6d7e8f90")
    (tmp_path / "master.key").chmod(0o600)
    for name, value in {
        "HOME": str(tmp_path),
        "DATABASE_URL": world.url,
        "REDIS_URL": world.redis_url,
        "SECRET_FILE": str(tmp_path / "master.key"),
    }.items():
        monkeypatch.setenv(f"WEIGHBRIDGE_{name}", value)
    return CliRunner()


async def test_the_command_tells_people_and_machines_and_ends_accordingly(
    world: World, command: CliRunner, tmp_path: Path
) -> None:
    world.request()
    world.spool.close()
    await world.drained()

    async def ask(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(command.invoke, main, ["verify", *arguments])
        return result.exit_code, result.output

    status, said = await ask()
    assert status == 0, said
    assert "Ledger = attempts" in said
    assert "All of it holds." in said
    await world.forger.execute("UPDATE gateway.requests SET output = output + 1")
    status, said = await ask("--format", "json", "--metrics", str(tmp_path / "textfile" / "books.prom"))
    told = json.loads(said)
    assert (status, told["status"]) == (1, "differences")
    assert {each["name"] for each in told["checks"] if each["differences"]} >= {
        "attempts",
        "usage_hour",
        "usage_day",
    }
    written = (tmp_path / "textfile" / "books.prom").read_text()
    assert 'weighbridge_verify_differences{check="attempts"} 1' in written
    assert (tmp_path / "run" / "verify.prom").read_text() == written
    status, said = await ask("--audit")
    assert (status, "Ledger" in said) == (0, False)
    world.redis.delete("{wb}:epoch")
    await world.forger.execute("UPDATE gateway.requests SET output = output - 1")
    status, said = await ask()
    assert (status, "not looked at: the counters are being rebuilt" in said) == (2, True)
