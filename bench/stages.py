"""What each step of the line costs in this process alone: no network, Redis and upstream answer at once.

    python -m bench.stages

The spool, the metrics and all decisions are real. What is left of a call's cost beside these steps is the server's
protocol, the sockets and Redis' own protocol.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from bench.cells import CELLS, bodies
from engines.openai import OpenAIEngine
from engines.transport import Response
from gateway.http.errors import Dialect
from gateway.http.openai.requests import read_chat
from gateway.http.plane import Api, DataPlane
from gateway.http.strict_json import decode_object
from gateway.ids import RequestIds, text
from gateway.pipeline.admit import admit
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.authorize import authorize
from gateway.pipeline.dispatch import call_plain
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.route import choose_route
from gateway.pipeline.settle import settle
from gateway.routing.traffic import Traffic
from gateway.spool.records import Charge
from gateway.spool.writer import SpoolWriter
from gateway.telemetry import Telemetry
from gateway.trail import RefusalTrail
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.permissions import Level
from policies.principal import Caller, Principal, PrincipalKind
from policies.routing import Route

BATCH, BATCHES = 32, 200
# As many at once as a busy worker has: more would make the garbage collector look larger than it is.
_ID = "0192f0c1-2345-7abc-8def-{:012x}"
ANSWER = (
    b'{"id":"chatcmpl-0192f0c123457abc8def000000000001","object":"chat.completion","created":1764000000,"model":'
    b'"mixtral-demo","choices":[{"index":0,"message":{"role":"assistant","content":"w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 '
    b'w11 w12 w13 w14 w15 w16","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},'
    b'"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null}],'
    b'"service_tier":null,"system_fingerprint":"vllm","usage":{"prompt_tokens":103,"total_tokens":119,'
    b'"completion_tokens":16,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null}'
)


_ids = RequestIds()
_CHARGES = [
    Charge(
        _ID.format(n),
        _ID.format(9),
        "total_tokens",
        "{wb}:r:" + _ID.format(n),
        "r",
        29_400_000,
        500,
        1,
        60_000,
    )
    for n in range(5)
]


class _Hold:
    """A granted reservation with five charges."""

    def __init__(self, request_id: str, granted: int) -> None:
        self.request_id, self.granted_output = request_id, granted
        self.admitted_at_ms, self.sequence = 1_764_000_000_000, 1
        self.group_id = self.degraded = self.refusal = None
        self.settled = False
        self.fields = b"x-ratelimit-limit-requests: 600\r\nx-weighbridge-reserved: 500\r\n"
        self.charges = _CHARGES
        self.seen = [0] * len(_CHARGES)


class _Reservations:
    def reserve(self, *_: Any, request_id: str, output_tokens: int, **__: Any) -> asyncio.Future[_Hold]:
        future: asyncio.Future[_Hold] = asyncio.get_running_loop().create_future()
        future.set_result(_Hold(request_id, output_tokens))
        return future

    def settle(self, reservation: _Hold, **_: int) -> None:
        reservation.settled = True

    def abandon(self, future: Any) -> None: ...

    def top_up(self, reservation: Any, output_tokens: int) -> Any: ...


class _Transport:
    async def post(self, path: str, body: bytes, headers: Any) -> Response:
        return Response(200, {}, ANSWER)


class _Engines:
    def __init__(self) -> None:
        self._adapter = OpenAIEngine(_Transport(), is_vllm=True)  # type: ignore[arg-type]

    def addresses(self, entity: ServedEntity) -> tuple[str, ...]:
        return ("here",)

    def adapter(self, entity: ServedEntity, address: str) -> OpenAIEngine:
        return self._adapter

    def unfit(self, entity: ServedEntity) -> str | None:
        return None

    def gone_for_good(self, entity: ServedEntity) -> bool:
        return False

    def unreachable(self, entity: ServedEntity, address: str) -> None: ...


class _Keys:
    """As the real one answers for a key that it knows."""

    def __init__(self, caller: Caller) -> None:
        self._known = {hashlib.sha256(b"key").digest(): caller}

    def known(self, credential: str) -> Caller | None:
        return self._known.get(hashlib.sha256(credential.encode()).digest())


class _Catalog:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot


def build_line(home: Path, spool: SpoolWriter) -> Line:
    """A line whose Redis and upstream answer at once."""
    entity = ServedEntity(
        _ID.format(3), "mixtral-demo", EntityKind.LOCAL, "vllm", "mixtral-demo",
        Price(_ID.format(4), input=500_000_000, output=1_000_000_000),
    )  # fmt: skip
    endpoint = Endpoint(_ID.format(2), "databricks-mixtral-8x7b-instruct", "llm/v1/chat", (entity,))
    who = Principal(_ID.format(1), PrincipalKind.USER, "bench", (_ID.format(8),))
    grants = {endpoint.id: {_ID.format(8): Level.CAN_QUERY}}
    snapshot = Snapshot(7, {who.id: who}, {}, {endpoint.name: endpoint}, grants)
    salt = b"k" * 32
    telemetry = Telemetry(home / "metrics")
    return Line(
        keys=_Keys(Caller(who, _ID.format(7))),  # type: ignore[arg-type]
        catalog=_Catalog(snapshot),
        reservations=_Reservations(),  # type: ignore[arg-type]
        spool=spool,
        engines=_Engines(),
        observer=telemetry,
        trail=RefusalTrail(telemetry, spool),
        cache_salt=lambda subject: hmac.digest(salt, subject.encode(), hashlib.sha256).hex()[:32],
        draw=random.random,
        monotonic_ns=time.monotonic_ns,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        traffic=Traffic(lambda: time.monotonic_ns() // 1_000_000, random.random),
    )


def granted_exchange(line: Line) -> Exchange:
    """A streamed request that was admitted, and whose upstream is about to answer."""
    made = _ids.make()
    exchange = Exchange(request_id=made, id_text=text(made), api="openai.chat", credential="key", now_ns=0)
    exchange.snapshot = line.catalog.snapshot
    exchange.endpoint = next(iter(exchange.snapshot.endpoints.values()))
    exchange.request = read_chat(
        {"model": exchange.endpoint.name, "messages": [{"role": "user", "content": "x"}], "stream": True}
    )
    exchange.reservation = _Hold(exchange.id_text, 1 << 20)
    exchange.entity = exchange.endpoint.entities[0]
    return exchange


async def measure(home: Path, batches: int = BATCHES) -> list[tuple[str, float]]:
    """(step, microseconds a call): the best of several batches, which is what the step costs undisturbed."""
    spool = SpoolWriter(home / "spool")
    line = build_line(home, spool)
    body = bodies(CELLS[1], "databricks-mixtral-8x7b-instruct")[0]
    ids = RequestIds()
    best: dict[str, float] = {}

    def fresh() -> Exchange:
        made = ids.make()
        return Exchange(
            request_id=made,
            id_text=text(made),
            api="openai.chat",
            credential="key",
            now_ns=time.monotonic_ns(),
        )

    async def step(
        name: str, exchanges: list[Exchange], act: Callable[[Exchange], Any], *, waits: bool = False
    ) -> None:
        began = time.perf_counter()
        if waits:
            for each in exchanges:
                await act(each)
        else:
            for each in exchanges:
                act(each)
        best[name] = min(best.get(name, 1.0), (time.perf_counter() - began) / len(exchanges))

    def read(exchange: Exchange) -> None:
        exchange.request = read_chat(decode_object(body))

    for _ in range(batches):
        began = time.perf_counter()
        batch = [fresh() for _ in range(BATCH)]
        best["exchange and its id"] = min(
            best.get("exchange and its id", 1.0), (time.perf_counter() - began) / BATCH
        )
        await step("authenticate", batch, lambda each: authenticate(line, each), waits=True)
        await step("read the body: JSON", batch, lambda _: decode_object(body))
        await step("read the body: JSON and fields", batch, read)
        await step("authorize", batch, authorize)
        await step("admit (without Redis), intent", batch, lambda each: admit(line, each), waits=True)
        await step("route", batch, lambda each: choose_route(line, each))
        await step(
            "dispatch (without the wire)",
            batch,
            lambda each: call_plain(line, each, Route(each.endpoint.entities)),
            waits=True,
        )
        await step("settle (without Redis), settlement", batch, lambda each: settle(line, each, "ok"))
        line.observer.flush()  # type: ignore[attr-defined]
    plane = DataPlane(line)
    api = Api("openai.chat", Dialect.OPENAI, lambda body, model: read_chat(body, model=model))
    scope: Any = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions",
        "headers": [(b"host", b"x"), (b"authorization", b"Bearer key"), (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(body))],
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None: ...

    async def handle(_: Exchange) -> None:
        await plane.handle(scope, receive, send, api)

    for _ in range(batches):
        await step("all of it, with the data plane's HTTP", batch, handle, waits=True)
        line.observer.flush()  # type: ignore[attr-defined]
    spool.close()
    return [(name, seconds * 1e6) for name, seconds in best.items()]


def table() -> str:
    """Measure the steps and the floor below them; Markdown."""
    # Here, because it takes this module's answer.
    from bench.floor import measure as floor

    with tempfile.TemporaryDirectory(prefix="wb-stages-") as home:
        found = uvloop.run(measure(Path(home)))
    lines = ["| step | us a call |", "|---|---|"]
    lines += [f"| {name} | {microseconds:.1f} |" for name, microseconds in found]
    parts = floor()
    lines += ["", "| what a plain call cannot do without | us |", "|---|---|"]
    lines += [f"| {name} | {microseconds:.1f} |" for name, microseconds in parts]
    lines.append(f"| together | {sum(each for _, each in parts):.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    print(table())


if __name__ == "__main__":
    main()
