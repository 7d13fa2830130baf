"""Role x route x field: who may write and who may read what, found in the routes and their bodies, tried both ways.

Allowed writes succeed, all others are refused and change nothing; the table goes into docs/permissions.md. A route or a
field that this file has no value for fails here, so nothing new comes without having been decided.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from uuid import uuid4

import msgspec
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from sqlalchemy import func, select

from gateway.http.admin.versions import Page
from gateway.store.tables.versioned import configuration_change
from policies.administration import OF_EVERYONE, Permission

DOCUMENT = Path(__file__).parents[2] / "docs" / "permissions.md"
ROLES = ("admin", "auditor", "manager", "owner", "demo")
"""An auditor, a manager of group `own`, and an owner of endpoint `mine` hold nothing else; `demo` may query."""
SHOWN = {"demo": "anybody"}
FOREIGN = ("role", "roles_of", "owner", "allowed_routes", "managed_by", "granted_by", "id_part", "digest")
"""What other gateways took from a body, and what only the gateway itself may set."""
_numbers = count()


def unique(stem: str) -> str:
    return f"{stem}-{next(_numbers)}-{uuid4().hex[:6]}"


def _pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


_OF_OWNERS = ("control:serving:share", "control:serving:limit", "control:serving:manage")


class Stage:
    """What the routes are tried on, and a value for every field of every body."""

    def __init__(self, deployment: Any) -> None:
        self.deployment = deployment
        self.ids: dict[str, str] = {}
        self.pem = _pem()
        self.owner = self.endpoint = ""

    async def prepare(self, endpoint_name: str) -> Stage:
        made = self.deployment.made
        for role in ("manager", "owner", "member"):
            found = await made("/admin/v1/users", {"name": unique(role)})
            self.ids[role] = found["id"]
            if role == "owner":
                self.owner = found["name"]
            key = await made("/admin/v1/keys", {"principal_id": self.ids[role]})
            if role == "member":
                self.ids["key"] = key["details"]["id"]
            else:
                self.deployment.keys[role] = key["key"]
        self.ids["group"] = (await made("/admin/v1/groups", {"name": unique("own")}))["id"]
        manager = {"member_kind": "user", "member_id": self.ids["manager"]}
        await made(f"/admin/v1/groups/{self.ids['group']}/managers", manager)
        found = await self.deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")
        self.entity = {**found.json()["items"][0]["served_entities"][0]}
        self.ids["entity"] = self.entity.pop("id")
        endpoint = await made("/admin/v1/endpoints", self.body("NewEndpoint"))
        self.ids["endpoint"], self.endpoint = endpoint["id"], endpoint["name"]
        grant = {"grantee_kind": "user", "grantee_id": self.ids["owner"], "level": "CAN_MANAGE"}
        await self.deployment.ask("PUT", f"/admin/v1/endpoints/{endpoint['id']}/grants", json=grant)
        machine = {"name": unique("machine")}
        self.ids["machine"] = (await made("/admin/v1/service-principals", machine))["id"]
        for what in ("limit", "budget", "issuer", "webhook"):
            self.ids[what] = (
                (await made(f"/admin/v1/{what}s", self.body(f"New{what.capitalize()}")))["id"]
                if what != "webhook"
                else await self._webhook()
            )
        mapping = self.body("SqlRoleMapping")
        mapped = await self.deployment.ask("PUT", "/admin/v1/sql-roles", json=mapping)
        self.ids["sql_role"] = mapped.json()["id"]
        self.ids["provider"] = (await made("/admin/v1/providers", self.body("NewProvider")))["id"]
        # There is one at a time, and the deployment is the module's.
        pools = (await self.deployment.ask("GET", "/admin/v1/throughput-pools")).json()["items"]
        pool = pools[0] if pools else await made("/admin/v1/throughput-pools", self.body("NewPool"))
        self.ids["pool"] = pool["id"]
        provision = self.body("NewProvision")
        self.ids["provision"] = (await made("/admin/v1/throughput-provisions", provision))["id"]
        entered = {"usd": "0.01", "reason": "shown to readers", "principal_id": self.ids["member"]}
        self.ids["credit"] = (await made("/admin/v1/credits", entered))["id"]
        return self

    async def _webhook(self) -> str:
        made = await self.deployment.made("/admin/v1/webhooks", self.body("NewWebhook"))
        return made.get("id") or made["details"]["id"]

    def path(self, path: str) -> str:
        """The route's path with what it is tried on."""
        parameters = {
            "principal_id": self.ids["machine" if "service-principals" in path else "member"],
            "member_id": self.ids["member"],
            "manager_id": self.ids["manager"],
            "grant_id": str(uuid4()),
            "key_id": self.ids["key"],
            **{
                f"{each}_id": self.ids.get(each, "")
                for each in (
                    "group",
                    "endpoint",
                    "limit",
                    "budget",
                    "issuer",
                    "webhook",
                    "sql_role",
                    "provider",
                    "credit",
                    "pool",
                    "provision",
                )
            },
            "name": self.endpoint,
            # The one that ships is there for everybody who may read.
            "adapter_name": "mixtral-demo-sql",
        }
        parts = [part for part in path.split("/") if part]
        return "/" + "/".join(
            parameters[part[1:-1].partition(":")[0]] if part.startswith("{") else part for part in parts
        )

    def body(self, struct: str, field: str | None = None) -> dict[str, Any]:
        """The least valid body of a kind, with one field more."""
        body = self._least(struct)
        if field is not None and field not in body:
            body = {**body, field: self.value(struct, field), **self._together(struct, field)}
        return {name: value for name, value in body.items() if value is not ...}

    def _least(self, struct: str) -> dict[str, Any]:
        grantee = {"grantee_kind": "user", "grantee_id": self.ids.get("member"), "level": "CAN_VIEW"}
        member = {"member_kind": "user", "member_id": self.ids.get("member")}
        of: dict[str, dict[str, Any]] = {
            "NewPrincipal": {"name": unique("principal")},
            "NewGroup": {"name": unique("group")},
            "Member": member,
            "MemberChanges": {},
            "KeyRequest": {"principal_id": self.ids.get("member")},
            "NewEndpoint": {"name": unique("endpoint"), "served_entities": [self.entity]},
            "GrantRequest": grantee,
            "BulkGrants": {"grants": [{"endpoint_id": self.ids.get("endpoint"), **grantee}]},
            "NewLimit": {"scope": "user_default", "metric": "requests", "amount": 10**6, "window": f"rolling:{60_000 + next(_numbers)}"},
            "NewBudget": {"scope": "user", "subject_id": self.ids.get("member"), "period": "day", "usd": "1000000", "mode": "observe"},
            "NewIncrease": {"usd": "1", "until": "2099-01-01T00:00:00Z"},
            "NewIssuer": {"name": unique("issuer"), "issuer": f"https://{unique('login')}.example.com", "audience": "weighbridge", "public_key_pem": self.pem},
            "NewProvider": {"name": unique("provider"), "provider": "openai"},
            "NewCredential": {"secret": "s" * 20},
            "RollBack": {"config_version": 1},
            "OwnKey": {},
            "Rotation": {},
            "RateLimits": {},
            "AiGateway": {},
            "SqlRoleMapping": {"sql_role": unique("role"), "principal_id": self.ids.get("member")},
            "NewPrice": {"served_entity_id": self.ids.get("entity"), **dict.fromkeys(("input", "cache_read", "cache_write", "output", "reasoning"), 0)},
            "NewCredit": {"principal_id": self.ids.get("member"), "usd": "1", "reason": "an outage", "endpoint_id": self.ids.get("endpoint")},
            "NewWebhook": {"name": unique("hook"), "url": "https://hooks.example.com/x"},
            "NewPool": {"name": unique("pool"), "tokens_per_second": 10**6, "slots": 10},
            "NewProvision": {"name": unique("provision"), "scope": "group", "subject_id": self.ids.get("group"), "units": 1},
            "AccessControls": {"access_control_list": self.value("AccessControls", "access_control_list")},
        }  # fmt: skip
        return dict(of.get(struct, {}))

    def value(self, struct: str, field: str) -> Any:
        """A value that the field takes; fails for a field that nobody has thought of."""
        of: dict[str, Any] = {
            "name": unique("name"), "sql_role": unique("role"), "login": "warehouse_caller", "display_name": "Shown", "description": "Said", "email": "a@example.com",
            "active": True, "roles": [], "aliases": [], "tokens_not_before": "2020-01-01T00:00:00Z", "add": [], "remove": [],
            "issuer": "https://issuer.example.com", "subject": unique("subject"), "tags": {"team": "x"},
            "local_only": False, "calling": {}, "payloads": {}, "config_version": 1, "provider": "openai", "base_url": "https://api.example.com/v1",
            "credential": {"secret": "s" * 20}, "environment": "WEIGHBRIDGE_CREDENTIAL_X", "file": "x", "keep_seconds": 60,
            "guardrails": {}, "inference_table_config": {"enabled": False}, "fallback_config": {"enabled": False},
            "priority": "interactive", "overlap_seconds": 3600, "usage_tracking_config": {"enabled": True},
            "rate_limits": [{"calls": 10**6, "key": "user", "renewal_period": "minute"}],
            "expires_at": "2099-01-01T00:00:00Z", "planes": ["data"], "endpoints": [], "replaces": None,
            "overlap_until": None, "task": "llm/v1/chat", "estimate_milli": 500, "default_max_tokens": 1024,
            "served_entities": [self.entity], "scope": "user_default", "subject_id": None, "endpoint_id": None,
            "metric": "requests", "window": "rolling:60000", "amount": 10**6, "mode": "observe", "enabled": True,
            "time_zone": "Europe/Berlin", "period": "day", "nano_usd": 10**15, "usd": "1000000",
            "thresholds_percent": [50], "family": "RS", "jwks_uri": "https://login.example.com/keys",
            "allow_loopback_http": False, "public_keys": None, "public_key_pem": self.pem, "secret": None,
            "principal_claim": "sub", "name_claim": "sub", "groups_claim": None, "kind": "user",
            "create_principals": False, "replace_groups": False, "max_age_seconds": 3600, "leeway_seconds": 30,
            "audience": "weighbridge", "effective_from": None, "effective_to": None, "per_request": 0,
            "per_gpu_second": 0, "per_cache_hit": 0, "cache": {}, "reason": "an outage", "request_id": str(uuid4()), "principal_id": self.ids.get("member"), "key_id": None,
            "group_id": self.ids.get("group"), "at": "2026-01-01T00:00:00Z", "corrects": None, "note": "said", "url": "https://hooks.example.com/y",
            "replicas": 1, "tokens_per_second": 10**6, "slots": 10, "unit_tokens_per_second": 1, "queue": 256, "queue_ms": 10_000,
            "units": 1, "first_token_ms": 1000,
            "events": ["budget.threshold"], "access_control_list": [{"user_name": self.owner, "permission_level": "CAN_MANAGE"}],
        }  # fmt: skip
        assert field in of, f"{struct}.{field}: nobody has decided who may write it; give it a value here"
        if struct.endswith("hook") or struct == "WebhookChange":
            of["secret"] = "s" * 40
        return of[field]

    def _together(self, struct: str, field: str) -> dict[str, Any]:
        """What has to come with a field, and what (...) must not."""
        if struct in ("NewPrincipal", "PrincipalChange") and field in ("issuer", "subject"):
            return {"issuer": "https://issuer.example.com", "subject": unique("subject")}
        if field == "nano_usd" and struct in ("NewBudget", "NewIncrease"):
            return {"usd": ...}
        if struct == "NewCredit" and field in ("nano_usd", "request_id", "kind"):
            return {
                "nano_usd": {"usd": ...},
                "request_id": {"principal_id": ..., "endpoint_id": ...},
                "kind": {"kind": "charge"},
            }[field]
        if struct in ("NewIssuer", "IssuerChange") and field == "jwks_uri":
            return {"public_key_pem": ...}
        if struct == "IssuerChange" and field in ("secret", "public_keys"):
            return {"public_key_pem": self.pem}
        if struct == "NewCredential" and field in ("environment", "file"):
            return {"secret": ...}
        if struct == "WebhookChange" and field == "url":
            return {"secret": "s" * 40}
        return {}


