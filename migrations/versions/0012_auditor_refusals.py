"""Refusals, limit hits, administrative actions and logins, for auditors.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from migrations.views import make_view, run

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

VIEWS = ("access.refusals", "access.limit_hits", "access.admin_actions", "access.logins")


def upgrade() -> None:
    """Make the views; what a limit or budget is called comes from its latest version."""
    run(RULE_NAMES)
    # One column a line.
    # fmt: off
    make_view(
        "access.refusals",
        "Calls that were refused before admission, and why: single ones first, the rest of a second as one count.",
        (
            ("event_time", "r.at", "When; of a count, when its span began."),
            ("event_date", "(r.at AT TIME ZONE 'UTC')::date", "Date of event_time in UTC."),
            ("refusals", "r.count", "How many calls were refused."),
            ("span_seconds", "r.span_ms * 0.001", "How long the span is that `refusals` counts; 0 for a single one."),
            ("plane", "r.plane", "`data` (calls of models) or `control` (administration)."),
            ("code", "r.code", "Why: the rule that refused, as the caller was told."),
            ("limit_id", "r.limit_id", "Limit or budget that had no room."),
            ("limit_name", "n.name", "What that is called."),
            ("principal_id", "r.principal_id", "Who asked; null for a caller that nobody knows."),
            ("principal_name", "p.name", "Its latest name."),
            ("asked", "r.asked", "Endpoint or route that was asked for; null for a count."),
            ("address", "r.address", "Where unknown callers called from: an IPv4 address or an IPv6 network of 64 bits."),
            ("erased", "r.content IS NULL", "Whether the contents were erased, which the chain allows."),
            ("seal", "r.seal", "The chain's entry that seals it: object_id in access.audit."),
            ("position", "r.position", "Place among those that this entry seals."),
        ),
        """FROM gateway.audit_refusals r
        LEFT JOIN gateway.principal_names p ON p.id = r.principal_id
        LEFT JOIN gateway.rule_names n ON n.id = r.limit_id""",
    )
    make_view(
        "access.limit_hits",
        "Where limits and budgets had no room: calls refused for it, and streams that one ended.",
        (
            ("event_time", "h.event_time", "When; of a count, when its span began."),
            ("event_date", "(h.event_time AT TIME ZONE 'UTC')::date", "Date of event_time in UTC."),
            ("kind", "h.kind", "`refused`: before admission; `stopped`: a stream that ended early."),
            ("hits", "h.hits", "How many calls."),
            ("code", "h.code", "What the caller was told."),
            ("limit_id", "h.limit_id", "The limit or budget; null for a stream, whose charges are in serving.endpoint_usage."),
            ("limit_name", "n.name", "What it is called."),
            ("rule", "n.rule", "`limit` or `budget`."),
            ("scope", "n.scope", "Whose use it counts together."),
            ("metric", "n.metric", "What it counts."),
            ("principal_id", "h.principal_id", "Who asked."),
            ("principal_name", "p.name", "Its latest name."),
            ("asked", "h.asked", "Endpoint that was asked for; null for a count."),
            ("databricks_request_id", "h.request_id", "The stream's request; null for refusals."),
        ),
        """FROM (
            SELECT at AS event_time, 'refused' AS kind, count AS hits, code, limit_id, principal_id, asked, NULL::uuid AS request_id
            FROM gateway.audit_refusals WHERE limit_id IS NOT NULL
            UNION ALL SELECT admitted_at, 'stopped', 1, finish_reason, NULL, principal_id, endpoint_name, request_id
            FROM gateway.requests WHERE stopped_by = 'limit'
        ) h
        LEFT JOIN gateway.principal_names p ON p.id = h.principal_id
        LEFT JOIN gateway.rule_names n ON n.id = h.limit_id""",
    )
    entry = (
        ("number", "a.number", "Place in the audit's chain."),
        ("event_time", "a.at", "When, by the database's clock."),
        ("event_date", "(a.at AT TIME ZONE 'UTC')::date", "Date of event_time in UTC."),
        ("actor", "a.actor", "Who did it: name and id, `weighbridge` for the deployment itself."),
        ("action", "a.action", "What was done: `<object>.<verb>`."),
        ("object_kind", "a.object_kind", "Kind of the object."),
        ("object_id", "a.object_id", "The object."),
    )
    make_view(
        "access.admin_actions",
        "Administrative changes: who changed what, from what to what, and why.",
        (
            *entry,
            ("before", "c.before", "The object before; null for none, or where the contents were erased."),
            ("after", "c.after", "The object after; null for none, or where the contents were erased."),
            ("reason", "c.reason", "Why, where it was said."),
        ),
        """FROM gateway.audit_entries a LEFT JOIN gateway.audit_contents c ON c.number = a.number
        WHERE a.object_kind NOT IN ('session', 'login', 'refusals')""",
    )
    make_view(
        "access.logins",
        "Who signed in for a session. Ending all sessions is a change of the principal, in access.admin_actions.",
        (*entry, ("details", "c.after", "What is known of it; null where the contents were erased.")),
        """FROM gateway.audit_entries a LEFT JOIN gateway.audit_contents c ON c.number = a.number
        WHERE a.object_kind IN ('session', 'login')""",
    )
    # fmt: on


def downgrade() -> None:
    """Drop the views."""
    for view in reversed(VIEWS):
        run(f"DROP VIEW {view}")
    run("DROP VIEW gateway.rule_names")


RULE_NAMES = """
CREATE VIEW gateway.rule_names AS
SELECT DISTINCT ON (id) id, name, rule, scope, metric FROM (
    SELECT id::text AS id, name, 'limit' AS rule, scope, metric, from_change FROM gateway.limits
    UNION ALL SELECT id::text, name, 'budget', scope, 'money', from_change FROM gateway.budgets
) AS rules ORDER BY id, from_change DESC
"""
