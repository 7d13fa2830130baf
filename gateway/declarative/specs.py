"""One row of a governed object written as a file would declare it: by names, never by ids.

Lists without an order of their own are sorted, so that the same object is always written alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.declarative.document import worded
from gateway.store.reading import Row
from gateway.store.rule_values import window_of
from policies.declared_kinds import GRANTEES, MANAGERS, MEMBERS, Spec
from policies.money import usd_of
from policies.windows import text_of

_PRINCIPAL = ("name", "display_name", "email", "active", "issuer", "subject")
_ENTITY = ("name", "kind", "provider", "model", "base_url", "traffic_percent", "fallback_position")
_ENDPOINT = ("name", "task", "description", "tags", "estimate_milli", "default_max_tokens", "local_only")
_ISSUER = (
    "name", "issuer", "audience", "family", "jwks_uri", "allow_loopback_http", "public_keys", "principal_claim",
    "name_claim", "groups_claim", "kind", "create_principals", "replace_groups", "max_age_seconds",
    "leeway_seconds", "enabled",
)  # fmt: skip
_POOL = ("name", "replicas", "tokens_per_second", "slots", "unit_tokens_per_second", "queue", "queue_ms")
_PROVISION = ("name", "scope", "units", "first_token_ms")


def principal_spec(row: Row, held: Mapping[str, Sequence[str]]) -> Spec:
    """A user or a service principal."""
    return {**{name: row[name] for name in _PRINCIPAL}, "roles": sorted(held.get(row["id"], ()))}


def group_spec(
    row: Row,
    members: Mapping[str, Sequence[str]],
    managers: Mapping[str, Sequence[str]],
    held: Mapping[str, Sequence[str]],
) -> Spec:
    """A group with its members and managers by name."""
    return {
        "name": row["name"],
        "description": row["description"],
        "local_only": row["local_only"],
        **{field: sorted(members.get(kind, ())) for field, kind in MEMBERS},
        **{field: sorted(managers.get(kind, ())) for field, kind in MANAGERS},
        "roles": sorted(held.get(row["id"], ())),
    }


def webhook_spec(row: Row) -> Spec:
    """A webhook, without its secret."""
    return {**{name: row[name] for name in ("name", "url", "enabled")}, "events": sorted(row["events"])}


def provider_spec(row: Row) -> Spec:
    """An account with a provider; of a stored credential nothing is told but that it is."""
    source = row["source"]
    # Its end is not told either.
    credential = None if source == "none" else {source: True if source == "stored" else row["reference"]}
    return {**{name: row[name] for name in ("name", "provider", "base_url")}, "credential": credential}


def endpoint_spec(row: Row, serving: Sequence[Row], paying: Mapping[str, str]) -> Spec:
    """An endpoint with what serves it, by name."""
    own = sorted(
        (each for each in serving if each["endpoint_id"] == row["id"]), key=lambda each: each["name"]
    )
    return {
        **{name: row[name] for name in _ENDPOINT},
        "aliases": sorted(row["aliases"]),
        "calling": row["settings"].get("rules", {}),
        "payloads": row["settings"].get("payloads", {}),
        "cache": row["settings"].get("cache", {}),
        "served_entities": [
            {
                **{name: each[name] for name in _ENTITY},
                "account": paying.get(each["credential_id"]),
                "calling": each["settings"].get("rules", {}),
                "options": each["settings"].get("options", {}),
            }
            for each in own
        ],
    }


def grant_spec(row: Row, names: Mapping[str, str]) -> Spec:
    """Who may do what with an endpoint."""
    spec: dict[str, Any] = {
        kind: names[row["grantee_id"]] if row["grantee_kind"] == kind else None for kind in GRANTEES
    }
    return {"endpoint": names[row["endpoint_id"]], "level": row["level"], **spec}


def _rule(row: Row, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "scope": row["scope"],
        "subject": None if row["subject_id"] is None else names[row["subject_id"]],
        "endpoint": None if row["endpoint_id"] is None else names[row["endpoint_id"]],
        "mode": row["mode"],
        "name": row["name"],
        "enabled": row["enabled"],
    }


def limit_spec(row: Row, names: Mapping[str, str]) -> Spec:
    """A limit, its window as a file words it."""
    window = window_of(row)
    return {
        **_rule(row, names),
        "metric": row["metric"],
        "window": None if window is None else worded(text_of(window)),
        "amount": row["amount"],
    }


def budget_spec(row: Row, names: Mapping[str, str]) -> Spec:
    """A budget, its money in dollars."""
    return {
        **_rule(row, names),
        "period": row["period"],
        "time_zone": row["time_zone"],
        "usd": usd_of(row["amount_nano_usd"]),
        "thresholds_percent": list(row["thresholds_percent"]),
    }


def pool_spec(row: Row) -> Spec:
    """A pool of throughput."""
    return {name: row[name] for name in _POOL}


def provision_spec(row: Row, names: Mapping[str, str]) -> Spec:
    """What of a pool somebody is provisioned with."""
    return {**{name: row[name] for name in _PROVISION}, "subject": names[row["subject_id"]]}


def issuer_spec(row: Row) -> Spec:
    """An issuer of tokens whose keys are public."""
    return {**{name: row[name] for name in _ISSUER}, "planes": sorted(row["planes"])}
