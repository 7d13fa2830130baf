"""What upstreams say they used where they fail: read where it is there and can be, and never a reason to fail otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.adapter import Call, StreamReader
from engines.anthropic.answers import Messages
from engines.anthropic.passing import SharedMessages
from engines.bedrock.answers import Converse
from engines.cohere.answers import Cohere
from engines.dialects import ProviderDialect
from engines.errors import EngineError
from engines.gemini.answers import Gemini
from engines.messages import Count
from engines.native import NativeEngine
from engines.openai import OpenAIEngine
from engines.openai_responses.answers import responses_count
from engines.providers import PROVIDERS
from engines.told import MOST, ReadUsage, chat_count, told_count
from engines.transport import OpenResponse, Response
from gateway.pipeline.attempts import told_by
from tests.providers.wires import dumped, frame, sse

CHAT = "/v1/chat/completions"
COUNT = Count(prompt=10, completion=7, cached=4, reasoning=2, cache_write=1)
READS: dict[str, ReadUsage] = {
    "openai": chat_count,
    "responses": responses_count,
    "anthropic": Messages().read_usage,
    "gemini": Gemini().read_usage,
    "bedrock": Converse().read_usage,
    "cohere": Cohere().read_usage,
}
USAGES: dict[str, tuple[dict[str, Any], Count]] = {
    "openai": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        COUNT,
    ),
    "responses": (
        {
            "input_tokens": 10,
            "output_tokens": 7,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        COUNT,
    ),
    "anthropic": (
        {
            "input_tokens": 5,
            "output_tokens": 7,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 1,
            "output_tokens_details": {"thinking_tokens": 2},
        },
        COUNT,
    ),
    "gemini": (
        {
            "promptTokenCount": 10,
            "cachedContentTokenCount": 4,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 2,
        },
        Count(10, 7, 4, 2),
    ),
    "bedrock": (
        {"inputTokens": 5, "outputTokens": 7, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 1},
        Count(10, 7, 4, 0, 1),
    ),
    "cohere": (
        {"billed_units": {"input_tokens": 10, "output_tokens": 7}, "cached_tokens": 4},
        Count(10, 7, 4),
    ),
}


def named(name: str) -> str:
    """What a dialect calls its usage."""
    return "usageMetadata" if name == "gemini" else "usage"


@pytest.mark.parametrize("name", READS)
def test_a_usage_is_found_beside_the_error_and_in_it(name: str) -> None:
    usage, count = USAGES[name]
    error = {"message": "words", "type": "x"}
    for body in (
        {"error": error, named(name): usage},
        {"type": "error", "error": {**error, named(name): usage}},
        {"type": "response.failed", "response": {"status": "failed", named(name): usage}},
        {"error": "words", "status": 500, named(name): usage},
    ):
        assert told_count(READS[name], dumped(body)) == count, body


def test_counts_that_are_written_as_texts_are_counts() -> None:
    usage = {"prompt_tokens": "10", "completion_tokens": 7.0}
    assert told_count(chat_count, dumped({"error": {}, "usage": usage})) == Count(10, 7)


def test_a_count_of_an_embedding_has_no_output() -> None:
    body = dumped({"error": {}, "usage": {"prompt_tokens": 8, "total_tokens": 8}})
    assert told_count(chat_count, body) == Count(prompt=8)


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("value", [-1, 10**12, "many", True, 1.5, [], {}, None])
def test_a_count_that_cannot_be_is_none(name: str, value: Any) -> None:
    usage, _ = USAGES[name]
    for field, whole in usage.items():
        # What is left out is nothing; what Cohere has in its cache is at most what went in.
        optional = "cache" in field.lower() or field in ("candidatesTokenCount", "thoughtsTokenCount")
        if isinstance(whole, dict) or field == "cached_tokens" or (value is None and optional):
            continue
        found = told_count(READS[name], dumped({"error": {}, named(name): {**usage, field: value}}))
        assert found is None, field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b"null",
        b"[]",
        b'"usage"',
        b'{"usage":null}',
        b'{"usage":7}',
        b'{"usage":[]}',
        b'{"usage":{}}',
        b'{"usage":{"prompt_tokens":5}}',
        b'{"usage":{"completion_tokens":5}}',
        b'{"error":{"usage":{"usage":{"prompt_tokens":1,"completion_tokens":1}}}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1}',
        b"\xff\xfe",
        b'{"a":' * 5_000,
    ],
)
def test_a_body_that_tells_nothing_is_no_trouble(body: bytes) -> None:
    for read in READS.values():
        assert told_count(read, body) is None


def test_of_a_body_that_is_too_long_nothing_is_read() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    assert told_count(chat_count, dumped({"usage": usage, "x": "y" * (MOST // 2)})) == Count(1, 1)
    assert told_count(chat_count, dumped({"usage": usage, "x": "y" * MOST})) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["usage", "usageMetadata", "error", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens",
             "inputTokens", "outputTokens", "promptTokenCount", "billed_units", "delta", "response"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(body=JSON.map(json.dumps).map(str.encode) | st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_a_body_holds_it_is_a_count_that_can_be_or_none(body: bytes) -> None:
    for read in READS.values():
        found = told_count(read, body)
        assert found is None or (0 <= found.reasoning <= found.completion and found.cached <= found.prompt)


# -- through the adapters --------------------------------------------------------------------------------


class Upstream:
    """Answers everything with the same."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body
        self.headers: Mapping[str, str] = {"content-type": "application/json; charset=utf-8"}
        self.closed = False

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(self.status, {}, self.body)

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        return self  # pyright: ignore[reportReturnType]

    async def rest(self) -> bytes:
        return self.body

    def close(self) -> None:
        self.closed = True


