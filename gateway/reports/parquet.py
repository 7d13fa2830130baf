"""Answers as Parquet, by arro3: money as decimals, times to the microsecond in UTC, everything as exact as it was read.

The library comes with the extra `parquet`; without it, CSV and JSON still work.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.reports.reading import Column
from gateway.reports.writing import plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_WHOLE = frozenset({"int2", "int4", "int8"})


class NoParquet(RuntimeError):
    """The library that writes Parquet is not installed; the text says how to get it."""


class ParquetFile:
    """Rows gathered as columns, part by part, and written at once."""

    def __init__(self, columns: Sequence[Column], metadata: dict[str, str] | None = None) -> None:
        """Raises NoParquet."""
        try:
            from arro3.core import DataType, Field, Schema
        except ImportError as error:
            raise NoParquet(
                "Parquet needs one more package: pip install 'weighbridge[parquet]'; or take --format csv."
            ) from error
        self._columns = tuple(columns)
        self._kinds: Any = DataType
        self._schema = Schema(
            [Field(column.name, self._type(column)) for column in columns],
            metadata=dict(metadata or {}),
        )
        self._batches: list[Any] = []
        self.rows = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take rows."""
        from arro3.core import RecordBatch

        if rows:
            arrays = [
                self._array(column, values)
                for column, values in zip(self._columns, zip(*rows, strict=True), strict=True)
            ]
            self._batches.append(RecordBatch.from_arrays(arrays, schema=self._schema))
            self.rows += len(rows)

    def write(self, path: Path) -> None:
        """Write what was taken."""
        from arro3.core import RecordBatchReader
        from arro3.io import write_parquet

        with path.open("wb") as file:
            write_parquet(
                RecordBatchReader.from_batches(self._schema, self._batches), file, compression="zstd(3)"
            )

    def _type(self, column: Column) -> Any:
        kinds = self._kinds
        match column.kind:
            case kind if kind in _WHOLE:
                return kinds.int64()
            case "numeric":
                return kinds.decimal128(38, 0 if column.name.endswith("nano_usd") else 9)
            case "float4" | "float8":
                return kinds.float64()
            case "bool":
                return kinds.bool()
            case "date":
                return kinds.date32()
            case "timestamptz":
                return kinds.timestamp("us", tz="UTC")
            case _:
                return kinds.string()

    def _array(self, column: Column, values: Sequence[Any]) -> Any:
        from arro3.core import Array

        kinds, wanted = self._kinds, self._type(column)
        match column.kind:
            case "date":
                given, kind = [None if each is None else (each - _DAY).days for each in values], kinds.int32()
            case "timestamptz":
                given = [None if each is None else (each - _EPOCH) // _MICROSECOND for each in values]
                kind = kinds.int64()
            case kind_name if kind_name in _WHOLE or kind_name in ("float4", "float8", "bool"):
                given, kind = list(values), wanted
            case _:
                given = [None if each is None else plain(each) for each in values]
                kind = kinds.string()
        made = Array(given, type=kind)
        return made if kind == wanted else made.cast(wanted)
