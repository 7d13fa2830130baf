"""What a decision is: Allow, or Deny with a code and its wording; never an exception."""

from __future__ import annotations

import msgspec


class Allow(msgspec.Struct, frozen=True, gc=False):
    """The decision is yes; `rule` names what decided it, for explanations."""

    rule: str

    def __bool__(self) -> bool:
        return True


class Deny(msgspec.Struct, frozen=True, gc=False):
    """The decision is no: a stable code, a sentence for the caller, and the rule that decided."""

    code: str
    reason: str
    rule: str = "default deny"

    def __bool__(self) -> bool:
        return False


Decision = Allow | Deny
