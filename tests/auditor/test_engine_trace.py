"""A real vLLM's minutes, replayed through the gateway's own accounting: all of its time is accounted for, and to whom it should be.

`engine-trace.json` was recorded by `python -m bench.engine_trace`: what the engine said of itself every five seconds, the calls
of the ledger, and how often a look four times a second found the engine at work. Between 105 and 120 s it was called past the
gateway, at 154 s it was killed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.local.meter import Reading
from gateway.cli.engine_cost import By, engine_cost
from gateway.engine_meter import EngineLog, Look
from gateway.settings import Settings
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.store import database
from gateway.store.changes import Configuration
from gateway.store.endpoints import EntitySpec, create_endpoint
from gateway.store.engine_minutes import EngineMinute, keep_minutes
from gateway.store.tables.catalog import served_entities
from policies.engine_time import OTHERS, EngineTime, Run, Watched, attribute
from tests.auditor.conftest import ROOT
from tests.auditor.posting import WORKER, post
from tests.spool.making import attempt, intent, settlement

TRACE = json.loads(Path(__file__).with_name("engine-trace.json").read_bytes())
CALLS: list[Mapping[str, Any]] = [
    dict(zip(TRACE["calls"][0], row, strict=True)) for row in TRACE["calls"][1:]
]
MINUTE = 60 * 10**6
START = TRACE["began_us"] // MINUTE * MINUTE
END = -(-TRACE["ended_us"] // MINUTE) * MINUTE
PRICE = 2.5
"""Dollars an hour."""


def minutes() -> list[EngineMinute]:
    """What the gateway's meter makes of the engine's metrics."""
    log = EngineLog("unix:/engine.sock")
    for at, steady, away, said in TRACE["looks"]:
        log.add(Look(at, steady, said and Reading(*said), bool(away)))
    return log.handed()


def watched() -> list[Watched]:
    found: list[Watched] = []
    for each in minutes():
        start, said = int(each.minute.timestamp()) * 10**6, each.worked
        tokens = (said.prompt_tokens, said.answer_tokens)
        found.append(Watched(start, start + MINUTE, said.watched, said.away, said.busy, *tokens, said.steps))
    return found


def runs(by: str = "principal") -> list[Run]:
    return [
        Run(
            call[by],
            start := call["started_at_ms"] * 1000,
            start + call["first_byte_us"] if call["stream"] and call["first_byte_us"] is not None else None,
            start + call["duration_us"],
            call["fresh_input"] + call["cache_write"],
            call["output"] + call["reasoning"],
        )
        for call in CALLS
    ]


def split(calls: list[Run], start: int = START, end: int = END) -> EngineTime:
    return attribute(calls, start, end, watched=watched())


def moment(us: int) -> str:
    return datetime.fromtimestamp(us / 10**6, UTC).isoformat()


async def test_attributed_and_idle_are_hours_times_the_price_in_the_report(
    database_url: str, configuration: Configuration
) -> None:
    async with configuration.change(ROOT, "the engine") as change:
        entity = EntitySpec(name="own", kind="local", provider="vllm", model="own")
        await create_endpoint(change, {"name": "chat", "task": "llm/v1/chat"}, [entity])
        [row] = await change.rows(served_entities)

    def posting(call: Mapping[str, Any]) -> Any:
        begun = intent(
            admitted_at_ms=call["admitted_at_ms"],
            principal_name=call["principal"],
            endpoint_name=call["endpoint"],
            stream=call["stream"],
        )
        same = set(CALLS[0]) - {"admitted_at_ms", "principal", "endpoint", "stream"}
        last = attempt(begun, entity_id=str(row["id"]), **{name: call[name] for name in same})
        return settled(Entry(begun, Place(0, 0)), settlement(begun, last), WORKER)

    await post(database_url, *map(posting, CALLS))
    engine = database.engine(database_url, size=1)
    await keep_minutes(engine, minutes())
    await engine.dispose()
    hours = (END - START) / 3600e6

    async def report(by: By, start: int = START, end: int = END) -> dict[str, Any]:
        said = await engine_cost(
            Settings.from_env({"WEIGHBRIDGE_DATABASE_URL": database_url}),
            since=moment(start),
            until=moment(end),
            by=by,
            hour_price=PRICE,
            replicas=None,
            prompt_weight=0.1,
            prompt_price=None,
            answer_price=None,
            as_json=True,
        )
        return json.loads(said)

    for by in ("principal", "endpoint", "model"):
        found = await report(by)
        spent = {name: each["cost_nano_usd"] for name, each in found["busy"].items()}
        assert spent.keys() == {OTHERS, *(call[by] for call in CALLS)}
        assert min(spent.values()) > 0
        whole = sum(spent.values()) + found["idle_cost_nano_usd"] + found["away_cost_nano_usd"]
        # Asked for within 0.1 %; only the rounding to nano-dollars is left.
        assert whole == found["cost_nano_usd"] == pytest.approx(hours * PRICE * 1e9, abs=1)
        # What the report reads out of the books is what the trace says.
        assert {name: round(each["seconds"] * 1e6) for name, each in found["busy"].items()} == split(
            runs(by)
        ).busy
    # Cut where calls were running: the parts still add up to the price of their own time.
    middle = next(each.start + 1000 for each in runs() if each.end - each.start > 10**6)
    for start, end in ((START, middle), (middle, END)):
        found = await report("principal", start, end)
        parts = [found["idle_cost_nano_usd"], found["away_cost_nano_usd"]]
        parts += [each["cost_nano_usd"] for each in found["busy"].values()]
        assert min(parts) >= 0
        assert (
            sum(parts) == found["cost_nano_usd"] == pytest.approx((end - start) / 3600e6 * PRICE * 1e9, abs=1)
        )


def test_the_order_of_the_calls_makes_no_difference() -> None:
    calls = runs()
    told = split(calls)
    for seed in range(5):
        random.Random(seed).shuffle(calls)
        assert split(calls) == told


def test_how_others_are_called_makes_no_difference_to_the_sum() -> None:
    told = split(runs())
    together = split([replace(each, key="everybody") for each in runs()])
    assert together.busy["everybody"] == pytest.approx(sum(told.busy.values()) - told.busy[OTHERS], abs=10)
    assert (together.idle, together.away) == (told.idle, told.away)
    for by in ("endpoint", "model"):
        assert split(runs(by)).busy[OTHERS] == told.busy[OTHERS]


def test_who_had_more_done_is_charged_more() -> None:
    told = split(runs()).busy
    # One floods; two ask this and that; one has much read and little written; one leaves in the middle.
    assert told["bob"] > told["alice"] > told["demo"] > told["carol"] > told["dave"] > 10**6
    answers = {name: sum(each.answer_tokens for each in runs() if each.key == name) for name in told}
    # Calls that run beside others share their steps with them.
    assert told["bob"] / answers["bob"] < told["alice"] / answers["alice"] / 2


def test_calls_past_the_gateway_are_charged_to_nobody() -> None:
    # Four of them, one after the other, in some 11 seconds; within that minute others called as well.
    assert 5 * 10**6 < split(runs()).busy[OTHERS] < 11 * 10**6


def test_an_engine_that_was_killed_is_away_until_it_answers() -> None:
    told = split(runs())
    gone = [each for each in TRACE["looks"] if each[2]]
    back = next(each for each in TRACE["looks"] if each[0] > gone[-1][0])
    assert told.away == back[0] - gone[0][0]
    assert gone[0][0] > TRACE["killed_us"]


def test_the_meter_says_what_looking_often_says() -> None:
    said = [each.worked for each in minutes()]
    share = sum(each.busy for each in said) / sum(each.watched - each.away for each in said)
    looks, at_work = (sum(each[place] for each in TRACE["polls"]) for place in (1, 2))
    # Looking often misses the step in which a call comes: the engine says that it has one when the step ends.
    assert 0 <= share - at_work / looks < 0.08


def test_the_ledger_explains_the_engines_tokens() -> None:
    said = [each.worked for each in minutes()]
    past_the_gateway = 4 * 300
    answers = sum(call["output"] + call["reasoning"] for call in CALLS)
    prompts = sum(call["fresh_input"] + call["cache_write"] for call in CALLS)
    # What ran when the engine was killed was never seen: its counters died with it.
    assert sum(each.answer_tokens for each in said) - past_the_gateway == pytest.approx(answers, rel=0.08)
    assert sum(each.prompt_tokens for each in said) == pytest.approx(prompts, rel=0.08)
