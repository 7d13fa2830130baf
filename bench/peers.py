"""Other gateways before the same upstream, in the same rounds, each at its lightest: one worker, no store, no log of calls.

They are taken where they are installed, in environments of their own (docs/performance.md says how), and are measured
without governance, which ours has on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.ports import NotUp, free_port, until_open
from bench.processors import family, rss_mb
from gateway.embedded.process import Child, spawn
from gateway.seed import ENDPOINT

NAMES = ("litellm", "portkey")
_LITELLM_KEY = "sk-master-1234"
_UP_SECONDS = 90.0


@dataclass(slots=True)
class Peer:
    """One of them, running."""

    name: str
    version: str
    port: int
    child: Child
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    """What its calls carry instead of a key of ours."""

    @property
    def pid(self) -> int:
        """Its first process."""
        return self.child.pid

    def memory_mb(self) -> float:
        """Resident memory of all of its processes."""
        return sum(rss_mb(pid) for pid in family(self.pid))

    async def stop(self) -> None:
        """Stop it."""
        await self.child.stop(signal.SIGTERM, 5.0)


def found_litellm(given: Path | None) -> Path | None:
    """LiteLLM's command: the one given, else the one on the path."""
    path = given or shutil.which("litellm")
    return Path(path) if path is not None and Path(path).is_file() else None


def found_portkey(given: Path | None) -> Path | None:
    """The folder of Portkey's package below a folder in which npm installed it."""
    folder = (given or Path()) / "node_modules" / "@portkey-ai" / "gateway"
    return folder if given is not None and (folder / "build" / "start-server.js").is_file() else None


async def start_litellm(program: Path, home: Path, upstream: int) -> Peer:
    """LiteLLM's proxy with one model and one master key; raises NotUp."""
    home.mkdir(parents=True, exist_ok=True)
    config = home / "litellm.yaml"
    # JSON is YAML too.
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": ENDPOINT,
                        "litellm_params": {
                            "model": "openai/mixtral-demo",
                            "api_base": f"http://127.0.0.1:{upstream}/v1",
                            "api_key": "sk-upstream",
                        },
                    }
                ],
                "litellm_settings": {"telemetry": False, "num_retries": 0, "request_timeout": 60},
                "general_settings": {"master_key": _LITELLM_KEY},
            }
        )
    )
    port = free_port()
    arguments = [
        program,
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    told = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    version = subprocess.run(
        [program.parent / "python", "-c", "import importlib.metadata as m; print(m.version('litellm'))"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return await _started(
        "litellm", version.stdout.strip(), arguments, home, port, told, {"key": _LITELLM_KEY}
    )


async def start_portkey(folder: Path, home: Path, upstream: int) -> Peer:
    """Portkey's gateway; each call says where it is to go. Raises NotUp."""
    home.mkdir(parents=True, exist_ok=True)
    node = shutil.which("node")
    if node is None:
        raise NotUp("Portkey's gateway needs node, which is not here")
    port = free_port()
    arguments = [node, folder / "build" / "start-server.js", f"--port={port}", "--headless"]
    version = json.loads((folder / "package.json").read_bytes())["version"]
    told = {"PORT": str(port), "NODE_ENV": "production"}
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
    }
    return await _started("portkey", version, arguments, home, port, told, {"headers": headers})


async def _started(
    name: str,
    version: str,
    arguments: list[Any],
    home: Path,
    port: int,
    told: dict[str, str],
    more: dict[str, Any],
) -> Peer:
    environment = {each: value for each, value in os.environ.items() if each != "PYTHONPATH"}
    child = spawn(
        name,
        arguments,
        log=home / f"{name}.log",
        death_signal=signal.SIGTERM,
        cwd=home,
        env={**environment, **told},
    )
    peer = Peer(name, version, port, child, more)
    try:
        await until_open(port, name, home / f"{name}.log", _UP_SECONDS)
    except NotUp:
        await peer.stop()
        raise
    return peer
