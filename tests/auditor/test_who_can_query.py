"""Who could query what at any moment, in SQL, is what the permission function decides on that moment's configuration."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import asyncpg

from gateway.store.changes import Change, Configuration
from gateway.store.endpoints import EntitySpec, create_endpoint, delete_endpoint, grant, withdraw
from gateway.store.history import History
from gateway.store.principals import (
    add_member,
    create_group,
    create_principal,
    delete_group,
    delete_principal,
    remove_member,
    update_principal,
)
from gateway.store.roles import set_roles
from gateway.store.tables.catalog import endpoints, grants
from gateway.store.tables.identity import groups, memberships, principals
from policies.catalog import Snapshot
from policies.permissions import Level, granted
from policies.principal import Caller
from tests.auditor.conftest import ROOT

SEED = 20261126
CHANGES = 120
Answer = set[tuple[str, str, str, str, str, str]]


def decided(snapshot: Snapshot) -> Answer:
    """By the gateway's own function, over everybody and everything."""
    found: Answer = set()
    by_id = {endpoint.id: endpoint for endpoint in snapshot.endpoints.values()}
    for principal in snapshot.principals.values():
        for endpoint in by_id.values():
            level, rule = granted(snapshot, Caller(principal), endpoint)
            if principal.active and level is not None and level >= Level.CAN_QUERY:
                group = rule.rpartition(" ")[2] if rule.startswith("grant to group") else ""
                held = {"role admin": "role admin", "grant to the principal": "principal"}.get(rule, "group")
                found.add((principal.name, endpoint.name, level.name, held, group, principal.id))
    return found


async def asked(auditor: asyncpg.Connection, at: datetime) -> Answer:
    rows = await auditor.fetch("SELECT * FROM access.who_can_query($1)", at)
    return {
        (
            row["principal_name"],
            row["endpoint_name"],
            row["permission"],
            row["held_by"],
            "" if row["group_id"] is None else str(row["group_id"]),
            str(row["principal_id"]),
        )
        for row in rows
    }


async def one_change(change: Change, draw: random.Random, number: int) -> None:
    people, teams = await change.rows(principals), await change.rows(groups)
    offers, given = await change.rows(endpoints), await change.rows(grants)
    within = await change.rows(memberships)
    match draw.choice(
        ["person", "group", "endpoint", *["grant"] * 6, *["member"] * 6, "role", "active", "less"]
    ):
        case "person":
            await create_principal(change, draw.choice(["user", "service_principal"]), {"name": f"p{number}"})
        case "group":
            await create_group(change, f"g{number}", "")
        case "endpoint":
            await create_endpoint(
                change,
                {"name": f"e{number}", "task": "llm/v1/chat"},
                [EntitySpec("one", "local", "vllm", "one")],
            )
        case "grant" if offers:
            who = draw.choice([*people, *teams])
            kind = who.get("kind", "group")
            await grant(
                change,
                draw.choice(offers),
                kind,
                who["id"],
                draw.choice(["CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"]),
            )  # type: ignore[arg-type]
        case "member":
            group, who = draw.choice(teams), draw.choice([*people, *teams])
            inside = {row["member_id"] for row in within if row["group_id"] == group["id"]}
            # A group may go into later ones only, which leaves no way round.
            if who["id"] not in inside and ("kind" in who or who["id"] < group["id"]):
                await add_member(change, group, who.get("kind", "group"), who["id"])
        case "role":
            who = draw.choice([*people[1:], *teams])
            await set_roles(
                change,
                who,
                who.get("kind", "group"),
                frozenset(draw.choice([["admin"], [], [], [], ["auditor"]])),
            )
        case "active" if len(people) > 1:
            who = draw.choice(people[1:])
            await update_principal(change, who, {"active": not who["active"]})
        case "less":
            pick = draw.choice(["grant", "member", "endpoint", "group", "person"])
            if pick == "grant" and given:
                await withdraw(change, draw.choice(given))
            elif pick == "member" and within:
                gone = draw.choice(within)
                await remove_member(change, gone["group_id"], gone["member_id"])
            elif pick == "endpoint" and len(offers) > 2:
                await delete_endpoint(change, draw.choice(offers))
            elif pick == "group" and len(teams) > 2:
                await delete_group(change, draw.choice(teams))
            elif pick == "person" and len(people) > 3:
                await delete_principal(change, draw.choice(people[1:]))
        case _:
            pass


async def test_every_past_moment_answers_as_the_permission_function_does(
    configuration: Configuration, auditor: asyncpg.Connection
) -> None:
    draw = random.Random(SEED)
    moments: list[datetime] = []
    async with configuration.change(ROOT, "first") as change:
        root = await create_principal(change, "user", {"name": "root"})
        await set_roles(change, root, "user", frozenset({"admin"}))
        for number in range(3):
            await create_group(change, f"first{number}", "")
            await create_principal(change, "user", {"name": f"first-{number}"})
    for number in range(CHANGES):
        async with configuration.change(ROOT, "another") as change:
            await one_change(change, draw, number)
            if change.touched:
                moments.append(change.at)
    assert len(moments) > CHANGES // 2
    history, answers, kinds = History(), set[str](), set[str]()
    for at in moments[::3]:
        for moment in (at - timedelta(microseconds=1), at):
            async with configuration.reading() as connection:
                wanted = decided(await history.at(connection, moment))
            assert await asked(auditor, moment) == wanted
            answers.add(str(sorted(wanted)))
            kinds |= {each[3] for each in wanted}
    assert len(answers) > 10
    assert kinds == {"role admin", "principal", "group"}
    now = {
        tuple(row)
        for row in await auditor.fetch("SELECT principal_id, endpoint_id, permission FROM access.can_query")
    }
    past = {
        tuple(row)
        for row in await auditor.fetch(
            "SELECT principal_id, endpoint_id, permission FROM access.who_can_query()"
        )
    }
    assert now == past != set()
