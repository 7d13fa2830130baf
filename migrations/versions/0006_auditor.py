"""What auditors read in SQL: usage, spend, prices, who may query what, and the audit, without a secret or a prompt.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from migrations.views import AUDITOR, ViewColumn, make_view, quoted, run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMAS = {
    "serving": "What endpoints served: requests, calls upstream, served entities.",
    "access": "Who may do what, and who did.",
    "billing": "What was used, and what it cost.",
}
VIEWS = (
    "serving.endpoint_usage", "serving.attempts", "serving.served_entities", "serving.endpoint_latency", "access.can_query",
    "access.audit", "billing.usage", "billing.daily_usage", "billing.spend", "billing.group_costs", "billing.list_prices",
    "billing.watermark",
)  # fmt: skip
NAMES = ("principal", "group", "endpoint", "served_entity", "api_key")


def upgrade() -> None:
    """Make the schemas and their views; the role itself is made beside the application's, in gateway.store.migrate."""
    for schema, comment in SCHEMAS.items():
        run(f"CREATE SCHEMA {schema}")
        run(f"COMMENT ON SCHEMA {schema} IS {quoted(comment)}")
        run(f"GRANT USAGE ON SCHEMA {schema} TO {AUDITOR}")
    run(_for_database("GRANT CONNECT ON DATABASE %I TO weighbridge_auditor"))
    run(
        "CREATE INDEX ix_requests_recorded_at ON gateway.requests USING brin (recorded_at) WITH (autosummarize = on)"
    )
    for kind in NAMES:
        # The names that usage is shown under: the latest, since the sums know ids only.
        table = "served_entities" if kind == "served_entity" else f"{kind}s"
        run(
            f"CREATE VIEW gateway.{kind}_names AS SELECT DISTINCT ON (id::text) id::text AS id, name FROM gateway.{table}"  # noqa: S608
            " ORDER BY id::text, from_change DESC"
        )
    _serving()
    _access()
    _billing()


def downgrade() -> None:
    """Drop the schemas; the role is the server's, not this database's."""
    for view in reversed(VIEWS):
        run(f"DROP VIEW {view}")
    run("DROP FUNCTION access.who_can_query(timestamptz)")
    for kind in NAMES:
        run(f"DROP VIEW gateway.{kind}_names")
    run("DROP INDEX gateway.ix_requests_recorded_at")
    for schema in SCHEMAS:
        run(f"DROP SCHEMA {schema}")
    run(_for_database("REVOKE CONNECT ON DATABASE %I FROM weighbridge_auditor"))


def _for_database(statement: str) -> str:
    # Somebody else's database may be open to everyone already, and not the owner's to open.
    return f"""DO $$ BEGIN
        IF has_database_privilege(current_database(), 'CONNECT WITH GRANT OPTION') THEN
            EXECUTE format('{statement}', current_database());
        END IF;
    END $$"""


# One column a line.
# fmt: off
_ONE_TENANT = "Always `0`: a deployment is one tenant."
_TENANT: tuple[ViewColumn, ...] = (
    ("account_id", "'0'::text", _ONE_TENANT),
    ("workspace_id", "'0'::text", _ONE_TENANT),
)


def _day(moment: str) -> str:
    return f"({moment} AT TIME ZONE 'UTC')::date"


def _usd(nano: str) -> str:
    # A product is exact where a quotient would be rounded.
    return f"({nano} * 0.000000001)"


def _money(of: str, what: str) -> tuple[ViewColumn, ViewColumn]:
    return (
        ("cost_nano_usd", of, f"{what}, in 1e-9 dollars, exact."),
        ("cost_usd", _usd(of), f"{what}, in dollars: the same number."),
    )


def _tokens(row: str) -> tuple[ViewColumn, ...]:
    return (
        ("fresh_input_tokens", f"{row}.fresh_input", "Input tokens processed at the full price."),
        ("cache_read_tokens", f"{row}.cache_read", "Input tokens read from a cache."),
        ("cache_write_tokens", f"{row}.cache_write", "Input tokens written to a cache."),
        ("output_tokens", f"{row}.output", "Output tokens, reasoning not included."),
        ("reasoning_tokens", f"{row}.reasoning", "Output tokens spent on reasoning."),
    )