NATIVE: dict[str, Callable[[], ProviderDialect]] = {
    "anthropic": Messages,
    "gemini": Gemini,
    "bedrock": Converse,
    "cohere": Cohere,
}


def engine(name: str, upstream: Upstream) -> OpenAIEngine | NativeEngine:
    transport: Any = upstream
    if name in NATIVE:
        return NativeEngine(transport, NATIVE[name]())
    return OpenAIEngine(transport, is_vllm=False, provider=PROVIDERS["openai"], responses=True)


def call(name: str, *, stream: bool = False) -> Call:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    path = CHAT
    if name == "responses":
        body, path = {"input": "hi"}, "/v1/responses"
    return Call(path, {**body, "stream": stream}, "m", 50, {})


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("status", [400, 429, 500, 529])
async def test_a_refusal_carries_what_its_body_tells(name: str, status: int) -> None:
    usage, count = USAGES[name]
    adapter = engine(name, Upstream(status, dumped({"error": {"message": "x"}, named(name): usage})))
    for streamed in (False, True):
        asked = call(name, stream=streamed)
        with pytest.raises(EngineError) as caught:
            await (adapter.open(asked) if streamed else adapter.complete(asked))
        assert (caught.value.status, caught.value.count) == (status, count)


GARBLED: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"error": {"message": "x"}}),
    ("openai", {"choices": []}),
    ("responses", {"status": "failed", "error": {"code": "server_error"}, "output": []}),
    ("anthropic", {"content": [], "stop_reason": None}),
    ("gemini", {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}),
    ("bedrock", {"output": {"message": {"content": []}}, "stopReason": "malformed_model_output"}),
    ("cohere", {"message": {"content": []}, "finish_reason": "ERROR"}),
]


@pytest.mark.parametrize(("name", "answer"), GARBLED)
async def test_an_answer_that_is_none_carries_what_it_tells(name: str, answer: dict[str, Any]) -> None:
    usage, count = USAGES[name]
    with pytest.raises(EngineError) as caught:
        await engine(name, Upstream(200, dumped({**answer, named(name): usage}))).complete(call(name))
    assert caught.value.count == count


@pytest.mark.parametrize("name", READS)
async def test_an_answer_that_should_have_been_a_stream_carries_what_it_tells(name: str) -> None:
    usage, count = USAGES[name]
    for kind, found in (("application/json; charset=utf-8", count), ("text/html", None)):
        upstream = Upstream(200, dumped({"error": {"message": "x"}, named(name): usage}))
        upstream.headers = {"content-type": kind}
        with pytest.raises(EngineError) as caught:
            await engine(name, upstream).open(call(name, stream=True))
        assert (caught.value.count, upstream.closed) == (found, True)


