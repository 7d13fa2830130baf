"""Changes that carried an idempotency key, with what was answered: kept a day, in the transaction of the change.

No secret is in any row: of the request there is a keyed digest, of the answer what may be shown again.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    DateTime,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.base import metadata

changes_made_once = Table(
    "changes_made_once",
    metadata,
    Column("principal_id", UUID(as_uuid=False), nullable=False, comment="Who made the change."),
    Column("key", Text, nullable=False, comment="Idempotency-Key that came with it."),
    Column("digest", LargeBinary, nullable=False, comment="Keyed digest of method, path and body."),
    Column("status", SmallInteger, nullable=False, comment="Status of the answer."),
    Column("etag", Text, comment="Version that the answer named."),
    Column("body", LargeBinary, nullable=False, comment="The answer, without what is shown once only."),
    Column(
        "made_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When; after a day it is forgotten.",
    ),
    PrimaryKeyConstraint("principal_id", "key"),
    Index("ix_changes_made_once_made_at", "made_at"),
    comment="Changes that carried an idempotency key, with their answers, kept in the transaction of the change.",
)

__all__ = ["changes_made_once"]
