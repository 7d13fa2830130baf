"""What is known of a request while it walks the line; at its end it becomes the ledger's row."""

from __future__ import annotations

from typing import Any

import msgspec

from engines.adapter import StreamReader
from engines.messages import Count
from gateway.pipeline.ports import Reservation
from gateway.pipeline.turns import Begun
from gateway.routing.traffic import Lease
from gateway.spool.records import Attempt
from policies.caching import ANYTHING
from policies.catalog import Endpoint, ServedEntity, Snapshot
from policies.doubts import Doubt
from policies.principal import Caller
from policies.usage import UsageSource


class ModelRequest(msgspec.Struct, gc=False):
    """A validated request to a model, in its client's dialect; what the gateway consumes is taken out of `body`."""

    model: str
    path: str
    """The client's dialect (engines/clients.py), and the path below the address of an engine that speaks it too."""
    body: dict[str, Any]
    """What is sent upstream, without `model` and what the gateway sets itself."""
    stream: bool
    show_usage: bool
    """The client asked for the closing usage event."""
    show_running: bool
    """The client asked for usage in every event."""
    max_tokens: int | None
    """0 where nothing is generated."""
    n: int
    """Choices times prompts: what the output is multiplied by."""
    text_bytes: int
    messages: int
    token_ids: int = 0
    """Prompt tokens that need no estimate: those that came as ids, and what pictures are taken for."""
    pictures: int = 0
    far_pictures: bool = False
    """Some pictures are at addresses, which whoever answers would fetch."""
    unknown: tuple[str, ...] = ()
    """Fields that the local engine's allow-list does not have."""
    tags: dict[str, str] = {}
    end_user: str | None = None
    client_request_id: str | None = None
    shared_headers: dict[str, str] = {}
    """What else goes along to a provider of the client's own dialect."""


class Exchange:
    """One request on its way; steps read what earlier steps wrote. Times are monotonic nanoseconds."""

    __slots__ = (
        "answer",
        "api",
        "attempt",
        "attempts",
        "batch",
        "cache",
        "cache_age",
        "caller",
        "count",
        "counted",
        "credential",
        "deadline_ns",
        "dispatched",
        "dispatched_ns",
        "doubt",
        "endpoint",
        "entity",
        "finish_reason",
        "first_byte_ns",
        "group",
        "http_status",
        "id",
        "id_text",
        "idempotency",
        "lease",
        "local_only",
        "queue_ns",
        "reader",
        "received",
        "received_ns",
        "request",
        "reservation",
        "resumable",
        "settled",
        "slot",
        "snapshot",
        "source",
        "sticky",
        "stopped_by",
        "storing",
        "turn",
        "why",
        "wish",
    )

    def __init__(self, request_id: bytes, id_text: str, api: str, credential: str, now_ns: int) -> None:
        self.id = request_id
        self.id_text = id_text
        self.api = api
        """Whose call it is and of which kind: `openai.chat`, `openai.responses`, `databricks.completions`, ..."""
        self.credential = credential
        self.request: ModelRequest
        self.received = b""
        """Its body as it came."""
        self.received_ns = now_ns
        self.group: str | None = None
        """The group that the caller asked to charge (`x-weighbridge-group`)."""
        self.batch = False
        """The caller says that nobody waits for it (`x-weighbridge-priority: batch`)."""
        self.idempotency: tuple[str, str] | None = None
        self.snapshot: Snapshot
        self.caller: Caller
        self.endpoint: Endpoint
        self.sticky: str | None = None
        """What the caller wants to stay on one side of a split by (`x-weighbridge-sticky`)."""
        self.wish = ANYTHING
        """What the caller asks of stored answers (`cache-control`)."""
        self.cache: str | None = None
        """What came of asking for a stored answer: `hit`, `miss` or `bypass`; None where the endpoint stores none."""
        self.cache_age = 0
        """How old the stored answer is, in seconds."""
        self.storing = False
        """The answer is to be stored."""
        self.deadline_ns = 0
        """When it must have ended; 0: it may take its time."""
        self.local_only = False
        """It must not leave for another host."""
        self.reservation: Reservation | None = None
        self.entity: ServedEntity | None = None
        self.lease: Lease | None = None
        """What the present attempt holds at the address that it calls."""
        self.why: str | None = None
        """Why the present attempt goes where it goes, where that is worth a word."""
        self.attempt = 0
        self.attempts: list[Attempt] = []
        self.dispatched = False
        self.dispatched_ns = 0
        self.first_byte_ns: int | None = None
        self.queue_ns = 0
        self.reader: StreamReader | None = None
        """What reads the stream, once it has begun: it knows how an answer of its dialect fails."""
        self.count: Count | None = None
        """The upstream's last count."""
        self.counted = 0
        """Output tokens counted here, where the upstream gives none."""
        self.source = UsageSource.NONE
        self.answer = b""
        """A plain answer, where its upstream counted."""
        self.doubt: Doubt | None = None
        """What is wrong with the upstream's count."""
        self.finish_reason: str | None = None
        self.stopped_by: str | None = None
        self.http_status = 0
        self.settled = False
        self.resumable = False
        """After a kill another process goes on with it, and must know what was tried."""
        self.turn: Begun | None = None
        """What is kept of it for a call that follows, and what it follows itself."""
        self.slot = -1
        """Where the stream's tokens are noted while it runs."""