def _serving() -> None:
    make_view(
        "serving.endpoint_usage",
        "One row for each admitted request. Databricks' columns come first. Filter by request_time: it is indexed.",
        (
            *_TENANT,
            ("client_request_id", "r.client_request_id", "The caller's own id of the request."),
            ("databricks_request_id", "r.request_id", "The gateway's id, as in `x-request-id`."),
            ("requester", "r.principal_name", "Name of the user or service principal that asked."),
            ("status_code", "r.http_status", "HTTP status sent to the client; null if its worker died."),
            ("request_time", "r.admitted_at", "When it was admitted; decides every period."),
            ("input_token_count", "r.prompt_tokens", "Input tokens."),
            ("output_token_count", "r.completion_tokens", "Output tokens, reasoning included."),
            ("input_character_count", "NULL::bigint", "Not counted: always null."),
            ("output_character_count", "NULL::bigint", "Not counted: always null."),
            ("usage_context", "r.tags", "Keys and values that the caller sent for charge-back."),
            ("request_streaming", "r.stream", "Whether the client asked for a stream."),
            ("served_entity_id", "r.entity_id", "Served entity of the last call upstream; null if none was made."),
            ("usage_date", _day("r.admitted_at"), "Date of request_time in UTC."),
            ("end_time", "r.ended_at", "When it ended, by the worker's clock."),
            ("recorded_time", "r.recorded_at", "When it entered the ledger."),
            ("principal_id", "r.principal_id", "Who asked."),
            ("principal_kind", "r.principal_kind", "`user` or `service_principal`."),
            ("key_id", "r.key_id", "API key it came with; null for a token of an identity provider."),
            ("group_id", "r.group_id", "Group that was charged; null where none was."),
            ("group_name", "g.name", "That group's latest name."),
            ("endpoint_id", "r.endpoint_id", "Endpoint asked for."),
            ("endpoint_name", "r.endpoint_name", "That endpoint's name then."),
            ("served_entity_name", "r.entity_name", "That served entity's name then."),
            ("model", "r.model", "Model that answered last."),
            ("api", "r.api", "Way in: `openai.chat`, `databricks.chat`, ..."),
            ("status", "r.status", "`ok`, `cut`, `error` or `interrupted` (its worker died)."),
            ("error_code", "r.error_code", "Code of the error that the client was given."),
            ("finish_reason", "r.finish_reason", "Why the answer ended, as the client was told."),
            ("stopped_by", "r.stopped_by", "What ended it early: `client`, `limit`, `revoked`, `upstream` or `shutdown`."),
            *_tokens("r"),
            ("usage_source", "r.usage_source", "Where the counts come from: `reported`, `counted`, `estimated` or `none`."),
            ("price_id", "r.price_id", "Entry of the price list that made the cost; see billing.list_prices."),
            *_money("r.cost_nano_usd", "What the caller bears"),
            ("estimated_input_tokens", "r.estimated_prompt_tokens", "Input tokens reserved."),
            ("granted_output_tokens", "r.granted_output_tokens", "Output tokens reserved, top-ups included."),
            ("charges", "r.charges", "Limits and budgets charged: limit, subject, metric, reserved and actual amounts."),
            ("end_user", "r.end_user", "The caller's own user, where it sent one."),
            ("first_byte_seconds", "r.first_byte_us * 0.000001", "From arrival to the answer's first byte."),
            ("duration_seconds", "r.duration_us * 0.000001", "From arrival to the end."),
            ("queue_seconds", "r.queue_us * 0.000001", "Of these, spent waiting for a place."),
            ("cache_hit", "r.cache_hit", "Whether the gateway's own cache answered."),
            ("attempts", "r.attempts", "Calls upstream, those that failed included."),
            ("sequence", "r.sequence", "Number of the admission, ascending; 0 if the counters were away."),
            ("snapshot_version", "r.snapshot_version", "Configuration change whose rules decided."),
            ("degraded", "r.degraded", "Mode it was admitted under while the counters were away: `share` or `open`."),
        ),
        "FROM gateway.requests r LEFT JOIN gateway.group_names g ON g.id = r.group_id",
    )
    make_view(
        "serving.attempts",
        "One row for each call upstream; a request may have made several.",
        (
            ("databricks_request_id", "a.request_id", "The request, as in serving.endpoint_usage."),
            ("attempt", "a.attempt", "Counts up from 1."),
            ("request_time", "a.admitted_at", "When the request was admitted."),
            ("start_time", "a.started_at", "When this call began."),
            ("served_entity_id", "a.entity_id", "Served entity called."),
            ("served_entity_name", "a.entity_name", "That served entity's name then."),
            ("model", "a.model", "Model asked for."),
            ("outcome", "a.outcome", "`ok`, `cut`, `error`, `timeout`, `interrupted` or `excluded`."),
            ("status_code", "a.http_status", "HTTP status that the upstream gave."),
            ("error_code", "a.error_code", "What went wrong, in the gateway's words."),
            ("reason", "a.reason", "Why it was chosen or left out."),
            *_tokens("a"),
            ("usage_source", "a.usage_source", "Where the counts come from: `reported`, `counted`, `estimated` or `none`."),
            ("price_id", "a.price_id", "Entry of the price list that made the cost."),
            *_money("a.cost_nano_usd", "What it cost"),
            ("borne", "a.borne", "Whether the caller bears the cost; false for a try that a failure of ours cut."),
            ("first_byte_seconds", "a.first_byte_us * 0.000001", "From its start to the upstream's first byte."),
            ("duration_seconds", "a.duration_us * 0.000001", "From its start to its end."),
        ),
        "FROM gateway.attempts a",
    )
    make_view(
        "serving.served_entities",
        "Served entities of endpoints, one row for each version: the one with the latest change_time holds.",
        (
            ("served_entity_id", "s.id::text", "The served entity, the same in all its versions."),
            *_TENANT,
            ("created_by", "e.creator", "Name of the principal that made the endpoint."),
            ("endpoint_name", "e.name", "The endpoint's latest name."),
            ("endpoint_id", "s.endpoint_id::text", "The endpoint that it answers for."),
            ("served_entity_name", "s.name", "Its name, unique within the endpoint."),
            ("entity_type", "CASE s.kind WHEN 'local' THEN 'FOUNDATION_MODEL' ELSE 'EXTERNAL_MODEL' END", "`FOUNDATION_MODEL` (the deployment's own engine) or `EXTERNAL_MODEL`."),
            ("entity_name", "s.model", "Model that answers: the name sent upstream."),
            ("entity_version", "s.from_change::text", "Configuration change that made this version."),
            ("endpoint_config_version", "s.from_change", "The same as a number."),
            ("task", "e.task", "`llm/v1/chat`, `llm/v1/completions` or `llm/v1/embeddings`."),
            ("external_model_config", "CASE s.kind WHEN 'external' THEN jsonb_build_object('provider', s.provider, 'name', s.model, 'task', e.task) END", "Provider, name and task of an external model."),
            ("foundation_model_config", "CASE s.kind WHEN 'local' THEN jsonb_build_object('model', s.model) END", "Model of the local engine."),
            ("custom_model_config", "NULL::jsonb", "Not used: always null."),
            ("feature_spec_config", "NULL::jsonb", "Not used: always null."),
            ("change_time", "s.valid_from", "When this version began to hold."),
            ("endpoint_delete_time", "e.valid_to", "When the endpoint was deleted; null while it is there."),
            ("end_time", "s.valid_to", "When this version ceased to hold; null while current."),
            ("provider", "s.provider", "Adapter that speaks to it."),
            ("host", "substring(s.base_url from '^[a-z]+://(?:[^/@]*@)?([^/?#]+)')", "Host it is reached at, without credentials; null for the local engine."),
            ("traffic_percent", "s.traffic_percent", "Share of the endpoint's traffic."),
            ("fallback_position", "s.fallback_position", "Place in the order of fallbacks; null: never."),
            ("managed_by", "s.managed_by", "Declarative file that owns it; null: none."),
        ),
        """FROM gateway.served_entities s JOIN (
            SELECT DISTINCT ON (id) id, name, creator, task, valid_to FROM gateway.endpoints ORDER BY id, from_change DESC
        ) e ON e.id = s.endpoint_id""",
    )
    make_view(
        "serving.endpoint_latency",
        "How fast endpoints answered, by day; order by avg_duration_seconds for the slowest. Quantiles: report slowest-endpoints.",
        (
            ("usage_date", _day("u.period"), "Day, UTC."),
            ("period", "u.period", "Start of the day; filter by it: it is indexed."),
            ("endpoint_id", "u.endpoint_id", "The endpoint."),
            ("endpoint_name", "e.name", "Its latest name."),
            ("requests", "u.requests", "Number of requests."),
            ("errors", "u.errors", "Of these, ended with an error or interrupted."),
            ("avg_duration_seconds", "round(u.duration_us / u.requests * 0.000001, 6)", "Mean time from arrival to the end."),
            ("avg_first_byte_seconds", "round(u.first_byte_us / nullif(u.first_bytes, 0) * 0.000001, 6)", "Mean time from arrival to the first byte, where there was one."),
            ("avg_queue_seconds", "round(u.queue_us / u.requests * 0.000001, 6)", "Mean time spent waiting for a place."),
        ),
        """FROM (
            SELECT period, endpoint_id, sum(requests) AS requests, sum(duration_us) AS duration_us, sum(queue_us) AS queue_us,
                   coalesce(sum(requests) FILTER (WHERE status IN ('error', 'interrupted')), 0) AS errors,
                   sum(first_bytes) AS first_bytes, sum(first_byte_us) AS first_byte_us
            FROM gateway.usage_day GROUP BY period, endpoint_id
        ) u LEFT JOIN gateway.endpoint_names e ON e.id = u.endpoint_id""",
    )


