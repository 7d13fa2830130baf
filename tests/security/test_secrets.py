"""The master key: made once, private, never weak, and never the same for two purposes."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from gateway.security.secrets import MasterKey, Purpose, SecretError, load_master_key, write_private

GOOD = base64.b64encode(bytes(range(40))).decode()


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_start_makes_a_private_key_and_the_next_one_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "master.key"
    made = load_master_key(path, create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_master_key(path).versions == made.versions
    assert len(made.versions[1]) >= 32
    assert [each.name for each in path.parent.iterdir()] == ["master.key"]


def test_a_missing_key_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="no master key"):
        load_master_key(tmp_path / "master.key")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "a" * 64,
        "changeme" * 8,
        "change-me-please-0123456789abcdefghijkl",
        "my-default-secret-0123456789abcdef!",
    ],
)
def test_a_weak_key_stops_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(SecretError, match=r"random bytes|at least"):
        load_master_key(written(tmp_path / "master.key", text))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o622])
def test_a_key_that_others_can_read_or_change_stops_the_start(tmp_path: Path, mode: int) -> None:
    with pytest.raises(SecretError, match="chmod 600"):
        load_master_key(written(tmp_path / "master.key", GOOD, mode))


def test_no_two_purposes_share_a_key_and_none_is_the_master(tmp_path: Path) -> None:
    master = load_master_key(written(tmp_path / "master.key", GOOD + "\n"))
    derived = [master.derive(purpose) for purpose in Purpose]
    assert len(set(derived)) == len(Purpose)
    assert all(len(each) == 32 and each not in GOOD.encode() for each in derived)
    assert GOOD not in repr(master)


def test_versions_overlap_and_the_highest_makes_what_is_new(tmp_path: Path) -> None:
    path = written(tmp_path / "master.key", GOOD)
    first = load_master_key(path)
    second = base64.b64encode(os.urandom(40)).decode()
    both = load_master_key(written(path, f"1:{GOOD}\n2:{second}\n"))
    assert both.newest == 2
    assert both.derive(Purpose.API_KEY_PEPPER, version=1) == first.derive(Purpose.API_KEY_PEPPER)
    assert both.derive(Purpose.API_KEY_PEPPER) != first.derive(Purpose.API_KEY_PEPPER)
    with pytest.raises(KeyError):
        MasterKey({2: b"x" * 32}).derive(Purpose.API_KEY_PEPPER, version=1)
    with pytest.raises(SecretError, match="twice"):
        load_master_key(written(path, f"1:{GOOD}\n1:{second}\n"))


def test_a_private_file_replaces_a_readable_one_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "demo.key", "old", 0o644)
    write_private(path, "new\n")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["demo.key"]
