"""`weighbridge explain`: the decision path of a call, from the running gateway's admin API."""

from __future__ import annotations

import json

from gateway.cli.reach import AdminApi


def explained(
    api: AdminApi,
    *,
    principal: str | None,
    endpoint: str | None,
    at: str | None,
    key: str | None,
    group: str | None,
    request: str | None,
    as_json: bool,
) -> str:
    """The explanation as text, or as JSON for machines."""
    found = api.get(
        "/explain",
        principal=principal,
        endpoint=endpoint,
        at=at,
        key=key,
        group=group,
        request_id=request,
    )
    return json.dumps(found, indent=2) if as_json else "\n".join(found["text"])
