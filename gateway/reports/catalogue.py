"""The named reports: one SQL statement a file in `sql/`, with what is to be known of it in the comments at its head.

A statement reads the auditor's views. `:from` and `:to` bound its period, `:group` narrows it to one charged group;
a report that lacks one of them says so rather than ignore it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal

Grain = Literal["day", "hour", "moment"]
_HEAD = re.compile(r"-- (?:(bar|span|grain): )?(.*)")
_PARAMETER = re.compile(r"(?<![:\w]):(from|to|group)\b")
_TYPES = {"from": "timestamptz", "to": "timestamptz", "group": "text"}


class UnknownReport(LookupError):
    """There is no report of that name; the text lists those there are."""


@dataclass(frozen=True, slots=True)
class Report:
    """A statement, and how to run and draw it."""

    name: str
    title: str
    """One line for people."""
    statement: str
    """With numbered parameters."""
    parameters: tuple[str, ...]
    """`from`, `to` and `group`, as far as it takes them, in the order of their numbers."""
    bar: str | None
    """Column that is drawn as bars."""
    span_days: int
    """How far back it looks unless told."""
    grain: Grain
    """What its period is made of: whole days or hours where it reads sums of them."""


@cache
def reports() -> dict[str, Report]:
    """All of them, by name."""
    found = (
        each for each in files("gateway.reports").joinpath("sql").iterdir() if each.name.endswith(".sql")
    )
    made = [_read(each.name.removesuffix(".sql"), each.read_text(encoding="utf-8")) for each in found]
    return {each.name: each for each in sorted(made, key=lambda each: each.name)}


def report_named(name: str) -> Report:
    """The report; raises UnknownReport."""
    known = reports()
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownReport(
        f"There is no report {name!r}.{meant} `weighbridge report --list` shows those there are."
    )


def _read(name: str, text: str) -> Report:
    told: dict[str, str] = {}
    lines = text.splitlines()
    while lines and (head := _HEAD.fullmatch(lines[0])):
        told[head[1] or "title"] = head[2]
        del lines[0]
    order: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found[1] not in order:
            order.append(found[1])
        return f"${order.index(found[1]) + 1}::{_TYPES[found[1]]}"

    statement = _PARAMETER.sub(numbered, "\n".join(lines).strip().rstrip(";"))
    grain = told.get("grain", "moment")
    if grain not in ("day", "hour", "moment"):
        raise ValueError(f"report {name}: {grain!r} is no grain")
    return Report(
        name=name,
        title=told["title"],
        statement=statement,
        parameters=tuple(order),
        bar=told.get("bar"),
        span_days=int(told.get("span", "30")),
        grain=grain,
    )
