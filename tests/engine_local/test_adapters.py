"""Adapters: what is taken for one, and that a running engine follows the folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engines.errors import ConnectFailed
from engines.local.adapter_keeper import AdapterKeeper, Standing
from engines.local.adapters import CONFIG, WEIGHTS, BadAdapter, read_adapter, scan
from engines.local.launch import SHIPPED_ADAPTERS
from engines.transport import Response
from gateway.__main__ import main

GOOD = {"peft_type": "LORA", "r": 8, "bias": "none", "target_modules": ["q_proj"]}
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def make(folder: Path, config: Any = GOOD, rank: int | None = None, cut: int = 0) -> Path:
    """An adapter of a layer of four by four; `rank` is that of its matrices, `cut` what its file lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = rank or (config["r"] if isinstance(config.get("r"), int) else 8)
    (folder / CONFIG).write_text(json.dumps(config))
    size = 2 * rank * 4
    head = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            f"{LAYER}.lora_A.weight": {"dtype": "BF16", "shape": [rank, 4], "data_offsets": [0, size]},
            f"{LAYER}.lora_B.weight": {"dtype": "BF16", "shape": [4, rank], "data_offsets": [size, 2 * size]},
        }
    ).encode()
    (folder / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + bytes(2 * size - cut))
    return folder


def test_the_adapter_that_ships_is_one() -> None:
    found, wrong = scan([SHIPPED_ADAPTERS])
    assert not wrong
    assert found["mixtral-demo-sql"].targets == ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "not say that it is a LoRA"),
        ({"r": 128}, "its rank is 128"),
        ({"r": "8"}, "its rank is '8'"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
        ({"bias": "all"}, "replaces whole modules"),
        ({"target_modules": []}, "names no target_modules"),
    ],
)
def test_a_config_that_cannot_be_served_is_said_to_be_so(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadAdapter, match=why):
        read_adapter(make(tmp_path / "one", GOOD | change))


@pytest.mark.parametrize("name", ["UPPER", "a b", "-a", "x" * 70])
def test_a_folder_that_no_caller_could_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadAdapter, match="a name takes"):
        read_adapter(make(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04pickle", b"\x05\0\0\0\0\0\0\0[1,2]"])
def test_weights_in_another_format_are_never_opened_as_one(tmp_path: Path, content: bytes) -> None:
    folder = make(tmp_path / "one")
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(BadAdapter, match="safetensors"):
        read_adapter(folder)


def test_weights_of_another_rank_or_cut_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAdapter, match="not of rank 8"):
        read_adapter(make(tmp_path / "one", rank=16))
    with pytest.raises(BadAdapter, match="not whole"):
        read_adapter(make(tmp_path / "two", cut=1))


class Engine:
    """A transport to an engine that remembers what was loaded; `refuse` names what it cannot load."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuse: set[str] = set()
        self.away = False

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        if self.away:
            raise ConnectFailed("away")
        asked: dict[str, Any] = json.loads(body)
        self.asked.append((path, asked))
        name = asked["lora_name"]
        if name in self.refuse:
            return Response(400, {}, json.dumps({"error": {"message": "no such layer"}}).encode())
        if path.endswith("/unload_lora_adapter"):
            del self.loaded[name]
        else:
            assert asked.get("load_inplace") or name not in self.loaded
            self.loaded[name] = asked["lora_path"]
        return Response(200, {}, b"Success")

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        raise NotImplementedError

    async def get(self, path: str) -> Response:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


async def test_adapters_are_loaded_replaced_and_unloaded_as_their_folders_say(tmp_path: Path) -> None:
    engine, told = Engine(), list[Mapping[str, Standing]]()
    keeper = AdapterKeeper(engine, [tmp_path], told.append)
    make(tmp_path / "one")
    await keeper.look()
    assert set(engine.loaded) == {"one"}
    await keeper.look()
    assert len(engine.asked) == 1
    make(tmp_path / "one", GOOD | {"r": 16})
    await keeper.look()
    assert engine.asked[-1][1]["load_inplace"] is True
    shutil.rmtree(tmp_path / "one")
    await keeper.look()
    assert engine.loaded == {} and told[-1] == {}


async def test_an_adapter_that_fails_says_why_and_leaves_the_others(tmp_path: Path) -> None:
    engine, told = Engine(), list[Mapping[str, Standing]]()
    engine.refuse.add("bad")
    keeper = AdapterKeeper(engine, [tmp_path], told.append)
    make(tmp_path / "bad")
    make(tmp_path / "good")
    make(tmp_path / "broken", {"peft_type": "LORA"})
    await keeper.look()
    assert told[-1]["good"].loaded
    assert told[-1]["bad"].reason == "no such layer"
    assert "its rank is None" in told[-1]["broken"].reason
    await keeper.look()
    assert len(engine.asked) == 2


async def test_an_engine_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    engine, told = Engine(), list[Mapping[str, Standing]]()
    keeper = AdapterKeeper(engine, [tmp_path], told.append)
    make(tmp_path / "one")
    engine.away = True
    await keeper.look()
    assert not told
    engine.away = False
    await keeper.look()
    assert told[-1]["one"].loaded


def test_the_command_takes_lists_and_removes_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    runner, source = CliRunner(), make(tmp_path / "Fine-Tuned")
    assert "rank 8" in runner.invoke(main, ["engine", "adapters", "add", str(source)]).output
    assert "fine-tuned" in runner.invoke(main, ["engine", "adapters", "list"]).output
    (source / WEIGHTS).unlink()
    missing = runner.invoke(main, ["engine", "adapters", "add", str(source)])
    assert missing.exit_code == 1 and WEIGHTS in missing.output
    # The one that was taken before is still whole.
    assert read_adapter(tmp_path / "home" / "adapters" / "fine-tuned").rank == 8
    assert "is gone" in runner.invoke(main, ["engine", "adapters", "remove", "fine-tuned"]).output
    assert runner.invoke(main, ["engine", "adapters", "remove", "../run"]).exit_code == 1
