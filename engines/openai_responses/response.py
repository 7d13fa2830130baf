"""The Responses object around an answer's items: what it repeats of the request, and what stands where nothing was asked.

Every field that the dialect has is there, so that a client which reads it by its types finds it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.canonical import Usage
from engines.openai_responses.under_way import wire_usage

_ECHOED = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
}
"""What of the request an answer repeats, and what stands for it where nothing was asked."""


def response_of(
    asked: Mapping[str, Any],
    *,
    id: str,
    model: str,
    now: int,
    status: str,
    output: list[dict[str, Any]],
    usage: Usage | None,
) -> dict[str, Any]:
    """A response as it stands, with the items that are there."""
    echoed = {name: other if asked.get(name) is None else asked[name] for name, other in _ECHOED.items()}
    thinking = {"effort": None, "summary": None} | (asked.get("reasoning") or {})
    return {
        "id": id,
        "object": "response",
        "created_at": now,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": output,
        "previous_response_id": asked.get("previous_response_id"),
        "reasoning": thinking,
        "service_tier": "default",
        "store": asked.get("store", False),
        "truncation": "disabled",
        "usage": None if usage is None else wire_usage(usage),
        **echoed,
    }
