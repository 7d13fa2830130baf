"""What a replay is told as: who would have been refused or throttled, by which rule, when, and what that saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TextIO

from gateway.replay.run import Result
from gateway.reports.drawing import draw
from gateway.reports.reading import Answer, Column
from gateway.reports.writing import write_csv, write_json
from policies.catalog import Snapshot
from policies.limits import window_words
from policies.replaying import Replayed

_NANO = Decimal(1_000_000_000)
_SHOWN = 20
LINES = (
    Column("at", "timestamptz"), Column("request_id", "text"), Column("principal", "text"), Column("endpoint", "text"),
    Column("was", "text"), Column("now", "text"), Column("rule", "text"), Column("wait_seconds", "float8"),
    Column("tokens", "int8"), Column("cost_nano_usd", "int8"), Column("cost_usd", "numeric"),
)  # fmt: skip
GROUPS = (
    Column("principal", "text"), Column("endpoint", "text"), Column("now", "text"), Column("rule", "text"), Column("calls", "int8"),
    Column("first", "timestamptz"), Column("last", "timestamptz"), Column("tokens", "int8"), Column("cost_usd", "numeric"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """A call that is decided differently."""

    at: datetime
    request_id: str
    principal: str
    endpoint: str
    was: str
    now: str
    rule: str
    wait_seconds: float | None
    tokens: int
    cost_nano_usd: int

    @property
    def row(self) -> tuple[Any, ...]:
        """Its cells."""
        return (
            self.at, self.request_id, self.principal, self.endpoint, self.was, self.now, self.rule, self.wait_seconds,
            self.tokens, self.cost_nano_usd, Decimal(self.cost_nano_usd) / _NANO,
        )  # fmt: skip


def lines_of(result: Result, policy: Snapshot | None) -> list[Line]:
    """The calls that are decided differently, in order."""
    names = {} if policy is None else {each.id: each.name for each in policy.principals.values()}
    return [_line(each, names) for each in result.differing]


def as_table(result: Result, lines: Sequence[Line], out: TextIO) -> None:
    """For people."""
    for sentence in sentences(result, lines):
        out.write(sentence + "\n")
    if not lines:
        return
    out.write("\n")
    if result.proposed:
        rows = _grouped(lines)
        draw(Answer(GROUPS, rows), "Decided differently", "calls", out)
    else:
        rows = [each.row for each in lines[:_SHOWN]]
        draw(Answer(LINES, rows), "Not reproduced", None, out)


def as_csv(result: Result, lines: Sequence[Line], out: TextIO) -> None:
    """Every call that is decided differently."""
    write_csv(out, LINES, (each.row for each in lines))


def as_json(result: Result, lines: Sequence[Line], out: TextIO) -> None:
    """The same."""
    write_json(out, LINES, (each.row for each in lines))


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


def sentences(result: Result, lines: Sequence[Line]) -> list[str]:
    """The result in words."""
    span = f"{_moment(result.period.start)} to {_moment(result.period.end)}"
    refused = result.calls - result.admitted
    told = [f"{span}: {result.calls:,} calls, {result.admitted:,} admitted and {refused:,} refused singly."]
    if result.proposed:
        told += _effect(lines)
    else:
        told.append(
            f"{result.again:,} of {result.decided:,} decisions come out as they were"
            + (
                f"; {result.corrected:,} times a counter showed something else than what follows from the calls on record."
                if result.corrected
                else "."
            )
        )
    if result.other_mode:
        told.append(
            f"{result.other_mode:,} were not decided again: Redis was away, or too little is on record of them."
        )
    if result.unknown:
        told.append(f"{result.unknown:,} are of principals or endpoints that are no longer there.")
    if result.counted:
        told.append(
            f"{result.counted:,} further refusals are on record as counts only, and not part of this."
        )
    if result.period.end > result.complete_until:
        told.append(f"The books are complete until {_moment(result.complete_until)}.")
    return told


def _effect(lines: Sequence[Line]) -> list[str]:
    refused = [each for each in lines if each.was == "admitted"]
    admitted = [each for each in lines if each.was != "admitted"]
    throttled = sum(each.now == "throttled" for each in refused)
    saved = Decimal(sum(each.cost_nano_usd for each in refused)) / _NANO
    less = f"{sum(each.tokens for each in refused):,} tokens and ${saved:,.6f} less"
    told = [
        f"{len(refused):,} admitted calls would have been refused, {throttled:,} of them only throttled: {less}."
    ]
    if admitted:
        told.append(
            f"{len(admitted):,} refused calls would have been admitted; what they would have cost nobody knows."
        )
    return told


def _grouped(lines: Sequence[Line]) -> list[tuple[Any, ...]]:
    found: dict[tuple[str, str, str, str], list[Line]] = {}
    for each in lines:
        found.setdefault((each.principal, each.endpoint, each.now, each.rule), []).append(each)
    rows = [
        (
            *key, len(own), own[0].at, own[-1].at, sum(each.tokens for each in own),
            Decimal(sum(each.cost_nano_usd for each in own)) / _NANO,
        )
        for key, own in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (-row[4], row[:4]))


def _line(each: Replayed, names: dict[str, str]) -> Line:
    past, now = each.past, each.now
    assert now is not None
    use = past.use
    rule = ""
    if each.draw is not None:
        named = f" {each.draw.name!r}" if each.draw.name else ""
        rule = f"{each.draw.metric.value}{window_words(each.draw.window)} of {each.draw.owner}{named}"
    elif not now.admitted:
        rule = now.code
    return Line(
        datetime.fromtimestamp(past.at_ms / 1000, UTC),
        past.id,
        past.principal_name or names.get(past.principal_id, past.principal_id),
        past.endpoint_name,
        "admitted" if past.was.admitted else past.was.code,
        "admitted" if now.admitted else "throttled" if now.throttled else "refused",
        rule,
        None if now.admitted or now.wait_ms <= 0 else now.wait_ms / 1000,
        0 if use is None else use.prompt_tokens + use.completion_tokens,
        0 if use is None else use.cost_nano_usd,
    )


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
