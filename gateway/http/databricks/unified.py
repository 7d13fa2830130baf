"""Databricks' AI Gateway paths, /ai-gateway/{mlflow,openai,anthropic}/v1/…: the same calls as anywhere, in the dialect that each names.

`databricks-openai` calls the first two where it is told to (`use_ai_gateway`); each is an alias and decides nothing of its own.
"""

from __future__ import annotations

from gateway.http.anthropic import messages
from gateway.http.databricks import invocations
from gateway.http.openai import chat
from gateway.http.plane import Api

MLFLOW, OPENAI, ANTHROPIC = (f"/ai-gateway/{each}/v1" for each in ("mlflow", "openai", "anthropic"))
_OF = "/v1/"


def _below(base: str, calls: dict[str, Api], above: str) -> dict[str, Api]:
    return {
        f"{base}/{path.removeprefix(above)}": api for path, api in calls.items() if path.startswith(above)
    }


CALLS: dict[str, Api] = {
    **_below(MLFLOW, invocations.CALLS, "/serving-endpoints/"),
    **_below(OPENAI, chat.CALLS, _OF),
    **_below(ANTHROPIC, messages.CALLS, _OF),
}
"""By path."""
