"""Limits, callers and workers for the tests of the counters, on a real Redis."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.counters.hold import Hold, Home
from gateway.counters.reservations import Reservations
from policies.budgets import Budget
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.limits import Limit, Metric, Mode, ScopeKind
from policies.principal import Caller, Group, Principal, PrincipalKind
from policies.windows import MINUTE, Window

_numbers = itertools.count(1)


def new_id() -> str:
    """A request id that no other test uses."""
    made = f"{time.time_ns() // 1_000_000:012x}"
    return f"{made[:8]}-{made[8:]}-7000-8000-{next(_numbers):012x}"


def endpoint_of(price: Price | None = None, name: str = "chat") -> Endpoint:
    """An endpoint with one entity at a price."""
    entity = ServedEntity("e1", "mixtral", EntityKind.LOCAL, "vllm", "mixtral-demo", price or Price("free"))
    return Endpoint(f"ep-{name}", name, "llm/v1/chat", (entity,))


def caller_of(name: str = "alice", groups: tuple[str, ...] = (), key_id: str | None = None) -> Caller:
    """A user in these groups."""
    return Caller(Principal(f"u-{name}", PrincipalKind.USER, name, groups), key_id=key_id)


def limit_of(
    metric: Metric = Metric.TOTAL_TOKENS,
    amount: int = 1000,
    window: Window | None = MINUTE,
    scope: ScopeKind = ScopeKind.USER_DEFAULT,
    subject: str | None = None,
    mode: Mode = Mode.SHARE,
    name: str = "",
    limit_id: str | None = None,
    endpoint_id: str | None = None,
) -> Limit:
    """A limit with an id of its own."""
    if metric is Metric.CONCURRENT_REQUESTS:
        window = None
    found = limit_id or f"limit-{next(_numbers)}"
    return Limit(found, scope, metric, window, amount, subject, endpoint_id, mode, name)


@dataclass
class World:
    """One configuration and how to ask for admissions in it."""

    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    endpoint: Endpoint = field(default_factory=endpoint_of)
    caller: Caller = field(default_factory=caller_of)
    groups: dict[str, Group] = field(default_factory=dict)
    snapshot: Snapshot = field(init=False)

    def __post_init__(self) -> None:
        self.snapshot = Snapshot(1, limits=self.limits, budgets=self.budgets, groups=self.groups)

    def with_caller(self, caller: Caller) -> World:
        return replace(self, caller=caller)

    def reserve(
        self, worker: Reservations, prompt: int = 0, output: int = 0, least: int | None = None, **more: Any
    ):
        """Ask one worker; gives the future."""
        return worker.reserve(
            self.snapshot,
            more.pop("caller", self.caller),
            more.pop("endpoint", self.endpoint),
            request_id=more.pop("request_id", None) or new_id(),
            prompt_tokens=prompt,
            output_tokens=output,
            least_output=output if least is None else least,
            **more,
        )


Connect = Callable[..., Awaitable[Reservations]]


@pytest.fixture
async def connect(redis_url: str) -> AsyncIterator[Connect]:
    """Makes workers on the test's Redis; all are closed at the end."""
    made: list[Reservations] = []

    async def make(worker_id: str | None = None, **options: Any) -> Reservations:
        # Generous by default: this machine is shared, and only some tests are about time-outs.
        options.setdefault("timeout_seconds", 2.0)
        worker = await Reservations.connect(
            options.pop("url", redis_url), worker_id or f"worker-{next(_numbers)}", **options
        )
        made.append(worker)
        return worker

    yield make
    for worker in made:
        await worker.close(seconds=1.0)


@pytest.fixture
async def worker(connect: Connect) -> Reservations:
    """One worker."""
    return await connect()


async def settle(worker: Home, hold: Hold, prompt: int = 0, completion: int = 0, cost: int = 0) -> None:
    """Settle and wait until Redis took it."""
    assert isinstance(worker, Reservations)
    worker.settle(hold, prompt_tokens=prompt, completion_tokens=completion, cost_nano_usd=cost)
    assert await worker._outbox.drained(5)
