"""The adapter to upstreams that speak OpenAI's HTTP: the local vLLM and every compatible provider.

The request is written from the validated object, in the words that the provider's entry in engines/providers.py names;
for vLLM it carries what makes counts exact and callers separate. Clients of OpenAI's dialect get the answer's own bytes;
for others it is translated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from engines.adapter import Call, Completed, StreamReader
from engines.answer_json import decoded
from engines.chat_stream import ChatStream
from engines.clients import CHAT, EMBEDDINGS, RESPONSES, client_of
from engines.embeddings import in_order
from engines.errors import EngineError, Garbled, Refused
from engines.experts import ROUTED, ExpertLoad
from engines.forms import Forms
from engines.messages import ABSURD, NO_ERROR, Answer, Choice, decode_answer
from engines.openai_chat.body import chat_body
from engines.openai_chat.provider import ChatReader, chat_reason, context_limit, read_chat_answer
from engines.openai_chat.whole import TranslatedChat
from engines.openai_responses.answers import responses_count
from engines.openai_responses.passing import ResponsesStream, passed_body, read_passed, retold, told_of
from engines.openai_responses.reading import HINTS
from engines.providers import PROVIDERS, Provider
from engines.told import ReadUsage, chat_count, no_stream, told_count
from engines.transport import OpenResponse, Transport
from engines.waits import asked_wait_ms

_encode = msgspec.json.Encoder().encode
_USAGE_AT_END = {"include_usage": True}
_USAGE_ALWAYS = {"include_usage": True, "continuous_usage_stats": True}
_ERROR_BODY = 1 << 16
_SPOKEN = frozenset({CHAT, "/v1/completions", EMBEDDINGS})
"""Paths that mean the same to the client and to every provider of the family."""


class _Count(msgspec.Struct, gc=False):
    count: int


_decode_count = msgspec.json.Decoder(_Count).decode


class OpenAIEngine:
    """One upstream address behind the adapter; `below` is what of a call's path the address holds already."""

    def __init__(
        self,
        transport: Transport,
        *,
        is_vllm: bool,
        provider: Provider | None = None,
        below: str = "",
        responses: bool = False,
        experts: ExpertLoad | None = None,
    ) -> None:
        """`responses`: it speaks OpenAI's Responses too, so that those pass through; else they are translated."""
        self.transport = transport
        self.is_vllm = is_vllm
        self._provider = provider or PROVIDERS["openai-compatible"]
        self._below = below
        self._spoken = _SPOKEN | {RESPONSES} if responses else _SPOKEN
        self._experts = experts
        self._forms = Forms()
        self._translated = Forms()
        """Those of answers that are translated: all that these say is in them."""
        # What has another name there, and what we are asked to send under that of OpenAI's.
        self._renamed = self._provider.renamed

    @property
    def counts_while_running(self) -> bool:
        """Whether every event of a stream tells the tokens so far."""
        return self.is_vllm

    async def complete(self, call: Call) -> Completed:
        """The whole answer; raises EngineError."""
        path, sent = (call.path, call.body) if call.path in self._spoken else self._asked(call)
        body = self._body(call, path, sent, stream=False)
        below = path.removeprefix(self._below) if self._below else path
        response = await self.transport.post(below, body, call.headers)
        try:
            if response.status != 200:
                raise _refused(response.status, response.body, response.headers)
            told = response.body
            if path == RESPONSES:
                return Completed(retold(told, told_of(call.body)), read_passed(told))
            if self._experts is not None and ROUTED in told:
                told = self._experts.read(told)
            answer = decoded(decode_answer, told)
            if not answer.choices or (answer.error is not NO_ERROR and answer.failed):
                if path != EMBEDDINGS or answer.failed:
                    raise Garbled("the answer has no choices")
                told = in_order(told, call.body)
                if answer.usage is not None:
                    # Some say nothing of what there is none of.
                    answer.usage.completion_tokens = answer.usage.completion_tokens or 0
                answer = Answer([Choice(finish_reason="stop")], answer.usage, answer.model)
            if path == call.path:
                return Completed(told, answer)
            client = client_of(call.path)
            whole = read_chat_answer(told)
            return Completed(
                client.write_answer(whole, call.body, model=call.model, now=int(time.time())), answer
            )
        except EngineError as exc:
            exc.count = told_count(_reads(path), response.body)
            raise

    async def open(self, call: Call) -> OpenResponse:
        """The head of a streamed answer; raises EngineError."""
        path, sent = self._asked(call)
        body = self._body(call, path, sent, stream=True)
        opened = await self.transport.open(path.removeprefix(self._below), body, call.headers)
        if opened.status != 200:
            try:
                rest = await opened.rest()
                refused = _refused(opened.status, rest, opened.headers)
                refused.count = told_count(_reads(path), rest)
                raise refused
            finally:
                opened.close()
        if not opened.headers.get("content-type", "").lower().startswith("text/event-stream"):
            raise await no_stream(opened, _reads(path))
        return opened

    def reader(self, call: Call, *, show_usage: bool, show_running: bool, limit: int) -> StreamReader:
        """What passes the stream of this call on, or turns it into the client's dialect."""
        if call.path in self._spoken:
            if call.path == RESPONSES:
                return ResponsesStream(told_of(call.body), limit=limit, most=call.max_tokens)
            return ChatStream(
                show_usage=show_usage, show_running=show_running, limit=limit, forms=self._forms
            )
        writer = client_of(call.path).writer(
            call.body, show_usage=show_usage, model=call.model, now=int(time.time())
        )
        return TranslatedChat(
            ChatReader(running=self.is_vllm),
            writer,
            limit=limit,
            most=call.max_tokens,
            show_usage=show_usage,
            forms=self._translated,
        )

    async def count(self, call: Call) -> int | None:
        """vLLM's own count of a chat's prompt, template and all; no other of the family counts without answering."""
        if not self.is_vllm or self._below:
            return None
        path, sent = self._asked(call)
        if path != CHAT:
            return None
        body: dict[str, Any] = {"model": call.model, "messages": sent["messages"]}
        if sent.get("tools"):
            body["tools"] = sent["tools"]
        response = await self.transport.post("/tokenize", _encode(body), call.headers)
        if response.status != 200:
            raise _refused(response.status, response.body, response.headers)
        found = decoded(_decode_count, response.body).count
        if not 0 <= found <= ABSURD:
            raise Garbled("a count that cannot be")
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        await self.transport.aclose()

    def _asked(self, call: Call) -> tuple[str, dict[str, Any]]:
        """Path and body as this dialect has them."""
        if call.path in self._spoken:
            return call.path, call.body
        return CHAT, chat_body(client_of(call.path).read_request(call.body, call.max_tokens))

    def _body(self, call: Call, path: str, sent: dict[str, Any], *, stream: bool) -> bytes:
        provider = self._provider
        if path == RESPONSES:
            body = passed_body(sent, model=call.model, max_tokens=call.max_tokens, stream=stream)
            if self.is_vllm:
                body = {name: value for name, value in body.items() if name not in HINTS}
            return self._encoded(call, body)
        body = {"model": call.model, **sent}
        if call.max_tokens is not None and call.path != EMBEDDINGS:
            # Text completions are older than the newer word.
            named = "max_tokens" if call.path == "/v1/completions" else provider.max_tokens
            body[named] = call.max_tokens
        for name, there in self._renamed:
            if name in body:
                body[there] = body.pop(name)
        if stream:
            body["stream"] = True
            if self.is_vllm:
                body["stream_options"] = _USAGE_ALWAYS
            elif provider.asks_usage:
                body["stream_options"] = _USAGE_AT_END
        return self._encoded(call, body)

    def _encoded(self, call: Call, body: dict[str, Any]) -> bytes:
        """The body with what keeps callers of a vLLM apart."""
        if self.is_vllm:
            if call.cache_salt is not None:
                body["cache_salt"] = call.cache_salt
            if call.priority is not None:
                body["priority"] = call.priority
        return _encode(body)


def _reads(path: str) -> ReadUsage:
    return responses_count if path == RESPONSES else chat_count


def _refused(status: int, body: bytes, headers: Mapping[str, str]) -> Refused:
    body = body[:_ERROR_BODY]
    wait = asked_wait_ms(status, headers)
    return Refused(status, body, wait, chat_reason(status, body), context_limit(body))
