"""What a caller asked of the upstream, read leniently, and the rule that counts its prompt tokens.

A prompt token is a word (a run without white space) of any text in the prompt, or one element of a list of token
ids; at least 1. Tests compute the same number with `count_prompt_tokens`.
"""

from __future__ import annotations

from typing import Any

import msgspec


class StreamOptions(msgspec.Struct):
    """vLLM's stream options; without `include_usage` the object alone turns usage on, as there."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class Message(msgspec.Struct):
    """A chat message; parts are kept as they came."""

    role: str = ""
    content: str | list[dict[str, Any]] | None = None


class Ask(msgspec.Struct):
    """The fields of a completion, chat or embedding request that this upstream reads."""

    model: str = ""
    messages: list[Message] = []
    prompt: str | list[Any] | None = None
    input: str | list[Any] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    priority: int | None = None
    cache_salt: str | None = None
    user: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    response_format: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    dimensions: int | None = None
    encoding_format: str | None = None

    @property
    def limit(self) -> int | None:
        """The most completion tokens allowed for a choice."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk carries usage: only together with include_usage."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def forced_tool(self) -> str | None:
        """The function that `tool_choice` names, if it names one."""
        if isinstance(self.tool_choice, dict):
            function = self.tool_choice.get("function")
            return str(function.get("name", "")) if isinstance(function, dict) else None
        return None

    @property
    def last_user_text(self) -> str:
        """Where a caller writes a script: the last user message, or the prompt."""
        for message in reversed(self.messages):
            if message.role == "user":
                return _text(message.content)
        for value in (self.prompt, self.input):
            if isinstance(value, str):
                return value
            if value and isinstance(value[0], str):
                return value[0]
        return ""


decode_ask = msgspec.json.Decoder(Ask).decode


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if isinstance(part.get("text"), str))


def _count(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    return sum(_count(item) if isinstance(item, str | list) else 1 for item in value)


def count_prompt_tokens(ask: Ask | bytes | dict[str, Any]) -> int:
    """The prompt tokens this upstream will report for a request."""
    if isinstance(ask, bytes):
        ask = decode_ask(ask)
    elif isinstance(ask, dict):
        ask = msgspec.convert(ask, Ask)
    words = 0
    for message in ask.messages:
        words += len(_text(message.content).split())
    if ask.prompt is not None:
        words += _count(ask.prompt)
    if ask.input is not None:
        words += _count(ask.input)
    return max(words, 1)
