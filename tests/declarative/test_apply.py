"""Files against a real database: applied whole or not at all, and theirs alone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text as sql

TEAM = """
users:
  - {name: ada@example.com, display_name: Ada}
  - {name: bob@example.com}
service_principals:
  - {name: nightly}
groups:
  - name: everyone
    groups: [builders]
    manager_users: [bob@example.com]
    manager_groups: [wardens]
  - name: wardens
    roles: [auditor]
  - name: builders
    description: Who builds.
    users: [ada@example.com]
    service_principals: [nightly]
endpoints:
  - name: team-chat
    aliases: [team-talk]
    tags: {team: platform}
    served_entities:
      - {name: small, provider: vllm, model: mixtral-demo, traffic_percent: 90}
      - {name: large, provider: vllm, model: mixtral-demo, traffic_percent: 10, fallback_position: 1}
grants:
  - {endpoint: team-chat, group: everyone, level: CAN_QUERY}
  - {endpoint: team-chat, user: ada@example.com, level: CAN_MANAGE}
limits:
  - {scope: endpoint, subject: team-chat, metric: requests, window: second, amount: 50}
  - {scope: user_default, endpoint: team-chat, metric: total_tokens, window: minute, amount: 20000}
  - {scope: group, subject: builders, metric: concurrent_requests, amount: 8}
budgets:
  - {scope: group, subject: builders, endpoint: team-chat, period: month, time_zone: Europe/Berlin, usd: 25.5, thresholds_percent: [50, 90]}
issuers:
  - {name: login, issuer: "https://login.example.com", audience: weighbridge, jwks_uri: "https://login.example.com/keys"}
prices:
  - {endpoint: team-chat, entity: small, input: 0.50, cache_read: 0.05, cache_write: 0.50, output: 1, reasoning: 1}
  - {endpoint: team-chat, entity: large, from: 2030-01-01T00:00:00Z, input: 5, cache_read: 1, cache_write: 5, output: 9, reasoning: 9}
throughput_pools:
  - {name: local, tokens_per_second: 1000, slots: 16}
throughput_provisions:
  - {name: builders, scope: group, subject: builders, units: 600, first_token_ms: 250}
  - {name: chat, scope: endpoint, subject: team-chat, units: 400}
webhooks:
  - {name: finance, url: "https://hooks.example.com/weighbridge"}
