"""A count of far more than came is doubted, charged as told, and only where the text is all that tokens were spent on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import complete, stream
from gateway.spool.records import Settlement
from policies.doubts import Doubt
from tests.pipeline.fakes import Outlet, World

WORDS = " the cat sat on a mat".split(" ")[1:] * 10
TOLD = 150


def usage(more: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_tokens": 9, "completion_tokens": TOLD, "total_tokens": 9 + TOLD, **more}


async def reason(
    streamed: bool, asked: dict[str, Any], told: dict[str, Any], delta: dict[str, Any], finish: str, n: int
) -> str | None:
    """What the books say of the count of such a call."""
    world = World()
    transport = world.engines.transports["e1"]
    if streamed:
        deltas = [delta, *({"content": f" {each}"} for each in WORDS)]
        choices = [[{"index": 0, "delta": each, "finish_reason": None}] for each in deltas]
        events: list[dict[str, Any]] = [{"id": "x", "model": "m", "choices": each} for each in choices]
        events.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        events.append({"id": "x", "choices": [], "usage": usage(told)})
        transport.pieces = [b"data: %b\n\n" % msgspec.json.encode(each) for each in events]
        transport.pieces.append(b"data: [DONE]\n\n")
    else:
        message = {"role": "assistant", "content": " ".join(WORDS), **delta}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        transport.answer = msgspec.json.encode(
            {"id": "x", "model": "m", "choices": [choice] * n, "usage": usage(told)}
        )
    exchange = world.exchange(stream=streamed, n=n, max_tokens=500)
    exchange.request.body.update(asked)
    await authenticate(world.line, exchange)
    if streamed:
        await stream(world.line, exchange, Outlet())
    else:
        await complete(world.line, exchange)
    (end,) = world.spool.of(Settlement)
    assert end.last is not None and end.status == "ok"
    assert end.last.output + end.last.reasoning == TOLD, "whatever is thought of it, it is charged"
    assert exchange.doubt is (Doubt.MANY if end.last.reason else None)
    return end.last.reason


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("asked", "told", "delta", "finish", "doubted"),
    [
        ({}, {}, {}, "stop", True),
        ({}, {}, {"refusal": None, "tool_calls": [], "reasoning_content": None}, "length", True),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {}, {}, "stop", True),
        # Thoughts that are told apart explain so many.
        ({}, {"completion_tokens_details": {"reasoning_tokens": 20}}, {}, "stop", True),
        ({}, {"completion_tokens_details": {"reasoning_tokens": 85}}, {}, "stop", False),
        # There was more than text.
        ({}, {}, {"reasoning_content": "Well."}, "stop", False),
        ({}, {}, {"reasoning": "Well."}, "stop", False),
        ({}, {}, {"refusal": "No."}, "stop", False),
        ({}, {}, {}, "tool_calls", False),
        # Or there may have been.
        ({"reasoning_effort": "high"}, {}, {}, "stop", False),
        ({"prediction": {"type": "content", "content": "x"}}, {}, {}, "stop", False),
        ({"tools": [{"type": "web_search"}]}, {}, {}, "stop", False),
    ],
)
async def test_what_text_does_not_explain_is_doubted_unless_something_else_may(
    streamed: bool,
    asked: dict[str, Any],
    told: dict[str, Any],
    delta: dict[str, Any],
    finish: str,
    doubted: bool,
) -> None:
    found = await reason(streamed, asked, told, delta, finish, 1)
    assert found == (Doubt.MANY.said if doubted else None)


async def test_of_several_choices_a_plain_answer_has_all_texts_and_a_streams_are_mixed() -> None:
    assert await reason(False, {}, {}, {}, "stop", 3) is None
    assert await reason(True, {}, {}, {}, "stop", 2) is None
