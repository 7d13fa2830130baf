"""Providers as this deployment uses them: where they are, and what pays for calls to them.

What is secret is in a table of its own, which keeps no history: what is rotated out or erased is gone.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.base import metadata
from gateway.store.tables.versioned import current_unique, one_of, versioned

providers = versioned(
    "providers",
    Column("name", Text, nullable=False, comment="What administrators call it."),
    Column("provider", Text, nullable=False, comment="Whose it is: `openai`, `anthropic`, ..."),
    Column("base_url", Text, nullable=False, comment="Where it is; its credential goes nowhere else."),
    Column(
        "source",
        Text,
        nullable=False,
        server_default="none",
        comment="Where the credential is: `none`, `stored` (sealed, here), `environment` or `file`.",
    ),
    Column("reference", Text, comment="Name of the variable or of the file that holds the credential."),
    Column("hint", Text, comment="The last four characters of the stored credential."),
    Column(
        "credential_version",
        Integer,
        nullable=False,
        server_default="0",
        comment="Counts up with each stored credential.",
    ),
    one_of("source", "none", "stored", "environment", "file"),
    CheckConstraint(
        "(reference IS NOT NULL) = (source IN ('environment', 'file'))", name="references_what_is_elsewhere"
    ),
    current_unique("providers_name", "lower(name)"),
    comment="Providers of models, with the place of their credentials.",
)

provider_secrets = Table(
    "provider_secrets",
    metadata,
    Column("provider_id", UUID(as_uuid=False), nullable=False, comment="The provider."),
    Column("version", Integer, nullable=False, comment="Counts up; the highest is told first."),
    Column(
        "secret_sealed",
        LargeBinary,
        nullable=False,
        comment="The credential, sealed for this provider's address.",
    ),
    Column(
        "ends_at",
        DateTime(timezone=True),
        comment="When it ceases to count; null: until it is rotated or erased.",
    ),
    PrimaryKeyConstraint("provider_id", "version"),
    comment="Credentials of providers, sealed; at most two versions of each.",
)

__all__ = ["provider_secrets", "providers"]
