"""The statements that post a batch of rows, and their arguments: one array a column, as text.

A statement inserts the rows that are not there yet and, from those alone, changes the sums by hour, from these the sums
by day, and the budgets' balances, keys in order. All of it follows from the rows' own fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import asyncpg
import msgspec

from gateway.spool.books import AttemptRow, Posting, RequestRow
from gateway.store.tables.sums import SUMS, SUMS_KEY

_KEY = ", ".join(SUMS_KEY)
_TYPES = {
    "request_id": "uuid",
    "worker_id": "uuid",
    **dict.fromkeys(("stream", "cache_hit", "borne", "batch"), "bool"),
    **dict.fromkeys(("http_status", "attempts", "attempt"), "int2"),
    **dict.fromkeys(
        (
            "sequence", "snapshot_version", "fresh_input", "cache_read", "cache_write", "output", "reasoning",
            "cost_nano_usd", "estimated_prompt_tokens", "granted_output_tokens", "first_byte_us", "duration_us",
            "queue_us", "admitted_at_ms", "ended_at_ms", "started_at_ms", "begun_number", "ended_number",
        ),
        "int8",
    ),
}  # fmt: skip
_AS_JSON = ("charges", "tags", "weighed")
_ID = itemgetter(RequestRow._fields.index("request_id"))
_ID_AND_ATTEMPT = itemgetter(AttemptRow._fields.index("request_id"), AttemptRow._fields.index("attempt"))
_json = msgspec.json.Encoder()
_ESCAPE = re.compile(r"\\[^\"\\]")
_CONTROL = re.compile(r"[\x00-\x1f]")


async def post_rows(connection: asyncpg.Connection, postings: Sequence[Posting]) -> set[bytes]:
    """Post requests, their attempts and their sums; the ids of the requests that were new."""
    # Rows go in in the order of the arrays: sorted here it costs the server no sort.
    requests = sorted((each.request for each in postings), key=_ID)
    new = await connection.fetch(POST_REQUESTS, *_arrays(RequestRow._fields, requests))
    attempts = sorted((row for each in postings for row in each.attempts), key=_ID_AND_ATTEMPT)
    if attempts:
        await connection.execute(POST_ATTEMPTS, *_arrays(AttemptRow._fields, attempts))
    return {row[0].bytes for row in new}


def _arrays(fields: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [
        column
        if field in _AS_JSON
        else array_text([each.hex() for each in column] if _TYPES.get(field) == "uuid" else column)
        for field, column in zip(fields, zip(*rows, strict=True), strict=True)
    ]


def array_text(column: Sequence[Any]) -> str:
    """A column as PostgreSQL writes arrays: what JSON writes, in braces.

    A tenth of the cost of handing asyncpg a list. Where JSON escapes what PostgreSQL does not (control characters),
    the character is replaced.
    """
    encoded = _json.encode(column).decode()
    if "\\" in encoded and _ESCAPE.search(encoded):
        encoded = _json.encode(
            [_CONTROL.sub("\ufffd", each) if isinstance(each, str) else each for each in column]
        ).decode()
    return f"{{{encoded[1:-1]}}}"


def _given(fields: tuple[str, ...]) -> tuple[str, str, str]:
    """For a row's fields: the columns, what to select for them, and the arrays they come from."""
    columns = ", ".join(field.removesuffix("_ms") for field in fields)
    chosen = ", ".join(
        f"to_timestamp({field} / 1000.0::float8)"
        if field.endswith("_ms")
        else f"{field}{'::jsonb' * (field in _AS_JSON)}"
        for field in fields
    )
    arrays = ", ".join(
        f"${number}::text[]" if field in _AS_JSON else f"${number}::text::{_TYPES.get(field, 'text')}[]"
        for number, field in enumerate(fields, 1)
    )
    return columns, chosen, f"unnest({arrays}) AS given({', '.join(fields)})"


