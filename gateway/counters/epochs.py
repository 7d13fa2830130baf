"""Carrying what a worker holds over into a new epoch.

Absolute values, so that repeating it is harmless. What ended before the epoch's cut is in the ledger's sums already
and is not carried; sliding windows are not either: the settlements charge them with what was used.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.counters.hold import Hold
from gateway.counters.link import Link
from gateway.counters.outbox import Errand, Settlement, cut_of
from gateway.counters.plan import CONCURRENCY, PERIOD
from gateway.spool.records import Charge

_pack = msgspec.msgpack.Encoder().encode
_AT_ONCE = 500


async def adopt_holds(link: Link, epoch: str, holds: Iterable[Hold], errands: Iterable[Errand]) -> None:
    """Write this worker's holds on periods and concurrency into `epoch`; raises RedisAway."""
    cut = cut_of(epoch)
    sums: dict[tuple[int, str], list[int]] = {}
    for hold in holds:
        if not hold.settled:
            _add(sums, hold.charges, with_periods=True)
    for errand in errands:
        if isinstance(errand, Settlement):
            _add(sums, errand.charges, with_periods=errand.ended_ms > cut)
    rows = [(kind, key, start, length, amount) for (kind, key), (start, length, amount) in sums.items()]
    for first in range(0, len(rows), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        keys = [link.keys.epoch, *(row[1].encode() for row in some)]
        entries = [(row[0], row[2], row[3], row[4]) for row in some]
        await link.call(link.scripts.adopt, keys, [_pack((epoch, link.worker_id, entries))])


def _add(sums: dict[tuple[int, str], list[int]], charges: Iterable[Charge], *, with_periods: bool) -> None:
    for charge in charges:
        if charge.kind == "p" and with_periods:
            row = sums.setdefault((PERIOD, charge.key), [charge.position, charge.window_ms, 0])
            row[2] += charge.fixed
        elif charge.kind == "n":
            row = sums.setdefault((CONCURRENCY, charge.key), [0, 0, 0])
            row[2] += 1
