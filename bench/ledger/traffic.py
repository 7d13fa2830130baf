"""Ninety days of settled requests, skewed as real traffic is: few callers and endpoints make most of it, days have hours.

The same seed makes the same rows; nothing here writes them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate, count

from gateway.ids import RequestIds
from gateway.spool.books import Place, Posting
from gateway.spool.joining import Entry, settled
from gateway.spool.records import Attempt, Charge, Intent, Settlement

DAY_MS = 86_400_000
DAYS = 90
_APIS = ("openai.chat", "databricks.chat", "openai.completions")
_ENDS = (
    ("ok", 200, None, "stop", None),
    ("ok", 200, None, "length", None),
    ("cut", 200, None, "length", "limit"),
    ("cut", 200, None, None, "client"),
    ("error", 502, "upstream_failed", None, "upstream"),
)
_END_WEIGHTS = (82, 91, 95, 98, 100)
_BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 11, 10, 11, 12, 12, 11, 9, 6, 5, 4, 4, 3, 2)


@dataclass(frozen=True, slots=True)
class Someone:
    """A caller."""

    id: str
    name: str
    kind: str
    keys: tuple[str, ...]
    group: str | None


@dataclass(frozen=True, slots=True)
class Offer:
    """An endpoint with what answers for it."""

    id: str
    name: str
    entities: tuple[tuple[str, str, str], ...]
    """Entity id, its name, its price's id."""
    prices: tuple[int, int]
    """Nano-dollars a token, input and output."""


@dataclass(frozen=True, slots=True)
class Population:
    """Who calls what."""

    people: list[Someone]
    offers: list[Offer]


@lru_cache
def _month_of_day(day: int) -> int:
    first = datetime.fromtimestamp(day * DAY_MS / 1000, UTC).replace(day=1)
    return int(first.timestamp() * 1000)


def _month(at_ms: int) -> int:
    """When its month began: the period of a budget."""
    return _month_of_day(at_ms // DAY_MS)


class Traffic:
    """Makes requests that have ended."""

    def __init__(self, population: Population, seed: int = 4) -> None:
        self._random = random.Random(seed)
        self._population = population
        self._ids = RequestIds()
        self._sequence = count(1)
        self._by_people = list(accumulate((place + 2) ** -1.2 for place in range(len(population.people))))
        self._by_offer = list(accumulate(1 / (place + 1) for place in range(len(population.offers))))
        # Nearly all that somebody does goes to one endpoint, by one key, in one dialect.
        self._favourite = {
            each.id: self._random.choices(population.offers, cum_weights=self._by_offer)[0]
            for each in population.people
        }
        self._worker = self._ids.make()

    def days(self, rows: int, until_ms: int, batch: int) -> Iterator[list[Posting]]:
        """`rows` postings in the order of their admission, over the days before `until_ms`, in batches."""
        start = until_ms - DAYS * DAY_MS
        hours = list(accumulate(_BY_HOUR))
        made = 0
        for day in range(DAYS):
            wanted = round(rows * (day + 1) / DAYS) - made
            made += wanted
            drawn = self._random.choices(range(24), cum_weights=hours, k=wanted)
            moments = sorted(
                start + day * DAY_MS + hour * 3_600_000 + int(self._random.random() * 3_600_000)
                for hour in drawn
            )
            for first in range(0, wanted, batch):
                yield [self.posting(at) for at in moments[first : first + batch]]

    def posting(self, at_ms: int) -> Posting:
        """One request that ended, joined as the drainer joins it."""
        intent, end = self.records(at_ms)
        return settled(Entry(intent, Place(0, 0)), end, self._worker)

    def records(self, at_ms: int) -> tuple[Intent, Settlement]:
        """One request that ended, as a worker appends it to its spool."""
        draw = self._random
        someone = draw.choices(self._population.people, cum_weights=self._by_people)[0]
        usual = draw.random() < 0.9
        offer = (
            self._favourite[someone.id]
            if usual
            else draw.choices(self._population.offers, cum_weights=self._by_offer)[0]
        )
        status, http, code, finish, stopped = draw.choices(_ENDS, cum_weights=_END_WEIGHTS)[0]
        entity, entity_name, price = offer.entities[0 if draw.random() < 0.97 else -1]
        fresh, output = int(draw.lognormvariate(6, 1)) + 1, int(draw.lognormvariate(5, 1)) + 1
        read = fresh // 3 if draw.random() < 0.2 else 0
        source = "reported" if status == "ok" else "counted"
        if status == "error":
            fresh, read, output, source = 0, 0, 0, "none"
        cost = (fresh + read // 2) * offer.prices[0] + output * offer.prices[1]
        first_us, total_us = int(draw.lognormvariate(11, 0.6)), int(draw.lognormvariate(13.5, 0.8))
        request_id = at_ms.to_bytes(6, "big") + self._ids.make()[6:]
        intent = Intent(
            request_id=request_id,
            admitted_at_ms=at_ms,
            sequence=next(self._sequence),
            snapshot_version=1,
            principal_id=someone.id,
            principal_kind=someone.kind,
            principal_name=someone.name,
            key_id=someone.keys[0] if usual else draw.choice(someone.keys),
            group_id=someone.group,
            endpoint_id=offer.id,
            endpoint_name=offer.name,
            api=_APIS[0] if usual else draw.choice(_APIS),
            stream=draw.random() < 0.6,
            estimated_prompt_tokens=fresh + 40,
            granted_output_tokens=output + 256,
            charges=[
                Charge("lim-user", someone.id, "total_tokens", "", "r", 29, fresh + output + 296, 0, 60_000),
                Charge("bud-user", someone.id, "money", "", "p", _month(at_ms), 2 * cost, 0),
            ],
            prices=[],
            tags={"team": "search"} if draw.random() < 0.1 else {},
        )
        last = Attempt(
            request_id=request_id,
            attempt=1,
            entity_id=entity,
            entity_name=entity_name,
            model=entity_name,
            started_at_ms=at_ms + 1,
            first_byte_us=first_us if output else None,
            duration_us=total_us - 10,
            outcome=status,
            status=http,
            error_code=code,
            fresh_input=fresh,
            cache_read=read,
            cache_write=0,
            output=output,
            reasoning=0,
            usage_source=source,
            price_id=price,
            cost_nano_usd=cost,
        )
        return intent, Settlement(
            request_id=request_id,
            ended_at_ms=at_ms + total_us // 1000,
            status=status,
            http_status=http,
            error_code=code,
            finish_reason=finish,
            stopped_by=stopped,
            first_byte_us=first_us if output else None,
            duration_us=total_us,
            queue_us=15,
            cache_hit=False,
            last=last,
        )
