"""The embedding model beside the engine: whether and where it is served, and which calls go to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.local.launch import EMBEDDER_NAME
from gateway.engine_notes import EMBEDDER_NOTE, EngineNote, ReplicaNote, write_note
from gateway.engine_watch import NO_EMBEDDER, EngineWatch
from gateway.settings import Settings, SettingsError
from gateway.supervise import embedder
from gateway.supervise.embedder import chosen, own_embedder_url
from policies.catalog import EntityKind, Price, ServedEntity
from tests.faults.upstream import Upstream


def entity(model: str) -> ServedEntity:
    return ServedEntity(model, model, EntityKind.LOCAL, "vllm", model, Price("free"))


@pytest.mark.parametrize(
    ("wanted", "url", "room", "serves", "somewhere"),
    [
        ("auto", None, True, True, True),
        ("auto", None, False, False, False),
        ("vllm", None, False, True, True),
        ("none", None, True, False, False),
        ("auto", "http://elsewhere:8000", True, False, True),
        ("vllm", "http://elsewhere:8000", True, False, True),
    ],
)
def test_it_is_served_where_it_is_wanted_or_the_machine_can_carry_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: Any,
    url: str | None,
    room: bool,
    serves: bool,
    somewhere: bool,
) -> None:
    monkeypatch.setattr(embedder, "can_carry", lambda: room)
    settings = replace(
        Settings.from_env({"WEIGHBRIDGE_HOME": str(tmp_path)}), embedder=wanted, embedder_url=url
    )
    made = chosen(settings)
    assert made.embedder == ("vllm" if serves else "none")
    assert (made.embedder_url is not None) is somewhere
    if serves:
        assert made.embedder_url == own_embedder_url(settings)
    assert Settings.from_env(made.to_env()) == made


def test_a_machine_of_few_cores_or_little_memory_does_not_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, free, can in ((2, 64 << 30, False), (8, 1 << 30, False), (8, 64 << 30, True)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(embedder, "_available", lambda free=free: free)
        assert embedder.can_carry() is can


def test_any_other_word_is_refused() -> None:
    with pytest.raises(SettingsError, match="EMBEDDER"):
        Settings.from_env({"WEIGHBRIDGE_EMBEDDER": "yes"})


async def test_calls_of_its_model_go_to_it_and_no_other_does(tmp_path: Path) -> None:
    async with Upstream() as engine, Upstream() as vectors:
        beside = EngineWatch(vectors.url, tmp_path, note=EMBEDDER_NOTE)
        watch = EngineWatch(engine.url, tmp_path, beside={EMBEDDER_NAME: beside})
        await watch.start()
        try:
            assert watch.addresses(entity("base")) == (engine.url,)
            assert watch.addresses(entity(EMBEDDER_NAME)) == (vectors.url,)
            assert watch.unfit(entity("base")) is watch.unfit(entity(EMBEDDER_NAME)) is None
            assert watch.adapter(entity(EMBEDDER_NAME), vectors.url) is beside.adapter(
                entity(EMBEDDER_NAME), vectors.url
            )
        finally:
            await watch.stop()


async def test_where_it_is_away_its_calls_say_why_and_the_engines_go_on(tmp_path: Path) -> None:
    failed = ReplicaNote(address="unix:/none", phase="failed", detail="no room")
    write_note(tmp_path, EngineNote.of([failed]), EMBEDDER_NOTE)
    async with Upstream() as engine:
        for url, absent, why in (("unix:/none", NO_EMBEDDER, "no room"), (None, NO_EMBEDDER, NO_EMBEDDER)):
            beside = EngineWatch(url, tmp_path, note=EMBEDDER_NOTE, absent=absent)
            watch = EngineWatch(engine.url, tmp_path, beside={EMBEDDER_NAME: beside})
            await watch.start()
            try:
                assert why in (watch.unfit(entity(EMBEDDER_NAME)) or "")
                assert watch.gone_for_good(entity(EMBEDDER_NAME))
                assert watch.unfit(entity("base")) is None
                assert not watch.gone_for_good(entity("base"))
            finally:
                await watch.stop()
