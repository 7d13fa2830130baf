"""What keeps the calls of one conversation together, in whichever dialect it is told."""

from __future__ import annotations

from typing import Any

import pytest

from policies.conversation import beginning

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
