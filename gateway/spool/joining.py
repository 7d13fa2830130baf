"""Joins a request's records into the rows of the ledger.

What a caller bears is the sum of its attempts. An attempt that was interrupted and made again is not borne: it was
cut by a failure of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.spool.books import AttemptRow, Place, Posting, RequestRow
from gateway.spool.records import Attempt, Charge, Intent, Progress, Settlement

LONGEST_TEXT = 1024
"""Characters kept of a text that a client or an upstream chose."""

_CERTAINTY = {"none": 0, "reported": 1, "counted": 2, "estimated": 3}
_NOT_CALLED = ("excluded", "cached")
_json = msgspec.json.Encoder()


class Charged(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A limit or budget that was charged, as the ledger shows it."""

    limit: str
    subject: str
    metric: str
    reserved: int
    actual: int
    period_ms: int = 0
    """Start of the calendar period that was charged; left out where there is none."""


class Shown(msgspec.Struct, frozen=True, gc=False):
    """What a decision was made from, and what it granted before any top-up, as the ledger shows it."""

    granted: int
    output: int
    least: int
    seen: list[int]
    group: str | None
    share_percent: int
    groups: list[str] | None


class Entry:
    """A request whose intent was read and whose settlement was not, yet."""

    __slots__ = ("added", "attempts", "began_ms", "granted", "intent", "place", "progress")

    def __init__(self, intent: Intent, place: Place) -> None:
        self.intent = intent
        self.place = place
        self.attempts: list[Attempt] | None = None
        self.progress: Progress | None = None
        self.added: list[Charge] | None = None
        """Charges of top-ups."""
        self.granted = intent.granted_output_tokens
        self.began_ms = intent.admitted_at_ms
        """When the attempt under way was first heard of."""

    def take(self, record: Attempt | Progress) -> None:
        """Add what is known in between."""
        if isinstance(record, Attempt):
            if self.attempts is None:
                self.attempts = []
            self.attempts.append(record)
            return
        if self.progress is None or self.progress.attempt != record.attempt:
            self.began_ms = record.at_ms
        self.progress = record
        if record.granted_output_tokens:
            self.granted = record.granted_output_tokens
        if record.charges:
            self.added = [*(self.added or ()), *record.charges]

    @property
    def charges(self) -> list[Charge]:
        """All that the counters were charged."""
        return self.intent.charges if self.added is None else [*self.intent.charges, *self.added]


def settled(entry: Entry, end: Settlement, worker_id: bytes) -> Posting:
    """The rows of a request that ended in the ordinary way."""
    if entry.attempts is None:
        rows = [] if end.last is None else [attempt_row(entry.intent, end.last, borne=True)]
    else:
        tries = _tries(entry.attempts, end.last)
        rows = _attempt_rows(entry.intent, tries, interrupted=end.status == "interrupted")
    request = request_row(
        entry,
        rows,
        worker_id,
        ended_at_ms=end.ended_at_ms,
        status=end.status,
        http_status=end.http_status,
        error_code=end.error_code,
        finish_reason=end.finish_reason,
        stopped_by=end.stopped_by,
        first_byte_us=end.first_byte_us,
        duration_us=end.duration_us,
        queue_us=end.queue_us,
        cache_hit=end.cache_hit,
        number=end.number,
    )
    return Posting(request, rows, entry.place, (entry.intent, *(entry.attempts or ()), end), entry.charges)


def request_row(
    entry: Entry,
    rows: Sequence[AttemptRow],
    worker_id: bytes,
    *,
    ended_at_ms: int,
    status: str,
    http_status: int | None,
    error_code: str | None,
    finish_reason: str | None,
    stopped_by: str | None,
    first_byte_us: int | None,
    duration_us: int,
    queue_us: int,
    cache_hit: bool,
    number: int = 0,
) -> RequestRow:
    """The request's row over its attempts'."""
    intent = entry.intent
    fresh = read = write = output = reasoning = cost = calls = 0
    source = "none"
    last: AttemptRow | None = None
    for row in rows:
        calls += row.outcome not in _NOT_CALLED
        if row.outcome != "excluded":
            last = row
        if row.borne:
            fresh += row.fresh_input
            read += row.cache_read
            write += row.cache_write
            output += row.output
            reasoning += row.reasoning
            cost += row.cost_nano_usd
            if _CERTAINTY.get(row.usage_source, 3) > _CERTAINTY.get(source, 3):
                source = row.usage_source
    return RequestRow(
        intent.request_id,
        intent.admitted_at_ms,
        ended_at_ms,
        intent.sequence,
        intent.snapshot_version,
        worker_id,
        intent.principal_id,
        intent.principal_kind,
        intent.principal_name,
        intent.key_id,
        intent.group_id,
        intent.endpoint_id,
        intent.endpoint_name,
        last.entity_id if last else None,
        last.entity_name if last else None,
        last.model if last else None,
        intent.api,
        intent.stream,
        status,
        http_status,
        error_code and plain(error_code),
        finish_reason and plain(finish_reason),
        stopped_by,
        fresh,
        read,
        write,
        output,
        reasoning,
        source,
        last.price_id if last else None,
        cost,
        intent.estimated_prompt_tokens,
        entry.granted,
        _charged(entry, fresh + read + write, output + reasoning, cost),
        _tags(intent.tags) if intent.tags else None,
        intent.client_request_id and plain(intent.client_request_id),
        intent.end_user and plain(intent.end_user),
        first_byte_us,
        duration_us,
        queue_us,
        cache_hit,
        intent.degraded,
        calls,
        intent.batch,
        intent.number or None,
        number or None,
        None if intent.weighed is None else _weighed(intent),
    )


