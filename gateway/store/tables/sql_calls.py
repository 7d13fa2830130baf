"""Whom the roles of databases stand for when they call models from SQL, and which of their calls outlived a process.

A database is known by the role that it logs in as, so that its roles are never taken for those of another.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Table, Text, text
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.base import metadata
from gateway.store.tables.versioned import current_unique, versioned

sql_roles = versioned(
    "sql_roles",
    Column(
        "login",
        Text,
        nullable=False,
        comment="Role that the calling database logs in as: says which database it is.",
    ),
    Column("sql_role", Text, nullable=False, comment="Role in that database on whose behalf it calls."),
    Column("principal_id", UUID(as_uuid=False), nullable=False, comment="The principal that it stands for."),
    current_unique("sql_roles_role", "login", "sql_role"),
    comment="Which principal a role of a database stands for when it calls a model from SQL.",
)

resumed_requests = Table(
    "resumed_requests",
    metadata,
    Column(
        "request_id",
        UUID(as_uuid=False),
        primary_key=True,
        comment="The request; its row has the worker that ended it.",
    ),
    Column(
        "worker_id",
        UUID(as_uuid=False),
        primary_key=True,
        comment="The worker that was killed while it ran the request.",
    ),
    Column("begun_number", BigInteger, comment="Number of the request's intent in that worker's spool."),
    Column(
        "resumed_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When it was handed on.",
    ),
    comment="Runs of calls from SQL that were cut by a kill and begun again by another process.",
)
