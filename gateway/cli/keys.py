"""`weighbridge keys`: make, list, rotate and revoke API keys through the running gateway's admin API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.cli.reach import AdminApi, CannotReach
from gateway.security.keys import parse

_SPAN = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def create(
    api: AdminApi,
    principal: str,
    *,
    name: str,
    expires: str | None,
    endpoints: Sequence[str],
    planes: Sequence[str],
    batch: bool,
    replaces: str | None,
    overlap: str | None,
) -> tuple[str, Any]:
    """The key's text, and what is known of it."""
    body: dict[str, Any] = {"principal_id": principal_named(api, principal)["id"], "name": name}
    if expires is not None:
        body["expires_at"] = _from_now(expires)
    if endpoints:
        body["endpoints"] = [
            _one(api.get("/endpoints", name=each), f"endpoint {each!r}")["id"] for each in endpoints
        ]
    if planes:
        body["planes"] = sorted(set(planes))
    if batch:
        body["priority"] = "batch"
    if replaces is not None:
        body["replaces"] = key_like(api, replaces)["id"]
        if overlap is not None:
            body["overlap_until"] = _from_now(overlap)
    made = api.post("/keys", body)
    return made["key"], made["details"]


def listed(api: AdminApi, principal: str | None) -> list[tuple[Any, str]]:
    """Keys with the names of their principals."""
    people = {
        each["id"]: each["name"] for kind in ("users", "service-principals") for each in api.pages(f"/{kind}")
    }
    owner = None if principal is None else principal_named(api, principal)["id"]
    return [
        (key, people.get(key["principal_id"], "(deleted)")) for key in api.pages("/keys", principal_id=owner)
    ]


def rotate(api: AdminApi, which: str, *, overlap: str) -> tuple[str, Any, Any]:
    """The new key's text, what is known of it, and of the key that it takes over from."""
    seconds = 0 if overlap == "0" else int(_span(overlap).total_seconds())
    made = api.act(f"/keys/{key_like(api, which)['id']}", "rotate", {"overlap_seconds": seconds})
    return made["key"], made["details"], made["replaced"]


def revoke(api: AdminApi, which: str) -> Any:
    """Revoke the key of that id, beginning, or text."""
    return api.delete(f"/keys/{key_like(api, which)['id']}")


def principal_named(api: AdminApi, name: str) -> Any:
    """The user or service principal of that name."""
    for kind in ("users", "service-principals"):
        found = api.get(f"/{kind}", name=name)["items"]
        if found:
            return found[0]
    raise CannotReach(f"There is no user or service principal {name!r}; create it on /admin/v1/users first.")


def key_like(api: AdminApi, which: str) -> Any:
    """The one key whose id, or beginning, is given; the key's whole text is taken for its beginning."""
    id_part = parse(which)
    beginning = which if id_part is None else which.split(id_part)[0] + id_part
    found = [
        key
        for key in api.pages("/keys")
        if key["id"] == which or (len(beginning) >= 12 and key["prefix"].startswith(beginning))
    ]
    if len(found) != 1:
        raise CannotReach(
            f"{len(found) or 'No'} keys match {beginning!r}; give the id that `weighbridge keys list` shows."
        )
    return found[0]


def condition(key: Any, now: datetime | None = None) -> str:
    """Whether a key works, in a word."""
    moment = now or datetime.now(UTC)
    if key["revoked_at"] is not None:
        return "revoked"
    if key["expires_at"] is not None and datetime.fromisoformat(key["expires_at"]) <= moment:
        return "expired"
    return "active"


def _one(page: Any, what: str) -> Any:
    if not page["items"]:
        raise CannotReach(f"There is no {what}.")
    return page["items"][0]


def _from_now(span: str) -> str:
    return (datetime.now(UTC) + _span(span)).isoformat()


def _span(text: str) -> timedelta:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise CannotReach(f"{text!r} is no span of time; it is a number and m, h, d or w, such as 90d.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
