"""Children that are forked rather than started: they live, end and are told of like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedded.process import Child, wait_until_gone
from gateway.supervise.nursery import CannotBear, Nursery

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nursery(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("cradle") / "cradle.log", {**os.environ, "PYTHONPATH": str(ROOT)})
    yield made
    await made.stop()


async def bear(nursery: Nursery, tmp_path: Path, *arguments: str, **environment: str) -> Child:
    return await nursery.bear(
        "child",
        arguments,
        log=tmp_path / "child.log",
        death_signal=signal.SIGKILL,
        cwd=tmp_path,
        env={"WEIGHBRIDGE_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], **environment},
    )


async def test_a_child_runs_a_command_into_its_log_and_its_status_is_told(
    nursery: Nursery, tmp_path: Path
) -> None:
    child = await bear(nursery, tmp_path, "--version")
    assert await child.wait() == 0
    assert not child.running
    assert "weighbridge" in (tmp_path / "child.log").read_text()
    # Without a database a worker says one sentence and ends.
    refused = await bear(nursery, tmp_path, "drain")
    assert await refused.wait() != 0


async def test_descriptors_have_the_numbers_that_they_were_given(nursery: Nursery, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = await nursery.bear(
                "child",
                ["worker", "--index", "0", "--fd", str(theirs.fileno())],
                log=tmp_path / "child.log",
                death_signal=signal.SIGKILL,
                cwd=tmp_path,
                env={"WEIGHBRIDGE_HOME": str(tmp_path / "home")},
                pass_fds=(theirs.fileno(),),
            )
        # It has no database, says so and ends; its end of the pair ends with it.
        assert await child.wait() == 1
        ours.settimeout(10)
        assert ours.recv(1) == b""


async def test_a_killed_child_is_told_of_by_its_signal(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "home" / "logs").mkdir(parents=True)
    (tmp_path / "home" / "logs" / "worker-0.log").write_text("a line\n")
    child = await bear(nursery, tmp_path, "logs", "--follow", "worker-0")
    async with asyncio.timeout(60):
        while "a line" not in (tmp_path / "child.log").read_text():
            await asyncio.sleep(0.02)
    assert child.running
    assert os.getsid(child.pid) == child.pid
    assert Path(f"/proc/{child.pid}/cwd").resolve() == tmp_path.resolve()
    held = {os.readlink(f"/proc/{child.pid}/fd/{each}") for each in os.listdir(f"/proc/{child.pid}/fd")}
    assert not any(name.startswith("socket:") for name in held), held
    child.send(signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL


async def test_what_cannot_be_started_says_why(nursery: Nursery, tmp_path: Path) -> None:
    with pytest.raises(CannotBear, match="No such file or directory"):
        await nursery.bear(
            "child",
            ["--version"],
            log=tmp_path / "child.log",
            death_signal=signal.SIGKILL,
            cwd=tmp_path / "nowhere",
            env={},
        )


async def test_children_go_with_the_cradle_and_the_next_start_makes_another(
    nursery: Nursery, tmp_path: Path
) -> None:
    (tmp_path / "home" / "logs").mkdir(parents=True)
    (tmp_path / "home" / "logs" / "worker-0.log").write_text("a line\n")
    child = await bear(nursery, tmp_path, "logs", "--follow", "worker-0")
    cradle = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(cradle, signal.SIGKILL)
    assert await wait_until_gone(child.pid, 30)
    assert await child.wait() < 0
    again = await bear(nursery, tmp_path, "--version")
    assert await again.wait() == 0
