"""What is known of the engine's replicas reaches workers and people."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engines.local.adapter_keeper import Standing
from engines.local.supervise import EngineState, Phase
from engines.transport import Timeouts
from gateway.adapter_notes import write_standings
from gateway.engine_notes import EngineNote, ReplicaNote, read_note, write_note
from gateway.engine_watch import EngineWatch, _timeouts
from gateway.settings import Settings, SettingsError
from gateway.supervise.engine import Replicas, own_engine_url
from gateway.supervise.engine_status import engine_lines
from policies.calling import EntityRules
from policies.catalog import EntityKind, Price, ServedEntity
from tests.faults.upstream import Upstream


@pytest.fixture
def home() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="wb-replicas-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def replica(address: str, phase: str, detail: str = "") -> ReplicaNote:
    return ReplicaNote(address=address, phase=phase, detail=detail)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (["ready", "starting"], "ready"),
        (["failed", "ready"], "ready"),
        (["failed", "starting"], "starting"),
        (["draining", "starting"], "draining"),
        (["stopped", "stopped"], "stopped"),
        (["failed", "failed"], "failed"),
    ],
)
def test_the_engine_stands_as_the_replica_that_is_farthest(phases: list[str], expected: str) -> None:
    note = EngineNote.of([replica(str(number), phase, phase) for number, phase in enumerate(phases)])
    assert (note.phase, note.detail) == (expected, expected)


def test_a_note_is_read_as_it_was_left_and_one_of_an_earlier_version_too(home: Path) -> None:
    note = EngineNote.of([replica("unix:/a", "ready"), replica("unix:/b", "draining")])
    write_note(home, note)
    assert read_note(home) == note
    assert note.draining() == {"unix:/b"}
    (home / "engine.json").write_text('{"phase": "starting", "detail": "start 2"}')
    assert read_note(home) == EngineNote("starting", "start 2")
    (home / "engine.json").write_text('{"phase": ')
    assert read_note(home) is None


def test_each_replica_has_a_socket_of_its_own(home: Path) -> None:
    settings = Settings.from_env({"WEIGHBRIDGE_HOME": str(home), "WEIGHBRIDGE_ENGINE_REPLICAS": "3"})
    addresses = own_engine_url(settings).split(",")
    assert len(set(addresses)) == 3
    assert all(each.startswith("unix:/") for each in addresses)
    assert Settings.from_env(settings.to_env()) == settings
    with pytest.raises(SettingsError, match="ENGINE_REPLICAS"):
        Settings.from_env({"WEIGHBRIDGE_ENGINE_REPLICAS": "0"})


def entity(model: str) -> ServedEntity:
    return ServedEntity(model, model, EntityKind.LOCAL, "vllm", model, Price("free"))


async def reached(watch: EngineWatch, model: str, *expected: str) -> None:
    """Wait until calls of a model may go to these addresses."""
    async with asyncio.timeout(30):
        while watch.addresses(entity(model)) != expected:
            await asyncio.sleep(0.05)


async def test_workers_call_what_answers_is_not_leaving_and_has_the_adapter(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.engine_watch._READY_SECONDS", 0.05)
    async with Upstream() as one, Upstream() as two:
        watch = EngineWatch(f"{one.url}, {two.url}/v1", home)
        await watch.start()
        try:
            assert watch.addresses(entity("base")) == (one.url, two.url)
            assert (watch.replicas, watch.missing) == ((2, 2), None)
            write_standings(home, {"sql": Standing(loaded=True, lacking=(two.url,))})
            await reached(watch, "sql", one.url)
            assert watch.addresses(entity("base")) == (one.url, two.url)
            write_note(home, EngineNote.of([replica(one.url, "draining"), replica(two.url, "ready")]))
            await reached(watch, "base", two.url)
            assert watch.missing == "1 of 2 cannot be called: it is draining"
            assert watch.unfit(entity("base")) is None
            assert watch.unfit(entity("sql")) == "adapter 'sql' is being loaded"
            write_note(home, EngineNote.of([replica(one.url, "ready"), replica(two.url, "ready")]))
            await two.refuse()
            await reached(watch, "base", one.url)
            await two.accept()
            await reached(watch, "base", one.url, two.url)
        finally:
            await watch.stop()


async def test_a_call_that_does_not_get_through_makes_a_worker_look_at_once_and_not_believe_it_blindly(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.engine_watch._READY_SECONDS", 3_600.0)
    async with Upstream() as one, Upstream() as two:
        watch = EngineWatch(f"{one.url},{two.url}", home)
        await watch.start()
        try:
            await two.refuse()
            watch.unreachable(entity("base"), one.url)
            watch.unreachable(entity("base"), two.url)
            await reached(watch, "base", one.url)
            assert watch.unfit(entity("base")) is None
            await one.refuse()
            watch.unreachable(entity("base"), one.url)
            await reached(watch, "base")
            assert watch.unfit(entity("base")) == "the local engine is away: it does not answer"
            assert not watch.gone_for_good(entity("base"))
        finally:
            await watch.stop()


async def test_status_has_a_line_for_each_replica_whoever_runs_it(home: Path) -> None:
    async with Upstream() as ours, Upstream() as theirs:
        note = EngineNote.of(
            [
                msgspec.structs.replace(replica(ours.url, "ready"), pid=77, starts=3),
                replica("unix:/none", "starting", "start 2: the engine ended"),
            ]
        )
        lines = await engine_lines([ours.url, f" {theirs.url}/v1", "unix:/none"], note)
        assert lines[0].startswith("engine 0    ready")
        assert "process 77, started 3x" in lines[0]
        assert lines[1].startswith("engine 1    answers, vLLM ")
        assert lines[2].startswith("engine 2    starting (start 2: the engine ended)")
        await theirs.refuse()
        (away,) = await engine_lines([theirs.url], None)
        assert "does not answer" in away


async def test_what_the_supervisor_hears_is_in_the_note_and_on_the_log(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Upstream() as one:
        replicas = Replicas(home, [one.url, "unix:/none"])
        replicas.installing("1 of 2 packages")
        replicas.started_as([("python", "--model", "m"), ("python", "--model", "m")])
        replicas.changed(0, EngineState(Phase.STARTING, starts=1))
        replicas.changed(0, EngineState(Phase.READY, one.url, 7, 1))
        replicas.changed(1, EngineState(Phase.FAILED, "gave up after 5 starts: no room", starts=5))
        async with asyncio.timeout(30):
            while (note := read_note(home / "run")) is None or not note.replicas[0].version:
                await asyncio.sleep(0.02)
        assert note.phase == "ready"
        ready, failed = note.replicas
        assert (ready.phase, ready.pid, ready.starts, ready.command) == (
            "ready", 7, 1, ("python", "--model", "m"),
        )  # fmt: skip
        assert (failed.phase, failed.detail) == ("failed", "gave up after 5 starts: no room")
        assert not replicas.failed
        await replicas.stop()
        note = read_note(home / "run")
        assert note is not None
        assert [each.phase for each in note.replicas] == ["stopped", "failed"]
    log = capsys.readouterr().out
    for line in ("engine installing: 1 of 2", "engine-0 ready: http", "engine-0 is: vLLM", "engine-1 failed"):
        assert line in log


def test_an_entitys_own_limits_are_those_of_its_calls_and_a_plain_answer_may_take_all_its_time() -> None:
    assert _timeouts(EntityRules()) == Timeouts()
    own = EntityRules(connect_ms=1_000, first_token_ms=90_000, between_ms=3_000, total_ms=400_000)
    assert _timeouts(own) == Timeouts(connect=1.0, first_byte=400.0, between=3.0, total=400.0)


def test_where_the_set_up_cannot_be_made_every_replica_says_why(home: Path) -> None:
    replicas = Replicas(home, ["unix:/a", "unix:/b"])
    replicas.unavailable("no wheel for this machine")
    assert replicas.failed
    note = read_note(home / "run")
    assert note is not None
    assert {(each.phase, each.detail) for each in note.replicas} == {("failed", "no wheel for this machine")}
