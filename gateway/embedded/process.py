"""One child process: started so that it dies with its parent, awaited, asked to end, and ended.

Children are bound to the *thread* that starts them (the kernel's rule for PR_SET_PDEATHSIG), so start
them from the main thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.embedded.account import Account, popen_options

_PR_SET_PDEATHSIG = 1


class Process(Protocol):
    """What is needed of a started process; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        ...

    def wait(self) -> int:
        """The same, once it has ended."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Signal it alone."""
        ...


@dataclass(slots=True)
class Child:
    """A running (or ended) child, the leader of its own session and process group."""

    name: str
    popen: Process

    @property
    def pid(self) -> int:
        """Process id, which is its process group's id too."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """True until the child has ended and been reaped."""
        return self.popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.popen.poll()

    async def wait(self) -> int:
        """Wait for the end without a thread or a poll; may be cancelled and called again."""
        if self.popen.poll() is None:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            try:
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                # Another's child has been reaped by now.
                return self.popen.wait()
            try:
                loop.add_reader(descriptor, ended.set)
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        return self.popen.wait()

    def send(self, number: signal.Signals) -> None:
        """Signal the child alone; nothing happens when it has ended."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL everything in the child's process group, left-behind grandchildren included."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, number: signal.Signals, grace: float) -> int:
        """Ask with `number`, wait up to `grace` seconds, then kill the group."""
        self.send(number)
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.kill_group()
            return await self.wait()


def spawn(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    death_signal: signal.Signals,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start `command` in a session of its own, its output appended to `log`.

    `death_signal` reaches it when this thread ends, however that comes about.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        popen = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=None if env is None else dict(env),
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            preexec_fn=_die_with_parent(death_signal),
            **popen_options(account),
        )
    finally:
        os.close(descriptor)
    return Child(name, popen)


def alive(pid: int) -> bool:
    """True while a process of that id exists (a zombie counts as gone)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


async def wait_until_gone(pid: int, seconds: float) -> bool:
    """Wait for a process that is not our child; False when it is still there after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while alive(pid):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _die_with_parent(number: signal.Signals) -> Callable[[], None]:
    # Everything that allocates or loads happens here, before the fork.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def arrange() -> None:
        # Runs after the change of user, which would have cleared the setting.
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)

    return arrange
