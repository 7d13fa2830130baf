"""Providers in files: where they are and where their credential is, by name; a credential itself is never in a file."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from gateway.declarative.document import read
from gateway.declarative.yaml_text import dump
from policies.declaration import CannotPlan

TEAM = """
endpoints:
  - name: claude
    served_entities:
      - {name: sonnet, kind: external, provider: anthropic, model: claude-sonnet-5, account: TEAM account}
      - {name: free, kind: external, provider: openai-compatible, model: m, base_url: "https://free.example.com/v1", traffic_percent: 0}
providers:
  - name: team account
    provider: anthropic
    credential: {environment: WEIGHBRIDGE_CREDENTIAL_TEAM}
"""
REFUSED = (
    ({"credential": {"secret": "sk-ant-1234"}}, "providers[0].credential"),
    ({"credential": {}}, "providers[0].credential"),
    ({"credential": {"environment": "WEIGHBRIDGE_CREDENTIAL_A", "file": "a"}}, "providers[0].credential"),
    ({"credential": {"environment": "HOME"}}, "providers[0].credential.environment"),
    ({"credential": {"file": "../master.key"}}, "providers[0].credential.file"),
    ({"provider": "nobody"}, "providers[0].provider"),
    ({"provider": "ollama"}, "providers[0].base_url"),
)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nothing_of_other_tests(files: Any) -> Any:
    yield
    for file in ("team.yaml", "other.yaml"):
        await files.applied(file, "{}", prune=True)


@pytest.mark.parametrize(("changed", "place"), REFUSED)
def test_what_is_no_provider_or_no_reference_is_refused_by_its_place(
    changed: dict[str, Any], place: str
) -> None:
    with pytest.raises(CannotPlan) as refused:
        read({"providers": [{"name": "a", "provider": "openai", **changed}]})
    [problem] = refused.value.problems
    assert problem.path == place
    assert "sk-ant" not in problem.message


async def test_a_provider_is_made_before_what_it_pays_for_and_deleted_after_it(
    deployment: Any, files: Any
) -> None:
    done = await files.applied("team.yaml", TEAM)
    assert [each["kind"] for each in done["steps"]] == ["provider", "endpoint"]
    made = await files.named("providers", "team account")
    assert (made["credential"], made["reference"], made["managed_by"], made["base_url"]) == (
        "environment", "WEIGHBRIDGE_CREDENTIAL_TEAM", "team.yaml", "https://api.anthropic.com/v1",
    )  # fmt: skip
    entities = {each["name"]: each for each in (await files.named("endpoints", "claude"))["served_entities"]}
    assert entities["sonnet"]["credential_id"] == made["id"]
    assert entities["free"]["credential_id"] is None
    assert set((await files.steps("team.yaml", TEAM)).values()) == {"unchanged"}
    # Read-only elsewhere, its credential too.
    etag = (await deployment.ask("GET", f"/admin/v1/providers/{made['id']}")).headers["etag"]
    for method, path, body in (
        ("PATCH", "", {"name": "mine"}),
        ("PUT", "/credential", {"secret": "sk-ant-stolen"}),
        ("DELETE", "/credential", None),
    ):
        answer = await deployment.ask(
            method, f"/admin/v1/providers/{made['id']}{path}", json=body, if_match=etag
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "managed_by_file"), answer.text
    exported = (await deployment.ask("GET", "/admin/v1/declarations:export?file=team.yaml")).json()[
        "document"
    ]
    assert exported["providers"] == [
        {
            "name": "team account",
            "provider": "anthropic",
            "base_url": "https://api.anthropic.com/v1",
            "credential": {"environment": "WEIGHBRIDGE_CREDENTIAL_TEAM"},
        }
    ]
    assert set((await files.steps("team.yaml", dump(exported))).values()) <= {"unchanged", "adopt"}
    pruned = await files.applied("team.yaml", "{}", prune=True)
    assert [each["kind"] for each in pruned["steps"]] == ["endpoint", "provider"]
    assert await files.named("providers", "team account") is None


async def test_an_edit_moves_the_credential_and_another_address_takes_it_away(files: Any) -> None:
    await files.applied("team.yaml", TEAM)
    by_file = TEAM.replace("{environment: WEIGHBRIDGE_CREDENTIAL_TEAM}", "{file: team.key}")
    assert (await files.steps("team.yaml", by_file))["provider team account"] == "update"
    await files.applied("team.yaml", by_file)
    made = await files.named("providers", "team account")
    assert (made["credential"], made["reference"]) == ("file", "team.key")
    elsewhere = by_file.replace(
        "provider: anthropic\n", "provider: anthropic\n    base_url: https://eu.example.com/v1\n"
    )
    await files.applied("team.yaml", elsewhere)
    made = await files.named("providers", "team account")
    assert (made["base_url"], made["credential"], made["reference"]) == (
        "https://eu.example.com/v1",
        "file",
        "team.key",
    )
    bare = elsewhere.replace("    credential: {file: team.key}\n", "")
    await files.applied("team.yaml", bare)
    assert (await files.named("providers", "team account"))["credential"] == "none"
    # Without an account nothing is told to anybody.
    await files.applied("team.yaml", bare.replace(", account: TEAM account", ""))
    sonnet = next(
        each
        for each in (await files.named("endpoints", "claude"))["served_entities"]
        if each["name"] == "sonnet"
    )
    assert sonnet["credential_id"] is None


async def test_a_stored_credential_stays_out_of_files_until_a_file_takes_its_place(
    deployment: Any, files: Any
) -> None:
    body = {
        "name": "stored one",
        "provider": "anthropic",
        "credential": {"secret": "sk-ant-0123456789abcdef"},
    }
    made = (await deployment.ask("POST", "/admin/v1/providers", json=body)).json()
    export = (await deployment.ask("GET", "/admin/v1/declarations:export")).json()
    assert "provider 'stored one': its credential is stored" in export["left_out"]
    assert all(each["name"] != "stored one" for each in export["document"].get("providers", []))
    assert "cdef" not in str(export)
    # It may be named by a file that does not declare it.
    naming = TEAM.replace("TEAM account", "stored one").partition("providers:")[0]
    await files.applied("other.yaml", naming)
    sonnet = (await files.named("endpoints", "claude"))["served_entities"]
    assert made["id"] in {each["credential_id"] for each in sonnet}
    await files.applied("other.yaml", "{}", prune=True)
    taken = 'providers: [{name: stored one, provider: anthropic, credential: {file: "key"}}]'
    planned = await files.plan("team.yaml", taken)
    assert "cdef" not in planned.text
    assert [each["action"] for each in planned.json()["steps"]] == ["update"]
    await files.applied("team.yaml", taken)
    now = await files.named("providers", "stored one")
    assert (now["id"], now["credential"], now["hint"]) == (made["id"], "file", None)


async def test_what_cannot_be_is_refused_whole(files: Any) -> None:
    for changed, said in (
        (
            TEAM.replace("TEAM account", "nobody's"),
            "endpoints[0].served_entities[sonnet].account: there is no provider",
        ),
        (
            TEAM.replace(
                "provider: anthropic\n", "provider: anthropic\n    base_url: http://169.254.169.254/\n"
            ),
            "providers[0].base_url: no provider can be there",
        ),
        (
            TEAM.replace("provider: anthropic, model", "provider: openai, model"),
            "is of 'anthropic', and entity 'sonnet' of 'openai'",
        ),
    ):
        refused = await files.apply("team.yaml", changed)
        assert refused.status_code == 400, refused.text
        assert said in refused.json()["error"]["message"]
    assert await files.named("providers", "team account") is None


async def test_a_provider_that_pays_for_another_files_entity_is_not_pruned(files: Any) -> None:
    endpoints, _, rest = TEAM.partition("providers:")
    await files.applied("team.yaml", f"providers:{rest}")
    await files.applied("other.yaml", endpoints)
    refused = await files.apply("team.yaml", "{}", prune=True)
    assert refused.status_code == 409, refused.text
    assert "is called through this provider" in refused.text
    await files.applied("other.yaml", "{}", prune=True)
