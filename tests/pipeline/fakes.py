"""In-memory versions of everything the line asks for."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engines.errors import EngineError
from engines.openai import OpenAIEngine
from engines.transport import OpenResponse, Response
from gateway.errors import GatewayError, LimitDetail, Unauthenticated
from gateway.http.openai.requests import read_chat
from gateway.ids import RequestIds, text
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.routing.traffic import Traffic
from gateway.spool.records import Charge, Record
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.permissions import Level
from policies.principal import Caller, Principal, PrincipalKind
from policies.usage import Usage

USER = Principal("u1", PrincipalKind.USER, "ann", ("g1",))
OUTSIDER = Principal("u2", PrincipalKind.USER, "bob")
PRICE = Price("p1", input=500_000_000, output=1_000_000_000)
FIRST = ServedEntity("e1", "first", EntityKind.EXTERNAL, "openai", "model-one", PRICE, base_url="one")
SECOND = ServedEntity("e2", "second", EntityKind.EXTERNAL, "vllm", "model-two", PRICE, base_url="two")
ENDPOINT = Endpoint(
    "n1", "chat", "llm/v1/chat", (FIRST, SECOND), fallbacks=("second",), default_max_tokens=100
)
SNAPSHOT = Snapshot(7, {"u1": USER, "u2": OUTSIDER}, {}, {"chat": ENDPOINT}, {"n1": {"u1": Level.CAN_QUERY}})


class Keys:
    callers = {"ann-key": Caller(USER, "k1"), "bob-key": Caller(OUTSIDER, "k2")}

    def known(self, credential: str) -> Caller | None:
        return self.callers.get(credential)

    async def verify(self, credential: str, snapshot: Snapshot, address: str | None = None) -> Caller:
        raise Unauthenticated


@dataclass
class Catalog:
    snapshot: Snapshot = SNAPSHOT


@dataclass
class Hold:
    request_id: str
    granted_output: int
    admitted_at_ms: int = 1_000
    sequence: int = 1
    group_id: str | None = None
    degraded: str | None = None
    charges: list[Charge] = field(default_factory=list[Charge])
    settled: bool = False
    seen: list[int] = field(default_factory=list[int])
    fields: bytes = b""
    refusal: LimitDetail | None = None


class Reservations:
    """Grants what is asked up to `room` output tokens; keeps what was settled."""

    def __init__(self, room: int = 10_000) -> None:
        self.room = room
        self.refuse: GatewayError | None = None
        self.pending = False
        self.holds: list[Hold] = []
        self.settlements: list[tuple[int, int, int]] = []
        self.abandoned = 0
        self.top_ups: list[int] = []

    def reserve(self, snapshot: Any, caller: Any, endpoint: Any, **asked: Any) -> asyncio.Future[Hold]:
        future: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        if self.refuse is not None:
            future.set_exception(self.refuse)
        elif not self.pending:
            granted = min(self.room, asked["output_tokens"])
            self.room -= granted
            self.holds.append(Hold(asked["request_id"], granted))
            future.set_result(self.holds[-1])
        return future

    def abandon(self, future: asyncio.Future[Hold]) -> None:
        self.abandoned += 1

    def top_up(self, reservation: Hold, output_tokens: int) -> asyncio.Future[int]:
        self.top_ups.append(output_tokens)
        granted = min(self.room, output_tokens)
        self.room -= granted
        reservation.granted_output += granted
        if not granted:
            reservation.refusal = LimitDetail(
                "l1", "output_tokens", "user 'ann'", 1, 0, output_tokens, "minute", 0
            )
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(granted)
        return future

    def settle(
        self,
        reservation: Hold,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
        number: int = 0,
    ) -> None:
        assert not reservation.settled, "settled twice"
        reservation.settled = True
        self.settlements.append((prompt_tokens, completion_tokens, cost_nano_usd))


class Spool:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.numbered = 0
        self.slots = 0
        self.seen: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.fault: Exception | None = None
        self.open = True

    def begin(self, request_id: bytes, attempt: int) -> int:
        self.slots += 1
        return self.slots

    def note(self, slot: int, attempt: int, prompt: int, completion: int, cache_read: int) -> None:
        self.seen.append((slot, completion))

    def end(self, slot: int) -> None:
        self.ended.append(slot)

    def completion_at(self, slot: int) -> int:
        return slot

    def __setitem__(self, slot: int, completion: int) -> None:
        self.seen.append((slot, completion))

    @property
    def words(self) -> Spool:
        return self

    @property
    def running(self) -> Spool:
        return self

    def append(self, record: Record) -> None:
        if self.fault is not None:
            raise self.fault
        self.records.append(record)

    def admits(self) -> bool:
        return self.open

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.records if isinstance(each, kind)]


class Body:
    """A streamed answer from a list of pieces; an exception in it is raised, None waits for ever."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, pieces: list[Any]) -> None:
        self.pieces = list(pieces)
        self.closed = False
        self.let_gone = False

    async def read(self) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if piece is None:
            await asyncio.Event().wait()
        if isinstance(piece, EngineError):
            raise piece
        await asyncio.sleep(0)
        return piece

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not take(data):
                return False
        return True

    async def rest(self) -> bytes:
        return b""

    def let_go(self) -> None:
        self.let_gone = True

    def close(self) -> None:
        self.closed = True


