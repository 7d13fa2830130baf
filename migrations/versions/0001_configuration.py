"""Identity, what can be called, and the rules, each kept version by version.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"
VERSIONED = (
    "principals", "groups", "memberships", "roles", "api_keys", "endpoints", "served_entities", "grants", "prices",
    "limits", "budgets",
)  # fmt: skip


def upgrade() -> None:
    """Make the tables, and give the application what it needs of them: add versions, close them, nothing else."""
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    op.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {APPLICATION}")
    op.execute(CLOSED_ONCE)
    # One column a line.
    # fmt: off
    op.create_table(
        "configuration_change",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False, comment="Counts up by one in order of commit; a snapshot of the configuration is named by it."),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, comment="When, by this server's clock; equals valid_from of what the change made."),
        sa.Column("touched", ARRAY(sa.Text()), nullable=False, comment="`<kind>:<id>` of every object that changed, so that workers forget just those."),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_configuration_change")),
        schema=SCHEMA,
        comment="One row for each transaction that changed the configuration; workers read the highest number.",
    )
    _versions(
        "principals",
        sa.Column("kind", sa.Text(), nullable=False, comment="`user` or `service_principal`."),
        sa.Column("name", sa.Text(), nullable=False, comment="How others refer to it: a user's login or e-mail, a machine's name."),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False, comment="Name for people to read."),
        sa.Column("email", sa.Text(), nullable=True, comment="Address of a user, where known."),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="Nothing of an inactive one is accepted."),
        sa.Column("tokens_not_before", sa.DateTime(timezone=True), nullable=True, comment="JWTs issued earlier are refused."),
        sa.Column("issuer", sa.Text(), nullable=True, comment="OIDC issuer that it is known to, exactly as in its tokens."),
        sa.Column("subject", sa.Text(), nullable=True, comment="`sub` of that issuer's tokens."),
        sa.CheckConstraint("kind IN ('user', 'service_principal')", name=op.f("ck_principals_kind_is_known")),
        sa.CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name=op.f("ck_principals_subject_has_an_issuer")),
        comment="Users and service principals.",
    )
    op.create_index("uq_principals_name", "principals", [sa.text("lower(name)")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_index("uq_principals_subject", "principals", [sa.text("issuer"), sa.text("subject")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions("groups", sa.Column("name", sa.Text(), nullable=False, comment="Unique among groups, whatever the case."), sa.Column("description", sa.Text(), server_default="", nullable=False, comment="What the group is for."), comment="Groups of principals and of other groups.")
    op.create_index("uq_groups_name", "groups", [sa.text("lower(name)")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions(
        "memberships",
        sa.Column("group_id", sa.UUID(as_uuid=False), nullable=False, comment="The group."),
        sa.Column("member_kind", sa.Text(), nullable=False, comment="`user`, `service_principal` or `group`."),
        sa.Column("member_id", sa.UUID(as_uuid=False), nullable=False, comment="The principal or nested group in it."),
        sa.CheckConstraint("member_kind IN ('user', 'service_principal', 'group')", name=op.f("ck_memberships_member_kind_is_known")),
        sa.CheckConstraint("group_id <> member_id", name=op.f("ck_memberships_no_group_is_in_itself")),
        comment="Who is directly in which group; cycles are refused when they are made.",
    )
    op.create_index("ix_memberships_member", "memberships", ["member_id"], unique=False, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_index("uq_memberships_member", "memberships", [sa.text("group_id"), sa.text("member_id")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions(
        "roles",
        sa.Column("role", sa.Text(), nullable=False, comment="`admin`, `auditor` or `group_manager`."),
        sa.Column("grantee_kind", sa.Text(), nullable=False, comment="`user`, `service_principal` or `group`."),
        sa.Column("grantee_id", sa.UUID(as_uuid=False), nullable=False, comment="Who has the role."),
        sa.Column("group_id", sa.UUID(as_uuid=False), nullable=True, comment="The group that a group manager manages; null for other roles."),
        sa.Column("granted_by", sa.UUID(as_uuid=False), nullable=True, comment="Principal that gave it; null for the first start."),
        sa.CheckConstraint("(role = 'group_manager') = (group_id IS NOT NULL)", name=op.f("ck_roles_managers_have_a_group")),
        sa.CheckConstraint("grantee_kind IN ('user', 'service_principal', 'group')", name=op.f("ck_roles_grantee_kind_is_known")),
        sa.CheckConstraint("role IN ('admin', 'auditor', 'group_manager')", name=op.f("ck_roles_role_is_known")),
        comment="Roles of the control plane. Owning an endpoint is no role: it is CAN_MANAGE on it.",
    )
    op.create_index("uq_roles_grantee", "roles", [sa.text("role"), sa.text("grantee_id"), sa.text("coalesce(group_id, '00000000-0000-0000-0000-000000000000')")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions(
        "api_keys",
        sa.Column("principal_id", sa.UUID(as_uuid=False), nullable=False, comment="Whose key it is."),
        sa.Column("name", sa.Text(), server_default="", nullable=False, comment="What its owner calls it."),
        sa.Column("id_part", sa.Text(), nullable=False, comment="The 12 public characters by which the key is found."),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="HMAC-SHA-256 of the whole key under the pepper."),
        sa.Column("pepper_version", sa.SmallInteger(), nullable=False, comment="Version of the pepper, which is kept outside the database."),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True, comment="Not accepted from then on; null: never ends by itself."),
        sa.Column("endpoints", ARRAY(sa.UUID(as_uuid=False)), nullable=True, comment="Endpoint ids it is confined to; null: no confinement."),
        sa.Column("planes", ARRAY(sa.Text()), nullable=False, comment="Planes it may be used on: `data`, `control`."),
        sa.Column("replaces", sa.UUID(as_uuid=False), nullable=True, comment="Key that it was made to replace; both hold until the old one expires."),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True, comment="Not accepted from then on, for good."),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="When the key was made."),
        sa.Column("created_by", sa.UUID(as_uuid=False), nullable=True, comment="Principal that made it; null for the first start."),
        sa.CheckConstraint("planes <@ ARRAY['data', 'control'] AND cardinality(planes) > 0", name=op.f("ck_api_keys_planes_are_known")),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_api_keys_digest_is_whole")),
        comment="API keys; a principal may have several.",
    )
    op.create_index("ix_api_keys_principal", "api_keys", ["principal_id"], unique=False, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_index("uq_api_keys_id_part", "api_keys", [sa.text("id_part")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_table(
        "api_key_uses",
        sa.Column("key_id", sa.UUID(as_uuid=False), nullable=False, comment="The key."),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=False, comment="To the minute; written behind the requests."),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_key_uses")),
        schema=SCHEMA,
        comment="When each key was last used: apart from the keys, so that use makes no versions.",
    )
    _versions(
        "endpoints",
        sa.Column("name", sa.Text(), nullable=False, comment="What clients name as `model`."),
        sa.Column("aliases", ARRAY(sa.Text()), server_default="{}", nullable=False, comment="Other names that mean the same endpoint."),
        sa.Column("task", sa.Text(), nullable=False, comment="`llm/v1/chat`, `llm/v1/completions` or `llm/v1/embeddings`."),
        sa.Column("description", sa.Text(), server_default="", nullable=False, comment="What it is for, for people."),
        sa.Column("creator_id", sa.UUID(as_uuid=False), nullable=True, comment="Principal that made it; null for the first start."),
        sa.Column("creator", sa.Text(), server_default="", nullable=False, comment="That principal's name then."),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="When the endpoint was made."),
        sa.Column("tags", JSONB(), server_default=sa.text("'{}'"), nullable=False, comment="Keys and values of its owners' own."),
        sa.Column("estimate_milli", sa.Integer(), server_default="500", nullable=False, comment="Estimated tokens per 1,000 bytes of text, for reservations."),
        sa.Column("default_max_tokens", sa.Integer(), server_default="1024", nullable=False, comment="What a plain call without `max_tokens` reserves and is sent upstream with."),
        sa.Column("local_only", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Requests never leave for another host, whatever the fallbacks say."),
        sa.Column("settings", JSONB(), server_default=sa.text("'{}'"), nullable=False, comment="Gateway features by name (guardrails, payload logging, cache, retries, time limits)."),
        sa.CheckConstraint("task IN ('llm/v1/chat', 'llm/v1/completions', 'llm/v1/embeddings')", name=op.f("ck_endpoints_task_is_known")),
        sa.CheckConstraint("default_max_tokens BETWEEN 1 AND 1000000", name=op.f("ck_endpoints_default_is_sane")),
        sa.CheckConstraint("estimate_milli BETWEEN 1 AND 10000", name=op.f("ck_endpoints_estimate_is_sane")),
        comment="Serving endpoints.",
    )
    op.create_index("uq_endpoints_name", "endpoints", [sa.text("lower(name)")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions(
        "served_entities",
        sa.Column("endpoint_id", sa.UUID(as_uuid=False), nullable=False, comment="The endpoint that it answers for."),
        sa.Column("name", sa.Text(), nullable=False, comment="Unique within the endpoint; traffic and fallbacks refer to it."),
        sa.Column("kind", sa.Text(), nullable=False, comment="`local` (the deployment's own engine) or `external`."),
        sa.Column("provider", sa.Text(), nullable=False, comment="Adapter that speaks to it: `vllm`, `openai`, ..."),
        sa.Column("model", sa.Text(), nullable=False, comment="Name sent upstream; what truly answers."),
        sa.Column("base_url", sa.Text(), nullable=True, comment="Where it is; null for the local engine, whose address the deployment knows."),
        sa.Column("credential_id", sa.UUID(as_uuid=False), nullable=True, comment="Stored credential to call it with; null: none is needed."),
        sa.Column("traffic_percent", sa.SmallInteger(), server_default="0", nullable=False, comment="Share of the endpoint's traffic; the shares of an endpoint add up to 100."),
        sa.Column("fallback_position", sa.SmallInteger(), nullable=True, comment="Place in the order in which entities are tried after the split's choice; null: never."),
        sa.Column("settings", JSONB(), server_default=sa.text("'{}'"), nullable=False, comment="Adapter settings by name (replicas, time limits, concurrency, what to do on disconnect)."),
        sa.CheckConstraint("kind = 'local' OR base_url IS NOT NULL OR provider <> 'vllm'", name=op.f("ck_served_entities_external_engines_have_an_address")),
        sa.CheckConstraint("kind IN ('local', 'external')", name=op.f("ck_served_entities_kind_is_known")),
        sa.CheckConstraint("traffic_percent BETWEEN 0 AND 100", name=op.f("ck_served_entities_share_is_a_percentage")),
        comment="Models that answer for endpoints, with their share of the traffic and their place as fallback.",
    )
    op.create_index("uq_served_entities_name", "served_entities", [sa.text("endpoint_id"), sa.text("name")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions(
        "grants",
        sa.Column("endpoint_id", sa.UUID(as_uuid=False), nullable=False, comment="The endpoint."),
        sa.Column("grantee_kind", sa.Text(), nullable=False, comment="`user`, `service_principal` or `group`."),
        sa.Column("grantee_id", sa.UUID(as_uuid=False), nullable=False, comment="Who holds the permission."),
        sa.Column("level", sa.Text(), nullable=False, comment="`CAN_VIEW`, `CAN_QUERY` or `CAN_MANAGE`; each contains those before."),
        sa.Column("granted_by", sa.UUID(as_uuid=False), nullable=True, comment="Principal that gave it; null for the first start."),
        sa.CheckConstraint("grantee_kind IN ('user', 'service_principal', 'group')", name=op.f("ck_grants_grantee_kind_is_known")),
        sa.CheckConstraint("level IN ('CAN_VIEW', 'CAN_QUERY', 'CAN_MANAGE')", name=op.f("ck_grants_level_is_known")),
        comment="Permissions on endpoints.",
    )
    op.create_index("ix_grants_grantee", "grants", ["grantee_id"], unique=False, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_index("uq_grants_grantee", "grants", [sa.text("endpoint_id"), sa.text("grantee_id")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    _versions(
        "prices",
        sa.Column("served_entity_id", sa.UUID(as_uuid=False), nullable=False, comment="The served entity that it prices."),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=False, comment="Requests admitted from then on cost this."),
        sa.Column("effective_to", sa.DateTime(timezone=True), nullable=True, comment="End of the interval; null: until another price begins."),
        sa.Column("input", sa.BigInteger(), nullable=False, comment="Fresh input, nano-dollars per 1,000,000 tokens."),
        sa.Column("cache_read", sa.BigInteger(), nullable=False, comment="Input read from a cache, nano-dollars per 1,000,000 tokens."),
        sa.Column("cache_write", sa.BigInteger(), nullable=False, comment="Input written to a cache, nano-dollars per 1,000,000 tokens."),
        sa.Column("output", sa.BigInteger(), nullable=False, comment="Output, nano-dollars per 1,000,000 tokens."),
        sa.Column("reasoning", sa.BigInteger(), nullable=False, comment="Reasoning, nano-dollars per 1,000,000 tokens."),
        sa.Column("per_request", sa.BigInteger(), server_default="0", nullable=False, comment="Nano-dollars for each request."),
        sa.Column("per_gpu_second", sa.BigInteger(), server_default="0", nullable=False, comment="Nano-dollars a GPU-second of the local engine."),
        sa.Column("corrects", sa.UUID(as_uuid=False), nullable=True, comment="The entry that this one corrects and stands in for."),
        sa.Column("note", sa.Text(), server_default="", nullable=False, comment="Where the price comes from, or why it was corrected."),
        sa.CheckConstraint("effective_to > effective_from", name=op.f("ck_prices_interval_is_not_empty")),
        sa.CheckConstraint("least(input, cache_read, cache_write, output, reasoning, per_request, per_gpu_second) >= 0", name=op.f("ck_prices_nothing_costs_less_than_nothing")),
        comment="What served entities cost, with validity intervals.",
    )
    op.create_index("ix_prices_entity", "prices", ["served_entity_id", "effective_from"], unique=False, schema=SCHEMA)
    _versions(
        "limits",
        sa.Column("name", sa.Text(), server_default="", nullable=False, comment="What refusals and people call it; may be empty."),
        sa.Column("scope", sa.Text(), nullable=False, comment="Whose use is counted together; a default counts each apart."),
        sa.Column("subject_id", sa.UUID(as_uuid=False), nullable=True, comment="The endpoint, user, group, service principal or key of the scope; null: each of them apart."),
        sa.Column("endpoint_id", sa.UUID(as_uuid=False), nullable=True, comment="Counts only calls of this endpoint; null: of all together."),
        sa.Column("metric", sa.Text(), nullable=False, comment="`requests`, `input_tokens`, `output_tokens`, `total_tokens` or `concurrent_requests`."),
        sa.Column("window_kind", sa.Text(), nullable=False, comment="`rolling`, `calendar`, or `none` for concurrent requests."),
        sa.Column("window_ms", sa.BigInteger(), nullable=True, comment="Width of a rolling window."),
        sa.Column("window_unit", sa.Text(), nullable=True, comment="Calendar period: `day`, `week`, `month` or `once`."),
        sa.Column("time_zone", sa.Text(), nullable=True, comment="IANA zone in which calendar periods begin."),
        sa.Column("amount", sa.BigInteger(), nullable=False, comment="How much fits into one window, in the metric's unit; 0: nothing."),
        sa.Column("mode", sa.Text(), server_default="share", nullable=False, comment="While the counters are away: `strict` refuses, `share` divides among workers, `open` serves; `observe` records always and never refuses."),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="Whether it is in force."),
        sa.CheckConstraint("(window_kind = 'calendar') = (time_zone IS NOT NULL)", name=op.f("ck_limits_calendar_has_a_zone")),
        sa.CheckConstraint("(window_kind = 'calendar') = (window_unit IS NOT NULL)", name=op.f("ck_limits_calendar_has_a_unit")),
        sa.CheckConstraint("(window_kind = 'none') = (metric = 'concurrent_requests')", name=op.f("ck_limits_only_concurrency_has_no_window")),
        sa.CheckConstraint("(window_kind = 'rolling') = (window_ms IS NOT NULL)", name=op.f("ck_limits_rolling_has_a_width")),
        sa.CheckConstraint("metric IN ('requests', 'input_tokens', 'output_tokens', 'total_tokens', 'concurrent_requests')", name=op.f("ck_limits_metric_is_known")),
        sa.CheckConstraint("mode IN ('strict', 'share', 'open', 'observe')", name=op.f("ck_limits_mode_is_known")),
        sa.CheckConstraint("scope IN ('endpoint', 'user', 'user_default', 'group', 'group_default', 'service_principal', 'key')", name=op.f("ck_limits_scope_is_known")),
        sa.CheckConstraint("scope NOT IN ('user', 'group', 'service_principal') OR subject_id IS NOT NULL", name=op.f("ck_limits_scope_names_one")),
        sa.CheckConstraint("scope NOT IN ('user_default', 'group_default', 'deployment') OR subject_id IS NULL", name=op.f("ck_limits_scope_names_none")),
        sa.CheckConstraint("window_kind IN ('rolling', 'calendar', 'none')", name=op.f("ck_limits_window_kind_is_known")),
        sa.CheckConstraint("window_unit IN ('day', 'week', 'month', 'once')", name=op.f("ck_limits_window_unit_is_known")),
        sa.CheckConstraint("amount BETWEEN 0 AND 9007199254740991", name=op.f("ck_limits_amount_is_countable")),
        sa.CheckConstraint("window_ms BETWEEN 1000 AND 86400000", name=op.f("ck_limits_width_is_a_second_to_a_day")),
        comment="Rate limits.",
    )
    op.create_index(
        "uq_limits_rule",
        "limits",
        [
            sa.text("scope"),
            sa.text("coalesce(subject_id, '00000000-0000-0000-0000-000000000000')"),
            sa.text("coalesce(endpoint_id, '00000000-0000-0000-0000-000000000000')"),
            sa.text("metric"),
            sa.text("window_kind"),
            sa.text("coalesce(window_ms, 0)"),
            sa.text("coalesce(window_unit, '')"),
            sa.text("coalesce(time_zone, '')"),
        ],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("to_change IS NULL"),
    )
    _versions(
        "budgets",
        sa.Column("name", sa.Text(), server_default="", nullable=False, comment="What refusals and people call it; may be empty."),
        sa.Column("scope", sa.Text(), nullable=False, comment="Whose spend is counted together; a default counts each apart."),
        sa.Column("subject_id", sa.UUID(as_uuid=False), nullable=True, comment="The endpoint, user, group, service principal or key of the scope; null: each of them apart."),
        sa.Column("endpoint_id", sa.UUID(as_uuid=False), nullable=True, comment="Counts only spend on this endpoint; null: on all together."),
        sa.Column("period", sa.Text(), nullable=False, comment="`day`, `week`, `month` or `once`."),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False, comment="IANA zone in which periods begin."),
        sa.Column("amount_nano_usd", sa.BigInteger(), nullable=False, comment="What may be spent in one period, in 1e-9 dollars."),
        sa.Column("increase_nano_usd", sa.BigInteger(), server_default="0", nullable=False, comment="Temporarily added to the amount."),
        sa.Column("increase_until", sa.DateTime(timezone=True), nullable=True, comment="End of the temporary increase."),
        sa.Column("thresholds_percent", ARRAY(sa.SmallInteger()), server_default="{}", nullable=False, comment="Shares of the amount at which an event is raised, ascending."),
        sa.Column("mode", sa.Text(), server_default="share", nullable=False, comment="`strict`, `share` or `observe`; money is never `open`."),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="Whether it is in force."),
        sa.CheckConstraint("mode IN ('strict', 'share', 'observe')", name=op.f("ck_budgets_mode_is_known")),
        sa.CheckConstraint("period IN ('day', 'week', 'month', 'once')", name=op.f("ck_budgets_period_is_known")),
        sa.CheckConstraint("scope IN ('endpoint', 'user', 'user_default', 'group', 'group_default', 'service_principal', 'key', 'deployment')", name=op.f("ck_budgets_scope_is_known")),
        sa.CheckConstraint("scope NOT IN ('user', 'group', 'service_principal') OR subject_id IS NOT NULL", name=op.f("ck_budgets_scope_names_one")),
        sa.CheckConstraint("scope NOT IN ('user_default', 'group_default', 'deployment') OR subject_id IS NULL", name=op.f("ck_budgets_scope_names_none")),
        sa.CheckConstraint("(increase_nano_usd > 0) = (increase_until IS NOT NULL)", name=op.f("ck_budgets_increases_end")),
        sa.CheckConstraint("amount_nano_usd BETWEEN 0 AND 9007199254740991", name=op.f("ck_budgets_amount_is_countable")),
        sa.CheckConstraint("increase_nano_usd BETWEEN 0 AND 9007199254740991", name=op.f("ck_budgets_increase_is_countable")),
        comment="Budgets of money.",
    )
    op.create_index(
        "uq_budgets_rule", "budgets", [sa.text("scope"), sa.text("coalesce(subject_id, '00000000-0000-0000-0000-000000000000')"), sa.text("coalesce(endpoint_id, '00000000-0000-0000-0000-000000000000')"), sa.text("period"), sa.text("time_zone")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL")
    )
    # fmt: on
    for table in VERSIONED:
        op.execute(f"GRANT SELECT, INSERT, UPDATE (to_change, valid_to) ON {SCHEMA}.{table} TO {APPLICATION}")
    op.execute(f"GRANT SELECT, INSERT ON {SCHEMA}.configuration_change TO {APPLICATION}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON {SCHEMA}.api_key_uses TO {APPLICATION}")


def downgrade() -> None:
    """Drop the tables; the schema stays, others may use it."""
    for table in reversed(VERSIONED):
        op.drop_table(table, schema=SCHEMA)
    op.drop_table("api_key_uses", schema=SCHEMA)
    op.drop_table("configuration_change", schema=SCHEMA)
    op.execute(f"DROP FUNCTION {SCHEMA}.versions_are_closed_once()")


CLOSED_ONCE = f"""
CREATE FUNCTION {SCHEMA}.versions_are_closed_once() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF OLD.to_change IS NOT NULL OR NEW.to_change IS NULL THEN
        RAISE EXCEPTION 'a version in % is closed once and never opened again', TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$body$
