"""Ledger = attempts = roll-ups = balances, exactly, in one snapshot of the database; and what was dropped against its
closing records.

Rows and their sums change in one transaction, so that any snapshot must agree, however busy the drainer is.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg

from gateway.store.tables.sums import SUMS, SUMS_KEY
from gateway.verify.findings import MOST_NAMED, Check

_CLASSES = ("fresh_input", "cache_read", "cache_write", "output", "reasoning", "cost_nano_usd")
_KEY = ", ".join(SUMS_KEY)
_SUMS = ", ".join(SUMS)
_APART = timedelta(seconds=2)
"""How far the clocks that number and time the spools' records may be apart."""

_ATTEMPTS = f"""
    WITH made AS (
        SELECT request_id, count(*) FILTER (WHERE outcome NOT IN ('excluded', 'cached')) AS attempts, min(admitted_at) AS first, max(admitted_at) AS last,
            {", ".join(f"coalesce(sum({each}) FILTER (WHERE borne), 0) AS {each}" for each in _CLASSES)}
        FROM gateway.attempts GROUP BY request_id
    )
    SELECT coalesce(request.request_id, made.request_id)::text AS id, request.request_id IS NULL AS alone,
        {", ".join(f"request.{each} AS told_{each}, coalesce(made.{each}, 0)::int8 AS {each}" for each in ("attempts", *_CLASSES))},
        made.first IS NOT NULL AND (made.first <> request.admitted_at OR made.last <> request.admitted_at) AS elsewhen,
        count(*) OVER () AS wrong
    FROM gateway.requests AS request FULL JOIN made USING (request_id)
    WHERE request.request_id IS NULL OR made.first <> request.admitted_at OR made.last <> request.admitted_at
        OR ({", ".join(f"request.{each}" for each in ("attempts", *_CLASSES))})
           IS DISTINCT FROM ({", ".join(f"coalesce(made.{each}, 0)" for each in ("attempts", *_CLASSES))})
    ORDER BY 1 LIMIT {MOST_NAMED}
"""  # noqa: S608 - made of this module's own names

_CHARGES = f"""
    SELECT request_id::text AS id, charge ->> 'metric' AS metric, charge ->> 'limit' AS limited,
        (charge ->> 'actual')::int8 AS told, expected, count(*) OVER () AS wrong
    FROM gateway.requests, jsonb_array_elements(charges) AS charge, LATERAL (SELECT CASE charge ->> 'metric'
        WHEN 'money' THEN cost_nano_usd WHEN 'input_tokens' THEN prompt_tokens WHEN 'output_tokens' THEN completion_tokens
        WHEN 'total_tokens' THEN prompt_tokens + completion_tokens END AS expected) AS right_one
    WHERE expected IS NOT NULL AND (charge ->> 'actual')::int8 <> expected
    ORDER BY 1 LIMIT {MOST_NAMED}
"""  # noqa: S608 - as above

_ROWS = f"""
    SELECT date_trunc('hour', admitted_at, 'UTC') AS period, principal_id, coalesce(key_id, '') AS key_id,
        coalesce(group_id, '') AS group_id, endpoint_id, coalesce(entity_id, '') AS entity_id, api, status,
        count(*) AS requests, sum(attempts) AS attempts, count(*) FILTER (WHERE stream) AS streams,
        count(*) FILTER (WHERE cache_hit) AS cache_hits,
        count(*) FILTER (WHERE usage_source IN ('counted', 'estimated')) AS not_reported,
        sum(fresh_input) AS fresh_input, sum(cache_read) AS cache_read, sum(cache_write) AS cache_write,
        sum(output) AS output, sum(reasoning) AS reasoning, sum(cost_nano_usd) AS cost_nano_usd,
        sum(duration_us) AS duration_us, sum(queue_us) AS queue_us, count(first_byte_us) AS first_bytes,
        coalesce(sum(first_byte_us), 0) AS first_byte_us
    FROM gateway.requests GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    UNION ALL SELECT {_KEY}, {_SUMS} FROM gateway.closed_usage
"""  # noqa: S608 - as above


def _sums(table: str, unit: str) -> str:
    truth = ", ".join(f"sum({each})::int8 AS {each}" for each in SUMS)
    day = f"date_trunc('{unit}', period, 'UTC') AS period, {', '.join(SUMS_KEY[1:])}"
    return f"""
        WITH truth AS (SELECT {day}, {truth} FROM ({_ROWS}) AS rows GROUP BY 1, 2, 3, 4, 5, 6, 7, 8)
        SELECT {_KEY}, truth.requests IS NULL AS unknown, told.requests IS NULL AS missing,
            {", ".join(f"truth.{each} AS truth_{each}, told.{each} AS told_{each}" for each in SUMS)}, count(*) OVER () AS wrong
        FROM truth FULL JOIN gateway.{table} AS told USING ({_KEY})
        WHERE ({", ".join(f"truth.{each}" for each in SUMS)}) IS DISTINCT FROM ({", ".join(f"told.{each}" for each in SUMS)})
        ORDER BY period LIMIT {MOST_NAMED}
    """  # noqa: S608 - as above


