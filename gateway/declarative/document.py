"""Reads a document into objects as policies compare them: each value written in one way, nonsense refused by its place.

A declared object is declared whole: what is left out has its default, never "as it happens to be".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from engines.providers import PROVIDERS
from gateway.declarative.shapes import Document
from gateway.http.admin.calling import listed
from gateway.providers.secrets import FILE, VARIABLE
from policies.declaration import CannotPlan, Declared, Problem
from policies.declared_kinds import GRANTEES, KINDS, WORDED_WINDOWS
from policies.limits import LARGEST
from policies.money import nano_of, usd_of
from policies.windows import Calendar, Unit, parse, text_of

KEY_PREFIX = "gk_live_"
_WORDS = {canonical: word for word, canonical in WORDED_WINDOWS.items()}
_AT = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_SUBJECTS = frozenset({"user", "group", "service_principal"})
_NOBODYS = frozenset({"user_default", "group_default", "deployment"})


def read(document: Any) -> list[Declared]:
    """Every object of the document, in the file's order; raises CannotPlan."""
    try:
        found = msgspec.convert(document, Document)
    except msgspec.ValidationError as error:
        where = _AT.match(str(error))
        problem = (
            Problem("the file", str(error))
            if where is None
            else Problem(where["path"] or "the file", where["what"])
        )
        raise CannotPlan([problem]) from error
    problems: list[Problem] = []
    declared: list[Declared] = []
    for kind in KINDS:
        for index, each in enumerate(getattr(found, kind.section)):
            path = f"{kind.section}[{index}]"
            spec = msgspec.to_builtins(each)
            before = len(problems)
            problems += [Problem(f"{path}.{name}", message) for name, message in settle(kind.name, spec)]
            if len(problems) == before:
                declared.append(Declared(kind.name, spec, path))
    if problems:
        raise CannotPlan(problems)
    return declared


def settle(kind: str, spec: dict[str, Any]) -> list[tuple[str, str]]:
    """Write every value in the one way in which it is compared; answers fields that make no sense, and why."""
    match kind:
        case "user" | "service_principal" | "group":
            spec["roles"] = sorted(set(spec["roles"]))
        case "issuer":
            if (spec["jwks_uri"] is None) == (spec["public_keys"] is None):
                return [("jwks_uri", "an issuer takes exactly one of jwks_uri and public_keys")]
            spec["planes"] = sorted(set(spec["planes"]))
        case "webhook":
            spec["events"] = sorted(set(spec["events"]))
        case "provider":
            return _provider(spec)
        case "endpoint":
            spec["aliases"] = sorted(set(spec["aliases"]))
            spec["served_entities"] = sorted(spec["served_entities"], key=lambda each: each["name"])
            for each in spec["served_entities"]:
                each["calling"] = listed(each["calling"])
        case "grant" if sum(spec[each] is not None for each in GRANTEES) != 1:
            return [("level", "a grant names exactly one of user, service_principal and group")]
        case "limit":
            return _span(spec) + _window(spec)
        case "budget":
            return _span(spec) + _zone(spec) + _dollars(spec, "usd")
        case "price":
            named = ("input", "cache_read", "cache_write", "output", "reasoning", "per_request")
            return _dollars(spec, *named, "per_gpu_second", "per_cache_hit") + _moments(spec)
        case _:
            pass
    return []


def worded(window: str) -> str:
    """A window's text as files have it."""
    return _WORDS.get(window, window)


def moment(value: datetime) -> str:
    """A moment as files have it."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _span(spec: dict[str, Any]) -> list[tuple[str, str]]:
    scope, subject = spec["scope"], spec["subject"]
    if subject is None and scope in _SUBJECTS:
        return [("subject", f"scope {scope} needs the name of one")]
    if subject is not None and scope in _NOBODYS:
        return [("subject", f"scope {scope} takes none")]
    if scope == "key" and subject is not None:
        spec["subject"] = subject.removeprefix(KEY_PREFIX)
    return []


def _provider(spec: dict[str, Any]) -> list[tuple[str, str]]:
    kind = PROVIDERS.get(spec["provider"])
    if kind is None:
        return [("provider", f"it is one of {', '.join(PROVIDERS)}")]
    spec["base_url"] = spec["base_url"] or kind.base_url
    if spec["base_url"] is None:
        return [("base_url", f"a provider {kind.name!r} takes one")]
    if spec["credential"] is not None:
        given = {name: value for name, value in spec["credential"].items() if value is not None}
        if len(given) != 1:
            return [("credential", "it is the name of exactly one of environment and file")]
        if "environment" in given and VARIABLE.fullmatch(given["environment"]) is None:
            return [
                (
                    "credential.environment",
                    "the variable's name begins with WEIGHBRIDGE_CREDENTIAL_, in capitals",
                )
            ]
        if "file" in given and FILE.fullmatch(given["file"]) is None:
            return [
                ("credential.file", "it takes the name of a file in the credentials' folder, without a path")
            ]
        spec["credential"] = given
    return []


def _window(spec: dict[str, Any]) -> list[tuple[str, str]]:
    window: str | None = spec["window"]
    if (window is None) != (spec["metric"] == "concurrent_requests"):
        return [("window", "every metric but concurrent_requests takes one")]
    if window is not None:
        try:
            spec["window"] = worded(text_of(parse(WORDED_WINDOWS.get(window, window))))
        except ValueError as error:
            return [("window", f"{error}; or one of the words second, minute, hour and day")]
    return []


def _zone(spec: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        Calendar(Unit(spec["period"]), spec["time_zone"])
    except ValueError as error:
        return [("time_zone", str(error))]
    return []


def _dollars(spec: dict[str, Any], *names: str) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for name in names:
        try:
            nano_usd = nano_of(str(spec[name]))
        except ValueError as error:
            problems.append((name, str(error)))
            continue
        if nano_usd > LARGEST:
            problems.append((name, f"it takes up to {usd_of(LARGEST)}"))
        spec[name] = usd_of(nano_usd)
    return problems


def _moments(spec: dict[str, Any]) -> list[tuple[str, str]]:
    read_moments: list[datetime | None] = []
    for name in ("from", "until"):
        try:
            read_moments.append(None if spec[name] is None else datetime.fromisoformat(spec[name]))
            spec[name] = None if spec[name] is None else moment(datetime.fromisoformat(spec[name]))
        except (ValueError, OverflowError):
            return [(name, "the calendar does not reach that far")]
    begins, ends = read_moments
    if begins is not None and ends is not None and ends <= begins:
        return [("until", "it must be after `from`")]
    return []


__all__ = ["moment", "read", "settle", "worded"]