@pytest_asyncio.fixture(loop_scope="module")
async def stage(deployment: Any, endpoint_name: str) -> Stage:
    return await Stage(deployment).prepare(endpoint_name)


def routes(app: Any) -> list[tuple[str, str, HTTPRouteHandler]]:
    """Every route of the control plane that asks for a permission."""
    return sorted(
        (
            (method, "/" + "/".join(each if isinstance(each, str) else f"{{{each.name}}}" for each in route.path_components), handler)
            for route in app.routes
            if isinstance(route, HTTPRoute)
            and (route.path.startswith(("/admin/v1", "/api/2.0/permissions")) or route.path.endswith(("/rate-limits", "/ai-gateway")))
            for handler in route.route_handlers
            for method in handler.http_methods - {"OPTIONS", "HEAD"}
        ),
        key=lambda each: (each[1], each[0]),
    )  # fmt: skip


def may_write(role: str, _: str, handler: HTTPRouteHandler) -> bool:
    """What docs/permissions.md says in words."""
    permission = handler.opt["permission"]
    return (
        role == "admin"
        or (role == "manager" and permission is Permission.GROUPS_MANAGE)
        or (role == "owner" and permission.value in _OF_OWNERS)
        or permission is Permission.SELF_KEYS
        or (role == "auditor" and permission not in OF_EVERYONE and permission.endswith(":read"))
    )