_BALANCES = f"""
    WITH rows AS (
        SELECT charge ->> 'limit' AS limit_id, charge ->> 'subject' AS subject,
            to_timestamp((charge ->> 'period_ms')::int8 / 1000.0::float8) AS period, 1 AS requests, (charge ->> 'actual')::int8 AS nano_usd
        FROM gateway.requests, jsonb_array_elements(charges) AS charge
        WHERE charge ->> 'metric' = 'money' AND charge ? 'period_ms'
        UNION ALL SELECT limit_id, subject, period, requests, nano_usd FROM gateway.closed_balances
    ), truth AS (SELECT limit_id, subject, period, sum(requests)::int8 AS requests, sum(nano_usd)::int8 AS nano_usd FROM rows GROUP BY 1, 2, 3)
    SELECT limit_id, subject, period, truth.requests, truth.nano_usd, told.requests AS told_requests, told.nano_usd AS told_nano_usd,
        count(*) OVER () AS wrong
    FROM truth FULL JOIN gateway.balances AS told USING (limit_id, subject, period)
    WHERE (truth.requests, truth.nano_usd) IS DISTINCT FROM (told.requests, told.nano_usd)
    ORDER BY limit_id, subject, period LIMIT {MOST_NAMED}
"""  # noqa: S608 - as above

_SPOOLS = """
    WITH numbers AS (
        SELECT worker_id, begun_number AS number FROM gateway.requests WHERE begun_number IS NOT NULL
        UNION ALL SELECT worker_id, ended_number FROM gateway.requests WHERE ended_number IS NOT NULL
        UNION ALL SELECT worker_id, begun_number FROM gateway.resumed_requests WHERE begun_number IS NOT NULL
    ), closed AS (SELECT worker_id, sum(records) AS records FROM gateway.closed_spools GROUP BY 1)
    SELECT worker_id, count(*) AS found, max(number) AS highest, coalesce(max(closed.records), 0)::int8 AS closed
    FROM numbers LEFT JOIN closed USING (worker_id) GROUP BY 1
"""
_GAPS = """
    WITH numbers AS (
        SELECT begun_number AS number, admitted_at AS at, request_id FROM gateway.requests WHERE worker_id = $1 AND begun_number IS NOT NULL
        UNION ALL SELECT ended_number, ended_at, request_id FROM gateway.requests WHERE worker_id = $1 AND ended_number IS NOT NULL
        UNION ALL SELECT begun_number, NULL, request_id FROM gateway.resumed_requests WHERE worker_id = $1 AND begun_number IS NOT NULL
    ), ordered AS (
        SELECT number, at, request_id::text AS id, lag(number, 1, 0::int8) OVER (ORDER BY number) AS before FROM numbers
    )
    SELECT before + 1 AS first, number - 1 AS last, id, at FROM ordered WHERE number > before + 1 AND at < $2 ORDER BY number
"""

_CLOSINGS = """
    SELECT closing.week::text AS week, to_jsonb(closing) - 'closed_at'
            || jsonb_build_object('digests', gateway.closing_digests(closing.week)) AS told,
        (SELECT count(*) FROM gateway.requests WHERE request_id >= closing.low AND request_id < closing.high) AS rows,
        (SELECT (coalesce(sum(requests), 0), coalesce(sum(cost_nano_usd), 0),
                 coalesce(sum(fresh_input + cache_read + cache_write), 0), coalesce(sum(output + reasoning), 0))
             = (closing.requests, closing.cost_nano_usd, closing.prompt_tokens, closing.completion_tokens)
         FROM gateway.closed_usage WHERE closed_usage.week = closing.week) AS sums_fit
    FROM gateway.ledger_closings AS closing ORDER BY 1
"""
_CLOSING_RECORDS = """
    SELECT DISTINCT ON (object_id) object_id AS week, number, after
    FROM gateway.audit_entries LEFT JOIN gateway.audit_contents USING (number)
    WHERE object_kind = 'ledger_week' AND action = 'ledger.close' ORDER BY object_id, number DESC
"""


async def check_books(connection: asyncpg.Connection, watermark: datetime) -> list[Check]:
    """All checks of the ledger, in the caller's snapshot."""
    rows = await connection.fetchval("SELECT count(*) FROM gateway.requests") or 0
    return [
        await _attempts(connection, rows),
        await _charges(connection, rows),
        await _rolled_up(connection, "usage_hour", "hour", "Hours = ledger"),
        await _rolled_up(connection, "usage_day", "day", "Days = ledger"),
        await _balances(connection),
        await _spools(connection, watermark),
        await _closings(connection),
    ]


async def _attempts(connection: asyncpg.Connection, rows: int) -> Check:
    check = Check("attempts", "Ledger = attempts", rows)
    for row in await connection.fetch(_ATTEMPTS):
        where = f"request {row['id']}"
        if row["alone"]:
            check.found(where, "has attempts and no row in the ledger")
        elif row["elsewhen"]:
            check.found(where, "has attempts of another admission than its own")
        else:
            wrong = [each for each in ("attempts", *_CLASSES) if row[f"told_{each}"] != row[each]]
            check.found(where, _apart(wrong, row, "told_", "", "its attempts say"))
        _count_more(check, row)
    return check


