"""The stand-in for libnuma loads like the real one and says that there is nothing to place."""

from __future__ import annotations

import ctypes
import platform
import struct
from pathlib import Path

import pytest

from engines.local import numa


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="made for two machines")
def test_the_dynamic_linker_loads_it_and_it_says_that_there_is_no_numa(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numa, "_present", lambda: False)
    folder = numa.stand_in(tmp_path / "lib")
    assert folder is not None
    library = ctypes.CDLL(str(folder / numa.NAME))
    assert library.numa_available() == -1
    others = {name for names in numa._VERSIONS.values() for name in names} - {"numa_available"}
    assert {getattr(library, name)(0) for name in others} == {0}


def test_a_machine_with_its_own_libnuma_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "_present", lambda: True)
    assert numa.stand_in(tmp_path / "lib") is None
    assert not (tmp_path / "lib").exists()


def test_an_unknown_machine_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "_present", lambda: False)
    assert numa.stand_in(tmp_path / "lib", machine="riscv64") is None


def test_each_machine_gets_its_own_kind_of_file() -> None:
    for machine, number in (("x86_64", 62), ("aarch64", 183)):
        made = numa.library(*numa._MACHINES[machine])
        assert made[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", made, 18) == (number,)
