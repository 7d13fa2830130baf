"""`weighbridge diff`, `apply` and `export` against a gateway that listens, and the example that people start from."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "platform-team.yaml"


@pytest.fixture
def weighbridge(served: dict[str, str]) -> Any:
    async def run(*arguments: str, input: str | None = None) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=served, input=input)

    return run


async def test_the_example_is_compared_applied_exported_and_pruned(
    weighbridge: Any, deployment: Any, tmp_path: Path
) -> None:
    compared = await weighbridge("diff", "-f", str(EXAMPLE))
    assert compared.exit_code == 2, compared.output
    assert "+ group data-science" in compared.output
    assert (await weighbridge("diff", "-f", str(EXAMPLE))).output == compared.output, "a diff changes nothing"
    applied = await weighbridge("apply", "-f", str(EXAMPLE), "--yes")
    assert applied.exit_code == 0, applied.output
    assert "Applied platform-team.yaml." in applied.output
    same = await weighbridge("diff", "-f", str(EXAMPLE))
    assert same.exit_code == 0, same.output
    assert (await weighbridge("apply", "-f", str(EXAMPLE))).output.endswith("Nothing to do.\n")

    written = tmp_path / "platform-team.yaml"
    assert (await weighbridge("export", "-o", str(written))).exit_code == 0
    assert "nightly-summaries" in written.read_text()
    assert "databricks-mixtral-8x7b-instruct" in written.read_text(), (
        "what nobody manages is exported as well"
    )
    again = await weighbridge("diff", "-f", str(written))
    assert again.exit_code == 0, again.output
    assert "mixtral" in again.output, "what the file would take over is shown"
    everything = await weighbridge("export", "--all")
    assert "nightly-summaries" in everything.output
    nobodys = await weighbridge("export")
    assert "nightly-summaries" not in nobodys.output

    edited = (
        EXAMPLE.read_text().replace("amount: 20000", "amount: 30000").replace("  - name: support-bot\n", "")
    )
    edited = edited.replace("    service_principals: [support-bot]\n", "")
    changed = tmp_path / "edited" / "platform-team.yaml"
    changed.parent.mkdir()
    changed.write_text(edited)
    shown = await weighbridge("diff", "-f", str(changed), "--prune")
    assert shown.exit_code == 2
    assert "amount: 20000 -> 30000" in shown.output
    assert "- service principal support-bot" in shown.output
    pruned = await weighbridge("apply", "-f", str(changed), "--prune", "--yes")
    assert pruned.exit_code == 0, pruned.output
    found = await deployment.ask("GET", "/admin/v1/service-principals?name=support-bot")
    assert found.json()["items"] == []
    empty = tmp_path / "gone" / "platform-team.yaml"
    empty.parent.mkdir()
    empty.write_text("# nothing any more\n")
    assert (await weighbridge("apply", "-f", str(empty), "--prune", "--yes")).exit_code == 0
    assert (await deployment.ask("GET", "/admin/v1/endpoints?name=chat")).json()["items"] == []


async def test_without_an_answer_nothing_is_applied(weighbridge: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("groups:\n  - name: unanswered\n")
    refused = await weighbridge("apply", "-f", str(file), input="y\n")
    assert refused.exit_code == 1
    assert "--yes" in refused.output
    assert (await weighbridge("diff", "-f", str(file))).exit_code == 2


async def test_what_cannot_be_applied_is_said_with_its_place_and_ends_with_1(
    weighbridge: Any, tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    for content, said in (
        ("groups:\n  - {name: g, users: [nobody]}\n", "groups[0].users[0]: there is no user 'nobody'"),
        ("groups:\n  - {name: g, mebers: []}\n", "groups[0]: Object contains unknown field `mebers`"),
        ("groups: []\ngroups: []\n", "bad.yaml, line 2: the key 'groups' is there twice."),
    ):
        file.write_text(content)
        for command in (["diff"], ["apply", "--yes"]):
            answer = await weighbridge(*command, "-f", str(file))
            assert answer.exit_code == 1, answer.output
            assert said in answer.output
            assert "Traceback" not in answer.output
    missing = await weighbridge("diff", "-f", str(tmp_path / "none.yaml"))
    assert missing.exit_code == 1
    assert "cannot be read" in missing.output
