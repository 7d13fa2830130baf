"""A stand-in for the engine's server, which needs no engine."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines.local.launch import SERVER, EngineSpec

# Runs with the arguments that vLLM would get. It is tied to its parent by the very code that ties vLLM.
STAND_IN = """
import importlib.util, os, signal, socket, subprocess, sys
spec = importlib.util.spec_from_file_location("server", {server!r})
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)
server.GRACE_SECONDS = 0.3
server.end_with_parent()
path = sys.argv[sys.argv.index("--uds") + 1]
print("stand-in starts", flush=True)
{first}
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
while True:
    caller, _ = listening.accept()
    asked = caller.recv(4096)
    caller.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
    caller.close()
    {then}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="wb-engine-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def stand_in(home: Path) -> Callable[..., EngineSpec]:
    """Return a maker of specs whose `python` runs the stand-in: `first` before it listens, `then` after each call."""

    def make(first: str = "", then: str = "") -> EngineSpec:
        script = home / "stand_in.py"
        script.write_text(STAND_IN.format(server=str(SERVER), first=first, then=then))
        python = home / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(0o755)
        return EngineSpec(
            python=python, socket=home / "engine.sock", cache=home / "cache", log=home / "logs" / "engine.log"
        )

    return make
