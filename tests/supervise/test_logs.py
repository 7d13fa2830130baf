"""The children's logs stay bounded while they are written to, and are shown by name."""

from __future__ import annotations

import io
import os
from pathlib import Path

from gateway.supervise.logs import names, rotate, show
from gateway.supervise.screen import last_line


def test_a_full_log_moves_aside_and_its_writer_goes_on_in_a_small_file(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"x" * 2000)
    rotate(tmp_path, largest=1000)
    os.write(descriptor, b"news\n")
    os.close(descriptor)
    assert log.read_bytes() == b"news\n"
    assert (tmp_path / "worker-0.log.1").stat().st_size == 2000
    assert names(tmp_path) == ["worker-0"]


def test_several_logs_are_shown_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("one\n")
    (tmp_path / "long.log").write_text("two\n")
    out = io.StringIO()
    show(tmp_path, ["a", "long"], follow=False, out=out)
    assert out.getvalue() == "a    | one\nlong | two\n"


def test_only_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("".join(f"{number}\n" for number in range(100_000)))
    out = io.StringIO()
    show(tmp_path, ["a"], follow=False, out=out)
    assert out.getvalue().splitlines()[-1] == "99999"
    assert len(out.getvalue().splitlines()) == 40


def test_the_last_line_is_the_last_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("loading\r 50 %\r 90 %\n\n")
    assert last_line(log) == "90 %"
    assert last_line(tmp_path / "none.log") == ""
