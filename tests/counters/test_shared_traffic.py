"""Workers tell each other of circuits and loads through a real Redis, and one of them makes the probe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from redis import Redis

from gateway.counters.shared_traffic import News, SharedTraffic
from gateway.routing.passes import Ask
from gateway.routing.places import Full
from gateway.routing.traffic import Lease, Traffic
from policies.calling import EntityRules
from policies.catalog import EntityKind, Price, ServedEntity
from policies.circuits import State
from policies.conversation import Prefix
from policies.throughput import Lane, Pool, Provision, Throughput

RULES = EntityRules(failures=1, open_ms=1_000)
ENTITY = ServedEntity("e", "one", EntityKind.EXTERNAL, "openai", "m", Price("p"), base_url="a", rules=RULES)


@dataclass
class Worker:
    """One worker's traffic, on a clock of its own, and its link to the others."""

    traffic: Traffic
    shared: SharedTraffic
    clock_ms: int = 5_000

    def lease(self, tokens: int = 10) -> Lease:
        target = self.traffic.choose(ENTITY, ("a",), tried=(), prefix=None, tokens=tokens, stream=False)
        return Lease(self.traffic, target, RULES, tokens=tokens, stream=False, places=None, who="u")


@pytest.fixture
async def workers(redis_url: str) -> AsyncIterator[list[Worker]]:
    made: list[Worker] = []
    for number in range(3):
        holder: list[Worker] = []
        traffic = Traffic(
            lambda holder=holder: holder[0].clock_ms if holder else 5_000, random.Random(1).random
        )
        worker = Worker(traffic, SharedTraffic(redis_url, f"worker-{number}", traffic))
        holder.append(worker)
        made.append(worker)
    for each in (*made, *made, *made):
        await each.shared.exchange()
    yield made
    for each in made:
        await each.shared.close()


async def exchanged(workers: list[Worker]) -> None:
    for each in (*workers, *workers):
        await each.shared.exchange()


async def test_what_one_worker_finds_out_the_others_know_and_so_with_its_end(workers: list[Worker]) -> None:
    one, other, third = workers
    assert [each.traffic.workers for each in workers] == [3, 3, 3]
    held = other.lease(tokens=30)
    one.lease().end("upstream_500")
    await exchanged(workers)
    for each in (other, third):
        assert "circuit is open" in (each.traffic.refusal(ENTITY, ("a",)) or "")
    assert one.traffic.target(ENTITY, "a").load(stream=False, now_ms=0).calls == 1
    assert third.traffic.target(ENTITY, "a").load(stream=False, now_ms=0).tokens == 30
    held.end()
    for each in workers:
        each.clock_ms += 1_200
    probing = [each for each in workers if await may_probe(each)]
    assert len(probing) == 1, "one worker makes the probe"
    probe = probing[0].lease()
    assert probing[0].traffic.target(ENTITY, "a").circuit.state is State.HALF_OPEN
    probe.answered(1_000)
    probe.end()
    await exchanged(workers)
    assert all(each.traffic.refusal(ENTITY, ("a",)) is None for each in workers)


async def test_a_worker_that_is_heard_of_no_more_counts_no_more_nor_what_it_had_under_way(
    workers: list[Worker], redis_url: str
) -> None:
    one, other, third = workers
    seen = one.traffic.target(ENTITY, "a")
    other.lease(tokens=30)
    await exchanged(workers)
    assert seen.load(stream=False, now_ms=0).tokens == 30
    with Redis.from_url(redis_url) as client:
        (name,) = client.keys("*:traffic")  # pyright: ignore[reportGeneralTypeIssues]
        found: Any = client.hget(name, "worker-1")
        said = msgspec.msgpack.decode(found, type=News)
        said.at_ms -= 3_100
        client.hset(name, "worker-1", msgspec.msgpack.encode(said))  # pyright: ignore[reportArgumentType]
    await third.shared.exchange()
    await one.shared.exchange()
    assert (one.traffic.workers, seen.load(stream=False, now_ms=0).tokens) == (2, 0)


async def may_probe(worker: Worker) -> bool:
    await worker.shared._claim()  # pyright: ignore[reportPrivateUsage]
    return worker.traffic.refusal(ENTITY, ("a",)) is None


