"""The trail of refusals: a metric for each, and a record in the spool, from where the drainer seals it into the audit.

Bounded whatever callers do: the first ten a second of one principal and rule are single records, the rest one count a
second; refusals of nobody known are counts by address and minute. Never a credential, a header or a body.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from gateway.security.networks import network
from gateway.spool.records import Record, Refusal, Turned
from gateway.telemetry import Telemetry

SINGLES_A_SECOND = 10
UNKNOWN_SPAN_MS = 60_000
_KINDS_AT_MOST = 4096
_ADDRESSES_AT_MOST = 4096
_LONGEST = 128
OTHERS = "others"
"""Stands for the principals or addresses of one span that are too many to be told apart."""

log = logging.getLogger("weighbridge.refusals")


class Spool(Protocol):
    """Where the records go."""

    def append(self, record: Record) -> None:
        """Append one record."""
        ...

    def admits(self) -> bool:
        """Whether there is room."""
        ...


class RefusalTrail:
    """The line's Trail; `tick` is called once a second, and once more at the end with `last`."""

    def __init__(
        self,
        telemetry: Telemetry,
        spool: Spool,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`clock` gives milliseconds since 1970."""
        self._telemetry = telemetry
        self._spool = spool
        self._clock = clock
        self._number = 0
        self._second = 0
        self._minute = 0
        self._seen: dict[tuple[str, str, str | None, str], list[int]] = {}
        """(principal, code, limit, plane) -> how many this second, and how many of these are single records."""
        self._unknown: dict[tuple[str, str], int] = {}
        """(address, plane) -> how many this minute."""

    def refused(
        self,
        principal_id: str | None,
        asked: str | None,
        code: str,
        *,
        limit_id: str | None = None,
        address: str | None = None,
        plane: str = "data",
        turned: Turned | None = None,
    ) -> None:
        """A request was refused before admission; `turned` is what a policy decided about."""
        self._telemetry.refused(code)
        now = self._clock()
        self._turn(now)
        if principal_id is None:
            place = (network(address), plane)
            if place not in self._unknown and len(self._unknown) >= _ADDRESSES_AT_MOST:
                place = (OTHERS, plane)
            self._unknown[place] = self._unknown.get(place, 0) + 1
            return
        kind = (principal_id, code, limit_id, plane)
        counts = self._seen.get(kind)
        if counts is None:
            if len(self._seen) >= _KINDS_AT_MOST:
                kind = (OTHERS, code, None, plane)
            counts = self._seen.setdefault(kind, [0, 0])
        counts[0] += 1
        if counts[0] > SINGLES_A_SECOND or kind[0] is OTHERS:
            return
        log.info("refused principal=%s model=%.64r code=%s", principal_id, asked, code)
        if self._append(now, 0, 1, plane, code, limit_id, principal_id, asked, None, turned):
            counts[1] += 1

    def tick(self, *, last: bool = False) -> None:
        """Put down the counts whose second or minute is over; all of them at the end."""
        self._turn(self._clock(), last=last)

    def _turn(self, now: int, *, last: bool = False) -> None:
        if (last or now // 1000 != self._second) and self._seen:
            self._close_second()
        if (last or now // UNKNOWN_SPAN_MS != self._minute) and self._unknown:
            self._close_minute()
        self._second, self._minute = now // 1000, now // UNKNOWN_SPAN_MS

    def _close_second(self) -> None:
        # Counts that find no room in the spool wait for the next second, as counts of their own first one.
        kept: dict[tuple[str, str, str | None, str], list[int]] = {}
        for kind, (count, single) in self._seen.items():
            more = count - single
            if not more:
                continue
            principal_id, code, limit_id, plane = kind
            if self._append(self._second * 1000, 1000, more, plane, code, limit_id, principal_id, None, None):
                log.info("refused principal=%s code=%s and %d more", principal_id, code, more)
            else:
                kept[kind] = [more, 0]
        self._seen = kept

    def _close_minute(self) -> None:
        at = self._minute * UNKNOWN_SPAN_MS
        self._unknown = {
            (address, plane): count
            for (address, plane), count in self._unknown.items()
            if not self._append(
                at, UNKNOWN_SPAN_MS, count, plane, "unauthenticated", None, None, None, address
            )
        }

    def _append(
        self,
        at_ms: int,
        span_ms: int,
        count: int,
        plane: str,
        code: str,
        limit_id: str | None,
        principal_id: str | None,
        asked: str | None,
        address: str | None,
        turned: Turned | None = None,
    ) -> bool:
        # A full spool refuses everyone: what these refusals would write must not fill it further.
        if not self._spool.admits():
            return False
        self._number += 1
        self._spool.append(
            Refusal(
                self._number,
                at_ms,
                span_ms,
                count,
                plane,
                code,
                limit_id,
                principal_id,
                None if asked is None else asked[:_LONGEST].encode(errors="replace").decode(),
                address,
                turned,
            )
        )
        return True
