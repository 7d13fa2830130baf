"""What can be called: endpoints, their served entities, who may use them, and what they cost.

Prices are only ever added: a correction is an entry that names the one it corrects.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from gateway.store.tables.versioned import current_unique, one_of, versioned

endpoints = versioned(
    "endpoints",
    Column("name", Text, nullable=False, comment="What clients name as `model`."),
    Column(
        "aliases",
        ARRAY(Text),
        nullable=False,
        server_default="{}",
        comment="Other names that mean the same endpoint.",
    ),
    Column(
        "task", Text, nullable=False, comment="`llm/v1/chat`, `llm/v1/completions` or `llm/v1/embeddings`."
    ),
    Column("description", Text, nullable=False, server_default="", comment="What it is for, for people."),
    Column("creator_id", UUID(as_uuid=False), comment="Principal that made it; null for the first start."),
    Column("creator", Text, nullable=False, server_default="", comment="That principal's name then."),
    Column("created_at", DateTime(timezone=True), nullable=False, comment="When the endpoint was made."),
    Column(
        "tags",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="Keys and values of its owners' own.",
    ),
    Column(
        "estimate_milli",
        Integer,
        nullable=False,
        server_default="500",
        comment="Estimated tokens per 1,000 bytes of text, for reservations.",
    ),
    Column(
        "default_max_tokens",
        Integer,
        nullable=False,
        server_default="1024",
        comment="What a plain call without `max_tokens` reserves and is sent upstream with.",
    ),
    Column(
        "local_only",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Requests never leave for another host, whatever the fallbacks say.",
    ),
    Column(
        "settings",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="Gateway features by name (guardrails, payload logging, cache, retries, time limits).",
    ),
    Column(
        "config_version",
        Integer,
        nullable=False,
        server_default="1",
        comment="Counts up with each change of what answers for it.",
    ),
    one_of("task", "llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"),
    CheckConstraint("estimate_milli BETWEEN 1 AND 10000", name="estimate_is_sane"),
    CheckConstraint("default_max_tokens BETWEEN 1 AND 1000000", name="default_is_sane"),
    current_unique("endpoints_name", "lower(name)"),
    comment="Serving endpoints.",
)

served_entities = versioned(
    "served_entities",
    Column("endpoint_id", UUID(as_uuid=False), nullable=False, comment="The endpoint that it answers for."),
    Column(
        "name", Text, nullable=False, comment="Unique within the endpoint; traffic and fallbacks refer to it."
    ),
    Column("kind", Text, nullable=False, comment="`local` (the deployment's own engine) or `external`."),
    Column("provider", Text, nullable=False, comment="Adapter that speaks to it: `vllm`, `openai`, ..."),
    Column("model", Text, nullable=False, comment="Name sent upstream; what truly answers."),
    Column(
        "base_url",
        Text,
        comment="Where it is; null for the local engine, whose address the deployment knows.",
    ),
    Column(
        "credential_id",
        UUID(as_uuid=False),
        comment="Stored credential to call it with; null: none is needed.",
    ),
    Column(
        "traffic_percent",
        SmallInteger,
        nullable=False,
        server_default="0",
        comment="Share of the endpoint's traffic; the shares of an endpoint add up to 100.",
    ),
    Column(
        "fallback_position",
        SmallInteger,
        comment="Place in the order in which entities are tried after the split's choice; null: never.",
    ),
    Column(
        "settings",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="Adapter settings by name (replicas, time limits, concurrency, what to do on disconnect).",
    ),
    one_of("kind", "local", "external"),
    CheckConstraint("traffic_percent BETWEEN 0 AND 100", name="share_is_a_percentage"),
    current_unique("served_entities_name", "endpoint_id", "name"),
    comment="Models that answer for endpoints, with their share of the traffic and their place as fallback.",
)

grants = versioned(
    "grants",
    Column("endpoint_id", UUID(as_uuid=False), nullable=False, comment="The endpoint."),
    Column("grantee_kind", Text, nullable=False, comment="`user`, `service_principal` or `group`."),
    Column("grantee_id", UUID(as_uuid=False), nullable=False, comment="Who holds the permission."),
    Column(
        "level",
        Text,
        nullable=False,
        comment="`CAN_VIEW`, `CAN_QUERY` or `CAN_MANAGE`; each contains those before.",
    ),
    Column("granted_by", UUID(as_uuid=False), comment="Principal that gave it; null for the first start."),
    one_of("grantee_kind", "user", "service_principal", "group"),
    one_of("level", "CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"),
    current_unique("grants_grantee", "endpoint_id", "grantee_id"),
    Index("ix_grants_grantee", "grantee_id", postgresql_where=text("to_change IS NULL")),
    comment="Permissions on endpoints.",
)

prices = versioned(
    "prices",
    Column(
        "served_entity_id", UUID(as_uuid=False), nullable=False, comment="The served entity that it prices."
    ),
    Column(
        "effective_from",
        DateTime(timezone=True),
        nullable=False,
        comment="Requests admitted from then on cost this.",
    ),
    Column(
        "effective_to",
        DateTime(timezone=True),
        comment="End of the interval; null: until another price begins.",
    ),
    Column("input", BigInteger, nullable=False, comment="Fresh input, nano-dollars per 1,000,000 tokens."),
    Column(
        "cache_read",
        BigInteger,
        nullable=False,
        comment="Input read from a cache, nano-dollars per 1,000,000 tokens.",
    ),
    Column(
        "cache_write",
        BigInteger,
        nullable=False,
        comment="Input written to a cache, nano-dollars per 1,000,000 tokens.",
    ),
    Column("output", BigInteger, nullable=False, comment="Output, nano-dollars per 1,000,000 tokens."),
    Column("reasoning", BigInteger, nullable=False, comment="Reasoning, nano-dollars per 1,000,000 tokens."),
    Column(
        "per_request",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Nano-dollars for each request.",
    ),
    Column(
        "per_gpu_second",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Nano-dollars a GPU-second of the local engine.",
    ),
    Column(
        "per_cache_hit",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Nano-dollars for each request that the gateway's own cache answers, in place of all else.",
    ),
    Column("corrects", UUID(as_uuid=False), comment="The entry that this one corrects and stands in for."),
    Column(
        "note",
        Text,
        nullable=False,
        server_default="",
        comment="Where the price comes from, or why it was corrected.",
    ),
    CheckConstraint("effective_to > effective_from", name="interval_is_not_empty"),
    CheckConstraint(
        "least(input, cache_read, cache_write, output, reasoning, per_request, per_gpu_second) >= 0",
        name="nothing_costs_less_than_nothing",
    ),
    CheckConstraint("per_cache_hit >= 0", name="a_cache_hit_costs_no_less_than_nothing"),
    Index("ix_prices_entity", "served_entity_id", "effective_from"),
    comment="What served entities cost, with validity intervals.",
)

__all__ = ["endpoints", "grants", "prices", "served_entities"]
