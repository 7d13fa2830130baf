"""`weighbridge credits`: give money back, charge more, and list what was entered, through the running gateway."""

from __future__ import annotations

from typing import Any

from gateway.cli.keys import principal_named
from gateway.cli.reach import AdminApi, CannotReach


def entered(
    api: AdminApi,
    *,
    usd: str,
    reason: str,
    request: str | None,
    principal: str | None,
    group: str | None,
    endpoint: str | None,
    charge: bool,
) -> str:
    """Enter one; what it was, in a sentence."""
    body: dict[str, Any] = {"kind": "charge" if charge else "credit", "usd": usd, "reason": reason}
    if (request is None) == (principal is None):
        raise CannotReach("Say whose spend it corrects: give exactly one of --request and --principal.")
    if request is not None:
        body["request_id"] = request
    else:
        assert principal is not None
        body["principal_id"] = principal_named(api, principal)["id"]
    for field, path, name in (("group_id", "/groups", group), ("endpoint_id", "/endpoints", endpoint)):
        if name is not None:
            found = api.get(path, name=name)["items"]
            if not found:
                raise CannotReach(f"There is no {field.removesuffix('_id')} {name!r}.")
            body[field] = found[0]["id"]
    return told(api.post("/credits", body))


def listed(api: AdminApi, *, request: str | None, principal: str | None) -> list[str]:
    """Entries, a line each."""
    who = None if principal is None else principal_named(api, principal)["id"]
    return [told(each) for each in api.pages("/credits", request_id=request, principal_id=who)]


def told(entry: Any) -> str:
    """One entry on a line."""
    of = f"request {entry['request_id']}" if entry["request_id"] else f"principal {entry['principal_id']}"
    return (
        f"{entry['id']}  {entry['entered_at'][:16]}  {entry['kind']:<6}  {entry['usd']:>12} USD  {of}"
        f"  by {entry['entered_by']}: {entry['reason']}"
    )
