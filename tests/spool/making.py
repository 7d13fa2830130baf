"""Records as a worker would append them, with round numbers."""

from __future__ import annotations

import time
from typing import Any

from gateway.ids import RequestIds
from gateway.spool.records import Attempt, Charge, Intent, Priced, Progress, Settlement

IDS = RequestIds()
PRICES = [
    Priced("se_1", "mixtral-demo", "price_1", 1_000_000, 500_000, 0, 2_000_000, 2_000_000, 7),
    Priced("se_2", "other-model", "price_2", 10_000_000, 10_000_000, 0, 20_000_000, 20_000_000, 0),
]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def id_at(at_ms: int) -> bytes:
    """A request id whose place in time is `at_ms`."""
    return at_ms.to_bytes(6, "big") + IDS.make()[6:]


def intent(**changes: Any) -> Intent:
    at = changes.pop("admitted_at_ms", None) or now_ms()
    values: dict[str, Any] = {
        "request_id": id_at(at),
        "admitted_at_ms": at,
        "sequence": 1,
        "snapshot_version": 1,
        "principal_id": "u_1",
        "principal_kind": "user",
        "principal_name": "alice@example.com",
        "key_id": "k_1",
        "group_id": None,
        "endpoint_id": "ep_1",
        "endpoint_name": "databricks-mixtral-8x7b-instruct",
        "api": "openai.chat",
        "stream": True,
        "estimated_prompt_tokens": 120,
        "granted_output_tokens": 256,
        "charges": [
            Charge("lim_1", "u_1", "total_tokens", "{wb}:w:lim_1:u_1", "r", 29, 376, 0, 60_000),
            Charge("bud_1", "u_1", "money", "{wb}:b:bud_1:u_1", "p", at, 1012, 0),
        ],
        "prices": PRICES,
    }
    return Intent(**(values | changes))


def attempt(of: Intent, number: int = 1, **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "request_id": of.request_id,
        "attempt": number,
        "entity_id": "se_1",
        "entity_name": "mixtral-demo",
        "model": "mixtral-demo",
        "started_at_ms": of.admitted_at_ms + 1,
        "first_byte_us": 5_000,
        "duration_us": 90_000,
        "outcome": "ok",
        "status": 200,
        "error_code": None,
        "fresh_input": 100,
        "cache_read": 0,
        "cache_write": 0,
        "output": 50,
        "reasoning": 0,
        "usage_source": "reported",
        "price_id": "price_1",
        "cost_nano_usd": 207,
    }
    return Attempt(**(values | changes))


def settlement(of: Intent, last: Attempt | None = None, **changes: Any) -> Settlement:
    values: dict[str, Any] = {
        "request_id": of.request_id,
        "ended_at_ms": of.admitted_at_ms + 100,
        "status": "ok",
        "http_status": 200,
        "error_code": None,
        "finish_reason": "stop",
        "stopped_by": None,
        "first_byte_us": 6_000,
        "duration_us": 100_000,
        "queue_us": 10,
        "cache_hit": False,
        "last": attempt(of) if last is None else last,
    }
    return Settlement(**(values | changes))


def progress(of: Intent, number: int = 1, **changes: Any) -> Progress:
    values: dict[str, Any] = {
        "request_id": of.request_id,
        "attempt": number,
        "at_ms": of.admitted_at_ms + 50,
        "entity_id": "se_1",
        "first_byte": True,
        "prompt_tokens": 100,
        "completion_tokens": 64,
    }
    return Progress(**(values | changes))
