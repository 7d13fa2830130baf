"""Views say what the tables hold: prices as they were in force, refusals with the names of what refused, entities by version."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from gateway.store.changes import Configuration
from gateway.store.endpoints import EntitySpec, create_endpoint, update_endpoint
from gateway.store.principals import create_principal
from gateway.store.rules import create_limit
from gateway.store.snapshot import ConfigurationRows, build
from gateway.store.tables.catalog import endpoints, prices, served_entities
from tests.auditor.conftest import ROOT

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SEED = 11


async def test_a_price_is_listed_as_in_force_whenever_the_gateway_would_take_it(
    configuration: Configuration, auditor: asyncpg.Connection
) -> None:
    draw = random.Random(SEED)
    async with configuration.change(ROOT, "prices") as change:
        made = await create_endpoint(
            change,
            {"name": "priced", "task": "llm/v1/chat"},
            [
                EntitySpec("one", "local", "vllm", "m"),
                EntitySpec("two", "local", "vllm", "m", traffic_percent=0),
            ],
        )
        entities = await change.rows(served_entities, served_entities.c.endpoint_id == made["id"])
        entered: list[str] = []
        for number in range(24):
            start = BEGIN + draw.randrange(40) * DAY
            row = {
                "served_entity_id": draw.choice(entities)["id"],
                "effective_from": start,
                "effective_to": start + draw.randrange(1, 12) * DAY if draw.random() < 0.6 else None,
                "corrects": draw.choice(entered) if entered and draw.random() < 0.2 else None,
                **dict.fromkeys(("input", "cache_read", "cache_write", "output", "reasoning"), number),
            }
            entered.append((await change.add(prices, "price", row))["id"])
        all_prices = await change.rows(prices)
    listed = await auditor.fetch("SELECT * FROM billing.list_prices")
    assert {row["sku_name"] for row in listed} == {"priced/one", "priced/two"}
    empty: dict[str, Any] = {name: [] for name in ConfigurationRows.__dataclass_fields__ if name != "version"}
    seen = set[str | None]()
    for number in range(110):
        at = BEGIN - DAY + number * DAY / 2
        rows = ConfigurationRows(
            version=1, **{**empty, "prices": all_prices, "endpoints": [made], "served_entities": entities}
        )
        [endpoint] = build(rows, at).snapshot.endpoints.values()
        for entity in endpoint.entities:
            wanted = entity.price.id or None
            held = [
                row["price_id"]
                for row in listed
                if row["served_entity_id"] == entity.id
                and row["price_start_time"] <= at
                and (row["price_end_time"] is None or at < row["price_end_time"])
            ]
            assert held == ([] if wanted is None else [wanted]), (at, entity.name)
            seen.add(wanted)
    assert len(seen) > 5 and None in seen


async def test_refusals_and_limit_hits_name_who_and_what(
    configuration: Configuration, owner: asyncpg.Connection, auditor: asyncpg.Connection
) -> None:
    async with configuration.change(ROOT, "limits") as change:
        person = await create_principal(change, "user", {"name": "refused one"})
        limit = await create_limit(
            change,
            {
                "name": "tokens a minute", "scope": "user", "subject_id": person["id"], "metric": "total_tokens",
                "window_kind": "rolling", "window_ms": 60_000, "amount": 5,
            },
        )  # fmt: skip
    content = (
        '{"at_ms":1795600000000,"span_ms":1000,"count":17,"plane":"data","code":"rate_limit_exceeded",'
        f'"limit_id":"{limit["id"]}","principal_id":"{person["id"]}"}}'
    )
    await owner.execute(
        "INSERT INTO gateway.audit_refusals (seal, position, digest, salt, content) VALUES ($1, 1, $2, $3, $4)",
        uuid.uuid4(), b"d" * 32, b"s", content,
    )  # fmt: skip
    [row] = await auditor.fetch("SELECT * FROM access.refusals")
    assert (row["principal_name"], row["limit_name"], row["code"]) == (
        "refused one",
        "tokens a minute",
        "rate_limit_exceeded",
    )
    assert (row["refusals"], float(row["span_seconds"])) == (17, 1.0)
    [hit] = await auditor.fetch("SELECT * FROM access.limit_hits")
    assert (hit["kind"], hit["hits"], hit["rule"], hit["scope"], hit["metric"]) == (
        "refused",
        17,
        "limit",
        "user",
        "total_tokens",
    )


async def test_served_entities_are_told_version_by_version_without_credentials(
    configuration: Configuration, auditor: asyncpg.Connection
) -> None:
    first = EntitySpec(
        "far",
        "external",
        "openai",
        "gpt",
        base_url="https://user:hunter2@api.example.com:8443/v1?key=hunter2",
    )
    async with configuration.change(ROOT, "external") as change:
        made = await create_endpoint(change, {"name": "outside", "task": "llm/v1/chat"}, [first])
    async with configuration.change(ROOT, "another model") as change:
        there = await change.current(endpoints, made["id"], "endpoint")
        await update_endpoint(
            change,
            there,
            {},
            [EntitySpec("far", "external", "openai", "gpt-2", base_url="https://api.example.com")],
        )
    rows = await auditor.fetch(
        "SELECT * FROM serving.served_entities WHERE endpoint_name = 'outside' ORDER BY change_time"
    )
    assert [(row["entity_name"], row["host"], row["end_time"] is None) for row in rows] == [
        ("gpt", "api.example.com:8443", False),
        ("gpt-2", "api.example.com", True),
    ]
    assert all(row["entity_type"] == "EXTERNAL_MODEL" and row["endpoint_delete_time"] is None for row in rows)
    whole = await auditor.fetchval("SELECT string_agg(t::text, '') FROM serving.served_entities t")
    assert "hunter2" not in whole


async def test_actions_and_logins_are_told_apart(
    configuration: Configuration, auditor: asyncpg.Connection
) -> None:
    async with configuration.change(ROOT, "two kinds") as change:
        await change.record("session", "s1", "create", {"by": "key"})
        await change.record("declaration", "f.yaml", "apply", {"objects": 3})
    actions = {row["action"] for row in await auditor.fetch("SELECT action FROM access.admin_actions")}
    logins = await auditor.fetch("SELECT action, actor, details FROM access.logins")
    assert "declaration.apply" in actions and "session.create" not in actions
    assert [(row["action"], row["actor"]) for row in logins] == [("session.create", "tests")]
    entries = await auditor.fetch(
        "SELECT event_time, event_date, user_identity, request_params FROM access.audit"
    )
    assert all(row["event_date"] == row["event_time"].astimezone(UTC).date() for row in entries)
