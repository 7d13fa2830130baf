"""The commands for people: quick to explain themselves, clear when they cannot, and real against a real gateway."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import main
from gateway.cli.reach import CannotReach, database_url
from gateway.settings import Settings


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


@pytest.mark.parametrize("path", [(), *every_command(main)])
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(main, [*path, "--help"])
    assert answer.exit_code == 0
    assert len(answer.output.splitlines()[2].strip()) > 15


def test_an_explanation_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from gateway.__main__ import main;"
        "CliRunner().invoke(main, ['--help']); CliRunner().invoke(main, ['keys', 'create', '--help']);"
        "print([m for m in ('sqlalchemy', 'litestar', 'asyncpg', 'redis', 'alembic', 'rich', 'aiohttp', 'torch') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_setting_that_cannot_be_used_is_one_sentence() -> None:
    answer = CliRunner().invoke(main, ["status"], env={"WEIGHBRIDGE_PORT": "http"})
    assert answer.exit_code == 1
    assert "WEIGHBRIDGE_PORT is 'http'; it takes a port" in answer.output


def test_with_nothing_running_each_command_says_what_to_start(tmp_path: Path) -> None:
    env = {"WEIGHBRIDGE_HOME": str(tmp_path), "WEIGHBRIDGE_DATABASE_URL": "", "WEIGHBRIDGE_PORT": "1"}
    for command in (["sql", "-c", "SELECT 1"], ["migrate"], ["spool", "replay"], ["seed"]):
        answer = CliRunner().invoke(main, command, env=env)
        assert answer.exit_code == 1
        assert "weighbridge up" in answer.output
        assert "Traceback" not in answer.output
    (tmp_path / "admin.key").write_text("gk_live_x")
    answer = CliRunner().invoke(main, ["keys", "list"], env=env)
    assert "does not answer at http://127.0.0.1:1/admin/v1" in answer.output


def test_the_embedded_database_is_found_where_it_says_it_is(tmp_path: Path) -> None:
    settings = Settings.from_env({"WEIGHBRIDGE_HOME": str(tmp_path)})
    (tmp_path / "postgres").mkdir()
    note = ["123", str(tmp_path), "1700000000", "5432", "/run/x y", "", "1 2", "starting"]
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join(note))
    with pytest.raises(CannotReach):
        database_url(settings, "weighbridge_app")
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join([*note[:7], "ready   "]))
    assert database_url(settings, "weighbridge_app") == "postgresql://weighbridge_app@/system?host=/run/x+y"


async def test_a_key_is_made_listed_and_revoked_from_the_command_line(
    served: dict[str, str], deployment: Any
) -> None:
    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=served)

    made = await run(
        "keys",
        "create",
        "demo",
        "--name",
        "cli",
        "--expires",
        "90d",
        "--endpoint",
        "databricks-mixtral-8x7b-instruct",
    )
    assert made.exit_code == 0, made.output
    text = deployment.keys["cli"] = made.stdout.strip()
    assert (await deployment.ask("GET", "/admin/v1/me", "cli")).json()["name"] == "demo"
    listed = await run("keys", "list", "demo")
    assert text not in listed.output
    line = next(each for each in listed.output.splitlines() if text[:20] in each)
    assert "active" in line
    assert "cli" in line
    replaced = await run("keys", "create", "demo", "--replaces", text[:20], "--overlap", "1h")
    assert replaced.exit_code == 0, replaced.output
    assert (await deployment.ask("GET", "/admin/v1/me", "cli")).status_code == 200
    rotated = await run("keys", "rotate", text[:20], "--overlap", "30m")
    assert rotated.exit_code == 0, rotated.output
    assert "takes over from" in rotated.stderr
    deployment.keys["rotated"] = rotated.stdout.strip()
    for works in ("cli", "rotated"):
        assert (await deployment.ask("GET", "/admin/v1/me", works)).json()["name"] == "demo"
    revoked = await run("keys", "revoke", text[:20])
    assert revoked.exit_code == 0, revoked.output
    assert (await deployment.ask("GET", "/admin/v1/me", "cli")).status_code == 401
    for wrong in (
        ("keys", "create", "nobody"),
        ("keys", "revoke", "gk_live"),
        ("keys", "rotate", text[:20]),
        ("keys", "create", "demo", "--expires", "soon"),
    ):
        refused = await run(*wrong)
        assert refused.exit_code == 1
        assert refused.output.startswith("Error: ")


async def test_sql_reads_and_never_writes(database_url: str, tmp_path: Path) -> None:
    env = {"WEIGHBRIDGE_HOME": str(tmp_path), "WEIGHBRIDGE_DATABASE_URL": database_url}

    async def run(statement: str) -> Result:
        arguments = ["sql", "--as", "app", "-c", statement]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)

    answer = await run("SELECT 1 AS one, NULL AS nothing, 'x' AS text;")
    assert (answer.exit_code, answer.stdout) == (0, "one\tnothing\ttext\n1\t\tx\n")
    refused = await run("INSERT INTO gateway.api_key_uses VALUES (gen_random_uuid(), now())")
    assert refused.exit_code == 1
    assert "read-only" in refused.output
    assert (await run("SELEC 1")).exit_code == 1
