"""The papers say what is there: links resolve, commands and variables exist, every variable is told of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAPERS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_link_to_a_file_resolves(paper: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", paper.read_text("utf-8")):
        assert (paper.parent / target).exists(), target


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_make_target_exists(paper: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", paper.read_text("utf-8"), re.MULTILINE)
    assert set(named) <= targets


def test_the_readme_tells_of_every_variable_and_of_no_other() -> None:
    table = (ROOT / "README.md").read_text("utf-8").split("## Environment")[1].split("\n## ")[0]
    told = {
        name
        for row in re.findall(r"^\| (`[A-Z].*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`([A-Z_]+)`", row)
    }
    read = {name.removeprefix("WEIGHBRIDGE_") for name in Settings.from_env({}).to_env()}
    assert told == read


def test_the_readme_begins_with_the_two_commands() -> None:
    first_screen = (ROOT / "README.md").read_text("utf-8").splitlines()[:25]
    assert any(line.startswith("make run") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)
