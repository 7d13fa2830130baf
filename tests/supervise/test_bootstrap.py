"""The set-up behind `make run`: finished once, mended when unfinished, never a guess about a foreign folder."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bootstrap import better_python

_ROOT = Path(__file__).parents[2]
# The environment's own Python has no pip; the Python it was made from is what a bare machine has.
_PYTHON = Path(sys.base_prefix) / "bin" / "python3"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a path with spaces whose lock files name no package: nothing is downloaded."""
    return check_out(tmp_path / "a check out")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a finished environment lies, with the copy that `made` puts back beside it."""
    root = check_out(tmp_path_factory.mktemp("finished") / "a check out")
    assert bootstrap(root).returncode == 0
    shutil.copytree(root, root.with_name("kept"), symlinks=True)
    return root


@pytest.fixture
def made(finished: Path) -> Iterator[Path]:
    """A checkout whose environment is finished, as the set-up left it: at the very path that it was made at."""
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(finished.with_name("kept"), finished, symlinks=True)


def check_out(root: Path) -> Path:
    """Make such a checkout at a path."""
    for name in ("scripts", "locks", "gateway"):
        (root / name).mkdir(parents=True)
    shutil.copy(_ROOT / "scripts" / "bootstrap.py", root / "scripts")
    for lock in ("gateway", "dev"):
        (root / "locks" / f"{lock}.txt").touch()
    (root / "gateway" / "__main__.py").write_text("import sys; print('gateway', *sys.argv[1:])\n")
    return root


def bootstrap(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_PYTHON, root / "scripts" / "bootstrap.py", "--as-is", *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_it_makes_an_environment_whose_command_runs_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    made = bootstrap(checkout)
    assert made.returncode == 0, made.stderr
    link = tmp_path / "weighbridge"
    link.symlink_to(checkout / ".venv" / "bin" / "weighbridge")
    told = subprocess.run([link, "up", "a b"], capture_output=True, text=True, cwd="/")
    assert told.stdout == "gateway up a b\n"


def test_the_development_environment_serves_the_gateway_too(checkout: Path) -> None:
    bootstrap(checkout, "--dev")
    assert bootstrap(checkout).stderr == ""


def test_a_changed_lock_is_installed_into_the_same_environment(made: Path) -> None:
    (made / ".venv" / "kept").touch()
    (made / "locks" / "gateway.txt").write_text("# changed\n")
    again = bootstrap(made)
    assert "environment: ready" in again.stderr
    assert (made / ".venv" / "kept").exists()


def test_an_unfinished_environment_is_started_over(made: Path) -> None:
    (made / ".venv" / ".weighbridge-gateway").unlink()
    (made / ".venv" / ".unfinished").touch()
    (made / ".venv" / "half").touch()
    again = bootstrap(made)
    assert again.returncode == 0, again.stderr
    assert "starting it over" in again.stderr
    assert not (made / ".venv" / "half").exists()


def test_an_environment_whose_python_is_gone_is_started_over(made: Path) -> None:
    (made / ".venv" / "bin" / "python").unlink()
    (made / ".venv" / "bin" / "python").symlink_to("/no/such/python")
    assert bootstrap(made).returncode == 0
    assert bootstrap(made).stderr == ""


def test_a_folder_that_is_no_environment_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "letters").write_text("mine")
    refused = bootstrap(checkout)
    assert refused.returncode == 1
    assert "is not a virtual environment; move it away" in refused.stderr
    assert (checkout / ".venv" / "letters").read_text() == "mine"


def test_an_environment_of_another_python_of_the_same_version_is_started_over(made: Path) -> None:
    (made / ".venv" / ".weighbridge-gateway").write_text("another's")
    (made / ".venv" / "bin" / "python").unlink()
    (made / ".venv" / "bin" / "python").write_text(
        f'#!/bin/sh\necho "{sys.version_info[0]}.{sys.version_info[1]} /other"\n'
    )
    (made / ".venv" / "bin" / "python").chmod(0o755)
    again = bootstrap(made)
    assert again.returncode == 0, again.stderr
    assert "is for another Python, starting it over" in again.stderr


def another_python(path: Path, says: str) -> str:
    """A Python that answers what it can do with `says`."""
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return str(path)


def test_the_systems_python_is_taken_only_where_ours_was_built_without_optimisation(tmp_path: Path) -> None:
    able = another_python(tmp_path / "able", "echo True")
    assert better_python("'--enable-shared'", able) == able
    assert better_python("'--enable-optimizations' '--with-lto'", able) is None


@pytest.mark.parametrize(
    "says", ["echo False", "exit 1", "kill -9 $$"], ids=["too old", "no pip or venv", "broken"]
)
def test_a_system_python_that_cannot_do_it_is_left_alone(tmp_path: Path, says: str) -> None:
    assert better_python("", another_python(tmp_path / "unable", says)) is None
    assert better_python("", str(tmp_path / "missing")) is None


def test_a_python_that_is_the_systems_own_goes_on(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    assert better_python("", str(tmp_path / "python3")) is None


def test_what_is_asked_of_the_systems_python_is_what_the_set_up_needs(tmp_path: Path) -> None:
    (tmp_path / "asked").write_text('#!/bin/sh\n[ "$1" = -c ] && exec "' + str(_PYTHON) + '" "$@"\n')
    (tmp_path / "asked").chmod(0o755)
    has_pip = subprocess.run([_PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0
    assert (better_python("", str(tmp_path / "asked")) is not None) == has_pip


@pytest.mark.skipif(importlib.util.find_spec("ensurepip") is None, reason="this Python has no ensurepip")
def test_where_pip_is_missing_ensurepip_does(checkout: Path, tmp_path: Path) -> None:
    subprocess.run([_PYTHON, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (checkout / "locks" / "gateway.txt").write_text("# nothing\n")
    made = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", checkout / "scripts" / "bootstrap.py", "--as-is"],
        capture_output=True,
        text=True,
        env={"PATH": "/nowhere"},
    )
    assert made.returncode == 0, made.stderr
    assert "environment: ready" in made.stderr


def test_make_help_names_every_target() -> None:
    told = subprocess.run(["make", "-s", "help"], cwd=_ROOT, capture_output=True, text=True, check=True)
    for target in ("run", "demo", "test", "check", "bench", "soak", "model", "migrate"):
        assert f"make {target} " in told.stdout