async def test_leave_that_nobody_used_for_long_is_still_one_workers_alone(
    workers: list[Worker], redis_url: str
) -> None:
    one, other, _ = workers
    one.lease().end("upstream_500")
    await exchanged(workers)
    for each in workers:
        each.clock_ms += 1_200
    assert await may_probe(one)
    with Redis.from_url(redis_url) as client:
        (name,) = client.keys("*probe*")  # pyright: ignore[reportGeneralTypeIssues]
        client.pexpire(name, 2_000)
        await one.shared._claim()  # pyright: ignore[reportPrivateUsage]
        assert client.pttl(name) > 5_000, "who has it keeps it"
        # What expired all the same, as in a process that was stopped, is the next one's and nobody else's.
        client.delete(name)
        assert await may_probe(other)
        assert not await may_probe(one)


async def test_a_probe_whose_client_leaves_is_made_by_the_next_call_and_not_half_a_minute_later(
    workers: list[Worker],
) -> None:
    one = workers[0]
    one.lease().end("upstream_500")
    await exchanged(workers)
    for each in workers:
        each.clock_ms += 1_200
    assert await may_probe(one)
    left = one.lease()
    assert one.traffic.target(ENTITY, "a").circuit.state is State.HALF_OPEN
    for each in workers:
        each.clock_ms += 10
    left.end()
    await exchanged(workers)
    free = [each for each in workers if await may_probe(each)]
    assert len(free) == 1, "the next one's, and one's alone"
    told = free[0].lease()
    for each in workers:
        each.clock_ms += 10
    told.answered(1_000)
    told.end()
    await exchanged(workers)
    assert all(each.traffic.refusal(ENTITY, ("a",)) is None for each in workers)


async def test_an_entitys_places_are_divided_without_a_rest(workers: list[Worker]) -> None:
    entity = ServedEntity(
        "f", "many", EntityKind.EXTERNAL, "openai", "m", Price("p"), base_url="a", rules=EntityRules(concurrency=8)
    )  # fmt: skip
    parts: list[int] = []
    for each in workers:
        found = each.traffic.places(entity)
        assert found is not None
        parts.append(found[1].places)
    assert sorted(parts) == [2, 3, 3]


async def test_a_worker_that_is_gone_counts_no_more(workers: list[Worker]) -> None:
    one, other, _ = workers
    other.lease()
    one.lease().end()
    await exchanged(workers)
    assert one.traffic.target(ENTITY, "a").load(stream=False, now_ms=0).calls == 1
    await other.shared.close()
    await one.shared.exchange()
    assert one.traffic.workers == 2
    assert one.traffic.target(ENTITY, "a").load(stream=False, now_ms=0).calls == 0


async def test_slots_of_the_engine_go_where_they_are_wanted_and_charges_are_everybodys(
    workers: list[Worker],
) -> None:
    one, other, _ = workers
    provision = Provision("v", "kept", "g", rate=100)
    throughput = Throughput.made(Pool("p", "local", 1, 100, slots=6), [provision])

    def ask(*provisions: Provision, tokens: int = 10) -> Ask:
        return Ask(throughput, provisions, "u", tokens, False, 1)

    for each in workers:
        each.traffic.gate.follow(throughput)
    lent = [await one.traffic.gate.enter(ask(), 1_000) for _ in range(2)]
    more = [asyncio.create_task(one.traffic.gate.enter(ask(), 60_000)) for _ in range(4)]
    while one.traffic.gate.waiting < 4:
        await asyncio.sleep(0)
    await exchanged(workers)
    lent += await asyncio.gather(*more)
    covered = await one.traffic.gate.enter(ask(provision, tokens=10_000), 1_000)
    assert covered.lane is Lane.COVERED
    await exchanged(workers)
    with pytest.raises(Full):
        await other.traffic.gate.enter(ask(provision), 1)
    for each in (*lent, covered):
        each.end(0)
    await exchanged(workers)
    assert (await other.traffic.gate.enter(ask(provision), 1_000)).lane is Lane.COVERED


async def test_without_redis_each_goes_by_what_it_sees() -> None:
    traffic = Traffic(lambda: now[0], random.Random(1).random)
    now = [10_000]
    shared = SharedTraffic("redis://127.0.0.1:1", "alone", traffic)
    worker = Worker(traffic, shared)
    worker.lease().end("upstream_500")
    assert traffic.refusal(ENTITY, ("a",)) is not None
    now[0] += 1_000
    assert traffic.refusal(ENTITY, ("a",)) is None, "alone, a worker makes its own probes"
    await shared.close()


