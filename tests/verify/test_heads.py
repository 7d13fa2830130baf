"""Heads are exported signed, and what was cut off or forged is found against them; erasing contents is not forging."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.errors import BadRequest, NotFound
from gateway.events.heads import HEAD, HeadExport
from gateway.settings import Settings, SettingsError
from gateway.store import audit, audit_check, database
from gateway.store.audit_heads import ForgedHead, read_heads, read_signed, signed
from gateway.store.changes import Actor, Configuration
from gateway.store.erasure import erase_entries, erase_refusals
from gateway.store.refusals import RefusalSeals
from gateway.store.tables.events import webhooks
from gateway.upkeep import seconds_until
from gateway.verify.run import check_audit
from tests.store_ledger.test_audit import KEY, write
from tests.store_ledger.test_forgeries import refusal
from tests.verify.conftest import World


@pytest.fixture
async def pool(world: World) -> AsyncIterator[AsyncEngine]:
    made = database.engine(world.url, size=2)
    yield made
    await made.dispose()


def export(pool: AsyncEngine, path: Path) -> HeadExport:
    return HeadExport(pool, path=path, key=KEY, every_seconds=3600)


async def test_a_head_is_exported_when_the_chain_has_grown_and_finds_what_is_cut_off(
    world: World, pool: AsyncEngine, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere" / "heads.jsonl"
    assert not await export(pool, path).turn()
    await write(pool, 3)
    configuration = Configuration(pool, KEY)
    hook = {
        "name": "far",
        "url": "https://far.example/",
        "events": [HEAD],
        "secret_sealed": b"x",
        "enabled": True,
    }
    async with configuration.change(Actor(None, "tests")) as change:
        await change.add(webhooks, "webhook", hook)
    exported = export(pool, path)
    assert await exported.turn()
    assert not await exported.turn()
    owed = await world.connection.fetch("SELECT body FROM gateway.webhook_deliveries")
    told = json.loads(owed[0]["body"])
    assert (told["type"], told["data"]) == (HEAD, json.loads(path.read_text()))
    await write(pool, 2)
    assert (await check_audit(world.url, [b"older" * 7, KEY], path)).differences == 0

    await world.forger.execute("DELETE FROM gateway.audit_contents WHERE number > 2")
    await world.forger.execute("DELETE FROM gateway.audit_entries WHERE number > 2")
    check = await check_audit(world.url, [KEY], path)
    assert (check.findings[0].where, check.differences) == ("entry 3", 1)
    # With new entries on top, by someone who has the key even, the old head still does not fit.
    await write(pool, 4)
    check = await check_audit(world.url, [KEY], path)
    assert check.findings[0].what == "is not the one whose head was exported"


async def test_a_line_that_the_key_did_not_sign_is_named_and_a_torn_one_is_passed_over(
    pool: AsyncEngine, tmp_path: Path
) -> None:
    path = tmp_path / "heads.jsonl"
    await write(pool, 1)
    await export(pool, path).turn()
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    assert len(read_heads(path, [KEY])) == 1
    path.write_text(whole + whole.replace('"number":1', '"number":7'))
    with pytest.raises(ForgedHead, match="line 2"):
        read_heads(path, [KEY])
    assert read_heads(tmp_path / "none", [KEY]) == []


async def test_contents_are_erased_by_the_owner_recorded_and_the_chain_holds(
    world: World, pool: AsyncEngine
) -> None:
    await write(pool, 3)
    await RefusalSeals(pool, KEY).seal({world.spool.worker_id: [refusal(1), refusal(2, principal_id="u_9")]})
    with pytest.raises(Exception, match="permission denied"):
        async with pool.begin() as connection:
            await erase_entries(connection, [2], key=KEY, actor="a", reason="r")
    owner = database.engine(world.superuser_url, size=1)
    async with owner.begin() as connection:
        assert await erase_entries(connection, [2], key=KEY, actor="ann", reason="asked to") == 1
        assert await erase_refusals(connection, "u_9", key=KEY, actor="ann", reason="asked to") == 1
    with pytest.raises(NotFound):
        async with owner.begin() as connection:
            await erase_entries(connection, [2], key=KEY, actor="ann", reason="again")
    with pytest.raises(BadRequest):
        async with owner.begin() as connection:
            await erase_entries(connection, [5], key=KEY, actor="ann", reason="the record itself")
    await owner.dispose()
    async with pool.connect() as connection:
        verdict = await audit_check.verify(connection, KEY)
    assert (verdict.problem, verdict.erased, verdict.unrecorded, verdict.entries) == (None, 2, 0, 6)
    gone = await world.connection.fetch("SELECT principal_id FROM gateway.audit_refusals ORDER BY position")
    assert [row[0] for row in gone] == ["u_1", None]
    await world.forger.execute("DELETE FROM gateway.audit_contents WHERE number = 1")
    async with pool.connect() as connection:
        assert (await audit_check.verify(connection, KEY)).unrecorded == 1


@pytest.mark.parametrize(
    ("minute", "now", "seconds"),
    [(180, 0.0, 10_800.0), (180, 10_800.0, 86_400.0), (180, 10_801.0, 86_399.0), (0, 86_399.5, 0.5)],
)
def test_the_next_time_of_the_day(minute: int, now: float, seconds: float) -> None:
    assert seconds_until(minute, now) == seconds


def test_settings_of_the_books_are_read_and_handed_on() -> None:
    given = {
        "WEIGHBRIDGE_AUDIT_HEADS": "/elsewhere/heads",
        "WEIGHBRIDGE_LEDGER_KEEP_DAYS": "400",
        "WEIGHBRIDGE_VERIFY_AT": "04:30",
    }
    settings = Settings.from_env(given)
    assert (settings.audit_heads, settings.ledger_keep_days, settings.verify_at) == (
        Path("/elsewhere/heads"),
        400,
        270,
    )
    assert Settings.from_env(settings.to_env()) == settings
    off = Settings.from_env({"WEIGHBRIDGE_VERIFY_AT": "off"})
    assert (off.verify_at, off.ledger_keep_days) == (None, None)
    assert Settings.from_env(off.to_env()) == off
    for name, value in (("LEDGER_KEEP_DAYS", "7"), ("VERIFY_AT", "25:00"), ("VERIFY_AT", "x")):
        with pytest.raises(SettingsError):
            Settings.from_env({f"WEIGHBRIDGE_{name}": value})


def test_the_chain_and_its_heads_have_signatures_of_their_own() -> None:
    head = audit.Head(1, bytes(32))
    told = signed(head, 5, KEY)
    assert read_signed(told, [KEY]) == head
    assert read_signed({**told, "at_us": 6}, [KEY]) is None
    assert read_signed(told, [b"x" * 32]) is None
    assert read_signed({"number": "x"}, [KEY]) is None
