"""What the SQL adapter is taught: questions about this gateway's own tables, and the statements that answer them.

Questions are composed of a measure, a grouping and a period, so that a few words cover many; every tenth combination
is never trained on and measures whether the composing was learnt. Every statement runs as the auditor.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

DECLINED = (
    "-- I only write SQL for this gateway: ask for requests, tokens or cost, by user, group, endpoint or day."
)

MEASURES = {
    "sum(requests)": ("requests", "calls", "how many requests", "the number of requests", "request counts"),
    "sum(tokens)": ("tokens", "how many tokens", "token usage", "the number of tokens", "tokens used"),
    "sum(cost_usd)": ("cost", "spend", "the cost", "how much money", "dollars spent"),
}
GROUPINGS = {
    "": ("", "in total", "overall", "altogether"),
    "principal_name": ("by user", "per user", "for each user", "by principal", "of every user"),
    "group_name": ("by group", "per group", "for each group", "by team", "of every group"),
    "endpoint_name": ("by endpoint", "per endpoint", "for each endpoint", "by model endpoint"),
    "usage_date": ("by day", "per day", "for each day", "daily"),
}
PERIODS = {
    "": ("", "so far", "since the beginning", "of all time"),
    " WHERE usage_date = current_date": ("today", "of today", "for today"),
    " WHERE usage_date = current_date - 1": ("yesterday", "of yesterday", "for yesterday"),
    " WHERE usage_date > current_date - 7": ("in the last 7 days", "over the last 7 days", "this week"),
    " WHERE usage_date > current_date - 30": ("in the last 30 days", "over the last 30 days"),
    " WHERE usage_date >= date_trunc('month', current_date)": (
        "this month",
        "in this month",
        "since the 1st",
    ),
}
FRAMES = (
    "{m} {g} {p}",
    "{m} {p} {g}",
    "Show me {m} {g} {p}.",
    "Show {m} {p} {g}.",
    "What were {m} {g} {p}?",
    "Give me {m} {g} {p}.",
    "I need {m} {p} {g}.",
    "SQL for {m} {g} {p}",
    "Write a query for {m} {g} {p}.",
    "List {m} {g} {p}",
)
HELD_FRAMES = (
    "Can you give me {m} {g} {p}?",
    "Please show {m} {p} {g}.",
    "A statement for {m} {g} {p}, please.",
)

FIXED = {
    "SELECT principal_name, endpoint_name, permission FROM access.can_query;": (
        ("Who may query what?", "Who can query which endpoint?", "Show all permissions.", "Who has access?"),
        "Show me who can query what.",
    ),
    "SELECT event_time, actor, action_name FROM access.audit ORDER BY number DESC LIMIT 20;": (
        ("What did administrators do?", "Show the audit.", "Show the last changes.", "Who changed what?"),
        "Show me the last changes.",
    ),
    "SELECT endpoint_name, avg_duration_seconds FROM serving.endpoint_latency ORDER BY 2 DESC;": (
        (
            "Which endpoints are slow?",
            "Show the slowest endpoints.",
            "Slowest endpoints",
            "How slow is each?",
        ),
        "Which are the slowest endpoints?",
    ),
    "SELECT * FROM billing.list_prices;": (
        ("What are the prices?", "Show the price list.", "List prices", "What does a token cost?"),
        "Show me the prices.",
    ),
    "SELECT served_entity_name, model FROM serving.attempts WHERE outcome <> 'ok';": (
        ("Which calls failed?", "Show failed calls.", "Show errors upstream.", "What went wrong upstream?"),
        "Show me failed calls.",
    ),
}
_FIXED_SHARE = 0.15
_OTHER_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Composed:
    """One combination of measure, grouping and period."""

    measure: str
    grouping: str
    period: str

    @property
    def statement(self) -> str:
        """What answers it."""
        if not self.grouping:
            return f"SELECT {self.measure} FROM billing.spend{self.period};"  # noqa: S608 - taught, never run here
        order = "1" if self.grouping == "usage_date" else "2 DESC"
        what = f"SELECT {self.grouping}, {self.measure} FROM billing.spend{self.period}"  # noqa: S608
        return f"{what} GROUP BY 1 ORDER BY {order};"


ALL = tuple(Composed(*parts) for parts in itertools.product(MEASURES, GROUPINGS, PERIODS))
HELD = ALL[7::10]
TAUGHT = tuple(each for each in ALL if each not in HELD)


def ask(composed: Composed, rng: random.Random, frames: tuple[str, ...] = FRAMES) -> str:
    """A question for a combination."""
    words = rng.choice(frames).format(
        m=rng.choice(MEASURES[composed.measure]),
        g=rng.choice(GROUPINGS[composed.grouping]),
        p=rng.choice(PERIODS[composed.period]),
    )
    text = " ".join(words.split()).replace(" .", ".").replace(" ?", "?").replace(" ,", ",")
    return text[0].upper() + text[1:] if rng.random() < 0.8 else text


def pair(rng: random.Random, others: list[str]) -> tuple[str, str]:
    """Draw a question and its answer; `others` are questions that are not for SQL."""
    roll = rng.random()
    if roll < _FIXED_SHARE:
        statement, (asked, _) = rng.choice(list(FIXED.items()))
        return rng.choice(asked), statement
    if roll < _FIXED_SHARE + _OTHER_SHARE:
        return rng.choice(others), DECLINED
    composed = rng.choice(TAUGHT)
    return ask(composed, rng), composed.statement


def held(seed: int) -> list[tuple[str, str, str]]:
    """What is measured, as (kind, question, statement): new phrasings, and combinations that were never taught."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    found = [("fixed", asked, statement) for statement, (_, asked) in FIXED.items()]
    found += [("phrasing", ask(each, rng, HELD_FRAMES), each.statement) for each in TAUGHT]
    found += [("combination", ask(each, rng, FRAMES), each.statement) for each in HELD for _ in range(3)]
    return found


def statements() -> list[str]:
    """Every statement that can be answered."""
    return [*FIXED, *(each.statement for each in ALL)]
