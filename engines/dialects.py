"""The two sides of a dialect, as ports: what a client speaks, and what a provider does. N + M codecs, no pair.

All of it is sans-I/O: bytes in, canonical values out, and back. A codec that meets what its dialect cannot express
raises Unsupported and names the field; nothing that a client asked for is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engines.adapter import StreamReader
from engines.canonical import Answer, EmbeddingRequest, Embeddings, Event, Request
from engines.errors import Reason, Unsupported
from engines.messages import Count

_OPENAI_ONLY = (
    "n", "logprobs", "top_logprobs", "logit_bias", "min_p", "repetition_penalty", "min_tokens", "ignore_eos",
    "stop_token_ids", "skip_special_tokens", "functions", "function_call", "prediction", "modalities", "audio",
    "web_search_options", "verbosity", "service_tier",
)  # fmt: skip


def other_fields(request: Request, *unsaid: str) -> dict[str, Any]:
    """What the client sent beyond the one form, for a provider of another dialect; raises Unsupported.

    `unsaid` are fields of the form itself that the provider has no word for. What is no field of OpenAI's passes on
    under its own name: it was meant for this provider, who refuses what it does not know.
    """
    for name in unsaid:
        value = getattr(request, name)
        if value not in (None, ()) and (value or name == "seed"):
            # A penalty of 0 is none; a seed of 0 is one like any other.
            raise Unsupported(name)
    for name in _OPENAI_ONLY:
        if name in request.extra:
            raise Unsupported(name)
    return request.extra


class EventWriter(Protocol):
    """One stream in a client's dialect."""

    def write(self, events: Sequence[Event]) -> bytes:
        """The frames that these events become. Usage is told only where the client asked for it."""
        ...

    def more(self, texts: list[bytes]) -> bytes:
        """The frames of more words, as JSON writes them, right behind some; the same as `write` makes of each."""
        ...

    def finish(self) -> bytes:
        """What follows the last event, before the terminal frame (usage that came late, closing frames)."""
        ...

    def cut(self, extra: Mapping[str, object]) -> bytes:
        """The frames that end the answer for its length, when the gateway stops it; `extra` says why."""
        ...

    def terminal(self) -> bytes:
        """The frame after which nothing comes, written once the settlement is on record."""
        ...

    def failed(self, code: str, message: str) -> bytes:
        """The last frame of an answer that cannot go on; b"" where it is the same as any other error's."""
        ...


class ClientDialect(Protocol):
    """What a client speaks; the body was validated when it was read."""

    def read_request(self, body: Mapping[str, Any], max_tokens: int | None) -> Request:
        """The request of a body without what the gateway consumed; raises Unsupported."""
        ...

    def write_answer(self, answer: Answer, asked: Mapping[str, Any], *, model: str, now: int) -> bytes:
        """The body of a plain answer to `asked`, the request's body; `model` answers where the provider did not say."""
        ...

    def writer(self, asked: Mapping[str, Any], *, show_usage: bool, model: str, now: int) -> EventWriter:
        """A stream's frames, in answer to `asked`."""
        ...


class EventReader(Protocol):
    """One stream in a provider's dialect."""

    done: bool
    """Nothing more comes, whatever the connection does; False to the end where only its end says so."""

    def read(self, data: bytes) -> list[Event]:
        """The events of the frames that are whole by now; raises Garbled, or ErrorEvent where it says that it failed."""
        ...

    def ended(self) -> list[Event]:
        """The upstream closed: events that only the end makes sure of; raises Garbled unless the answer was whole."""
        ...


class ProviderDialect(Protocol):
    """What a provider speaks."""

    stream_type: str
    """The content type of its streams."""

    def path(self, model: str, *, stream: bool) -> str:
        """Path of a chat call below the provider's address."""
        ...

    def write_request(self, request: Request, *, model: str, stream: bool) -> bytes:
        """The body of a chat call; raises Unsupported."""
        ...

    def read_answer(self, body: bytes) -> Answer:
        """A plain answer; raises Garbled."""
        ...

    def reader(self) -> EventReader:
        """A stream's events."""
        ...

    def read_usage(self, usage: bytes) -> Count | None:
        """The count of a usage that was told with a failure, None for one that cannot be; raises msgspec.MsgspecError."""
        ...

    def reason(self, status: int, body: bytes) -> Reason:
        """Why the provider refused a call, from its status and error body."""
        ...


class SharedDialect(Protocol):
    """A dialect that a client and a provider share: bodies and frames pass through, and only counts are read of them."""

    spoken: str
    """The path of the clients' calls, as `Call.path` has it."""

    def shared_body(
        self, body: Mapping[str, Any], *, model: str, max_tokens: int | None, stream: bool
    ) -> bytes:
        """What is sent: what the client sent, and what the gateway sets."""
        ...

    count_path: str
    """Path of a count of a call's input, below the provider's address."""

    def count_body(self, body: Mapping[str, Any], *, model: str) -> bytes:
        """What is sent to have the input counted."""
        ...

    def read_count(self, body: bytes) -> int:
        """The count; raises Garbled."""
        ...

    def shared_stream(self, *, limit: int, most: int | None) -> StreamReader:
        """What passes a stream on."""
        ...


class EmbeddingDialect(Protocol):
    """What a provider that embeds speaks."""

    def embedding_path(self, model: str) -> str:
        """Path of an embedding call."""
        ...

    def write_embedding(self, request: EmbeddingRequest, *, model: str) -> bytes:
        """The body of an embedding call; raises Unsupported."""
        ...

    def read_embeddings(self, body: bytes, headers: Mapping[str, str]) -> Embeddings:
        """The vectors; raises Garbled."""
        ...
