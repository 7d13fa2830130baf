"""What the local engine's time cost, read from the ledger: the parts add up to hours times the price."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli.engine_cost import engine_cost
from gateway.settings import Settings
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.store.changes import Configuration
from gateway.store.endpoints import EntitySpec, create_endpoint
from gateway.store.tables.catalog import served_entities
from tests.auditor.conftest import ROOT
from tests.auditor.posting import WORKER, ms, post
from tests.spool.making import attempt, intent, settlement

AT = "2026-11-24T12:00:00"


async def cost(settings: Settings, **given: Any) -> Any:
    asked: dict[str, Any] = {
        "since": "2026-11-24T12:00Z",
        "until": "2026-11-24T13:00Z",
        "by": "principal",
        "hour_price": 3.6,
        "replicas": 1,
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


async def test_a_provider_takes_none_of_the_engines_time(settings: Settings) -> None:
    assert set((await cost(settings, by="model"))["busy"]) == {"mixtral-demo"}


async def test_it_says_where_the_engine_breaks_even(settings: Settings) -> None:
    said = await cost(settings, as_json=False, prompt_price=1000.0, answer_price=2000.0)
    # 300 prompt and 150 answer tokens: 0.60 dollars elsewhere, 3.60 here.
    assert "The engine breaks even at 6.0 times this load." in said
    assert "sum = hours x price" in said
