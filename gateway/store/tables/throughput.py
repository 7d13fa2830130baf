"""What the local engine can do, and what of it is provisioned, version by version.

One pool at a time; nobody has two provisions, and together they are never more than the pool: that is checked where
they are changed, one change after the other.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, Text, text
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.versioned import current_unique, one_of, versioned

throughput_pools = versioned(
    "throughput_pools",
    Column("name", Text, nullable=False, comment="What people call it."),
    Column("replicas", Integer, nullable=False, comment="Replicas of the engine that may be booked."),
    Column(
        "tokens_per_second",
        BigInteger,
        nullable=False,
        comment="What one replica does with all of its slots in use, prompts and answers together.",
    ),
    Column("slots", Integer, nullable=False, comment="Calls that one replica answers at once at that rate."),
    Column(
        "unit_tokens_per_second",
        BigInteger,
        nullable=False,
        server_default=text("1"),
        comment="Tokens a second in one unit.",
    ),
    Column(
        "queue",
        Integer,
        nullable=False,
        server_default=text("256"),
        comment="Calls that may wait for a slot, over all workers.",
    ),
    Column(
        "queue_ms", Integer, nullable=False, server_default=text("10000"), comment="How long one may wait."
    ),
    CheckConstraint("replicas BETWEEN 1 AND 10000", name="replicas_are_some"),
    CheckConstraint("tokens_per_second BETWEEN 1 AND 1000000000", name="rate_is_some"),
    CheckConstraint("slots BETWEEN 1 AND 10000", name="slots_are_some"),
    CheckConstraint("unit_tokens_per_second BETWEEN 1 AND 1000000000", name="unit_is_some"),
    CheckConstraint("queue BETWEEN 0 AND 1000000", name="queue_is_bounded"),
    CheckConstraint("queue_ms BETWEEN 0 AND 600000", name="wait_is_bounded"),
    current_unique("throughput_pools_only", "(true)"),
    comment="What the local engine can do.",
)

throughput_provisions = versioned(
    "throughput_provisions",
    Column("name", Text, nullable=False, comment="What people call it."),
    Column("scope", Text, nullable=False, comment="Whose calls it covers: an `endpoint`'s or a `group`'s."),
    Column("subject_id", UUID(as_uuid=False), nullable=False, comment="That endpoint or group."),
    Column("units", BigInteger, nullable=False, comment="How much is kept for it, in the pool's units."),
    Column(
        "first_token_ms",
        Integer,
        comment="What 95 % of the first tokens of covered streams should come within; null: as they come.",
    ),
    one_of("scope", "endpoint", "group"),
    CheckConstraint("units BETWEEN 1 AND 1000000000", name="units_are_some"),
    CheckConstraint("first_token_ms BETWEEN 1 AND 600000", name="target_is_some"),
    current_unique("throughput_provisions_name", "lower(name)"),
    current_unique("throughput_provisions_subject", "subject_id"),
    comment="Throughput that is kept for an endpoint or a group.",
)

__all__ = ["throughput_pools", "throughput_provisions"]
