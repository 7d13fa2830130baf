"""Carrying what a worker holds over into a new epoch.

Absolute values, so that repeating it is harmless. What was in the ledger's sums when the epoch began is not carried;
sliding windows are not either: the settlements charge them with what was used. What this worker admitted by itself
while Redis was away is carried like the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import hiredis
import msgspec

from gateway.counters.connection import RedisAway
from gateway.counters.errands import Errand, Settlement
from gateway.counters.frames import Entry, hold_of
from gateway.counters.hold import Hold
from gateway.counters.link import Link
from gateway.counters.lua import command
from gateway.counters.taps import CLAIM, CONCURRENCY, PERIOD
from gateway.spool.records import Charge

_pack = msgspec.msgpack.Encoder().encode
_AT_ONCE = 500
_SUFFIX = re.compile(rb"[~+].*$")
"""What follows an admission's name where it is a part of it, or a late grant, that ends."""


async def cut_of(link: Link, epoch: str) -> int:
    """Up to which of this worker's settlements an epoch's sums have them; 0 for none. Raises RedisAway."""
    try:
        found = await link.connection.ask(command(b"HGET", link.keys.cuts(epoch), link.worker_id.encode()))
    except hiredis.ReplyError as error:
        raise RedisAway(str(error)) from error
    return int(found or 0)


async def adopt_holds(
    link: Link, epoch: str, cut: int, holds: Iterable[Hold], errands: Iterable[Errand]
) -> None:
    """Write this worker's holds on periods and concurrency into `epoch`; raises RedisAway.

    What is written is what `holds` and `errands` are at the call, before anything is awaited.
    """
    sums: dict[tuple[int, str], list[int]] = {}
    taken: dict[bytes, list[tuple[str, Entry]]] = {}
    for hold in holds:
        if not hold.settled:
            _add(sums, taken, hold.memory, (*hold.charges, *hold.local))
    for errand in errands:
        if isinstance(errand, Settlement):
            charges = (*errand.charges, *errand.local)
            if errand.booked(cut):
                charges = [each for each in charges if each.kind == "n"]
            _add(sums, taken, errand.memory, charges)
    rows = [(kind, key, start, length, amount) for (kind, key), (start, length, amount) in sums.items()]
    known = [(memory, hold_of(each)) for memory, each in taken.items()]
    held = link.keys.holds(epoch, link.worker_id)
    for first in range(0, max(len(rows), len(known)), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        keys = [link.keys.epoch, held, *(row[1].encode() for row in some)]
        entries = [(row[0], row[2], row[3], row[4]) for row in some]
        kept = [part for each in known[first : first + _AT_ONCE] for part in each]
        await link.call(link.scripts.adopt, keys, [_pack((epoch, link.worker_id, entries)), *kept])


def _add(
    sums: dict[tuple[int, str], list[int]],
    taken: dict[bytes, list[tuple[str, Entry]]],
    memory: bytes,
    charges: Iterable[Charge],
) -> None:
    admission = _SUFFIX.sub(b"", memory)
    for charge in charges:
        if charge.kind == "p":
            row = sums.setdefault((PERIOD, charge.key), [charge.position, charge.window_ms, 0])
            row[2] += charge.fixed
            entry = PERIOD, charge.position, charge.window_ms, charge.fixed
            taken.setdefault(admission, []).append((charge.key, entry))
        elif charge.kind == "n":
            row = sums.setdefault((CONCURRENCY, charge.key), [0, 0, 0])
            row[2] += 1
        elif charge.kind == "i":
            taken.setdefault(admission, []).append((charge.key, (CLAIM, 0, 0, 0)))
