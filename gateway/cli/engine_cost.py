"""`weighbridge engine cost`: what the local engines' time cost, who used it, and what others would have asked for it.

Reads the books as the auditor: how long engines worked is what they said themselves, whose calls it was is the ledger's.
Attributed, idle and away time add up to the period times the engines exactly, and so does their cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal

from engines.local.launch import EMBEDDER_NAME
from gateway.cli.reach import role_url
from gateway.cli.report import let_in
from gateway.reports.period import period
from gateway.reports.reading import AUDITOR, auditor
from gateway.settings import Settings
from policies.engine_time import EngineTime, Run, Watched, attribute

By = Literal["principal", "group", "endpoint", "model"]
_KEYS: dict[By, str] = {
    "principal": "u.requester",
    "group": "coalesce(u.group_name, u.group_id, '(no group)')",
    "endpoint": "u.endpoint_name",
    "model": "a.model",
}
# The embedding model has an engine of its own.
_RUNS = """
SELECT {key} AS key, a.start_time, a.first_byte_seconds, a.duration_seconds, u.request_streaming,
       a.fresh_input_tokens + a.cache_write_tokens AS prompt, a.output_tokens + a.reasoning_tokens AS answer
FROM serving.attempts a JOIN serving.endpoint_usage u USING (databricks_request_id)
WHERE a.request_time >= $1::timestamptz - interval '1 hour' AND a.request_time < $2
  AND u.request_time >= $1::timestamptz - interval '1 hour' AND u.request_time < $2
  AND a.start_time < $2 AND a.outcome NOT IN ('excluded', 'cached') AND a.model <> $3 AND a.served_entity_id IN (
      SELECT served_entity_id FROM serving.served_entities WHERE entity_type = 'FOUNDATION_MODEL')
"""
_MINUTES = """
SELECT minute, count(*) AS engines, sum(watched_seconds) AS watched, sum(away_seconds) AS away, sum(busy_seconds) AS busy,
       sum(present_seconds) AS present, sum(steps)::bigint AS steps, sum(prompt_tokens)::bigint AS prompt,
       sum(answer_tokens)::bigint AS answer
FROM serving.engine_minutes WHERE minute > $1::timestamptz - interval '1 minute' AND minute < $2 GROUP BY minute ORDER BY minute
"""
_PRICES = """
SELECT endpoint_name || '/' || served_entity_name AS name, input_nano_usd, output_nano_usd FROM billing.list_prices
WHERE price_start_time <= now() AND coalesce(price_end_time > now(), true) AND input_nano_usd + output_nano_usd > 0
  AND served_entity_id IN (SELECT served_entity_id FROM serving.served_entities WHERE entity_type = 'EXTERNAL_MODEL')
"""
_MINUTE_US = 60 * 10**6
_NANO = 10**9
GIVEN = "the prices given"


@dataclass(frozen=True, slots=True)
class Told:
    """What the engines said of the period themselves, all together."""

    engines: int
    """How many there were at most in a minute; 0 where nobody asked any."""
    busy: int
    present: int
    steps: int
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a period cost, in nano-dollars; `busy` by key."""

    time: EngineTime
    total: int
    idle: int
    away: int
    busy: dict[str, int]
    prompt_tokens: int
    answer_tokens: int
    elsewhere: dict[str, int]
    """What the same tokens cost at others' prices, by their names."""