def _access() -> None:
    run(WHO_CAN_QUERY)
    run("REVOKE ALL ON FUNCTION access.who_can_query(timestamptz) FROM PUBLIC")
    run(f"GRANT EXECUTE ON FUNCTION access.who_can_query(timestamptz) TO {AUDITOR}")
    run(
        "COMMENT ON FUNCTION access.who_can_query(timestamptz) IS "
        + quoted("Who could query which endpoint at a moment, and by which rule; columns as in access.can_query.")
    )
    make_view(
        "access.can_query",
        "Who may query which endpoint now, and by which rule. For a past moment: SELECT * FROM access.who_can_query('2026-11-01 12:00Z').",
        (
            ("principal_id", "w.principal_id", "The user or service principal."),
            ("principal_kind", "w.principal_kind", "`user` or `service_principal`."),
            ("principal_name", "w.principal_name", "Its name at that moment."),
            ("endpoint_id", "w.endpoint_id", "The endpoint."),
            ("endpoint_name", "w.endpoint_name", "Its name at that moment."),
            ("permission", "w.permission", "`CAN_QUERY` or `CAN_MANAGE`."),
            ("held_by", "w.held_by", "What gives it: `role admin`, `principal` or `group`."),
            ("group_id", "w.group_id", "The group that holds it, directly or around the principal's groups."),
            ("group_name", "w.group_name", "That group's name."),
        ),
        "FROM access.who_can_query(now()) w",
    )
    make_view(
        "access.audit",
        "The audit's chain: administrative changes and logins, one row an entry. Databricks' columns come first.",
        (
            *_TENANT,
            ("version", "'1'::text", "Version of this layout."),
            ("event_time", "a.at", "When, by the database's clock."),
            ("event_date", _day("a.at"), "Date of event_time in UTC."),
            ("source_ip_address", "NULL::text", "Not kept: always null."),
            ("user_agent", "NULL::text", "Not kept: always null."),
            ("session_id", "NULL::text", "Not kept: always null."),
            ("user_identity", "jsonb_build_object('email', regexp_replace(a.actor, ' \\([0-9a-f-]{36}\\)$', ''), 'subject_name', substring(a.actor from '\\(([0-9a-f-]{36})\\)$'))", "Name and id of who did it."),
            ("service_name", "a.object_kind", "Kind of the object: `endpoint`, `grant`, `limit`, ..."),
            ("action_name", "a.action", "What was done: `<object>.<verb>`."),
            ("request_id", "NULL::text", "Not kept: always null."),
            ("request_params", "jsonb_build_object('object_kind', a.object_kind, 'object_id', a.object_id, 'reason', c.reason)", "What it was done to, and why."),
            ("response", "NULL::jsonb", "Not kept: a change that failed left no entry."),
            ("audit_level", "'ACCOUNT_LEVEL'::text", "Always `ACCOUNT_LEVEL`."),
            ("event_id", "a.number::text", "Place in the chain, as text."),
            ("identity_metadata", "jsonb_build_object('run_by', a.actor)", "Who did it, as the audit names it."),
            ("number", "a.number", "Place in the chain, from 1 without a gap."),
            ("actor", "a.actor", "Who did it: name and id, `weighbridge` for the deployment itself."),
            ("object_id", "a.object_id", "The object."),
            ("before", "c.before", "The object before; null for none, or where the contents were erased."),
            ("after", "c.after", "The object after; null for none, or where the contents were erased."),
            ("reason", "c.reason", "Why, where it was said."),
            ("erased", "c.number IS NULL", "Whether the contents were erased, which the chain allows."),
            ("digest", "encode(a.digest, 'hex')", "The chain's digest at this entry; `weighbridge verify --audit` checks it."),
        ),
        "FROM gateway.audit_entries a LEFT JOIN gateway.audit_contents c ON c.number = a.number",
    )