"""


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nothing_of_other_tests(files: Any) -> Any:
    yield
    for file in ("team.yaml", "other.yaml"):
        await files.applied(file, "{}", prune=True)


async def test_a_file_of_every_kind_is_applied_in_one_change_and_then_differs_from_nothing(
    deployment: Any, files: Any
) -> None:
    planned = (await files.plan("team.yaml", TEAM)).json()
    assert planned["differs"]
    before = (await deployment.ask("GET", "/admin/v1/audit")).json()["items"][0]["number"]
    done = await files.applied("team.yaml", TEAM)
    assert done["plan"] == planned["plan"]
    assert set(await _actions(files, "team.yaml", TEAM)) == {"unchanged"}
    new = [
        each
        for each in (await deployment.ask("GET", "/admin/v1/audit?limit=200")).json()["items"]
        if each["number"] > before
    ]
    reasons = {each["reason"] for each in new}
    assert len(reasons) == 1
    assert reasons.pop().startswith("apply team.yaml ")
    assert {each["actor"] for each in new} == {new[0]["actor"]}
    versions = {each["after"]["id"] for each in new if each["object_kind"] == "grant"}
    assert len(versions) == 2
    for path, name in (("groups", "builders"), ("users", "ada@example.com"), ("endpoints", "team-chat")):
        assert (await files.named(path, name))["managed_by"] == "team.yaml"


async def test_a_bad_last_object_leaves_nothing_of_the_others(deployment: Any, files: Any) -> None:
    await deployment.made("/admin/v1/groups", {"name": "taken"})
    bad = TEAM + "hooks: []\n"
    refused = await files.apply("team.yaml", bad)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_declaration")
    assert "hooks" in refused.text
    # This one is found by the database alone, after everything else was written.
    late = TEAM.replace(
        "throughput_pools:",
        "  - {endpoint: team-chat, entity: small, from: 0001-01-02T00:00:00Z, input: 1, cache_read: 1, cache_write: 1, output: 1, reasoning: 1}\nthroughput_pools:",
    )
    broken = late.replace(
        'issuer: "https://login.example.com"', 'issuer: "https://login.example.com", kind: user'
    )
    second = broken.replace(
        "issuers:\n",
        'issuers:\n  - {name: twin, issuer: "https://login.example.com", audience: x, jwks_uri: "https://login.example.com/keys"}\n',
    )
    refused = await files.apply("team.yaml", second)
    assert refused.status_code == 409, refused.text
    for path, name in (("groups", "builders"), ("users", "ada@example.com"), ("endpoints", "team-chat")):
        assert await files.named(path, name) is None


async def test_what_a_file_manages_is_read_only_elsewhere_and_the_refusal_names_the_file(
    deployment: Any, files: Any
) -> None:
    await files.applied("team.yaml", TEAM)
    ada = (await files.named("users", "ada@example.com"))["id"]
    group = (await files.named("groups", "builders"))["id"]
    endpoint = (await files.named("endpoints", "team-chat"))["id"]
    bob = (await files.named("users", "bob@example.com"))["id"]
    limit = (await deployment.ask("GET", f"/admin/v1/limits?subject_id={group}")).json()["items"][0]["id"]
    entity = (await files.named("endpoints", "team-chat"))["served_entities"]
    small = next(each["id"] for each in entity if each["name"] == "small")
    grant = next(
        each
        for each in (await deployment.ask("GET", f"/admin/v1/endpoints/{endpoint}/grants")).json()["items"]
        if each["grantee_id"] == ada
    )
    price = dict.fromkeys(("input", "cache_read", "cache_write", "output", "reasoning"), 1)
    permissions = f"/api/2.0/permissions/serving-endpoints/{endpoint}"
    refused = [
        await deployment.ask("PATCH", f"/admin/v1/users/{ada}", json={"display_name": "Eve"}, if_match="*"),
        await deployment.ask("PATCH", f"/admin/v1/users/{ada}", json={"roles": ["admin"]}, if_match="*"),
        await deployment.ask("DELETE", f"/admin/v1/users/{ada}", if_match="*"),
        await deployment.ask("PATCH", f"/admin/v1/groups/{group}", json={"description": "x"}, if_match="*"),
        await deployment.ask(
            "POST", f"/admin/v1/groups/{group}/members", json={"member_kind": "user", "member_id": bob}
        ),
        await deployment.ask("DELETE", f"/admin/v1/groups/{group}/members/{ada}"),
        await deployment.ask("PATCH", f"/admin/v1/endpoints/{endpoint}", json={"tags": {}}, if_match="*"),
        await deployment.ask(
            "PATCH",
            f"/admin/v1/endpoints/{endpoint}",
            json={"served_entities": [{"name": "mine", "kind": "local", "provider": "vllm", "model": "m"}]},
            if_match="*",
        ),
        await deployment.ask("DELETE", f"/admin/v1/endpoints/{endpoint}", if_match="*"),
        await deployment.ask(
            "PUT",
            f"/admin/v1/endpoints/{endpoint}/grants",
            json={"grantee_kind": "user", "grantee_id": ada, "level": "CAN_VIEW"},
        ),
        await deployment.ask("DELETE", f"/admin/v1/endpoints/{endpoint}/grants/{grant['id']}", if_match="*"),
        await deployment.ask("PATCH", f"/admin/v1/limits/{limit}", json={"amount": 1}, if_match="*"),
        await deployment.ask("DELETE", f"/admin/v1/limits/{limit}", if_match="*"),
        await deployment.ask("POST", "/admin/v1/prices", json={"served_entity_id": small, **price}),
        await deployment.ask("PUT", permissions, json={"access_control_list": []}),
        await deployment.ask(
            "PATCH",
            permissions,
            json={"access_control_list": [{"user_name": "ada@example.com", "permission_level": "CAN_VIEW"}]},
        ),
    ]
    for number, answer in enumerate(refused):
        assert answer.status_code == 409, f"{number}: {answer.status_code} {answer.text}"
        assert "team.yaml" in answer.text
    assert set(await _actions(files, "team.yaml", TEAM)) == {"unchanged"}
    # Ending someone's tokens cannot wait for a file, and what no file names stays free.
    ended = {"tokens_not_before": "2027-01-01T00:00:00Z"}
    assert (
        await deployment.ask("PATCH", f"/admin/v1/users/{ada}", json=ended, if_match="*")
    ).status_code == 200
    given = {"grantee_kind": "user", "grantee_id": bob, "level": "CAN_VIEW"}
    answer = await deployment.ask("PUT", f"/admin/v1/endpoints/{endpoint}/grants", json=given)
    assert answer.status_code == 200, answer.text
    assert set(await _actions(files, "team.yaml", TEAM)) == {"unchanged"}


async def test_prune_deletes_only_what_the_same_file_had(deployment: Any, files: Any) -> None:
    await files.applied("team.yaml", TEAM)
    await files.applied("other.yaml", "groups:\n  - {name: others}\n")
    await deployment.made("/admin/v1/groups", {"name": "nobodys"})
    less = "groups:\n  - {name: everyone}\n"
    steps = await files.steps("team.yaml", less)
    assert steps["group builders"] == "leave"
    assert "group others" not in steps
    await files.applied("team.yaml", less)
    assert await files.named("groups", "builders") is not None
    steps = await files.steps("team.yaml", less, prune=True)
    assert steps["group builders"] == "delete"
    assert steps["price team-chat/small from " + _beginning(steps)] == "release"
    await files.applied("team.yaml", less, prune=True)
    for path, name in (("groups", "builders"), ("users", "ada@example.com"), ("endpoints", "team-chat")):
        assert await files.named(path, name) is None
    for name in ("everyone", "others", "nobodys"):
        assert await files.named("groups", name) is not None


async def test_two_files_cannot_have_one_object(files: Any) -> None:
    await files.applied("team.yaml", TEAM)
    refused = await files.apply("other.yaml", "groups:\n  - {name: builders}\n")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "managed_by_file")
    assert "team.yaml" in refused.text


async def test_what_was_changed_behind_a_files_back_is_shown_and_put_right(
    files: Any, deployment: Any, owner_url: str
) -> None:
    await files.applied("team.yaml", TEAM)
    async with deployment.configuration.engine.begin() as connection:
        version = (
            await connection.execute(
                sql(
                    "SELECT id, from_change FROM gateway.limits"
                    " WHERE to_change IS NULL AND scope = 'user_default' AND managed_by = 'team.yaml'"
                )
            )
        ).one()
    await _owner(
        owner_url, f"UPDATE gateway.limits SET amount = 7 WHERE id = '{version.id}' AND to_change IS NULL"
    )
    planned = (await files.plan("team.yaml", TEAM)).json()
    drifted = [each for each in planned["steps"] if each["drift"]]
    assert [each["name"] for each in drifted] == ["user default on team-chat: total_tokens per minute"]
    assert drifted[0]["drift"] == [{"field": "amount", "before": 20000, "after": 7}]
    assert drifted[0]["action"] == "update"
    await files.applied("team.yaml", TEAM)
    assert set(await _actions(files, "team.yaml", TEAM)) == {"unchanged"}


async def test_a_plan_that_was_looked_at_is_carried_out_or_nothing_is(files: Any, deployment: Any) -> None:
    seen = (await files.plan("team.yaml", TEAM)).json()["plan"]
    made = await deployment.made("/admin/v1/groups", {"name": "builders"})
    refused = await files.apply("team.yaml", TEAM, plan=seen)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "plan_changed")
    assert (await files.named("groups", "builders"))["managed_by"] is None
    done = await files.applied("team.yaml", TEAM)
    step = next(each for each in done["steps"] if each["name"] == "builders")
    assert step["action"] == "update"
    assert (await files.named("groups", "builders"))["id"] == made["id"]


async def test_a_price_that_changes_is_a_new_entry_and_one_with_a_date_is_corrected(
    files: Any, deployment: Any
) -> None:
    await files.applied("team.yaml", TEAM)
    dearer = TEAM.replace("input: 0.50", "input: 0.60").replace("output: 9,", "output: 8,")
    done = await files.applied("team.yaml", dearer)
    changed = {each["name"]: each["action"] for each in done["steps"] if each["action"] != "unchanged"}
    assert changed == {"team-chat/small": "update", "team-chat/large from 2030-01-01T00:00:00Z": "update"}
    entities = (await files.named("endpoints", "team-chat"))["served_entities"]
    entries = {}
    for each in entities:
        found = await deployment.ask("GET", f"/admin/v1/prices?served_entity_id={each['id']}")
        entries[each["name"]] = found.json()["items"]
    assert [each["input"] for each in entries["small"]] == [500_000_000, 600_000_000]
    assert entries["large"][1]["corrects"] == entries["large"][0]["id"]
    assert set(await _actions(files, "team.yaml", dearer)) == {"unchanged"}


async def test_what_is_exported_differs_from_nothing(files: Any, deployment: Any) -> None:
    from gateway.declarative.yaml_text import dump, load

    await files.applied("team.yaml", TEAM)
    for query, file in (("", "mine.yaml"), ("?file=team.yaml", "team.yaml")):
        exported = (await deployment.ask("GET", f"/admin/v1/declarations:export{query}")).json()["document"]
        assert load(dump(exported)) == exported
        planned = (await files.plan(file, dump(exported))).json()
        assert not planned["differs"], [each for each in planned["steps"] if each["differences"]]
        assert {each["action"] for each in planned["steps"]} <= {"adopt", "unchanged"}
    everything = (await deployment.ask("GET", "/admin/v1/declarations:export?everything=true")).json()
    assert "team-chat" in str(everything["document"])


async def test_managers_roles_and_aliases_are_as_the_file_says_and_follow_it(
    files: Any, deployment: Any
) -> None:
    await files.applied("team.yaml", TEAM)
    everyone, wardens = await files.named("groups", "everyone"), await files.named("groups", "wardens")
    path = f"/admin/v1/groups/{everyone['id']}/managers"
    bob = (await files.named("users", "bob@example.com"))["id"]
    there = {each["member_id"] for each in (await deployment.ask("GET", path)).json()["items"]}
    assert there == {bob, wardens["id"]}
    assert (await files.named("groups", "wardens"))["roles"] == ["auditor"]
    assert (await files.named("endpoints", "team-chat"))["aliases"] == ["team-talk"]
    refused = await deployment.ask("POST", path, json={"member_kind": "user", "member_id": bob})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "managed_by_file")
    fewer = TEAM.replace("    manager_users: [bob@example.com]\n", "").replace("    roles: [auditor]\n", "")
    assert (await files.steps("team.yaml", fewer))["group everyone"] == "update"
    await files.applied("team.yaml", fewer)
    assert [each["member_id"] for each in (await deployment.ask("GET", path)).json()["items"]] == [
        wardens["id"]
    ]
    assert (await files.named("groups", "wardens"))["roles"] == []
    assert set(await _actions(files, "team.yaml", fewer)) == {"unchanged"}


@pytest.mark.parametrize("alias", ["other-chat", "OTHER-CHAT", "team-chat", "other-talk"])
async def test_an_alias_that_means_something_already_is_refused(files: Any, alias: str) -> None:
    entity = "served_entities: [{name: m, provider: vllm, model: m}]"
    both = f"""
