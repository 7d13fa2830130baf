"""The engine's environment, installed with the real pip from a folder that holds one small wheel."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import engines.local.environment as subject
from engines.local.environment import STAMP, find, install
from engines.local.sources import CPU_INDEX, DiskFull, InstallFailed, Source


def wheel(folder: Path, name: str = "tiny", version: str = "1.0") -> str:
    """Write a wheel and return its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "ANSWER = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for path, text in files.items()
    )
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        for inner, text in files.items():
            made.writestr(inner, text)
        made.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """One source, whose lock lists one package of a local folder; no index is asked."""
    digest = wheel(tmp_path / "wheels")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    made = replace(CPU_INDEX, name="test", lock=lock, installed_bytes=1 << 20, download_bytes=1 << 20)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr(subject, "SOURCES", {"test": made})
    monkeypatch.setattr(subject, "candidates", lambda gpu: (made,))
    monkeypatch.setattr(subject, "has_gpu", lambda: False)
    return made


async def test_an_environment_is_made_in_a_path_with_spaces_and_found_again(
    source: Source, tmp_path: Path
) -> None:
    venv = tmp_path / "a home" / "engine venv"
    said: list[str] = []
    made = await install(venv, said.append)
    assert made.source == source
    assert list((venv / "lib").glob("python3.*/site-packages/tiny.py"))
    assert any(source.says in line for line in said)
    said.clear()
    assert await install(venv, said.append) == made
    assert said == []
    assert sorted(path.name for path in venv.parent.iterdir()) == ["engine venv", "engine venv.lock"]


async def test_a_half_finished_environment_is_built_anew(source: Source, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    made = await install(venv, lambda _: None)
    (venv / STAMP).unlink()
    (venv / "left over").touch()
    assert find(venv, gpu=False) is None
    said: list[str] = []
    assert await install(venv, said.append) == made
    assert not (venv / "left over").exists()
    assert "did not finish" in said[0]


async def test_a_changed_lock_means_a_new_install(source: Source, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    await install(venv, lambda _: None)
    source.lock.write_text(source.lock.read_text() + "# changed\n")
    assert find(venv, gpu=False) is None


async def test_a_package_that_is_not_what_was_locked_is_refused(source: Source, tmp_path: Path) -> None:
    source.lock.write_text("tiny==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(InstallFailed, match=r"(?i)hash"):
        await install(tmp_path / "venv", lambda _: None)
    assert find(tmp_path / "venv", gpu=False) is None


async def test_too_little_room_is_said_before_anything_is_downloaded(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vast = replace(source, installed_bytes=1 << 60)
    monkeypatch.setattr(subject, "candidates", lambda gpu: (vast,))
    with pytest.raises(DiskFull, match="WEIGHBRIDGE_HOME"):
        await install(tmp_path / "venv", lambda _: None)


def test_a_stamp_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", json.dumps({"source": "another"})):
        (tmp_path / STAMP).write_text(text)
        assert find(tmp_path, gpu=False) is None
