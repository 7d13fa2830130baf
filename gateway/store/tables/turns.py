"""Responses that endpoints keep for the calls that follow them; what was said is sealed."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Index, LargeBinary, Table
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.base import metadata

kept_responses = Table(
    "kept_responses",
    metadata,
    Column(
        "id",
        UUID(as_uuid=False),
        primary_key=True,
        comment="The response, which is the request that it answers (UUIDv7).",
    ),
    Column("previous_id", UUID(as_uuid=False), comment="The response that it follows; null: it began."),
    Column("principal_id", UUID(as_uuid=False), nullable=False, comment="Whose it is; nobody else finds it."),
    Column(
        "endpoint_id", UUID(as_uuid=False), nullable=False, comment="Whose rules say how long it is kept."
    ),
    Column("kept_at", DateTime(timezone=True), nullable=False, comment="When it was answered."),
    Column(
        "content_sealed",
        LargeBinary,
        nullable=False,
        comment="What was asked and answered, packed and sealed for this response of this principal.",
    ),
    Index("ix_kept_responses_endpoint_id", "endpoint_id", "kept_at"),
    Index("ix_kept_responses_principal_id", "principal_id"),
    comment="Kept responses, for `previous_response_id`.",
)