class Transport:
    """Answers with what it was given, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer: Any = plain_answer("hello", 3, 2)
        self.pieces: list[Any] = []
        self.sent: list[dict[str, Any]] = []
        self.opened: list[Body] = []

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        self.sent.append(msgspec.json.decode(body))
        if isinstance(self.answer, EngineError):
            raise self.answer
        if self.answer is None:
            await asyncio.Event().wait()
        return Response(200, {}, self.answer)

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        self.sent.append(msgspec.json.decode(body))
        if isinstance(self.answer, EngineError):
            raise self.answer
        self.opened.append(Body(self.pieces))
        return self.opened[-1]

    async def get(self, path: str) -> Response:
        return Response(200, {}, b"")

    async def aclose(self) -> None:
        pass


class Engines:
    def __init__(self) -> None:
        self.transports = {"e1": Transport(), "e2": Transport()}
        self.replicas: dict[str, dict[str, Transport]] = {}
        """By entity and address, where it has several."""
        self.called: list[str] = []
        self.reasons: dict[str, str] = {}
        self.gone = False
        self.doubted: list[str] = []
        """Addresses to which a call did not get through."""

    def addresses(self, entity: ServedEntity) -> tuple[str, ...]:
        return tuple(self.replicas.get(entity.id, ())) or (entity.base_url or "",)

    def adapter(self, entity: ServedEntity, address: str) -> OpenAIEngine:
        self.called.append(address)
        transport = self.replicas.get(entity.id, {}).get(address) or self.transports[entity.id]
        return OpenAIEngine(transport, is_vllm=entity.provider == "vllm")

    def unfit(self, entity: ServedEntity) -> str | None:
        return self.reasons.get(entity.id)

    def gone_for_good(self, entity: ServedEntity) -> bool:
        return self.gone

    def unreachable(self, entity: ServedEntity, address: str) -> None:
        self.doubted.append(address)


class Outlet:
    """A client that takes `room` frames before it must be waited for; `watch` sees each as it comes."""

    def __init__(self, watch: Callable[[bytes], None] | None = None, room: int = 1_000_000) -> None:
        self.frames: list[bytes] = []
        self.watch = watch
        self.room = self.left = room
        self.waits = 0
        self.reads = True
        """Whether the client ever takes more."""

    def write(self, frames: bytes) -> bool:
        if self.watch is not None:
            self.watch(frames)
        self.frames.append(frames)
        self.left -= 1
        return self.left > 0

    async def ready(self) -> None:
        if self.left <= 0:
            self.waits += 1
            if not self.reads:
                await asyncio.Event().wait()
            self.left = self.room


class Observer:
    def __init__(self) -> None:
        self.running = 0
        self.ended: list[str] = []
        self.wasted: list[int] = []
        self.refusals: list[tuple[str | None, str | None, str]] = []

    def admitted(self, exchange: Exchange) -> None:
        self.running += 1

    def refused(self, principal_id: str | None, model: str | None, code: str, **_: str | None) -> None:
        self.refusals.append((principal_id, model, code))

    def failed(self, exchange: Exchange, usage: Usage, doubt: Any) -> None:
        self.wasted.append(usage.total_tokens)

    def settled(
        self, exchange: Exchange, status: str, usage: Usage, cost_nano_usd: int, duration_ns: int
    ) -> None:
        self.running -= 1
        self.ended.append(status)


class World:
    """A line on fakes."""

    def __init__(self, room: int = 10_000) -> None:
        self.reservations, self.spool, self.engines, self.observer = (
            Reservations(room),
            Spool(),
            Engines(),
            Observer(),
        )
        self.catalog = Catalog()
        ticks = itertools.count(1_000_000, 1_000)
        self.clock_ms = 1_000
        self.traffic = Traffic(lambda: self.clock_ms, random.Random(7).random)
        self.line = Line(
            keys=Keys(),
            catalog=self.catalog,
            reservations=self.reservations,
            spool=self.spool,
            engines=self.engines,
            observer=self.observer,
            trail=self.observer,
            cache_salt=lambda subject: f"salt-{subject}",
            draw=lambda: 0.0,
            monotonic_ns=lambda: next(ticks),
            wall_ms=lambda: 1_700_000_000_000,
            traffic=self.traffic,
        )

    def exchange(self, *, key: str = "ann-key", **body: Any) -> Exchange:
        made = RequestIds().make()
        exchange = Exchange(request_id=made, id_text=text(made), api="openai.chat", credential=key, now_ns=1)
        exchange.request = read_chat(
            {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **body}
        )
        return exchange


def plain_answer(words: str, prompt: int | None, completion: int) -> bytes:
    usage = (
        None
        if prompt is None
        else {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    )
    return msgspec.json.encode(
        {
            "id": "x",
            "model": "m",
            "choices": [{"index": 0, "message": {"content": words}, "finish_reason": "stop"}],
            "usage": usage,
        }
    )


def frames(count: int, *, prompt: int = 3, running: bool = True, done: bool = True) -> list[bytes]:
    """The pieces of a stream of `count` one-token events as vLLM sends them."""

    def event(choices: list[Any], completion: int, usage: bool) -> bytes:
        value: dict[str, Any] = {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": choices,
        }
        if usage:
            value["usage"] = {
                "prompt_tokens": prompt,
                "total_tokens": prompt + completion,
                "completion_tokens": completion,
            }
        return b"data: " + msgspec.json.encode(value) + b"\n\n"

    pieces = [
        event(
            [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}], 0, running
        )
    ]
    for number in range(1, count + 1):
        end = "stop" if number == count else None
        pieces.append(
            event([{"index": 0, "delta": {"content": f" w{number}"}, "finish_reason": end}], number, running)
        )
    if done:
        pieces.append(event([], count, True))
        pieces.append(b"data: [DONE]\n\n")
    return pieces