def costed(
    runs: list[Run],
    start: int,
    end: int,
    *,
    nano_an_hour: int,
    prompt_weight: Fraction,
    elsewhere: dict[str, tuple[int, int]],
    engines: int = 1,
    watched: list[Watched] | None = None,
) -> Cost:
    """Put a price on a period's time; `elsewhere` is nano-dollars a million prompt and answer tokens."""
    time = attribute(runs, start, end, prompt_weight=prompt_weight, engines=engines, watched=watched or ())
    hour = 3600 * 10**6
    busy = {key: used * nano_an_hour // hour for key, used in time.busy.items()}
    total = time.period * nano_an_hour // hour
    away = time.away * nano_an_hour // hour
    inside = [run for run in runs if run.end > start]
    prompts, answers = sum(run.prompt_tokens for run in inside), sum(run.answer_tokens for run in inside)
    return Cost(
        time,
        total,
        # What rounding down leaves, less than a nano-dollar a caller, counts as idle.
        total - away - sum(busy.values()),
        away,
        busy,
        prompts,
        answers,
        {
            name: (prompts * prompt + answers * answer) // 10**6
            for name, (prompt, answer) in elsewhere.items()
        },
    )


async def engine_cost(
    settings: Settings,
    *,
    since: str | None,
    until: str | None,
    by: By,
    hour_price: float,
    replicas: int | None,
    prompt_weight: float,
    prompt_price: float | None,
    answer_price: float | None,
    as_json: bool,
) -> str:
    """The report; raises BadPeriod or CannotReach."""
    span = period(since, until, now=datetime.now(UTC), span_days=1)
    with let_in():
        async with auditor(role_url(settings, AUDITOR)) as connection:
            rows = await connection.fetch(_RUNS.format(key=_KEYS[by]), span.start, span.end, EMBEDDER_NAME)
            minutes = await connection.fetch(_MINUTES, span.start, span.end)
            prices = await connection.fetch(_PRICES)
    elsewhere = {row["name"]: (row["input_nano_usd"], row["output_nano_usd"]) for row in prices}
    if prompt_price is not None and answer_price is not None:
        elsewhere[GIVEN] = (round(prompt_price * _NANO), round(answer_price * _NANO))
    told = _said(minutes)
    cost = costed(
        [_run(row) for row in rows],
        _us(span.start),
        _us(span.end),
        nano_an_hour=round(hour_price * _NANO),
        prompt_weight=Fraction(prompt_weight).limit_denominator(10**6),
        elsewhere=elsewhere,
        engines=max(1, told.engines) if replicas is None else replicas,
        watched=[_watched(row) for row in minutes],
    )
    return json.dumps(_told(cost, told), indent=2) if as_json else _text(cost, told, by)


def _run(row: Any) -> Run:
    start = _us(row["start_time"])
    first = row["first_byte_seconds"]
    return Run(
        row["key"] or "(unknown)",
        start,
        # Only a stream tells when its first token came; a whole answer's first byte comes with its last.
        start + int(first * 10**6) if row["request_streaming"] and first is not None else None,
        start + int((row["duration_seconds"] or 0) * 10**6),
        row["prompt"],
        row["answer"],
    )


def _watched(row: Any) -> Watched:
    start = _us(row["minute"])
    watched, away, busy = (int(row[name] * 10**6) for name in ("watched", "away", "busy"))
    return Watched(start, start + _MINUTE_US, watched, away, busy, row["prompt"], row["answer"], row["steps"])


def _said(minutes: list[Any]) -> Told:
    busy, present = (int(sum(row[name] for row in minutes) * 10**6) for name in ("busy", "present"))
    steps, prompts, answers = (sum(row[name] for row in minutes) for name in ("steps", "prompt", "answer"))
    return Told(max((row["engines"] for row in minutes), default=0), busy, present, steps, prompts, answers)


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 10**6)


def _told(cost: Cost, told: Told) -> dict[str, Any]:
    return {
        "period_seconds": cost.time.period / 10**6,
        "cost_nano_usd": cost.total,
        "idle_seconds": cost.time.idle / 10**6,
        "idle_cost_nano_usd": cost.idle,
        "away_seconds": cost.time.away / 10**6,
        "away_cost_nano_usd": cost.away,
        "busy": {
            key: {"seconds": used / 10**6, "cost_nano_usd": cost.busy[key]}
            for key, used in cost.time.busy.items()
        },
        "prompt_tokens": cost.prompt_tokens,
        "answer_tokens": cost.answer_tokens,
        "engine": {
            "unwatched_seconds": cost.time.unwatched / 10**6,
            "busy_seconds": told.busy / 10**6,
            "calls_at_once": told.present / told.busy if told.busy else None,
            "steps": told.steps,
            "prompt_tokens": told.prompt_tokens,
            "answer_tokens": told.answer_tokens,
        },
        "elsewhere_nano_usd": cost.elsewhere,
    }


def _text(cost: Cost, told: Told, by: By) -> str:
    time = cost.time

    def line(name: str, used: int, nano: int) -> str:
        return f"{name:<32}{used / 10**6:>14,.3f} s{used / time.period:>9.2%}{nano / _NANO:>16.6f} $"

    lines = [f"{by:<32}{'engine time':>16}{'share':>9}{'cost':>18}"]
    lines += [
        line(key, used, cost.busy[key])
        for key, used in sorted(time.busy.items(), key=lambda item: (-item[1], item[0]))
    ]
    lines += [line("(idle)", time.idle, cost.idle)]
    lines += [line("(away)", time.away, cost.away)] if time.away else []
    lines += [line("sum = hours x price", time.period, cost.total), ""]
    lines.append(
        f"The ledger has {cost.prompt_tokens:,} prompt tokens processed and {cost.answer_tokens:,} answer tokens."
    )
    if time.unwatched < time.period:
        counted = f"The engine's own count is {told.prompt_tokens:,} and {told.answer_tokens:,}"
        if told.busy and told.steps:
            counted += (
                f", in {told.steps:,} steps of {(told.prompt_tokens + told.answer_tokens) / told.steps:.1f} tokens; "
                f"while it worked, {told.present / told.busy:.1f} calls were in it at once"
            )
        lines.append(f"{counted}.")
    if time.unwatched:
        lines.append(
            f"For {time.unwatched / time.period:.2%} of the time nobody asked the engine, and the ledger alone decides."
        )
    lines += [_compared(name, nano, cost.total) for name, nano in sorted(cost.elsewhere.items())]
    return "\n".join(lines)


def _compared(name: str, elsewhere: int, total: int) -> str:
    said = f"At {name} the same tokens cost {elsewhere / _NANO:.6f} $: "
    if elsewhere >= total:
        return f"{said}the engine is cheaper at this load."
    if not elsewhere:
        return f"{said}no load makes the engine cheaper."
    return f"{said}the engine breaks even at {total / elsewhere:,.1f} times this load."
