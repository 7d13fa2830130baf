"""What was asked and answered, of endpoints whose managers have it kept; by day, and dropped by day.

A role of its own reads it, and nobody else: the application adds rows and sees none, an auditor sees none.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from gateway.store.tables.base import metadata

payloads = Table(
    "payloads",
    metadata,
    Column("request_id", UUID, nullable=False, comment="The request, as in the ledger."),
    Column("request_time", DateTime(timezone=True), nullable=False, comment="When it arrived."),
    Column("endpoint_id", Text, nullable=False, comment="Endpoint asked for."),
    Column("endpoint_name", Text, nullable=False, comment="That endpoint's name then."),
    Column("principal_id", Text, nullable=False, comment="Who asked."),
    Column("principal_name", Text, nullable=False, comment="That principal's name then."),
    Column("api", Text, nullable=False, comment="Way in: `openai.chat`, `databricks.chat`, ..."),
    Column("client_request_id", Text, comment="The caller's own id of the request."),
    Column("entity_id", Text, comment="Served entity that answered; null if none was asked."),
    Column("entity_name", Text, comment="That served entity's name then."),
    Column(
        "status_code", SmallInteger, nullable=False, comment="Status sent to the client; 0 if it left before."
    ),
    Column("duration_ms", BigInteger, nullable=False, comment="Milliseconds from its arrival to its end."),
    Column(
        "sampling_fraction",
        Double,
        nullable=False,
        comment="How many of the endpoint's calls were kept then, from 0 to 1.",
    ),
    Column("request", Text, nullable=False, comment="The body as the client sent it, redacted and cut."),
    Column("response", Text, nullable=False, comment="The answer, a stream's as one; redacted and cut."),
    Column("request_bytes", Integer, nullable=False, comment="Bytes of the body before it was cut."),
    Column("response_bytes", Integer, nullable=False, comment="Bytes of the answer, as far as it was heard."),
    Column(
        "logging_error_codes",
        ARRAY(Text),
        nullable=False,
        comment="MAX_REQUEST_SIZE_EXCEEDED, MAX_RESPONSE_SIZE_EXCEEDED: it was cut; REDACTION_FAILED: it was left out.",
    ),
    PrimaryKeyConstraint("request_id"),
    Index("ix_payloads_endpoint", "endpoint_id", "request_id"),
    postgresql_partition_by="RANGE (request_id)",
    comment="What was asked and answered, of endpoints whose managers have it kept.",
)

__all__ = ["payloads"]