def openai(value: dict[str, Any]) -> bytes:
    return sse(("", value))


ROLE = openai({"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
BEGUN = sse(
    (
        "message_start",
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 10, "output_tokens": 1}}},
    )
)
STREAMS: dict[str, tuple[str, bytes, Count]] = {
    "openai: beside the error": (
        "openai",
        ROLE + openai({"error": {"message": "x"}, "usage": USAGES["openai"][0]}),
        COUNT,
    ),
    "openai: counted before": (
        "openai",
        openai({"id": "x", "choices": [], "usage": USAGES["openai"][0]})
        + openai({"error": {"message": "x"}}),
        COUNT,
    ),
    "responses": (
        "responses",
        sse(
            (
                "response.failed",
                {
                    "type": "response.failed",
                    "response": {"status": "failed", "usage": USAGES["responses"][0]},
                },
            )
        ),
        COUNT,
    ),
    "anthropic: beside the error": (
        "anthropic",
        BEGUN
        + sse(("error", {"type": "error", "error": {"type": "api_error"}, "usage": USAGES["anthropic"][0]})),
        COUNT,
    ),
    "anthropic: what went in, as its message began": (
        "anthropic",
        BEGUN + sse(("error", {"type": "error", "error": {"type": "overloaded_error"}})),
        Count(prompt=10, exact=False),
    ),
    "gemini: a call that it could not write": (
        "gemini",
        openai(
            {
                "candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}],
                "usageMetadata": USAGES["gemini"][0],
            }
        ),
        USAGES["gemini"][1],
    ),
    "bedrock: told behind the end that is none": (
        "bedrock",
        frame("messageStart", b'{"role":"assistant"}')
        + frame("messageStop", b'{"stopReason":"malformed_model_output"}')
        + frame("metadata", dumped({"usage": USAGES["bedrock"][0]})),
        USAGES["bedrock"][1],
    ),
    "bedrock: in an exception": (
        "bedrock",
        frame(
            "modelStreamErrorException",
            dumped({"message": "x", "usage": USAGES["bedrock"][0]}),
            "exception",
        ),
        USAGES["bedrock"][1],
    ),
    "cohere: at an end that is an error": (
        "cohere",
        openai({"type": "message-start", "id": "x"})
        + openai({"type": "message-end", "delta": {"finish_reason": "ERROR", "usage": USAGES["cohere"][0]}}),
        USAGES["cohere"][1],
    ),
}


def readers(name: str) -> list[StreamReader]:
    """Every way in which a stream of the dialect may be read: as it is, and translated."""
    adapter = engine(name, Upstream(200, b""))
    ways: dict[str, Any] = {"show_usage": True, "show_running": False, "limit": 100}
    made = [adapter.reader(call(name), **ways)]
    if name == "openai":
        asked = Call("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}, "m", 50, {})
        made.append(adapter.reader(asked, **ways))
    if name == "anthropic":
        made.append(SharedMessages().shared_stream(limit=100, most=50))
    return made


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_fails_before_its_first_token_tells_what_it_used_wherever_it_is_cut(case: str) -> None:
    name, data, count = STREAMS[case]
    for at in range(len(data)):
        for reader in readers(name):
            with pytest.raises(EngineError) as caught:
                for piece in (data[:at], data[at:]):
                    if piece:
                        reader.feed(piece)
                reader.ended()
            assert told_by(caught.value, reader) == count, at


def test_what_came_stands_where_less_is_told_with_the_failure() -> None:
    (reader, *_) = readers("openai")
    words = openai({"id": "x", "choices": [{"index": 0, "delta": {"content": "word"}}]})
    reader.feed(words * 3)
    failure = EngineError()
    failure.count = Count(10, 2)
    assert told_by(failure, reader) is None
    failure.count = Count(10, 3)
    assert told_by(failure, reader) == Count(10, 3)
