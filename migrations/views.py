"""Views that auditors read: every one a security barrier, owned by the schema's owner, with a comment on each column.

A column is (name, SQL, comment): none can be made without saying what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

AUDITOR = "weighbridge_auditor"
_FROM = "\n   FROM "
"""How PostgreSQL writes the outermost FROM of a view: those of its subqueries are further in."""

ViewColumn = tuple[str, str, str]


def make_view(name: str, comment: str, columns: Sequence[ViewColumn], source: str) -> None:
    """Create a view and let the auditor read it; `source` begins with FROM."""
    chosen = ",\n    ".join(f'{sql} AS "{column}"' for column, sql, _ in columns)
    run(f"CREATE VIEW {name} WITH (security_barrier) AS SELECT\n    {chosen}\n{source}")
    run(f"COMMENT ON VIEW {name} IS {quoted(comment)}")
    for column, _, holds in columns:
        run(f'COMMENT ON COLUMN {name}."{column}" IS {quoted(holds)}')
    run(f"GRANT SELECT ON {name} TO {AUDITOR}")


def append_columns(name: str, columns: Sequence[ViewColumn]) -> None:
    """Add columns at the end of a view; all that is there stays, with its comments and grants."""
    added = "".join(f',\n    {sql} AS "{column}"' for column, sql, _ in columns)
    before, source = _definition(name)
    run(f"CREATE OR REPLACE VIEW {name} WITH (security_barrier) AS {before}{added}{_FROM}{source}")
    for column, _, holds in columns:
        run(f'COMMENT ON COLUMN {name}."{column}" IS {quoted(holds)}')


def remove_columns(name: str, columns: Sequence[ViewColumn]) -> None:
    """Take out what `append_columns` added: make the view again, with its comments."""
    before, source = _definition(name)
    for _, sql, _ in columns:
        before = before.replace(f",\n    {sql}", "")
    asked = op.get_bind().exec_driver_sql(
        "SELECT a.attname, col_description(a.attrelid, a.attnum), obj_description(a.attrelid) FROM pg_attribute a"  # noqa: S608
        f" WHERE a.attrelid = {quoted(name)}::regclass AND a.attnum > 0"
    )
    told = [each for each in asked.all() if each[0] not in {column for column, _, _ in columns}]
    run(f"DROP VIEW {name}")
    run(f"CREATE VIEW {name} WITH (security_barrier) AS {before}{_FROM}{source}")
    run(f"COMMENT ON VIEW {name} IS {quoted(told[0][2])}")
    for column, holds, _ in told:
        run(f'COMMENT ON COLUMN {name}."{column}" IS {quoted(holds)}')
    run(f"GRANT SELECT ON {name} TO {AUDITOR}")


def _definition(name: str) -> tuple[str, str]:
    """A view's columns and its source, as the database has them."""
    text: str = op.get_bind().exec_driver_sql(f"SELECT pg_get_viewdef({quoted(name)}::regclass)").scalar_one()
    before, _, source = text.strip().removesuffix(";").partition(_FROM)
    return before, source


def run(statement: str) -> None:
    """Execute a statement letter by letter: no colon in it is taken for a parameter."""
    op.get_bind().exec_driver_sql(statement)


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
