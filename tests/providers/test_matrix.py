"""Every client dialect to every provider, plain and streamed, in every situation: run, compared, and published by the test.

Each cell walks from the client's body, as its route reads it, through the adapter that the gateway builds for the provider, to
the bytes that the client gets. The streamed answer adds up to the plain one, whatever the boundaries of what arrives, and
ends with exactly one terminal frame. docs/dialects.md shows what was found; run with WEIGHBRIDGE_WRITE_DOCS=1 to write it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.adapter import Adapter, Call, StreamReader
from engines.canonical import Answer, Refusal, Stop, Text, ToolCall, Usage
from engines.errors import EngineError, Unsupported
from engines.openai_responses.answers import read_response
from engines.providers import PROVIDERS as KINDS
from engines.transport import Response
from gateway.errors import BadRequest, GatewayError
from gateway.http.databricks.invocations import INVOCATIONS
from gateway.http.errors import rendered
from gateway.http.openai.chat import EMBEDDINGS
from gateway.http.plane import Api, _broken
from gateway.pipeline.completion import _mid_stream
from gateway.pipeline.exchange import ModelRequest
from gateway.pipeline.failures import translated
from gateway.providers.adapters import engine_of
from tests.providers import wires, wires_responses
from tests.providers.cases import CASES, MODEL
from tests.providers.dialects import CUSTOM, DIALECTS, SCHEMA, TOOLS, Dialect, Seen
from tests.providers.stub import _embedded
from tests.providers.test_codecs import PROVIDERS as CODECS
from tests.providers.test_codecs import Provider

RESPONSES, OF_RESPONSES = "OpenAI Responses", "responses"
"""The dialect, and those of OpenAI's family that speak it as well: asked in it, and in nothing else."""
PROVIDERS = CODECS | {
    OF_RESPONSES: Provider(
        wires_responses.responses_plain,
        wires_responses.responses_stream,
        read_response,
        CODECS["openai"].reader,
    )
}
PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"
TITLES = {
    OF_RESPONSES: "OpenAI, Azure OpenAI, and others that are said to speak it",
    "openai": "OpenAI's family",
    "anthropic": "Anthropic",
    "gemini": "Google Gemini",
    "bedrock": "Amazon Bedrock",
    "cohere": "Cohere",
}
KIND = {name: name for name in PROVIDERS} | {"bedrock": "amazon-bedrock", OF_RESPONSES: "openai"}
SITUATIONS = {
    "text": "text",
    "tool call": "tool",
    "parallel tool calls": "tools at once",
    CUSTOM: "custom tool",
    "structured output": "structured",
    "refusal": "declined",
    "length stop": "length",
}
"""Situation -> its case."""
FILTERED = ("gemini", "bedrock")
"""They tell of a refusal as of a filter's."""
COMPLETIONS = "OpenAI completions"


def speaks(dialect: str, provider: str) -> bool:
    """Whether the provider is asked by clients of that dialect under this name."""
    return provider != OF_RESPONSES or dialect == RESPONSES


def has_word_for(dialect: str, situation: str) -> bool:
    """Whether clients of that dialect can bring the situation about."""
    return dialect == RESPONSES or situation != CUSTOM


def engine(provider: str, transport: Any) -> Adapter:
    """The adapter that the gateway builds for it."""
    return engine_of(KINDS[KIND[provider]], transport, responses=provider == OF_RESPONSES)


CELLS = [
    pytest.param(dialect, provider, situation, id=f"{dialect}: {provider}: {situation}")
    for dialect in DIALECTS
    for provider in PROVIDERS
    for situation in SITUATIONS
    if speaks(dialect, provider) and has_word_for(dialect, situation)
]
FAILURES = {
    OF_RESPONSES: wires.sse(
        (
            "response.failed",
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "x"}}},
        )
    ),
    "openai": wires.sse(("", {"error": {"message": "words of the upstream"}})),
    "anthropic": wires.sse(("error", {"type": "error", "error": {"type": "overloaded_error"}})),
    "gemini": wires.sse(("", {"error": {"code": 503, "status": "UNAVAILABLE"}})),
    "bedrock": wires.frame("modelStreamErrorException", b"{}", "exception"),
    "cohere": wires.sse(("", {"type": "message-end", "delta": {"finish_reason": "ERROR"}})),
}
"""How each provider says in the middle of its stream that it failed."""
_MADE_UP = re.compile(rb'(?:chatcmpl-|resp_|msg_|fc_|ctc_|rs_)[0-9a-f-]{16,}|"created(?:_at)?":\d+')
NOT_TOLD, REFUSED = "—", "refused"


