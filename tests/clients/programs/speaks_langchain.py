"""LangChain's chat models: OpenAI's over chat completions and over Responses, and Anthropic's over Messages."""

from __future__ import annotations

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.clients.programs.answers import ASK, BREAKS, GATEWAY, KEYS, MODEL, ONE_TOOL, raised, refusals, tell


@tool
def look(query: str, limit: int) -> str:
    """Look something up."""
    return f"{query}: {limit}"


class Shape(BaseModel):
    """What the model has to answer."""

    a: int


def chat(kind: str, key: str = KEYS["demo"], model: str = MODEL, temperature: float | None = None) -> Any:
    """A client of that kind."""
    if kind == "messages":
        return ChatAnthropic(
            model=model, base_url=GATEWAY, api_key=key, max_retries=0, max_tokens=200, temperature=temperature
        )
    return ChatOpenAI(
        model=model,
        base_url=f"{GATEWAY}/v1",
        api_key=key,
        max_retries=0,
        stream_usage=True,
        temperature=temperature,
        use_responses_api=kind == "responses",
    )


def streamed(runnable: Any, said: str) -> Any:
    """The message that the pieces of a stream add up to."""
    whole = None
    for each in runnable.stream(said):
        whole = each if whole is None else whole + each
    assert whole is not None
    return whole


def found(kind: str) -> dict[str, Any]:
    """Ask everything."""
    ours = chat(kind)
    plain, stream = ours.invoke(ASK), streamed(ours, ASK)
    forced = ours.bind_tools([look], tool_choice="any")
    return {
        "plain": plain.text,
        "stream": stream.text,
        "usage": [plain.usage_metadata, stream.usage_metadata],
        "tools": [each["args"] for each in forced.invoke(ONE_TOOL).tool_calls],
        "streamed_tools": [each["args"] for each in streamed(forced, ONE_TOOL).tool_calls],
        "structured": ours.with_structured_output(Shape, method="json_schema").invoke("?").model_dump(),
        "refusals": refusals(
            lambda key, model, said, temperature: chat(kind, key, model, temperature).invoke(said)
        ),
        "breaks": raised(lambda: streamed(ours, BREAKS)),
    }


tell({kind: found(kind) for kind in ("chat", "responses", "messages")})
