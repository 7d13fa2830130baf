"""The port between the line and whatever answers: a call, a whole answer, a stream and who reads it.

An adapter knows nothing of permissions, limits or books; every failure of its upstream is an EngineError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from engines.messages import Answer, Count
from engines.pieces import Pieces
from engines.transport import OpenResponse


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call upstream: what the client speaks, by its path; the body without what the adapter sets; its bounds."""

    path: str
    body: dict[str, Any]
    model: str
    max_tokens: int | None
    headers: Mapping[str, str]
    cache_salt: str | None = None
    shared_headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """What else the client said, in headers that only a provider of its own dialect understands."""
    priority: int | None = None
    """Where the local engine puts it among those that wait, the lowest first; None: it is not told."""


class Completed(msgspec.Struct, frozen=True, gc=False):
    """A whole answer: its bytes for the client, and what was read of them."""

    body: bytes
    answer: Answer


class StreamReader(Protocol):
    """Takes what arrives of a stream and gives what the client gets; sans-I/O."""

    limit: int
    """Output tokens that may be passed on; whoever reads raises it."""

    @property
    def count(self) -> Count | None:
        """The upstream's own count, the last believable one."""
        ...

    @property
    def counted(self) -> int:
        """Output counted here, where the upstream gives none."""
        ...

    @property
    def estimates(self) -> bool:
        """Whether that is estimated from the text; False where deltas are counted, each of which is a token at least."""
        ...

    @property
    def said(self) -> int:
        """The bytes of the answer's words so far, or a number above."""
        ...

    def pieces(self) -> Pieces | None:
        """The words of the answer as they came, once it has ended; None where they do not say what it came to."""
        ...

    @property
    def running(self) -> int:
        """Output tokens so far, by whichever count there is."""
        ...

    @property
    def steady(self) -> bool:
        """The last feed moved nothing but `running`, which it raised, and is not the first to do so."""
        ...

    @property
    def distrusted(self) -> bool:
        """The upstream sent a usage that cannot be."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, in OpenAI's words."""
        ...

    @property
    def model(self) -> str | None:
        """What truly answers, as the upstream says."""
        ...

    @property
    def done(self) -> bool:
        """The answer is whole."""
        ...

    @property
    def exhausted(self) -> bool:
        """Nothing more fits below `limit`."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        ...

    def ended(self) -> None:
        """The upstream closed; raises Garbled unless the answer was whole. What is left comes with the next feed."""
        ...

    def closing_events(self, *, extra: dict[str, object]) -> bytes:
        """The client's last events when the gateway ends the stream: it ended for its length, then usage if asked."""
        ...

    def terminal(self) -> bytes:
        """The frame after which nothing comes, written once the settlement is on record."""
        ...

    def failed(self, code: str, message: str) -> bytes:
        """The last frame of an answer that cannot go on; b"" where it is the same as any other error's."""
        ...


class Adapter(Protocol):
    """One upstream."""

    async def complete(self, call: Call) -> Completed:
        """The whole answer, in the client's dialect."""
        ...

    async def open(self, call: Call) -> OpenResponse:
        """The head of a streamed answer, which `reader` reads."""
        ...

    def reader(self, call: Call, *, show_usage: bool, show_running: bool, limit: int) -> StreamReader:
        """What turns the stream of this call into the client's dialect."""
        ...

    async def count(self, call: Call) -> int | None:
        """The tokens of a call's input, None where the upstream counts none without answering; raises EngineError."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
