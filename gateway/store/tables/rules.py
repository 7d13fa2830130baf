"""How much may be used: rate limits and budgets, version by version.

Only the rules are here: what is left of them lives in the counters and, for money, in the ledger.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from gateway.store.tables.versioned import current_unique, one_of, versioned

_SCOPES = ("endpoint", "user", "user_default", "group", "group_default", "service_principal", "key")
_NAMES_ONE = "scope NOT IN ('user', 'group', 'service_principal') OR subject_id IS NOT NULL"
_NAMES_NONE = "scope NOT IN ('user_default', 'group_default', 'deployment') OR subject_id IS NULL"
_NOBODY = "'00000000-0000-0000-0000-000000000000'"
# Amounts above 2**53 - 1 would lose their last digits in Redis' scripts.
_COUNTABLE = "BETWEEN 0 AND 9007199254740991"

limits = versioned(
    "limits",
    Column(
        "name",
        Text,
        nullable=False,
        server_default="",
        comment="What refusals and people call it; may be empty.",
    ),
    Column(
        "scope", Text, nullable=False, comment="Whose use is counted together; a default counts each apart."
    ),
    Column(
        "subject_id",
        UUID(as_uuid=False),
        comment="The endpoint, user, group, service principal or key of the scope; null: each of them apart.",
    ),
    Column(
        "endpoint_id",
        UUID(as_uuid=False),
        comment="Counts only calls of this endpoint; null: of all together.",
    ),
    Column(
        "metric",
        Text,
        nullable=False,
        comment="`requests`, `input_tokens`, `output_tokens`, `total_tokens` or `concurrent_requests`.",
    ),
    Column(
        "window_kind",
        Text,
        nullable=False,
        comment="`rolling`, `calendar`, or `none` for concurrent requests.",
    ),
    Column("window_ms", BigInteger, comment="Width of a rolling window."),
    Column("window_unit", Text, comment="Calendar period: `day`, `week`, `month` or `once`."),
    Column("time_zone", Text, comment="IANA zone in which calendar periods begin."),
    Column(
        "amount",
        BigInteger,
        nullable=False,
        comment="How much fits into one window, in the metric's unit; 0: nothing.",
    ),
    Column(
        "mode",
        Text,
        nullable=False,
        server_default="share",
        comment="While the counters are away: `strict` refuses, `share` divides among workers, `open` serves; "
        "`observe` records always and never refuses.",
    ),
    Column(
        "enabled", Boolean, nullable=False, server_default=text("true"), comment="Whether it is in force."
    ),
    Column(
        "by_owner",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether an endpoint's managers may change it: it was set on the endpoint's own route.",
    ),
    one_of("scope", *_SCOPES),
    one_of("metric", "requests", "input_tokens", "output_tokens", "total_tokens", "concurrent_requests"),
    one_of("window_kind", "rolling", "calendar", "none"),
    one_of("window_unit", "day", "week", "month", "once"),
    one_of("mode", "strict", "share", "open", "observe"),
    CheckConstraint(_NAMES_ONE, name="scope_names_one"),
    CheckConstraint(_NAMES_NONE, name="scope_names_none"),
    CheckConstraint("(window_kind = 'rolling') = (window_ms IS NOT NULL)", name="rolling_has_a_width"),
    CheckConstraint("window_ms BETWEEN 1000 AND 86400000", name="width_is_a_second_to_a_day"),
    CheckConstraint("(window_kind = 'calendar') = (window_unit IS NOT NULL)", name="calendar_has_a_unit"),
    CheckConstraint("(window_kind = 'calendar') = (time_zone IS NOT NULL)", name="calendar_has_a_zone"),
    CheckConstraint(
        "(window_kind = 'none') = (metric = 'concurrent_requests')", name="only_concurrency_has_no_window"
    ),
    CheckConstraint(f"amount {_COUNTABLE}", name="amount_is_countable"),
    current_unique(
        "limits_rule",
        "scope",
        f"coalesce(subject_id, {_NOBODY})",
        f"coalesce(endpoint_id, {_NOBODY})",
        "metric",
        "window_kind",
        "coalesce(window_ms, 0)",
        "coalesce(window_unit, '')",
        "coalesce(time_zone, '')",
    ),
    comment="Rate limits.",
)

budgets = versioned(
    "budgets",
    Column(
        "name",
        Text,
        nullable=False,
        server_default="",
        comment="What refusals and people call it; may be empty.",
    ),
    Column(
        "scope", Text, nullable=False, comment="Whose spend is counted together; a default counts each apart."
    ),
    Column(
        "subject_id",
        UUID(as_uuid=False),
        comment="The endpoint, user, group, service principal or key of the scope; null: each of them apart.",
    ),
    Column(
        "endpoint_id",
        UUID(as_uuid=False),
        comment="Counts only spend on this endpoint; null: on all together.",
    ),
    Column("period", Text, nullable=False, comment="`day`, `week`, `month` or `once`."),
    Column(
        "time_zone", Text, nullable=False, server_default="UTC", comment="IANA zone in which periods begin."
    ),
    Column(
        "amount_nano_usd",
        BigInteger,
        nullable=False,
        comment="What may be spent in one period, in 1e-9 dollars.",
    ),
    Column(
        "increase_nano_usd",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Temporarily added to the amount.",
    ),
    Column("increase_until", DateTime(timezone=True), comment="End of the temporary increase."),
    Column(
        "thresholds_percent",
        ARRAY(SmallInteger),
        nullable=False,
        server_default="{}",
        comment="Shares of the amount at which an event is raised, ascending.",
    ),
    Column(
        "mode",
        Text,
        nullable=False,
        server_default="share",
        comment="`strict`, `share` or `observe`; money is never `open`.",
    ),
    Column(
        "enabled", Boolean, nullable=False, server_default=text("true"), comment="Whether it is in force."
    ),
    one_of("scope", *_SCOPES, "deployment"),
    one_of("period", "day", "week", "month", "once"),
    one_of("mode", "strict", "share", "observe"),
    CheckConstraint(_NAMES_ONE, name="scope_names_one"),
    CheckConstraint(_NAMES_NONE, name="scope_names_none"),
    CheckConstraint(f"amount_nano_usd {_COUNTABLE}", name="amount_is_countable"),
    CheckConstraint(f"increase_nano_usd {_COUNTABLE}", name="increase_is_countable"),
    CheckConstraint("(increase_nano_usd > 0) = (increase_until IS NOT NULL)", name="increases_end"),
    current_unique(
        "budgets_rule",
        "scope",
        f"coalesce(subject_id, {_NOBODY})",
        f"coalesce(endpoint_id, {_NOBODY})",
        "period",
        "time_zone",
    ),
    comment="Budgets of money.",
)

__all__ = ["budgets", "limits"]
