"""How long an engine worked follows from its counters, minute by minute, and nothing is made up where they say nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.local.meter import METRICS, Reading, Worked, reading, worked
from gateway.engine_meter import EngineLog, EngineMeter, Look
from gateway.errors import Unavailable
from gateway.store.engine_minutes import EngineMinute

SECOND = 10**6
MINUTE = 60 * SECOND
NOTHING = Reading(0, 0, 0, 0, 0, 0, 0)


def test_a_lone_call_kept_it_at_work_for_as_long_as_its_tokens_took() -> None:
    # A prompt of half a second, then 100 tokens of 10 ms.
    after = Reading(0, 101, 101, 1_500_000, 1_000, 0, 101)
    assert worked(NOTHING, after, 5 * SECOND) == Worked(
        5 * SECOND, 0, 1_500_000, 1_500_000, 101, 1_000, 0, 101
    )


def test_calls_side_by_side_are_not_counted_twice() -> None:
    after = Reading(0, 100, 400, 4 * SECOND, 0, 0, 400)
    done = worked(NOTHING, after, 5 * SECOND)
    assert done is not None
    assert (done.busy, done.present) == (SECOND, 4 * SECOND)


def test_it_never_worked_longer_than_passed() -> None:
    done = worked(NOTHING, Reading(3, 10, 30, 90 * SECOND, 0, 0, 30), 5 * SECOND)
    assert done is not None
    assert done.busy == 5 * SECOND


@pytest.mark.parametrize(("before", "after", "busy"), [(0, 0, 0), (1, 2, 5), (0, 1, 2.5), (1, 0, 2.5)])
def test_a_step_longer_than_from_look_to_look_is_work(before: int, after: int, busy: float) -> None:
    done = worked(replace(NOTHING, running=before), replace(NOTHING, running=after), 5 * SECOND)
    assert done is not None
    assert done.busy == busy * SECOND


def test_of_a_server_that_began_anew_nothing_is_known() -> None:
    assert worked(replace(NOTHING, steps=10, outputs=10), NOTHING, 5 * SECOND) is None


def test_a_page_without_steps_is_no_reading() -> None:
    page = dict.fromkeys(METRICS, 1.0)
    assert reading(page) == Reading(1, 1, 2, 2 * SECOND, 0, 1, 1)
    page.pop("vllm:iteration_tokens_total_count")
    assert reading(page) is None


@given(
    st.builds(Worked, *[st.integers(0, 10**9)] * 8),
    st.integers(1, 10**8).flatmap(lambda passed: st.tuples(st.just(passed), st.sets(st.integers(0, passed)))),
)
def test_the_parts_of_a_stretch_add_up_to_it(whole: Worked, cut: tuple[int, set[int]]) -> None:
    passed, edges = cut
    found = Worked()
    for part in whole.over(passed, sorted({*edges, passed})):
        assert min(part) >= 0
        found = found.plus(part)
    assert found == whole


def look(at: float, steps: int | None, *, away: bool = False, steady: float | None = None) -> Look:
    """A look at so many seconds; each step takes 10 ms of one call."""
    said = None if steps is None else Reading(0, steps, steps, steps * 10_000, 0, 0, steps)
    return Look(int(at * SECOND), int((at if steady is None else steady) * SECOND), said, away)


def logged(*looks: Look) -> dict[int, Worked]:
    log = EngineLog("one")
    for each in looks:
        log.add(each)
    return {int(each.minute.timestamp()): each.worked for each in log.handed()}


def test_a_stretch_over_a_minutes_edge_is_shared_by_its_length() -> None:
    found = logged(look(50, 0), look(70, 200))
    assert found == {
        0: Worked(10 * SECOND, 0, SECOND, SECOND, 100, 0, 0, 100),
        60: Worked(10 * SECOND, 0, SECOND, SECOND, 100, 0, 0, 100),
    }


def test_one_that_does_not_answer_is_away_from_then_until_it_does() -> None:
    found = logged(
        look(0, 100), look(5, None, away=True), look(10, None, away=True), look(15, 10), look(20, 60)
    )
    # Between its last answer and the first silence nothing is known.
    assert found == {0: Worked(15 * SECOND, 10 * SECOND, SECOND // 2, SECOND // 2, 50, 0, 0, 50)}


def test_what_no_clock_or_no_vllm_vouches_for_is_not_watched() -> None:
    set_back = (look(100, 0), look(90, 10, steady=105))
    set_forward = (look(100, 0), look(200, 10, steady=105))
    another_server = (look(100, None), look(105, None))
    for each in (set_back, set_forward, another_server, (look(100, 0),)):
        assert logged(*each) == {}


def test_a_minute_is_handed_over_once_it_has_ended() -> None:
    log = EngineLog("one")
    log.add(look(50, 0))
    log.add(look(55, 10))
    assert log.handed(59 * SECOND) == []
    [minute] = log.handed(60 * SECOND)
    assert minute.minute == datetime.fromtimestamp(0, UTC)
    assert log.handed() == []


@contextlib.asynccontextmanager
async def serving(pages: list[bytes]) -> AsyncGenerator[str]:
    """A server that answers each request with the next page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                page = pages.pop(0)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def page(steps: int) -> bytes:
    return "".join(f'{name}{{engine="0"}} {steps}.0\n' for name in METRICS).encode()


async def test_minutes_wait_for_the_books_and_the_last_is_handed_over_at_the_end() -> None:
    kept: list[EngineMinute] = []
    away = True

    async def keep(minutes: Sequence[EngineMinute]) -> None:
        if away:
            raise Unavailable("PostgreSQL is away.")
        kept.extend(minutes)

    async with serving([page(steps) for steps in (0, 5, 10, 15)]) as url:
        meter = EngineMeter(f"{url}/v1", keep)
        for _ in range(3):
            await meter.turn()
        running = asyncio.create_task(meter.run())
        await asyncio.sleep(0)
        away = False
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {each.engine for each in kept} == {url}
    assert sum(each.worked.steps for each in kept) in (10, 15)
