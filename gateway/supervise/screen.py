"""What a person sees: a line a step, a line at least every five seconds while waiting, and a closing screen.

Plain lines without control characters, so that it reads the same in a terminal, a log and a container.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TextIO

from gateway.settings import Settings

_PATIENCE = 4.0
_LONGEST_HINT = 100
DEMO_ENDPOINT = "databricks-mixtral-8x7b-instruct"


class Screen:
    """Writes progress with the seconds since the start before each line, and keeps a copy with the date."""

    def __init__(
        self, log: Path | None = None, out: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._out = out
        self._clock = clock
        self._started = clock()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def say(self, text: str) -> None:
        """One line of progress."""
        self.write(f"[{self.seconds:6.1f} s] {text}")
        if self._log is not None:
            with suppress(OSError):
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("a") as file:
                    file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")

    def write(self, text: str) -> None:
        """Text as it is; a closed terminal is no reason to fail."""
        with suppress(OSError, ValueError):
            print(text, file=self._out, flush=True)

    @asynccontextmanager
    async def step(
        self, name: str, doing: str, hint: Callable[[], str] | None = None, *, ended: str = "ready"
    ) -> AsyncGenerator[None, None]:
        """Announce what takes a while, repeat it every few seconds, and say how long it took."""
        began = self._clock()
        self.say(f"{name}: {doing}")
        ticker = asyncio.create_task(self._tick(name, doing, began, hint))
        try:
            yield
        finally:
            ticker.cancel()
        self.say(f"{name}: {ended} ({self._clock() - began:.1f} s)")

    async def _tick(self, name: str, doing: str, began: float, hint: Callable[[], str] | None) -> None:
        while True:
            await asyncio.sleep(_PATIENCE)
            detail = hint() if hint else ""
            self.say(f"{name}: {doing}, {self._clock() - began:.0f} s{f' ({detail})' if detail else ''}")


def last_line(log: Path) -> str:
    """The last line of a log, shortened: what a child is busy with, or what it complained of."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8192))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return text if len(text) <= _LONGEST_HINT else text[: _LONGEST_HINT - 1] + "…"


def address(settings: Settings, port: int | None = None) -> str:
    """Where a person reaches the gateway; a wildcard address is shown as loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(settings.host, settings.host)  # noqa: S104
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{port or settings.port}"


def welcome(settings: Settings, seconds: float, stores: dict[str, str], engine: str) -> str:
    """The closing screen of a start: what listens where, where the keys are, how to make a first call."""
    base = address(settings)
    console = base if settings.admin_port is None else address(settings, settings.admin_port)
    key = shlex.quote(str(settings.home / "demo.key"))
    body = f'{{"model": "{DEMO_ENDPOINT}", "messages": [{{"role": "user", "content": "What is a mixture of experts?"}}]}}'
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    rows = [
        ("Gateway", f"{base}  ({workers})"),
        ("Playground", f"{base}/"),
        *([] if console == base else [("Administration", console)]),
        *stores.items(),
        ("Engine", engine),
        ("Keys", f"{settings.home / 'demo.key'} (user demo), {settings.home / 'admin.key'} (administrator)"),
        ("Logs", f"{settings.home / 'logs'}"),
    ]
    lines = [f"  {name:<15}{value}" for name, value in rows]
    return "\n".join(
        [
            "",
            f"Weighbridge is up after {seconds:.1f} s.",
            "",
            *lines,
            "",
            "A first call:",
            f'  curl {base}/v1/chat/completions -H "Authorization: Bearer $(cat {key})" \\',
            f"    -H 'Content-Type: application/json' -d '{body}'",
            f"Python clients need only: . {shlex.quote(str(settings.home / 'env'))}   and `make demo` shows three of them.",
            "Ctrl-C stops everything; all data stays.",
            "",
        ]
    )
