"""Whom a verified token stands for: created once, in the groups it claims, and refused as soon as it should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from gateway.errors import Unauthenticated
from gateway.store import audit_check
from gateway.store.changes import Configuration
from gateway.store.issuers import delete_issuer, update_issuer
from gateway.store.principals import (
    add_member,
    create_group,
    create_principal,
    delete_principal,
    update_principal,
)
from gateway.store.roles import set_roles
from gateway.store.tables.audit import audit_entries
from gateway.store.tables.identity import groups, issuers, principals
from policies.principal import Role
from tests.identity.conftest import ROOT, SEALING
from tests.identity.signing import Signer, claims

numbers = count()


def an_address() -> str:
    return f"https://login{next(numbers)}.example.com"


async def until(condition: Callable[[], Any], seconds: float) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.005)


async def found(configuration: Configuration, issuer: str) -> list[Any]:
    async with configuration.change(ROOT) as change:
        return await change.rows(principals, principals.c.issuer == issuer)


async def a_group(configuration: Configuration, name: str) -> str:
    async with configuration.change(ROOT) as change:
        return (await create_group(change, name, ""))["id"]


async def changed(configuration: Configuration, principal_id: str, **values: Any) -> None:
    async with configuration.change(ROOT) as change:
        before = await change.current(principals, principal_id, "user")
        await update_principal(change, before, values)


async def refused(worker: Any, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await worker.ask(token)


async def soon_refused(worker: Any, token: str) -> None:
    """Within a second, and for good from then on."""
    began = time.monotonic()
    try:
        while await worker.ask(token):
            assert time.monotonic() - began < 1.0, "it was not refused in time"
            await asyncio.sleep(0.005)
    except Unauthenticated:
        await refused(worker, token)


async def test_twenty_first_calls_at_once_create_one_principal(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    await configure(issuer)
    some = [await workers() for _ in range(2)]
    # Each its own token, as when one user opens twenty windows.
    tokens = [signer.sign(claims(iss=issuer, sub="new", jti=str(number))) for number in range(20)]
    asked = await asyncio.gather(*(some[number % 2].ask(token) for number, token in enumerate(tokens)))
    created = await found(configuration, issuer)
    assert len(created) == 1
    assert {each.principal.id for each in asked} == {created[0]["id"]}
    async with configuration.reading() as connection:
        entries = (
            await connection.execute(
                audit_entries.select().where(audit_entries.c.object_id == created[0]["id"])
            )
        ).all()
        assert (await audit_check.verify(connection, configuration.chain_key)).bad is None
    assert [(each.action, each.actor) for each in entries] == [
        ("user.create", f"issuer {issuer.removeprefix('https://')}")
    ]


async def test_without_leave_to_create_a_subject_is_nobody_until_it_is_linked(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    await configure(issuer, create_principals=False)
    worker = await workers()
    token = signer.sign(claims(iss=issuer, sub="linked"))
    await refused(worker, token)
    await refused(worker, token)
    assert await found(configuration, issuer) == []
    async with configuration.change(ROOT) as change:
        made = await create_principal(
            change, "user", {"name": f"linked at {issuer}", "issuer": issuer, "subject": "linked"}
        )
    await worker.catalog.refresh()
    assert (await worker.ask(token)).principal.id == made["id"]


async def test_a_claimed_name_never_makes_anyone_another(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    await configure(issuer, name_claim="email", name="google")
    async with configuration.change(ROOT) as change:
        owner = await create_principal(change, "user", {"name": "Owner@example.com"})
        await set_roles(change, owner, "user", frozenset({"admin"}))
    worker = await workers()
    for subject, name in (("1", "owner@example.com (google)"), ("2", "owner@example.com (google 2)")):
        caller = await worker.ask(signer.sign(claims(iss=issuer, sub=subject, email="owner@example.com")))
        assert (caller.principal.name, caller.principal.roles) == (name, frozenset())
        assert caller.principal.id != owner["id"]


async def test_claims_are_found_by_name_or_by_path(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    group = await a_group(configuration, "path-readers")
    await configure(
        issuer, principal_claim="https://ids.example.com/oid", groups_claim="realm.groups", kind="service_principal"
    )  # fmt: skip
    worker = await workers()
    said = {"https://ids.example.com/oid": "machine-7", "realm": {"groups": ["Path-Readers", "nobody's", 7]}}
    caller = await worker.ask(signer.sign(claims(iss=issuer, **said)))
    assert (caller.principal.kind, caller.principal.groups) == ("service_principal", (group,))
    assert (await found(configuration, issuer))[0]["subject"] == "machine-7"
    await refused(worker, signer.sign(claims(iss=issuer)))


@pytest.mark.parametrize("replaces", [False, True])
async def test_claimed_groups_add_to_those_of_the_database_or_replace_them(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer, replaces: bool
) -> None:
    issuer, stem = an_address(), f"g{next(numbers)}"
    inner, outer, own = [await a_group(configuration, f"{stem}-{name}") for name in ("inner", "outer", "own")]
    await configure(issuer, groups_claim="groups", replace_groups=replaces)
    worker = await workers()
    first = await worker.ask(signer.sign(claims(iss=issuer, sub=stem)))
    async with configuration.change(ROOT) as change:
        await add_member(change, await change.current(groups, outer, "group"), "group", inner)
        owned = await change.current(groups, own, "group")
        await add_member(change, owned, "user", first.principal.id)
        await set_roles(change, owned, "group", frozenset({"admin"}))
        await set_roles(change, await change.current(groups, outer, "group"), "group", frozenset({"auditor"}))
    await worker.catalog.refresh()
    token = signer.sign(claims(iss=issuer, sub=stem, groups=[f"{stem}-inner", "unknown"]))
    principal = (await worker.ask(token)).principal
    assert set(principal.groups) == ({inner, outer} if replaces else {inner, outer, own})
    assert principal.roles == ({Role.AUDITOR} if replaces else {Role.AUDITOR, Role.ADMIN})
    assert list(principal.groups) == sorted(principal.groups)
    # A remembered token follows the configuration: a group that goes, goes with what it gave.
    async with configuration.change(ROOT) as change:
        await set_roles(change, await change.current(groups, outer, "group"), "group", frozenset())
    await worker.catalog.refresh()
    assert Role.AUDITOR not in (await worker.ask(token)).principal.roles


async def test_disabling_a_principal_ends_its_tokens_within_a_second(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    await configure(issuer)
    some = [await workers() for _ in range(2)]
    token = signer.sign(claims(iss=issuer))
    who = (await some[0].ask(token)).principal.id
    await some[1].ask(token)
    await changed(configuration, who, active=False)
    for worker in some:
        await soon_refused(worker, token)
    await changed(configuration, who, active=True)
    for worker in some:
        await worker.catalog.refresh()
        assert (await worker.ask(token)).principal.id == who


async def test_tokens_issued_before_tokens_not_before_are_refused_and_later_ones_taken(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    await configure(issuer)
    worker = await workers()
    now = int(time.time())
    old, new = (signer.sign(claims(iss=issuer, iat=now - age)) for age in (60, 10))
    who = (await worker.ask(old)).principal.id
    await worker.ask(new)
    async with configuration.change(ROOT) as change:
        before = await change.current(principals, who, "user")
        at = change.at.replace(microsecond=0) - timedelta(seconds=30, microseconds=-1)
        await update_principal(change, before, {"tokens_not_before": at})
    await soon_refused(worker, old)
    assert (await worker.ask(new)).principal.id == who


async def test_a_deleted_principal_is_no_more_behind_its_tokens(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    made = await configure(issuer)
    worker = await workers()
    token = signer.sign(claims(iss=issuer))
    who = (await worker.ask(token)).principal.id
    async with configuration.change(ROOT) as change:
        await update_issuer(
            change, SEALING, await change.current(issuers, made["id"], "issuer"), {"create_principals": False}
        )
        await delete_principal(change, await change.current(principals, who, "user"))
    await soon_refused(worker, token)


@pytest.mark.parametrize("how", ["deleted", "disabled", "another audience", "another key"])
async def test_a_change_of_the_issuer_holds_for_remembered_tokens_too(
    configuration: Configuration, workers: Any, configure: Any, signer: Signer, how: str
) -> None:
    issuer = an_address()
    made = await configure(issuer)
    worker = await workers()
    token = signer.sign(claims(iss=issuer))
    assert await worker.ask(token)
    async with configuration.change(ROOT) as change:
        before = await change.current(issuers, made["id"], "issuer")
        match how:
            case "deleted":
                await delete_issuer(change, before)
            case "disabled":
                await update_issuer(change, SEALING, before, {"enabled": False})
            case "another audience":
                await update_issuer(change, SEALING, before, {"audience": "else"})
            case _:
                await update_issuer(change, SEALING, before, {"public_keys": Signer().jwks})
    await soon_refused(worker, token)


async def test_a_token_of_one_plane_is_not_for_the_other(
    workers: Any, configure: Any, signer: Signer
) -> None:
    issuer = an_address()
    await configure(issuer, planes=["data"])
    worker = await workers()
    assert (await worker.ask(signer.sign(claims(iss=issuer)))).planes == {"data"}


async def test_a_remembered_token_ends_with_its_exp(workers: Any, configure: Any, signer: Signer) -> None:
    issuer = an_address()
    await configure(issuer, leeway_seconds=0)
    worker = await workers()
    token = signer.sign(claims(iss=issuer, exp=int(time.time()) + 2))
    assert await worker.ask(token)
    await until(lambda: worker.callers.known(token) is None, 3.0)
    await refused(worker, token)
