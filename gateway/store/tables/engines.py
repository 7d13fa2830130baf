"""What engines said of their own time, a minute a row: the ledger says whose it was."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, PrimaryKeyConstraint, Table, Text

from gateway.store.tables.base import metadata

engine_minutes = Table(
    "engine_minutes",
    metadata,
    Column(
        "engine",
        Text,
        nullable=False,
        comment="The engine's address; of a local socket with the host before it.",
    ),
    Column("minute", DateTime(timezone=True), nullable=False, comment="Start of the minute."),
    Column(
        "watched_us", BigInteger, nullable=False, comment="Microseconds of it that the engine was looked at."
    ),
    Column("away_us", BigInteger, nullable=False, comment="Microseconds of these that it did not answer."),
    Column("busy_us", BigInteger, nullable=False, comment="Microseconds of these that it worked."),
    Column(
        "present_us",
        BigInteger,
        nullable=False,
        comment="Microseconds that calls spent in it, added up over them: by busy_us, how many there were at once.",
    ),
    Column("steps", BigInteger, nullable=False, comment="Steps that it made."),
    Column("prompt_tokens", BigInteger, nullable=False, comment="Prompt tokens that it computed."),
    Column("cached_tokens", BigInteger, nullable=False, comment="Prompt tokens that it found in its cache."),
    Column("answer_tokens", BigInteger, nullable=False, comment="Tokens that it generated."),
    PrimaryKeyConstraint("minute", "engine"),
    comment="What local engines said of their own time, a minute a row.",
)