def may_read(role: str, path: str, handler: HTTPRouteHandler) -> bool:
    permission: Permission = handler.opt["permission"]
    if permission is Permission.GROUPS_MANAGE:
        return role in ("admin", "auditor", "manager")
    if permission is Permission.SERVING_SHARE:
        return role in ("admin", "owner") or (role == "auditor" and path.endswith("/grants"))
    return (
        permission in OF_EVERYONE or role == "admin" or (role == "auditor" and permission.endswith(":read"))
    )


def body_of(handler: HTTPRouteHandler) -> type[msgspec.Struct] | None:
    found = get_type_hints(handler.fn).get("data")
    return found if isinstance(found, type) and issubclass(found, msgspec.Struct) else None


def answer_of(handler: HTTPRouteHandler) -> tuple[type[msgspec.Struct] | None, bool]:
    """The object in a route's answers, and whether they are pages of it."""
    found = get_type_hints(handler.fn).get("return")
    paged = get_origin(found) is Page
    if get_origin(found) in (Response, Page):
        found = get_args(found)[0]
    return (found if isinstance(found, type) and issubclass(found, msgspec.Struct) else None), paged


async def _version(deployment: Any) -> int:
    async with deployment.configuration.reading() as connection:
        return (await connection.execute(select(func.max(configuration_change.c.number)))).scalar_one()


