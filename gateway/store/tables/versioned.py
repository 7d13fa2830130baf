"""How a governed object is kept: one row a version, closed and followed by the next, never edited.

A version holds from one configuration change up to the next that touches the object, so the configuration as
of any change number, and as of any moment, can be read back exactly. Current rows have no `to_change`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.schema import SchemaItem

from gateway.store.tables.base import metadata

configuration_change = Table(
    "configuration_change",
    metadata,
    Column(
        "number",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="Counts up by one in order of commit; a snapshot of the configuration is named by it.",
    ),
    Column(
        "changed_at",
        DateTime(timezone=True),
        nullable=False,
        comment="When, by this server's clock; equals valid_from of what the change made.",
    ),
    Column(
        "touched",
        ARRAY(Text),
        nullable=False,
        comment="`<kind>:<id>` of every object that changed, so that workers forget just those.",
    ),
    comment="One row for each transaction that changed the configuration; workers read the highest number.",
)


def versioned(name: str, *items: SchemaItem, comment: str) -> Table:
    """A table of versions: the columns that every governed object has, then its own."""
    return Table(
        name,
        metadata,
        Column(
            "id",
            UUID(as_uuid=False),
            nullable=False,
            comment="The object, the same in all its versions (UUIDv7).",
        ),
        Column(
            "from_change",
            BigInteger,
            # Deferred: the change is recorded last, when all that it touched is known.
            ForeignKey(configuration_change.c.number, deferrable=True, initially="DEFERRED"),
            nullable=False,
            comment="Configuration change that made this version.",
        ),
        Column(
            "to_change",
            BigInteger,
            ForeignKey(configuration_change.c.number, deferrable=True, initially="DEFERRED"),
            comment="Configuration change that ended it; null while current.",
        ),
        Column(
            "valid_from", DateTime(timezone=True), nullable=False, comment="When this version began to hold."
        ),
        Column("valid_to", DateTime(timezone=True), comment="When it ceased to hold; null while current."),
        Column(
            "managed_by",
            Text,
            comment="Name of the declarative file that owns the object, which is read-only elsewhere; null: nobody.",
        ),
        *items,
        PrimaryKeyConstraint("id", "from_change"),
        CheckConstraint("(to_change IS NULL) = (valid_to IS NULL)", name="ends_once"),
        CheckConstraint("to_change > from_change", name="ends_after_it_began"),
        Index(f"uq_{name}_current", "id", unique=True, postgresql_where=text("to_change IS NULL")),
        Index(f"ix_{name}_versions", "from_change", "to_change"),
        comment=comment,
    )


def current_unique(name: str, *expressions: str) -> Index:
    """An index that keeps something unique among current rows; a closed version never stands in the way."""
    return Index(
        f"uq_{name}",
        *(text(expression) for expression in expressions),
        unique=True,
        postgresql_where=text("to_change IS NULL"),
    )


def one_of(column: str, *values: str) -> CheckConstraint:
    """The column holds one of these words."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=f"{column}_is_known")
