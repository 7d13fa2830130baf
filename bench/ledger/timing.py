"""How long the reports take: the package's own statements, run as the auditor, the first time included."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.reports.catalogue import report_named
from gateway.reports.reading import ask, auditor

RUNS = 3


@dataclass(frozen=True, slots=True)
class Question:
    """A report over a period that ends with the last whole day."""

    what: str
    report: str
    days: int
    asked_seconds: float | None = None
    """What is asked of it; None: only told."""


QUESTIONS = (
    Question("usage of a day", "usage-by-day", 1, 1.0),
    Question("who spent most in a day", "spend-by-principal", 1, 1.0),
    Question("a month per charged group", "group-costs", 30, 3.0),
    Question("a month per endpoint", "spend-by-endpoint", 30),
    Question("usage of 90 days, day by day", "usage-by-day", 90),
    Question("a day hour by hour", "usage-by-hour", 1),
    Question("slowest endpoints of a day, from the rows", "slowest-endpoints", 1),
)


@dataclass(frozen=True, slots=True)
class Timed:
    """How long it took."""

    question: Question
    first: float
    best: float
    rows: int

    @property
    def held(self) -> bool:
        """Whether it was as fast as asked, the first time too."""
        return self.question.asked_seconds is None or self.first < self.question.asked_seconds


async def timed(url: str, question: Question, end: datetime) -> Timed:
    """Run it some times; each on a connection of its own, as a person would."""
    chosen = report_named(question.report)
    known = {"from": end - timedelta(days=question.days), "to": end, "group": None}
    taken: list[float] = []
    rows = 0
    for _ in range(RUNS):
        async with auditor(url) as connection:
            began = time.monotonic()
            answer = await ask(connection, chosen.statement, *(known[each] for each in chosen.parameters))
            taken.append(time.monotonic() - began)
            rows = len(answer.rows)
    return Timed(question, taken[0], min(taken), rows)
