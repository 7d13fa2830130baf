"""The books: requests and their attempts, and how far each spool has been read.

Requests and attempts are partitioned on the request id, a UUIDv7: a row's place follows from its key alone, so
that posting it twice meets the same row, over any edge. Periods are decided by `admitted_at`.
"""

from __future__ import annotations

import re

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from gateway.store.tables.base import metadata

_PARTITION = re.compile(r"(requests|attempts|payloads)_(\d{8}|default)")


def is_partition(name: str) -> bool:
    """Whether a table of that name is a partition, made and dropped at run time."""
    return _PARTITION.fullmatch(name) is not None


def usage_columns() -> list[Column[int]]:
    """Disjoint classes of tokens, and their sums for those who count in two."""
    return [
        Column(
            "fresh_input", BigInteger, nullable=False, comment="Input tokens processed at the full price."
        ),
        Column("cache_read", BigInteger, nullable=False, comment="Input tokens read from a cache."),
        Column("cache_write", BigInteger, nullable=False, comment="Input tokens written to a cache."),
        Column("output", BigInteger, nullable=False, comment="Output tokens, reasoning not included."),
        Column("reasoning", BigInteger, nullable=False, comment="Output tokens spent on reasoning."),
        Column(
            "prompt_tokens",
            BigInteger,
            Computed("fresh_input + cache_read + cache_write", persisted=True),
            comment="All of the input.",
        ),
        Column(
            "completion_tokens",
            BigInteger,
            Computed("output + reasoning", persisted=True),
            comment="All of the output.",
        ),
    ]