class Upstream:
    """The port `Transport` to a provider that answers from memory, and keeps what it was asked."""

    def __init__(self, status: int, plain: bytes, stream: bytes, kind: str) -> None:
        self._status, self._plain, self._stream, self._kind = status, plain, stream, kind
        self.asked: list[Any] = []

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        self.asked.append(json.loads(body))
        return Response(self._status, {"content-type": "application/json"}, self._plain)

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        self.asked.append(json.loads(body))

        async def rest() -> bytes:
            return self._plain

        headers = {"content-type": self._kind}
        return SimpleNamespace(status=self._status, headers=headers, rest=rest, close=lambda: None)


def case_of(provider: str, situation: str) -> str | None:
    """The case that the situation is there; None where the provider has no word for it."""
    case = SITUATIONS[situation]
    if case == "declined" and provider in FILTERED:
        case = "filtered"
    return None if case in PROVIDERS[provider].lacks else case


def upstream(provider: str, answer: Answer, *, texts: bool = False, status: int = 200) -> Upstream:
    """The provider with its answer on the wire; `texts`: as a text completion."""
    plain: dict[str, Any] = PROVIDERS[provider].plain(answer)
    stream = PROVIDERS[provider].stream(answer)
    if texts and provider == "openai":
        plain, stream = text_completion(answer)
    if status != 200:
        plain = {"type": "error", "error": {"type": "x", "message": "words of the upstream"}}
    kind = "application/vnd.amazon.eventstream" if provider == "bedrock" else "text/event-stream"
    return Upstream(status, wires.dumped(plain), stream, kind)


def text_completion(answer: Answer) -> tuple[dict[str, Any], bytes]:
    """An answer of text alone as OpenAI's older dialect has it."""
    (part,) = answer.parts
    assert isinstance(part, Text)
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL}
    finish = "length" if answer.stop is Stop.LENGTH else "stop"

    def choice(text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}

    usage = wires.openai_usage(answer.usage or Usage())
    chunks = [{**head, "choices": [choice(piece, None)]} for piece in wires.pieces(part.text)]
    chunks.append({**head, "choices": [choice("", finish)]})
    chunks.append({**head, "choices": [], "usage": usage})
    stream = wires.sse(*(("", each) for each in chunks)) + b"data: [DONE]\n\n"
    return {**head, "choices": [choice(part.text, finish)], "usage": usage}, stream


def asked_of(dialect: Dialect, situation: str, *, stream: bool) -> ModelRequest:
    """The request as the route reads it; a stream asks for its usage where the dialect lets it."""
    body = dialect.ask(situation) | {"stream": stream}
    if stream and ("messages" in body or "prompt" in body) and dialect.api.name != "anthropic.messages":
        body["stream_options"] = {"include_usage": True}
    return dialect.api.read(body, "an-endpoint")


def call_of(request: ModelRequest) -> Call:
    return Call(request.path, request.body, MODEL, request.max_tokens, {})


def read_through(reader: StreamReader, pieces: Iterable[bytes]) -> bytes:
    """All that the client gets, as the line passes it on."""
    out = b""
    for piece in pieces:
        out += reader.feed(piece)
        if reader.done:
            break
    else:
        reader.ended()
        out += reader.feed(b"")
    assert reader.done
    terminal = reader.terminal()
    assert terminal
    assert terminal not in out
    return out + terminal


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def wanted(dialect: Dialect, provider: str, case: str) -> Seen:
    """What the client must see of the case."""
    answer = PROVIDERS[provider].read(wires.dumped(PROVIDERS[provider].plain(CASES[case])))
    usage = answer.usage or Usage()
    said = "".join(part.text for part in answer.parts if isinstance(part, (Text, Refusal)))
    calls = [
        (part.id, part.name, json.loads(part.arguments))
        for part in answer.parts
        if isinstance(part, ToolCall)
    ]
    return Seen(said, "", calls, dialect.end(answer.stop.finish_reason), usage.prompt, usage.completion)


def told(seen: Seen) -> Seen:
    """The same with a refusal among the words, where dialects differ in what they call it."""
    return Seen(seen.text + seen.refusal, "", seen.calls, seen.end, seen.prompt, seen.completion)


