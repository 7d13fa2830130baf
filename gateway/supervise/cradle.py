"""The process that children of the gateway are forked from: it has imported everything, and does nothing else.

Importing a worker costs some two seconds of a core; a fork of a process that has done it costs milliseconds, and shares
the memory of what was imported. It has one thread, no event loop and no connection, so a fork copies nothing that runs.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import traceback
from typing import NoReturn

import msgspec

IMPORTED = (
    "gateway.__main__",
    "gateway.app",
    "gateway.drain",
    "gateway.seed",
    "gateway.sqlcalls.process",
    "gateway.store.arrivals",
    "gateway.store.migrate",
    "gateway.worker",
)
"""What a worker imports when it is first asked for it is among it: it takes no time then, and no room of its own."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
LARGEST_MESSAGE = 1 << 20
MOST_DESCRIPTORS = 8
# Above every number that a supervisor is likely to have given to a socket.
_ASIDE = 512


class Birth(msgspec.Struct, frozen=True):
    """A child to fork: `weighbridge` with these arguments."""

    arguments: list[str]
    descriptors: list[int]
    """The numbers that the descriptors which come with this have in the child."""
    log: str
    cwd: str
    environment: dict[str, str]
    death_signal: int


class Told(msgspec.Struct, frozen=True):
    """A child was born, or could not be (`problem`), or ended with a status, negative for a signal."""

    pid: int = 0
    status: int | None = None
    problem: str = ""


def main() -> None:
    """Import, then fork on demand until the supervisor closes the socket whose number is the argument."""
    supervisor = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    # What was imported is never garbage; unfrozen, a collection in a child would copy all of its pages.
    gc.freeze()
    ready = selectors.DefaultSelector()
    ready.register(supervisor, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.data is not None:
                ready.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(key.data, 0)
                _tell(supervisor, Told(key.data, os.waitstatus_to_exitcode(status)))
                continue
            message, descriptors, _, _ = socket.recv_fds(supervisor, LARGEST_MESSAGE, MOST_DESCRIPTORS)
            if not message:
                return
            birth = msgspec.json.decode(message, type=Birth)
            told = _fork(birth, descriptors)
            for each in descriptors:
                os.close(each)
            _tell(supervisor, told)
            if told.pid:
                ready.register(os.pidfd_open(told.pid), selectors.EVENT_READ, told.pid)


def _tell(supervisor: socket.socket, told: Told) -> None:
    supervisor.send(msgspec.json.encode(told))


def _fork(birth: Birth, descriptors: list[int]) -> Told:
    """Fork; answers once the child is the leader of its own session and has its log."""
    prctl, cradle = ctypes.CDLL(None).prctl, os.getpid()
    mine, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            prctl(_PR_SET_PDEATHSIG, birth.death_signal, 0, 0, 0)
            # What `ps -c` and `top` show; the command line stays the cradle's.
            prctl(_PR_SET_NAME, f"wb {' '.join(birth.arguments[:1])}"[:15].encode(), 0, 0, 0)
            if os.getppid() == cradle:
                _arrange(birth)
                _hold(birth.descriptors, descriptors)
                _live(birth)
        except BaseException as exc:
            os.write(theirs, f"{type(exc).__name__}: {exc}"[:500].encode())
        finally:
            # Whatever happened, this process is not the cradle.
            os._exit(127)
    os.close(theirs)
    problem = os.read(mine, 500)
    os.close(mine)
    if problem:
        os.waitpid(pid, 0)
        return Told(problem=problem.decode())
    return Told(pid)


def _arrange(birth: Birth) -> None:
    """Give the child its folder, log and environment."""
    os.chdir(birth.cwd)
    log = os.open(birth.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(birth.environment)


def _hold(wanted: list[int], given: list[int]) -> None:
    """Give the child its descriptors, and close all else, by which the cradle learns that it is well."""
    # Out of the way first: a number that is wanted may be one that is held.
    aside = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _ASIDE) for each in given]
    os.closerange(3, _ASIDE)
    for number, each in zip(wanted, aside, strict=True):
        os.dup2(each, number)
        os.close(each)


def _live(birth: Birth) -> NoReturn:
    """Be what was asked for, and end as a process of its own would."""
    from gateway import crashpoints

    status = 1
    try:
        sys.argv = ["weighbridge", *birth.arguments]
        crashpoints.reach = crashpoints.armed(os.environ.get("WEIGHBRIDGE_CRASH_AT"))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number is signal.SIGTERM else signal.default_int_handler)
        # By name: this process is what commands are made of, and no part of the product is above them.
        importlib.import_module("gateway.__main__").main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    # As a module of its own name, so that what is imported here is imported once.
    from gateway.supervise import cradle

    cradle.main()