async def _charges(connection: asyncpg.Connection, rows: int) -> Check:
    check = Check("charges", "Charges = ledger", rows)
    for row in await connection.fetch(_CHARGES):
        what = f"{row['metric']} of limit {row['limited']} was charged {row['told']:,}, the row says {row['expected']:,}"
        check.found(f"request {row['id']}", what)
        _count_more(check, row)
    return check


async def _rolled_up(connection: asyncpg.Connection, table: str, unit: str, title: str) -> Check:
    looked = await connection.fetchval(f"SELECT count(*) FROM gateway.{table}") or 0  # noqa: S608 - own name
    check = Check(table, title, looked)
    for row in await connection.fetch(_sums(table, unit)):
        key = ", ".join(f"{name} {row[name]}" for name in SUMS_KEY[1:] if row[name])
        where = f"{unit} {row['period']:%Y-%m-%d %H:%M}Z, {key}"
        if row["missing"]:
            check.found(where, f"has no sum; the ledger has {row['truth_requests']:,} requests")
        elif row["unknown"]:
            check.found(where, f"sums {row['told_requests']:,} requests; the ledger has none")
        else:
            wrong = [each for each in SUMS if row[f"told_{each}"] != row[f"truth_{each}"]]
            check.found(where, _apart(wrong, row, "told_", "truth_", "the ledger says"))
        _count_more(check, row)
    return check


async def _balances(connection: asyncpg.Connection) -> Check:
    looked = await connection.fetchval("SELECT count(*) FROM gateway.balances") or 0
    check = Check("balances", "Balances = ledger", looked)
    for row in await connection.fetch(_BALANCES):
        subject = f" of {row['subject']}" if row["subject"] else ""
        told = [row[name] or 0 for name in ("told_requests", "told_nano_usd", "requests", "nano_usd")]
        check.found(
            f"budget {row['limit_id']}{subject}, period from {row['period']:%Y-%m-%d %H:%M}Z",
            f"is {told[1]:,} nano-dollars over {told[0]:,} requests, the ledger says {told[3]:,} over {told[2]:,}",
        )
        _count_more(check, row)
    return check


async def _spools(connection: asyncpg.Connection, watermark: datetime) -> Check:
    check = Check("spools", "Spools' records are all there")
    for row in await connection.fetch(_SPOOLS):
        check.looked_at += row["found"]
        if row["found"] + row["closed"] >= row["highest"]:
            continue
        # What dropped weeks held is gone from the front, and known by its count.
        held = row["closed"]
        for gap in await connection.fetch(_GAPS, row["worker_id"], watermark - _APART):
            missing = gap["last"] - gap["first"] + 1
            held, missing = max(0, held - missing), missing - min(held, missing)
            if missing:
                numbers = (
                    str(gap["first"]) if missing == 1 else f"{missing} from {gap['first']} to {gap['last']}"
                )
                check.found(
                    f"spool {row['worker_id']}",
                    f"record {numbers} is in no row of the ledger; the next one is of request {gap['id']}, {gap['at']:%Y-%m-%d %H:%M:%S}Z",
                )
    return check


async def _closings(connection: asyncpg.Connection) -> Check:
    check = Check("closings", "Dropped weeks = closing records")
    records = {row["week"]: row for row in await connection.fetch(_CLOSING_RECORDS)}
    for row in await connection.fetch(_CLOSINGS):
        check.looked_at += 1
        where = f"week {row['week']}"
        record = records.pop(row["week"], None)
        if record is None:
            check.found(where, "was dropped and the audit has no closing record of it")
        elif record["after"] is None:
            check.found(where, f"has a closing record, entry {record['number']}, whose contents were erased")
        elif record["after"] != row["told"]:
            check.found(
                where,
                f"differs from its closing record, entry {record['number']}: {_differing(record['after'], row['told'])}",
            )
        if row["rows"]:
            check.found(where, f"was dropped and has {row['rows']:,} requests again")
        if not row["sums_fit"]:
            check.found(where, "its sums by hour are not those of the rows that it held")
    for week, record in records.items():
        check.found(
            f"week {week}",
            f"has a closing record, entry {record['number']}, and is not among the dropped ones",
        )
    return check


def _apart(names: list[str], row: Any, told: str, truth: str, who: str) -> str:
    return "; ".join(f"{name} is {row[told + name]:,}, {who} {row[truth + name]:,}" for name in names)


def _differing(record: Any, told: Any) -> str:
    names = sorted(name for name in record.keys() | told.keys() if record.get(name) != told.get(name))
    return ", ".join(names)


def _count_more(check: Check, row: Any) -> None:
    """A statement names the first few and counts all."""
    check.more = max(check.more, row["wrong"] - MOST_NAMED)
