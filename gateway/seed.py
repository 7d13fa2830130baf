"""What a first start creates: an administrator, the user `demo`, the demo endpoint with its price, and their keys.

It may run any number of times: what is there is left as it is, what is missing is added, and a key file that is
lost or damaged gets a new key, which is said.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncEngine

from engines.local.launch import EMBEDDER_NAME
from gateway.security.keys import Peppers, matches, parse
from gateway.security.secrets import Purpose, load_master_key, write_private
from gateway.settings import Settings
from gateway.store import database
from gateway.store.ai_query import CALLER
from gateway.store.api_keys import NewKey, create_key, revoke_key
from gateway.store.changes import Actor, Change, Configuration
from gateway.store.endpoints import EntitySpec, add_price, create_endpoint, grant
from gateway.store.principals import add_member, create_group, create_principal
from gateway.store.reading import Row, translated
from gateway.store.roles import set_roles
from gateway.store.rules import create_limit
from gateway.store.sql_roles import map_role
from gateway.store.tables.catalog import endpoints, served_entities
from gateway.store.tables.identity import api_keys, groups, principals
from gateway.store.tables.versioned import configuration_change

ENDPOINT = "databricks-mixtral-8x7b-instruct"
ENTITY = "mixtral-demo"
SQL_ENDPOINT = "mixtral-demo-sql"
"""The adapter that ships, and the endpoint that it answers for."""
_DESCRIPTION = (
    "The local engine: a small Mixtral-architecture demonstration model, or what serves in its place."
)
_SQL_DESCRIPTION = (
    "The demonstration model with an adapter that answers in SQL for this gateway's own tables."
)
_EMBEDDER_DESCRIPTION = "Texts as vectors of 384 numbers: all-MiniLM-L6-v2, served by the local engine."
GROUP = "demo-users"
_ACTOR = Actor(None, "first start")
_KEY_NAME = "first start"
_MILLIONTH = 1_000
"""Nano-dollars in a millionth of a dollar."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Seeded:
    """Where the seed left its files."""

    admin_key_file: Path
    demo_key_file: Path
    env_file: Path


async def seed(settings: Settings, database_url: str, say: Say = lambda _: None) -> Seeded:
    """Create what is missing in the migrated database at `database_url`, as the application's role."""
    engine = database.engine(database_url, application_name="weighbridge-seed", size=0)
    files = Seeded(settings.home / "admin.key", settings.home / "demo.key", settings.home / "env")
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        # Made only beside a database that is ours and new: another key would make every key and audit entry worthless.
        ours = settings.embedded or (settings.home / "postgres").exists()
        master = load_master_key(settings.secret_file, create=ours and await _is_empty(engine))
        peppers = Peppers(master.derive_all(Purpose.API_KEY_PEPPER))
        configuration = Configuration(engine, master.derive(Purpose.AUDIT_CHAIN))
        async with configuration.change(_ACTOR, "first start") as change:
            # On a later start only keys are looked after: what an administrator deleted stays deleted.
            if change.number == 1:
                await _create_all(change)
            if settings.embedder_url is not None and await _never_was(change, EMBEDDER_NAME):
                await _create_embedder(change)
            for name, path in (("admin", files.admin_key_file), ("demo", files.demo_key_file)):
                await _key_for(change, peppers, name, path, say)
    finally:
        await engine.dispose()
    _write_env(settings, files)
    return files


async def _is_empty(engine: AsyncEngine) -> bool:
    with translated():
        async with engine.connect() as connection:
            return (await connection.execute(select(configuration_change).limit(1))).first() is None


async def _create_all(change: Change) -> None:
    admin = await create_principal(
        change, "user", {"name": "admin", "display_name": "Administrator of this deployment"}
    )
    await set_roles(change, admin, "user", frozenset({"admin"}))
    demo = await create_principal(change, "user", {"name": "demo", "display_name": "Demonstration user"})
    group = await create_group(change, GROUP, "May query the demonstration endpoint.")
    await add_member(change, group, "user", demo["id"])
    # $0.50 and $1.00 per million tokens; an adapter costs a fifth more.
    for name, model, description, percent in (
        (ENDPOINT, ENTITY, _DESCRIPTION, 100),
        (SQL_ENDPOINT, SQL_ENDPOINT, _SQL_DESCRIPTION, 120),
    ):
        endpoint = await create_endpoint(
            change,
            {"name": name, "task": "llm/v1/chat", "description": description},
            [EntitySpec(name=model, kind="local", provider="vllm", model=model)],
        )
        entity = await _named(change, served_entities, model)
        assert entity is not None
        read, written = 5_000 * _MILLIONTH * percent, 10_000 * _MILLIONTH * percent
        await add_price(
            change,
            entity["id"],
            {
                "input": read,
                "cache_read": read,
                "cache_write": read,
                "output": written,
                "reasoning": written,
                "note": "Price of the demonstration.",
            },
        )
        await grant(change, endpoint, "user", demo["id"], "CAN_QUERY")
        await grant(change, endpoint, "group", group["id"], "CAN_VIEW")
    # In the embedded database the role `demo` calls as the user `demo`; elsewhere there is no such role.
    await map_role(change, CALLER, "demo", demo["id"])
    minute = {"window_kind": "rolling", "window_ms": 60_000}
    for metric, amount, window in (
        ("requests", 600, minute),
        ("total_tokens", 200_000, minute),
        ("concurrent_requests", 32, {"window_kind": "none"}),
    ):
        await create_limit(
            change,
            {"scope": "user", "subject_id": demo["id"], "metric": metric, "amount": amount, **window},
        )


