"""The commands that run and look after one instance; each answers an exit status and prints its own errors.

0 is done or running, 1 a failure with its sentence on stderr, 3 (of `status`) not running.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from gateway.embedded.errors import EmbeddedError
from gateway.engine_notes import read_note
from gateway.settings import Settings
from gateway.supervise import logs as log_files
from gateway.supervise import preflight
from gateway.supervise.engine_status import engine_lines
from gateway.supervise.examination import examine
from gateway.supervise.instance import ProcessNote, State, instance_lock, is_running
from gateway.supervise.preflight import CannotRun
from gateway.supervise.probe import answer_of
from gateway.supervise.screen import Screen, address
from gateway.supervise.tree import DRAIN_SECONDS, Tree

FAILED = 1
NOT_RUNNING = 3


def up(settings: Settings, program: Sequence[str] | None = None) -> int:
    """Everything for one machine: embedded stores, migrations, first objects, gateway, engine."""
    return _told(lambda: asyncio.run(_run(settings, program, everything=True)))


def serve(settings: Settings, program: Sequence[str] | None = None) -> int:
    """Workers and drainer beside stores that someone else runs; migrations are a step of their own."""

    def run() -> int:
        missing = [
            f"WEIGHBRIDGE_{name}"
            for name, value in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url))
            if value is None
        ]
        if missing:
            raise CannotRun(
                f"`weighbridge serve` needs {' and '.join(missing)}; `weighbridge up` brings stores of its own."
            )
        if not settings.secret_file.is_file():
            raise CannotRun(
                f"The master key {settings.secret_file} does not exist; "
                "WEIGHBRIDGE_SECRET_FILE names the file that every host of this deployment shares."
            )
        return asyncio.run(_run(settings, program, everything=False))

    return _told(run)


def status(settings: Settings) -> int:
    """What runs, since when it was restarted, and whether it is ready."""
    state = State.load(settings.home)
    if state is None or not is_running(settings.home):
        print(f"Weighbridge is not running (home {settings.home}).")
        return NOT_RUNNING
    print(
        f"Weighbridge is {state.phase} at {state.address} (process {state.supervisor.pid}, home {settings.home})."
    )
    for name, note in state.children.items():
        condition = "running" if note.runs else "down"
        restarts = f", restarted {note.restarts}x" if note.restarts else ""
        print(f"  {name:<12}{condition}  process {note.pid}{restarts}")
    if state.engine_url:
        for line in asyncio.run(engine_lines(state.engine_url.split(","), read_note(settings.home / "run"))):
            print(f"  {line}")
    shown = replace(settings, port=int(state.address.rpartition(":")[2]))
    code, body = asyncio.run(answer_of(shown, "/readyz"))
    print(f"  {'ready' if code == 200 else 'not ready'}{f': {body.strip()}' if body and code != 200 else ''}")
    return 0


def stop(settings: Settings, *, out: Callable[[str], None] = print) -> int:
    """Ask the instance to stop and wait until it has."""
    state = State.load(settings.home)
    if not is_running(settings.home):
        out(f"Weighbridge is not running (home {settings.home}).")
        return 0
    if state is None or not state.supervisor.runs:
        print(
            f"{settings.home} is in use, but its state file does not say by which process.", file=sys.stderr
        )
        return FAILED
    pid = state.supervisor.pid
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        print(f"Process {pid} belongs to another user; stop it as that user.", file=sys.stderr)
        return FAILED
    out(f"Stopping Weighbridge (process {pid}); calls in flight get up to {DRAIN_SECONDS:.0f} s.")
    began = said = time.monotonic()
    while is_running(settings.home):
        now = time.monotonic()
        if now - began > 120:
            print(
                f"Process {pid} has not stopped after 120 s; see {settings.home / 'logs'}.", file=sys.stderr
            )
            return FAILED
        if now - said >= 5:
            said = now
            out(f"still stopping, {now - began:.0f} s")
        time.sleep(0.1)
    out(f"Stopped after {time.monotonic() - began:.1f} s.")
    return 0


def logs(settings: Settings, name: str | None = None, follow: bool = False) -> int:
    """Show the end of one log, or of all; `follow` keeps showing what is added."""
    folder = settings.home / "logs"
    known = log_files.names(folder)
    if name is not None and name not in known:
        print(f"There is no log {name!r}; there are: {', '.join(known) or 'none yet'}.", file=sys.stderr)
        return FAILED
    with suppress(KeyboardInterrupt, BrokenPipeError):
        log_files.show(folder, known if name is None else [name], follow=follow)
    return 0


def doctor(settings: Settings) -> int:
    """Look at everything that a start needs and say what is wrong and what to do about it."""
    findings = examine(settings)
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '} {finding.subject}: {finding.text}")
    bad = sum(not finding.good for finding in findings)
    print("Nothing stands in the way." if not bad else f"{bad} of {len(findings)} need attention.")
    return FAILED if bad else 0


def _told(run: Callable[[], int]) -> int:
    try:
        return run()
    except (CannotRun, EmbeddedError) as exc:
        print(f"weighbridge: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


async def _run(settings: Settings, program: Sequence[str] | None, *, everything: bool) -> int:
    screen = Screen(settings.home / "logs" / "supervisor.log")
    preflight.check_python()
    if everything and settings.embedded:
        preflight.check_platform()
    preflight.check_home(settings.home)
    preflight.check_disk(settings.home)
    lock = instance_lock(settings.home)
    if not lock.take():
        other = State.load(settings.home)
        where = f" (process {other.supervisor.pid}, {other.address})" if other else ""
        raise CannotRun(
            f"Weighbridge already runs from {settings.home}{where}; stop it with `weighbridge stop`, "
            "or set another WEIGHBRIDGE_HOME and WEIGHBRIDGE_PORT."
        )
    try:
        return await _live(settings, screen, program, everything=everything)
    finally:
        lock.release()


async def _live(
    settings: Settings, screen: Screen, program: Sequence[str] | None, *, everything: bool
) -> int:
    asked = asyncio.Event()
    mode = "up" if everything else "serve"
    state = State(ProcessNote.of(os.getpid()), address(settings), mode)
    tree = Tree(settings, screen, state, everything, program)

    def heard() -> None:
        if asked.is_set():
            screen.say("Asked again: what still runs is killed")
            tree.hurry.set()
        else:
            screen.write("")
            screen.say("Stopping; ask again to be quicker")
            asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, heard)
    waiting = asyncio.create_task(asked.wait())
    starting = asyncio.create_task(_start(tree, settings, screen))
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        await waiting
    finally:
        waiting.cancel()
        await tree.stop()
    screen.say("Stopped; all data is kept")
    return 0


async def _start(tree: Tree, settings: Settings, screen: Screen) -> None:
    await _outlive_earlier_life(settings, screen)
    tree.state.save(settings.home)
    await tree.start()


async def _outlive_earlier_life(settings: Settings, screen: Screen) -> None:
    """Wait for the children of a supervisor that was killed: they are on their way out by themselves."""
    earlier = State.load(settings.home)
    left = {} if earlier is None else {n: each for n, each in earlier.children.items() if each.runs}
    if not left:
        return
    async with screen.step("Earlier life", f"waiting for {', '.join(left)} to end", ended="gone"):
        deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS + 5
        while any(each.runs for each in left.values()):
            if asyncio.get_running_loop().time() > deadline:
                for each in left.values():
                    if each.runs:
                        with suppress(ProcessLookupError, PermissionError):
                            os.killpg(each.pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