async def test_a_conversation_that_one_worker_has_placed_is_there_for_the_others(
    workers: list[Worker],
) -> None:
    one, other, third = workers
    replicas = tuple(f"r{number}" for number in range(4))
    prefix = Prefix(b"conversation", b"shared", shared_tokens=1)
    # Loaded so that the one worker has to depart from the order that all of them know.
    first = one.traffic.choose(ENTITY, replicas, tried=(), prefix=prefix, tokens=1, stream=False)
    first.tokens = 50
    begun = Prefix(b"another", b"shared", shared_tokens=1)
    placed = one.traffic.choose(ENTITY, replicas, tried=(), prefix=begun, tokens=1, stream=False)
    assert placed is not first
    await exchanged(workers)
    for each in (other, third):
        for known, at in ((prefix, first), (begun, placed)):
            found = each.traffic.choose(ENTITY, replicas, tried=(), prefix=known, tokens=1, stream=False)
            assert found.address == at.address
    # Told for some seconds, and not for ever.
    assert one.traffic.begun()
    one.clock_ms += 10_000
    assert not one.traffic.begun()


async def test_a_conversation_that_had_to_move_stays_where_it_went_for_all_workers(
    workers: list[Worker],
) -> None:
    one, other, third = workers
    replicas = ("r0", "r1")
    prefix = Prefix(b"conversation")

    def at(worker: Worker, addresses: Sequence[str]) -> str:
        found = worker.traffic.choose(ENTITY, addresses, tried=(), prefix=prefix, tokens=1, stream=False)
        return found.address

    before = at(one, replicas)
    await exchanged(workers)
    assert at(other, replicas) == at(third, replicas) == before
    for each in workers:
        each.clock_ms += 10_000
    # While it is down the next turns meet one of them only.
    (left,) = set(replicas) - {before}
    assert at(one, (left, "r2")) in (left, "r2")
    moved = at(one, (*replicas, "r2"))
    assert moved != before
    await exchanged(workers)
    assert {at(each, (*replicas, "r2")) for each in workers} == {moved}


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_was_slow_once_gets_calls_again_one_at_a_time(stream: bool) -> None:
    clock = [10_000]
    traffic = Traffic(lambda: clock[0], random.Random(1).random)
    asked: list[str] = []

    def call(tried: str, first_byte_us: int, *, stream: bool = stream) -> None:
        target = traffic.choose(ENTITY, ("r0", "r1"), tried=(tried,), prefix=None, tokens=1, stream=stream)
        lease = Lease(traffic, target, RULES, tokens=1, stream=stream, places=None, who="u")
        lease.answered(first_byte_us)
        lease.end()
        asked.append(target.address)

    call("r0", 20_000)
    call("r1", 5_000_000)
    asked.clear()
    for _ in range(60):
        clock[0] += 1_000
        # Of the other kind it is measured all along, which tells nothing of this one.
        call("r1", 20_000, stream=not stream)
        call("", 20_000)
    assert asked[1::2][:10] == ["r1"] * 10
    assert "r0" in asked[1::2]


@pytest.mark.parametrize(("later", "ahead_ms"), [(0, 0), (1, 0), (0, 7_000), (1, -7_000)])
def test_of_two_workers_that_placed_a_conversation_the_later_one_holds_for_both(
    later: int, ahead_ms: int
) -> None:
    prefix = Prefix(b"conversation")
    # Their own clocks may differ by seconds: what they tell is by the one that they share.
    clocks = [10_000, 10_000 - ahead_ms]
    both = [Traffic(lambda at=at: clocks[at], random.Random(1).random) for at in range(2)]
    both[1].ahead_ms = ahead_ms
    for at in (1 - later, later):
        for number in range(2):
            clocks[number] += 100
        both[at].choose(ENTITY, (f"r{at}", f"s{at}"), tried=(), prefix=prefix, tokens=1, stream=False)
    for at in range(2):
        both[at].elsewhere_begun(both[1 - at].begun())
    every = ("r0", "r1", "s0", "s1")
    found = {
        each.choose(ENTITY, every, tried=(), prefix=prefix, tokens=1, stream=False).address for each in both
    }
    assert len(found) == 1
    assert found < {f"r{later}", f"s{later}"}
