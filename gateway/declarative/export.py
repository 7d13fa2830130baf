"""Write what is there as a file, such that comparing that file finds no difference.

What has its default is left out; what no file can declare is named in a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.declarative.present import Found, is_stored
from gateway.declarative.shapes import STRUCTS, EntitySpec
from policies.declaration import Present
from policies.declared_kinds import BY_NAME, KINDS, Spec


def document(found: Found, file: str | None = None, *, everything: bool = False) -> dict[str, Any]:
    """The sections of a file: what no file manages, and what `file` manages; or everything."""
    chosen = [
        each
        for each in found.objects
        if (everything or each.managed_by in (None, file)) and not is_stored(each.spec.get("credential"))
    ]
    sections: dict[str, Any] = {"version": 1}
    for kind in KINDS:
        own = [each for each in chosen if each.kind == kind.name]
        if own:
            sections[kind.section] = [_entry(each) for each in _ordered(own)]
    return sections


def _ordered(objects: Iterable[Present]) -> list[Present]:
    return sorted(objects, key=lambda each: BY_NAME[each.kind].label(each.spec))


def _entry(each: Present) -> dict[str, Any]:
    entry = _brief(STRUCTS[each.kind], each.spec)
    if each.kind == "endpoint":
        entry["served_entities"] = [_brief(EntitySpec, one) for one in each.spec["served_entities"]]
    return entry


def _brief(struct: type[msgspec.Struct], spec: Spec | Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from what they are when left out, in the order of the struct."""
    entry: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        value = spec[field.encode_name]
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if isinstance(default, msgspec.Struct):
            default = msgspec.to_builtins(default)
        if field.required or value != default:
            entry[field.encode_name] = value
    return entry
