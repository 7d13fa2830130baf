"""The spool's records: what a worker appends, and the framing that a torn write cannot fool.

A frame is `length u32 LE | crc32 u32 LE | payload`; the payload is a MessagePack array whose first element is
the record's kind. Fields are only ever added at the end, with a default, so that old segments stay readable.
Never a prompt, an answer or a secret in any of them.
"""

from __future__ import annotations

import zlib
from struct import Struct as Packing

import msgspec

MAGIC = b"WBSPOOL1"
HEAD = Packing("<II")
MAX_PAYLOAD = 1 << 20


class Charge(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One counter that the admission charged, with all that the settlement needs to correct it."""

    limit_id: str
    subject: str
    metric: str
    key: str
    """Redis key."""
    kind: str
    """`r` rolling window, `p` fixed period (calendar limit or budget), `n` concurrency, `i` idempotency claim."""
    position: int
    """Rolling: absolute sub-bucket number; period: its start in ms; concurrency: 0."""
    fixed: int
    """All that its grant took, prompt and granted output together (tokens, requests or nano-dollars)."""
    per_token: int
    """0: a charge is corrected by `fixed` alone."""
    window_ms: int = 0


class Priced(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an entity that may answer costs; nano-dollars, as in the price list."""

    entity_id: str
    entity_name: str
    price_id: str
    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    per_request: int
    per_gpu_second: int = 0


class Weighed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a decision on limits and budgets was made from, so that it can be made again."""

    output: int
    """Output tokens asked for at first, and the least with which it would have begun."""
    least: int
    seen: list[int]
    """What each draw's counter showed, in the order of the draws; -1 where that was not told."""
    group: str | None = None
    """The group that the caller asked to charge, by id."""
    share_percent: int = 100
    """How much of a shared limit it might fill."""
    groups: list[str] | None = None
    """The caller's groups, where a token claimed others than the configuration has."""


class Turned(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A call that was refused by a policy: what was decided about."""

    decided_ms: int
    """Redis' time for limits and budgets; the worker's for permissions."""
    snapshot_version: int
    endpoint_id: str
    key_id: str | None
    prompt_tokens: int
    weighed: Weighed


class Intent(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """A request was admitted and is about to be dispatched."""

    request_id: bytes
    """16 bytes, UUIDv7."""
    admitted_at_ms: int
    """Redis TIME of the admission; decides every period."""
    sequence: int
    snapshot_version: int
    principal_id: str
    principal_kind: str
    principal_name: str
    key_id: str | None
    group_id: str | None
    """Charged group, None where no group's limit was charged."""
    endpoint_id: str
    endpoint_name: str
    api: str
    """`openai.chat`, `openai.completions`, `databricks.chat`, ..."""
    stream: bool
    estimated_prompt_tokens: int
    granted_output_tokens: int
    charges: list[Charge]
    prices: list[Priced]
    """Of each entity that may answer: a worker's successor settles from these."""
    client_request_id: str | None = None
    end_user: str | None = None
    tags: dict[str, str] = {}
    degraded: str | None = None
    """Mode under which it was admitted while Redis was away (`share`, `open`); None in normal operation."""
    batch: bool = False
    """Whether it gives way to interactive calls where limits are shared."""
    number: int = 0
    """Counts up from 1 over this spool's intents and settlements, so that a missing one is seen; 0: not numbered."""
    admitted_by: bytes = b""
    """The worker that admitted it and was killed, where this one goes on with it; empty: this worker."""
    weighed: Weighed | None = None
    """What the decision was made from; None: written before that was kept."""


class Progress(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """A checkpoint of a running attempt: dispatched, first byte seen, or more tokens counted."""

    request_id: bytes
    attempt: int
    at_ms: int
    entity_id: str
    first_byte: bool
    prompt_tokens: int
    completion_tokens: int
    cache_read_tokens: int = 0
    granted_output_tokens: int = 0
    """Total output tokens granted so far, top-ups included; 0 where unchanged."""
    charges: list[Charge] = []
    """Charges that a top-up added."""


class Attempt(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """One call upstream has ended."""

    request_id: bytes
    attempt: int
    entity_id: str
    entity_name: str
    model: str
    started_at_ms: int
    first_byte_us: int | None
    duration_us: int
    outcome: str
    """`ok`, `cut`, `error`, `timeout`, `interrupted`, `excluded` or `cached`."""
    status: int | None
    error_code: str | None
    fresh_input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    usage_source: str
    price_id: str
    cost_nano_usd: int
    reason: str | None = None
    provision_id: str | None = None
    """Whose throughput covered it, or would have."""
    lane: str | None = None
    """`covered`, `awaited` or `lent`, where throughput is provisioned."""


class Settlement(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """A request has ended, exactly once; its last attempt rides along."""

    request_id: bytes
    ended_at_ms: int
    status: str
    """`ok`, `cut` (client left or a limit stopped it), `error`, `interrupted`."""
    http_status: int
    error_code: str | None
    finish_reason: str | None
    stopped_by: str | None
    """`client`, `limit`, `upstream`, `shutdown` or None."""
    first_byte_us: int | None
    duration_us: int
    queue_us: int
    cache_hit: bool
    last: Attempt | None
    number: int = 0
    """As an intent's: one count over both."""


class Refusal(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """A call, or many of one kind, that was refused before admission; for the audit, not for the ledger."""

    number: int
    """Counts up from 1 among this spool's refusals, so that one that is read twice is sealed once."""
    at_ms: int
    """When; of a count, when its span began."""
    span_ms: int
    """How long the span is that `count` counts; 0 for a single one."""
    count: int
    plane: str
    """`data` or `control`."""
    code: str
    """The rule that refused, as the caller was told."""
    limit_id: str | None
    """Limit or budget that had no room."""
    principal_id: str | None
    """None for a caller that nobody knows."""
    asked: str | None
    """Endpoint or route that was asked for."""
    address: str | None
    """Where an unknown caller called from."""
    turned: Turned | None = None
    """Of a single one that a policy refused in normal mode: what was decided about."""


Record = Intent | Progress | Attempt | Settlement | Refusal

encoded = msgspec.msgpack.Encoder().encode
"""A record's payload."""


def frame(record: Record) -> bytes:
    """The bytes to append for one record."""
    payload = encoded(record)
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload
