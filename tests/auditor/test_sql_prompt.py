"""`weighbridge sql` looks as the auditor, says what there is to read, and shows nothing that a terminal would obey."""

from __future__ import annotations

import asyncio

import pytest

from gateway.cli.sql import run
from gateway.settings import Settings
from tests.auditor.posting import ended, post


@pytest.fixture(scope="module")
def settings(database_url: str) -> Settings:
    asyncio.run(post(database_url, ended("2026-11-24T10:00:00", cost=12)))
    return Settings.from_env({"WEIGHBRIDGE_DATABASE_URL": database_url})


def typed(
    settings: Settings, lines: str, monkeypatch: pytest.MonkeyPatch, tmp: pytest.CaptureFixture[str]
) -> str:
    given = iter(lines.splitlines())

    def answer(prompt: str = "") -> str:
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    run(settings, None, None)
    return tmp.readouterr().out


def test_it_looks_as_the_auditor_and_lists_what_it_may_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, None, "SELECT current_user") == 0
    assert capsys.readouterr().out.split() == ["current_user", "weighbridge_auditor"]
    listed = typed(settings, "\\d", monkeypatch, capsys)
    assert "endpoint_usage\tOne row for each admitted request." in listed
    assert "who_can_query(at timestamp with time zone)\tWho could query which endpoint" in listed
    assert "gateway" not in {line.split("\t")[0] for line in listed.splitlines()}
    columns = typed(settings, "\\d spend", monkeypatch, capsys)
    assert "cost_usd\tnumeric\tWhat callers bear, in dollars: the same number." in columns
    assert "What each principal spent on each endpoint" in columns


def test_a_value_cannot_move_the_cursor_and_a_secret_table_is_refused(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, None, "SELECT 'a' || chr(27) || '[2Jb', cost_usd FROM endpoint_usage") == 0
    assert capsys.readouterr().out.splitlines()[1] == "a?[2Jb\t0.000000012"
    assert run(settings, None, "SELECT digest FROM gateway.api_keys") == 1
    assert "InsufficientPrivilege" in capsys.readouterr().err