requests = Table(
    "requests",
    metadata,
    Column(
        "request_id", UUID, nullable=False, comment="The gateway's own id (UUIDv7), as in `x-request-id`."
    ),
    Column(
        "admitted_at",
        DateTime(timezone=True),
        nullable=False,
        comment="Redis time of the admission; decides every period.",
    ),
    Column(
        "ended_at", DateTime(timezone=True), nullable=False, comment="When it ended, by the worker's clock."
    ),
    Column(
        "recorded_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When this row was posted.",
    ),
    Column(
        "sequence",
        BigInteger,
        nullable=False,
        comment="Number of the admission, ascending; 0 if Redis was away.",
    ),
    Column(
        "snapshot_version", BigInteger, nullable=False, comment="Configuration change whose rules decided."
    ),
    Column("worker_id", UUID, nullable=False, comment="Incarnation of the worker, which names its spool."),
    Column("principal_id", Text, nullable=False, comment="Who asked."),
    Column("principal_kind", Text, nullable=False, comment="`user` or `service_principal`."),
    Column("principal_name", Text, nullable=False, comment="That principal's name then."),
    Column("key_id", Text, comment="API key it came with; null for a token of an identity provider."),
    Column("group_id", Text, comment="Group whose limit was charged; null where none was."),
    Column("endpoint_id", Text, nullable=False, comment="Endpoint asked for."),
    Column("endpoint_name", Text, nullable=False, comment="That endpoint's name then."),
    Column("entity_id", Text, comment="Served entity of the last attempt; null if none was made."),
    Column("entity_name", Text, comment="That served entity's name then."),
    Column("model", Text, comment="Model that answered last."),
    Column("api", Text, nullable=False, comment="Way in: `openai.chat`, `databricks.chat`, ..."),
    Column("stream", Boolean, nullable=False, comment="Whether the client asked for a stream."),
    Column(
        "status", Text, nullable=False, comment="`ok`, `cut`, `error` or `interrupted` (its worker died)."
    ),
    Column("http_status", SmallInteger, comment="Status sent to the client; null if its worker died."),
    Column("error_code", Text, comment="Code of the error the client was given."),
    Column("finish_reason", Text, comment="Why the answer ended, as the client was told."),
    Column(
        "stopped_by",
        Text,
        comment="`client`, `limit`, `revoked`, `upstream` or `shutdown`; null for an ordinary end.",
    ),
    *usage_columns(),
    Column("usage_source", Text, nullable=False, comment="`reported`, `counted`, `estimated` or `none`."),
    Column("price_id", Text, comment="Version of the price of the last attempt; null if none was made."),
    Column(
        "cost_nano_usd",
        BigInteger,
        nullable=False,
        comment="What the caller bears, in 1e-9 dollars: the sum of its attempts'.",
    ),
    Column("estimated_prompt_tokens", BigInteger, nullable=False, comment="Input tokens reserved."),
    Column(
        "granted_output_tokens",
        BigInteger,
        nullable=False,
        comment="Output tokens reserved, top-ups included.",
    ),
    Column(
        "charges",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="Limits and budgets charged: limit, subject, metric, reserved and actual amounts.",
    ),
    Column("tags", JSONB, comment="Keys and values the caller sent for charge-back."),
    Column("client_request_id", Text, comment="The caller's own id of the request."),
    Column("end_user", Text, comment="The caller's own user, where it sent one."),
    Column("first_byte_us", BigInteger, comment="Microseconds from arrival to the answer's first byte."),
    Column("duration_us", BigInteger, nullable=False, comment="Microseconds from arrival to the end."),
    Column(
        "queue_us", BigInteger, nullable=False, comment="Microseconds of these spent waiting for a place."
    ),
    Column("cache_hit", Boolean, nullable=False, comment="Whether the gateway's own cache answered."),
    Column("degraded", Text, comment="Mode it was admitted under while Redis was away: `share` or `open`."),
    Column("attempts", SmallInteger, nullable=False, comment="Calls upstream, those that failed included."),
    Column(
        "batch",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether it was batch work, which gives way where limits are shared.",
    ),
    Column(
        "begun_number",
        BigInteger,
        comment="Number of its intent among the intents and settlements of its worker's spool; null: written before they were numbered.",
    ),
    Column(
        "ended_number",
        BigInteger,
        comment="Number of its settlement there; null: its worker died, or as above.",
    ),
    Column(
        "weighed",
        JSONB,
        comment="What the decision was made from, so that it can be made again: output asked and granted at first, what each counter showed, group asked for; null: before that was kept.",
    ),
    PrimaryKeyConstraint("request_id"),
    Index("ix_requests_admitted_at", "admitted_at", postgresql_using="brin"),
    Index(
        "ix_requests_recorded_at",
        "recorded_at",
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    ),
    postgresql_partition_by="RANGE (request_id)",
    comment="One row for each admitted request, however it ended.",
)

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", UUID, nullable=False, comment="The request."),
    Column("attempt", SmallInteger, nullable=False, comment="Counts up from 1."),
    Column(
        "admitted_at",
        DateTime(timezone=True),
        nullable=False,
        comment="The request's admission; decides every period.",
    ),
    Column("started_at", DateTime(timezone=True), nullable=False, comment="When the call upstream began."),
    Column("entity_id", Text, nullable=False, comment="Served entity called."),
    Column("entity_name", Text, nullable=False, comment="That served entity's name then."),
    Column("model", Text, nullable=False, comment="Model asked for upstream."),
    Column(
        "outcome",
        Text,
        nullable=False,
        comment="`ok`, `cut`, `error`, `timeout`, `interrupted`, `excluded` or `cached` (the gateway's own cache answered; nothing was called).",
    ),
    Column("http_status", SmallInteger, comment="Status the upstream gave."),
    Column("error_code", Text, comment="What went wrong, in the gateway's words."),
    Column("reason", Text, comment="Why it was chosen or left out."),
    *usage_columns(),
    Column("usage_source", Text, nullable=False, comment="`reported`, `counted`, `estimated` or `none`."),
    Column("price_id", Text, nullable=False, comment="Version of the price that made the cost."),
    Column("cost_nano_usd", BigInteger, nullable=False, comment="What it cost, in 1e-9 dollars."),
    Column(
        "borne",
        Boolean,
        nullable=False,
        comment="Whether the caller bears the cost; false for a try that was cut by a failure of ours and made again.",
    ),
    Column("first_byte_us", BigInteger, comment="Microseconds to the upstream's first byte."),
    Column("duration_us", BigInteger, nullable=False, comment="Microseconds to its end."),
    Column(
        "provision_id",
        Text,
        comment="Provisioned throughput that covered it, or would have were it not used up.",
    ),
    Column(
        "lane",
        Text,
        comment="`covered` by it, `awaited` until it covered, or `lent`; null where no throughput is provisioned.",
    ),
    PrimaryKeyConstraint("request_id", "attempt"),
    postgresql_partition_by="RANGE (request_id)",
    comment="One row for each call upstream.",
)

spool_positions = Table(
    "spool_positions",
    metadata,
    Column(
        "spool_id", UUID, primary_key=True, comment="A worker's incarnation; the name of its spool's folder."
    ),
    Column("host", Text, nullable=False, comment="Host that has the spool."),
    Column("segment", Integer, nullable=False, comment="Segment in which reading would begin again."),
    Column("offset", BigInteger, nullable=False, comment="Byte in it; all before is in the ledger."),
    Column(
        "complete_until",
        DateTime(timezone=True),
        nullable=False,
        comment="All this spool's requests admitted before are in the ledger.",
    ),
    Column(
        "updated_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When this was so.",
    ),
    Column(
        "closed_at",
        DateTime(timezone=True),
        comment="When the last of it was posted after its owner had ended.",
    ),
    Column(
        "read_until",
        DateTime(timezone=True),
        comment="All that was appended to it before, by the host's clock, is in the ledger.",
    ),
    Column(
        "ended_number",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Its settlements up to this number are in the ledger, and none beyond it.",
    ),
    comment="How far each spool has been posted.",
)

__all__ = ["attempts", "is_partition", "requests", "spool_positions", "usage_columns"]
