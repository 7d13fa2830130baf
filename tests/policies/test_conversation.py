"""What keeps the calls of one conversation together, in whichever dialect it is told."""

from __future__ import annotations

from typing import Any

import pytest

from policies.conversation import Prefix, beginning, prefix

SYSTEM = {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}
FIRST = {"role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
LATER = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"role": "user", "content": "On."},
]


@pytest.mark.parametrize("name", ["messages", "input"])
def test_a_conversation_stays_itself_as_it_grows_and_is_no_other(name: str) -> None:
    def told(*items: Any) -> bytes:
        return beginning({"instructions": "You help.", name: list(items)})

    begun = told(SYSTEM, FIRST)
    assert told(SYSTEM, FIRST, *LATER) == begun
    assert told(SYSTEM, {**FIRST, "content": "Bye."}, *LATER) != begun
    assert told({**SYSTEM, "content": "Ramble."}, FIRST) != begun


def test_texts_are_told_apart_where_there_is_no_conversation() -> None:
    assert beginning({"input": ["a", "b"]}) == beginning({"input": ["a", "b"]})
    assert len({beginning({"input": each}) for each in ("a", "b", ["a"], ["a", "b"], [1, 2])}) == 5


LONG = "You are the assistant of a shop. " * 40


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "Hello."}]},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": LONG}]}, FIRST]},
        {"system": LONG, "messages": [{"role": "user", "content": "Hello."}]},
        {"instructions": LONG, "input": [FIRST]},
        {"instructions": LONG, "input": "Hello."},
    ],
)
def test_a_long_system_prompt_is_told_in_every_dialect_and_shared_by_its_conversations(
    body: dict[str, Any],
) -> None:
    one = prefix(body, b"group")
    assert one.shared == prefix({"system": LONG, "messages": [LATER[1]]}, b"group").shared
    assert one.conversation != prefix({"system": LONG, "messages": [LATER[1]]}, b"group").conversation
    assert one.shared_tokens == len(LONG) // 4
    assert one.shared != prefix(body, b"other group").shared


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [SYSTEM, FIRST]},
        {"messages": [{"role": "user", "content": LONG}]},
        {"messages": ["no message", {"role": "system", "content": LONG}]},
        {"messages": [{"role": "system", "content": None}, {"role": "system", "content": [1, {"text": 2}]}]},
        {"prompt": LONG},
        {"input": [LONG]},
        {"system": 7, "messages": None},
        {},
    ],
)
def test_what_has_no_long_system_prompt_shares_none(body: dict[str, Any]) -> None:
    found = prefix(body, b"")
    assert found == Prefix(found.conversation)
    assert found.conversation != prefix(body, b"other group").conversation