async def _create_embedder(change: Change) -> None:
    """The endpoint of the embedding model, for those who may query the demonstration; $0.02 per million tokens."""
    endpoint = await create_endpoint(
        change,
        {"name": EMBEDDER_NAME, "task": "llm/v1/embeddings", "description": _EMBEDDER_DESCRIPTION},
        [EntitySpec(name=EMBEDDER_NAME, kind="local", provider="vllm", model=EMBEDDER_NAME)],
    )
    entity = await _named(change, served_entities, EMBEDDER_NAME)
    assert entity is not None
    read = 20_000 * _MILLIONTH
    classes = {"input": read, "cache_read": read, "cache_write": read, "output": 0, "reasoning": 0}
    await add_price(change, entity["id"], {**classes, "note": "Price of the demonstration."})
    # Whom an administrator deleted nothing is granted to.
    if (demo := await _named(change, principals, "demo")) is not None:
        await grant(change, endpoint, "user", demo["id"], "CAN_QUERY")
    if (group := await _named(change, groups, GROUP)) is not None:
        await grant(change, endpoint, "group", group["id"], "CAN_VIEW")


async def _never_was(change: Change, name: str) -> bool:
    """Whether no endpoint ever had that name: what an administrator deleted stays deleted."""
    found = await change.connection.execute(select(endpoints.c.id).where(endpoints.c.name == name).limit(1))
    return found.first() is None


async def _key_for(change: Change, peppers: Peppers, name: str, path: Path, say: Say) -> None:
    """Leave a working key of the principal in the file; a new one where there is none that works."""
    owner = await _named(change, principals, name)
    if owner is None:
        return
    content = _read(path)
    id_part = None if content is None else parse(content)
    if content is not None and id_part is not None:
        found = await change.rows(api_keys, api_keys.c.id_part == id_part)
        if found and _holds(change, found[0], owner, content, peppers):
            _keep_private(path)
            return
    for old in await change.rows(
        api_keys, api_keys.c.principal_id == owner["id"], api_keys.c.name == _KEY_NAME
    ):
        # The lost key may be in other hands by now.
        await revoke_key(change, old)
    _, text = await create_key(change, peppers, NewKey(owner["id"], name=_KEY_NAME))
    write_private(path, text + "\n")
    if content is not None or change.number > 1:
        say(f"The key in {path} was missing or no longer valid: a new one was made, the old one is revoked.")


def _holds(change: Change, row: Row, owner: Row, text: str, peppers: Peppers) -> bool:
    return (
        row["principal_id"] == owner["id"]
        and row["revoked_at"] is None
        and (row["expires_at"] is None or row["expires_at"] > change.at)
        and matches(text, row["digest"], row["pepper_version"], peppers)
    )


async def _named(change: Change, table: Table, name: str) -> Row | None:
    found: list[Any] = await change.rows(table, table.c.name == name)
    return found[0] if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _keep_private(path: Path) -> None:
    path.chmod(0o600)


def _write_env(settings: Settings, files: Seeded) -> None:
    demo = _read(files.demo_key_file)
    if demo is None:
        return
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    lines = {
        "DATABRICKS_HOST": base,
        "DATABRICKS_TOKEN": demo,
        "OPENAI_BASE_URL": f"{base}/v1",
        "OPENAI_API_KEY": demo,
        "ANTHROPIC_BASE_URL": base,
        "ANTHROPIC_AUTH_TOKEN": demo,
    }
    text = "".join(f"export {name}={value}\n" for name, value in lines.items())
    content = f"# Source this to point clients here as the user `demo`: . {files.env_file.name}\n{text}"
    if _read(files.env_file) != content.strip() or stat.S_IMODE(files.env_file.stat().st_mode) != 0o600:
        write_private(files.env_file, content)


__all__ = ["ENDPOINT", "ENTITY", "Seeded", "seed"]
