"""Which calls of an endpoint are kept with what was asked and answered. Off unless its managers turn it on.

A call is chosen by its id, so that every worker, and whoever asks later, comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_RANDOM = (1 << 62) - 1
"""The last 62 bits of a UUIDv7 are random."""


@dataclass(frozen=True, slots=True)
class PayloadRules:
    """How an endpoint's calls are kept."""

    enabled: bool = False
    sampling_fraction: float = 1.0
    """How many of its calls, from 0 to 1."""
    max_bytes: int = 1 << 20
    """Of the request and of the answer, each; what is longer is cut off and flagged."""

    def chosen(self, request_id: bytes) -> bool:
        """Whether the call with this id (16 bytes) is among those that are kept."""
        return int.from_bytes(request_id[8:], "big") & _RANDOM < self.sampling_fraction * (_RANDOM + 1)


def payload_rules(settings: Mapping[str, Any]) -> PayloadRules | None:
    """The rules from an endpoint's stored settings; None where nothing is kept."""
    if not settings.get("enabled"):
        return None
    return PayloadRules(
        **{each.name: settings[each.name] for each in fields(PayloadRules) if each.name in settings}
    )


__all__ = ["PayloadRules", "payload_rules"]
