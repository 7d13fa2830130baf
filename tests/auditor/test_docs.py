"""docs/sql.md says of every view, column and report what the database and the package say of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import asyncpg

from gateway.reports.catalogue import reports

DOCUMENT = Path(__file__).parents[2] / "docs" / "sql.md"
COLUMNS = """
SELECT n.nspname || '.' || c.relname AS view, obj_description(c.oid) AS holds, a.attname AS column,
       format_type(a.atttypid, a.atttypmod) AS type, col_description(c.oid, a.attnum) AS meaning
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE n.nspname IN ('serving', 'access', 'billing') AND c.relkind = 'v' ORDER BY n.nspname, c.relname, a.attnum
"""


def told(text: str) -> str:
    return text.replace("|", "\\|")


def views_text(rows: list[asyncpg.Record]) -> str:
    lines: list[str] = []
    view = ""
    for row in rows:
        if row["view"] != view:
            view = row["view"]
            lines += ["", f"### {view}", "", told(row["holds"]), "", "| column | type | |", "|---|---|---|"]
        lines.append(f"| `{row['column']}` | {row['type']} | {told(row['meaning'])} |")
    return "\n".join(lines[1:])


def reports_text() -> str:
    return "| report | |\n|---|---|\n" + "\n".join(
        f"| `{name}` | {told(each.title)}{'' if 'group' in each.parameters else ' (without `--group`)'} |"
        for name, each in reports().items()
    )


def replaced(text: str, part: str, content: str) -> str:
    found = re.sub(
        rf"(<!-- {part}:[^>]*-->\n).*?(<!-- end of {part} -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    assert f"<!-- end of {part} -->" in found
    return found


async def test_the_page_is_what_the_database_says(owner: asyncpg.Connection) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = replaced(text, "views", views_text(await owner.fetch(COLUMNS)))
    wanted = replaced(wanted, "reports", reports_text())
    if wanted != text and not os.environ.get("CI"):
        DOCUMENT.write_text(wanted, encoding="utf-8")
    assert wanted == text, "docs/sql.md was behind; it has been written anew: read it and commit it"
