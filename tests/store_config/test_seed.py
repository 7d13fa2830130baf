"""The first start's objects and files: made once, mended where lost, never forced back."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from engines.local.launch import EMBEDDER_NAME
from gateway.security.secrets import SecretError
from gateway.seed import Seeded, seed
from gateway.settings import Settings
from gateway.store import database
from gateway.store.changes import Actor, Configuration
from gateway.store.endpoints import delete_endpoint
from gateway.store.reading import rows
from gateway.store.tables.catalog import endpoints, grants
from gateway.store.tables.identity import api_keys
from gateway.store.tables.versioned import configuration_change


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"WEIGHBRIDGE_HOME": str(tmp_path / "a home"), "WEIGHBRIDGE_PORT": "9000"})


@pytest.fixture
async def fresh_url(postgres_server: Any, migrated_template: str) -> AsyncIterator[str]:
    await postgres_server.create_database("seeded", template=migrated_template)
    yield postgres_server.url(database="seeded")
    await postgres_server.drop_database("seeded")


async def _changes(url: str) -> int:
    engine = database.engine(url, size=0)
    async with engine.connect() as connection:
        found = (await connection.execute(select(configuration_change.c.number))).all()
    await engine.dispose()
    return len(found)


async def test_the_first_start_is_made_once_and_mended_where_it_was_lost(
    fresh_url: str, settings: Settings
) -> None:
    said: list[str] = []
    files: Seeded = await seed(settings, fresh_url, said.append)
    assert said == []
    for path in (files.admin_key_file, files.demo_key_file, files.env_file, settings.secret_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    demo = files.demo_key_file.read_text().strip()
    lines = dict(
        line.removeprefix("export ").split("=") for line in files.env_file.read_text().splitlines()[1:]
    )
    assert lines["DATABRICKS_HOST"] == "http://127.0.0.1:9000"
    assert lines["OPENAI_BASE_URL"] == "http://127.0.0.1:9000/v1"
    assert {lines["DATABRICKS_TOKEN"], lines["OPENAI_API_KEY"], lines["ANTHROPIC_AUTH_TOKEN"]} == {demo}

    before = files.admin_key_file.read_text(), demo
    assert await seed(settings, fresh_url, said.append) == files
    assert (files.admin_key_file.read_text(), files.demo_key_file.read_text().strip()) == before
    assert (await _changes(fresh_url), said) == (1, [])

    files.demo_key_file.write_text("damaged")
    files.admin_key_file.chmod(0o644)
    await seed(settings, fresh_url, said.append)
    assert files.demo_key_file.read_text().strip() not in ("damaged", demo)
    assert files.admin_key_file.read_text() == before[0]
    assert stat.S_IMODE(files.admin_key_file.stat().st_mode) == 0o600
    assert len(said) == 1
    assert str(files.demo_key_file) in said[0]
    assert files.demo_key_file.read_text().strip() in files.env_file.read_text()

    engine = database.engine(fresh_url, size=0)
    configuration = Configuration(engine, b"c" * 32)
    async with configuration.reading() as connection:
        found = await rows(connection, api_keys)
    assert sorted(row["revoked_at"] is None for row in found) == [False, True, True]
    async with configuration.change(Actor(None, "tests")) as change:
        for each in await change.rows(endpoints):
            await delete_endpoint(change, each)
    await seed(settings, fresh_url, said.append)
    async with configuration.reading() as connection:
        assert await rows(connection, endpoints) == []
    # Switched on later the embedding model gets its endpoint, once: it was never there to be deleted.
    serving = replace(settings, embedder_url="unix:/run/embedder.sock")
    for names in ([EMBEDDER_NAME], []):
        await seed(serving, fresh_url, said.append)
        async with configuration.change(Actor(None, "tests")) as change:
            there = await change.rows(endpoints)
            assert [(row["name"], row["task"]) for row in there] == [
                (name, "llm/v1/embeddings") for name in names
            ]
            for each in there:
                granted = await change.rows(grants, grants.c.endpoint_id == each["id"])
                assert {row["level"] for row in granted} == {"CAN_QUERY", "CAN_VIEW"}
                await delete_endpoint(change, each)
    await engine.dispose()

    settings.secret_file.unlink()
    with pytest.raises(SecretError, match="Restore it"):
        await seed(settings, fresh_url)
    assert not settings.secret_file.exists()