endpoints:
  - {{name: other-chat, aliases: [other-talk], {entity}}}
  - {{name: team-chat, aliases: [{alias}], {entity}}}
"""
    refused = await files.apply("team.yaml", both)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "aliases"), refused.text


async def test_a_webhooks_secret_is_never_the_files_and_may_be_set_whatever_manages_it(
    files: Any, deployment: Any, owner_url: str
) -> None:
    from gateway.store.database import connect

    async def sealed() -> bytes:
        connection = await connect(owner_url, application_name="test")
        query = "SELECT secret_sealed FROM gateway.webhooks WHERE name = 'finance' AND to_change IS NULL"
        found = await connection.fetchval(query)
        await connection.close()
        return bytes(found)

    await files.applied("team.yaml", TEAM)
    hook = await files.named("webhooks", "finance")
    first, path = await sealed(), f"/admin/v1/webhooks/{hook['id']}"
    assert hook["managed_by"] == "team.yaml"
    changed = await deployment.changed("PATCH", path, {"secret": "s" * 40})
    assert changed.status_code == 200, changed.text
    assert changed.json()["managed_by"] == "team.yaml"
    second = await sealed()
    assert second != first
    assert set(await _actions(files, "team.yaml", TEAM)) == {"unchanged"}
    await files.applied("team.yaml", TEAM)
    assert await sealed() == second
    refused = await deployment.changed("PATCH", path, {"enabled": False})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "managed_by_file")
    await files.applied("team.yaml", TEAM.replace("hooks.example.com", "other.example.com"))
    assert await sealed() != second, "a new address does not get the old one's secret"
    assert (await files.named("webhooks", "finance"))["managed_by"] == "team.yaml"
    private = await files.plan("team.yaml", TEAM.replace("hooks.example.com", "10.0.0.1"))
    assert (private.status_code, private.json()["error"]["param"]) == (400, "webhooks[0].url")
    assert (await files.steps("team.yaml", "{}", prune=True))["webhook finance"] == "delete"


async def test_prices_that_begin_together_are_exported_as_the_one_that_holds(
    files: Any, deployment: Any
) -> None:
    entity = {"name": "m", "kind": "local", "provider": "vllm", "model": "m"}
    made = await deployment.made("/admin/v1/endpoints", {"name": "priced", "served_entities": [entity]})
    price = {
        "served_entity_id": made["served_entities"][0]["id"],
        "effective_from": "2031-01-01T00:00:00Z",
        **dict.fromkeys(("cache_read", "cache_write", "output", "reasoning"), 1),
    }
    for amount in (1, 2):
        await deployment.made("/admin/v1/prices", {**price, "input": amount})
    exported = (await deployment.ask("GET", "/admin/v1/declarations:export")).json()["document"]
    entries = [each for each in exported["prices"] if each["endpoint"] == "priced"]
    assert [each["input"] for each in entries] == ["0.000000002"]
    body = {"file": "mine.yaml", "document": exported}
    planned = await deployment.ask("POST", "/admin/v1/declarations:plan", json=body)
    assert planned.json()["differs"] is False


async def test_only_administrators_apply_and_auditors_may_look(files: Any) -> None:
    assert (await files.apply("team.yaml", TEAM, as_="auditor")).status_code == 403
    assert (await files.plan("team.yaml", TEAM, as_="auditor")).status_code == 200
    assert (await files.plan("team.yaml", TEAM, as_="demo")).status_code == 403


def _beginning(steps: dict[str, str]) -> str:
    return next(each for each in steps if each.startswith("price team-chat/small from ")).split(" from ")[1]


async def _actions(files: Any, file: str, text: str) -> list[str]:
    return list((await files.steps(file, text)).values())


async def _owner(url: str, statement: str) -> None:
    """What only someone with the owner's password could do: the versions' own triggers are off."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("ALTER TABLE gateway.limits DISABLE TRIGGER USER")
            await connection.execute(statement)
            await connection.execute("ALTER TABLE gateway.limits ENABLE TRIGGER USER")
    finally:
        await connection.close()


async def test_provisions_that_fit_only_together_are_taken_and_overbooked_ones_are_refused_as_a_whole(
    deployment: Any, files: Any
) -> None:
    await files.applied("team.yaml", TEAM)
    moved = TEAM.replace("units: 600", "units: 300").replace("units: 400", "units: 700")
    await files.applied("team.yaml", moved)
    swapped = TEAM.replace("units: 600", "units: 900").replace("units: 400", "units: 100")
    await files.applied("team.yaml", swapped)
    refused = await files.apply("team.yaml", swapped.replace("units: 100", "units: 101"))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "throughput_overbooked")
    assert "1001" in error["message"]
    smaller = await files.apply(
        "team.yaml", swapped.replace("tokens_per_second: 1000", "tokens_per_second: 999")
    )
    assert (smaller.status_code, smaller.json()["error"]["code"]) == (409, "throughput_overbooked")
    provisions = (await deployment.ask("GET", "/admin/v1/throughput-provisions")).json()["items"]
    assert sorted(each["units"] for each in provisions) == [100, 900]
    path = f"/admin/v1/throughput-provisions/{provisions[0]['id']}"
    elsewhere = await deployment.ask("PATCH", path, json={"units": 1}, if_match="*")
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (409, "managed_by_file")
