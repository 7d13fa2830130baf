"""One engine process: it starts, it says why it died, and it never outlives what should end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from engines.local.boundedlog import BoundedLog
from engines.local.launch import EngineSpec
from engines.local.process import EngineDied, EngineProcess, healthy

MakeSpec = Callable[..., EngineSpec]

# A child that ignores being asked to end, as an engine core in a long step would.
STUBBORN = (
    'child = subprocess.Popen([sys.executable, "-c", "import signal, time; '
    'signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"], stdout=subprocess.PIPE); '
    'child.stdout.readline(); open({path!r}, "w").write(str(child.pid))'
)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "the condition was never met"
        await asyncio.sleep(0.02)


async def test_it_becomes_ready_and_stops_with_its_socket(stand_in: MakeSpec) -> None:
    spec = stand_in()
    engine = EngineProcess(spec)
    await engine.start()
    await engine.wait_ready(20)
    assert await healthy(spec)
    assert engine.pid is not None
    await engine.stop()
    assert not alive(engine.pid)
    assert not await healthy(spec)
    assert spec.socket is not None
    assert not spec.socket.exists()
    assert "stand-in starts" in spec.log.read_text()
    await engine.stop()


async def test_a_socket_that_an_earlier_run_left_is_no_hindrance(stand_in: MakeSpec) -> None:
    spec = stand_in()
    assert spec.socket is not None
    spec.socket.touch()
    engine = EngineProcess(spec)
    await engine.start()
    await engine.wait_ready(20)
    await engine.stop()


async def test_a_start_that_fails_is_explained_by_the_engines_own_words(stand_in: MakeSpec) -> None:
    engine = EngineProcess(stand_in(first='raise ValueError("the weights are torn")'))
    await engine.start()
    with pytest.raises(EngineDied, match=r"exit status 1.*ValueError: the weights are torn"):
        await engine.wait_ready(20)
    await engine.stop()


async def test_a_start_that_takes_too_long_is_given_up(stand_in: MakeSpec) -> None:
    engine = EngineProcess(stand_in(first="signal.pause()"))
    await engine.start()
    with pytest.raises(TimeoutError, match="not ready"):
        await engine.wait_ready(0.1)
    await engine.stop()
    assert engine.pid is not None
    assert not alive(engine.pid)


async def test_stopping_ends_children_that_do_not_want_to(stand_in: MakeSpec, home: Path) -> None:
    note = home / "child"
    engine = EngineProcess(stand_in(first=STUBBORN.format(path=str(note))))
    await engine.start()
    await engine.wait_ready(20)
    child = int(note.read_text())
    assert alive(child)
    await engine.stop(grace=1.0)
    await until(lambda: not alive(child))


async def test_the_whole_engine_ends_when_its_parent_is_killed(stand_in: MakeSpec, home: Path) -> None:
    note = home / "child"
    spec = stand_in(first=STUBBORN.format(path=str(note)))
    parent = home / "parent.py"
    parent.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from engines.local.launch import EngineSpec\n"
        "from engines.local.process import EngineProcess\n"
        "async def main():\n"
        f"    home = Path({str(home)!r})\n"
        "    engine = EngineProcess(EngineSpec(python=home / 'python', socket=home / 'engine.sock',\n"
        "                                      cache=home / 'cache', log=home / 'logs' / 'engine.log'))\n"
        "    await engine.start()\n"
        "    await engine.wait_ready(20)\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).resolve().parents[2]
    ran = await asyncio.create_subprocess_exec(
        sys.executable,
        str(parent),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert ran.stdout is not None
    server = int(await asyncio.wait_for(ran.stdout.readline(), 30))
    child = int(note.read_text())
    ran.kill()
    await ran.wait()
    await until(lambda: not alive(server) and not alive(child))
    assert not await healthy(spec)


async def test_output_never_fills_the_disk_and_its_end_is_kept(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "engine.log", limit=1000)
    for number in range(200):
        log.write(b"line %d of many\n" % number)
    log.write(b"RuntimeError: the last straw\n")
    log.write(b"closing\n")
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    assert log.reason() == "RuntimeError: the last straw"
    log.close()


async def test_a_line_without_end_does_not_stop_the_engine(stand_in: MakeSpec) -> None:
    engine = EngineProcess(stand_in(first='print("x" * 300_000, end="", flush=True)'))
    await engine.start()
    await engine.wait_ready(20)
    await engine.stop()
    assert engine.spec.log.stat().st_size > 250_000


async def test_a_killed_engine_is_seen_at_once(stand_in: MakeSpec) -> None:
    engine = EngineProcess(stand_in())
    await engine.start()
    await engine.wait_ready(20)
    assert engine.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(engine.pid, signal.SIGKILL)
    assert await asyncio.wait_for(engine.wait(), 5) == -signal.SIGKILL
    assert "killed by signal 9" in await engine.explain()
    await engine.stop()