def attempt_row(intent: Intent, made: Attempt, *, borne: bool) -> AttemptRow:
    """One call upstream."""
    return AttemptRow(
        intent.request_id,
        made.attempt,
        intent.admitted_at_ms,
        made.started_at_ms,
        made.entity_id,
        made.entity_name,
        plain(made.model) or "",
        made.outcome,
        made.status,
        made.error_code and plain(made.error_code),
        made.reason and plain(made.reason),
        made.fresh_input,
        made.cache_read,
        made.cache_write,
        made.output,
        made.reasoning,
        made.usage_source,
        made.price_id,
        made.cost_nano_usd,
        borne,
        made.first_byte_us,
        made.duration_us,
        made.provision_id,
        made.lane,
    )


def plain(text: str | None) -> str | None:
    """A text that others chose, in a form that PostgreSQL takes: nobody escapes the books with a zero byte."""
    if text is None or (len(text) <= LONGEST_TEXT and "\0" not in text):
        return text
    return text[:LONGEST_TEXT].replace("\0", "\ufffd")


def _tries(earlier: list[Attempt], last: Attempt | None) -> list[Attempt]:
    if last is None:
        return earlier
    return [each for each in earlier if each.attempt != last.attempt] + [last]


def _attempt_rows(intent: Intent, tries: list[Attempt], *, interrupted: bool) -> list[AttemptRow]:
    end = len(tries) - 1
    return [
        attempt_row(intent, made, borne=made.outcome != "interrupted" or (interrupted and number == end))
        for number, made in enumerate(tries)
    ]


def _charged(entry: Entry, prompt: int, completion: int, cost: int) -> str:
    """Each limit once, with all that the admission and its top-ups reserved of it, and what was used."""
    used = {
        "input_tokens": prompt,
        "output_tokens": completion,
        "total_tokens": prompt + completion,
        "money": cost,
    }
    if entry.added is None:
        # An admission draws from each limit once.
        return _json.encode(
            [
                Charged(
                    each.limit_id,
                    each.subject,
                    each.metric,
                    each.fixed,
                    used.get(each.metric, each.fixed),
                    each.position if each.kind == "p" else 0,
                )
                for each in entry.intent.charges
                if each.kind != "i"
            ]
        ).decode()
    reserved: dict[tuple[str, str, str, int], int] = {}
    for each in (*entry.intent.charges, *entry.added):
        if each.kind != "i":
            # A top-up draws from the period of the admission.
            place = each.limit_id, each.subject, each.metric, each.position if each.kind == "p" else 0
            reserved[place] = reserved.get(place, 0) + each.fixed
    return _json.encode(
        [
            Charged(limit, subject, metric, amount, used.get(metric, amount), period)
            for (limit, subject, metric, period), amount in reserved.items()
        ]
    ).decode()


def _weighed(intent: Intent) -> str:
    """What the decision was made from, and what it granted before any top-up, by name."""
    weighed = intent.weighed
    assert weighed is not None
    return _json.encode(
        Shown(
            intent.granted_output_tokens,
            weighed.output,
            weighed.least,
            weighed.seen,
            weighed.group,
            weighed.share_percent,
            weighed.groups,
        )
    ).decode()


def _tags(tags: dict[str, str]) -> str:
    text = _json.encode(tags).decode()
    if "\\u0000" in text or len(text) > LONGEST_TEXT:
        text = _json.encode({plain(name) or "": plain(value) or "" for name, value in tags.items()}).decode()
    return text
