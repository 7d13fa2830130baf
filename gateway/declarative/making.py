"""Carry out the steps of a plan with the same functions that the admin API uses, so the same rules hold.

Names become ids here, those of objects made a moment ago included.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway.declarative.present import CLASSES, TABLES, Found
from gateway.events.sender import seal_subject
from gateway.http.admin.limits import window_columns
from gateway.security.sealing import Sealing
from gateway.store.budgets import create_budget, update_budget
from gateway.store.changes import Change
from gateway.store.endpoints import (
    EntitySpec,
    add_price,
    create_endpoint,
    grant,
    update_endpoint,
)
from gateway.store.issuers import create_issuer, update_issuer
from gateway.store.principals import (
    Kind,
    add_member,
    create_group,
    create_principal,
    remove_member,
    update_principal,
)
from gateway.store.providers import Credential, create_provider, replace_provider
from gateway.store.reading import Row
from gateway.store.roles import set_managers, set_roles
from gateway.store.rules import create_limit, update_limit
from gateway.store.tables.catalog import endpoints, served_entities
from gateway.store.tables.events import webhooks
from gateway.store.tables.identity import groups, memberships, principals
from gateway.store.throughput import (
    check_bookings,
    create_pool,
    create_provision,
    update_pool,
    update_provision,
)
from policies.declaration import Step
from policies.declared_kinds import GRANTEES, MANAGERS, MEMBERS, WORDED_WINDOWS, Spec
from policies.money import nano_of

_SOURCES = ("jwks_uri", "public_keys")
_LIMIT = ("amount", "mode", "name", "enabled")
_BUDGET = ("thresholds_percent", "mode", "name", "enabled")


class Making:
    """One plan being carried out."""

    def __init__(self, change: Change, sealing: Sealing, found: Found) -> None:
        self._change = change
        self._sealing = sealing
        self._ids = {
            (each.kind, str(each.spec["name"]).lower()): each.id
            for each in found.objects
            if "name" in each.spec
            and each.kind in ("user", "service_principal", "group", "provider", "endpoint")
        }
        self._managed: list[tuple[str, Spec]] = []
        """Groups whose managers are to be named when every group is there."""
        self._ids |= {("key", part.lower()): key_id for part, key_id in found.keys.items()}

    async def create(self, step: Step) -> None:
        """Make an object that is not there."""
        change, spec = self._change, step.spec
        match step.kind:
            case "issuer":
                await create_issuer(change, self._sealing, spec)
            case "user" | "service_principal":
                row = await create_principal(change, step.kind, _without(spec, "roles"))
                await set_roles(change, row, step.kind, frozenset(spec["roles"]))
                self._ids[step.kind, spec["name"].lower()] = row["id"]
            case "group":
                row = await create_group(
                    change, spec["name"], spec["description"], local_only=spec["local_only"]
                )
                self._ids["group", spec["name"].lower()] = row["id"]
                await self._members(row, spec)
                await set_roles(change, row, "group", frozenset(spec["roles"]))
                self._managed.append((row["id"], spec))
            case "provider":
                values = {name: spec[name] for name in ("name", "provider", "base_url")}
                row = await create_provider(change, self._sealing, values, _credential(spec))
                self._ids["provider", spec["name"].lower()] = row["id"]
            case "endpoint":
                row = await create_endpoint(change, _endpoint(spec, {}), self._entities(spec))
                self._ids["endpoint", spec["name"].lower()] = row["id"]
            case "grant":
                await self._grant(spec)
            case "limit":
                values = {name: spec[name] for name in _LIMIT} | self._span(spec)
                window = WORDED_WINDOWS.get(spec["window"], spec["window"])
                await create_limit(change, {**values, "metric": spec["metric"], **window_columns(window)})
            case "budget":
                values = {name: spec[name] for name in _BUDGET} | self._span(spec)
                values |= {name: spec[name] for name in ("period", "time_zone")}
                await create_budget(change, {**values, "amount_nano_usd": nano_of(spec["usd"])})
            case "throughput_pool":
                await create_pool(change, spec)
            case "throughput_provision":
                values = {
                    **_without(spec, "subject"),
                    "subject_id": self._ids[spec["scope"], spec["subject"].lower()],
                }
                await create_provision(change, values, checked=False)
            case "webhook":
                await self._webhook(spec, None)
            case _:
                await self._price(spec, None)

    async def update(self, step: Step) -> None:
        """Change an object, or take over one that is as it should be."""
        assert step.id is not None
        change, spec = self._change, step.spec
        before = await change.current(TABLES[step.kind], step.id, step.kind)
        match step.kind:
            case "issuer":
                changed = {each.field: each.after for each in step.differences}
                values = {name: value for name, value in changed.items() if name not in _SOURCES}
                values |= {name: changed[name] for name in _SOURCES if changed.get(name) is not None}
                await update_issuer(change, self._sealing, before, values)
            case "user" | "service_principal":
                await self._principal(step.kind, before, spec)
            case "group":
                own = {name: spec[name] for name in ("name", "description", "local_only")}
                row = await change.revise(groups, "group", before, **own)
                await self._members(row, spec)
                await set_roles(change, row, "group", frozenset(spec["roles"]))
                self._managed.append((row["id"], spec))
            case "provider":
                values = {name: spec[name] for name in ("name", "base_url")}
                await replace_provider(change, self._sealing, before, values, _credential(spec))
            case "endpoint":
                values = _endpoint(spec, before["settings"])
                await update_endpoint(change, before, values, self._entities(spec))
            case "grant":
                await self._grant(spec)
            case "limit":
                await update_limit(change, before, {name: spec[name] for name in _LIMIT})
            case "budget":
                values = {name: spec[name] for name in _BUDGET}
                await update_budget(change, before, {**values, "amount_nano_usd": nano_of(spec["usd"])})
            case "throughput_pool":
                await update_pool(change, before, spec, checked=False)
            case "throughput_provision":
                values = _without(spec, "scope", "subject")
                await update_provision(change, before, values, checked=False)
            case "webhook":
                await self._webhook(spec, before)
            case _:
                if step.differences:
                    await self._price(spec, before)
                else:
                    await change.revise(TABLES["price"], "price", before)

    async def finish(self) -> None:
        """Name the managers of groups, which may be groups that came later; check what only holds of the whole."""
        for group_id, spec in self._managed:
            group = await self._change.current(groups, group_id, "group")
            wanted = {self._ids[kind, name.lower()]: kind for field, kind in MANAGERS for name in spec[field]}
            await set_managers(self._change, group, wanted)
        await check_bookings(self._change)

    async def _webhook(self, spec: Spec, before: Row | None) -> None:
        """A webhook; at a new address it gets a new secret, since the old one stays with the old."""
        values = dict(spec)
        made = self._change.new_id() if before is None else before["id"]
        if before is None or before["url"] != spec["url"]:
            secret = secrets.token_urlsafe(32).encode()
            values["secret_sealed"] = self._sealing.seal(secret, seal_subject(made))
        if before is None:
            await self._change.add(webhooks, "webhook", {**values, "id": made})
        else:
            values["events"] = list(spec["events"])
            if sorted(before["events"]) == values["events"]:
                values["events"] = before["events"]
            file = self._change.file
            await self._change.revise(webhooks, "webhook", before, managed_by=file, **values)

    async def _principal(self, kind: Kind, before: Row, spec: Spec) -> None:
        change = self._change
        row = await update_principal(change, before, _without(spec, "roles"))
        touched = len(change.touched)
        await set_roles(change, row, kind, frozenset(spec["roles"]))
        if len(change.touched) > touched:
            await change.renew(principals, row)

    async def _members(self, group: Row, spec: Spec) -> None:
        change = self._change
        wanted: dict[str, Any] = {
            self._ids[kind, name.lower()]: kind for field, kind in MEMBERS for name in spec[field]
        }
        there = {
            row["member_id"]: row
            for row in await change.rows(memberships, memberships.c.group_id == group["id"])
        }
        for member in sorted(there.keys() - wanted.keys()):
            await remove_member(change, group["id"], member)
        for member, kind in sorted(wanted.items()):
            if member in there:
                await change.revise(memberships, "membership", there[member])
            else:
                await add_member(change, group, kind, member)

    def _entities(self, spec: Spec) -> list[EntitySpec]:
        return [
            EntitySpec(
                **_without(each, "calling", "account"),
                rules=each["calling"],
                credential_id=None
                if each["account"] is None
                else self._ids["provider", each["account"].lower()],
                keeps_credential=False,
            )
            for each in spec["served_entities"]
        ]

    async def _grant(self, spec: Spec) -> None:
        kind: Any = next(each for each in GRANTEES if spec[each] is not None)
        endpoint = await self._change.current(
            endpoints, self._ids["endpoint", spec["endpoint"].lower()], "endpoint"
        )
        await grant(self._change, endpoint, kind, self._ids[kind, spec[kind].lower()], spec["level"])

    async def _price(self, spec: Spec, before: Row | None) -> None:
        """Enter a price; one that begins when another does corrects it."""
        entity = await self._change.rows(
            served_entities,
            served_entities.c.endpoint_id == self._ids["endpoint", spec["endpoint"].lower()],
            served_entities.c.name == spec["entity"],
        )
        values: dict[str, Any] = {name: nano_of(spec[name]) for name in CLASSES}
        values |= {
            "effective_from": _moment(spec["from"]),
            "effective_to": _moment(spec["until"]),
            "note": spec["note"],
        }
        if before is not None and spec["from"] is not None:
            values |= {"corrects": before["id"], "effective_from": before["effective_from"]}
        await add_price(self._change, entity[0]["id"], values)

    def _span(self, spec: Spec) -> dict[str, Any]:
        subject, endpoint = spec["subject"], spec["endpoint"]
        return {
            "scope": spec["scope"],
            "subject_id": None if subject is None else self._ids[spec["scope"], subject.lower()],
            "endpoint_id": None if endpoint is None else self._ids["endpoint", endpoint.lower()],
        }


def _without(spec: Spec, *names: str) -> Mapping[str, Any]:
    return {name: value for name, value in spec.items() if name not in names}


def _credential(spec: Spec) -> Credential | None:
    """Where a provider's credential is; there is one way of saying it, in which it comes."""
    for source, reference in (spec["credential"] or {}).items():
        return Credential(source, reference=reference)
    return None


def _endpoint(spec: Spec, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """An endpoint's columns; what other features keep in its settings stays."""
    own = {"rules": spec["calling"], "payloads": spec["payloads"], "cache": spec["cache"]}
    kept = {name: value for name, value in settings.items() if name not in own}
    set_ = {name: value for name, value in own.items() if value}
    columns = _without(spec, "served_entities", "calling", "payloads", "cache")
    return {**columns, "settings": {**kept, **set_}}


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
