"""The adapter to providers with a dialect of their own: calls are translated, there and back, unless the client speaks it too.

What reaches the provider is written from the one form, field by field; what it answers is read into it. Its words about a
failure stay here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from engines.adapter import Call, Completed, StreamReader
from engines.canonical import Embeddings, Usage
from engines.clients import EMBEDDINGS, client_of
from engines.dialects import EmbeddingDialect, ProviderDialect, SharedDialect
from engines.embeddings import read_embedding, write_embeddings
from engines.errors import EngineError, Refused, Unsupported
from engines.messages import Answer, Choice, CompletionDetails, PromptDetails, WireUsage
from engines.one_call import asks_for_one, first_call_alone
from engines.openai_chat.provider import context_limit
from engines.tally import can_be
from engines.told import no_stream, told_count
from engines.translated_stream import TranslatedStream
from engines.transport import OpenResponse, Transport
from engines.waits import asked_wait_ms

_ERROR_BODY = 1 << 16
_BYTES_A_TOKEN = 4


class NativeEngine:
    """One provider's address behind the adapter."""

    def __init__(
        self,
        transport: Transport,
        dialect: ProviderDialect,
        *,
        embedding: EmbeddingDialect | None = None,
        shared: SharedDialect | None = None,
    ) -> None:
        self.transport = transport
        self._dialect = dialect
        self._embedding = embedding
        self._shared = shared

    @property
    def counts_while_running(self) -> bool:
        """Whether every event of a stream tells the tokens so far."""
        return False

    async def complete(self, call: Call) -> Completed:
        """The whole answer in the client's dialect; raises EngineError."""
        if call.path == EMBEDDINGS:
            return await self._embed(call)
        path, body, headers = self._asked(call, stream=False)
        response = await self.transport.post(path, body, headers)
        if response.status != 200:
            raise self._failed(response.status, response.body, response.headers)
        try:
            answer = self._dialect.read_answer(response.body)
        except EngineError as exc:
            exc.count = told_count(self._dialect.read_usage, response.body)
            raise
        counted = answer.usage
        if counted is not None and not can_be(counted):
            # The line hears of it; the client is told no count that cannot be.
            answer = msgspec.structs.replace(answer, usage=None)
        if self._passing(call) is None:
            client = client_of(call.path)
            if asks_for_one(call.body):
                answer = first_call_alone(answer)
            written = client.write_answer(answer, call.body, model=call.model, now=int(time.time()))
        else:
            written = response.body
        read = Answer(
            choices=[Choice(finish_reason=answer.stop.finish_reason)],
            usage=None if counted is None else _wire(counted),
            model=answer.model or call.model,
        )
        return Completed(written, read)

    async def open(self, call: Call) -> OpenResponse:
        """The head of a streamed answer; raises EngineError."""
        path, body, headers = self._asked(call, stream=True)
        opened = await self.transport.open(path, body, headers)
        if opened.status != 200:
            try:
                raise self._failed(opened.status, await opened.rest(), opened.headers)
            finally:
                opened.close()
        if not opened.headers.get("content-type", "").lower().startswith(self._dialect.stream_type):
            raise await no_stream(opened, self._dialect.read_usage)
        return opened

    def reader(self, call: Call, *, show_usage: bool, show_running: bool, limit: int) -> StreamReader:
        """What turns the stream of this call into the client's dialect."""
        del show_running  # Only an engine that counts every token could tell.
        if (shared := self._passing(call)) is not None:
            return shared.shared_stream(limit=limit, most=call.max_tokens)
        writer = client_of(call.path).writer(
            call.body, show_usage=show_usage, model=call.model, now=int(time.time())
        )
        return TranslatedStream(
            self._dialect.reader(),
            writer,
            limit=limit,
            most=call.max_tokens,
            show_usage=show_usage,
            one_call=asks_for_one(call.body),
        )

    async def count(self, call: Call) -> int | None:
        """The provider's own count of a call's input, where it shares the client's dialect."""
        shared = self._passing(call)
        if shared is None:
            return None
        body = shared.count_body(call.body, model=call.model)
        response = await self.transport.post(shared.count_path, body, {**call.headers, **call.shared_headers})
        if response.status != 200:
            raise self._refused(response.status, response.body, response.headers)
        return shared.read_count(response.body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.transport.aclose()

    def _passing(self, call: Call) -> SharedDialect | None:
        """The dialect in which the call passes through as it is."""
        shared = self._shared
        return shared if shared is not None and shared.spoken == call.path else None

    def _asked(self, call: Call, *, stream: bool) -> tuple[str, bytes, Mapping[str, str]]:
        """Path, body and headers of a chat call."""
        shared = self._passing(call)
        if shared is not None:
            sent = shared.shared_body(call.body, model=call.model, max_tokens=call.max_tokens, stream=stream)
            return (
                self._dialect.path(call.model, stream=stream),
                sent,
                {**call.headers, **call.shared_headers},
            )
        request = client_of(call.path).read_request(call.body, call.max_tokens)
        body = self._dialect.write_request(request, model=call.model, stream=stream)
        return self._dialect.path(call.model, stream=stream), body, call.headers

    async def _embed(self, call: Call) -> Completed:
        if self._embedding is None:
            raise Unsupported("model", "this provider has no embeddings")
        request = read_embedding(call.body)
        body = self._embedding.write_embedding(request, model=call.model)
        response = await self.transport.post(self._embedding.embedding_path(call.model), body, call.headers)
        if response.status != 200:
            raise self._failed(response.status, response.body, response.headers)
        found: Embeddings = self._embedding.read_embeddings(response.body, response.headers)
        counted = found.tokens is not None and found.tokens >= 0
        size = sum(len(text.encode()) for text in request.texts)
        tokens = found.tokens if counted and found.tokens is not None else -(-size // _BYTES_A_TOKEN)
        written = write_embeddings(found, call.body, model=call.model, tokens=tokens)
        usage = WireUsage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens) if counted else None
        return Completed(written, Answer(choices=[Choice(finish_reason="stop")], usage=usage))

    def _failed(self, status: int, body: bytes, headers: Mapping[str, str]) -> Refused:
        """A refusal with what it tells of what was used."""
        refused = self._refused(status, body, headers)
        refused.count = told_count(self._dialect.read_usage, body)
        return refused

    def _refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> Refused:
        body = body[:_ERROR_BODY]
        return Refused(
            status,
            body,
            asked_wait_ms(status, headers),
            self._dialect.reason(status, body),
            context_limit(body),
        )


def _wire(usage: Usage) -> WireUsage:
    return WireUsage(
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        prompt_tokens_details=PromptDetails(usage.cache_read, usage.cache_write),
        completion_tokens_details=CompletionDetails(usage.reasoning),
    )
