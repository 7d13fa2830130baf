"""A client that wants one call of a tool at a time gets the first one, also of providers that cannot be told so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engines.canonical import ToolCall
from tests.providers.cases import CASES
from tests.providers.dialects import DIALECTS
from tests.providers.test_matrix import asked_of, call_of, cut, engine, read_through, upstream

SITUATION = "parallel tool calls"
CALLED = [part for part in CASES["tools at once"].parts if isinstance(part, ToolCall)]
ASKING = {
    "OpenAI chat": {"parallel_tool_calls": False},
    "OpenAI Responses": {"parallel_tool_calls": False},
    "Anthropic Messages": {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
}


@pytest.mark.parametrize("provider", ["gemini", "bedrock", "cohere"])
@pytest.mark.parametrize("name", ASKING)
def test_the_first_call_alone_is_handed_on_and_all_are_counted(name: str, provider: str) -> None:
    dialect = DIALECTS[name]
    answering = upstream(provider, CASES["tools at once"])
    adapter = engine(provider, answering)

    def asked(*, stream: bool, more: dict[str, Any]) -> Any:
        request = asked_of(dialect, SITUATION, stream=stream)
        request.body.update(more)
        return call_of(request)

    every = dialect.plain(asyncio.run(adapter.complete(asked(stream=False, more={}))).body)
    assert len(every.calls) == len(CALLED) > 1
    plain = dialect.plain(asyncio.run(adapter.complete(asked(stream=False, more=ASKING[name]))).body)
    assert plain.calls == every.calls[:1]
    assert (plain.text, plain.end) == (every.text, every.end)
    assert (plain.prompt, plain.completion) == (every.prompt, every.completion)
    call = asked(stream=True, more=ASKING[name])
    asyncio.run(adapter.open(call))
    for size in (7, len(answering._stream)):
        reader = adapter.reader(call, show_usage=True, show_running=False, limit=10_000)
        assert dialect.stream(read_through(reader, cut(answering._stream, size))) == plain
