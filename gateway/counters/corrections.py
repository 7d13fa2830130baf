"""What the settlement must change: each charge brought from what was reserved to what was used.

Pure. A charge's `fixed` holds all that its grant took (`per_token` is 0), so that charges can be corrected by
whoever finds them, the drainer after a crash included.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.counters.frames import Entry
from gateway.counters.taps import KIND_NUMBERS
from gateway.spool.records import Charge


def corrections(
    charges: Sequence[Charge],
    prompt_tokens: int,
    completion_tokens: int,
    cost_nano_usd: int,
    *,
    undo: bool = False,
) -> tuple[list[str], list[Entry]]:
    """Keys and entries for the script: refunds from the last grant back, an excess to the last grant.

    A concurrency charge is given back, an idempotency claim is marked done, or freed where nothing was used. The
    count of requests stands, unless the admission is undone.
    """
    keys: list[str] = []
    entries: list[Entry] = []
    grants: dict[tuple[str, str], list[Charge]] = {}
    for charge in charges:
        if charge.kind == "n":
            keys.append(charge.key)
            entries.append((3, 0, 0, -1))
        elif charge.kind == "i":
            keys.append(charge.key)
            entries.append((4, 0, 0, int(bool(prompt_tokens or completion_tokens or cost_nano_usd))))
        elif undo or charge.metric != "requests":
            grants.setdefault((charge.limit_id, charge.subject), []).append(charge)
    for each in grants.values():
        metric = each[0].metric
        if metric == "total_tokens":
            actual = prompt_tokens + completion_tokens
        elif metric == "output_tokens":
            actual = completion_tokens
        elif metric == "input_tokens":
            actual = prompt_tokens
        elif metric == "money":
            actual = cost_nano_usd
        else:
            actual = 0
        delta = actual - sum(charge.fixed for charge in each)
        if delta > 0:
            keys.append(each[-1].key)
            entries.append((KIND_NUMBERS[each[-1].kind], each[-1].position, each[-1].window_ms, delta))
            continue
        for charge in reversed(each):
            back = min(charge.fixed, -delta)
            if not back:
                break
            delta += back
            keys.append(charge.key)
            entries.append((KIND_NUMBERS[charge.kind], charge.position, charge.window_ms, -back))
    return keys, entries