_OWN = frozenset({"DeclarationToPlan", "DeclarationToApply"})
"""Bodies that are files: their fields are tried in tests/declarative; here, who may send them."""


async def test_every_field_is_written_by_whom_the_table_says_and_by_nobody_else(
    deployment: Any, stage: Stage
) -> None:
    tried = 0
    for method, path, handler in routes(deployment.app):
        struct = body_of(handler)
        if method not in ("POST", "PUT", "PATCH") or handler.opt["permission"] is Permission.SELF_SIGN_IN:
            continue
        fields = struct.__struct_fields__ if struct is not None else ()
        for field in fields:
            kind = struct.__name__ if struct is not None else ""
            body = {} if kind in _OWN else stage.body(kind, field)
            before = await _version(deployment)
            for role in ROLES:
                if not may_write(role, path, handler):
                    answer = await deployment.ask(method, stage.path(path), role, json=body, if_match="*")
                    assert answer.status_code == 403, f"{role} {method} {path} {field}: {answer.text}"
                    tried += 1
            assert await _version(deployment) == before, (
                f"{method} {path} {field}: a refusal changed something"
            )
            if kind in _OWN:
                continue
            for role in ROLES:
                if may_write(role, path, handler):
                    body = stage.body(kind, field)
                    answer = await deployment.ask(method, stage.path(path), role, json=body, if_match="*")
                    # Of others' keys nobody is told that they are there.
                    allowed = (404,) if path.startswith("/admin/v1/me/keys/") else (200, 201, 409)
                    if kind == "RollBack":
                        # There is no earlier version here; that is found out behind the permission.
                        allowed = (400,)
                    assert answer.status_code in allowed, f"{role} {method} {path} {body}: {answer.text}"
                    tried += 1
    assert tried > 400


