"""The ledger held against two witnesses: the upstream's own count and what clients saw. Pure.

Every rule that is broken is one discrepancy that names the request; an empty answer is the only good one.

- An admitted call whose client got at least one byte has exactly one row. So has every call the upstream saw.
- A row is explained by the upstream or by a client, and there is one per request. A client that went before it was
  told an id explains one row of no tokens: it left between the admission and the call upstream.
- A row that says `ok` has the upstream's tokens exactly, and the client's, if it was told them; an attempt that failed
  and told what it had used is in the row, and not in what the client was told.
- Any other row has completion tokens within [delivered, emitted], and within `slack` of what streams emitted: of a
  plain call that was cut nobody outside the engine can tell how far it was.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.faults.journal import COMPLETE, OracleRecord
from tests.faults.transcript import Transcript

Kind = Literal[
    "missing_row",
    "doubled_row",
    "unexplained_row",
    "wrong_completion_tokens",
    "wrong_prompt_tokens",
    "below_delivered",
    "above_emitted",
    "far_from_emitted",
    "differs_from_client",
    "ok_but_not_complete",
    "complete_but_not_ok",
]


_Broken = Callable[[Kind, str], None]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One broken rule."""

    kind: Kind
    request_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} {self.request_id}: {self.detail}"


def same_id(request_id: object) -> str:
    """A request id in one spelling, whether it came as a UUID, as hex or from a header."""
    text = str(request_id)
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text


def reconcile(
    ledger_rows: Iterable[Mapping[str, Any]],
    oracle_records: Iterable[OracleRecord],
    transcripts: Iterable[Transcript],
    *,
    slack: int = 64,
) -> list[Discrepancy]:
    """Every rule that the three do not keep together, in order of request id."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    attempts: dict[str, list[OracleRecord]] = defaultdict(list)
    seen: dict[str, list[Transcript]] = defaultdict(list)
    for row in ledger_rows:
        rows[same_id(row["request_id"])].append(row)
    for record in oracle_records:
        if record.request_id:
            attempts[same_id(record.request_id)].append(record)
    transcripts = list(transcripts)
    for transcript in transcripts:
        if transcript.request_id:
            seen[same_id(transcript.request_id)].append(transcript)

    nameless = sum(not transcript.request_id and not transcript.status for transcript in transcripts)
    # Those whose call the upstream knows explain that call's row and no other.
    nameless -= sum(request_id in rows and request_id not in seen for request_id in attempts)
    found: list[Discrepancy] = []
    for request_id in sorted(rows.keys() | attempts.keys() | seen.keys()):
        if (
            request_id not in attempts
            and request_id not in seen
            and nameless > 0
            and _empty(rows[request_id])
        ):
            nameless -= 1
            continue
        found += _one(request_id, rows[request_id], attempts[request_id], seen[request_id], slack)
    return found


def _empty(rows: list[Mapping[str, Any]]) -> bool:
    """One row of a request that ended before anything was asked of an upstream."""
    return (
        len(rows) == 1
        and rows[0]["status"] != "ok"
        and not rows[0]["completion_tokens"] + rows[0]["prompt_tokens"]
    )


def _one(
    request_id: str,
    rows: list[Mapping[str, Any]],
    attempts: list[OracleRecord],
    seen: list[Transcript],
    slack: int,
) -> list[Discrepancy]:
    found: list[Discrepancy] = []

    def broken(kind: Kind, detail: str) -> None:
        found.append(Discrepancy(kind, request_id, detail))

    if not rows:
        if any(transcript.acknowledged and transcript.admitted for transcript in seen):
            broken("missing_row", f"its client got status {seen[0].status} and {seen[0].bytes} bytes")
        elif attempts:
            broken(
                "missing_row", f"the upstream emitted {_emitted(attempts)} tokens in {len(attempts)} attempts"
            )
        return found
    if len(rows) > 1:
        broken("doubled_row", f"{len(rows)} rows with statuses {[row['status'] for row in rows]}")
    if not attempts and not seen:
        broken("unexplained_row", f"status {rows[0]['status']}, and neither upstream nor client knows of it")
        return found
    for row in rows:
        if row["status"] == "ok":
            _check_ok(row, attempts, seen, broken)
        else:
            _check_cut(row, attempts, seen, slack, broken)
    return found


def _emitted(attempts: list[OracleRecord]) -> int:
    return sum(record.emitted for record in attempts)


def _check_ok(
    row: Mapping[str, Any], attempts: list[OracleRecord], seen: list[Transcript], broken: _Broken
) -> None:
    whole = [record for record in attempts if record.ended == COMPLETE]
    if not whole:
        ends = [record.ended for record in attempts]
        broken("ok_but_not_complete", f"the upstream's attempts ended {ends}")
        return
    # Attempts that broke before the client saw a byte may have cost tokens that nobody was told of.
    failed = [record for record in attempts if record.told]
    lowest, highest = _emitted(whole[-1:]) + _emitted(failed), _emitted(attempts)
    completion = row["completion_tokens"]
    if not lowest <= completion <= highest:
        broken("wrong_completion_tokens", f"ledger {completion}, upstream {lowest}")
    prompts = [record.prompt_tokens for record in attempts]
    read = prompts[-1] + sum(record.prompt_tokens for record in failed)
    if not read <= row["prompt_tokens"] <= sum(prompts):
        broken("wrong_prompt_tokens", f"ledger {row['prompt_tokens']}, upstream {read}")
    for transcript in seen:
        told = transcript.usage_completion
        if transcript.how == COMPLETE and told is not None and told != completion - _emitted(failed):
            broken("differs_from_client", f"ledger {completion}, the client was told {told}")


def _check_cut(
    row: Mapping[str, Any], attempts: list[OracleRecord], seen: list[Transcript], slack: int, broken: _Broken
) -> None:
    if any(t.how == COMPLETE for t in seen) and any(record.ended == COMPLETE for record in attempts):
        broken("complete_but_not_ok", f"status {row['status']}, yet upstream and client had all of it")
    completion, emitted = row["completion_tokens"], _emitted(attempts)
    delivered = max((transcript.delivered for transcript in seen), default=0)
    if completion < delivered:
        broken("below_delivered", f"ledger {completion}, the client received {delivered}")
    if completion > emitted:
        broken("above_emitted", f"ledger {completion}, upstream {emitted}")
    if sum(record.emitted for record in attempts if record.stream) - completion > slack:
        broken("far_from_emitted", f"ledger {completion}, upstream {emitted}")
    if row["prompt_tokens"] > sum(record.prompt_tokens for record in attempts):
        broken("wrong_prompt_tokens", f"ledger {row['prompt_tokens']}, more than the upstream read")


def report(found: Iterable[Discrepancy], *, most: int = 20) -> str:
    """The discrepancies for a failing test: how many of each kind, and the first of them."""
    listed = list(found)
    if not listed:
        return "the books balance"
    kinds = Counter(discrepancy.kind for discrepancy in listed)
    head = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    return "\n".join([head, *(str(discrepancy) for discrepancy in listed[:most])])
