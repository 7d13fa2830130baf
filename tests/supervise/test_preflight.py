"""Each refusal before a start is one sentence with what to do in it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.supervise.preflight import (
    CannotRun,
    check_disk,
    check_home,
    check_platform,
    check_port,
    check_python,
    holder_of,
)


def test_an_old_python_is_named() -> None:
    with pytest.raises(CannotRun, match=r"This is Python 3\.10; Weighbridge needs Python 3\.11 or newer"):
        check_python((3, 10))


def test_a_platform_without_servers_is_told_which_variables_help() -> None:
    with pytest.raises(CannotRun, match="this is Darwin on arm64; set WEIGHBRIDGE_DATABASE_URL"):
        check_platform("Darwin", "arm64")


def test_a_full_disk_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"Only 123 MB are free .* and 200 MB are needed"):
        check_disk(tmp_path, free=123_999_999)
    check_disk(tmp_path, free=200_000_000)


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotRun, match=r"cannot be written to \(Not a directory\); set WEIGHBRIDGE_HOME"):
        check_home(tmp_path / "file" / "home")


def test_a_new_home_is_closed_to_others(tmp_path: Path) -> None:
    check_home(tmp_path / "home")
    assert (tmp_path / "home").stat().st_mode & 0o066 == 0


def test_a_home_of_ones_own_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    check_home(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_port_that_another_listener_shares_is_in_use_all_the_same() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        holder = holder_of(port)
        assert holder is not None
        assert holder.pid == os.getpid()
        with pytest.raises(CannotRun, match=f"in use by process {os.getpid()}.*set WEIGHBRIDGE_PORT"):
            check_port("127.0.0.1", port, "WEIGHBRIDGE_PORT")
    check_port("127.0.0.1", port, "WEIGHBRIDGE_PORT")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotRun, match="cannot be opened"):
        check_port("192.0.2.1", 8080, "WEIGHBRIDGE_PORT")
