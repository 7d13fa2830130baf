"""`weighbridge engine cost`: what the local engine's time cost, who used it, and what others would have asked for it.

Reads the ledger as the auditor. Attributed and idle time add up to the period exactly, and so does their cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal

from gateway.cli.reach import role_url
from gateway.cli.report import let_in
from gateway.reports.period import period
from gateway.reports.reading import AUDITOR, auditor
from gateway.settings import Settings
from policies.engine_time import EngineTime, Run, attribute

By = Literal["principal", "group", "endpoint", "model"]
_KEYS: dict[By, str] = {
    "principal": "u.requester",
    "group": "coalesce(u.group_name, u.group_id, '(no group)')",
    "endpoint": "u.endpoint_name",
    "model": "a.model",
}
_RUNS = """
SELECT {key} AS key, a.start_time, a.first_byte_seconds, a.duration_seconds, u.request_streaming,
       a.fresh_input_tokens + a.cache_write_tokens AS prompt, a.output_tokens + a.reasoning_tokens AS answer
FROM serving.attempts a JOIN serving.endpoint_usage u USING (databricks_request_id)
WHERE a.request_time >= $1::timestamptz - interval '1 hour' AND a.request_time < $2
  AND u.request_time >= $1::timestamptz - interval '1 hour' AND u.request_time < $2
  AND a.start_time < $2 AND a.outcome NOT IN ('excluded', 'cached') AND a.served_entity_id IN (
      SELECT served_entity_id FROM serving.served_entities WHERE entity_type = 'FOUNDATION_MODEL')
"""
_NANO = 10**9


@dataclass(frozen=True, slots=True)
class Cost:
    """What a period cost, in nano-dollars; `busy` by key."""

    time: EngineTime
    total: int
    idle: int
    busy: dict[str, int]
    prompt_tokens: int
    answer_tokens: int
    elsewhere: int | None
    """What the same tokens cost at another's prices; None where none were given."""


def costed(
    runs: list[Run],
    start: int,
    end: int,
    *,
    nano_an_hour: int,
    prompt_weight: Fraction,
    elsewhere: tuple[int, int] | None,
) -> Cost:
    """Put a price on a period's time; `elsewhere` is nano-dollars a million prompt and answer tokens."""
    time = attribute(runs, start, end, prompt_weight=prompt_weight)
    hour = 3600 * 10**6
    busy = {key: used * nano_an_hour // hour for key, used in time.busy.items()}
    total = time.period * nano_an_hour // hour
    prompts, answers = sum(run.prompt_tokens for run in runs), sum(run.answer_tokens for run in runs)
    return Cost(
        time,
        total,
        # What rounding down leaves, less than a nano-dollar a caller, counts as idle.
        total - sum(busy.values()),
        busy,
        prompts,
        answers,
        None if elsewhere is None else (prompts * elsewhere[0] + answers * elsewhere[1]) // 10**6,
    )


async def engine_cost(
    settings: Settings,
    *,
    since: str | None,
    until: str | None,
    by: By,
    hour_price: float,
    replicas: int,
    prompt_weight: float,
    prompt_price: float | None,
    answer_price: float | None,
    as_json: bool,
) -> str:
    """The report; raises BadPeriod or CannotReach."""
    span = period(since, until, now=datetime.now(UTC), span_days=1)
    with let_in():
        async with auditor(role_url(settings, AUDITOR)) as connection:
            rows = await connection.fetch(_RUNS.format(key=_KEYS[by]), span.start, span.end)
    elsewhere = None
    if prompt_price is not None and answer_price is not None:
        elsewhere = (round(prompt_price * _NANO), round(answer_price * _NANO))
    cost = costed(
        [_run(row) for row in rows],
        _us(span.start),
        _us(span.end),
        nano_an_hour=round(hour_price * _NANO) * replicas,
        prompt_weight=Fraction(prompt_weight).limit_denominator(10**6),
        elsewhere=elsewhere,
    )
    return json.dumps(_told(cost), indent=2) if as_json else _text(cost, by)


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


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 10**6)


def _told(cost: Cost) -> dict[str, Any]:
    return {
        "period_seconds": cost.time.period / 10**6,
        "cost_nano_usd": cost.total,
        "idle_seconds": cost.time.idle / 10**6,
        "idle_cost_nano_usd": cost.idle,
        "busy": {
            key: {"seconds": used / 10**6, "cost_nano_usd": cost.busy[key]}
            for key, used in cost.time.busy.items()
        },
        "prompt_tokens": cost.prompt_tokens,
        "answer_tokens": cost.answer_tokens,
        "elsewhere_nano_usd": cost.elsewhere,
    }


def _text(cost: Cost, by: By) -> str:
    def line(name: str, used: int, nano: int) -> str:
        return f"{name:<32}{used / 10**6:>14,.3f} s{used / cost.time.period:>9.2%}{nano / _NANO:>16.6f} $"

    lines = [f"{by:<32}{'engine time':>16}{'share':>9}{'cost':>18}"]
    lines += [
        line(key, used, cost.busy[key])
        for key, used in sorted(cost.time.busy.items(), key=lambda item: (-item[1], item[0]))
    ]
    lines += [
        line("(idle)", cost.time.idle, cost.idle),
        line("sum = hours x price", cost.time.period, cost.total),
        f"{cost.prompt_tokens:,} prompt tokens processed, {cost.answer_tokens:,} answer tokens",
    ]
    if cost.elsewhere is not None:
        lines.append(f"The same tokens elsewhere: {cost.elsewhere / _NANO:.6f} $")
        if cost.elsewhere >= cost.total:
            lines.append("The engine is cheaper at this load.")
        elif cost.elsewhere:
            lines.append(f"The engine breaks even at {cost.total / cost.elsewhere:,.1f} times this load.")
    return "\n".join(lines)
