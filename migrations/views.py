"""Views that auditors read: every one a security barrier, owned by the schema's owner, with a comment on each column.

A column is (name, SQL, comment): none can be made without saying what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

AUDITOR = "weighbridge_auditor"

ViewColumn = tuple[str, str, str]


def make_view(name: str, comment: str, columns: Sequence[ViewColumn], source: str) -> None:
    """Create a view and let the auditor read it; `source` begins with FROM."""
    chosen = ",\n    ".join(f'{sql} AS "{column}"' for column, sql, _ in columns)
    run(f"CREATE VIEW {name} WITH (security_barrier) AS SELECT\n    {chosen}\n{source}")
    run(f"COMMENT ON VIEW {name} IS {quoted(comment)}")
    for column, _, holds in columns:
        run(f'COMMENT ON COLUMN {name}."{column}" IS {quoted(holds)}')
    run(f"GRANT SELECT ON {name} TO {AUDITOR}")


def run(statement: str) -> None:
    """Execute a statement letter by letter: no colon in it is taken for a parameter."""
    op.get_bind().exec_driver_sql(statement)


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
