"""Free ports of the loopback address, and waiting until something listens on one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path


class NotUp(RuntimeError):
    """Something did not start; the text ends with what it said last."""


def free_port() -> int:
    """A port that nobody holds now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def until_open(port: int, name: str, log: Path, seconds: float = 15.0) -> None:
    """Wait until the port takes connections; raises NotUp."""
    for _ in range(int(seconds / 0.05)):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise NotUp(f"{name} does not listen after {seconds:.0f} s\n{end_of(log)}")


def end_of(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
