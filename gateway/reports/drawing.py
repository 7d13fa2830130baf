"""Answers drawn for people: a table with small bars on a terminal, plain lines anywhere else.

NO_COLOR takes the colours away, a terminal that cannot show blocks gets signs it can; no value moves the cursor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO

from gateway.reports.reading import Answer, Column
from gateway.reports.writing import plain

BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDEST, _NARROWEST = 48, 12
_NUMBERS = (int, float, Decimal)


def draw(
    answer: Answer, title: str, bar: str | None, out: TextIO, environ: Mapping[str, str] | None = None
) -> None:
    """Draw the answer; columns that repeat another in 1e-9 dollars are left to files."""
    shown = [place for place, column in enumerate(answer.columns) if not column.name.endswith("nano_usd")]
    columns = [answer.columns[place] for place in shown]
    rows = [[row[place] for place in shown] for row in answer.rows]
    cells = _cells(columns, rows)
    if not out.isatty():
        _lines(columns, cells, out)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    env = os.environ if environ is None else environ
    console = Console(file=out, no_color=bool(env.get("NO_COLOR")), highlight=False, _environ=env)
    widths = [
        min(_WIDEST, max([len(line[place]) for line in cells] + [len(column.name)]))
        for place, column in enumerate(columns)
    ]
    bars = _bars(columns, rows, bar, blocks=_shows_blocks(out))
    if sum(widths) + 3 * len(widths) + BAR_CELLS > console.width:
        # Where there is little room the numbers have it.
        bars = []
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for place, column in enumerate(columns):
        right = any(isinstance(row[place], _NUMBERS) and not isinstance(row[place], bool) for row in rows)
        table.add_column(
            Text(column.name.replace("_", " ")),
            justify="right" if right else "left",
            # A number is never cut; what is to be read may be folded.
            min_width=max((len(line[place]) for line in cells), default=1)
            if right
            else min(widths[place], _NARROWEST),
            max_width=_WIDEST,
            overflow="fold",
        )
    if bars:
        table.add_column("", no_wrap=True, min_width=BAR_CELLS)
    for place, line in enumerate(cells):
        table.add_row(*(Text(each) for each in line), *([Text(bars[place], "cyan")] if bars else []))
    console.print(table)
    console.print(Text(f"{len(rows)} row{'' if len(rows) == 1 else 's'}", "dim"))


def bar_of(share: float, *, blocks: bool = True) -> str:
    """A bar for a share between 0 and 1; what is more than nothing shows."""
    if not blocks:
        return "#" * (max(1, round(share * BAR_CELLS)) if share > 0 else 0)
    eighths = max(1, round(share * BAR_CELLS * 8)) if share > 0 else 0
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def safe(text: str) -> str:
    """A text on one line, without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _bars(
    columns: Sequence[Column], rows: Sequence[Sequence[Any]], bar: str | None, *, blocks: bool
) -> list[str]:
    names = [column.name for column in columns]
    if bar not in names:
        return []
    place = names.index(bar)
    values = [float(row[place] or 0) for row in rows]
    most = max(values, default=0.0)
    return [bar_of(max(0.0, value) / most, blocks=blocks) if most > 0 else "" for value in values]


def _cells(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    places = [
        _decimals([row[place] for row in rows]) if column.name.endswith("_usd") else None
        for place, column in enumerate(columns)
    ]
    return [[_cell(value, digits) for value, digits in zip(row, places, strict=True)] for row in rows]


def _decimals(values: Sequence[Any]) -> int:
    """As many digits as the largest amount of a column needs to say something."""
    most = max((abs(value) for value in values if isinstance(value, Decimal)), default=Decimal(0))
    return 2 if most >= 10 or most == 0 else 4 if most >= Decimal("0.1") else 9


def _cell(value: Any, digits: int | None) -> str:
    if isinstance(value, Decimal) and digits is not None:
        return f"{value:,.{digits}f}"
    if isinstance(value, bool):
        return plain(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, date):
        return value.isoformat()
    return safe(plain(value))


def _lines(columns: Sequence[Column], cells: Sequence[Sequence[str]], out: TextIO) -> None:
    """Columns as wide as they need, two spaces between: for pipes and files."""
    lines = [[column.name for column in columns], *cells]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        out.write(
            "  ".join(each.ljust(width) for each, width in zip(line, widths, strict=True)).rstrip() + "\n"
        )


def _shows_blocks(out: TextIO) -> bool:
    try:
        _EIGHTHS.encode(out.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
