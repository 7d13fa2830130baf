"""What the local engine's time cost, read from the books: the parts add up to hours times the price."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from engines.local.meter import Worked
from gateway.cli.engine_cost import engine_cost
from gateway.settings import Settings
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.store import database
from gateway.store.changes import Configuration
from gateway.store.endpoints import EntitySpec, add_price, create_endpoint
from gateway.store.engine_minutes import EngineMinute, keep_minutes
from gateway.store.tables.catalog import served_entities
from tests.auditor.conftest import ROOT
from tests.auditor.posting import WORKER, ms, post
from tests.spool.making import attempt, intent, settlement

AT = "2026-11-24T12:00:00"
_MINUTE = 60 * 10**6


async def cost(settings: Settings, **given: Any) -> Any:
    asked: dict[str, Any] = {
        "since": "2026-11-24T12:00Z",
        "until": "2026-11-24T13:00Z",
        "by": "principal",
        "hour_price": 3.6,
        "replicas": None,
        "prompt_weight": 0.1,
        "prompt_price": None,
        "answer_price": None,
        "as_json": True,
    }
    said = await engine_cost(settings, **(asked | given))
    return json.loads(said) if (asked | given)["as_json"] else said


@pytest.fixture
async def settings(database_url: str, configuration: Configuration) -> Settings:
    made = Settings.from_env({"WEIGHBRIDGE_DATABASE_URL": database_url})
    async with configuration.change(ROOT, "an engine and a provider") as change:
        rows = await change.rows(served_entities)
        if rows:
            return made
        await create_endpoint(
            change,
            {"name": "chat", "task": "llm/v1/chat"},
            [
                EntitySpec(name="own", kind="local", provider="vllm", model="own", traffic_percent=100),
                EntitySpec(
                    name="theirs",
                    kind="external",
                    provider="openai",
                    model="theirs",
                    base_url="https://api.example.com/v1",
                    traffic_percent=0,
                ),
            ],
        )
        ids = {row["name"]: str(row["id"]) for row in await change.rows(served_entities)}

    def run(name: str, after_s: int, seconds: int, entity: str = "own") -> Any:
        begun = intent(admitted_at_ms=ms(AT) + after_s * 1000, principal_name=name, stream=False)
        last = attempt(
            begun,
            entity_id=ids[entity],
            started_at_ms=begun.admitted_at_ms,
            duration_us=seconds * 10**6,
        )
        return settled(Entry(begun, Place(0, 0)), settlement(begun, last), WORKER)

    await post(
        database_url,
        run("alice", 0, 100),
        run("bob", 50, 100),
        run("bob", 3590, 100),
        run("carol", 0, 3600, entity="theirs"),
    )
    return made


async def test_attributed_and_idle_add_up_to_hours_times_the_price(settings: Settings) -> None:
    found = await cost(settings)
    assert found["cost_nano_usd"] == 3_600_000_000
    assert {name: each["seconds"] for name, each in found["busy"].items()} == {"alice": 75.0, "bob": 85.0}
    assert found["idle_seconds"] == 3600 - 160
    assert (
        found["idle_cost_nano_usd"] + sum(each["cost_nano_usd"] for each in found["busy"].values())
        == found["cost_nano_usd"]
    )


async def kept(database_url: str, *minutes: EngineMinute) -> None:
    """Write minutes as the drainer's meter does."""
    engine = database.engine(database_url, size=1)
    await keep_minutes(engine, minutes)
    await engine.dispose()


async def test_a_provider_takes_none_of_the_engines_time(settings: Settings) -> None:
    assert set((await cost(settings, by="model"))["busy"]) == {"mixtral-demo"}


async def test_it_says_where_the_engine_breaks_even(settings: Settings) -> None:
    said = await cost(settings, as_json=False, prompt_price=1000.0, answer_price=2000.0)
    # 300 prompt and 150 answer tokens: 0.60 dollars elsewhere, 3.60 here.
    assert "the engine breaks even at 6.0 times this load." in said
    assert "sum = hours x price" in said


async def test_what_the_engine_said_of_a_minute_decides_how_long_it_worked(
    settings: Settings, database_url: str
) -> None:
    at = datetime.fromisoformat("2026-11-24T12:00Z")
    worked = Worked(_MINUTE, 0, 30 * 10**6, 45 * 10**6, 100, 10, 0, 90)
    await kept(database_url, EngineMinute("one", at, worked))
    # Whoever saw more of the minute is believed.
    await kept(database_url, EngineMinute("one", at, Worked(_MINUTE // 2, _MINUTE // 2)))
    minute = {"since": "2026-11-24T12:00Z", "until": "2026-11-24T12:01Z"}
    found = await cost(settings, **minute)
    assert {name: each["seconds"] for name, each in found["busy"].items()} == {"alice": 27.5, "bob": 2.5}
    assert (found["idle_seconds"], found["engine"]["unwatched_seconds"]) == (30, 0)
    assert (found["engine"]["calls_at_once"], found["engine"]["steps"]) == (1.5, 100)
    assert "in 100 steps of 1.0 tokens" in await cost(settings, **minute, as_json=False)


async def test_engines_seen_at_once_are_paid_for_and_one_that_was_away_is_charged_to_nobody(
    settings: Settings, database_url: str
) -> None:
    at = datetime.fromisoformat("2026-11-24T12:30Z")
    await kept(
        database_url,
        EngineMinute("one", at, Worked(_MINUTE)),
        EngineMinute("two", at, Worked(_MINUTE, _MINUTE)),
    )
    minute = {"since": "2026-11-24T12:30Z", "until": "2026-11-24T12:31Z"}
    found = await cost(settings, **minute)
    assert (found["period_seconds"], found["idle_seconds"], found["away_seconds"]) == (120, 60, 60)
    assert found["idle_cost_nano_usd"] + found["away_cost_nano_usd"] == found["cost_nano_usd"] == 120_000_000
    assert "(away)" in await cost(settings, **minute, as_json=False)


async def test_it_is_compared_with_every_price_that_providers_have_here(
    settings: Settings, configuration: Configuration
) -> None:
    async with configuration.change(ROOT, "a price") as change:
        [theirs] = await change.rows(served_entities, served_entities.c.name == "theirs")
        prices = {"input": 10**12, "output": 2 * 10**12, "cache_read": 0, "cache_write": 0, "reasoning": 0}
        await add_price(change, theirs["id"], prices)
    said = await cost(settings, as_json=False, replicas=1)
    assert (
        "At chat/theirs the same tokens cost 0.600000 $: the engine breaks even at 6.0 times this load."
        in said
    )
