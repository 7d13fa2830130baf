"""An explanation as text for people, one statement a line.

It says what the explanation holds and decides nothing.
"""

from __future__ import annotations

from policies.decision import Allow
from policies.explanation import Explanation
from policies.limits import group_words


def lines(found: Explanation) -> list[str]:
    """The explanation as text, one statement a line."""
    who, allowed = found.caller.principal, isinstance(found.permission, Allow)
    whose = f"{who.kind.value.replace('_', ' ')} {who.name!r}"
    held = found.level.name if found.level is not None else "no permission"
    told = [
        f"{whose} on endpoint {found.endpoint.name!r}, configuration {found.snapshot.version}:",
        f"  {'ADMITTED' if found.admits else 'REFUSED'}, {found.decided_by}",
        "Identity",
        f"  {who.name!r} ({who.id}), {'active' if who.active else 'not active'}",
        *(f"  in {each.words}" for each in found.groups),
        "Permission",
        f"  {'yes' if allowed else 'no'}, by {found.permission.rule}; holds {held}, needs CAN_QUERY",
        *(f"  {each}" for each in found.grants),
        "Limits and budgets that bind",
        *(f"  {each.words}" for each in found.bound),
    ]
    if not found.bound:
        told.append("  none")
    if found.put_aside or found.others:
        told.append("Limits and budgets that do not")
        told += [f"  {each.name or each.id}: {each.why}" for each in found.put_aside]
        if found.others:
            told.append(f"  {found.others} of other principals, groups, keys or endpoints")
    charged = "none" if found.group_id is None else group_words(found.snapshot, found.group_id)
    told += [
        "Charged group",
        f"  {charged}",
        "Answered by",
        *(f"  {each.words}" for each in found.candidates),
    ]
    return told