@functools.cache
def found(dialect_name: str, provider: str, situation: str) -> str:
    """Run one cell, and say how the answer reached the client."""
    dialect = DIALECTS[dialect_name]
    case = case_of(provider, situation)
    if case is None or (dialect_name == COMPLETIONS and situation not in ("text", "length stop")):
        return NOT_TOLD
    answering = upstream(provider, CASES[case], texts=dialect_name == COMPLETIONS)
    adapter = engine(provider, answering)
    try:
        request = asked_of(dialect, situation, stream=False)
        plain = asyncio.run(adapter.complete(call_of(request))).body
    except (Unsupported, BadRequest):
        assert not answering.asked
        return REFUSED
    request = asked_of(dialect, situation, stream=True)
    call = call_of(request)
    opened = asyncio.run(adapter.open(call))
    assert opened.status == 200

    def reader() -> StreamReader:
        return adapter.reader(call, show_usage=request.show_usage, show_running=False, limit=10_000)

    data = answering._stream
    streamed = read_through(reader(), [data])
    # Every boundary at once; then some of them alone, and all where a stream has every kind of event.
    same = _MADE_UP.sub(b"", streamed)
    assert _MADE_UP.sub(b"", read_through(reader(), cut(data, 1))) == same
    passes = plain == answering._plain and streamed == data
    for at in range(1, len(data), 1 if passes and case == "tools at once" else 97):
        out = read_through(reader(), (data[:at], data[at:]))
        # Made up are ids of an answer that is translated: one that passes is the same byte for byte.
        assert out == streamed if passes else _MADE_UP.sub(b"", out) == same
    seen = dialect.plain(plain)
    assert told(seen) == wanted(dialect, provider, case)
    assert dialect.stream(streamed) == seen
    _asked_well(answering.asked, situation)
    return "passes" if passes else "translated"


def _asked_well(asked: list[Any], situation: str) -> None:
    """Tools, the need to call one, and the schema reached the provider, plain and streamed."""
    assert len(asked) == 2
    for body in asked:
        # Bedrock is told a schema as a text.
        written = json.dumps(body).replace('\\"', '"')
        if "tool" in situation:
            assert all(f'"{name}"' in written for name in TOOLS)
            assert any(f'"{word}"' in written.lower() for word in ("required", "any"))
        if situation == CUSTOM:
            assert '"patch"' in written
            assert "*** Begin Patch" in written
        if situation == "structured output":
            assert all(f'"{name}"' in written for name in SCHEMA["required"])
            assert "schema" in written.lower()


@pytest.mark.parametrize(("dialect", "provider", "situation"), CELLS)
def test_a_streamed_answer_adds_up_to_the_plain_one(dialect: str, provider: str, situation: str) -> None:
    outcome = found(dialect, provider, situation)
    assert (outcome == REFUSED) <= (dialect == COMPLETIONS)


def refused_before(dialect: Dialect, adapter: Adapter) -> str:
    """What the client is told where the provider fails before it answers: the same, plain and streamed."""
    said = []
    for stream in (False, True):
        request = asked_of(dialect, "text", stream=stream)
        with pytest.raises(EngineError) as caught:
            asyncio.run(adapter.open(call_of(request)) if stream else adapter.complete(call_of(request)))
        said.append(_shown(translated(caught.value), dialect.api))
    assert said[0] == said[1]
    return said[0]


def _shown(error: GatewayError, api: Api) -> str:
    status, _, body = rendered(error, api.dialect, "id")
    assert b"words of the upstream" not in body
    read = json.loads(body)
    inner = read.get("error", read)
    return f"{status} {inner.get('error_code') or inner.get('code') or inner.get('type')}"


@functools.cache
def failed(dialect_name: str, provider: str) -> tuple[str, str]:
    """(before its answer, in the middle of its stream): how a failure of the provider reaches the client."""
    dialect = DIALECTS[dialect_name]
    texts = dialect_name == COMPLETIONS
    adapter = engine(provider, upstream(provider, CASES["text"], texts=texts, status=529))
    try:
        asyncio.run(adapter.complete(call_of(asked_of(dialect, "text", stream=False))))
    except Unsupported:
        return REFUSED, REFUSED
    except EngineError:
        pass
    before = refused_before(dialect, adapter)
    answering = upstream(provider, CASES["text"], texts=texts)
    adapter = engine(provider, answering)
    request = asked_of(dialect, "text", stream=True)
    data = answering._stream
    half = _half(provider, data)
    said = set()
    for arriving in (half + FAILURES[provider], half):
        for size in (1, len(arriving)):
            call = call_of(request)
            reader = adapter.reader(call, show_usage=request.show_usage, show_running=False, limit=10_000)
            out = b""
            with pytest.raises(EngineError) as caught:
                for piece in cut(arriving, size):
                    out += reader.feed(piece)
                reader.ended()
            exchange: Any = SimpleNamespace(reader=reader, id_text="id")
            last = _broken(exchange, _mid_stream(caught.value), dialect.api)
            if size == 1:
                # In one piece with the failure nothing of it need have been passed on.
                assert out
                said.add(dialect.failed(out + last))
    (after,) = said
    return before, after


def _half(provider: str, data: bytes) -> bytes:
    """The first events of a stream, the fourth one included, whole."""
    if provider == "bedrock":
        at = 0
        for _ in range(4):
            at += int.from_bytes(data[at : at + 4], "big")
        return data[:at]
    blank = b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n"
    return blank.join(data.split(blank)[:4]) + blank