def _billing() -> None:
    key: tuple[ViewColumn, ...] = (
        ("principal_id", "u.principal_id", "Who asked."),
        ("principal_name", "p.name", "Its latest name."),
        ("key_id", "nullif(u.key_id, '')", "API key; null for none."),
        ("key_name", "k.name", "Its latest name."),
        ("group_id", "nullif(u.group_id, '')", "Group that was charged; null for none."),
        ("group_name", "g.name", "Its latest name."),
        ("endpoint_id", "u.endpoint_id", "Endpoint."),
        ("endpoint_name", "e.name", "Its latest name."),
        ("served_entity_id", "nullif(u.entity_id, '')", "Served entity of the last call upstream; null for none."),
        ("served_entity_name", "s.name", "Its latest name."),
        ("api", "u.api", "Way in."),
        ("status", "u.status", "How the requests ended."),
    )
    sums: tuple[ViewColumn, ...] = (
        ("requests", "u.requests", "Number of requests."),
        ("attempts", "u.attempts", "Number of their calls upstream."),
        ("streams", "u.streams", "Number of requests that were streams."),
        ("cache_hits", "u.cache_hits", "Number answered by the gateway's own cache."),
        ("not_reported", "u.not_reported", "Number whose usage was counted or estimated."),
        *_tokens("u"),
        *_money("u.cost_nano_usd", "What callers bear"),
        ("duration_seconds", "u.duration_us * 0.000001", "Sum of durations."),
        ("queue_seconds", "u.queue_us * 0.000001", "Sum of times spent waiting for a place."),
    )
    names = """
        LEFT JOIN gateway.principal_names p ON p.id = u.principal_id
        LEFT JOIN gateway.api_key_names k ON k.id = u.key_id
        LEFT JOIN gateway.group_names g ON g.id = u.group_id
        LEFT JOIN gateway.endpoint_names e ON e.id = u.endpoint_id
        LEFT JOIN gateway.served_entity_names s ON s.id = u.entity_id"""
    tokens = "(u.fresh_input + u.cache_read + u.cache_write + u.output + u.reasoning)"
    make_view(
        "billing.usage",
        "Usage by hour and whatever it is told apart by. Databricks' columns come first. Filter by usage_start_time: it is indexed.",
        (
            ("record_id", "md5(concat_ws('|', u.period, u.principal_id, u.key_id, u.group_id, u.endpoint_id, u.entity_id, u.api, u.status))::uuid", "Name of the record, made of its hour and what it is told apart by."),
            *_TENANT,
            ("sku_name", "coalesce(e.name, u.endpoint_id) || '/' || coalesce(s.name, '-')", "Endpoint and served entity by their latest names, as in billing.list_prices."),
            ("cloud", "'SELF_HOSTED'::text", "Always `SELF_HOSTED`."),
            ("usage_start_time", "u.period", "Start of the hour."),
            ("usage_end_time", "u.period + interval '1 hour'", "End of the hour."),
            ("usage_date", _day("u.period"), "Date of the hour in UTC."),
            ("custom_tags", "'{}'::jsonb", "Empty here: tags are kept with each request, in serving.endpoint_usage."),
            ("usage_unit", "'TOKEN'::text", "Always `TOKEN`."),
            ("usage_quantity", f"{tokens}::numeric", "Tokens of all classes."),
            ("usage_metadata", "jsonb_build_object('endpoint_name', e.name, 'endpoint_id', u.endpoint_id, 'served_entity_id', nullif(u.entity_id, ''))", "What was used."),
            ("identity_metadata", "jsonb_build_object('run_as', p.name)", "Who used it."),
            ("record_type", "'ORIGINAL'::text", "Always `ORIGINAL`: sums change only as requests are added."),
            ("ingestion_date", _day("u.period"), "The same as usage_date."),
            ("billing_origin_product", "'MODEL_SERVING'::text", "Always `MODEL_SERVING`."),
            ("product_features", "jsonb_build_object('serving_type', 'FOUNDATION_MODEL')", "Kind of serving."),
            ("usage_type", "'TOKEN'::text", "Always `TOKEN`."),
            *key,
            *sums,
        ),
        f"FROM gateway.usage_hour u{names}",
    )
    make_view(
        "billing.daily_usage",
        "Usage by day and whatever it is told apart by. Filter by period: it is indexed.",
        (
            ("usage_date", _day("u.period"), "Day, UTC."),
            ("period", "u.period", "Start of the day."),
            *key,
            *sums,
        ),
        f"FROM gateway.usage_day u{names}",
    )
    make_view(
        "billing.spend",
        "What each principal spent on each endpoint, by day and charged group. Filter by period: it is indexed.",
        (
            ("usage_date", _day("u.period"), "Day, UTC."),
            ("period", "u.period", "Start of the day."),
            ("principal_id", "u.principal_id", "Who asked."),
            ("principal_name", "p.name", "Its latest name."),
            ("group_id", "nullif(u.group_id, '')", "Group that was charged; null for none."),
            ("group_name", "g.name", "Its latest name."),
            ("endpoint_id", "u.endpoint_id", "Endpoint."),
            ("endpoint_name", "e.name", "Its latest name."),
            ("requests", "u.requests", "Number of requests."),
            ("tokens", "u.tokens", "Tokens of all classes."),
            *_money("u.cost_nano_usd", "What callers bear"),
        ),
        """FROM (
            SELECT period, principal_id, group_id, endpoint_id, sum(requests) AS requests, sum(cost_nano_usd) AS cost_nano_usd,
                   sum(fresh_input + cache_read + cache_write + output + reasoning) AS tokens
            FROM gateway.usage_day GROUP BY period, principal_id, group_id, endpoint_id
        ) u
        LEFT JOIN gateway.principal_names p ON p.id = u.principal_id
        LEFT JOIN gateway.group_names g ON g.id = u.group_id
        LEFT JOIN gateway.endpoint_names e ON e.id = u.endpoint_id""",
    )
    make_view(
        "billing.group_costs",
        "What each charged group cost, by month. A null group: requests that no group's limit was charged for.",
        (
            ("month", "u.month", "First day of the month, UTC."),
            ("group_id", "nullif(u.group_id, '')", "Group that was charged; null for none."),
            ("group_name", "g.name", "Its latest name."),
            ("requests", "u.requests", "Number of requests."),
            ("tokens", "u.tokens", "Tokens of all classes."),
            *_money("u.cost_nano_usd", "What callers bear"),
        ),
        """FROM (
            SELECT date_trunc('month', period AT TIME ZONE 'UTC')::date AS month, group_id, sum(requests) AS requests,
                   sum(cost_nano_usd) AS cost_nano_usd, sum(fresh_input + cache_read + cache_write + output + reasoning) AS tokens
            FROM gateway.usage_day GROUP BY 1, 2
        ) u LEFT JOIN gateway.group_names g ON g.id = u.group_id""",
    )
    make_view(
        "billing.list_prices",
        "What served entities cost and cost before: one row for each interval in which one entry of the price list held.",
        (
            ("price_start_time", "h.since", "When it began to hold."),
            ("price_end_time", "h.until", "When it ceased to hold; null: until another begins."),
            ("account_id", "'0'::text", _ONE_TENANT),
            ("sku_name", "coalesce(e.name, '-') || '/' || coalesce(s.name, h.served_entity_id::text)", "Endpoint and served entity by their latest names, as in billing.usage."),
            ("cloud", "'SELF_HOSTED'::text", "Always `SELF_HOSTED`."),
            ("currency_code", "'USD'::text", "Always `USD`."),
            ("usage_unit", "'TOKEN'::text", "Always `TOKEN`; prices are for 1,000,000 of them."),
            ("pricing", f"jsonb_build_object('input', {_usd('q.input')}, 'cache_read', {_usd('q.cache_read')}, 'cache_write', {_usd('q.cache_write')}, 'output', {_usd('q.output')}, 'reasoning', {_usd('q.reasoning')}, 'per_request', {_usd('q.per_request')})", "Dollars per 1,000,000 tokens, class by class, and for each request."),
            ("price_id", "q.id::text", "The entry, as in serving.endpoint_usage."),
            ("served_entity_id", "h.served_entity_id::text", "The served entity that it prices."),
            ("served_entity_name", "s.name", "Its latest name."),
            ("endpoint_id", "s.endpoint_id::text", "Its endpoint."),
            ("endpoint_name", "e.name", "That endpoint's latest name."),
            ("input_nano_usd", "q.input", "Fresh input, 1e-9 dollars per 1,000,000 tokens."),
            ("cache_read_nano_usd", "q.cache_read", "Input read from a cache, 1e-9 dollars per 1,000,000 tokens."),
            ("cache_write_nano_usd", "q.cache_write", "Input written to a cache, 1e-9 dollars per 1,000,000 tokens."),
            ("output_nano_usd", "q.output", "Output, 1e-9 dollars per 1,000,000 tokens."),
            ("reasoning_nano_usd", "q.reasoning", "Reasoning, 1e-9 dollars per 1,000,000 tokens."),
            ("per_request_nano_usd", "q.per_request", "1e-9 dollars for each request."),
            ("corrects", "q.corrects::text", "The entry that this one stands in for."),
            ("note", "q.note", "Where the price comes from, or why it was corrected."),
            ("entered_time", "q.valid_from", "When it was entered."),
        ),
        HELD_PRICES,
    )
    make_view(
        "billing.watermark",
        "Up to when the books are complete: everything admitted before has been posted, over all known spools.",
        (
            ("complete_until", "coalesce(min(p.complete_until), now() - interval '1 minute')", "All requests admitted before are in the ledger."),
            ("open_spools", "count(p.spool_id)", "Spools that are still written or not posted to their end."),
            ("oldest_host", "(array_agg(p.host ORDER BY p.complete_until))[1]", "Host of the spool that is furthest behind."),
            ("oldest_spool", "(array_agg(p.spool_id ORDER BY p.complete_until))[1]", "That spool."),
            ("oldest_seen", "(array_agg(p.updated_at ORDER BY p.complete_until))[1]", "When its host last spoke of it."),
        ),
        "FROM gateway.spool_positions p WHERE p.closed_at IS NULL",
    )
