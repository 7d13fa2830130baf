"""What an answer from the gateway's own cache costs: a class of its own in the price list, and an outcome of its own.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

from migrations.views import ViewColumn, make_view, quoted, run

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
_CLASSES = ("input", "cache_read", "cache_write", "output", "reasoning", "per_request")
_BEFORE = "`ok`, `cut`, `error`, `timeout`, `interrupted` or `excluded`."
_AFTER = "`ok`, `cut`, `error`, `timeout`, `interrupted`, `excluded` or `cached` (the gateway's own cache answered; nothing was called)."


def upgrade() -> None:
    """Add the class, and say what the outcome means."""
    op.add_column(
        "prices",
        sa.Column(
            "per_cache_hit",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Nano-dollars for each request that the gateway's own cache answers, in place of all else.",
        ),
        schema=SCHEMA,
    )
    op.create_check_constraint(
        op.f("ck_prices_a_cache_hit_costs_no_less_than_nothing"),
        "prices",
        "per_cache_hit >= 0",
        schema=SCHEMA,
    )
    _outcomes(_AFTER)
    _list_prices((*_CLASSES, "per_cache_hit"))


def downgrade() -> None:
    """Drop what was added."""
    _list_prices(_CLASSES)
    _outcomes(_BEFORE)
    op.drop_constraint(
        op.f("ck_prices_a_cache_hit_costs_no_less_than_nothing"), "prices", type_="check", schema=SCHEMA
    )
    op.drop_column("prices", "per_cache_hit", schema=SCHEMA)


def _outcomes(meaning: str) -> None:
    for column in ("gateway.attempts.outcome", "serving.attempts.outcome"):
        run(f"COMMENT ON COLUMN {column} IS {quoted(meaning)}")


def _list_prices(classes: tuple[str, ...]) -> None:
    """Make the view of the price list again, with these classes."""
    hit = "per_cache_hit" in classes
    priced = ", ".join(f"'{each}', (q.{each} * 0.000000001)" for each in classes)
    # One column a line.
    # fmt: off
    pricing: ViewColumn = ("pricing", f"jsonb_build_object({priced})", "Dollars per 1,000,000 tokens, class by class, for each request, and for each answered from the cache." if hit else "Dollars per 1,000,000 tokens, class by class, and for each request.")
    of_hits: tuple[ViewColumn, ...] = (("per_cache_hit_nano_usd", "q.per_cache_hit", "1e-9 dollars for each request that the gateway's own cache answers, in place of all else."),) if hit else ()
    run("DROP VIEW billing.list_prices")
    make_view(
        "billing.list_prices",
        "What served entities cost and cost before: one row for each interval in which one entry of the price list held.",
        (
            ("price_start_time", "h.since", "When it began to hold."),
            ("price_end_time", "h.until", "When it ceased to hold; null: until another begins."),
            ("account_id", "'0'::text", "Always `0`: a deployment is one tenant."),
            ("sku_name", "coalesce(e.name, '-') || '/' || coalesce(s.name, h.served_entity_id::text)", "Endpoint and served entity by their latest names, as in billing.usage."),
            ("cloud", "'SELF_HOSTED'::text", "Always `SELF_HOSTED`."),
            ("currency_code", "'USD'::text", "Always `USD`."),
            ("usage_unit", "'TOKEN'::text", "Always `TOKEN`; prices are for 1,000,000 of them."),
            pricing,
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
            *of_hits,
            ("corrects", "q.corrects::text", "The entry that this one stands in for."),
            ("note", "q.note", "Where the price comes from, or why it was corrected."),
            ("entered_time", "q.valid_from", "When it was entered."),
        ),
        import_module("migrations.versions.0006_auditor").HELD_PRICES,
    )
    # fmt: on