_SUMMED = """
        SELECT date_trunc('hour', admitted_at, 'UTC') AS period, principal_id, coalesce(key_id, '') AS key_id,
               coalesce(group_id, '') AS group_id, endpoint_id, coalesce(entity_id, '') AS entity_id, api, status,
               count(*) AS requests, sum(attempts)::int8 AS attempts, count(*) FILTER (WHERE stream) AS streams,
               count(*) FILTER (WHERE cache_hit) AS cache_hits,
               count(*) FILTER (WHERE usage_source IN ('counted', 'estimated')) AS not_reported,
               sum(fresh_input)::int8 AS fresh_input, sum(cache_read)::int8 AS cache_read,
               sum(cache_write)::int8 AS cache_write, sum(output)::int8 AS output, sum(reasoning)::int8 AS reasoning,
               sum(cost_nano_usd)::int8 AS cost_nano_usd, sum(duration_us)::int8 AS duration_us,
               sum(queue_us)::int8 AS queue_us, count(first_byte_us) AS first_bytes,
               coalesce(sum(first_byte_us), 0)::int8 AS first_byte_us
        FROM posted GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""


def _sums_statement(table: str, chosen: str, grouped: str = "") -> str:
    changed = ", ".join(f"{name} = held.{name} + excluded.{name}" for name in SUMS)
    return f"""
        INSERT INTO gateway.{table} AS held ({_KEY}, {", ".join(SUMS)})
        SELECT {chosen} FROM summed {grouped} ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
        ON CONFLICT ({_KEY}) DO UPDATE SET {changed}
    """  # noqa: S608 - made of this module's own names


_BALANCES = """
        INSERT INTO gateway.balances AS held (limit_id, subject, period, requests, nano_usd)
        SELECT charge ->> 'limit', charge ->> 'subject', to_timestamp((charge ->> 'period_ms')::int8 / 1000.0::float8),
               count(*), sum((charge ->> 'actual')::int8)
        FROM posted, jsonb_array_elements(charges) AS charge
        WHERE charge ->> 'metric' = 'money' AND charge ? 'period_ms' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (limit_id, subject, period)
        DO UPDATE SET requests = held.requests + excluded.requests, nano_usd = held.nano_usd + excluded.nano_usd
"""


def _requests_statement() -> str:
    columns, chosen, arrays = _given(RequestRow._fields)
    rest = ", ".join(SUMS_KEY[1:])
    by_hour = f"period, {rest}, {', '.join(SUMS)}"
    by_day = f"date_trunc('day', period, 'UTC'), {rest}, {', '.join(f'sum({name})::int8' for name in SUMS)}"
    return f"""
        WITH posted AS (
            INSERT INTO gateway.requests ({columns}) SELECT {chosen} FROM {arrays}
            ON CONFLICT (request_id) DO NOTHING
            RETURNING request_id, admitted_at, principal_id, key_id, group_id, endpoint_id, entity_id, api, status,
                attempts, stream, cache_hit, usage_source, fresh_input, cache_read, cache_write, output, reasoning,
                cost_nano_usd, duration_us, queue_us, first_byte_us, charges
        ), summed AS ({_SUMMED}), hours AS ({_sums_statement("usage_hour", by_hour)}),
        days AS ({_sums_statement("usage_day", by_day, "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8")}), budgets AS ({_BALANCES})
        SELECT request_id FROM posted
    """  # noqa: S608 - made of this module's own names


def _attempts_statement() -> str:
    columns, chosen, arrays = _given(AttemptRow._fields)
    return f"""
        INSERT INTO gateway.attempts ({columns}) SELECT {chosen} FROM {arrays}
        ON CONFLICT (request_id, attempt) DO NOTHING
    """  # noqa: S608 - made of this module's own names


POST_REQUESTS = _requests_statement()
POST_ATTEMPTS = _attempts_statement()
POST_POSITIONS = """
    INSERT INTO gateway.spool_positions AS held (
        spool_id, host, segment, "offset", complete_until, updated_at, closed_at, read_until, ended_number
    )
    SELECT spool_id, $2, segment, "offset", to_timestamp(until_ms / 1000.0::float8), clock_timestamp(),
           CASE WHEN closed THEN clock_timestamp() END, to_timestamp(read_ms / 1000.0::float8), ended_number
    FROM unnest($1::uuid[], $3::int4[], $4::int8[], $5::int8[], $6::bool[], $7::int8[], $8::int8[])
         AS given(spool_id, segment, "offset", until_ms, closed, read_ms, ended_number)
    ORDER BY spool_id
    ON CONFLICT (spool_id) DO UPDATE SET host = excluded.host, segment = excluded.segment, "offset" = excluded."offset",
        complete_until = excluded.complete_until, updated_at = excluded.updated_at, closed_at = excluded.closed_at,
        read_until = greatest(held.read_until, excluded.read_until),
        ended_number = greatest(held.ended_number, excluded.ended_number)
"""