@pytest.mark.parametrize(
    ("dialect", "provider"),
    [(dialect, provider) for dialect in DIALECTS for provider in PROVIDERS if speaks(dialect, provider)],
)
def test_a_provider_that_fails_is_told_of_once_and_in_the_clients_dialect(
    dialect: str, provider: str
) -> None:
    before, after = failed(dialect, provider)
    assert before == REFUSED or before.startswith(("502 ", "500 "))
    assert (before == REFUSED) == (after == REFUSED)


@functools.cache
def embedded(provider: str) -> str:
    """How vectors reach the client of OpenAI's and of Databricks' dialect."""
    if provider == "anthropic":
        below = "/v1/messages"
    else:
        below = {"gemini": ":batchEmbedContents", "cohere": "/embed", "bedrock": "/invoke"}.get(provider, "")
    outcomes = set()
    for api in (EMBEDDINGS, INVOCATIONS):
        request = api.read({"input": "Hello"}, "an-endpoint")
        asked = {"requests": [1], "texts": [1]}
        answering = Upstream(200, wires.dumped(_embedded(below, asked)), b"", "")
        try:
            # Bedrock's models of embeddings differ in their bodies: the name tells which.
            call = Call(request.path, request.body, "amazon.titan-embed-text-v2:0", 0, {})
            body = asyncio.run(engine(provider, answering).complete(call)).body
        except Unsupported:
            outcomes.add(REFUSED)
            continue
        assert json.loads(body)["data"][0]["embedding"] == [0.5, 0]
        outcomes.add("passes" if body == answering._plain else "translated")
        with pytest.raises(BadRequest):
            api.read({"input": "Hello", "stream": True}, "an-endpoint")
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize("provider", CODECS)
def test_embeddings_come_in_openais_shape_or_are_refused(provider: str) -> None:
    assert (embedded(provider) == REFUSED) == ("embeddings" not in KINDS[KIND[provider]].features)


def _table(head: str, dialect: str, columns: Iterable[str], cell: Callable[[str, str], str]) -> list[str]:
    columns = list(columns)
    lines = ["| " + " | ".join([head, *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
    for provider, title in TITLES.items():
        if not speaks(dialect, provider):
            continue
        if dialect == RESPONSES and provider == "openai":
            title = "the rest of OpenAI's family"
        lines.append("| " + " | ".join([title, *(cell(provider, column) for column in columns)]) + " |")
    return [*lines, ""]


def page() -> str:
    """The whole of docs/dialects.md."""
    lines = [_INTRODUCTION]
    for dialect in DIALECTS:
        words = [each for each in SITUATIONS if has_word_for(dialect, each)]
        shown = ("text", "length stop") if dialect == COMPLETIONS else words
        lines += [f"## {dialect}", ""]
        lines += _table(
            "answered by",
            dialect,
            [*shown, "fails before its answer (529)", "fails in the middle of its stream"],
            lambda provider, column, dialect=dialect: (
                found(dialect, provider, column)
                if column in SITUATIONS
                else failed(dialect, provider)[column.startswith("fails in")]
            ),
        )
    lines += ["## Embeddings", "", "OpenAI's `/v1/embeddings` and Databricks' invocations; not streamed.", ""]
    lines += _table("answered by", "", ["vectors"], lambda provider, _: embedded(provider))
    return "\n".join(lines).rstrip("\n") + "\n"


_INTRODUCTION = """\
# Dialects

Which client's dialect reaches which provider, and how the answer comes back. This page is written by the test that runs every
cell of it, plain and streamed, on the providers' own wire formats: `tests/providers/test_matrix.py`. In every cell the stream
adds up to the plain answer, however what arrives is cut into pieces, and ends with exactly one terminal frame.

- **passes**: the provider's own bytes reach the client, plain and streamed.
- **translated**: the answer goes through the one form between the dialects.
- **refused**: 400 `unsupported_field`, before anything is sent.
- **—**: the dialect or the provider has no word for it. A model of Cohere's refuses in plain text.

A parallel tool call is a text and three calls in one answer. A custom tool (`apply_patch` of a coding agent) takes a text in
place of arguments: providers that know functions only are asked for a function of one text, whose grammar is told to the model
and enforced by nobody. A failure is told in the client's dialect and never in the provider's words. What each provider can be
asked is in [providers.md](providers.md), how clients are pointed here in [clients.md](clients.md).
"""


def test_the_page_of_dialects_shows_what_the_matrix_found() -> None:
    wanted_page = page()
    if os.environ.get("WEIGHBRIDGE_WRITE_DOCS"):
        PAGE.write_text(wanted_page)
    written = PAGE.read_text() if PAGE.exists() else ""
    assert written == wanted_page, (
        "docs/dialects.md is not what the matrix found; write it with:\n"
        "  WEIGHBRIDGE_WRITE_DOCS=1 python -m pytest tests/providers/test_matrix.py -k page_of_dialects"
    )
