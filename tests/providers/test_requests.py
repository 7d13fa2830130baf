"""Requests as each provider takes them, held against the types that the providers publish; and what each can be asked."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from anthropic.types import MessageCreateParams
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from cohere.core.unchecked_base_model import construct_type
from cohere.types import ChatMessageV2, ResponseFormatV2, Thinking, ToolV2
from google.genai import types as genai
from openai.types.chat import CompletionCreateParams
from pydantic import TypeAdapter

from engines.anthropic.answers import Messages
from engines.bedrock.answers import Converse
from engines.canonical import EmbeddingRequest, Request
from engines.cohere.answers import Cohere
from engines.dialects import ProviderDialect
from engines.embeddings import read_embedding, write_embeddings
from engines.errors import Reason, Unsupported
from engines.gemini.answers import Gemini
from engines.openai_chat.body import chat_body
from engines.openai_chat.provider import chat_reason
from engines.openai_chat.reading import read_chat
from engines.providers import FEATURES, PROVIDERS, Provider

ROOT = Path(__file__).parents[2]
DIALECTS: dict[str, ProviderDialect] = {
    "anthropic": Messages(),
    "gemini": Gemini(),
    "bedrock": Converse(),
    "cohere": Cohere(),
}
MODELS = {
    "anthropic": "claude-sonnet-5",
    "gemini": "gemini-3-pro",
    "bedrock": "eu.anthropic.claude-sonnet-5",
    "cohere": "command-a-03-2025",
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Looks it up.", "parameters": SCHEMA},
    },
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
]
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is it there?"},
    {
        "role": "assistant",
        "content": "I will look.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 21}'},
    {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "And here?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
        ],
    },
]
ASKED: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "Hi"}]},
    "sampling": {
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END", "\n\n"],
    },
    "tools": {"messages": HISTORY, "tools": TOOLS, "tool_choice": "auto"},
    "forced": {
        "messages": HISTORY,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "clock"}},
    },
    "required": {"messages": HISTORY[:2], "tools": TOOLS, "tool_choice": "required"},
    "none": {"messages": HISTORY[:2], "tools": TOOLS, "tool_choice": "none"},
    "schema": {
        "messages": [{"role": "user", "content": "Where?"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        },
    },
    "reasoning": {"messages": [{"role": "user", "content": "Why?"}], "reasoning_effort": "high"},
}
_BEDROCK = ServiceModel(
    botocore.session.get_session()
    .get_component("data_loader")
    .load_service_model("bedrock-runtime", "service-2")
)


def asked(name: str) -> Request:
    return read_chat(ASKED[name], 20_000)


def written(dialect: str, request: Request, *, stream: bool = False) -> dict[str, Any]:
    return json.loads(DIALECTS[dialect].write_request(request, model=MODELS[dialect], stream=stream))


@pytest.mark.parametrize("case", ASKED)
def test_what_openais_family_is_asked_is_what_openais_types_say(case: str) -> None:
    body = {"model": "m", **chat_body(asked(case)), "max_completion_tokens": 20_000}
    TypeAdapter(CompletionCreateParams).validate_python(body)
    again = read_chat(body, 20_000)
    assert [each.parts for each in again.messages] == [each.parts for each in asked(case).messages]


@pytest.mark.parametrize("case", ASKED)
def test_what_anthropic_is_asked_is_what_its_types_say(case: str) -> None:
    body = written("anthropic", asked(case), stream=True)
    TypeAdapter(MessageCreateParams).validate_python(body)
    # Models before the fifth generation sample as they are told; the newest types know nothing of it.
    known = _annotations(MessageCreateParams) | {"temperature", "top_p"}
    assert body.keys() <= known
    if case == "forced":
        assert body["tool_choice"] == {"type": "tool", "name": "clock"}
        assert [block["type"] for block in body["messages"][2]["content"]] == [
            "tool_result",
            "tool_result",
            "text",
            "image",
        ]
    if case == "reasoning":
        assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "high"})


def _annotations(union: Any) -> set[str]:
    found: set[str] = set()
    for each in union.__args__:
        for base in each.__mro__ if hasattr(each, "__mro__") else (each,):
            found |= set(getattr(base, "__annotations__", {}))
        for base in getattr(each, "__orig_bases__", ()):
            found |= set(getattr(base, "__annotations__", {}))
    return found


@pytest.mark.parametrize("case", ASKED)
def test_what_gemini_is_asked_is_what_its_types_say(case: str) -> None:
    body = written("gemini", asked(case))
    for each in body["contents"]:
        genai.Content.model_validate(each)
    if "systemInstruction" in body:
        genai.Content.model_validate(body["systemInstruction"])
    for each in body.get("tools", ()):
        genai.Tool.model_validate(each)
    if "toolConfig" in body:
        genai.ToolConfig.model_validate(body["toolConfig"])
    genai.GenerationConfig.model_validate(body["generationConfig"])
    assert body.keys() <= {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}
    if case == "tools":
        # The models that insist on a thought's proof get one, or are told not to look.
        called = [part for part in body["contents"][1]["parts"] if "functionCall" in part]
        assert ["thoughtSignature" in part for part in called] == [True, False]
        results = [
            part["functionResponse"] for part in body["contents"][2]["parts"] if "functionResponse" in part
        ]
        assert [(each["name"], each["response"]) for each in results] == [
            ("weather", {"celsius": 21}),
            ("clock", {"output": "noon"}),
        ]


@pytest.mark.parametrize("case", [case for case in ASKED if case != "none"])
def test_what_bedrock_is_asked_is_what_its_service_model_says(case: str) -> None:
    body = written("bedrock", asked(case))
    for message in body["messages"]:
        for block in message["content"]:
            if "image" in block:
                block["image"]["source"]["bytes"] = base64.b64decode(block["image"]["source"]["bytes"])
    report = ParamValidator().validate({"modelId": "m", **body}, _BEDROCK.shape_for("ConverseRequest"))
    assert not report.has_errors(), report.generate_report()
    assert body.keys() <= _BEDROCK.shape_for("ConverseRequest").members.keys()


@pytest.mark.parametrize("case", ASKED)
def test_what_cohere_is_asked_is_what_its_types_say(case: str) -> None:
    body = written("cohere", asked(case))
    for field, kind in (("messages", ChatMessageV2), ("tools", ToolV2)):
        for each in body.get(field, ()):
            assert not construct_type(type_=kind, object_=each).model_extra
    if case == "schema":
        assert not construct_type(type_=ResponseFormatV2, object_=body["response_format"]).model_extra
    if case == "reasoning":
        assert not construct_type(type_=Thinking, object_=body["thinking"]).model_extra
    if case == "forced":
        # It knows no name to choose: one tool on offer, and having to call one, is the same.
        assert [each["function"]["name"] for each in body["tools"]] == ["clock"]
        assert body["tool_choice"] == "REQUIRED"


FEATURE_BODIES: dict[str, dict[str, Any]] = {
    "tools": ASKED["tools"] | {"messages": HISTORY[:2]},
    "forced": ASKED["forced"] | {"messages": HISTORY[:2]},
    "single": {"messages": HISTORY[:2], "tools": TOOLS, "parallel_tool_calls": False},
    "object": {"messages": HISTORY[:2], "response_format": {"type": "json_object"}},
    "schema": ASKED["schema"],
    "images": {"messages": [HISTORY[-1]]},
    "urls": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}],
            }
        ]
    },
    "reasoning": ASKED["reasoning"],
}
NATIVE = [each for each in PROVIDERS.values() if each.dialect != "openai"]


@pytest.mark.parametrize("feature", FEATURE_BODIES)
@pytest.mark.parametrize("provider", NATIVE, ids=lambda each: each.name)
def test_a_provider_can_be_asked_for_what_the_table_says_and_for_nothing_else(
    provider: Provider, feature: str
) -> None:
    request = read_chat(FEATURE_BODIES[feature], 20_000)
    if feature in provider.features:
        written(provider.dialect, request)
    else:
        with pytest.raises(Unsupported) as caught:
            written(provider.dialect, request)
        assert caught.value.param


@pytest.mark.parametrize("field", ["n", "logprobs", "logit_bias"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_only_openai_has_a_word_for_is_never_dropped_in_silence(dialect: str, field: str) -> None:
    value: Any = {"n": 2, "logprobs": True, "logit_bias": {"5": 1}}[field]
    request = read_chat({"messages": [{"role": "user", "content": "Hi"}], field: value}, 100)
    with pytest.raises(Unsupported) as caught:
        written(dialect, request)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("dialect", "status", "body", "reason"),
    [
        (
            "anthropic",
            400,
            b'{"error":{"message":"prompt is too long: 9 tokens > 8 maximum"}}',
            Reason.CONTEXT_LENGTH,
        ),
        ("anthropic", 529, b'{"error":{"type":"overloaded_error"}}', Reason.OVERLOADED),
        ("anthropic", 402, b"{}", Reason.QUOTA),
        ("gemini", 400, b'{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}', Reason.CREDENTIAL),
        (
            "gemini",
            400,
            b"The input token count (9) exceeds the maximum number of tokens allowed (8).",
            Reason.CONTEXT_LENGTH,
        ),
        ("gemini", 429, b"{}", Reason.RATE_LIMITED),
        ("bedrock", 400, b'{"message":"Input is too long for requested model."}', Reason.CONTEXT_LENGTH),
        ("bedrock", 403, b"{}", Reason.CREDENTIAL),
        ("bedrock", 424, b"{}", Reason.FAILED),
        ("cohere", 400, b'{"message":"too many tokens: 9"}', Reason.CONTEXT_LENGTH),
        ("cohere", 498, b"{}", Reason.CREDENTIAL),
        ("openai", 400, b'{"error":{"code":"context_length_exceeded"}}', Reason.CONTEXT_LENGTH),
        ("openai", 400, b'{"error":{"code":"content_filter"}}', Reason.CONTENT_FILTER),
        ("openai", 429, b'{"error":{"code":"insufficient_quota"}}', Reason.QUOTA),
        ("openai", 503, b"", Reason.OVERLOADED),
    ],
)
def test_a_refusal_comes_to_the_same_whoever_words_it(
    dialect: str, status: int, body: bytes, reason: Reason
) -> None:
    found = chat_reason(status, body) if dialect == "openai" else DIALECTS[dialect].reason(status, body)
    assert found is reason


def test_embeddings_are_asked_for_and_given_as_floats_or_packed() -> None:
    body = {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 2}
    request = read_embedding(body)
    assert request == EmbeddingRequest(("a", "b"), 2)
    gemini, cohere, bedrock = Gemini(), Cohere(), Converse()
    for each in json.loads(gemini.write_embedding(request, model="m"))["requests"]:
        genai.Content.model_validate(each["content"])
    assert json.loads(cohere.write_embedding(request, model="m"))["output_dimension"] == 2
    with pytest.raises(Unsupported):
        bedrock.write_embedding(request, model="amazon.titan-embed-text-v2:0")
    told = gemini.read_embeddings(b'{"embeddings":[{"values":[0.5,1]},{"values":[2,3]}]}', {})
    packed = json.loads(write_embeddings(told, body, model="m", tokens=2))
    assert [base64.b64decode(each["embedding"]).hex() for each in packed["data"]] == [
        "0000003f0000803f",
        "0000004000004040",
    ]


def test_the_page_shows_the_table_of_providers_as_it_is() -> None:
    page = (ROOT / "docs" / "providers.md").read_text()
    assert table() in page, "docs/providers.md is to hold:\n\n" + table()


def table() -> str:
    """The table of docs/providers.md."""
    columns = list(FEATURES)
    lines = [
        "| `provider` | | address | " + " | ".join(FEATURES.values()) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for each in PROVIDERS.values():
        marks = " | ".join("yes" if column in each.features else "" for column in columns)
        address = f"`{each.base_url}`" if each.base_url else "yours"
        lines.append(f"| `{each.name}` | {each.title} | {address} | {marks} |")
    return "\n".join(lines)


def test_a_worker_carries_no_dialect_that_nobody_uses() -> None:
    dear = ("botocore", "engines.anthropic.answers", "engines.gemini", "engines.bedrock", "engines.cohere")
    code = f"import sys, gateway.worker; print([each for each in {dear!r} if each in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