# fmt: on


# The price that began last holds; of two that began together, the one entered last: as gateway.store.snapshot decides.
HELD_PRICES = """
FROM (
    SELECT served_entity_id, price_id, since,
           lead(since) OVER (PARTITION BY served_entity_id ORDER BY since) AS until
    FROM (
        SELECT edge.served_entity_id, edge.since, held.id AS price_id,
               lag(held.id) OVER (PARTITION BY edge.served_entity_id ORDER BY edge.since) AS before
        FROM (
            SELECT served_entity_id, effective_from AS since FROM gateway.prices WHERE to_change IS NULL
            UNION SELECT served_entity_id, effective_to FROM gateway.prices WHERE to_change IS NULL AND effective_to IS NOT NULL
        ) edge LEFT JOIN LATERAL (
            SELECT id FROM gateway.prices q
            WHERE q.served_entity_id = edge.served_entity_id AND q.to_change IS NULL AND q.effective_from <= edge.since
              AND (q.effective_to IS NULL OR q.effective_to > edge.since)
              AND NOT EXISTS (SELECT FROM gateway.prices c WHERE c.corrects = q.id AND c.to_change IS NULL)
            ORDER BY q.effective_from DESC, q.from_change DESC, q.id DESC LIMIT 1
        ) held ON true
    ) spans
    WHERE price_id IS DISTINCT FROM before
) h
JOIN gateway.prices q ON q.id = h.price_id AND q.to_change IS NULL
LEFT JOIN (
    SELECT DISTINCT ON (id) id, name, endpoint_id FROM gateway.served_entities ORDER BY id, from_change DESC
) s ON s.id = h.served_entity_id
LEFT JOIN gateway.endpoint_names e ON e.id = s.endpoint_id::text
"""

