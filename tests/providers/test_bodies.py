"""One request that has everything, as each provider is sent it: to the letter, so that nothing is lost, moved or changed on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from engines.adapter import Call
from engines.anthropic.answers import Messages
from engines.bedrock.answers import Converse
from engines.canonical import (
    EmbeddingRequest,
    Format,
    Image,
    Message,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from engines.clients import CHAT, EMBEDDINGS
from engines.cohere.answers import Cohere
from engines.dialects import EmbeddingDialect, ProviderDialect
from engines.errors import ConnectFailed, Unsupported
from engines.gemini.answers import Gemini
from engines.openai import OpenAIEngine
from engines.openai_chat.body import chat_body
from engines.providers import PROVIDERS, speaks_responses
from engines.transport import OpenResponse, Response
from gateway.providers.adapters import engine_of

CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
EVERYTHING = Request(
    system=("Be brief.", "Be kind."),
    messages=(
        Message("user", (Text("How?"), Image("image/jpeg", "AAAA"))),
        Message(
            "assistant",
            (
                Reasoning("Hm.", "proof"),
                Reasoning(redacted="sealed"),
                Reasoning("Another's."),
                Text("I look."),
                ToolCall("c1", "weather", '{"city":"Bern"}', "why"),
                ToolCall("c2", "clock", "{}"),
            ),
        ),
        Message(
            "user",
            (
                Text("So?"),
                ToolResult("c1", (Text('{"celsius":21}'),)),
                ToolResult("c2", (Text("broken"),), is_error=True),
            ),
        ),
    ),
    tools=(Tool("weather", "Looks it up.", CITY, strict=True), Tool("clock", "", NOTHING)),
    tool_choice=ToolChoice("required"),
    thinking=Thinking(effort="low"),
    max_tokens=5_000,
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    stop=("END",),
)
PLACE = Request(
    messages=(Message("user", (Text("Where?"),)),),
    format=Format(CITY, "place", strict=True, description="A place."),
    thinking=Thinking(effort="high", shown=False),
)

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}},
    {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}
WEATHER: dict[str, Any] = {"name": "weather", "description": "Looks it up.", "parameters": CITY}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock", "parameters": NOTHING}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "How?"}, PICTURE]},
    {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "content": '{"celsius":21}'},
    {"role": "tool", "tool_call_id": "c2", "content": "Error: broken"},
]

SENT: dict[str, dict[str, Any]] = {
    "openai": {
        "messages": [*TURNS, {"role": "user", "content": "So?"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop": ["END"],
        "tools": [{"type": "function", "function": {**WEATHER, "strict": True}}, CLOCK],
        "tool_choice": "required",
        "reasoning_effort": "low",
    },
    "cohere": {
        "model": "m",
        "messages": [*TURNS, {"role": "user", "content": [{"type": "text", "text": "So?"}]}],
        "stream": True,
        "max_tokens": 5_000,
        "temperature": 0.5,
        "p": 0.9,
        "k": 40,
        "stop_sequences": ["END"],
        "tools": [{"type": "function", "function": WEATHER}, CLOCK],
        "strict_tools": True,
        "tool_choice": "REQUIRED",
        "thinking": {"type": "enabled", "token_budget": 1_024},
    },
    "anthropic": {
        "model": "m",
        "max_tokens": 5_000,
        "system": "Be brief.\n\nBe kind.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "How?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "proof"},
                    {"type": "redacted_thinking", "data": "sealed"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
                    {"type": "tool_use", "id": "c2", "name": "clock", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": '{"celsius":21}'}],
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "content": [{"type": "text", "text": "broken"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["END"],
        "tools": [
            {"name": "weather", "description": "Looks it up.", "input_schema": CITY, "strict": True},
            {"name": "clock", "input_schema": NOTHING},
        ],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low"},
        "stream": True,
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "How?"}, {"inlineData": {"mimeType": "image/jpeg", "data": "AAAA"}}],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "Hm.", "thought": True, "thoughtSignature": "proof"},
                    {"text": "I look."},
                    {
                        "functionCall": {"id": "c1", "name": "weather", "args": {"city": "Bern"}},
                        "thoughtSignature": "why",
                    },
                    {"functionCall": {"id": "c2", "name": "clock", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"text": "So?"},
                    {"functionResponse": {"id": "c1", "name": "weather", "response": {"celsius": 21}}},
                    {"functionResponse": {"id": "c2", "name": "clock", "response": {"error": "broken"}}},
                ],
            },
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "Looks it up.", "parametersJsonSchema": CITY},
                    {"name": "clock", "parametersJsonSchema": NOTHING},
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "generationConfig": {
            "maxOutputTokens": 5_000,
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "stopSequences": ["END"],
            "thinkingConfig": {"thinkingBudget": 1_024, "includeThoughts": True},
        },
    },
    "bedrock": {
        "system": [{"text": "Be brief."}, {"text": "Be kind."}],
        "messages": [
            {
                "role": "user",
                "content": [{"text": "How?"}, {"image": {"format": "jpeg", "source": {"bytes": "AAAA"}}}],
            },
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "proof"}}},
                    {"reasoningContent": {"redactedContent": "sealed"}},
                    {"text": "I look."},
                    {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Bern"}}},
                    {"toolUse": {"toolUseId": "c2", "name": "clock", "input": {}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "c1", "content": [{"text": '{"celsius":21}'}]}},
                    {"toolResult": {"toolUseId": "c2", "content": [{"text": "broken"}], "status": "error"}},
                    {"text": "So?"},
                ],
            },
        ],
        "inferenceConfig": {"maxTokens": 5_000, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "weather",
                        "description": "Looks it up.",
                        "inputSchema": {"json": CITY},
                        "strict": True,
                    }
                },
                {"toolSpec": {"name": "clock", "inputSchema": {"json": NOTHING}}},
            ],
            "toolChoice": {"any": {}},
        },
        "outputConfig": {"effort": "low"},
        "additionalModelRequestFields": {"top_k": 40, "thinking": {"type": "adaptive"}},
    },
}
OF_PLACE: dict[str, dict[str, Any]] = {
    "openai": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": CITY, "strict": True, "description": "A place."},
        },
        "reasoning_effort": "high",
    },
    "cohere": {
        "response_format": {"type": "json_object", "json_schema": CITY},
        "thinking": {"type": "enabled", "token_budget": 16_384},
    },
    "anthropic": {
        "max_tokens": 8_192,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": CITY}},
    },
    "gemini": {
        "generationConfig": {
            "responseMimeType": "application/json",
            "responseJsonSchema": CITY,
            "thinkingConfig": {"thinkingBudget": 24_576, "includeThoughts": False},
        }
    },
    "bedrock": {
        "outputConfig": {
            "effort": "high",
            "textFormat": {
                "type": "json_schema",
                "structure": {
                    "jsonSchema": {"name": "place", "schema": json.dumps(CITY), "description": "A place."}
                },
            },
        },
        "additionalModelRequestFields": {"thinking": {"type": "adaptive"}},
    },
}
DIALECTS = {
    "anthropic": (Messages(), "m"),
    "gemini": (Gemini(), "gemini-3-pro"),
    "bedrock": (Converse(), "anthropic.m"),
    "cohere": (Cohere(), "m"),
}


def written(dialect: str, request: Request) -> dict[str, Any]:
    if dialect == "openai":
        return chat_body(request)
    provider, model = DIALECTS[dialect]
    return json.loads(provider.write_request(request, model=model, stream=True))


@pytest.mark.parametrize("dialect", SENT)
def test_a_request_with_everything_is_sent_to_the_letter(dialect: str) -> None:
    assert written(dialect, EVERYTHING) == SENT[dialect]


@pytest.mark.parametrize("dialect", OF_PLACE)
def test_a_format_and_how_much_to_think_are_sent_to_the_letter(dialect: str) -> None:
    body = written(dialect, PLACE)
    for name in ("messages", "contents", "model", "stream"):
        body.pop(name, None)
    if dialect == "bedrock":
        shape = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
        shape["schema"] = json.dumps(json.loads(shape["schema"]))
    assert body == OF_PLACE[dialect]


WORDS = (Message("user", (Text("Hi"),)),)
FAR = Request((Message("user", (Image(url="https://example.com/a.png"),)),), temperature=1.0, top_p=1.0)


def test_a_picture_at_an_address_is_asked_for_there() -> None:
    by_url = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert written("openai", FAR)["messages"] == [{"role": "user", "content": [by_url]}]
    assert written("cohere", FAR)["messages"] == [{"role": "user", "content": [by_url]}]
    source = {"type": "url", "url": "https://example.com/a.png"}
    assert written("anthropic", FAR)["messages"][0]["content"] == [{"type": "image", "source": source}]


def test_anthropics_newest_models_are_not_told_what_changes_nothing() -> None:
    assert not {"temperature", "top_p"} & written("anthropic", FAR).keys()
    assert written("cohere", FAR)["temperature"] == 1.0


def test_a_temperature_that_anthropic_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(Unsupported) as caught:
        written("anthropic", Request(FAR.messages, temperature=1.5))
    assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    ("kind", "host", "speaks"),
    [
        ("openai", "api.openai.com", True),
        ("openai", "eu.api.openai.com", True),
        ("openai", "xapi.openai.com", False),
        ("openai", "api.openai.com.example", False),
        ("azure-openai", "x.openai.azure.com", True),
        ("azure-openai", "x.cognitiveservices.azure.com", True),
        ("azure-openai", "x.services.ai.azure.com", True),
        ("azure-openai", "openai.azure.com.example", False),
        ("groq", "api.groq.com", False),
    ],
)
def test_responses_pass_through_where_they_are_known_to_be_spoken_or_said_to_be(
    kind: str, host: str, speaks: bool
) -> None:
    provider, address = PROVIDERS[kind], f"https://{host}/v1"
    assert speaks_responses(provider, address, {}) is speaks
    assert speaks_responses(provider, address, {"responses": "yes"})
    assert not speaks_responses(provider, address, {"responses": "no"})


@pytest.mark.parametrize(
    ("provider", "model", "plain", "streamed"),
    [
        (Messages(), "m", "/messages", "/messages"),
        (Cohere(), "m", "/chat", "/chat"),
        (Gemini(), "m", "/models/m:generateContent", "/models/m:streamGenerateContent?alt=sse"),
        (Gemini(), "tuned/m", "/tuned/m:generateContent", "/tuned/m:streamGenerateContent?alt=sse"),
        (Converse(), "arn:a/m", "/model/arn%3Aa%2Fm/converse", "/model/arn%3Aa%2Fm/converse-stream"),
    ],
)
def test_a_model_is_called_at_its_path(
    provider: ProviderDialect, model: str, plain: str, streamed: str
) -> None:
    assert (provider.path(model, stream=False), provider.path(model, stream=True)) == (plain, streamed)


def test_what_else_the_client_set_goes_along_and_nothing_is_thought_where_nothing_should_be() -> None:
    asked = Request(
        WORDS, thinking=Thinking(effort="none"), extra={"generationConfig": {"mediaResolution": "LOW"}}
    )
    config = written("gemini", asked)["generationConfig"]
    nothing = {"thinkingBudget": 0, "includeThoughts": False}
    assert config == {"mediaResolution": "LOW", "thinkingConfig": nothing}
    assert written("cohere", Request(WORDS, thinking=Thinking(effort="none")))["thinking"] == {
        "type": "disabled"
    }


@pytest.mark.parametrize(
    ("dialect", "model", "asked", "param"),
    [
        ("gemini", "m", Request((Message("user", (ToolResult("of nobody", (Text("x"),)),)),)), "messages"),
        ("bedrock", "amazon.nova", Request((), top_k=4), "top_k"),
        ("cohere", "m", Request(WORDS, tools=EVERYTHING.tools, format=PLACE.format), "response_format"),
        (
            "bedrock",
            "amazon.nova",
            Request(EVERYTHING.messages, tools=EVERYTHING.tools, tool_choice=ToolChoice("none")),
            "tool_choice",
        ),
    ],
)
def test_what_a_provider_cannot_be_told_is_refused_by_name(
    dialect: str, model: str, asked: Request, param: str
) -> None:
    with pytest.raises(Unsupported) as caught:
        DIALECTS[dialect][0].write_request(asked, model=model, stream=False)
    assert caught.value.param == param


class Taken:
    """The port `Transport` to nowhere: notes what it was given."""

    def __init__(self) -> None:
        self.path = ""
        self.body: dict[str, Any] = {}

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        self.path, self.body = path, json.loads(body)
        raise ConnectFailed("nowhere")

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        self.path, self.body = path, json.loads(body)
        raise ConnectFailed("nowhere")

    async def get(self, path: str) -> Response:
        raise ConnectFailed("nowhere")

    async def aclose(self) -> None: ...


ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "seed": 7}
AT_ITS_END = {"stream_options": {"include_usage": True}}
NEWER, OLDER = {"max_completion_tokens": 9, "seed": 7}, {"max_tokens": 9, "seed": 7}
IN_ITS_WORDS: dict[str, dict[str, Any]] = {
    "openai": NEWER | AT_ITS_END,
    "azure-openai": NEWER | AT_ITS_END,
    "groq": NEWER | AT_ITS_END,
    # It tells the usage of every stream, and calls the seed otherwise.
    "mistral": {"max_tokens": 9, "random_seed": 7},
    **dict.fromkeys(("together", "fireworks", "deepseek", "xai", "openrouter", "ollama"), OLDER | AT_ITS_END),
    **dict.fromkeys(("databricks", "openai-compatible"), OLDER | AT_ITS_END),
    "vllm": OLDER
    | {
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "cache_salt": "salt",
        "priority": 3,
    },
}


def test_every_provider_of_openais_family_has_its_words_below() -> None:
    assert IN_ITS_WORDS.keys() == {each.name for each in PROVIDERS.values() if each.dialect == "openai"}


@pytest.mark.parametrize("kind", IN_ITS_WORDS)
async def test_a_provider_of_openais_family_is_asked_in_its_own_words(kind: str) -> None:
    transport = Taken()
    engine = engine_of(PROVIDERS[kind], transport)
    call = Call(CHAT, ASKED, "m", 9, {}, cache_salt="salt", priority=3)
    with pytest.raises(ConnectFailed):
        await engine.open(call)
    told = {name: value for name, value in transport.body.items() if name not in ("messages", "model")}
    assert (transport.path, told) == ("/chat/completions", {**IN_ITS_WORDS[kind], "stream": True})


async def test_bounds_of_older_and_of_other_calls_have_older_words_or_none() -> None:
    transport = Taken()
    engine = engine_of(PROVIDERS["openai"], transport)
    for path, body, told in (
        ("/v1/completions", {"prompt": "Hi"}, {"prompt": "Hi", "max_tokens": 9}),
        (EMBEDDINGS, {"input": "Hi"}, {"input": "Hi"}),
    ):
        with pytest.raises(ConnectFailed):
            await engine.complete(Call(path, body, "m", 9, {}))
        assert (transport.path, transport.body) == (path.removeprefix("/v1"), {"model": "m", **told})


async def test_vllm_counts_a_prompt_with_the_tools_that_are_on_offer() -> None:
    transport = Taken()
    engine = OpenAIEngine(transport, is_vllm=True)
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [CLOCK], "temperature": 0.5}
    with pytest.raises(ConnectFailed):
        await engine.count(Call(CHAT, body, "m", 9, {}))
    assert transport.path == "/tokenize"
    assert transport.body == {"model": "m", "messages": body["messages"], "tools": [CLOCK]}


TEXTS = EmbeddingRequest(("a", "b"), 2, {"input_type": "search_query"})


@pytest.mark.parametrize(
    ("dialect", "model", "request_", "body"),
    [
        (
            Cohere(),
            "m",
            TEXTS,
            {
                "input_type": "search_query",
                "model": "m",
                "texts": ["a", "b"],
                "embedding_types": ["float"],
                "output_dimension": 2,
            },
        ),
        (
            Gemini(),
            "m",
            EmbeddingRequest(("a", "b"), 2),
            {
                "requests": [
                    {"model": "models/m", "content": {"parts": [{"text": each}]}, "outputDimensionality": 2}
                    for each in ("a", "b")
                ]
            },
        ),
        (
            Converse(),
            "cohere.embed-v4",
            TEXTS,
            {"input_type": "search_query", "texts": ["a", "b"], "output_dimension": 2},
        ),
        (Converse(), "amazon.titan", EmbeddingRequest(("a",), 2), {"inputText": "a", "dimensions": 2}),
    ],
)
def test_texts_to_embed_are_sent_to_the_letter(
    dialect: EmbeddingDialect, model: str, request_: EmbeddingRequest, body: dict[str, Any]
) -> None:
    assert json.loads(dialect.write_embedding(request_, model=model)) == body


def test_bedrock_tells_what_it_embedded_in_a_header_or_in_its_answer() -> None:
    answer = b'{"embedding":[0.5],"inputTextTokenCount":4}'
    assert Converse().read_embeddings(answer, {}).tokens == 4
    assert Converse().read_embeddings(answer, {"x-amzn-bedrock-input-token-count": "5"}).tokens == 5
