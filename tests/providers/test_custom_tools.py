"""Custom tools of Responses: asked for as functions of one text, and given back as the text that the model wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import Unsupported
from engines.openai_chat.body import chat_body
from engines.openai_responses.custom_tools import InputReader
from engines.openai_responses.reading import read_responses
from engines.openai_responses.writing import ResponsesClient
from tests.providers.cases import PATCH

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from([PATCH, "\\ud83d", '"}', "\\"])


def read(pieces: list[str]) -> str:
    reader = InputReader()
    return "".join([*(reader.feed(each) for each in pieces), reader.end()])


@given(text=TEXTS, ascii_only=st.booleans(), size=st.integers(1, 9), space=st.sampled_from(["", " ", "\n  "]))
def test_a_text_comes_back_as_it_was_however_it_is_written_and_cut(
    text: str, ascii_only: bool, size: int, space: str
) -> None:
    written = f'{space}{{{space}"input"{space}:{space}{json.dumps(text, ensure_ascii=ascii_only)}{space}}}'
    assert read([written[at : at + size] for at in range(0, len(written), size)]) == text


@given(text=TEXTS, cut=st.integers(0, 400))
def test_what_is_cut_anywhere_is_a_beginning_of_the_text_that_can_be_sent(text: str, cut: int) -> None:
    written = json.dumps({"input": text})[:cut]
    said = read(list(written))
    said.encode()
    assert text.startswith(said) or written.startswith(said)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("*** Begin Patch", "*** Begin Patch"),
        ('"*** Begin Patch"', "*** Begin Patch"),
        ('{"more": 1, "input": "text"}', "text"),
        ('{"input": "text", "more": 1}', "text"),
        ('{"patch": "text"}', '{"patch": "text"}'),
        ('{"input": 5}', '{"input": 5}'),
        (" " * 600 + '{"input": "text"}', "text"),
        ('{"input": "a\nb\tc"}', "a\nb\tc"),
        ('{"input": "a\\qb"}', "a\\qb"),
        ('{"input": "a\\uZZZZ and more"}', 'a\\uZZZZ and more"}'),
        ('{"input": "\\ud83d!"}', "\ufffd!"),
        ("", ""),
    ],
)
def test_a_model_that_writes_something_else_is_not_lost(written: str, text: str) -> None:
    assert read([written]) == read(list(written)) == text


def test_a_conversation_with_custom_calls_is_one_with_functions_to_whoever_knows_only_those() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}
    asked = read_responses(
        {
            "input": [
                {"role": "user", "content": "Fix it."},
                {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": PATCH},
                {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done."},
            ],
            "tools": [
                {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": grammar},
                {"type": "custom", "name": "note"},
            ],
            "tool_choice": {"type": "custom", "name": "apply_patch"},
        },
        None,
    )
    body = chat_body(asked)
    call, result = body["messages"][1:]
    told = call["tool_calls"][0]["function"]
    assert (told["name"], json.loads(told["arguments"])) == ("apply_patch", {"input": PATCH})
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "Done."}
    first, second = (each["function"] for each in body["tools"])
    assert first["description"] == "Edits files.\n\n'input' must match this Lark grammar:\nstart: /x+/"
    assert first["parameters"]["required"] == list(first["parameters"]["properties"]) == ["input"]
    assert second["name"] == "note"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "apply_patch"}}


@pytest.mark.parametrize("syntax", ["lark", "regex"])
def test_a_grammar_that_is_to_be_enforced_is_refused_by_name(syntax: str) -> None:
    tool: dict[str, Any] = {
        "type": "custom",
        "name": "note",
        "format": {"type": "grammar", "syntax": syntax, "definition": "x+"},
    }
    with pytest.raises(Unsupported) as refused:
        read_responses({"input": "Note it.", "tools": [tool | {"strict": True}]}, None)
    assert refused.value.param == "tools[0].strict"
    for unasked in ({}, {"strict": False}, {"strict": None}):
        (read,) = read_responses({"input": "Note it.", "tools": [tool | unasked]}, None).tools
        assert "x+" in read.description


def test_a_function_called_like_no_custom_tool_stays_a_function() -> None:
    from engines.canonical import Answer, Stop, ToolCall

    calls = (ToolCall("c1", "note", '{"input":"a"}'), ToolCall("c2", "look", '{"input":"b"}'))
    asked: dict[str, Any] = {
        "tools": [{"type": "custom", "name": "note"}, {"type": "function", "name": "look"}]
    }
    told = json.loads(ResponsesClient().write_answer(Answer(calls, Stop.TOOLS), asked, model="m", now=1))
    assert [(each["type"], each.get("input"), each.get("arguments")) for each in told["output"]] == [
        ("custom_tool_call", "a", None),
        ("function_call", None, '{"input":"b"}'),
    ]
