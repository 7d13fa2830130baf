"""What a worker holds of the calls that are to be kept, until the store has taken it.

Bounded over running and ended calls together: what finds no room is dropped and counted, and no call ever waits for
it. Nothing of it is on this machine's disk; headers and credentials are in none of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.payloads.assembling import assembled
from gateway.pipeline.exchange import Exchange
from policies.payloads import PayloadRules

MOST_BYTES = 32 << 20
FRAMES_TO_TEXT = 8
"""How much longer than its text a stream may be before its rest is let go of: each piece comes in a frame."""
REQUEST_CUT, ANSWER_CUT, NOT_REDACTED = (
    "MAX_REQUEST_SIZE_EXCEEDED",
    "MAX_RESPONSE_SIZE_EXCEEDED",
    "REDACTION_FAILED",
)


class Redaction(Protocol):
    """Takes out of a text what must not be kept, before it is cut to its length and stored."""

    def redact(self, text: str, *, endpoint_id: str, answer: bool) -> str:
        """The text as it may be kept; one that raises leaves nothing of the text."""
        ...


class Untouched:
    """Keeps all that was said."""

    def redact(self, text: str, *, endpoint_id: str, answer: bool) -> str:
        """The text."""
        return text


@dataclass(frozen=True, slots=True)
class Kept:
    """A call to be stored."""

    request_id: bytes
    ended_at_ms: int
    endpoint_id: str
    endpoint_name: str
    principal_id: str
    principal_name: str
    api: str
    client_request_id: str | None
    entity_id: str | None
    entity_name: str | None
    http_status: int
    duration_ms: int
    sampling_fraction: float
    stream: bool
    max_bytes: int
    request: bytes
    answer: bytes
    answer_cut: bool

    @property
    def size(self) -> int:
        """What it takes of the room."""
        return len(self.request) + len(self.answer)

    def texts(self, redaction: Redaction) -> tuple[str, str, int, int, list[str]]:
        """Request and answer as they are stored, their bytes before they were cut, and what was done to them."""
        answer = assembled(self.answer) if self.stream else self.answer
        codes: list[str] = []
        stored: list[str] = []
        for body, is_answer, code in ((self.request, False, REQUEST_CUT), (answer, True, ANSWER_CUT)):
            text = body.decode(errors="replace").replace("\0", "\ufffd")
            try:
                text = redaction.redact(text, endpoint_id=self.endpoint_id, answer=is_answer)
            except Exception:
                # Whatever went wrong in it: what could not be looked through is not kept.
                text = ""
                codes.append(NOT_REDACTED)
            encoded = text.encode(errors="replace")
            if len(encoded) > self.max_bytes:
                text = encoded[: self.max_bytes].decode(errors="ignore")
                codes.append(code)
            stored.append(text)
        if self.answer_cut and ANSWER_CUT not in codes:
            codes.append(ANSWER_CUT)
        return stored[0], stored[1], len(self.request), len(answer), codes


class Tap:
    """One call under way: takes what its client is sent, and hands all of it over at its end."""

    __slots__ = ("_cut", "_exchange", "_held", "_keeping", "_most", "_parts", "_rules")

    def __init__(self, keeping: Keeping, exchange: Exchange, rules: PayloadRules) -> None:
        self._keeping = keeping
        self._exchange = exchange
        self._rules = rules
        self._parts: list[bytes] = []
        self._held = len(exchange.received)
        # A plain answer comes whole and is cut by its text; frames are cut on the way.
        self._most = rules.max_bytes * FRAMES_TO_TEXT if exchange.request.stream else None
        self._cut = False
        keeping.held += self._held

    def take(self, data: bytes) -> None:
        """What the client is sent."""
        if self._cut:
            return
        if (self._most is not None and self._held + len(data) > self._most) or not self._keeping.room(
            len(data)
        ):
            self._cut = True
            return
        self._parts.append(data)
        self._held += len(data)
        self._keeping.held += len(data)

    def end(self) -> None:
        """The call has ended."""
        exchange, principal, entity = self._exchange, self._exchange.caller.principal, self._exchange.entity
        keeping = self._keeping
        keeping.put(
            Kept(
                exchange.id,
                keeping.wall_ms(),
                exchange.endpoint.id,
                exchange.endpoint.name,
                principal.id,
                principal.name,
                exchange.api,
                exchange.request.client_request_id,
                None if entity is None else entity.id,
                None if entity is None else entity.name,
                exchange.http_status,
                (keeping.monotonic_ns() - exchange.received_ns) // 1_000_000,
                self._rules.sampling_fraction,
                exchange.request.stream,
                self._rules.max_bytes,
                exchange.received,
                b"".join(self._parts),
                self._cut,
            ),
            self._held,
        )


class Keeping:
    """The line's Payloads: which calls are kept, and what waits for the store."""

    def __init__(
        self,
        told: Callable[[str], None],
        *,
        wall_ms: Callable[[], int],
        monotonic_ns: Callable[[], int],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`told` counts what becomes of calls: `stored`, `dropped`, `cut`."""
        self.told = told
        self.wall_ms = wall_ms
        self.monotonic_ns = monotonic_ns
        self.held = 0
        """Bytes of all calls, running and waiting."""
        self.waiting: deque[Kept] = deque()
        self.wake: Callable[[], None] = lambda: None
        self._most = most_bytes

    def begin(self, exchange: Exchange) -> Tap | None:
        """A tap for a call that is to be kept; None for one that is not, or for which there is no room."""
        rules = exchange.endpoint.payloads
        if rules is None or not rules.chosen(exchange.id):
            return None
        if not self.room(len(exchange.received)):
            self.told("dropped")
            return None
        return Tap(self, exchange, rules)

    def room(self, size: int) -> bool:
        """Whether so much more may be held."""
        return self.held + size <= self._most

    def put(self, kept: Kept, held: int) -> None:
        """A call has ended; `held` is what it took of the room until now."""
        self.held += kept.size - held
        self.waiting.append(kept)
        self.wake()

    def stored(self, kept: Kept, outcome: str) -> None:
        """The store took it, or never will."""
        self.held -= kept.size
        self.told(outcome)
