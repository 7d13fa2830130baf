"""The adapter to upstreams that speak OpenAI's HTTP: the local vLLM and every compatible provider.

The request is written from the validated object; for vLLM it carries what makes counts exact and callers separate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.errors import Garbled, Refused
from engines.messages import Answer, decode_answer
from engines.transport import OpenResponse, Transport

_encode = msgspec.json.Encoder().encode
_USAGE_AT_END = {"include_usage": True}
_USAGE_ALWAYS = {"include_usage": True, "continuous_usage_stats": True}


@dataclass(frozen=True, slots=True)
class Call:
    """One call upstream: path below the address, the body without what the adapter sets, and its bounds."""

    path: str
    body: dict[str, Any]
    model: str
    max_tokens: int | None
    headers: Mapping[str, str]
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """A whole answer: its bytes as they came, and what was read of them."""

    body: bytes
    answer: Answer


class OpenAIEngine:
    """One upstream address behind the adapter."""

    def __init__(self, transport: Transport, *, is_vllm: bool) -> None:
        self.transport = transport
        self.is_vllm = is_vllm

    @property
    def counts_while_running(self) -> bool:
        """Whether every event of a stream tells the tokens so far."""
        return self.is_vllm

    async def complete(self, call: Call) -> Completed:
        """The whole answer; raises EngineError."""
        response = await self.transport.post(call.path, self._body(call, stream=False), call.headers)
        if response.status != 200:
            raise Refused(response.status, response.body[: 1 << 16], _retry_after(response.headers))
        body = response.body
        try:
            if not body.isascii():
                body.decode()
            answer = decode_answer(body)
        except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
            raise Garbled("the answer is not JSON of the expected shape") from exc
        if answer.failed or not answer.choices:
            raise Garbled("the answer has no choices")
        return Completed(body, answer)

    async def open(self, call: Call) -> OpenResponse:
        """The head of a streamed answer; raises EngineError."""
        opened = await self.transport.open(call.path, self._body(call, stream=True), call.headers)
        if opened.status != 200:
            try:
                raise Refused(opened.status, await opened.rest(), _retry_after(opened.headers))
            finally:
                opened.close()
        if not opened.headers.get("content-type", "").startswith("text/event-stream"):
            opened.close()
            raise Garbled("the answer is no event stream")
        return opened

    async def aclose(self) -> None:
        """Close the connections."""
        await self.transport.aclose()

    def _body(self, call: Call, *, stream: bool) -> bytes:
        body = {"model": call.model, **call.body}
        if call.max_tokens is not None:
            body["max_tokens"] = call.max_tokens
        if stream:
            body["stream"] = True
            body["stream_options"] = _USAGE_ALWAYS if self.is_vllm else _USAGE_AT_END
        if self.is_vllm and call.cache_salt is not None:
            body["cache_salt"] = call.cache_salt
        return _encode(body)


def _retry_after(headers: Mapping[str, str]) -> int | None:
    value = headers.get("retry-after", "")
    return int(value) if value.isdecimal() and len(value) < 6 else None
