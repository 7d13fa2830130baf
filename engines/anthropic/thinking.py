"""How Claude is told to think: adaptively with an effort, or with a number of tokens where the model is older than that.

Shared by everybody who serves Claude.
"""

from __future__ import annotations

import re
from typing import Any

from engines.canonical import Message, Reasoning, Request, Thinking, ToolCall, ToolResult
from engines.errors import Unsupported

_BUDGETED = re.compile(r"claude-(?:3|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:-20\d{6}|-v\d|@|:|$))")
"""Models that know no adaptive thinking."""
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_BUDGETS = {"low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
_LEAST = 1_024


def thinking_fields(request: Request, model: str, max_tokens: int) -> dict[str, Any]:
    """`thinking`, and what of `output_config` goes with it; raises Unsupported for an effort that is none."""
    wanted = request.thinking
    if wanted is None or _unsigned(request.messages):
        return {}
    if wanted.effort == "none":
        return {"thinking": {"type": "disabled"}}
    effort = _effort(wanted)
    if wanted.budget is None and not _BUDGETED.search(model):
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
    budget = min(wanted.budget or _BUDGETS[effort], max_tokens - 1)
    if budget < _LEAST:
        raise Unsupported("reasoning_effort", f"this model thinks only where max_tokens is over {_LEAST}")
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _effort(wanted: Thinking) -> str:
    effort = _EFFORTS.get(wanted.effort or "medium")
    if effort is None:
        raise Unsupported("reasoning_effort")
    return effort


def _unsigned(messages: tuple[Message, ...]) -> bool:
    """Whether a turn of tools goes on whose thoughts the client could not keep: with thinking it would be refused."""
    if not messages or not any(isinstance(part, ToolResult) for part in messages[-1].parts):
        return False
    for message in reversed(messages):
        if any(isinstance(part, ToolCall) for part in message.parts):
            return not any(isinstance(part, Reasoning) and part.signature for part in message.parts)
    return True