# As policies.permissions decides on the configuration of that moment: an admin's role first, then the highest level,
# the principal's own grant before a group's of the same level.
WHO_CAN_QUERY = """
CREATE FUNCTION access.who_can_query(at timestamptz DEFAULT now()) RETURNS TABLE (
    principal_id uuid, principal_kind text, principal_name text, endpoint_id uuid, endpoint_name text,
    permission text, held_by text, group_id uuid, group_name text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    WITH RECURSIVE known AS MATERIALIZED (
        SELECT max(number) AS number FROM gateway.configuration_change WHERE changed_at <= at
    ), members AS MATERIALIZED (
        SELECT m.member_id, m.group_id FROM gateway.memberships m, known
        WHERE m.from_change <= known.number AND (m.to_change IS NULL OR m.to_change > known.number)
    ), people AS MATERIALIZED (
        SELECT p.id, p.kind, p.name FROM gateway.principals p, known
        WHERE p.from_change <= known.number AND (p.to_change IS NULL OR p.to_change > known.number) AND p.active
    ), holders AS (
        SELECT p.id AS principal_id, p.id AS holder FROM people p
        UNION SELECT h.principal_id, m.group_id FROM holders h JOIN members m ON m.member_id = h.holder
    ), admins AS (
        SELECT DISTINCT h.principal_id FROM holders h JOIN gateway.roles r ON r.grantee_id = h.holder, known
        WHERE r.role = 'admin' AND r.from_change <= known.number AND (r.to_change IS NULL OR r.to_change > known.number)
    ), targets AS (
        SELECT e.id, e.name FROM gateway.endpoints e, known
        WHERE e.from_change <= known.number AND (e.to_change IS NULL OR e.to_change > known.number)
    ), granted AS (
        SELECT h.principal_id, t.id AS endpoint_id, t.name AS endpoint_name, g.level, h.holder,
               row_number() OVER (
                   PARTITION BY h.principal_id, t.id
                   ORDER BY g.level <> 'CAN_MANAGE', h.holder <> h.principal_id, h.holder
               ) AS place
        FROM holders h JOIN gateway.grants g ON g.grantee_id = h.holder JOIN targets t ON t.id = g.endpoint_id, known
        WHERE g.level IN ('CAN_QUERY', 'CAN_MANAGE')
          AND g.from_change <= known.number AND (g.to_change IS NULL OR g.to_change > known.number)
          AND h.principal_id NOT IN (SELECT a.principal_id FROM admins a)
    ), found AS (
        SELECT a.principal_id, t.id AS endpoint_id, t.name AS endpoint_name, 'CAN_MANAGE' AS permission, NULL::uuid AS holder
        FROM admins a CROSS JOIN targets t
        UNION ALL SELECT g.principal_id, g.endpoint_id, g.endpoint_name, g.level, g.holder FROM granted g WHERE g.place = 1
    )
    SELECT p.id, p.kind, p.name, f.endpoint_id, f.endpoint_name, f.permission,
           CASE WHEN f.holder IS NULL THEN 'role admin' WHEN f.holder = p.id THEN 'principal' ELSE 'group' END,
           CASE WHEN f.holder <> p.id THEN f.holder END,
           (SELECT g.name FROM gateway.groups g, known
            WHERE g.id = f.holder AND f.holder <> p.id AND g.from_change <= known.number
              AND (g.to_change IS NULL OR g.to_change > known.number))
    FROM found f JOIN people p ON p.id = f.principal_id
$body$
"""
