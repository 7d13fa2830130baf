"""litellm as a client, through its providers of OpenAI's and of Anthropic's dialect."""

from __future__ import annotations

import json
from typing import Any

import litellm

from tests.clients.programs.answers import ASK, BREAKS, GATEWAY, KEYS, MODEL, ONE_TOOL, raised, refusals, tell

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
        },
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "shape",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


def ask(
    kind: str,
    key: str = KEYS["demo"],
    model: str = MODEL,
    said: str = ASK,
    temperature: float | None = None,
    **more: Any,
) -> Any:
    """A completion through that provider of litellm's."""
    return litellm.completion(
        model=f"{kind}/{model}",
        messages=[{"role": "user", "content": said}],
        api_base=f"{GATEWAY}/v1" if kind == "openai" else GATEWAY,
        api_key=key,
        max_retries=0,
        num_retries=0,
        max_tokens=200,
        temperature=temperature,
        **more,
    )


def found(kind: str) -> dict[str, Any]:
    """Ask everything."""
    plain = ask(kind)
    stream = list(ask(kind, stream=True, stream_options={"include_usage": True}))
    called = ask(kind, said=ONE_TOOL, tools=[TOOL], tool_choice="required")
    return {
        "plain": plain.choices[0].message.content,
        "stream": "".join(each.choices[0].delta.content or "" for each in stream if each.choices),
        "usage": [
            {"input_tokens": plain.usage.prompt_tokens, "output_tokens": plain.usage.completion_tokens}
        ],
        "tools": [json.loads(each.function.arguments) for each in called.choices[0].message.tool_calls],
        "structured": json.loads(ask(kind, said="?", response_format=SCHEMA).choices[0].message.content),
        "refusals": refusals(lambda **call: ask(kind, **call)),
        "breaks": raised(lambda: list(ask(kind, said=BREAKS, stream=True))),
    }


tell({"chat": found("openai"), "messages": found("anthropic")})