async def test_no_body_takes_a_field_that_is_not_its_own(deployment: Any, stage: Stage) -> None:
    before = await _version(deployment)
    for method, path, handler in routes(deployment.app):
        struct = body_of(handler)
        if struct is None or struct.__name__ in _OWN:
            continue
        for field in FOREIGN:
            if field not in struct.__struct_fields__:
                body = {**stage.body(struct.__name__), field: "admin"}
                answer = await deployment.ask(method, stage.path(path), json=body, if_match="*")
                assert answer.status_code == 400, f"{method} {path} took {field}: {answer.text}"
    assert await _version(deployment) == before


async def test_every_field_is_read_by_whom_the_table_says_and_by_nobody_else(
    deployment: Any, stage: Stage, endpoint_name: str
) -> None:
    query = {
        "/admin/v1/effective": f"?endpoint={endpoint_name}",
        "/admin/v1/explain": f"?endpoint={endpoint_name}",
    }
    for method, path, handler in routes(deployment.app):
        if method != "GET":
            continue
        shown, paged = answer_of(handler)
        for role in ROLES:
            answer = await deployment.ask("GET", stage.path(path) + query.get(path, ""), role)
            told = f"{role} GET {path}: {answer.status_code} {answer.text[:200]}"
            if not may_read(role, path, handler):
                assert answer.status_code == 403, told
                continue
            assert answer.status_code in (200, 404), told
            if answer.status_code == 200 and shown is not None:
                for each in answer.json()["items"] if paged else [answer.json()]:
                    assert set(each) <= set(shown.__struct_fields__), told
        if shown is not None:
            secret = [
                each
                for each in shown.__struct_fields__
                if any(part in each for part in ("digest", "sealed", "pepper"))
            ]
            assert not secret, f"{path} shows {secret}"


async def test_the_table_is_in_the_documentation(deployment: Any) -> None:
    rows = ["| route | fields that may be sent | by |", "|---|---|---|"]
    for method, path, handler in routes(deployment.app):
        struct = body_of(handler)
        if method == "GET" or handler.opt["permission"] is Permission.SELF_SIGN_IN:
            continue
        fields = ", ".join(struct.__struct_fields__) if struct is not None else ""
        rows.append(f"| `{method} {path}` | {fields} | {_roles(may_write, path, handler)} |")
    rows += ["", "| route | fields that are shown | to |", "|---|---|---|"]
    for method, path, handler in routes(deployment.app):
        if method == "GET":
            shown, _ = answer_of(handler)
            fields = ", ".join(shown.__struct_fields__) if shown is not None else "as Databricks has them"
            rows.append(f"| `{path}` | {fields} | {_roles(may_read, path, handler)} |")
    begin, end = "<!-- fields: begin -->", "<!-- fields: end -->"
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(begin)
    wanted = f"{head}{begin}\n" + "\n".join(rows) + f"\n{end}{rest.partition(end)[2]}"
    if wanted != text and not os.environ.get("CI"):
        DOCUMENT.write_text(wanted)
    assert wanted == text, "docs/permissions.md was behind; it has been written anew: read it and commit it"


def _roles(allowed: Any, path: str, handler: HTTPRouteHandler) -> str:
    found = [role for role in ROLES if allowed(role, path, handler)]
    return "everybody" if len(found) == len(ROLES) else ", ".join(SHOWN.get(each, each) for each in found)
