"""One supervisor in a process of its own, with small stand-ins for the gateway's own processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]
_FAKE = Path(__file__).with_name("fake_program.py")
_BOOT = """
import sys
from gateway.settings import Settings
from gateway.supervise import commands
sys.exit(getattr(commands, sys.argv[1])(Settings.from_env(), (sys.executable, sys.argv[2])))
"""


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something outside this process holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came to hold"
        time.sleep(0.02)


@dataclass
class Instance:
    """What a person at a terminal has: a home, an environment, and a running command."""

    home: Path
    port: int
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "WEIGHBRIDGE_HOME": str(self.home),
            "WEIGHBRIDGE_PORT": str(self.port),
            "WEIGHBRIDGE_WORKERS": "2",
            # Not a matter of how large the machine is that runs the tests.
            "WEIGHBRIDGE_EMBEDDER": "none",
            "PYTHONPATH": str(ROOT),
        }
        return {**os.environ, **own, **self.extra}

    def launch(self, command: str = "up") -> subprocess.Popen[str]:
        screen = (self.home.parent / "screen").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, command, str(_FAKE)],
            env=self.environment,
            stderr=screen,
            stdout=screen,
            text=True,
        )
        screen.close()
        return self.process

    def run(self, command: str = "up") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _BOOT, command, str(_FAKE)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def screen(self) -> str:
        return (self.home.parent / "screen").read_text()

    @property
    def events(self) -> list[str]:
        path = self.home / "events"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def children(self) -> dict[str, dict[str, Any]]:
        children: dict[str, dict[str, Any]] = json.loads((self.home / "run" / "state.json").read_text())[
            "children"
        ]
        return children

    def answers(self, path: str = "/healthz") -> str | None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def until_up(self) -> None:
        assert self.process is not None
        process = self.process
        wait_for(lambda: "Weighbridge is up" in self.screen or process.poll() is not None, 40)
        assert "Weighbridge is up" in self.screen, self.screen


@pytest.fixture
def instance() -> Iterator[Instance]:
    folder = Path(tempfile.mkdtemp(prefix="wb-up-"))
    folder.chmod(0o711)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    made = Instance(folder / "a home", port)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.send_signal(signal.SIGTERM)
        try:
            made.process.wait(40)
        finally:
            made.process.kill()
    note = made.home / "run" / "socket-folder"
    if note.exists():
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)
    shutil.rmtree(folder)


@pytest.fixture
def light(instance: Instance, postgres_server: EmbeddedPostgres, redis_server: EmbeddedRedis) -> Instance:
    """An instance beside stores that run already: what is tested there does not need its own."""
    secret = instance.home.parent / "master.key"
    secret.write_text("a" * 16 + "0123456789abcdef" * 2 + "\n")
    secret.chmod(0o600)
    instance.extra["WEIGHBRIDGE_SECRET_FILE"] = str(secret)
    instance.extra["WEIGHBRIDGE_DATABASE_URL"] = postgres_server.url()
    instance.extra["WEIGHBRIDGE_MIGRATE_DATABASE_URL"] = postgres_server.url("weighbridge_owner")
    instance.extra["WEIGHBRIDGE_REDIS_URL"] = redis_server.url()
    return instance
