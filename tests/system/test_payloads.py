"""Calls kept by a real worker: turned on over Databricks' route, plain and streamed, and what an endpoint without it leaves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from tests.system.deployment import ENDPOINT, Deployment, chat

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
CHAT = "/v1/chat/completions"
FEATURES = f"/api/2.0/serving-endpoints/{ENDPOINT}/ai-gateway"


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


async def put(gateway: Deployment, features: dict[str, Any]) -> dict[str, Any]:
    answer = await gateway.ask("PUT", FEATURES, features, key=gateway.admin_key)
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body)


async def kept(reader: asyncpg.Connection, request_id: str) -> asyncpg.Record:
    ends = time.monotonic() + 30
    while True:
        row = await reader.fetchrow(
            "SELECT * FROM payloads.calls WHERE databricks_request_id = $1", request_id
        )
        if row is not None:
            return row
        assert time.monotonic() < ends
        await asyncio.sleep(0.05)


async def test_an_inference_table_keeps_plain_and_streamed_calls_and_no_credential(
    gateway: Deployment, postgres_server: EmbeddedPostgres, database_name: str
) -> None:
    key = gateway.keys["bulk"]
    before = await gateway.ask("POST", CHAT, chat("nobody keeps this"), key=key)
    shown = await put(gateway, {"inference_table_config": {"enabled": True, "catalog_name": "main"}})
    assert shown["inference_table_config"] == {"enabled": True, "catalog_name": "main"}
    reader = await asyncpg.connect(postgres_server.url("weighbridge_payloads", database_name))
    try:
        # Workers follow the configuration within a second; until then calls are not kept.
        ends = time.monotonic() + 30
        while True:
            first = await gateway.ask("POST", CHAT, chat("say something plain"), key=key)
            assert first.status == 200, first.body
            await asyncio.sleep(0.2)
            if await reader.fetchval("SELECT count(*) FROM payloads.calls"):
                break
            assert time.monotonic() < ends
        plain = await gateway.ask("POST", CHAT, chat("say something plain"), key=key)
        row = await kept(reader, plain.headers["x-request-id"])
        assert "say something plain" in row["request"]
        assert msgspec.json.decode(row["response"]) == msgspec.json.decode(plain.body)
        assert (row["status_code"], row["requester"], row["logging_error_codes"]) == (200, "bulk", [])
        streamed = await gateway.ask("POST", CHAT, chat("say it in pieces", stream=True), key=key)
        row = await kept(reader, streamed.headers["x-request-id"])
        told = msgspec.json.decode(row["response"])
        assert told["object"] == "chat.completion"
        assert told["choices"][0]["message"]["content"]
        assert told["choices"][0]["finish_reason"]
        texts = await reader.fetch("SELECT c::text AS all FROM payloads.calls c")
        assert not any(key in each["all"] for each in texts)
        assert not any("nobody keeps this" in each["all"] for each in texts)
        assert before.headers["x-request-id"] not in "".join(each["all"] for each in texts)
        ends = time.monotonic() + 30
        while True:
            page = (await gateway.ask("GET", "/metrics")).body.decode()
            count = await reader.fetchval("SELECT count(*) FROM payloads.calls")
            if f'weighbridge_payloads_total{{outcome="stored"}} {count}.0' in page:
                break
            assert time.monotonic() < ends
            await asyncio.sleep(0.1)
    finally:
        await reader.close()
    assert "inference_table_config" not in await put(gateway, {})
