"""`weighbridge sql`: the database without psql, for reading; a prompt, or one statement with `-c`.

Every statement is run as it is written, read-only unless the owner or `demo` asks; nothing is kept of it but the
prompt's own history, which is private.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg

from gateway.cli.reach import CannotReach, database_url, owner_url, role_url
from gateway.reports.drawing import safe
from gateway.reports.reading import AUDITOR
from gateway.reports.writing import plain
from gateway.settings import Settings
from gateway.store.migrate import PAYLOADS_ROLE

APPLICATION = "weighbridge_app"
_WIDEST = 80
_HELP = "End a statement with ; to run it. \\d lists what can be read, \\d NAME says what its columns hold, \\q or Ctrl-D leaves."
_TABLES = """
SELECT schemaname AS schema, relname AS name, obj_description(relid) AS holds
  FROM (SELECT n.nspname AS schemaname, c.relname, c.oid AS relid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'v', 'm', 'p') AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema)'
           AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) AS readable
UNION ALL
SELECT n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', obj_description(p.oid)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname IN ('serving', 'access', 'billing', 'payloads') AND has_schema_privilege(n.oid, 'USAGE')
   AND has_function_privilege(p.oid, 'EXECUTE')
 ORDER BY 1, 2
"""
_COLUMNS = """
SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, col_description(a.attrelid, a.attnum) AS holds
  FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


def run(settings: Settings, who: str | None, command: str | None) -> int:
    """The exit status: 0, or 1 where a statement given with `-c` failed."""
    return asyncio.run(_run(settings, who, command))


async def _run(settings: Settings, who: str | None, command: str | None) -> int:
    connection, role = await _connect(settings, who)
    try:
        if command is not None:
            return 0 if await _execute(connection, command) else 1
        await _prompt(connection, role, settings.home / "run" / "sql.history")
    finally:
        with suppress(OSError, TimeoutError, asyncpg.InterfaceError):
            await connection.close(timeout=2)
    return 0


async def _connect(settings: Settings, who: str | None) -> tuple[asyncpg.Connection, str]:
    roles = {
        "auditor": [AUDITOR],
        "demo": ["demo"],
        "payloads": [PAYLOADS_ROLE],
        "app": [APPLICATION],
        "owner": ["owner"],
    }
    problem = ""
    for role in [AUDITOR, APPLICATION] if who is None else roles[who]:
        url = owner_url(settings) if role == "owner" else _as(settings, role)
        writing = role in ("owner", "demo")
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                url,
                timeout=5,
                server_settings={
                    "application_name": "weighbridge-sql",
                    "default_transaction_read_only": "off" if writing else "on",
                    "statement_timeout": "60s",
                },
            )
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError) as exc:
            problem = str(exc)
        except (OSError, TimeoutError, asyncpg.PostgresError) as exc:
            raise CannotReach(f"The database cannot be reached: {exc}") from exc
        else:
            return connection, role
    raise CannotReach(f"The database does not let this role in: {problem}")


def _as(settings: Settings, role: str) -> str:
    return database_url(settings, role) if role == APPLICATION else role_url(settings, role)


async def _prompt(connection: asyncpg.Connection, role: str, history: Path) -> None:
    if sys.stdin.isatty():
        print(f"Connected as {role}. {_HELP}")
    reading = _history(history)
    waiting: list[str] = []
    while True:
        try:
            line = await asyncio.to_thread(
                input, "" if not sys.stdin.isatty() else ("... " if waiting else "sql> ")
            )
        except EOFError:
            break
        except KeyboardInterrupt:
            waiting.clear()
            print()
            continue
        if not waiting and line.strip() in ("\\q", "quit", "exit"):
            break
        if not waiting and line.strip().startswith("\\"):
            await _described(connection, line.split())
            continue
        waiting.append(line)
        if line.rstrip().endswith(";"):
            await _execute(connection, "\n".join(waiting))
            waiting.clear()
    if any(line.strip() for line in waiting):
        await _execute(connection, "\n".join(waiting))
    if reading is not None:
        _keep(reading, history)


async def _described(connection: asyncpg.Connection, words: list[str]) -> None:
    if words[0] not in ("\\d", "\\dt"):
        print(_HELP)
    elif len(words) == 1:
        await _execute(connection, _TABLES)
    else:
        name = words[1].rstrip(";")
        if await _execute(connection, _COLUMNS, name):
            print(await connection.fetchval("SELECT obj_description($1::regclass)", name) or "")


async def _execute(connection: asyncpg.Connection, statement: str, *values: Any) -> bool:
    try:
        prepared = await connection.prepare(statement.strip().rstrip(";"))
        found = await prepared.fetch(*values)
    except asyncpg.PostgresError as exc:
        print(f"{type(exc).__name__.removesuffix('Error')}: {exc}", file=sys.stderr)
        if exc.as_dict().get("hint"):
            print(f"Hint: {exc.as_dict()['hint']}", file=sys.stderr)
        return False
    columns = [each.name for each in prepared.get_attributes()]
    if not columns:
        print(prepared.get_statusmsg())
        return True
    if sys.stdout.isatty():
        _table(columns, found)
    else:
        print("\t".join(columns))
        for row in found:
            print("\t".join(_shown(value) for value in row))
    return True


def _table(columns: Sequence[str], found: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=False)
    for name in columns:
        table.add_column(Text(name), max_width=_WIDEST, overflow="fold")
    for row in found:
        table.add_row(*(Text(_shown(value)) for value in row))
    console = Console()
    console.print(table)
    console.print(f"{len(found)} row{'' if len(found) == 1 else 's'}")


def _shown(value: Any) -> str:
    text = value.hex() if isinstance(value, bytes) else plain(value)
    return "\n".join(map(safe, text.split("\n")))


def _history(path: Path) -> Any:
    try:
        import readline
    except ImportError:
        return None
    readline.set_history_length(1000)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(str(path))
    return readline


def _keep(reading: Any, path: Path) -> None:
    with suppress(OSError):
        reading.write_history_file(str(path))
        path.chmod(0o600)
