"""What this worker knows of every address that it calls: what is under way, how fast it answers, its circuit.

Other workers' loads and circuits are told to it twice a second (gateway/counters/shared_traffic.py) and are never
waited for: with Redis away each worker goes by what it sees itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from gateway.routing.gate import Gate
from gateway.routing.passes import Pass
from gateway.routing.places import Places, Share
from gateway.routing.seats import NoSeats, Seats
from policies.calling import EntityRules
from policies.catalog import ServedEntity
from policies.circuits import (
    CLOSED,
    Circuit,
    State,
    due,
    failed,
    probing,
    refusal,
    succeeded,
    untold,
    younger,
)
from policies.conversation import Prefix
from policies.replicas import Load, by_prefix, faded, least_loaded, remembered
from policies.retries import RetryBudget

_FORGET_MS = 3_600_000
_HOMES = 16_384
"""Conversations of which it is remembered where they are."""
_TOLD_MS = 3_000
"""How long other workers are told of one: a turn of theirs may be lost."""


Home = tuple[str, bytes, str, int]
"""An entity, a conversation, the key of the target where it is, and since when by the clock that workers share."""


@dataclass(slots=True, eq=False)
class Target:
    """One address of one entity."""

    key: str
    address: str
    calls: int = 0
    tokens: int = 0
    elsewhere: tuple[int, int] = (0, 0)
    """Calls and tokens of other workers, as they last told."""
    latency_us: dict[bool, float] = field(default_factory=dict[bool, float])
    """Faded time to the first byte, of plain calls and of streams."""
    measured_ms: dict[bool, int] = field(default_factory=dict[bool, int])
    """When, of either."""
    circuit: Circuit = CLOSED
    probe: bool = False
    """This worker may make the probe that is due."""
    trying: bool = False
    """A probe is about to begin: its is the next lease."""
    used_ms: int = 0

    def load(self, stream: bool, now_ms: int) -> Load:
        """What there is to do at the address."""
        calls, tokens = self.elsewhere
        idle_ms = now_ms - self.measured_ms.get(stream, now_ms)
        latency = remembered(self.latency_us.get(stream, 0.0), idle_ms)
        return Load(self.key, self.calls + calls, self.tokens + tokens, latency)


class Lease:
    """One call under way at a target; ended exactly once."""

    __slots__ = (
        "_began_ms",
        "_open",
        "_places",
        "_probes",
        "_rules",
        "_seat",
        "_since_ms",
        "_stream",
        "_tokens",
        "_traffic",
        "_who",
        "had",
        "target",
    )

    def __init__(
        self,
        traffic: Traffic,
        target: Target,
        rules: EntityRules,
        *,
        tokens: int,
        stream: bool,
        places: Places | None,
        who: str,
        had: Pass | None = None,
        seat: bytes | None = None,
    ) -> None:
        self.target = target
        self.had = had
        """Its slot of an engine whose throughput is provisioned."""
        self._traffic = traffic
        self._rules = rules
        self._tokens = tokens
        self._stream = stream
        self._places = places
        self._seat = seat
        self._who = who
        self._began_ms = target.used_ms = traffic.now_ms()
        # Durations by a clock of our own: the shared one may be set while the call runs.
        self._since_ms = traffic.clock_ms()
        self._open = True
        self._probes, target.trying = target.trying, False
        target.calls += 1
        target.tokens += tokens

    def answered(self, first_byte_us: int) -> None:
        """The first byte is there."""
        target, now = self.target, self._traffic.now_ms()
        idle_ms = now - target.measured_ms.get(self._stream, now)
        target.latency_us[self._stream] = faded(
            target.latency_us.get(self._stream, 0.0), first_byte_us, idle_ms * 1000.0
        )
        target.measured_ms[self._stream] = now
        self._traffic.put(target, succeeded(target.circuit, self._began_ms, now))

    def end(self, fault: str | None = None, *, rest_ms: int = 0, tokens: int = 0) -> None:
        """The call has ended and took so many tokens; `fault` says what the address did wrong, if it did."""
        if not self._open:
            return
        self._open = False
        target, now = self.target, self._traffic.now_ms()
        target.calls -= 1
        target.tokens -= self._tokens
        if self.had is not None:
            self.had.end(tokens)
        if self._seat is not None:
            self._traffic.seats.give_back(self._seat)
        if self._places is not None:
            self._places.leave(self._who, (self._traffic.clock_ms() - self._since_ms) / 1000)
        if fault is not None:
            self._traffic.put(
                target, failed(target.circuit, self._began_ms, now, self._rules, fault, rest_ms)
            )
        elif self._probes:
            self._traffic.put(target, untold(target.circuit, now))


class Traffic:
    """Targets and places of every entity; `workers` is how many share them now, `rank` which of them this one is."""

    def __init__(self, clock_ms: Callable[[], int], draw: Callable[[], float]) -> None:
        self.targets: dict[str, Target] = {}
        self.workers = 1
        self.rank = 0
        """Ours among them, the same for all who hear each other."""
        self.ahead_ms = 0
        """How far the clock that workers share is ahead of ours."""
        self.alone = True
        """Whether no other worker can be asked who makes a probe."""
        self.clock_ms = clock_ms
        """A worker's own clock."""
        self.seats: Seats = NoSeats()
        """Who counts the places of an entity with fewer of them than there are workers."""
        self._draw = draw
        self._places: dict[str, Places] = {}
        self.budgets: dict[str, RetryBudget] = {}
        """Of entities that have failed: those that never did need none."""
        self._homes: OrderedDict[tuple[str, bytes], tuple[int, str]] = OrderedDict()
        """Since when each conversation is at which target."""
        self._begun: deque[tuple[int, tuple[str, bytes, str]]] = deque(maxlen=512)
        """What this worker has placed of late, and when."""
        self._swept_ms = 0
        self.gate = Gate(clock_ms)
        """The way to the local engine, where its throughput is provisioned."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a place, or for a slot of the engine."""
        return self.gate.waiting + sum(each.waiting for each in self._places.values())

    @property
    def open_circuits(self) -> int:
        """Addresses that are left alone."""
        return sum(each.circuit.state is not State.CLOSED for each in self.targets.values())

    def now_ms(self) -> int:
        """The clock that workers share."""
        return self.clock_ms() + self.ahead_ms

    def target(self, entity: ServedEntity, address: str) -> Target:
        """The target of an entity's address."""
        key = f"{entity.id}@{address}"
        found = self.targets.get(key)
        if found is None:
            found = self.targets[key] = Target(key, address, used_ms=self.now_ms())
        return found

    def places(self, entity: ServedEntity) -> tuple[Places, Share] | None:
        """The entity's places and this worker's share of them; None where as many run as come."""
        if not entity.rules.concurrency:
            return None
        found = self._places.get(entity.id)
        if found is None:
            found = self._places[entity.id] = Places(lambda: self.clock_ms() / 1000)
        share = Share.of(entity.rules, self.workers, self.rank)
        if self.few_places(entity):
            share = replace(share, places=entity.rules.concurrency)
        return found, share

    def few_places(self, entity: ServedEntity) -> bool:
        """Whether there are fewer than workers, so that each call has to be given one of all."""
        return not self.alone and 0 < entity.rules.concurrency < self.workers

    def budget(self, entity: ServedEntity) -> RetryBudget:
        """What retries the entity may still get from this worker."""
        found = self.budgets.get(entity.id)
        if found is None:
            found = self.budgets[entity.id] = RetryBudget()
        return found

    def refusal(self, entity: ServedEntity, addresses: Sequence[str]) -> str | None:
        """Why none of the addresses should be called now, None where one may."""
        reason = None
        for address in addresses:
            target = self.targets.get(f"{entity.id}@{address}")
            if target is None or (reason := self._refusal(target)) is None:
                return None
        return reason

    def choose(
        self,
        entity: ServedEntity,
        addresses: Sequence[str],
        *,
        tried: Collection[str],
        prefix: Prefix | None,
        tokens: int,
        stream: bool,
    ) -> Target:
        """The address that takes a call: one that was not tried and whose circuit is closed, if there is one."""
        targets = [self.target(entity, address) for address in addresses]
        if len(targets) > 1:
            targets = [each for each in targets if each.address not in tried] or targets
            targets = [each for each in targets if self._refusal(each) is None] or targets
        chosen = targets[0]
        for each in targets:
            if each.circuit.state is not State.CLOSED and self._refusal(each) is None:
                # A probe that is due is made by the first call that comes: nothing else would ever close the circuit.
                chosen = each
                break
        else:
            if len(targets) > 1:
                now = self.now_ms()
                loads = [each.load(stream, now) for each in targets]
                if prefix is None:
                    chosen = targets[least_loaded(loads, self._draw(), self._draw())]
                else:
                    chosen = targets[self._at_home(entity, loads, prefix, tokens)]
        if chosen.circuit.state is not State.CLOSED and due(chosen.circuit, self.now_ms()):
            chosen.probe, chosen.trying = False, True
            self.put(chosen, probing(chosen.circuit, self.now_ms()))
        return chosen

    def _at_home(self, entity: ServedEntity, loads: Sequence[Load], prefix: Prefix, tokens: int) -> int:
        """Where the call's conversation is, or begins; one call elsewhere does not move it while its replica is up."""
        conversation = entity.id, prefix.conversation
        since_ms, home = self._homes.get(conversation, (0, None))
        if home is not None and all(each.key != home for each in loads):
            home = None
        at = by_prefix(loads, prefix, tokens, home)
        if home is None:
            since_ms, home = self.clock_ms(), loads[at].key
            self._begun.append((since_ms, (*conversation, home)))
        self._remember(conversation, since_ms, home)
        return at

    def _remember(self, conversation: tuple[str, bytes], since_ms: int, home: str) -> None:
        self._homes[conversation] = since_ms, home
        self._homes.move_to_end(conversation)
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)

    def begun(self) -> list[Home]:
        """Where conversations are that this worker has placed of late."""
        since = self.clock_ms() - _TOLD_MS
        while self._begun and self._begun[0][0] < since:
            self._begun.popleft()
        return [(*home, since_ms + self.ahead_ms) for since_ms, home in self._begun]

    def elsewhere_begun(self, homes: Iterable[Home]) -> None:
        """Where other workers have placed conversations: where one was placed last it is, for all of them."""
        for entity_id, digest, key, since_ms in homes:
            conversation, told = (entity_id, digest), (since_ms - self.ahead_ms, key)
            if told > self._homes.get(conversation, (-1 << 62, "")):
                self._remember(conversation, *told)

    def put(self, target: Target, circuit: Circuit) -> None:
        """Take over what a circuit has become."""
        target.circuit = circuit

    def told(self, key: str, circuit: Circuit) -> None:
        """Another worker's opinion of a circuit."""
        target = self.targets.get(key)
        if target is None:
            target = self.targets[key] = Target(key, key.partition("@")[2], used_ms=self.now_ms())
        newer = younger(target.circuit, circuit)
        if newer is not target.circuit:
            target.circuit, target.probe = newer, False

    def due_probes(self) -> list[Target]:
        """Those for which somebody should get leave to probe."""
        now = self.now_ms()
        return [each for each in self.targets.values() if not each.probe and due(each.circuit, now)]

    def sweep(self) -> None:
        """Forget what was not called for an hour; looked at once a minute."""
        now = self.now_ms()
        if now - self._swept_ms < 60_000:
            return
        self._swept_ms = now
        for key, target in list(self.targets.items()):
            if not target.calls and now - target.used_ms > _FORGET_MS:
                del self.targets[key]
        alive = {key.partition("@")[0] for key in self.targets}
        for entity_id in list(self._places):
            places = self._places[entity_id]
            if entity_id not in alive and not places.running and not places.waiting:
                del self._places[entity_id]
        for entity_id in [each for each in self.budgets if each not in alive]:
            del self.budgets[entity_id]

    def _refusal(self, target: Target) -> str | None:
        circuit = target.circuit
        if circuit.state is State.CLOSED:
            return None
        now = self.now_ms()
        if due(circuit, now) and (target.probe or self.alone):
            return None
        return refusal(circuit, now)