"""


def _versions(name: str, *items: sa.Column[object] | sa.Constraint, comment: str) -> None:
    """A table whose rows are versions of objects, closed once and never edited."""
    op.create_table(
        name,
        sa.Column(
            "id", sa.UUID(), nullable=False, comment="The object, the same in all its versions (UUIDv7)."
        ),
        sa.Column(
            "from_change",
            sa.BigInteger(),
            nullable=False,
            comment="Configuration change that made this version.",
        ),
        sa.Column(
            "to_change", sa.BigInteger(), comment="Configuration change that ended it; null while current."
        ),
        sa.Column(
            "valid_from",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When this version began to hold.",
        ),
        sa.Column(
            "valid_to", sa.DateTime(timezone=True), comment="When it ceased to hold; null while current."
        ),
        sa.Column(
            "managed_by",
            sa.Text(),
            comment="Name of the declarative file that owns the object, which is read-only elsewhere; null: nobody.",
        ),
        *items,
        sa.PrimaryKeyConstraint("id", "from_change", name=f"pk_{name}"),
        sa.ForeignKeyConstraint(
            ["from_change"],
            [f"{SCHEMA}.configuration_change.number"],
            name=f"fk_{name}_from_change",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(
            ["to_change"],
            [f"{SCHEMA}.configuration_change.number"],
            name=f"fk_{name}_to_change",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("(to_change IS NULL) = (valid_to IS NULL)", name=f"ck_{name}_ends_once"),
        sa.CheckConstraint("to_change > from_change", name=f"ck_{name}_ends_after_it_began"),
        schema=SCHEMA,
        comment=comment,
    )
    current = sa.text("to_change IS NULL")
    op.create_index(f"uq_{name}_current", name, ["id"], unique=True, schema=SCHEMA, postgresql_where=current)
    op.create_index(f"ix_{name}_versions", name, ["from_change", "to_change"], schema=SCHEMA)
    op.execute(
        f"CREATE TRIGGER closed_once BEFORE UPDATE ON {SCHEMA}.{name} FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.versions_are_closed_once()"
    )
