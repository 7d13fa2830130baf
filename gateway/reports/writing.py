"""Answers as CSV and JSON: money as exact text, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO

import msgspec

from gateway.reports.reading import Column

_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_JSON_KINDS = frozenset({"json", "jsonb"})
_encoder = msgspec.json.Encoder()


def write_csv(
    file: TextIO, columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, head: bool = True
) -> None:
    """Rows as CSV. A text that begins like a formula gets an apostrophe before it; nulls are empty."""
    writer = csv.writer(file, lineterminator="\n")
    if head:
        writer.writerow([column.name for column in columns])
    writer.writerows([_cell(value) for value in row] for row in rows)


def write_json(file: TextIO, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
    """Rows as an array of objects, one a line."""
    separator = "["
    for row in rows:
        told = {column.name: _value(column, value) for column, value in zip(columns, row, strict=True)}
        file.write(f"{separator}\n  {_encoder.encode(told).decode()}")
        separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def plain(value: Any) -> str:
    """A value as text: numbers whole, never with an exponent; times in UTC."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def _cell(value: Any) -> str:
    text = plain(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_RUN_BY_SPREADSHEETS) else text


def _value(column: Column, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if column.kind in _JSON_KINDS:
        return msgspec.Raw(value.encode())
    if isinstance(value, Decimal) and value == value.to_integral_value() and column.name.endswith("nano_usd"):
        return int(value)
    return plain(value)
